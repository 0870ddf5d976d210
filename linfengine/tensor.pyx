"""Tensor: an array that remembers how it was computed, and the one walk that turns this memory into gradients.

    x = Tensor(array, requires_grad=True)
    loss = linf_dist(x, w).mean()        # every op adds a node to the graph: the op, and the Tensors it came from
    loss.backward()                      # x.grad is now d loss / d x

Nothing here knows an op. `Operand` gives the arithmetic its spelling (x + y, x.sum(axis=0)) and looks each function up
in a table that `linfengine.ops` fills when it is imported, so that imports point one way.
"""

import contextlib
from contextvars import ContextVar

import numpy as np

from .backends import backend_of, default_device, device_of, resolve_device, to_device, to_numpy
from .numbers import as_numbers

cimport cython

cdef object float32 = np.dtype(np.float32)
cdef object float64 = np.dtype(np.float64)
cdef object grad_enabled = ContextVar("linfengine_grad_enabled", default=True)
cdef dict functions = {}


def register_functions(dict table):
    """Give the operators and methods of `Operand` their functions, by name ("add", "sum", ...)."""
    functions.update(table)


def is_grad_enabled():
    """Whether ops record what a later backward() needs: False inside `no_grad`."""
    return grad_enabled.get() is not False


@contextlib.contextmanager
def no_grad():
    """A `with no_grad():` block, or a function under `@no_grad()`, in which ops record nothing (in this thread)."""
    token = grad_enabled.set(False)
    try:
        yield
    finally:
        grad_enabled.reset(token)


@contextlib.contextmanager
def only_grad(*tensors):
    """A `with only_grad(x):` block in which ops record only what is computed from these leaves (in this thread).

    All other Tensors count as constants, whatever their `requires_grad` says, and so does what was computed before the
    block: the gradient of a net's output with respect to its input costs nothing for the weights, and leaves their
    `grad` alone. A backward() belongs inside. Raises ValueError for a Tensor that is no leaf that requires a gradient.
    """
    cdef Tensor tensor
    for tensor in tensors:
        if tensor.op is not None or tensor.walked or not tensor.requires_grad:
            raise ValueError("only_grad() takes leaves that require a gradient, and got a Tensor that is none.")
    token = grad_enabled.set(frozenset(tensors))
    try:
        yield
    finally:
        grad_enabled.reset(token)


def gradient_needs(tuple inputs):
    """For each input of an op, whether its gradient is wanted here: a tuple of booleans."""
    mode = grad_enabled.get()
    if mode is False:
        return (False,) * len(inputs)
    return tuple([isinstance(x, Tensor) and asks(x, mode) for x in inputs])


cdef bint asks(Tensor x, mode):
    """Whether a Tensor asks for a gradient: in an `only_grad` block a leaf of its list, or what was computed there."""
    return x.requires_grad and (mode is True or x in mode or x.mode == mode)


def as_array(data, dtype=None, device=None):
    """The float32 or float64 array that a Tensor of this data would hold; see `Tensor` for what becomes what."""
    if isinstance(data, Tensor):
        if dtype is None and device is None:
            return (<Tensor>data)._data
        data, device = (<Tensor>data)._data, device or (<Tensor>data).device
    elif isinstance(data, Operand):
        raise TypeError(f"expected a Tensor or an array, got an {type(data).__name__}.")
    elif device is None:
        device = default_device() if device_of(data) == "cpu" else "cuda"
    if type(data) is np.ndarray and dtype is None and (data.dtype == float32 or data.dtype == float64):
        return to_device(data if data.flags.aligned else data.copy(), device)
    return to_device(as_numbers(data, dtype), device)


