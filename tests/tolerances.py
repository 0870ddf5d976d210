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
GAP = 1e-2  # how far inputs keep from ties and kinks, where central differences are no derivative
