"""Elementwise ops. Two inputs are broadcast as in NumPy."""

import math
from collections.abc import Callable

import numpy as np

from ..backends import Array, Backend
from ..interval import Interval, ends
from ..rounding import outward
from .base import Bounds, Like, Monotone, Op, Result, apply, op, unbroadcast

__all__ = [
    "abs",
    "add",
    "clip",
    "div",
    "exp",
    "log",
    "maximum",
    "minimum",
    "mul",
    "neg",
    "power",
    "relu",
    "sub",
    "tanh",
]

Gradients = tuple[Array | None, ...]


class Add(Monotone):
    """x + y; the gradient goes to both."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.shapes = x.shape, y.shape
        return be.xp.add(x, y)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return tuple(unbroadcast(g, s) if needed else None for s, needed in zip(self.shapes, self.needs, strict=True))


@op
def add(x: Like, y: Like) -> Result:
    """x + y, also as an operator."""
    return apply(Add(), x, y)


class Sub(Op):
    """x − y; the gradient goes to x, and its negative to y."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.shapes = x.shape, y.shape
        return be.xp.subtract(x, y)

    def backward(self, be: Backend, g: Array) -> Gradients:
        x_shape, y_shape = self.shapes
        return (
            unbroadcast(g, x_shape) if self.needs[0] else None,
            -unbroadcast(g, y_shape) if self.needs[1] else None,
        )

    def bounds(self, be: Backend, x: Interval | Array, y: Interval | Array) -> Bounds:
        (x_lower, x_upper), (y_lower, y_upper) = ends(x), ends(y)
        return x_lower - y_upper, x_upper - y_lower


@op
def sub(x: Like, y: Like) -> Result:
    """x − y, also as an operator."""
    return apply(Sub(), x, y)


class Mul(Op):
    """x y; the gradient of each is g times the other."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.shapes = x.shape, y.shape
        self.x, self.y = x if self.needs[1] else None, y if self.needs[0] else None
        return be.xp.multiply(x, y)

    def backward(self, be: Backend, g: Array) -> Gradients:
        x_shape, y_shape = self.shapes
        return (
            unbroadcast(g * self.y, x_shape) if self.y is not None else None,
            unbroadcast(g * self.x, y_shape) if self.x is not None else None,
        )

    def bounds(self, be: Backend, x: Interval | Array, y: Interval | Array) -> Bounds:
        return corners(be, be.xp.multiply, x, y)


@op
def mul(x: Like, y: Like) -> Result:
    """x y, also as an operator."""
    return apply(Mul(), x, y)


class Div(Op):
    """x / y; the gradients are g/y and −g x/y^2."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.x_shape = x.shape
        out = be.xp.divide(x, y)
        self.y, self.out = y, out if self.needs[1] else None
        return out

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (
            unbroadcast(g / self.y, self.x_shape) if self.needs[0] else None,
            unbroadcast(-g * self.out / self.y, self.y.shape) if self.out is not None else None,
        )

    def bounds(self, be: Backend, x: Interval | Array, y: Interval | Array) -> Bounds:
        lower, upper = ends(y)
        if ((lower <= 0) & (upper >= 0)).any():
            raise ValueError("div: there are no bounds for a division by an interval that contains 0.")
        return corners(be, be.xp.divide, x, y)


@op
def div(x: Like, y: Like) -> Result:
    """x / y, also as an operator. On Intervals, raises ValueError if y can be 0."""
    return apply(Div(), x, y)


def corners(be: Backend, function: Callable[[Array, Array], Array], x: Interval | Array, y: Interval | Array) -> Bounds:
    """Bounds of a function that is monotone in x for every y, and in y for every x: the extremes at the corners."""
    values = be.xp.stack(be.xp.broadcast_arrays(*(function(a, b) for a in ends(x) for b in ends(y))))
    return values.min(axis=0), values.max(axis=0)


class Neg(Op):
    """−x."""

    def forward(self, be: Backend, x: Array) -> Array:
        return be.xp.negative(x)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (-g,)

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        lower, upper = ends(x)
        return -upper, -lower


@op
def neg(x: Like) -> Result:
    """−x, also as an operator."""
    return apply(Neg(), x)


