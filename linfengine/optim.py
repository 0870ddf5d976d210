"""Optimizers: they read the `grad` of named parameters and change their `data`.

Weight decay is decoupled: it shrinks the weights before the step and is not part of the gradient. The weights of a
distance layer of order p shrink along the gradient of the ℓp norm of each row (see `lp_decay`).
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping

import numpy as np

from .backends import Array, backend_of, device_of, to_device
from .tensor import Tensor


@np.errstate(under="ignore")
def lp_decay(w: Array, p: float, amount: float) -> None:
    """In place, for every row of w (o, k): w_k ← w_k − amount·(|w_k|/‖w‖_p)^(p−2)·w_k.

    At p = ∞ only the largest |w_k| of a row decays (the lowest k of several). p = 2 is ordinary weight decay. A row of
    zeros stays. Raises ValueError for p < 1 or NaN, and for a w that is not C-contiguous.
    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 4.
    """
    if not p >= 1:
        raise ValueError(f"p must be at least 1 (or ∞), got {p}")
    if not w.flags.c_contiguous:
        raise ValueError("w must be C-contiguous, to be changed in place")
    if w.size == 0:
        return
    if p == 2:
        w *= w.dtype.type(1 - amount)
        return
    backend_of(w).lp_decay(w.reshape(len(w), -1), p, amount)


class Optimizer:
    """Named parameters, a learning rate `lr` that may be changed at any time, and decoupled weight decay.

    `rate_scale` multiplies the learning rate of single parameters, by name. `decay_order(name)` is the p of the decay.
    A Tensor with several names is one parameter, under the first of them.

    Raises ValueError for a negative or non-finite setting, for a parameter that is not C-contiguous, for different
    Tensors that share memory, and for a `rate_scale` of one Tensor that differs between its names.
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        *,
        weight_decay: float = 0.0,
        decay_order: Callable[[str], float] = lambda name: 2.0,
        rate_scale: Mapping[str, float] | None = None,
    ) -> None:
        _check_not_negative(lr=lr, weight_decay=weight_decay)
        _check_not_negative(**{f"rate_scale of {name}": scale for name, scale in (rate_scale or {}).items()})
        self.rate_scale = dict(rate_scale or {})
        self.parameters = self._named_once(parameters)
        _check_layout(self.parameters)
        _check_memory(self.parameters)
        self._checked = [each.data for each in self.parameters.values()]  # the arrays whose memory was checked
        self.lr, self.weight_decay = lr, weight_decay
        self.decay_order = decay_order
        self.steps = 0

    def _named_once(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters, each under its first name only."""
        first_names: dict[int, str] = {}
        for name, parameter in parameters.items():
            first = first_names.setdefault(id(parameter), name)
            if self.rate_scale.get(name, 1.0) != self.rate_scale.get(first, 1.0):
                raise ValueError(f"{name} and {first} are one Tensor and need the same rate_scale")
        return {name: parameters[name] for name in first_names.values()}

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.zero_grad()

    @np.errstate(under="ignore")
    def step(self) -> None:
        """Decay and change every parameter that has a gradient.

        Raises ValueError or TypeError, and changes nothing, if a gradient, a moment or a setting does not fit.
        """
        gradients = {name: each.grad for name, each in self.parameters.items() if each.grad is not None}
        _check_not_negative(lr=self.lr, weight_decay=self.weight_decay)
        _check_steps(self.steps)
        _check_layout({name: self.parameters[name] for name in gradients})
        arrays = [each.data for each in self.parameters.values()]
        if not all(map(operator.is_, arrays, self._checked)):
            _check_memory(self.parameters)
            self._checked = arrays
        for name, g in gradients.items():
            w = self.parameters[name].data
            _check_fit(f"the gradient of {name}", g, w)
            for moment in self._moments(name):
                _check_fit(f"the optimizer's moment of {name}", moment, w, in_place=True)
        orders = {name: self._checked_order(name) for name in gradients} if self.weight_decay else {}
        self.steps += 1
        for name, g in gradients.items():
            w, lr = self.parameters[name].data, self.lr * self.rate_scale.get(name, 1.0)
            if self.weight_decay:
                lp_decay(w, orders[name], lr * self.weight_decay)
            self._update(name, w, g if g.flags.c_contiguous else g.copy(order="C"), lr)

    def _checked_order(self, name: str) -> float:
        p = self.decay_order(name)
        if not p >= 1:
            raise ValueError(f"decay_order of {name} must be at least 1 (or ∞), got {p}")
        return p

    def reset(self) -> None:
        """Set the moments to zero, as before the first step."""
        self.steps = 0
        for name in self.parameters:
            for moment in self._moments(name):
                moment[...] = 0

    def _update(self, name: str, w: Array, g: Array, lr: float) -> None:
        raise NotImplementedError

    def _moments(self, name: str) -> tuple[Array, ...]:
        """The moments of a parameter's gradients."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """The arrays, by name, that a resumed run needs besides the parameters: not copies."""
        return {"steps": np.array(self.steps, np.int64)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copy back what `state()` gave; the arrays may be on another device.

        Raises ValueError, and changes nothing, if a name is missing, a shape or dtype differs, or `steps` is no whole
        number from 0 on.
        """
        own = self.state()
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ValueError(f"the optimizer's state lacks {', '.join(missing)}")
        given = {name: each if device_of(each) == "cuda" else np.asarray(each) for name, each in state.items()}
        for name, array in own.items():
            dtype, shape = given[name].dtype, given[name].shape
            fits = dtype.kind in "iu" if name == "steps" else dtype == array.dtype
            if not (fits and shape == array.shape):
                raise ValueError(f"{name}: expected {array.dtype} {array.shape}, got {dtype} {shape}")
        steps = int(given["steps"])
        _check_steps(steps)
        moved = {name: to_device(given[name], device_of(array)) for name, array in own.items()}
        for name, array in own.items():
            array[...] = moved[name]
        self.steps = steps


class SGD(Optimizer):
    """v ← momentum·v + g; w ← w − lr·v."""

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        decay_order: Callable[[str], float] = lambda name: 2.0,
        rate_scale: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, decay_order=decay_order, rate_scale=rate_scale)
        _check_not_negative(momentum=momentum)
        self.momentum = momentum
        self.velocity = _zeros_like(self.parameters)

    def _moments(self, name: str) -> tuple[Array, ...]:
        return (self.velocity[name],)

    def _update(self, name: str, w: Array, g: Array, lr: float) -> None:
        (velocity,) = self._moments(name)
        velocity *= velocity.dtype.type(self.momentum)
        velocity += g
        w -= velocity.dtype.type(lr) * velocity

    def state(self) -> dict[str, Array]:
        return super().state() | {f"velocity.{name}": array for name, array in self.velocity.items()}


class Adam(Optimizer):
    """m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; w ← w − lr·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps).

    β = (0.9, 0.99) and eps = 1e-10 are the values of the ℓ∞-dist papers. Source: Kingma and Ba, ICLR 2015
    (arXiv 1412.6980); decoupled decay: Loshchilov and Hutter, ICLR 2019 (arXiv 1711.05101).
    """

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        decay_order: Callable[[str], float] = lambda name: 2.0,
        rate_scale: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(parameters, lr, weight_decay=weight_decay, decay_order=decay_order, rate_scale=rate_scale)
        if not (eps > 0 and math.isfinite(eps)):  # at 0 a weight without a gradient would get 0/0
            raise ValueError(f"eps must be positive and finite, got {eps}")
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        self.betas, self.eps = betas, eps
        self.m, self.v = _zeros_like(self.parameters), _zeros_like(self.parameters)

    def _moments(self, name: str) -> tuple[Array, Array]:
        return self.m[name], self.v[name]

    def _update(self, name: str, w: Array, g: Array, lr: float) -> None:
        m, v = self._moments(name)
        backend_of(w).adam_step(w, g, m, v, lr, *self.betas, self.eps, self.steps)

    def state(self) -> dict[str, Array]:
        moments = {f"m.{name}": array for name, array in self.m.items()}
        return super().state() | moments | {f"v.{name}": array for name, array in self.v.items()}


def _zeros_like(parameters: Mapping[str, Tensor]) -> dict[str, Array]:
    return {name: backend_of(each.data).xp.zeros_like(each.data) for name, each in parameters.items()}


def _check_layout(parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless parameters can be changed in place: a step on a copy would be lost."""
    for name, parameter in parameters.items():
        flags = parameter.data.flags
        if not flags.c_contiguous:
            raise ValueError(f"parameter {name} must be C-contiguous, to be changed in place")
        if not getattr(flags, "writeable", True):  # CuPy's have no such flag
            raise ValueError(f"parameter {name} must be writable, to be changed in place")


def _check_memory(parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError for parameters that share memory: it would be stepped twice."""
    blocks = []
    for name, parameter in parameters.items():
        if parameter.size:
            begin = _address(parameter.data)
            blocks.append((parameter.device, begin, begin + parameter.data.nbytes, name))
    blocks.sort()
    for (device, _, end, name), (next_device, begin, _, next_name) in itertools.pairwise(blocks):
        if device == next_device and begin < end:
            raise ValueError(f"parameters {name} and {next_name} share memory: use one Tensor under both names")


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0] if isinstance(array, np.ndarray) else array.data.ptr)


def _check_fit(what: str, array: Array, w: Array, *, in_place: bool = False) -> None:
    """Raises ValueError, or TypeError for another device, unless the array has a number for each of w."""
    if type(array) is not type(w):
        if device_of(array) == "cpu" and not isinstance(array, np.ndarray):
            raise ValueError(f"{what} must be an array, got {type(array).__name__}")
        backend_of(w, array)
    if array.shape != w.shape or array.dtype != w.dtype:
        raise ValueError(f"{what}: expected {w.dtype} {w.shape}, got {array.dtype} {array.shape}")
    if in_place and not array.flags.c_contiguous:
        raise ValueError(f"{what} must be C-contiguous, to be changed in place")


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise ValueError(f"steps must be a whole number from 0 on, got {steps!r}")


def _check_not_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
