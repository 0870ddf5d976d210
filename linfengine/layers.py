"""Layers, and the nets made of them.

A layer is called with a Tensor and gives a Tensor; called with an Interval it gives bounds, and no layer has to know
which.  Each states two things a certificate rests on:

    lipschitz()           L with  ‖f(x) − f(x')‖∞ ≤ L ‖x − x'‖∞  at evaluation (p = ∞)
    rounding(magnitude)   how far the computed output may be from the exact one when every |x_k| ≤ magnitude

Distance layers use their p in training and always p = ∞ in evaluation.  Inputs of a whole net are pixels in [0, 1];
its first layer, Normalize, brings them to net units, so that every radius can be stated in pixel units.

A net may be called by many threads at once: `evaluation()` puts the calls of one thread in evaluation and changes
nothing of the net.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import FunctionType, ModuleType
from typing import Any, TypeAlias

import numpy as np

from . import ops
from .backends import Array, device_of, resolve_device, to_device, to_numpy
from .domain import Domain
from .interval import Interval, ends
from .ops.base import Result
from .tensor import Operand, Tensor, as_array

Input: TypeAlias = Tensor | Interval | Array

UNIT_ROUNDOFF = 2.0**-24  # of float32: a rounded result is off by at most this fraction of itself,
UNDERFLOW = 2.0**-126  # or, where it is nearly 0, by less than this: CuPy's elementwise kernels make denormals 0
LARGEST = float(np.finfo(np.float32).max)  # beyond, a result overflows, and rounding has no bound


CLAIMS = ("lipschitz", "rounding", "lowest_margins")  # what a certificate takes from a layer without a proof
HARMLESS = {"config", "train", "eval", "to", "load_state", "decay_order", "_abc_impl", *CLAIMS}  # change no function

_evaluation_order: ContextVar[float | None] = ContextVar("linfengine_evaluation_order", default=None)


@contextmanager
def evaluation(p: float = math.inf) -> Iterator[None]:
    """A `with` block (of this thread or task) in which every net is in evaluation, its distance layers at order p.

    Within it `training` is False, whatever was set; the nets themselves do not change.
    """
    token = _evaluation_order.set(p)
    try:
        yield
    finally:
        _evaluation_order.reset(token)


def overridden(kind: type[Module], claim: str) -> str | None:
    """The name by which a class changes what a claim speaks of that it inherits; None where the claim holds for it."""
    classes = [vars(each) for each in kind.__mro__ if each is not object]
    owner = next(i for i, names in enumerate(classes) if claim in names)
    if owner == 0 or kind.__mro__[owner] is Module:  # its own, or none
        return None
    spoken_of = {name for names in classes[owner:] for name in names if name == "__call__" or name[:2] != "__"}
    changing = (spoken_of - HARMLESS) | {"__getattribute__", "__getattr__", "__slots__"}
    return next((name for names in classes[:owner] for name in names if name in changing), None)


def gamma(n: int) -> float:
    """γ_n = n·u/(1 − n·u): a sum of n rounded terms is off by at most that fraction of their magnitudes' sum.

    Infinite from n·u = 1 on, where there is no such bound.
    """
    return n * UNIT_ROUNDOFF / (1 - n * UNIT_ROUNDOFF) if n * UNIT_ROUNDOFF < 1 else math.inf


class Module:
    """A layer, or a net of layers.

    Parameters are the attributes that are Tensors, children those that are Modules, both also in lists, tuples and
    dicts, at any depth; buffers are the arrays named in `buffer_names`.  Names are joined by dots: "3.weight".

    A subclass that defines `__call__`, or overrides anything else that an inherited claim speaks of, computes something
    else: it inherits none of the `CLAIMS` and has to state its own (see `overridden`).
    """

    _training = True
    white: int = 1  # the number that a white pixel is: 1, or 255 in an exact net
    buffer_names: tuple[str, ...] = ()
    made_again: tuple[str, ...] = ()  # attributes that follow from the others

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        for claim in CLAIMS:
            if overridden(cls, claim):
                setattr(cls, claim, vars(Module)[claim])

    def __call__(self, x: Input) -> Result:
        raise NotImplementedError(self._lacks("__call__(x)"))

    def lipschitz(self) -> float:
        """The ℓ∞ Lipschitz constant at evaluation."""
        raise NotImplementedError(self._lacks("lipschitz()"))

    def rounding(self, magnitude: float) -> tuple[float, float]:
        """(E, M): for |x_k| ≤ magnitude the computed output is within E of the exact one, and within M of zero.

        Both are infinite where float32 might overflow on the way.
        """
        raise NotImplementedError(self._lacks("rounding(magnitude)"))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that build this layer again, under its class name: see `build`."""
        raise NotImplementedError(self._lacks("config()"))

    def __repr__(self) -> str:
        try:
            settings = {key: value for key, value in self.config().items() if key != "layer"}
        except NotImplementedError:
            settings = {}
        return f"{type(self).__name__}({', '.join(f'{key}={value}' for key, value in settings.items())})"

    def _lacks(self, method: str) -> str:
        return (
            f"the class {type(self).__name__} does not define {method}: a class that overrides __call__, or another "
            "method that computes, states its own lipschitz() and rounding(magnitude) to be certified, and its own "
            "config() to be saved"
        )

    @property
    def training(self) -> bool:
        """Whether calls are those of training; never inside an `evaluation` block."""
        return self._training and _evaluation_order.get() is None

    @training.setter
    def training(self, value: bool) -> None:
        self._training = value

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """A float64 lower bound (n,) on z_label − max_{j≠label} z_j over the points of the Interval x, as computed.

        The label's lowest logit less the others' highest: of two float32 numbers, the sign is that of the difference.
        """
        bounds = self(x)
        upper, rows = to_numpy(bounds.upper).astype(np.float64), np.arange(len(labels))
        upper[rows, labels] = -np.inf
        return np.asarray(to_numpy(bounds.lower)[rows, labels] - upper.max(axis=1))

    def children(self) -> dict[str, Module]:
        return {name: each for name, each in type(self)._held(self) if isinstance(each, Module)}

    def _held(self) -> Iterator[tuple[str, Module | Tensor]]:
        """The Modules and Tensors of the attributes, each with its name.

        Raises TypeError for one that is hidden in anything but a list, tuple or dict, that belongs to the class, or
        that has the name of another.
        """
        names: set[str] = set()
        for attribute, value in vars(self).items():
            for name, each in () if attribute in self.made_again else _found(attribute, value, self):
                if name in names:
                    raise TypeError(f"{type(self).__name__}: two parts have the name {name}")
                names.add(name)
                yield name, each
        if shared := _part_of_class(type(self)):  # type: ignore[arg-type]
            raise TypeError(f"{type(self).__name__}: {shared} belongs to the class, set it in __init__ instead")

    def modules(self, prefix: str = "", within: tuple[Module, ...] = ()) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its name.  Raises TypeError for a module that holds itself."""
        if any(self is each for each in within):
            raise TypeError(f"the {type(self).__name__} {prefix} holds itself")
        yield prefix, self
        for name, child in type(self).children(self).items():
            yield from type(child).modules(child, f"{prefix}.{name}" if prefix else name, (*within, self))

    def parameters(self) -> dict[str, Tensor]:
        """What training changes, by name; a Tensor that has several names stands under its first."""
        first: dict[int, str] = {}
        tensors = self._tensors()
        return {name: each for name, each in tensors.items() if first.setdefault(id(each), name) == name}

    def _tensors(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}" if prefix else name: each
            for prefix, module in self.modules()
            for name, each in module._held()
            if isinstance(each, Tensor)
        }

    def state(self) -> dict[str, Array]:
        """Parameters and buffers by name: the arrays themselves, not copies."""
        buffers = {
            f"{prefix}.{name}" if prefix else name: getattr(module, name)
            for prefix, module in self.modules()
            for name in module.buffer_names
        }
        return {name: parameter.data for name, parameter in self._tensors().items()} | buffers

    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what a model file holds of the net: its description and its numbers.

        It is the same on every device, and after saving and loading.  A net without a description counts as the names
        of its classes.
        """
        try:
            description = json.dumps(self.config(), sort_keys=True)
        except NotImplementedError:
            description = repr([(path, type(module).__qualname__) for path, module in self.modules()])
        found = hashlib.sha256(description.encode())
        for name, array in sorted(self.state().items()):
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(to_numpy(array)).data)
        return found.hexdigest()

    def load_state(self, state: dict[str, Array]) -> None:
        """Copy arrays into parameters and buffers, from whichever device to whichever they are on.

        Raises ValueError when a name is missing or unknown, or a shape or dtype differs; nothing has changed then.
        """
        own = self.state()
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(
                f"the state does not fit this net: missing {missing or 'nothing'}, extra {unknown or 'nothing'}"
            )
        for name, array in own.items():
            if array.shape != state[name].shape or array.dtype != state[name].dtype:
                given = state[name]
                raise ValueError(f"{name}: expected {array.dtype} {array.shape}, got {given.dtype} {given.shape}")
        for name, array in own.items():
            array[...] = to_device(state[name], device_of(array))

    @property
    def device(self) -> str:
        """Where its numbers are: "cuda" on a GPU, else "cpu"; Tensors it is called with have to be there, too."""
        return next((device_of(array) for _, _, array in self._arrays()), "cpu")

    def to(self, device: str) -> Module:
        """Move all numbers to "cpu", "cuda" or "auto", in place; an optimizer is made after that.  Returns the module.

        Raises ImportError, with the reason, where there is no GPU to use.
        """
        device = resolve_device(device)
        for holder, name, array in list(self._arrays()):
            setattr(holder, name, to_device(array, device))
            if isinstance(holder, Tensor):
                holder.grad = None
        return self

    def _arrays(self) -> Iterator[tuple[Module | Tensor, str, Array]]:
        """Every array among the attributes, with its module and name, and the data of every Tensor, with the Tensor."""
        for _, module in self.modules():
            for _, each in module._held():
                if isinstance(each, Tensor):
                    yield each, "data", each.data
            for name, value in vars(module).items():
                if isinstance(value, np.ndarray) or device_of(value) == "cuda":
                    yield module, name, value

    def train(self, training: bool = True) -> Module:
        """Training: distance layers at their p, mean shifts by the batch mean.  Returns the module."""
        for _, module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """Evaluation: distance layers at p = ∞, mean shifts by the running mean.  Returns the module."""
        return self.train(False)

    def _distance_layers(self) -> list[_LinfDistLayer]:
        return [module for _, module in self.modules() if isinstance(module, _LinfDistLayer)]

    @property
    def p(self) -> float:
        """The order of the distance layers in training; setting it sets all of them.  p ≥ 1, or ∞."""
        orders = {layer.p for layer in self._distance_layers()}
        if len(orders) > 1:
            raise ValueError(f"the distance layers have different p: {sorted(orders)}")
        return orders.pop() if orders else math.inf

    @p.setter
    def p(self, value: float) -> None:
        for layer in self._distance_layers():
            layer.p = value

    def decay_order(self, name: str) -> float:
        """The p of the ℓp weight decay for the parameter of that name: its distance layer's, 2 for all others."""
        path, _, leaf = name.rpartition(".")
        module = dict(self.modules())[path]
        return module.p if isinstance(module, _LinfDistLayer) and leaf == "weight" else 2.0


