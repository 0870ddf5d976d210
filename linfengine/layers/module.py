"""Module: the base class of layers and nets, and what each has to state.

    lipschitz()           L with  ‖f(x) − f(x')‖∞ ≤ L ‖x − x'‖∞  at evaluation (p = ∞)
    rounding(magnitude)   a bound on |computed output − exact output| if every |x_k| ≤ magnitude

A certificate rests on these two. A layer called with a Tensor gives a Tensor; called with an Interval it gives bounds.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from ..backends import Array, device_of, resolve_device, to_device, to_numpy
from ..interval import Interval
from ..ops.base import Result
from ..tensor import Tensor
from .mode import evaluation_order
from .parts import Holder, found, part_of_class

Input: TypeAlias = Tensor | Interval | Array

CLAIMS = ("lipschitz", "rounding", "lowest_margins")  # what a certificate trusts a layer to state
HARMLESS = {  # names that change no function
    "config", "built", "numbers_in", "train", "eval", "to", "load_state", "ball", "decay_order", "_decay_order",
    "_abc_impl", *CLAIMS,
}  # fmt: skip


def overridden(kind: type[Module], claim: str) -> str | None:
    """The attribute by which a class may break a claim that it inherits; None if the claim holds for it."""
    classes = [vars(each) for each in kind.__mro__ if each is not object]
    owner = next(i for i, names in enumerate(classes) if claim in names)
    if owner == 0 or kind.__mro__[owner] is Module:  # its own, or none
        return None
    spoken_of = {name for names in classes[owner:] for name in names if name == "__call__" or name[:2] != "__"}
    changing = (spoken_of - HARMLESS) | {"__getattribute__", "__getattr__", "__slots__"}
    return next((name for names in classes[:owner] for name in names if name in changing), None)


class Module(Holder):
    """A layer, or a net of layers.

    Parameters are the attributes that are Tensors, children those that are Modules, both also in lists, tuples and
    dicts, at any depth; buffers are the arrays named in `buffer_names`. Names are joined by dots: "3.weight".

    A subclass that defines `__call__`, or overrides another method that an inherited claim depends on, may compute
    something else. It inherits none of the `CLAIMS` and has to state its own (see `overridden`).
    """

    _training = True
    buffer_names: tuple[str, ...] = ()
    made_again: tuple[str, ...] = ()  # attributes that can be computed from the others

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

        Both are infinite if float32 might overflow.
        """
        raise NotImplementedError(self._lacks("rounding(magnitude)"))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments that build this layer again, under its class name: see `build`."""
        raise NotImplementedError(self._lacks("config()"))

    @classmethod
    def built(cls, arguments: dict[str, Any]) -> Module:
        """The layer of these arguments, as `config()` gave them."""
        return cls(**arguments)

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
        return self._training and evaluation_order() is None

    @training.setter
    def training(self, value: bool) -> None:
        self._training = value

    def ball(self, centre: Tensor, radius: Tensor | float, value: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and radius of the outputs for the inputs centre ∓ radius; `value` is the output at the centre.

        A radius that is the same for all inputs may be a number. For training: with gradients, and not rounded outward.
        """
        raise NotImplementedError(f"no ball goes through a {type(self).__name__} layer")

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """A float64 lower bound (n,) on z_label − max_{j≠label} z_j over the points of the Interval x, as computed.

        It is the label's lowest logit minus the highest of the others. Its sign is right even if the difference rounds.
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
        each: Any
        for attribute, value in vars(self).items():
            for name, each in () if attribute in self.made_again else found(attribute, value, self):
                if name in names:
                    raise TypeError(f"{type(self).__name__}: two parts have the name {name}")
                names.add(name)
                yield name, each
        if shared := part_of_class(type(self)):  # type: ignore[arg-type]
            raise TypeError(f"{type(self).__name__}: {shared} belongs to the class, set it in __init__ instead")

    def modules(self, prefix: str = "", within: tuple[Module, ...] = ()) -> Iterator[tuple[str, Module]]:
        """This module and all below it, each with its name. Raises TypeError for a module that holds itself."""
        if any(self is each for each in within):
            raise TypeError(f"the {type(self).__name__} {prefix} holds itself")
        yield prefix, self
        for name, child in type(self).children(self).items():
            yield from type(child).modules(child, f"{prefix}.{name}" if prefix else name, (*within, self))

    def parameters(self) -> dict[str, Tensor]:
        """The Tensors that training changes, by name; a Tensor with several names has the first of them."""
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
        """SHA-256, in hexadecimal, of the net's description and its numbers, as a model file holds them.

        It is the same on every device, and after saving and loading. For a net without a description the names of its
        classes are used instead.
        """
        try:
            description = json.dumps(self.config(), sort_keys=True)
        except NotImplementedError:
            description = repr([(path, type(module).__qualname__) for path, module in self.modules()])
        classes = [(path, type(module).__module__, type(module).__qualname__) for path, module in self.modules()]
        found = hashlib.sha256(f"{description}{classes}".encode())  # a subclass may compute something else
        for name, array in sorted(self.state().items()):
            found.update(f"{name} {array.dtype} {array.shape}\n".encode())
            found.update(np.ascontiguousarray(to_numpy(array)).data)
        return found.hexdigest()

    def load_state(self, state: dict[str, Array]) -> None:
        """Copy arrays into parameters and buffers; they may be on different devices.

        Raises ValueError, and changes nothing, if a name is missing or unknown, or a shape or dtype differs.
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
        """Where its numbers are: "cuda" on a GPU, else "cpu". Tensors that it is called with must be there, too."""
        return next((device_of(array) for _, _, array in self._arrays()), "cpu")

    def to(self, device: str) -> Module:
        """Move all numbers to "cpu", "cuda" or "auto", in place, and return the module. Make an optimizer afterwards.

        Raises ImportError, with the reason, if no GPU can be used.
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
        """Training: distance layers at their p, mean shifts by the batch mean. Returns the module."""
        for _, module in self.modules():
            module.training = training
        return self

    def eval(self) -> Module:
        """Evaluation: distance layers at p = ∞, mean shifts by the running mean. Returns the module."""
        return self.train(False)

    @property
    def p(self) -> float:
        """The order of the distance layers in training: p ≥ 1 or ∞; ∞ for a net without any. Setting it sets all.

        Raises ValueError where they have different orders.
        """
        orders = {module.p for module in self._with_an_order()}
        if len(orders) > 1:
            raise ValueError(f"the distance layers have different p: {sorted(orders)}")
        return orders.pop() if orders else math.inf

    @p.setter
    def p(self, value: float) -> None:
        for module in self._with_an_order():
            module.p = value

    def _with_an_order(self) -> list[Module]:
        """The layers whose classes define a `p` of their own."""
        return [module for _, module in self.modules() if type(module).p is not Module.p]

    def decay_order(self, name: str) -> float:
        """The p of the ℓp weight decay for a parameter: p of its distance layer, or 2 for other parameters."""
        path, _, leaf = name.rpartition(".")
        return dict(self.modules())[path]._decay_order(leaf)

    def _decay_order(self, leaf: str) -> float:
        return 2.0

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        """The number of weights and means, without biases, of the layer of this description.

        A file is refused by it before memory is allocated. Raises ValueError for invalid sizes, KeyError for a missing
        one.
        """
        return 0


def size_in(config: dict[str, Any], key: str, default: int | None = None) -> int:
    """A size in a layer's description. Raises ValueError unless it is a whole number from 0 on."""
    value = config[key] if default is None else config.get(key, default)
    if type(value) is not int or value < 0:
        raise ValueError(f"{key} must be a whole number from 0 on, got {value!r:.40}")
    return value
