"""Box: the numbers that an input may hold, and the balls around an input, whatever the numbers mean."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from ..backends import Array, backend_of
from ..errors import UserError
from ..interval import Interval
from ..rounding import at_most, float_above, float_below

Numbers: TypeAlias = float | tuple[float, ...]  # one for all coordinates, or one for each in row-major order
Shape: TypeAlias = tuple[int, ...]

MOST_FRACTION_BITS = 15  # 510 gray levels, the ends of the largest box, must fit in 24 bits


@dataclass(frozen=True)
class Box:
    """Inputs (n, *shape) of float32 numbers with lower ≤ x ≤ upper, each bound a number or one for every coordinate.

    The ball of radius ε around x is {x' : |x'_k − x_k| ≤ ε·scale_k for all k}, within the bounds. A bound may be
    infinite. With `fraction_bits` f the numbers are multiples of 2^-f, and the scale is one number. `shape` is None
    if inputs may have any shape.

    Bounds and scales are rounded to float32. Raises ValueError for bounds and scales that do not fit each other or the
    shape, UserError for fraction bits that are no whole number from 0 to `MOST_FRACTION_BITS`.
    """

    shape: Shape | None
    lower: Numbers = -math.inf
    upper: Numbers = math.inf
    scale: Numbers = 1.0
    fraction_bits: int | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(map(operator.index, self.shape)))
            if not self.shape or min(self.shape) < 1:
                raise ValueError(f"a Domain needs a shape of positive sizes, got {self.shape}")
        for name in ("lower", "upper", "scale"):
            object.__setattr__(self, name, self._float32(name, getattr(self, name)))
        lower, upper = self._array(self.lower), self._array(self.upper)
        if not ((lower <= upper) & (lower < math.inf) & (upper > -math.inf)).all():  # false for NaN as well
            raise ValueError(f"a Domain needs lower <= upper, got {self.lower} and {self.upper}")
        scale = self.scales
        if not ((scale > 0) & (scale < math.inf)).all():
            raise ValueError(f"a Domain needs finite scales above 0, got {self.scale}")
        if self.fraction_bits is not None:
            check_fraction_bits(self.fraction_bits)
            if isinstance(self.scale, tuple):
                raise ValueError("a Domain on a grid has one scale for all coordinates, got one for each")
            ends = np.ldexp(np.hstack([np.ravel(self.lower), np.ravel(self.upper)]), self.fraction_bits)
            if not (ends == np.rint(ends)).all():
                raise ValueError(f"a Domain on a grid has its bounds there: {self.lower} and {self.upper} are not")

    def _float32(self, name: str, given: Any) -> Numbers:
        with np.errstate(over="ignore"):  # too large for float32 is infinite
            array = np.asarray(given, np.float64).astype(np.float32)
        if not array.ndim:
            return float(array)
        if self.shape is None or array.shape not in (self.shape, (math.prod(self.shape),)):
            raise ValueError(f"a Domain of shape {self.shape} needs one {name} or one for each number, got {given}")
        return tuple(array.reshape(-1).tolist())

    def _array(self, numbers: Numbers) -> Array:
        """Bounds or scales as a float64 array that broadcasts with inputs."""
        array = np.array(numbers, np.float64)
        return array.reshape(self.shape) if isinstance(numbers, tuple) and self.shape is not None else array

    @property
    def _bounds(self) -> tuple[Array, Array]:
        """The bounds as float32 arrays."""
        return self._array(self.lower).astype(np.float32), self._array(self.upper).astype(np.float32)

    @property
    def scales(self) -> Array:
        """The scale as a float64 array that broadcasts with inputs."""
        return self._array(self.scale)

    @property
    def step(self) -> float:
        """The distance of two neighbours on the grid; 0 without a grid."""
        return 0.0 if self.fraction_bits is None else 2.0**-self.fraction_bits

    @property
    def widest(self) -> Fraction | None:
        """The largest (upper − lower)/scale: a ball of that radius is the whole domain. None if a bound is infinite."""
        return self._width(self._array(self.lower), self._array(self.upper))

    def _width(self, lower: Array, upper: Array) -> Fraction | None:
        sides = np.broadcast_arrays(lower, upper, self.scales)
        if not np.isfinite(sides).all():
            return None
        ends = np.unique(np.stack([side.reshape(-1) for side in sides], axis=1), axis=0).tolist()
        return max((Fraction(high) - Fraction(low)) / Fraction(scale) for low, high, scale in ends)

    def reach(self, x: Array, eps: Fraction) -> tuple[Fraction, float | Array]:
        """(R, M): R ≥ ε is the largest radius that a certificate of the samples x may state; M ≥ |x'_k| in such a ball.

        R is the width of the domain, with the samples' extremes for infinite bounds. M is one number, or one for each
        coordinate.
        """
        lower, upper = self.extent(x)
        most = max(self._width(lower, upper) or eps, eps)
        magnitude = np.maximum(abs(lower), abs(upper)) + float(most) * self.scales
        return most, magnitude if magnitude.ndim else float(magnitude)

    def extent(self, x: Array) -> tuple[Array, Array]:
        """(lower, upper) of each coordinate in float64; infinite ones become the extremes of the samples x (n, ...)."""
        lower, upper = self._array(self.lower), self._array(self.upper)
        if np.isfinite(lower).all() and np.isfinite(upper).all():
            return lower, upper
        least, largest = x.min(axis=0).astype(np.float64), x.max(axis=0).astype(np.float64)
        return np.where(np.isfinite(lower), lower, least), np.where(np.isfinite(upper), upper, largest)

    def ball(self, x: Array, eps: Fraction, *, outward: bool = True) -> Interval:
        """The ball of radius ε around x within the bounds, in the numbers that the net takes.

        For a proof its ends are rounded away from x: the Interval contains every real input of the ball. For an attack
        (`outward` false) they are rounded towards x, as little as possible: the ball contains the Interval.
        """
        low, high = self._bounds
        if self.fraction_bits is not None:
            steps = self.steps(eps)
            reach = float(math.ceil(steps) if outward else math.floor(steps)) * self.step
            centre = x.astype(np.float64)  # float32 may not hold what lies beyond the bounds
            lower, upper = np.maximum(centre - reach, low), np.minimum(centre + reach, high)
            return Interval(lower.astype(np.float32), upper.astype(np.float32))
        centre = x.astype(np.float64)
        if outward:
            radius = self._each(eps, float_above)  # ε itself may round down
            lower = np.nextafter((centre - radius).astype(np.float32), np.float32(-math.inf))
            upper = np.nextafter((centre + radius).astype(np.float32), np.float32(math.inf))
            return Interval(np.clip(lower, low, high), np.clip(upper, low, high))
        radius = self._each(eps, float_below)
        lower, upper = (np.clip(centre + sign * radius, low, high).astype(np.float32) for sign in (-1, 1))
        lower = np.where(at_most(centre, lower, radius), lower, np.nextafter(lower, np.float32(math.inf)))
        upper = np.where(at_most(upper, centre, radius), upper, np.nextafter(upper, np.float32(-math.inf)))
        return Interval(np.minimum(lower, x), np.maximum(upper, x))

    @property
    def largest(self) -> float:
        """max |x_k| over the domain; infinite if a bound is."""
        lower, upper = self._bounds
        return float(max(abs(lower).max(), abs(upper).max()))

    def steps(self, eps: Fraction) -> Fraction:
        """ε in steps of the grid."""
        assert isinstance(self.scale, float)
        return Fraction(self.scale) * eps * (1 << (self.fraction_bits or 0))

    def _each(self, eps: Fraction, rounded: Any) -> float | Array:
        """ε·scale, rounded by the function `rounded`: one number, or one for each coordinate."""
        if isinstance(self.scale, float):
            return float(rounded(eps * Fraction(self.scale)))
        lengths = {each: rounded(eps * Fraction(each)) for each in set(self.scale)}
        return self._array(tuple(lengths[each] for each in self.scale))

    def lengths(self, eps: Fraction) -> Any:
        """ε·scale in float32, rounded to nearest: a number, or one for each coordinate."""
        if isinstance(self.scale, float):
            return np.float32(eps * Fraction(self.scale))
        return self._array(tuple(float(eps * Fraction(each)) for each in self.scale)).astype(np.float32)

    def distance(self, a: Array, b: Array) -> Array:
        """max_k |a_k − b_k|/scale_k (n,) of inputs (n, ...) in float64: the least radius for which b is in the ball."""
        moved = abs(a.astype(np.float64) - b) / self.scales
        return np.asarray(moved.reshape(len(moved), -1).max(axis=1))

    def snap(self, x: Array) -> Array:
        """The nearest numbers on the grid; x itself without a grid. The result is on the device of x."""
        if self.fraction_bits is None:
            return x
        grid = x.dtype.type(1 << self.fraction_bits)
        return backend_of(x).xp.rint(x * grid) / grid

    def clip(self, x: Array) -> Array:
        """x moved to the grid, if there is one, and clipped to the bounds; float32."""
        low, high = self._bounds
        return np.clip(self.snap(x), low, high).astype(np.float32)

    def neighbours(self, x: Array, way: Array) -> Array:
        """x with every number one place further where `way` (of x's shape) is 1, one back where it is −1.

        A place is a step of the grid, or a float32 unit in the last place. The result may lie beyond the bounds.
        """
        if self.fraction_bits is not None:
            return x + way * x.dtype.type(self.step)
        xp = backend_of(x).xp
        end = xp.where(way > 0, np.float32(math.inf), np.float32(-math.inf))
        return xp.where(way == 0, x, xp.nextafter(x, end))


def check_fraction_bits(bits: Any) -> int:
    """Raises UserError unless bits is a whole number from 0 to `MOST_FRACTION_BITS`."""
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= MOST_FRACTION_BITS:
        raise UserError(f"fraction_bits: expected a whole number from 0 to {MOST_FRACTION_BITS}, got {bits!r}")
    return bits