@cache
def _part_of_class(kind: type) -> str | None:
    """The name of a Module or Tensor that all objects of a class share, if there is one."""
    attributes = (item for each in kind.__mro__ for item in vars(each).items())
    return next((name for name, value in attributes if isinstance(value, Module | Operand)), None)


_PLAIN = (str, bytes, bool, int, float, type(None), np.generic)


def _found(name: str, value: object, owner: Module) -> Iterator[tuple[str, Module | Tensor]]:
    """The Modules and Tensors in an attribute's value, each with its name."""
    if isinstance(value, Module | Tensor):
        yield name, value
        return
    if isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(each, _PLAIN):
                yield from _found(f"{name}.{key}", each, owner)
        keys = [key for key in value if not isinstance(key, _PLAIN)] if isinstance(value, dict) else []
        value = keys + [*vars(value).values()] if hasattr(value, "__dict__") else keys
        if not value:
            return
    if not isinstance(value, _PLAIN) and not _is_numbers(value) and _hides(value):
        raise TypeError(
            f"{type(owner).__name__}: the attribute {name} hides a Module, a Tensor or an array: keep it as an "
            "attribute of its own, or in a list, tuple or dict"
        )


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind != "O" or device_of(value) == "cuda"


def _hides(value: object) -> bool:
    """Whether a Module, Tensor or array of floats can be reached from an object: its attributes, elements, closure."""
    seen: set[int] = set()
    left: list[object] = [value]
    while left:
        each = left.pop()
        if isinstance(each, Module | Operand) or (_is_numbers(each) and each.dtype.kind == "f"):  # type: ignore[attr-defined]
            return True
        if _is_numbers(each) or id(each) in seen or isinstance(each, (*_PLAIN, type, ModuleType)):
            continue
        seen.add(id(each))
        if isinstance(each, FunctionType):  # of its globals those that it names
            named = [each.__globals__.get(name) for name in each.__code__.co_names]
            left += [each.__closure__, each.__defaults__, each.__kwdefaults__, each.__dict__, named]
        elif isinstance(each, np.ndarray):
            left += list(each.flat)
        elif isinstance(each, weakref.ref):
            left.append(each())
        else:
            left += gc.get_referents(each)
    return False


