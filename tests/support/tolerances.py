"""How far a computed value may be from the expected one, in one table: rtol and atol of numpy.testing.assert_allclose.

Distances at p = infinity are not in it: they are exact, and compared with equality.
"""

from typing import Any

import numpy as np

Table = dict[Any, dict[str, Any]]

FORWARD: Table = {  # an op's value against plain NumPy and SciPy in float64
    np.float32: {"rtol": 2e-6, "atol": 2e-6},
    np.float64: {"rtol": 1e-13, "atol": 1e-13},
}
GRADIENT: Table = {  # a float32 gradient against the float64 one
    np.float32: {"rtol": 2e-5, "atol": 2e-5},
}
CENTRAL_DIFFERENCES: dict[str, Any] = {"step": 1e-6, "rtol": 1e-6, "atol": 1e-7}  # gradcheck, in float64
FLUSHED = 2.0**-124  # a finite-p distance below this may come out as zero: its kernels flush denormals
GAP = 1e-2  # how far inputs keep from ties and kinks, where central differences are no derivative


def lp_value_tolerance(p: float, dtype: Any) -> float:
    """Relative error of an lp distance: logarithm and exponential lose a little more as p grows."""
    return 2e-6 * (1 + np.log2(p)) * PRECISION[np.dtype(dtype)]


def lp_gradient_tolerance(p: float, dtype: Any) -> float:
    """Error of a gradient entry as a fraction of the largest: (|d|/y)^(p-1) multiplies that of the ratio by p."""
    return (1e-6 + 2.4e-7 * p) * PRECISION[np.dtype(dtype)]


PRECISION = {np.dtype(np.float32): 1.0, np.dtype(np.float64): 1e-6}
