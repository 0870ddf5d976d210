"""Clean, attacked and certified correctness of the same samples, checked against each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .attack import pgd
from .backends import Array
from .certify import CONFIDENCE, Certificate, certify, clopper_pearson
from .certify.checks import copy_of
from .layers import Module
from .units import Radius


@dataclass(frozen=True)
class Evaluation:
    """Clean, attacked and certified verdicts on the same samples, booleans (n,); `attacked` is None without one."""

    certificate: Certificate
    clean: Array
    attacked: Array | None
    certified: Array

    def summary(self) -> dict[str, Any]:
        """The fractions of n, each with its 95% Clopper–Pearson bounds, as plain numbers for JSON."""
        counts = {"clean": self.clean, "attacked": self.attacked, "certified": self.certified}
        present = {name: verdicts for name, verdicts in counts.items() if verdicts is not None}
        n = len(self.clean)
        return {
            "n": n,
            "eps": str(self.certificate.eps),
            "method": self.certificate.method,
            **{name: float(verdicts.mean()) for name, verdicts in present.items()},
            "bounds": {name: list(clopper_pearson(int(verdicts.sum()), n)) for name, verdicts in present.items()},
            "confidence": CONFIDENCE,
        }


class SoundnessError(RuntimeError):
    """An attack broke a sample that was certified: something is wrong with the engine. Please report it."""


@np.errstate(all="ignore")
def evaluate(
    model: Module,
    inputs: Array,
    labels: Array,
    eps: Radius,
    *,
    method: str = "interval",
    attack_steps: int = 0,
    restarts: int = 1,
    targeted: bool = False,
    seed: int = 0,
) -> Evaluation:
    """Clean, attacked (PGD, if attack_steps > 0) and certified correctness of every sample at radius ε.

    Raises as `certify` and `pgd`, and SoundnessError unless certified ⊆ attacked ⊆ clean, sample by sample.
    """
    model = copy_of(model)  # the same net for both, even if another thread changes the original
    certificate = certify(model, inputs, labels, eps, method=method)
    clean = certificate.correct
    certified = certificate.certified
    for sample in np.flatnonzero(certified & ~clean):
        raise SoundnessError(f"sample {sample} is certified and yet misclassified")
    attacked = None
    if attack_steps:
        found = pgd(model, inputs, labels, eps, steps=attack_steps, restarts=restarts, targeted=targeted, seed=seed)
        attacked = found.withstood
        for sample in np.flatnonzero(certified & ~attacked):
            raise SoundnessError(f"sample {sample} is certified at eps = {certificate.eps} and yet an attack broke it")
        for sample in np.flatnonzero(attacked & ~clean):
            raise SoundnessError(f"sample {sample} is misclassified and yet counts as withstanding the attack")
    return Evaluation(certificate, clean, attacked, certified)
