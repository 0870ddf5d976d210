"""Interval: a box of points. Ops and layers called with an Interval return bounds of their values over the box."""

from __future__ import annotations

from typing import Any

import numpy as np

from .backends import Array, backend_of, device_of, resolve_device, to_device, to_numpy
from .tensor import Operand, as_array


class Interval(Operand):
    """The box { x : lower ≤ x ≤ upper }, entry by entry; the ends are arrays of one shape and dtype.

    The result of an op on an Interval contains its computed results, rounding included, for all points of the box *of
    the same dtype*. An end may be infinite. No gradient flows through an Interval. Like a Tensor it keeps the arrays it
    is given without a copy.

    Raises TypeError for two dtypes, ValueError for two shapes, a NaN, or a lower end above its upper end.
    """

    def __init__(self, lower: object, upper: object, *, device: str | None = None) -> None:
        device = device and resolve_device(device)
        self.lower: Array = as_array(lower, device=device)
        self.upper: Array = as_array(upper, device=device)
        backend_of(self.lower, self.upper)  # refuses ends on two devices
        if self.lower.shape != self.upper.shape:
            raise ValueError(f"an Interval's ends have shapes {self.lower.shape} and {self.upper.shape}, not one.")
        if self.lower.dtype != self.upper.dtype:
            raise TypeError(f"an Interval's ends have dtypes {self.lower.dtype} and {self.upper.dtype}, not one.")
        in_order = self.lower <= self.upper  # never true of a NaN
        if not in_order.all():
            index = tuple(int(i) for i in np.argwhere(~to_numpy(in_order))[0])
            raise ValueError(
                f"an Interval needs lower <= upper, which fails at index {index}: "
                f"{self.lower[index]} and {self.upper[index]}."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return self.lower.shape

    @property
    def size(self) -> int:
        return self.lower.size

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.lower.dtype

    @property
    def device(self) -> str:
        """Where its ends are: "cuda" on a GPU, else "cpu"."""
        return device_of(self.lower)

    def to(self, device: str) -> Interval:
        """The same box with its ends on "cpu", "cuda" or "auto"; itself if they are there already."""
        device = resolve_device(device)
        if device == self.device:
            return self
        moved = Interval.__new__(Interval)
        moved.lower, moved.upper = (to_device(end, device) for end in (self.lower, self.upper))
        return moved

    @property
    def centre(self) -> Array:
        """(lower + upper)/2, rounded; halved first, so that it cannot overflow."""
        with np.errstate(under="ignore"):
            return backend_of(self.lower).xp.asarray(self.lower / 2 + self.upper / 2)

    @property
    def radius(self) -> Array:
        """How far the ends are from the centre, rounded up: centre − radius ≤ lower and upper ≤ centre + radius."""
        centre = self.centre
        xp = backend_of(self.lower).xp
        with np.errstate(all="ignore"):  # infinite ends
            return self._radius(xp, centre)

    def _radius(self, xp: Any, centre: Array) -> Array:
        radius = xp.maximum(self.upper - centre, centre - self.lower)
        if self.device == "cuda":  # a denormal difference, which exists near 0 only, becomes 0 there
            radius = xp.where(abs(centre) < 2.0**-100, radius + self.dtype.type(2.0**-125), radius)
        return xp.where(radius > 0, xp.nextafter(radius, self.dtype.type(np.inf)), 0).astype(self.dtype)

    def contains(self, x: object) -> bool:
        """Whether every entry of x, which may be broadcast against the ends, lies between them."""
        x = as_array(x, device=self.device)
        return bool(((self.lower <= x) & (x <= self.upper)).all())

    def __repr__(self) -> str:
        return f"Interval(lower={self.lower!r}, upper={self.upper!r})"


def ends(operand: Interval | Array) -> tuple[Array, Array]:
    """(lower, upper) of an Interval; (x, x) for an array x."""
    return (operand.lower, operand.upper) if isinstance(operand, Interval) else (operand, operand)
