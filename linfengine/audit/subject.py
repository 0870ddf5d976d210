"""The net and samples under audit (Subject), and the result of one kind of attempt (Section)."""

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
RADII = ("margin/2 >= r", "margin/2 > r", "proved")  # what a radius r is taken from


@dataclass(frozen=True)
class Section:
    """The result of one kind of attempt: `sound` unless it found a counterexample to a claim."""

    name: str
    sound: bool
    text: str
    figures: dict[str, Any]


@dataclass(frozen=True)
class Subject:
    """The net under audit, its samples (`inputs` as stored, `x` as the net takes them) and their certificate."""

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
        """The most that a logit may change per unit of `moved`."""
        scale = self.domain.scale
        if isinstance(scale, tuple):
            return claims(self.model, self.domain, 0.0)[0] * float(GUARD)
        return float(self.model.lipschitz())

    def moved(self, a: Array, b: Array) -> Array:
        """max_k |a_k − b_k| (n,): in the net's numbers, or in units of the scale if each coordinate has its own."""
        if isinstance(self.domain.scale, tuple):
            return self.domain.distance(a, b)
        return np.asarray(np.abs(a.astype(np.float64) - b).reshape(len(a), -1).max(axis=1))

    @property
    def extent(self) -> tuple[Any, Any]:
        """(least, largest − least) of the inputs in float32: one number, or one for each coordinate."""
        lower, upper = self.domain.extent(self.x)
        return lower.astype(np.float32)[()], (upper - lower).astype(np.float32)[()]

    @property
    def slope(self) -> float:
        """The most that a logit may change per unit of ε."""
        scale = self.domain.scale
        return self.lipschitz if isinstance(scale, tuple) else self.lipschitz * scale

    def logits(self, x: Array) -> Array:
        return predict(self.model, x).astype(np.float64)

    def smallest(self, count: int) -> Array:
        """The indices of the correct predictions with the smallest margins."""
        right = np.flatnonzero(self.certificate.margin > 0)
        return right[np.argsort(self.certificate.margin[right], kind="stable")[:count]]


def gradient_of(subject: Subject, x: Array, others: Array | None) -> Array:
    """The gradient of each sample's largest logit, minus the logit of the class in `others` if given."""
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