cdef class Operand:
    """What arithmetic is written with: a Tensor (one point) or an Interval (all points between two ends).

    Each operator and method calls the function of `linfengine.ops` with the same name.
    """

    __array_ufunc__ = None  # makes NumPy hand `array + operand` over to __radd__

    def __add__(self, other): return functions["add"](self, other)
    def __radd__(self, other): return functions["add"](other, self)
    def __sub__(self, other): return functions["sub"](self, other)
    def __rsub__(self, other): return functions["sub"](other, self)
    def __mul__(self, other): return functions["mul"](self, other)
    def __rmul__(self, other): return functions["mul"](other, self)
    def __truediv__(self, other): return functions["div"](self, other)
    def __rtruediv__(self, other): return functions["div"](other, self)
    def __pow__(self, exponent): return functions["power"](self, exponent)
    def __rpow__(self, base): return functions["power"](base, self)
    def __matmul__(self, other): return functions["matmul"](self, other)
    def __rmatmul__(self, other): return functions["matmul"](other, self)
    def __neg__(self): return functions["neg"](self)
    def __abs__(self): return functions["abs"](self)
    def __getitem__(self, key): return functions["getitem"](self, key)
    def __iter__(self): return (self[i] for i in range(len(self)))

    def __len__(self):
        if not self.shape:
            raise TypeError(f"len() of a 0-d {type(self).__name__}.")
        return self.shape[0]

    @property
    def ndim(self): return len(self.shape)

    @property
    def T(self): return functions["transpose"](self)

    def exp(self): return functions["exp"](self)
    def log(self): return functions["log"](self)
    def tanh(self): return functions["tanh"](self)
    def relu(self): return functions["relu"](self)
    def abs(self): return functions["abs"](self)
    def clip(self, low=None, high=None): return functions["clip"](self, low, high)
    def sum(self, axis=None, keepdims=False): return functions["sum"](self, axis=axis, keepdims=keepdims)
    def mean(self, axis=None, keepdims=False): return functions["mean"](self, axis=axis, keepdims=keepdims)
    def max(self, axis=None, keepdims=False): return functions["max"](self, axis=axis, keepdims=keepdims)
    def min(self, axis=None, keepdims=False): return functions["min"](self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape):
        """x.reshape(2, -1) or x.reshape((2, -1))."""
        return functions["reshape"](self, shape[0] if len(shape) == 1 else shape)

    def transpose(self, *axes):
        """x.transpose() reverses the axes; x.transpose(0, 2, 1) or x.transpose((0, 2, 1)) arranges them."""
        return functions["transpose"](self, axes[0] if len(axes) == 1 else axes or None)


