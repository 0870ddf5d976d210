"""Ops that rearrange, choose and repeat entries. Bounds are the same op on both ends.

`reshape`, `transpose` and `getitem` with slices give views if NumPy does, perhaps of the caller's own array.
"""

import math
from collections.abc import Sequence
from operator import index
from typing import Any, TypeAlias

import numpy as np

from ..backends import Array, Backend, device_of
from ..backends.windows import windows_of
from .base import Like, Monotone, Result, apply, op

__all__ = ["concatenate", "getitem", "pad", "reshape", "stack", "transpose", "unfold"]

Pair: TypeAlias = int | Sequence[int]


class Reshape(Monotone):
    """The same entries in row-major order under another shape."""

    def __init__(self, *, shape: int | Sequence[int]) -> None:
        self.shape = shape

    def forward(self, be: Backend, x: Array) -> Array:
        self.x_shape = x.shape
        return x.reshape(self.shape)

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (g.reshape(self.x_shape),)


@op
def reshape(x: Like, shape: int | Sequence[int]) -> Result:
    """The entries of x in row-major order under another shape, in which one size may be -1. A view if possible."""
    return apply(Reshape(shape=shape), x)


class Transpose(Monotone):
    """The axes in another order."""

    def __init__(self, *, axes: Sequence[int] | None = None) -> None:
        self.axes = axes

    def forward(self, be: Backend, x: Array) -> Array:
        return x.transpose(self.axes)

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        back = None if self.axes is None else np.argsort([axis % g.ndim for axis in self.axes]).tolist()
        return (g.transpose(back),)


@op
def transpose(x: Like, axes: Sequence[int] | None = None) -> Result:
    """y.shape[i] = x.shape[axes[i]]; without axes, their order is reversed (`x.T`). A view."""
    return apply(Transpose(axes=axes), x)


class GetItem(Monotone):
    """x[key]; the gradient goes back to the entries, and is added up for an entry that was taken more than once."""

    def __init__(self, *, key: Any) -> None:
        self.key = key if isinstance(key, tuple) else (key,)
        # only sequences and arrays of integers can name an entry more than once
        self.repeats = not all(
            part is None or part is Ellipsis or isinstance(part, int | np.integer | slice) or _is_mask(part)
            for part in self.key
        )

    def forward(self, be: Backend, x: Array) -> Array:
        self.x_shape = x.shape
        self.repeats = self.repeats and not _names_each_once(x.shape, self.key)
        if device_of(x) == "cuda":
            if any(isinstance(part, list | np.ndarray) for part in self.key):
                _check_key(x.shape, self.key)
            self.key = tuple(be.xp.asarray(part) if isinstance(part, list | np.ndarray) else part for part in self.key)
        return x[self.key]

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        grad = be.xp.zeros(self.x_shape, g.dtype)
        if self.repeats:
            be.add_at(grad, self.key, g)
        else:
            grad[self.key] = g
        return (grad,)


def _names_each_once(shape: tuple[int, ...], key: tuple[Any, ...]) -> bool:
    """Whether a key of integer arrays alone, such as (arange(n), labels), names no entry twice."""
    if not all(isinstance(part, np.ndarray) and part.dtype.kind in "iu" for part in key):
        return False
    try:
        flat = np.ravel_multi_index(key, shape[: len(key)])
    except ValueError:  # a negative index, or one out of range, which x[key] will refuse
        return False
    return len(np.unique(flat)) == flat.size


def _check_key(shape: tuple[int, ...], key: tuple[Any, ...]) -> None:
    """Raises IndexError for a key that NumPy refuses: CuPy wraps indices around instead."""
    if not any(device_of(part) == "cuda" for part in key):
        np.broadcast_to(np.empty(()), shape)[key]


def _is_mask(part: Any) -> bool:
    return hasattr(part, "dtype") and part.dtype.kind == "b"


@op
def getitem(x: Like, key: Any) -> Result:
    """x[key] for integers, slices, None, ... and arrays of integers or booleans, as in NumPy.

    A view unless the key holds an array. NumPy arrays may index an x on any device. Raises IndexError for a key that
    does not fit.
    """
    return apply(GetItem(key=key), x)


class Concatenate(Monotone):
    """Inputs one after the other along an axis; the gradient is cut at the same places."""

    def __init__(self, *, axis: int = 0) -> None:
        self.axis = axis

    def forward(self, be: Backend, *inputs: Array) -> Array:
        y = be.xp.concatenate(inputs, axis=self.axis)
        self.cuts = np.cumsum([x.shape[self.axis] for x in inputs])[:-1].tolist()
        return y

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return tuple(be.xp.split(g, self.cuts, axis=self.axis))


@op
def concatenate(inputs: Sequence[Like], *, axis: int = 0) -> Result:
    """The inputs one after the other along an axis they already have; their other sizes must agree (ValueError)."""
    return apply(Concatenate(axis=axis), *inputs)


