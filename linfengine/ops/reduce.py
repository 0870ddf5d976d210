"""Ops that reduce axes. `axis` is one axis, a tuple of axes, or None for all; keepdims keeps them with size 1.

All raise NumPy's AxisError, a ValueError, for an axis that does not exist. All but `sum` and `log_softmax` raise
ValueError for an empty axis.
"""

import math
from typing import cast

import numpy as np

from ..backends import Array, Backend
from ..interval import Interval, ends
from ..rounding import outward, sum_slack
from .base import Bounds, Like, Monotone, Op, Result, apply, float64_sum, op

__all__ = ["log_softmax", "logsumexp", "max", "mean", "min", "sum"]

Axis = int | tuple[int, ...] | None


class Reduction(Op):
    """The common part of the reductions: settings, the shape of the input, and broadcasting back to it."""

    def __init__(self, *, axis: Axis = None, keepdims: bool = False) -> None:
        self.axis, self.keepdims = axis, keepdims

    def note_shape(self, x: Array) -> None:
        self.shape = x.shape
        if self.axis is None:
            self.axes = tuple(range(x.ndim))
        else:
            self.axes = np.lib.array_utils.normalize_axis_tuple(self.axis, x.ndim)
        self.kept_shape = tuple([1 if i in self.axes else size for i, size in enumerate(x.shape)])
        self.count = math.prod([x.shape[i] for i in self.axes])

    def refuse_nothing(self) -> None:
        if self.count == 0:
            name = type(self).__name__.lower()
            raise ValueError(f"{name}: there is nothing to reduce along axis {self.axis} of shape {self.shape}.")

    def spread(self, be: Backend, reduced: Array) -> Array:
        """A reduced array broadcast to the shape of the input (a read-only view)."""
        return be.xp.broadcast_to(reduced.reshape(self.kept_shape), self.shape)


class Sum(Reduction):
    """The sum over the axes, added up in float64 and rounded once; every entry gets g."""

    def forward(self, be: Backend, x: Array) -> Array:
        self.note_shape(x)
        return self.rounded(float64_sum(be, x, self.axes), x)

    def rounded(self, y: Array, x: Array) -> Array:
        """y (float64, without the axes) in the dtype of x and the shape that was asked for."""
        shape = self.kept_shape if self.keepdims else y.shape
        return cast(Array, y.astype(x.dtype).reshape(shape))

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (self.spread(be, g),)

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        lower, upper = ends(x)
        magnitude = self.forward(be, be.xp.maximum(be.xp.abs(lower), be.xp.abs(upper)))
        slack = sum_slack(self.count, magnitude)
        return self.forward(be, lower) - slack, self.forward(be, upper) + slack