def _short(number: Any) -> float:
    """A float32 number as the shortest decimal that means it."""
    return float(np.format_float_scientific(np.float32(number), unique=True))


class Normalize(Module):
    """y = (x − mean_c) / std: pixels (n, c, h, w) in [0, 1] to net units, one scalar std for all channels.

    The scalar keeps the ball a ball: ε in pixel units is ε/std in net units.  `mean` has one entry a channel.  Raises
    ValueError for means that are not finite, and unless std is one positive number.
    """

    def __init__(self, mean: tuple[float, ...], std: float) -> None:
        means = np.array(mean, np.float32).reshape(-1, 1, 1)
        if not (means.size and np.isfinite(means).all()):
            raise ValueError(f"Normalize: expected finite means, one a channel, got {mean}")
        self.mean = as_array(means)
        self.std = std

    @property
    def std(self) -> float | np.float32:
        return self._std

    @std.setter
    def std(self, value: float | np.float32) -> None:
        if np.ndim(value) or not 0 < np.float32(value) < math.inf:
            raise ValueError(f"Normalize: expected one positive number for std, got {value}")
        self._std = np.float32(value)

    def __call__(self, x: Input) -> Result:
        if len(x.shape) != 4 or len(self.mean) not in (1, x.shape[1]):
            raise ValueError(f"Normalize: expected pixels (n, {len(self.mean)}, height, width), got {x.shape}")
        return ops.div(ops.sub(x, self.mean), float(self.std))

    def lipschitz(self) -> float:
        return 1 / float(self.std)

    def rounding(self, magnitude: float) -> tuple[float, float]:
        shifted = magnitude + float(abs(self.mean).max())
        if shifted > LARGEST:
            return math.inf, math.inf
        size = shifted / float(self.std)
        error = 3 * UNIT_ROUNDOFF * size + UNDERFLOW
        return error, size + error

    def config(self) -> dict[str, Any]:
        return {"layer": "Normalize"} | self.settings()

    def settings(self) -> dict[str, Any]:
        """Its mean and std as they are now, as plain numbers."""
        return {"mean": [_short(mean) for mean in to_numpy(self.mean).reshape(-1)], "std": _short(self.std)}