class Stack(Monotone):
    """Inputs of one shape along a new axis; each gets its slice of the gradient."""

    def __init__(self, *, axis: int = 0) -> None:
        self.axis = axis

    def forward(self, be: Backend, *inputs: Array) -> Array:
        return be.xp.stack(inputs, axis=self.axis)

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return tuple(be.xp.moveaxis(g, self.axis, 0))


@op
def stack(inputs: Sequence[Like], *, axis: int = 0) -> Result:
    """Inputs of one shape along a new axis, which takes the given place. ValueError if their shapes differ."""
    return apply(Stack(axis=axis), *inputs)


class Pad(Monotone):
    """x with a border of one constant; the gradient of the border is dropped."""

    def __init__(self, *, widths: Sequence[tuple[int, int]], value: float = 0.0) -> None:
        try:
            self.widths = [(index(before), index(after)) for before, after in widths]
        except (TypeError, ValueError):
            raise ValueError(f"pad: widths must be a pair of whole numbers for each axis, not {widths!r}.") from None
        self.value = value

    def forward(self, be: Backend, x: Array) -> Array:
        if len(self.widths) != x.ndim or any(min(pair) < 0 for pair in self.widths):
            raise ValueError(f"pad: each axis of {x.shape} needs a pair of widths of 0 or more, not {self.widths}.")
        sizes = list(zip(self.widths, x.shape, strict=True))
        self.middle = tuple(slice(before, before + size) for (before, _), size in sizes)
        y = be.xp.full([before + size + after for (before, after), size in sizes], self.value, x.dtype)
        y[self.middle] = x
        return y

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        return (g[self.middle],)


@op
def pad(x: Like, widths: Sequence[tuple[int, int]], *, value: float = 0.0) -> Result:
    """x with a border of one constant; widths = ((before, after), ...), one pair for each axis."""
    return apply(Pad(widths=widths, value=value), x)


class Unfold(Monotone):
    """Every window of an image as a row; the gradient of a pixel is the sum over the windows it is in."""

    def __init__(self, *, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0) -> None:
        self.kernel, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        if min(*self.kernel, *self.stride) < 1 or min(self.padding) < 0:
            raise ValueError(
                f"unfold: kernel_size and stride must be 1 or more and padding 0 or more, "
                f"not {kernel_size}, {stride} and {padding}."
            )

    def forward(self, be: Backend, x: Array) -> Array:
        if x.ndim != 4:
            raise ValueError(f"unfold: x must be (n, channels, height, width), not {x.shape}.")
        n, c, h, w = x.shape
        self.x_shape = x.shape
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        if kh > h + 2 * ph or kw > w + 2 * pw:
            raise ValueError(
                f"unfold: a window of {kh} x {kw} does not fit an image of {h} x {w} padded by {ph}, {pw}."
            )
        padded = Pad(widths=((0, 0), (0, 0), (ph, ph), (pw, pw))).forward(be, x) if ph or pw else x
        windows = windows_of(padded, (kh, kw))[:, :, ::sh, ::sw]
        self.out = windows.shape[2:4]
        return windows.transpose(0, 2, 3, 1, 4, 5).reshape(n, math.prod(self.out), c * kh * kw)

    def backward(self, be: Backend, g: Array) -> tuple[Array, ...]:
        n, c, h, w = self.x_shape
        (kh, kw), (sh, sw), (ph, pw) = self.kernel, self.stride, self.padding
        rows, columns = self.out
        windows = g.reshape(n, rows, columns, c, kh, kw).transpose(0, 3, 4, 5, 1, 2)
        padded = be.xp.zeros((n, c, h + 2 * ph, w + 2 * pw), g.dtype)
        for i in range(kh):
            for j in range(kw):
                padded[:, :, i : i + sh * rows : sh, j : j + sw * columns : sw] += windows[:, :, i, j]
        return (padded[:, :, ph : ph + h, pw : pw + w],)


@op
def unfold(
    x: Like,
    kernel_size: Pair,
    stride: Pair = 1,
    padding: Pair = 0,
) -> Result:
    """y[n, i*w_out + j, (c*kh + a)*kw + b] = x[n, c, i*stride + a − padding, j*stride + b − padding]

    x (n, c, h, w), y (n, h_out*w_out, c*kh*kw) with h_out = (h + 2*padding − kh)//stride + 1, and 0 outside the image.
    The channels of a group are neighbouring columns. A single number stands for both directions. Raises ValueError for
    another rank, sizes out of range, and a window that does not fit.
    """
    return apply(Unfold(kernel_size=kernel_size, stride=stride, padding=padding), x)


def pair(value: Pair) -> tuple[int, int]:
    """A height and a width, of which a single number stands for both."""
    try:
        height, width = value if isinstance(value, Sequence) else (value, value)
        return index(height), index(width)
    except (TypeError, ValueError):
        raise ValueError(f"unfold: a size must be a whole number or a pair of them, not {value!r}.") from None
