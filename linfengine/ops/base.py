"""Op, the base class of operations, and `apply`, which runs one: Tensors give values, Intervals give bounds."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..backends import Array, Backend, backend_of, device_of
from ..interval import Interval, ends
from ..tensor import Operand, Tensor, as_array, gradient_needs, node

Like: TypeAlias = Operand | npt.ArrayLike  # the input of an op
Result: TypeAlias = Any  # its output: an Interval if any of its inputs is one, otherwise a Tensor
Bounds: TypeAlias = tuple[Array, Array]

NUMBERS = (int, float)  # types without a dtype


OPS: dict[str, Callable[..., Any]] = {}  # all ops, by the name of their function

Function = TypeVar("Function", bound=Callable[..., Any])


def op(function: Function) -> Function:
    """A decorator that registers the function of an op under its name, for Tensors, Intervals and tests."""
    OPS[function.__name__] = function
    return function


class Op:
    """One differentiable function with its three rules: forward, backward, bounds. An instance is used for one call.

    The constructor takes the settings. `forward` may store on self what `backward` needs. `apply` sets

    needs: for each input whether its gradient is wanted
    be: the backend, the same for forward and backward
    """

    needs: tuple[bool, ...]
    be: Backend

    def forward(self, be: Backend, *arrays: Any, **_: Any) -> Array:
        """The value. The inputs are not changed. (`**_` lets subclasses use their own argument names.)"""
        raise NotImplementedError

    def backward(self, be: Backend, g: Array) -> tuple[Array | None, ...]:
        """For each input (d value / d input)^T g, or None where self.needs is False.

        Each is g itself, a view, or a new array; g is not changed.
        """
        raise NotImplementedError

    def bounds(self, be: Backend, *operands: Any, **_: Any) -> Bounds:
        """(lower, upper) bounds of `forward` over all points of the Intervals among the operands."""
        raise TypeError(f"no interval bounds are defined for {type(self).__name__}.")


class Monotone(Op):
    """An op that is monotone in every input, rounding included: its values at the ends are its bounds.

    This holds for ops that choose or rearrange (max, reshape, ...), and for a sum of two, since rounding is monotone.
    """

    def bounds(self, be: Backend, *operands: Interval | Array) -> Bounds:
        lower, upper = zip(*map(ends, operands), strict=True)
        return self.forward(be, *lower), self.forward(be, *upper)


def apply(op: Op, *inputs: Like) -> Result:
    """Run an op: `bounds` when an input is an Interval, otherwise `forward`.

    The result keeps op and inputs if gradients are enabled and an input requires one. A Python number takes the dtype
    of the other inputs; arrays of two dtypes are promoted as in NumPy.
    """
    op.be, operands = _operands(inputs)
    with np.errstate(under="ignore"):  # underflow to 0 is no error, whatever the caller set
        if any(isinstance(x, Interval) for x in operands):
            op.needs = (False,) * len(operands)
            lower, upper = op.bounds(op.be, *operands)
            return Interval(lower, upper, device=device_of(lower))
        op.needs = gradient_needs(inputs)
        return node(op.forward(op.be, *operands), op, inputs)


def _operands(inputs: tuple[Any, ...]) -> tuple[Backend, list[Any]]:
    """The backend, and every input as an Interval or an array of that backend.

    A NumPy array moves to the device of the Tensors and Intervals; a Python number becomes an array of the common dtype
    of the others.
    """
    operands = [as_array(x) if isinstance(x, Tensor) else x for x in inputs]
    loose = [i for i, x in enumerate(operands) if not (isinstance(inputs[i], Operand) or type(x) in NUMBERS)]
    if loose:
        device = next((x.device for x in inputs if isinstance(x, Operand)), None)
        for i in loose:
            operands[i] = as_array(inputs[i], device=None if device_of(inputs[i]) == "cuda" else device)
    arrays = [ends(x)[0] for x in operands if type(x) not in NUMBERS]
    be = backend_of(*arrays)
    if len(arrays) < len(operands):
        dtype = np.result_type(*{x.dtype for x in arrays}) if arrays else np.dtype(np.float32)
        operands = [be.xp.full((), x, dtype) if type(x) in NUMBERS else x for x in operands]
    return be, operands


def unbroadcast(g: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of an input of this shape that was broadcast to the shape of g: g summed over repeated axes."""
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = tuple(i + added for i, size in enumerate(shape) if size == 1 and g.shape[i + added] != 1)
    return float64_sum(backend_of(g), g, (*range(added), *stretched)).astype(g.dtype).reshape(shape)


def float64_sum(be: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over the axes, added up and returned in float64, so that the caller rounds once.

    If the remaining axes are adjacent in memory, a kernel of the backend adds; otherwise the array library does.
    """
    if not x.flags.c_contiguous:
        order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    else:
        order = list(range(x.ndim))
    kept = [axis for axis in range(x.ndim) if axis not in axes]
    laid = x.transpose(order)
    begin = order.index(kept[0]) if kept else 0
    if laid.flags.c_contiguous and x.size and order[begin : begin + len(kept)] == kept:
        shape = [laid.shape[i] for i in range(begin, begin + len(kept))]
        channels = math.prod(shape)
        outer = math.prod(laid.shape[:begin])
        return be.channel_sums(laid.reshape(outer, channels, -1)).reshape(shape)
    return cast(Array, x.sum(axis=axes, dtype=np.float64))