class _Choice(Module):
    """A layer that computes nothing that could round, unless it makes denormals 0: 1-Lipschitz."""

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return UNDERFLOW, magnitude + UNDERFLOW

    def config(self) -> dict[str, Any]:
        return {"layer": type(self).__name__}


class Flatten(_Choice):
    """(n, ...) to (n, features)."""

    lipschitz = _Choice.lipschitz

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 0.0, magnitude

    def __call__(self, x: Input) -> Result:
        return ops.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


class CenterCrop(_Choice):
    """The middle size × size window of images (n, c, h, w), from row (h − size)//2 and column (w − size)//2 on."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"CenterCrop: size must be at least 1, got {size}")
        self.size = size

    lipschitz = _Choice.lipschitz

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 0.0, magnitude

    def __call__(self, x: Input) -> Result:
        if len(x.shape) != 4 or min(x.shape[2:]) < self.size:
            raise ValueError(f"CenterCrop: expected images of at least {self.size} x {self.size}, got {x.shape}")
        top, left = ((size - self.size) // 2 for size in x.shape[2:])
        return ops.getitem(x, (..., slice(top, top + self.size), slice(left, left + self.size)))

    def config(self) -> dict[str, Any]:
        return {"layer": "CenterCrop", "size": self.size}


class Negate(_Choice):
    """z = −y: the nearest class has the largest logit."""

    lipschitz, rounding = _Choice.lipschitz, _Choice.rounding

    def __call__(self, x: Input) -> Result:
        return ops.neg(x)


class ReLU(_Choice):
    """y = max(x, 0)."""

    lipschitz, rounding = _Choice.lipschitz, _Choice.rounding

    def __call__(self, x: Input) -> Result:
        return ops.relu(x)


class Tanh(Module):
    """y = tanh(x)."""

    def __call__(self, x: Input) -> Result:
        return ops.tanh(x)

    def ball(self, centre: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and radius of the values, for training: with gradients; not a bound to the last bit."""
        low, high = ops.tanh(centre - radius), ops.tanh(centre + radius)
        return (high + low) / 2, (high - low) / 2

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 8 * UNIT_ROUNDOFF, 1.0 + 8 * UNIT_ROUNDOFF  # NumPy's vector code stays within 4 units in the last place

    def config(self) -> dict[str, Any]:
        return {"layer": "Tanh"}


def _largest(array: Array) -> float:
    """max |a|, without an array of that size."""
    return max(float(array.max()), -float(array.min()))