@op
def sum(x: Like, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """sum_i x_i over the axes.

    Bounds are the sums of the ends, widened by the possible rounding of a sum in any order (`sum_slack`).
    """
    return apply(Sum(axis=axis, keepdims=keepdims), x)


class Mean(Sum):
    """The mean over the axes, rounded once; every entry gets g divided by their number. Bounds as for the sum."""

    def forward(self, be: Backend, x: Array) -> Array:
        self.note_shape(x)
        self.refuse_nothing()
        return self.rounded(float64_sum(be, x, self.axes) / self.count, x)

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (self.spread(be, g / self.count),)


@op
def mean(x: Like, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """sum_i x_i / n over the axes, n being the number of entries per sum. Bounds as for `sum`."""
    return apply(Mean(axis=axis, keepdims=keepdims), x)


class Extremum(Reduction, Monotone):
    """The largest or smallest entry along the axes; it alone gets the gradient (the first of equal ones)."""

    best: str  # the array method that finds its index

    def forward(self, be: Backend, x: Array) -> Array:
        self.note_shape(x)
        self.refuse_nothing()
        rest = [i for i in range(x.ndim) if i not in self.axes]
        self.order = (*rest, *self.axes)
        moved = x.transpose(self.order)
        self.moved_shape = moved.shape
        flat = moved.reshape(*moved.shape[: len(rest)], self.count)  # the reduced axes as one, last
        self.index = getattr(flat, self.best)(axis=-1, keepdims=True)
        y = be.xp.take_along_axis(flat, self.index, axis=-1)
        return y.reshape(self.kept_shape) if self.keepdims else y[..., 0]

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        chosen = be.xp.arange(self.count) == self.index
        flat = be.xp.where(chosen, g.reshape(self.index.shape), g.dtype.type(0))
        return (flat.reshape(self.moved_shape).transpose(np.argsort(self.order).tolist()),)


class Max(Extremum):
    """The largest entry."""

    best = "argmax"


@op
def max(x: Like, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """max_i x_i over the axes. The gradient goes to one entry, the first of several equal ones."""
    return apply(Max(axis=axis, keepdims=keepdims), x)


class Min(Extremum):
    """The smallest entry."""

    best = "argmin"


@op
def min(x: Like, *, axis: Axis = None, keepdims: bool = False) -> Result:
    """min_i x_i over the axes. The gradient goes to one entry, the first of several equal ones."""
    return apply(Min(axis=axis, keepdims=keepdims), x)


# The difference of two numbers may overflow to minus infinity; its exponential is 0, which is right.
exponentials_quiet = np.errstate(over="ignore", under="ignore")


class LogSumExp(Reduction):
    """log sum_i e^x_i = m + log sum_i e^(x_i − m) with m = max_i x_i; the gradient is g e^(x − y)."""

    @exponentials_quiet
    def forward(self, be: Backend, x: Array) -> Array:
        self.note_shape(x)
        self.refuse_nothing()
        top = finite_max(be, x, self.axis)
        y = top + be.xp.log(be.xp.exp(x - top).sum(axis=self.axis, keepdims=True))
        self.x, self.y = x, y
        return y if self.keepdims else be.xp.squeeze(y, axis=self.axes)

    @exponentials_quiet
    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (self.spread(be, g) * be.xp.exp(self.x - self.y),)

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        lower, upper = (self.forward(be, end) for end in ends(x))
        # n exponentials of 4 ulps and the rounding of their exponents, their sum and its logarithm: below (5 n + 16) u
        slack = sum_slack(5 * self.count + 16, be.xp.ones_like(lower))
        return outward(lower - slack, upper + slack)


@op
def logsumexp(x: Like, *, axis: Axis = -1, keepdims: bool = False) -> Result:
    """log sum_i e^(x_i) over the axes, without overflow.

    Bounds are the values at the ends, widened by the possible error of n exponentials, their sum and its logarithm.
    """
    return apply(LogSumExp(axis=axis, keepdims=keepdims), x)


class LogSoftmax(Op):
    """x_i − log sum_j e^x_j; the gradient is g − e^y sum_j g_j."""

    def __init__(self, *, axis: int = -1) -> None:
        self.axis = axis

    @exponentials_quiet
    def forward(self, be: Backend, x: Array) -> Array:
        shifted = x - finite_max(be, x, self.axis)
        self.y = shifted - be.xp.log(be.xp.exp(shifted).sum(axis=self.axis, keepdims=True))
        return self.y

    @exponentials_quiet
    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (g - be.xp.exp(self.y) * g.sum(axis=self.axis, keepdims=True),)

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        # the two terms are bounded separately; the slack of logsumexp covers the same sum here
        lower, upper = ends(x)
        log_lower, log_upper = LogSumExp(axis=self.axis, keepdims=True).bounds(be, x)
        low, high = outward(lower - log_upper, upper - log_lower)
        return low, be.xp.minimum(high, 0)


@op
def log_softmax(x: Like, *, axis: int = -1) -> Result:
    """x_i − log sum_j e^(x_j) along an axis, without overflow: the logarithms of the softmax probabilities.

    The two terms x_i and logsumexp(x) are bounded separately, so the bounds are sound but not the tightest.
    """
    return apply(LogSoftmax(axis=axis), x)


def finite_max(be: Backend, x: Array, axis: Axis) -> Array:
    """The largest entry, or 0 where that is infinite, so that subtracting it from an exponent gives no NaN."""
    top = x.max(axis=axis, keepdims=True)
    return be.xp.where(be.xp.isfinite(top), top, 0)
