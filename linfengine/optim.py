"""Optimizers: they read the `grad` of named parameters and write their `data`.

Weight decay is decoupled: it shrinks the weights before the step and never enters the gradient.  For the weights of a
distance layer of order p it is the gradient of the ℓp norm of each row that shrinks them (see `lp_decay`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from .backends import Array, backend_of, device_of, to_device
from .tensor import Tensor


def lp_decay(w: Array, p: float, amount: float) -> None:
    """In place, for every row of w (o, k):  w_k ← w_k − amount·(|w_k|/‖w‖_p)^(p−2)·w_k.

    p = ∞: only the largest |w_k| of a row decays (the lowest k of several).  p = 2 is ordinary weight decay.  A row of
    zeros stays.  Raises ValueError for p < 1 or NaN, and for a w that is not C-contiguous.
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
    """Named parameters, a learning rate that schedules may change at any time, and decoupled weight decay.

    `rate_scale` multiplies the learning rate of single parameters by name; `decay_order(name)` is the p of the decay.
    Raises ValueError for a negative or non-finite setting.
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
        for name, parameter in parameters.items():
            _check_layout(name, parameter)
        self.parameters = dict(parameters)
        self.lr, self.weight_decay = lr, weight_decay
        self.decay_order = decay_order
        self.rate_scale = dict(rate_scale or {})
        self.steps = 0

    def zero_grad(self) -> None:
        for parameter in self.parameters.values():
            parameter.zero_grad()

    def step(self) -> None:
        """Decay and change every parameter that has a gradient."""
        self.steps += 1
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            _check_layout(name, parameter)
            backend_of(parameter.data, parameter.grad, *self._moments(name))  # refuses two devices before any change
            lr = self.lr * self.rate_scale.get(name, 1.0)
            if self.weight_decay:
                lp_decay(parameter.data, self.decay_order(name), lr * self.weight_decay)
            self._update(name, parameter.data, parameter.grad, lr)

    def reset(self) -> None:
        """Forget the gradients so far, as before the first step."""
        self.steps = 0
        for name in self.parameters:
            for moment in self._moments(name):
                moment[...] = 0

    def _update(self, name: str, w: Array, g: Array, lr: float) -> None:
        raise NotImplementedError

    def _moments(self, name: str) -> tuple[Array, ...]:
        """What is kept of the gradients of a parameter so far."""
        raise NotImplementedError

    def state(self) -> dict[str, Array]:
        """What a resumed run needs besides the parameters, by name: the arrays themselves, not copies."""
        return {"steps": np.array(self.steps, np.int64)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copy back what `state()` gave.

        Raises ValueError when a name is missing or a shape differs; nothing has changed then.
        """
        own = self.state()
        missing = sorted(own.keys() - state.keys())
        if missing:
            raise ValueError(f"the optimizer's state lacks {', '.join(missing)}")
        for name, array in own.items():
            if array.shape != state[name].shape:
                raise ValueError(f"{name}: expected shape {array.shape}, got {state[name].shape}")
        for name, array in own.items():
            array[...] = to_device(state[name], device_of(array))
        self.steps = int(state["steps"])


class SGD(Optimizer):
    """v ← momentum·v + g;  w ← w − lr·v."""

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
    """m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²;  w ← w − lr·(m/(1−β₁ᵗ)) / (√(v/(1−β₂ᵗ)) + eps).

    β = (0.9, 0.99) and eps = 1e-10 are the values of the ℓ∞-dist papers.  Source: Kingma and Ba, ICLR 2015
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


def _check_layout(name: str, parameter: Tensor) -> None:
    """A step on a copy would be lost without a word."""
    if not parameter.data.flags.c_contiguous:
        raise ValueError(f"parameter {name} must be C-contiguous, to be changed in place")


def _check_not_negative(**settings: float) -> None:
    for name, value in settings.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be finite and not negative, got {value}")
