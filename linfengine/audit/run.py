"""The audit: searches that try to break a net's certificates, and the engine that made them.

Each section searches for a counterexample to something that is proved. A search that finds nothing proves nothing; one
that finds a counterexample has found a bug.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backends import Array
from ..certify import certify, check_model, check_samples
from ..certify.checks import claims, copy_of
from ..domain import domain_of
from ..layers import Module
from ..units import Radius
from .attacks import attack_section, floating_point_attack
from .engine import agreement, gradients
from .lipschitz import lipschitz_search
from .referee import exact_evaluation
from .subject import AGREEMENT, ATTACK, EVALUATION, FLOATING_POINT, GRADIENTS, LIPSCHITZ, Section, Subject


@np.errstate(all="ignore")
def audit(
    model: Module,
    inputs: Array,
    labels: Array,
    eps: Radius,
    *,
    effort: int = 1,
    seed: int = 0,
    progress: Callable[[str], None] = lambda name: None,
) -> list[Section]:
    """Try to break the net's certificates at radius ε, and the engine; inputs as they are stored, images as uint8.

    `effort` multiplies the numbers of attempts; `progress` is called with each section's name before it starts. Raises
    as `certify`, and ValueError for images that are not uint8.
    """
    model = copy_of(model)
    domain = domain_of(model)
    eps = domain.radius(eps)
    check_model(model)
    x, labels = check_samples(model, inputs, labels)
    if domain.white and inputs.dtype != np.uint8:
        raise ValueError(f"an audit takes uint8 images, got {inputs.dtype}")
    exact = domain.fraction_bits is not None
    certificate = certify(model, inputs, labels, eps, method="exact" if exact else "interval")
    error = 0.0 if exact else claims(model, domain, domain.reach(x, eps)[1])[1]
    subject = Subject(model, inputs, labels, x, certificate, error, np.random.default_rng(seed))
    sections = []
    for name, attempt in SECTIONS.items():
        progress(name)
        sections.append(attempt(subject, effort))
    return sections


SECTIONS: dict[str, Callable[[Subject, int], Section]] = {
    LIPSCHITZ: lipschitz_search,
    ATTACK: attack_section,
    AGREEMENT: agreement,
    GRADIENTS: gradients,
    EVALUATION: exact_evaluation,
    FLOATING_POINT: floating_point_attack,
}
