"""Bounds on the rounding of float32 arithmetic, and directed rounding of bounds.

Higham, Accuracy and Stability of Numerical Algorithms (2002), chapters 2 and 3.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from .backends import Array, backend_of
from .errors import UserError

UNIT_ROUNDOFF = 2.0**-24  # of float32: a rounded result is off by at most this fraction of itself,
UNDERFLOW = 2.0**-126  # or, where it is nearly 0, by less than this: CuPy's elementwise kernels make denormals 0
LARGEST = float(np.finfo(np.float32).max)  # beyond, a result overflows, and rounding has no bound
GUARD = 1 + Fraction(1, 10**9)  # covers the few float64 operations in a Lipschitz constant and a bound on rounding


def gamma(n: int) -> float:
    """γ_n = n·u/(1 − n·u): a sum of n rounded terms is off by at most this fraction of the sum of their magnitudes.

    Infinite for n·u ≥ 1, where no such bound exists.
    """
    return n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF) if n * UNIT_ROUNDOFF < 1 else math.inf


def sum_slack(terms: int, magnitude: Array) -> Array:
    """The slack for rounding of a bound on a sum of products, in any order of summation.

    A sum of n rounded terms is off by at most γ_n M, where γ_n = n u/(1 − n u), u is half the machine epsilon
    and M the sum of the terms' magnitudes. Twice that, once for the value being enclosed and once for the bound, with M
    itself computed by such a sum:

        2 γ_n M/(1 − γ_n) = 2 n u/(1 − 2 n u) M,    n + 4 in place of n for the bound's own last additions.
    """
    info = np.finfo(magnitude.dtype)
    nu = (terms + 4) * float(info.eps) / 2
    factor = 2 * nu / (1 - 2 * nu) if 2 * nu < 1 else np.inf
    tiny = terms * float(info.smallest_normal)  # products may underflow, and infinity times 0 is no bound
    xp = backend_of(magnitude).xp
    return xp.where(magnitude > 0, factor * magnitude, 0).astype(magnitude.dtype) + magnitude.dtype.type(tiny)


def outward(lower: Array, upper: Array, ulps: int = 8) -> tuple[Array, Array]:
    """The ends moved apart by a few units in the last place.

    For functions that the library computes to within 4 units, as NumPy's vector code promises, but not monotonically:
    4 units for the end and 4 for the enclosed value.
    """
    info = np.finfo(lower.dtype)
    xp = backend_of(lower, upper).xp
    with np.errstate(over="ignore", under="ignore"):
        # an end that overflowed only says that the value is at least the largest number
        low, high = xp.minimum(lower, info.max), xp.maximum(upper, info.min)
        low = low - (ulps * info.eps * xp.abs(low) + info.smallest_normal)
        high = high + (ulps * info.eps * xp.abs(high) + info.smallest_normal)
    return low, high


def downward(numbers: Array) -> Array:
    """The next smaller float64 numbers (of numbers ≥ 0): at most the exact values that were rounded to nearest."""
    return np.nextafter(numbers, 0)


def float_above(number: Fraction) -> float:
    """A float64 number above a fraction, by at most two units in the last place."""
    return math.nextafter(float(number), math.inf)


def float_below(number: Fraction) -> float:
    """The largest float64 number that is no larger than a fraction of at least 0."""
    nearest = float(number)
    return nearest if Fraction(nearest) <= number else math.nextafter(nearest, 0)


def at_most(a: Array, b: Array, reach: float | Array) -> Array:
    """Whether a − b ≤ reach without rounding: the float64 difference, and what it lost (Knuth's two-sum)."""
    difference = a - b
    back = difference - a
    lost = (a - (difference - back)) - (b + back)
    return np.asarray((difference < reach) | ((difference == reach) & (lost <= 0)))


def check_arithmetic() -> None:
    """Raises UserError unless this thread follows IEEE 754: it rounds to nearest and keeps denormals."""
    remedy = "unload the library that set this, or run linfengine in a process of its own"
    if np.float32(2.0**-149) * np.float32(1) == 0:
        raise UserError(
            f"this process flushes denormal numbers to zero, and linfengine needs IEEE arithmetic: {remedy}"
        )
    ulp = np.float32(2.0**-24)
    if np.float32(1) + ulp != 1 or -np.float32(1) - ulp != -1 or np.float32(1) + 3 * ulp != 1 + 4 * ulp:
        raise UserError(
            f"this process does not round to the nearest number, and linfengine needs IEEE arithmetic: {remedy}"
        )
