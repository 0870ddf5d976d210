"""Names for the array types of this package, and checks of arguments."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]
Images = NDArray[np.uint8]  # (n, channels, height, width)
Labels = NDArray[np.int64]  # (n,)
Floats = NDArray[np.float32]
Contents = tuple[tuple[str, ...], Images, Labels, Images, Labels]  # class names, train set, test set


def class_numbers(labels: ArrayLike) -> Labels:
    """Labels (n,) of any integer type as int64. Raises ValueError for another shape, TypeError for another type."""
    array = np.asarray(labels)
    if array.ndim != 1:
        raise ValueError(f"labels must have shape (n,), got {array.shape}")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"labels must be integers, got {array.dtype}")
    return array.astype(np.int64, copy=False)


def whole_number(name: str, value: object, least: int, most: int | None = None) -> int:
    """`value` as an int. Raises ValueError unless it is an integer in the range `least` to `most`."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        extent = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {extent}, got {value!r}")
    return int(value)  # type: ignore[call-overload]
