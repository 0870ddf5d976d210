"""What an audit looks at, and what one kind of attempt comes to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .. import ops
from ..backends import Array, to_numpy
from ..certify import Certificate, predict
from ..certify.checks import claims
from ..domain import Domain, domain_of
from ..layers import Module, evaluation
from ..rounding import GUARD
from ..tensor import Tensor, only_grad

# The names of the sections, by which reports and pictures find them.
LIPSCHITZ, ATTACK, AGREEMENT = "Lipschitz search", "attack on what is certified", "agreement"
GRADIENTS, EVALUATION, FLOATING_POINT = "gradients", "exact evaluation", "floating-point attack"
RADII = ("margin/2 >= r", "margin/2 > r", "proved")  # what a radius r may be read off from


@dataclass(frozen=True)
class Section:
    """What one kind of attempt came to: `sound` unless it broke something that is claimed to hold."""

    name: str
    sound: bool
    text: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The net under audit with its samples, as it takes them, and what it claims of them."""

    model: Module
    inputs: Array
    labels: Array
    x: Array
    certificate: Certificate
    error: float  # a computed logit is at most this far from its exact value
    rng: np.random.Generator

    @property
    def domain(self) -> Domain:
        return domain_of(self.model)

    @property
    def exact(self) -> bool:
        return self.domain.fraction_bits is not None

    @cached_property
    def lipschitz(self) -> float:
        """How far a logit may move per unit of `moved`."""
        scale = self.domain.scale
        if isinstance(scale, tuple):
            return claims(self.model, self.domain, 0.0)[0] * float(GUARD)
        return float(self.model.lipschitz())

    def moved(self, a: Array, b: Array) -> Array:
        """max_k |a_k − b_k| (n,): in the net's numbers, or in units of the scale where there are several."""
        if isinstance(self.domain.scale, tuple):
            return self.domain.distance(a, b)
        return np.asarray(np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1))

    @property
    def extent(self) -> tuple[Any, Any]:
        """(least, largest − least) of the inputs, numbers or one a coordinate, in float32."""
        lower, upper = self.domain.extent(self.x)
        return lower.astype(np.float32)[()], (upper - lower).astype(np.float32)[()]

    @property
    def slope(self) -> float:
        """How far a logit may move per unit of ε."""
        scale = self.domain.scale
        return self.lipschitz if isinstance(scale, tuple) else self.lipschitz * scale

    def logits(self, x: Array) -> Array:
        return predict(self.model, x).astype(np.float64)

    def smallest(self, count: int) -> Array:
        """The right predictions with the smallest margins."""
        right = np.flatnonzero(self.certificate.margin > 0)
        return right[np.argsort(self.certificate.margin[right], kind="stable")[:count]]


def gradient_of(subject: Subject, x: Array, others: Array | None) -> Array:
    """Of each sample's largest logit; or less that of the class in `others`."""
    at = Tensor(x, requires_grad=True, device=subject.model.device)
    with evaluation(), only_grad(at):
        z = subject.model(at)
        rows = np.arange(len(x))
        top = z.numpy().argmax(axis=1)
        lead = ops.getitem(z, (rows, top))
        if others is not None:
            lead = lead - ops.getitem(z, (rows, others))
        ops.sum(lead).backward()
    assert at.grad is not None
    return to_numpy(at.grad)