class _LinfDistLayer(Module):
    """What the distance layers share: weight (o, k), perhaps bias (o), groups, and p."""

    weight: Tensor
    bias: Tensor | None
    groups: int

    def __init__(
        self, outputs: int, fan_in: int, groups: int, bias: bool, identity: bool, seed: Any, passed: slice = slice(None)
    ) -> None:
        if outputs < 1 or fan_in < 1:
            raise ValueError(
                f"{type(self).__name__}: sizes must be at least 1, got {outputs} outputs of {fan_in} inputs"
            )
        if groups < 1 or outputs % groups:
            raise ValueError(f"{type(self).__name__}: {outputs} outputs cannot be divided into {groups} groups")
        weight = np.random.default_rng(seed).standard_normal((outputs, fan_in), np.float32)
        columns = np.arange(fan_in)[passed]  # the inputs that an identity start passes on
        if identity and outputs // groups >= len(columns):
            rows = np.arange(outputs)
            weight[rows, columns[rows % (outputs // groups) % len(columns)]] = -10
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(outputs, np.float32), requires_grad=True) if bias else None
        self.groups = groups
        self._p = math.inf

    @property
    def p(self) -> float:
        """The order used in training, ≥ 1 or ∞; evaluation is at ∞, or at the order of an `evaluation` block."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        if not value >= 1:
            raise ValueError(f"p must be at least 1 (or ∞), got {value}")
        self._p = float(value)

    def distance(self, x: Input) -> Result:
        order = _evaluation_order.get()
        if order is None:
            order = self.p if self._training else math.inf
        y = ops.lp_dist(x, self.weight, p=order, groups=self.groups)
        return y if self.bias is None else y + self.bias

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        size = magnitude + _largest(self.weight.data)
        error = UNIT_ROUNDOFF * size
        if self.bias is not None:
            size += float(abs(self.bias.data).max())
            error += UNIT_ROUNDOFF * size * (1 + UNIT_ROUNDOFF) + UNDERFLOW
        return error, size + error


class LinfDistDense(_LinfDistLayer):
    """y[n, o] = max_k |x[n, k] − w[o, k]| (+ bias[o]);  x (n, in_features), y (n, out_features).

    In training the maximum is the ℓp norm of the layer's p.  Weights start as N(0, 1); with `identity`, and where
    out_features ≥ in_features, w[o, o mod k] = −10, so that a neuron starts by passing one coordinate on.  `groups`
    splits inputs and outputs into as many independent layers.  `seed` is anything numpy.random.default_rng takes.

    1-Lipschitz in ℓ∞ at p = ∞.  Source: Zhang et al., ICML 2021 (arXiv 2102.05363), sections 3 and 5.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        groups: int = 1,
        identity: bool = True,
        seed: Any = None,
    ) -> None:
        if groups < 1 or in_features % groups:
            raise ValueError(f"LinfDistDense: {in_features} inputs cannot be divided into {groups} groups")
        super().__init__(out_features, in_features // groups, groups, bias, identity, seed)

    lipschitz, rounding = _LinfDistLayer.lipschitz, _LinfDistLayer.rounding

    def __call__(self, x: Input) -> Result:
        return self.distance(x)

    def config(self) -> dict[str, Any]:
        outputs, k = self.weight.shape
        return {
            "layer": "LinfDistDense",
            "in_features": k * self.groups,
            "out_features": outputs,
            "bias": self.bias is not None,
            "groups": self.groups,
        }


class LinfDistConv2d(_LinfDistLayer):
    """The distance neuron on every patch: y[n, o, i, j] = max over the patch at (i, j) of |x − w[o]| (+ bias[o]).

    x (n, in_channels, h, w), y (n, out_channels, h', w') with h' = (h + 2·padding − kernel)//stride + 1.  The padding
    is zero.  `groups`, `seed` and p are as in LinfDistDense, a patch taking the place of a row; with `identity`, and
    where out_channels ≥ in_channels, neuron o starts by passing on the patch's middle in channel o mod in_channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        groups: int = 1,
        identity: bool = True,
        seed: Any = None,
    ) -> None:
        if groups < 1 or in_channels % groups:
            raise ValueError(f"LinfDistConv2d: {in_channels} channels cannot be divided into {groups} groups")
        if kernel_size < 1 or stride < 1 or padding < 0:
            raise ValueError(
                "LinfDistConv2d: kernel_size and stride must be at least 1 and padding at least 0, "
                f"got {kernel_size}, {stride} and {padding}"
            )
        taps = kernel_size**2
        middle = slice(taps // 2, None, taps)  # of every channel's patch
        super().__init__(out_channels, in_channels // groups * taps, groups, bias, identity, seed, middle)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    lipschitz, rounding = _LinfDistLayer.lipschitz, _LinfDistLayer.rounding

    def __call__(self, x: Input) -> Result:
        patches = ops.unfold(x, self.kernel_size, stride=self.stride, padding=self.padding)
        y = ops.transpose(self.distance(patches), (0, 2, 1))  # (n, o, positions)
        height, width = ((size + 2 * self.padding - self.kernel_size) // self.stride + 1 for size in x.shape[2:])
        return ops.reshape(y, (y.shape[0], y.shape[1], height, width))

    def config(self) -> dict[str, Any]:
        outputs, k = self.weight.shape
        return {
            "layer": "LinfDistConv2d",
            "in_channels": k // self.kernel_size**2 * self.groups,
            "out_channels": outputs,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "bias": self.bias is not None,
            "groups": self.groups,
        }


class MeanShift(Module):
    """y = x − mean_c: the batch mean of each channel in training, the running mean in evaluation.

    x (n, c) or (n, c, h, w).  running ← (1 − momentum)·running + momentum·batch mean.  Nothing is divided: a scale
    would break the Lipschitz constant.  Gradients flow through the batch mean.
    """

    buffer_names = ("running_mean",)

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        if channels < 1 or not 0 <= momentum <= 1:
            raise ValueError(
                f"MeanShift: expected at least 1 channel and a momentum in [0, 1], got {channels} and {momentum}"
            )
        self.running_mean = as_array(np.zeros(channels, np.float32))
        self.momentum = momentum

    def __call__(self, x: Input) -> Result:
        shape: tuple[int, ...] = x.shape
        if len(shape) < 2 or shape[1] != len(self.running_mean):
            raise ValueError(f"MeanShift: expected (n, {len(self.running_mean)}, ...), got {shape}")
        channels = (-1, *[1] * (len(shape) - 2))
        if not self.training:
            return ops.sub(x, self.running_mean.reshape(channels))
        if isinstance(x, Interval):
            raise ValueError("MeanShift: a batch mean has no bounds, call eval() on the net first")
        mean = ops.mean(x, axis=(0, *range(2, len(shape))))
        with np.errstate(under="ignore"):
            self.running_mean *= np.float32(1 - self.momentum)
            self.running_mean += np.float32(self.momentum) * mean.data
        return ops.sub(x, ops.reshape(mean, channels))

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        size = magnitude + float(abs(self.running_mean).max())
        error = UNIT_ROUNDOFF * size + UNDERFLOW
        return error, size + error

    def config(self) -> dict[str, Any]:
        return {"layer": "MeanShift", "channels": len(self.running_mean), "momentum": self.momentum}


class Dense(Module):
    """y = x·Wᵀ/√fan_in + bias;  x (n, in_features), W (out_features, in_features) ~ N(0, 1), bias 0.

    ℓ∞ Lipschitz constant: the largest absolute row sum of W/√fan_in.
    """

    def __init__(self, in_features: int, out_features: int, *, seed: Any = None) -> None:
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Dense: sizes must be at least 1, got {in_features} and {out_features}")
        weight = np.random.default_rng(seed).standard_normal((out_features, in_features), np.float32)
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(out_features, np.float32), requires_grad=True)

    @property
    def matrix(self) -> Tensor:
        """W/√fan_in (out_features, in_features), rounded as the program rounds it."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def __call__(self, x: Input) -> Result:
        return ops.matmul(x, self.matrix.T) + self.bias

    def worst_differences(self, centre: Tensor, radius: Tensor, labels: Array) -> Tensor:
        """The largest y_j − y_label (n, out_features) where the inputs are centre ∓ radius, 0 at the label.

            c·(W_j − W_label) + b_j − b_label + r·|W_j − W_label|,   W standing for W/√fan_in

        The differences are bounded themselves: two outputs apart might not be largest and smallest at one input.  The
        samples of a label share their rows W_j − W_label, and are multiplied together.  For training: with gradients,
        and not rounded outward.  Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 4.
        """
        matrix, y = self.matrix, self(centre)
        order = np.argsort(labels, kind="stable")
        own, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
        by_label = radius[order]
        reach = [
            ops.matmul(by_label[start : start + count], ops.abs(matrix - matrix[label]).T)
            for label, start, count in zip(own.tolist(), first.tolist(), counts.tolist(), strict=True)
        ]
        true = ops.reshape(y[np.arange(len(labels)), labels], (-1, 1))
        return y - true + ops.concatenate(reach)[np.argsort(order)]

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """A lower bound (n,) on y_label − max_{j≠label} y_j, as the program computes the y, over the points of x.

        The differences are bounded as in `worst_differences`, in float64, and what rounding can do to the program's two
        outputs is subtracted: (n + 4)-term sums in any order, see `ops.base.sum_slack`.  −∞ where an output might
        overflow on the way.
        """
        lower, upper = (to_numpy(end).astype(np.float64) for end in ends(x))
        matrix, bias = self.matrix.numpy().astype(np.float64), self.bias.numpy().astype(np.float64)
        size = np.maximum(abs(lower), abs(upper))
        terms = matrix.shape[1] + 4
        slack = gamma(terms) * (1 + 2.0**-10)  # and for float64's own rounding
        magnitude = size @ abs(matrix).T + abs(bias)
        error = slack * magnitude + terms * (1 + size.max(axis=1, keepdims=True)) * UNDERFLOW
        worst = np.full(len(lower), -np.inf)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            others = np.arange(len(matrix)) != label
            difference = matrix[label] - matrix[others]
            least = (lower[rows] + upper[rows]) @ difference.T - (upper[rows] - lower[rows]) @ abs(difference).T
            errors = error[rows][:, others] + error[rows, label][:, None]
            worst[rows] = (least / 2 + (bias[label] - bias[others]) - errors).min(axis=1)
        return np.where(magnitude.max(axis=1) * (1 + slack) < LARGEST, worst, -np.inf)

    def _row_sum(self) -> float:
        return float(abs(self.weight.data.astype(np.float64)).sum(axis=1).max()) / math.sqrt(self.weight.shape[1])

    def lipschitz(self) -> float:
        return self._row_sum() * (1 + 4 * UNIT_ROUNDOFF)  # the program divides W by √fan_in in float32

    def rounding(self, magnitude: float) -> tuple[float, float]:
        n = self.weight.shape[1] + 4  # the sum, the division of W, and the bias, in any order
        size = magnitude * self.lipschitz() + float(abs(self.bias.data).max())
        error = gamma(n) * size + n * (1 + magnitude) * UNDERFLOW
        return error, size + error

    def config(self) -> dict[str, Any]:
        return {"layer": "Dense", "in_features": self.weight.shape[1], "out_features": self.weight.shape[0]}


_PIXELS = Domain(None)


class Sequential(Module):
    """One layer after the other; its Lipschitz constant is the product of theirs.

    One that begins with Normalize takes images: uint8, or float32 pixels in [0, 1].  Raises TypeError for a layer that
    is no Module.
    """

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} must be a Module, got {type(layer).__name__}")
        self.layers = layers

    @property
    def domain(self) -> Domain | None:
        """What the net takes, where its first layer says it."""
        first = self.layers[0] if self.layers else None
        return _PIXELS if isinstance(first, Normalize) else getattr(first, "domain", None)

    @property
    def device(self) -> str:
        for layer in self.layers:
            for value in vars(layer).values():
                if isinstance(value, Tensor):
                    return value.device
        return super().device

    def _held(self) -> Iterator[tuple[str, Module | Tensor]]:
        return ((name.removeprefix("layers."), each) for name, each in super()._held())

    def __call__(self, x: Input) -> Result:
        if (domain := self.domain) is not None:
            x = domain.take(x, self)
        elif not isinstance(x, Operand):
            if getattr(x, "dtype", np.dtype(float)).kind != "f":
                raise TypeError(f"a net that does not begin with Normalize takes floating-point numbers, got {x.dtype}")
            x = Tensor(x, device=self.device)
        for layer in self.layers:
            x = layer(x)
        return x

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """As its last layer has it: linear layers bound the differences of logits, not the logits apart."""
        *body, last = self.layers
        if type(last).lowest_margins is Module.lowest_margins:
            return super().lowest_margins(x, labels)
        return last.lowest_margins(Sequential(*body)(x), labels)

    def lipschitz(self) -> float:
        return math.prod(layer.lipschitz() for layer in self.layers)

    def rounding(self, magnitude: float) -> tuple[float, float]:
        """A layer's error is added to the earlier ones, which its Lipschitz constant carries on."""
        error = 0.0
        for layer in self.layers:
            own, bound = layer.rounding(magnitude + error)
            if not bound <= LARGEST:
                return math.inf, math.inf
            error, magnitude = error * layer.lipschitz() + own, bound
        return error, magnitude

    def config(self) -> dict[str, Any]:
        return {"layer": "Sequential", "layers": [layer.config() for layer in self.layers]}

    def __repr__(self) -> str:
        layers = "".join(f"\n{i}: {layer!r}" for i, layer in enumerate(self.layers)).replace("\n", "\n  ")
        return f"{type(self).__name__}({layers}\n)"


class DistanceNet(Sequential):
    """Pixels (n, c, h, w) in [0, 1] to logits (n, classes): Normalize, perhaps a crop, hidden distance layers, an end.

    The end is a distance layer to the classes with a bias, z = −y; with `head` neurons it is Dense, Tanh, Dense.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        hidden: list[Module],
        features: int,
        *,
        mean: tuple[float, ...],
        std: float,
        crop: int,
        head: int,
        identity: bool,
        seed: list[int],
    ) -> None:
        self.shape, self.classes, self.head, self.crop = tuple(shape), classes, head, crop
        layers: list[Module] = [Normalize(mean, std), *([CenterCrop(crop)] if crop else []), *hidden]
        if head:
            layers += [Dense(features, head, seed=[*seed, 0]), Tanh(), Dense(head, classes, seed=[*seed, 1])]
        else:
            layers += [LinfDistDense(features, classes, bias=True, identity=identity, seed=seed), Negate()]
        super().__init__(*layers)
        self._config = {"shape": list(shape), "classes": classes, "crop": crop, "head": head}

    # the claims hold for its domain, too
    lipschitz, rounding, lowest_margins = Sequential.lipschitz, Sequential.rounding, Sequential.lowest_margins
    __repr__ = Module.__repr__

    @property
    def domain(self) -> Domain:
        return Domain(self.shape, window=self.crop)

    def config(self) -> dict[str, Any]:
        normalize = self.layers[0]
        assert isinstance(normalize, Normalize)
        return {"layer": type(self).__name__} | self._config | normalize.settings()

    def worst_case(self, x: Input, labels: Array, eps: float) -> tuple[Tensor, Tensor | None]:
        """Logits z (n, classes), and how large z_j − z_label may get within `eps` (net units), 0 at the label.

        The features, 1-Lipschitz at p = ∞, lie within ε of where they are, and that ball's centre and radius go through
        the head.  None without a head, where it is z_j − z_label + 2ε, as the losses know.  For training: with
        gradients, and no certificate.
        """
        if not self.head:
            return self(x), None
        *body, first, tanh, last = self.layers
        assert isinstance(first, Dense)
        assert isinstance(tanh, Tanh)
        assert isinstance(last, Dense)
        centre = Sequential(*body)(x)
        radius = ops.reshape(ops.sum(ops.abs(first.matrix), axis=1) * float(eps), (1, -1))  # of ε in every coordinate
        hidden = first(centre)
        return last(tanh(hidden)), last.worst_differences(*tanh.ball(hidden, radius), labels)


class LinfDistNet(DistanceNet):
    """The ℓ∞-dist net, 1/std-Lipschitz in ℓ∞: Normalize, then `depth` distance layers, all hidden ones `width` wide.

    Hidden layers have no bias and are each followed by a MeanShift; the last of the `depth` layers, to the classes, has
    a bias and none; logits z = −y.  With `head` > 0 this is the ℓ∞-dist Net+MLP: all `depth` layers are hidden, and
    Dense(head), Tanh, Dense(classes) follow.  `shape` is (channels, height, width), `mean` and `std` those of
    Normalize; with `crop` > 0 only the middle crop × crop window is looked at.

    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), sections 4 and 5.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int,
        depth: int,
        mean: tuple[float, ...],
        std: float,
        crop: int = 0,
        head: int = 0,
        identity: bool = True,
        mean_shift: bool = True,
        seed: int = 0,
    ) -> None:
        if depth < 1:
            raise ValueError(f"LinfDistNet: depth must be at least 1, got {depth}")
        self.width, self.depth, self.mean_shift = width, depth, mean_shift
        hidden: list[Module] = [Flatten()]
        features = math.prod(_cropped(shape, crop))
        for i in range(depth if head else depth - 1):
            hidden.append(LinfDistDense(features, width, identity=identity, seed=[seed, i]))
            if mean_shift:
                hidden.append(MeanShift(width))
            features = width
        end = [seed, depth if head else depth - 1]
        super().__init__(
            shape, classes, hidden, features, mean=mean, std=std, crop=crop, head=head, identity=identity, seed=end
        )
        self._config |= {"width": width, "depth": depth, "mean_shift": mean_shift}


