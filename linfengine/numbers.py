"""The arrays of Tensors: how arrays, lists and numbers become float32 or float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .backends import Array, device_of, to_numpy


def as_numbers(data: Any, dtype: npt.DTypeLike | None) -> Array:
    """The data as an array of float32 or float64, on the device where it is. `Tensor` describes the dtypes.

    Raises TypeError for another dtype, for data without numbers, and for integers that the dtype cannot hold exactly;
    ValueError for numbers that are not in a rectangular arrangement.
    """
    if dtype is not None and np.dtype(dtype) not in (np.float32, np.float64):
        raise TypeError(f"a Tensor holds float32 or float64 numbers, not {np.dtype(dtype)}.")
    if device_of(data) == "cuda":
        if dtype is None and data.dtype in (np.float32, np.float64):
            return data
        if data.dtype.kind in "iu" and data.dtype.itemsize > 2:
            _check_exact(to_numpy(data), dtype or np.float32)
        return data.astype(dtype or np.float32)
    try:
        array: Array = np.asarray(data)
    except ValueError as error:
        raise ValueError(f"a Tensor needs numbers in a rectangular arrangement: {error}") from None
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind not in "fbiu" or size > 8:
        raise TypeError(f"a Tensor holds float32 or float64 numbers and cannot be made from {array.dtype}.")
    if dtype is None:
        dtype = np.float64 if kind == "f" and size == 8 and hasattr(data, "dtype") else np.float32
    if kind in "iu" and size > 2:
        _check_exact(array, dtype)
    return array.astype(dtype, copy=not array.flags.aligned)


def _check_exact(integers: Array, dtype: npt.DTypeLike) -> None:
    """Raises TypeError for integers that the dtype cannot hold."""
    limit = 2 ** (np.finfo(dtype).nmant + 1)  # below this every integer is a floating-point number
    large = integers[(integers > limit) | (integers < -limit)]
    # Python's own comparison of an integer with a float is exact; NumPy would round the integer first
    if np.any(large.astype(object) != large.astype(dtype).astype(object)):
        raise TypeError(f"a {integers.dtype} array holds integers that {np.dtype(dtype)} cannot: convert it yourself.")