@cython.trashcan(True)  # a long chain of Tensors is dropped without a recursion as deep as the chain
cdef class Tensor(Operand):
    """An array of float32 or float64 numbers that takes part in gradients.

    A float32 or float64 array is kept as it is, without a copy: what is written into it later is seen here, and must
    not happen between a forward and its backward(). Half precision, booleans, integers, and numbers written in Python
    (`Tensor([0.5, 1])`) become float32 unless `dtype` says float64. Raises TypeError for anything else, and for an
    integer that the dtype cannot hold exactly.

    `device` is "cpu" or "cuda"; left out, an array stays where it is, and what is no array on a GPU goes to the device
    of the current backend, which is the CPU unless `use_backend("gpu")` or LINFENGINE_BACKEND say otherwise.

    Attributes: `data`, the array, NumPy's or, on a GPU, CuPy's; `grad`, None or an array of the same shape and dtype
    that backward() adds to; `requires_grad`, whether it does so.
    """

    cdef object _data, _grad, __weakref__
    cdef public bint requires_grad
    cdef object op       # the Op that made this Tensor; None for a leaf
    cdef object mode     # of gradients, when the op made it: True, or the leaves of an `only_grad` block
    cdef tuple parents   # the op's inputs, None in place of one that needs no gradient
    cdef bint walked     # a backward() has been here and took op and parents away

    def __init__(self, data, bint requires_grad=False, dtype=None, device=None):
        self._data = as_array(data, dtype, device and resolve_device(device))
        self.requires_grad = requires_grad

    def __reduce__(self):  # pickle and copy.deepcopy: the numbers, as a leaf
        return type(self), (self._data, self.requires_grad, None, self.device)

    @property
    def data(self): return self._data

    @data.setter
    def data(self, value):
        array = as_array(value, device=device_of(value))
        if array.shape != self._data.shape or array.dtype != self._data.dtype:
            raise ValueError(f"data of shape {array.shape} and dtype {array.dtype} cannot take the place of "
                             f"shape {self._data.shape} and dtype {self._data.dtype}.")
        self._data = array

    @property
    def grad(self): return self._grad

    @grad.setter
    def grad(self, value):
        if value is not None:
            found = getattr(value, "shape", None), getattr(value, "dtype", None), device_of(value)
            is_array = isinstance(value, np.ndarray) or found[2] == "cuda"
            if not is_array or found != (self._data.shape, self._data.dtype, self.device):
                raise ValueError(f"grad: expected None or an array of shape {self.shape} and dtype {self.dtype} on "
                                 f"{self.device}, got {type(value).__name__} of shape {found[0]} and dtype {found[1]} "
                                 f"on {found[2]}.")
        self._grad = value

    @property
    def shape(self): return self._data.shape

    @property
    def size(self): return self._data.size

    @property
    def dtype(self): return self._data.dtype

    @property
    def device(self):
        """Where its array is: "cuda" on a GPU, else "cpu"."""
        return device_of(self._data)

    def to(self, device):
        """The same numbers on "cpu", "cuda", or "auto", as a leaf; this Tensor itself if it is there already.

        Raises RuntimeError for a Tensor that an op made and that asks for a gradient, which would be cut off: move the
        leaves it comes from, or detach() first. ImportError, with the reason, where there is no GPU to use.
        """
        device = resolve_device(device)
        if device == self.device:
            return self
        if self.op is not None or self.walked:
            raise RuntimeError("to() would cut off the gradient of a Tensor that an op made: move the Tensors it comes "
                               "from, or detach() it first.")
        return leaf(to_device(self._data, device), self.requires_grad)

    def numpy(self):
        """The array itself, or a copy where it is on a GPU; no gradient flows through it."""
        return to_numpy(self._data)

    def __array__(self, dtype=None, copy=None):
        if self.device == "cuda":
            raise TypeError("a Tensor on a GPU does not become a NumPy array by itself: call its numpy().")
        self.refuse_to_cut("NumPy would compute on its numbers alone")
        return np.array(self._data, dtype=dtype, copy=copy)

    cdef refuse_to_cut(self, str reason):
        """Raises TypeError where a gradient would be lost without a word."""
        if self.requires_grad and grad_enabled.get() is not False:
            raise TypeError(f"this Tensor requires a gradient and {reason}: use the functions of linfengine, or call "
                            "detach(), numpy() or item() to go on without a gradient.")

    def detach(self):
        """A leaf over the same array, through which no gradient flows."""
        return leaf(self._data, False)

    def item(self):
        """The only number of a Tensor of size 1, as a Python float."""
        if self._data.size != 1:
            raise ValueError(f"item() needs a Tensor with one number, not shape {self.shape}.")
        return self._data.item()

    def __float__(self):
        self.refuse_to_cut("float() has none")
        return self.item()

    def __bool__(self): return bool(self._data)

    def __repr__(self):
        numbers = np.array2string(self.numpy(), separator=", ", prefix="Tensor(")
        where = "" if self.device == "cpu" else f", device={self.device}"
        return f"Tensor({numbers}, dtype={self.dtype}{where}{', requires_grad=True' if self.requires_grad else ''})"

    def zero_grad(self):
        """Forget the gradient: `grad` is None again."""
        self._grad = None

    def backward(self, gradient=None):
        """For every leaf x that requires it:  x.grad += (d self / d x)^T gradient.

        `gradient` has this Tensor's shape; left out, it is 1, and this Tensor must be a single number. Contributions of
        a Tensor that was used more than once add up, and so do those of several calls. Tensors that an op made keep
        grad = None. The graph is taken apart on the way, which frees its memory, so it can be walked only once.

        Raises RuntimeError when this Tensor requires no gradient or its graph has been walked before, ValueError when
        the gradient is missing or of another shape.
        """
        if not self.requires_grad:
            raise RuntimeError("backward() starts from a Tensor that requires no gradient: none of its inputs did, "
                               "or it was computed under no_grad().")
        consumers = count_consumers(self)
        gradients = {self: (first_gradient(self, gradient), True)}
        ready = [self]
        with np.errstate(under="ignore"):
            walk(ready, consumers, gradients)


