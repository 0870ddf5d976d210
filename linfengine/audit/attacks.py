"""Attacks on certified samples, and on radii: taken naively from a margin, or proved."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from ..attack import pgd, push
from ..backends import Array
from ..certify import certify, check_samples, margins, predict
from ..certify.checks import claims
from ..domain import domain_of
from ..layers import Module, Sequential, linf_net
from .subject import ATTACK, FLOATING_POINT, RADII, Section, Subject


def attack_section(subject: Subject, effort: int) -> Section:
    """PGD with restarts, also with the smooth net's gradient, targeted, then a search among float32 neighbours."""
    certificate = subject.certificate
    certified = np.flatnonzero(certificate.certified)
    settings: dict[str, Any] = {
        "steps": 20,
        "restarts": 2 * effort,
        "targeted": True,
        "smooth": True,
        "rounding": 20 * effort,
    }
    if not len(certified):
        return Section(ATTACK, True, "no sample is certified at this radius", settings)
    found = pgd(
        subject.model, subject.inputs[certified], subject.labels[certified], certificate.eps,
        seed=int(subject.rng.integers(2**31)), **settings,
    )  # fmt: skip
    broken = certified[~found.withstood].tolist()
    text = f"{len(certified):,} certified samples attacked, {len(broken)} broken"
    if broken:
        text += f", the first sample {broken[0]}"
    drop = (certificate.margin[certified] - found.margin) / (2 * subject.slope)
    figures = settings | {
        "certified": len(certified),
        "broken": broken,
        "margin": certificate.margin[certified].tolist(),
        "attacked margin": found.margin.tolist(),
        "largest drop of the margin, in eps": float(drop.max() / max(float(certificate.eps), 1e-300)),
    }
    return Section(ATTACK, not broken, text, figures)


def floating_point_attack(subject: Subject, effort: int) -> Section:
    """Attack radii taken naively from a float32 margin, and radii that are proved, in the last place."""
    rng = np.random.default_rng(subject.rng.integers(2**31))
    chosen = subject.smallest(16 * effort)
    images = [(subject.model, subject.inputs[i : i + 1], subject.labels[i : i + 1]) for i in chosen]
    nets = [random_net(rng) for _ in range(200 * effort)]
    figures: dict[str, Any] = {}
    for what, cases in (("random 8-16-3 nets", nets), ("samples of this net", images)):
        beaten = [attack_radii(*case, rng) for case in cases]
        figures[what] = {"tried": len(cases)} | {claim: sum(each[claim] for each in beaten) for claim in RADII}
    parts = [
        f"{', '.join(f'{each[claim]} by {claim!r}' for claim in RADII)} of {each['tried']} {what}"
        for what, each in figures.items()
    ]
    text = f"radii beaten: {'; '.join(parts)}"
    return Section(FLOATING_POINT, not any(each[RADII[-1]] for each in figures.values()), text, figures)


def random_net(rng: np.random.Generator) -> tuple[Sequential, Array, Array]:
    """An 8-16-3 net with normal weights, an image and the label predicted for it."""
    seed = int(rng.integers(2**31))
    net = linf_net((1, 2, 4), 3, width=16, depth=2, mean=(0.0,), std=0.25, identity=False, seed=seed)
    x = rng.random((1, 1, 2, 4), np.float32)
    return net, x, predict(net, x).argmax(axis=1)


def attack_radii(model: Module, image: Array, label: Array, rng: np.random.Generator) -> dict[str, bool]:
    """For each kind of radius r in RADII: whether an input at an exact distance of at most r changes the prediction.

    The naive radii are computed from the float32 margin, in float32.
    """
    x, label = check_samples(model, image, label)
    domain = domain_of(model)
    half = np.float32(margins(predict(model, x), label)[0]) / np.float32(2 * claims(model, domain, 0.0)[0])
    reach = max(Fraction(float(half)), Fraction(0))  # without bounds no larger radius is looked at
    proof = certify(model, image, label, min(reach, domain.widest or reach), method="margin")
    if proof.steps is not None:
        proved = Fraction(int(proof.steps[0])) / domain.steps(Fraction(1))
    else:
        proved = Fraction(float(proof.radius[0]))
    beaten = []
    for radius in (Fraction(float(half)), Fraction(float(np.nextafter(half, np.float32(0)))), proved):
        points = push(model, x, label, min(radius, domain.widest or radius), rng)
        beaten.append(radius > 0 and bool((predict(model, points).argmax(axis=1) != label).any()))
    return dict(zip(RADII, beaten, strict=True))