class Power(Op):
    """x^y; the gradients are g y x^(y-1) and g x^y log x (0 at x = 0)."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        out = be.xp.power(x, y)
        self.x, self.y, self.out = x, y, out if self.needs[1] else None
        return out

    def backward(self, be: Backend, g: Array) -> Gradients:
        grad_x = grad_y = None
        if self.needs[0]:
            below = self.x if (self.y == 2).all() else be.xp.power(self.x, be.xp.where(self.y == 0, 1, self.y - 1))
            grad_x = unbroadcast(g * (self.y * below), self.x.shape)
        if self.out is not None:
            log = be.xp.log(be.xp.where(self.x == 0, 1, self.x))
            grad_y = unbroadcast(g * (self.out * log), self.y.shape)
        return grad_x, grad_y

    def bounds(self, be: Backend, x: Interval | Array, y: Interval | Array) -> Bounds:
        if isinstance(y, Interval):
            raise TypeError("power: there are bounds for a constant exponent only.")
        lower, upper = ends(x)
        has_zero = (lower <= 0) & (upper >= 0)
        if (has_zero & (y < 0)).any():
            raise ValueError("power: there are no bounds for a negative power of an interval that contains 0.")
        if ((lower < 0) & (y != be.xp.floor(y))).any():
            raise ValueError("power: there are no bounds for a negative base unless the exponent is a whole number.")
        at_ends = be.xp.power(lower, y), be.xp.power(upper, y)  # monotone on either side of 0
        low, high = be.xp.minimum(*at_ends), be.xp.maximum(*at_ends)
        return outward(be.xp.where(has_zero & (y > 0), be.xp.minimum(low, 0), low), high)


@op
def power(x: Like, y: Like) -> Result:
    """x^y for a number or an array y, also x ** y.

    Bounds need a constant y: whole if x can be negative, and at least 0 if x can be 0 (else ValueError). They are
    rounded outward by 8 units in the last place. Raises TypeError for an Interval y.
    """
    return apply(Power(), x, y)


class Increasing(Op):
    """An increasing function with values in [least, most], computed by the library to a few units in the last place."""

    least, most = -np.inf, np.inf

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        lower, upper = ends(x)
        low, high = outward(self.forward(be, lower), self.forward(be, upper))
        return be.xp.maximum(low, self.least), be.xp.minimum(high, self.most)


class Exp(Increasing):
    """e^x; the gradient is g e^x."""

    least = 0.0

    def forward(self, be: Backend, x: Array) -> Array:
        self.out = be.xp.exp(x)
        return self.out

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (g * self.out,)


@op
def exp(x: Like) -> Result:
    """e^x. Bounds are rounded outward by 8 units in the last place."""
    return apply(Exp(), x)


class Log(Increasing):
    """log x, the natural logarithm; the gradient is g/x."""

    def forward(self, be: Backend, x: Array) -> Array:
        self.x = x
        return be.xp.log(x)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (g / self.x,)


@op
def log(x: Like) -> Result:
    """The natural logarithm of x. Bounds are rounded outward by 8 units in the last place."""
    return apply(Log(), x)


class Tanh(Increasing):
    """tanh x; the gradient is g (1 − tanh^2 x)."""

    least, most = -1.0, 1.0

    def forward(self, be: Backend, x: Array) -> Array:
        self.out = be.xp.tanh(x)
        return self.out

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (g * (1 - self.out * self.out),)


@op
def tanh(x: Like) -> Result:
    """tanh x. Bounds are rounded outward by 8 units in the last place, and stay within -1 and 1."""
    return apply(Tanh(), x)


class Relu(Monotone):
    """max(x, 0); the gradient is g where x > 0, else 0."""

    def forward(self, be: Backend, x: Array) -> Array:
        self.positive = x > 0 if self.needs[0] else None
        return be.xp.maximum(x, 0)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (be.xp.where(self.positive, g, 0),)


@op
def relu(x: Like) -> Result:
    """max(x, 0). At x = 0 the gradient is 0."""
    return apply(Relu(), x)


class Abs(Op):
    """|x|; the gradient is g sign x, and 0 at x = 0."""

    def forward(self, be: Backend, x: Array) -> Array:
        self.x = x
        return be.xp.abs(x)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (g * be.xp.sign(self.x),)

    def bounds(self, be: Backend, x: Interval | Array) -> Bounds:
        lower, upper = ends(x)
        return be.xp.maximum(be.xp.maximum(lower, -upper), 0), be.xp.maximum(-lower, upper)


@op
def abs(x: Like) -> Result:
    """|x|. At x = 0 the gradient is 0."""
    return apply(Abs(), x)


class Choice(Monotone):
    """One of two inputs, entry by entry; the gradient goes to the chosen one, and to x where they are equal."""

    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    first: Array | None  # where x is chosen

    def backward(self, be: Backend, g: Array) -> Gradients:
        x_shape, y_shape = self.shapes
        return (
            unbroadcast(be.xp.where(self.first, g, 0), x_shape) if self.needs[0] else None,
            unbroadcast(be.xp.where(self.first, 0, g), y_shape) if self.needs[1] else None,
        )


class Maximum(Choice):
    """The larger of x and y."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.shapes, self.first = (x.shape, y.shape), x >= y if any(self.needs) else None
        return be.xp.maximum(x, y)


@op
def maximum(x: Like, y: Like) -> Result:
    """The larger of x and y, entry by entry. Where they are equal the gradient goes to x alone."""
    return apply(Maximum(), x, y)


class Minimum(Choice):
    """The smaller of x and y."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        self.shapes, self.first = (x.shape, y.shape), x <= y if any(self.needs) else None
        return be.xp.minimum(x, y)


@op
def minimum(x: Like, y: Like) -> Result:
    """The smaller of x and y, entry by entry. Where they are equal the gradient goes to x alone."""
    return apply(Minimum(), x, y)


class Clip(Monotone):
    """min(max(x, low), high); the gradient is g where low < x < high, else 0."""

    def __init__(self, *, low: float | None = None, high: float | None = None) -> None:
        self.low, self.high = -math.inf if low is None else float(low), math.inf if high is None else float(high)
        if not self.low <= self.high:
            raise ValueError(f"clip: low must not be above high, but they are {low} and {high}.")

    def forward(self, be: Backend, x: Array) -> Array:
        self.inside = (self.low < x) & (x < self.high) if self.needs[0] else None
        return be.xp.clip(x, self.low, self.high)

    def backward(self, be: Backend, g: Array) -> Gradients:
        return (be.xp.where(self.inside, g, 0),)


@op
def clip(x: Like, low: float | None = None, high: float | None = None) -> Result:
    """min(max(x, low), high) for two numbers, either of them None for no limit.

    Where x is low or high the gradient is 0. Raises ValueError if low is above high or one of them is NaN.
    """
    return apply(Clip(low=low, high=high), x)