cdef walk(list ready, dict consumers, dict gradients):
    """Take the ready nodes, and those that become ready, from the graph; leave the gradients in the leaves."""
    cdef Tensor node, parent
    cdef tuple parents
    while ready:  # every node after all the nodes that consume it
        node = ready.pop()
        del consumers[node]
        g, own = gradients.pop(node)
        if node.op is None:
            if node._grad is not None:
                g, own = unscalar(node._grad + g), True
            node._grad = g if own and g.flags.c_contiguous else g.copy()
            continue
        op, parents = node.op, node.parents
        node.op, node.parents, node.mode, node.walked = None, None, None, True
        for parent, part in zip(parents, op.backward(op.be, g)):
            if parent is not None:
                add_up(gradients, parent, part, g)
                consumers[parent] -= 1
                if consumers[parent] == 0:
                    ready.append(parent)
        op = parents = parent = None  # what was saved for this node is free before the next one is asked


cdef add_up(dict gradients, Tensor tensor, part, g):
    """Add an op's answer to g to the gradient of a tensor.

    Each entry is (array, own); the flag says that nobody else holds the array, so it may be added to in place.
    """
    part = unscalar(part)
    if part.dtype != tensor._data.dtype:
        part = part.astype(tensor._data.dtype)
    if tensor not in gradients:
        gradients[tensor] = part, part is not g and part.base is None
        return
    total, own = gradients[tensor]
    if own:
        total += part
    else:
        total = unscalar(total + part)
    gradients[tensor] = total, True


cdef dict count_consumers(Tensor output):
    """For each node below the output, how many times another node of the graph uses it."""
    cdef Tensor node, parent
    cdef dict consumers = {output: 0}
    cdef list stack = [output]
    while stack:
        node = stack.pop()
        if node.walked:
            raise RuntimeError("backward() has already walked this graph, which took it apart: compute the forward "
                               "again, or add the losses up and call backward() once.")
        for parent in node.parents or ():
            if parent is None:
                continue
            if parent not in consumers:
                consumers[parent] = 0
                stack.append(parent)
            consumers[parent] += 1
    return consumers


cdef first_gradient(Tensor output, gradient):
    if gradient is None:
        if output._data.size != 1:
            raise ValueError(f"backward() from shape {output.shape} needs a gradient of that shape.")
        return backend_of(output._data).xp.ones_like(output._data)
    gradient = as_array(gradient, device=output.device)
    if gradient.shape != output._data.shape:
        raise ValueError(f"backward() from shape {output.shape} got a gradient of shape {gradient.shape}.")
    return gradient.astype(output._data.dtype)  # a copy: leaves may keep it


cdef unscalar(value):
    """NumPy answers with a scalar where an array would have no axis left; make it that array."""
    return np.asarray(value) if isinstance(value, np.generic) else value


cdef Tensor leaf(array, bint requires_grad):
    cdef Tensor tensor = Tensor.__new__(Tensor)
    tensor._data, tensor.requires_grad = array, requires_grad
    return tensor


def node(data, op, tuple inputs):
    """The Tensor that `op` computed from `inputs`; op.needs says which of them the gradient goes on to."""
    cdef Tensor tensor = Tensor.__new__(Tensor)
    tensor._data = unscalar(data)
    if True in op.needs:
        tensor.requires_grad = True
        tensor.op = op
        tensor.mode = grad_enabled.get()
        tensor.parents = tuple([x if needed else None for x, needed in zip(inputs, op.needs)])
    return tensor
