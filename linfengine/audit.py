"""Attempts to break a net: what an attack finds is an upper bound on robustness, never a proof of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from .backends import Array
from .certify import Certificate, box, certify, check_model, check_samples, clopper_pearson, parse_eps
from .layers import Module
from .losses import cross_entropy
from .tensor import Tensor


def pgd(
    model: Module,
    pixels: Array,
    labels: Array,
    eps: str | float | Fraction,
    *,
    steps: int = 20,
    seed: int = 0,
    batch_size: int = 512,
) -> Array:
    """Projected gradient descent in the ℓ∞ ball: for every sample whether the net *withstood* it, booleans (n,).

    Starts at x + clip(N(0, ε/4), ±ε/2) and takes `steps` steps of ε/4 along the sign of the gradient of the
    cross-entropy, projected to the ball and to valid pixels.  A sample counts as broken if the clean image or any step
    is misclassified.  The net attacked is the p = ∞ net that is certified.

    Source: Madry et al., ICLR 2018 (arXiv 1706.06083); settings of Zhang et al., ICML 2021.  Raises as `certify`.
    """
    eps = parse_eps(eps)
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    pixels, labels = check_samples(pixels, labels)
    check_model(model)
    model.eval()
    rng = np.random.default_rng(seed)
    withstood = []
    with frozen(model):
        for start in range(0, len(pixels), batch_size):
            x, y = pixels[start : start + batch_size], labels[start : start + batch_size]
            withstood.append(_attack(model, x, y, eps, steps, rng))
    return np.concatenate(withstood)


def _attack(model: Module, x: Array, y: Array, eps: Fraction, steps: int, rng: np.random.Generator) -> Array:
    ball = box(x, eps)
    radius = np.float32(eps)
    intact = model(x).numpy().argmax(axis=1) == y
    noise = rng.standard_normal(x.shape, np.float32) * (radius / 4)
    point = np.clip(x + np.clip(noise, -radius / 2, radius / 2), ball.lower, ball.upper)
    for _ in range(steps):
        at = Tensor(point, requires_grad=True)
        logits = model(at)
        intact &= logits.numpy().argmax(axis=1) == y
        cross_entropy(logits, y).backward()
        assert at.grad is not None
        point = np.clip(point + radius / 4 * np.sign(at.grad), ball.lower, ball.upper)
    return np.asarray(intact & (model(point).numpy().argmax(axis=1) == y))


@contextmanager
def frozen(model: Module) -> Iterator[None]:
    """Within it the model's parameters ask for no gradient: only the input's is computed."""
    parameters = [parameter for parameter in model.parameters().values() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad = True


@dataclass(frozen=True)
class Evaluation:
    """Clean, attacked and certified verdicts on the same samples, booleans (n,); no attack leaves `attacked` None."""

    certificate: Certificate
    clean: Array
    attacked: Array | None
    certified: Array

    def summary(self) -> dict[str, Any]:
        """The fractions of n, each with its Clopper–Pearson 95% bounds, as plain numbers for JSON."""
        counts = {"clean": self.clean, "attacked": self.attacked, "certified": self.certified}
        present = {name: verdicts for name, verdicts in counts.items() if verdicts is not None}
        n = len(self.clean)
        return {
            "n": n,
            "eps": str(self.certificate.eps),
            "method": self.certificate.method,
            **{name: float(verdicts.mean()) for name, verdicts in present.items()},
            "bounds": {name: list(clopper_pearson(int(verdicts.sum()), n)) for name, verdicts in present.items()},
            "confidence": 0.95,
        }


class SoundnessError(RuntimeError):
    """An attack broke a sample that was certified: something is wrong with the engine.  Please report it."""


def evaluate(
    model: Module,
    pixels: Array,
    labels: Array,
    eps: str | float | Fraction,
    *,
    method: str = "interval",
    attack_steps: int = 0,
    seed: int = 0,
) -> Evaluation:
    """Clean, attacked (PGD, where attack_steps > 0) and certified correctness of every sample at radius ε.

    Raises as `certify` and `pgd`, and SoundnessError unless certified ⊆ attacked ⊆ clean, sample by sample.
    """
    certificate = certify(model, pixels, labels, eps, method=method)
    clean = certificate.correct
    certified = certificate.certified & clean
    attacked = pgd(model, pixels, labels, eps, steps=attack_steps, seed=seed) if attack_steps else None
    if attacked is not None:
        for sample in np.flatnonzero(certified & ~attacked):
            raise SoundnessError(f"sample {sample} is certified at eps = {certificate.eps} and yet an attack broke it")
        for sample in np.flatnonzero(attacked & ~clean):
            raise SoundnessError(f"sample {sample} is misclassified and yet counts as withstanding the attack")
    return Evaluation(certificate, clean, attacked, certified)