class LinfDistConvNet(DistanceNet):
    """The convolutional ℓ∞-dist net, 1/std-Lipschitz in ℓ∞ without a head.

    Five LinfDistConv2d layers of 3 × 3, padding 1: two with `channels` channels, three with twice as many, the first of
    these with stride 2; a LinfDistDense to `width` features; a MeanShift after each; then the end of a LinfDistNet.

    Source: the published code of Zhang et al., ICML 2021 (arXiv 2102.05363): 96 channels, width 1024, head 512.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        channels: int,
        width: int,
        mean: tuple[float, ...],
        std: float,
        crop: int = 0,
        head: int = 0,
        identity: bool = True,
        mean_shift: bool = True,
        seed: int = 0,
    ) -> None:
        self.channels, self.width, self.mean_shift = channels, width, mean_shift
        c, height, length = _cropped(shape, crop)
        hidden: list[Module] = []
        for i, (outputs, stride) in enumerate([(channels, 1)] * 2 + [(2 * channels, 2)] + [(2 * channels, 1)] * 2):
            hidden.append(LinfDistConv2d(c, outputs, 3, stride=stride, padding=1, identity=identity, seed=[seed, i]))
            if mean_shift:
                hidden.append(MeanShift(outputs))
            c, height, length = outputs, (height - 1) // stride + 1, (length - 1) // stride + 1
        hidden += [Flatten(), LinfDistDense(c * height * length, width, identity=identity, seed=[seed, 5])]
        if mean_shift:
            hidden.append(MeanShift(width))
        super().__init__(
            shape, classes, hidden, width, mean=mean, std=std, crop=crop, head=head, identity=identity, seed=[seed, 6]
        )
        self._config |= {"channels": channels, "width": width, "mean_shift": mean_shift}


def _cropped(shape: tuple[int, int, int], crop: int) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"shape must be (channels, height, width), got {shape}")
    if not 0 <= crop <= min(shape[1:]):
        raise ValueError(
            f"crop must be a size from 0 (none) to that of the images, {shape[1]} x {shape[2]}, got {crop}"
        )
    return (shape[0], crop, crop) if crop else shape


LAYERS: dict[str, type[Module]] = {
    layer.__name__: layer
    for layer in (
        Normalize, Flatten, CenterCrop, Negate, ReLU, Tanh, LinfDistDense, LinfDistConv2d, MeanShift, Dense, Sequential,
        LinfDistNet, LinfDistConvNet,
    )
}  # fmt: skip


def build(config: dict[str, Any]) -> Module:
    """The layer or net that `config()` described, with fresh parameters.

    Raises ValueError for an unknown layer or arguments that do not fit.
    """
    arguments = dict(config)
    name = arguments.pop("layer", None)
    if name not in LAYERS:
        raise ValueError(f"unknown layer {name!r}: expected one of {', '.join(sorted(LAYERS))}")
    try:
        layers = arguments.pop("layers") if name in ("Sequential", "ExactNet") else ()
        return LAYERS[name](*map(build, layers), **arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of a {name} layer does not fit: {error}") from None
