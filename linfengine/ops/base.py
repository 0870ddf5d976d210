"""What an op is, and the one function that runs it: on Tensors for values and gradients, on Intervals for bounds."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt

from ..backends import Array, Backend, backend_of, device_of
from ..interval import Interval, ends
from ..tensor import Operand, Tensor, as_array, gradient_needs, node

Like: TypeAlias = Operand | npt.ArrayLike  # what an op takes
Result: TypeAlias = Any  # what it gives: an Interval if any of its inputs is one, otherwise a Tensor
Bounds: TypeAlias = tuple[Array, Array]

NUMBERS = (int, float)  # the types that have no dtype of their own


OPS: dict[str, Callable[..., Any]] = {}  # every op there is, by the name of its function

Function = TypeVar("Function", bound=Callable[..., Any])


def op(function: Function) -> Function:
    """Decorates the function of an op: by its name Tensors and Intervals find it, and the tests do."""
    OPS[function.__name__] = function
    return function


class Op:
    """One differentiable function, its three rules side by side. An instance serves one call.

    The constructor takes the settings; `forward` may save on self what `backward` will need. `apply` sets

    needs: for each input whether its gradient is wanted
    be: the backend, one for forward and backward
    """

    needs: tuple[bool, ...]
    be: Backend

    def forward(self, be: Backend, *arrays: Any, **_: Any) -> Array:
        """The value; the inputs are not written into. `**_` lets subclasses use their own argument names."""
        raise NotImplementedError

    def backward(self, be: Backend, g: Array) -> tuple[Array | None, ...]:
        """For each input (d value / d input)^T g, or None where self.needs is False.

        Each is g itself, a view, or an array of its own; g is not written into.
        """
        raise NotImplementedError

    def bounds(self, be: Backend, *operands: Any, **_: Any) -> Bounds:
        """(lower, upper) around the values of `forward` at all points of the Intervals among the operands."""
        raise TypeError(f"no interval bounds are defined for {type(self).__name__}.")


class Monotone(Op):
    """An op that does not decrease when an input grows, rounding included: the value at the ends is the bound.

    That holds for choosing and rearranging (max, reshape, ...) and for a sum of two, since rounding is monotone.
    """

    def bounds(self, be: Backend, *operands: Interval | Array) -> Bounds:
        lower, upper = zip(*map(ends, operands), strict=True)
        return self.forward(be, *lower), self.forward(be, *upper)


def apply(op: Op, *inputs: Like) -> Result:
    """Run an op: `bounds` when an input is an Interval, otherwise `forward`.

    The result remembers op and inputs when gradients are enabled and an input requires one. A Python number takes the
    dtype of the other inputs; arrays of two dtypes meet as NumPy lets them.
    """
    op.be, operands = _operands(inputs)
    with np.errstate(under="ignore"):  # a number too small for its dtype is 0, and no error, whatever the caller set
        if any(isinstance(x, Interval) for x in operands):
            op.needs = (False,) * len(operands)
            lower, upper = op.bounds(op.be, *operands)
            return Interval(lower, upper, device=device_of(lower))
        op.needs = gradient_needs(inputs)
        return node(op.forward(op.be, *operands), op, inputs)


def _operands(inputs: tuple[Any, ...]) -> tuple[Backend, list[Any]]:
    """The backend, and every input as an Interval or an array of it.

    What is on no GPU, such as a NumPy array, goes where the Tensors and Intervals are; a Python number becomes an array
    of the dtype that the others have together.
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
    """The gradient of an input of this shape that was broadcast to the shape of g: the sum over what was repeated."""
    if g.shape == shape:
        return g
    added = g.ndim - len(shape)
    stretched = tuple(i + added for i, size in enumerate(shape) if size == 1 and g.shape[i + added] != 1)
    return float64_sum(backend_of(g), g, (*range(added), *stretched)).astype(g.dtype).reshape(shape)


def float64_sum(be: Backend, x: Array, axes: tuple[int, ...]) -> Array:
    """The sum over the axes, added up in float64 and returned so: to be rounded once.

    Where the axes that stay lie together in memory, a kernel of the backend adds; where they do not, the array library.
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
