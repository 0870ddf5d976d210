"""Layers for kernels to compute, and how what they make of them is compared."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from support.tolerances import lp_gradient_tolerance, lp_value_tolerance

from linfengine.backends import reference

Array = npt.NDArray[Any]


def problem(
    n: int, o: int, k: int, groups: int = 1, dtype: Any = np.float32, scale: float = 1.0
) -> tuple[Array, Array, Array]:
    """(x, w, g) drawn from a normal distribution, with some coordinates of x equal to those of a weight."""
    rng = np.random.default_rng([n, o, k, groups])
    x, w, g = (
        rng.standard_normal((n, groups * k)),
        rng.standard_normal((groups * o, k)),
        rng.standard_normal((n, groups * o)),
    )
    x[::3, : k // 2] = w[0, : k // 2]
    return (scale * x).astype(dtype), (scale * w).astype(dtype), g.astype(dtype)


def equal_bits(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_lp(
    lp_dist: Callable[..., Array],
    lp_dist_backward: Callable[..., tuple[Array, Array]],
    x: Array,
    w: Array,
    g: Array,
    p: float,
    groups: int = 1,
) -> None:
    """Value and gradients of a backend, by its two functions, against the reference in float64."""
    x64, w64, g64 = x.astype(np.float64), w.astype(np.float64), g.astype(np.float64)
    expected = reference.lp_dist(x64, w64, p, groups)
    y = lp_dist(x, w, p, groups)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, expected, rtol=lp_value_tolerance(p, x.dtype), atol=0)
    gradients = lp_dist_backward(g, x, w, y, p, groups)
    for got, want in zip(gradients, reference.lp_dist_backward(g64, x64, w64, expected, p, groups), strict=True):
        assert got.dtype == x.dtype
        np.testing.assert_allclose(got, want, rtol=0, atol=lp_gradient_tolerance(p, x.dtype) * np.abs(want).max())
