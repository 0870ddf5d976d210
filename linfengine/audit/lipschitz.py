"""A search for two inputs that violate the Lipschitz bound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..attack import pgd
from ..backends import Array
from .subject import LIPSCHITZ, Section, Subject, gradient_of


def lipschitz_search(subject: Subject, effort: int) -> Section:
    """The largest |f(a) − f(b)| / (L |a − b| + 2E) over pairs of inputs; at most 1 is proved."""
    found: dict[str, dict[str, float]] = {}
    pairs = 0
    for kind, a, b in _pairs(subject, 512 * effort):
        moved = subject.moved(a, b)
        a, b, moved = a[moved > 0], b[moved > 0], moved[moved > 0]
        if not len(a):
            continue
        change = np.abs(subject.logits(a) - subject.logits(b)).max(axis=1)
        most = subject.lipschitz * moved
        best = found.setdefault(kind, {"ratio": 0.0, "slope": 0.0, "pairs": 0})
        best["ratio"] = max(best["ratio"], float((change / (most + 2 * subject.error)).max(initial=0)))
        best["slope"] = max(best["slope"], float((change / most).max(initial=0)))
        best["pairs"] += len(a)
        pairs += len(a)
    worst = max(found, key=lambda kind: found[kind]["ratio"], default="none")
    ratio = found[worst]["ratio"] if found else 0.0
    text = f"{pairs:,} pairs of images; the closest to the proved bound of 1 was {ratio:.9g} ({worst})"
    return Section(LIPSCHITZ, ratio <= 1, text, {"bound": 1.0, "by kind": found})


def _pairs(subject: Subject, count: int) -> Iterator[tuple[str, Array, Array]]:
    rng, valid = subject.rng, subject.domain.clip
    chosen = subject.x[rng.integers(len(subject.x), size=count)].astype(np.float32)
    low, span = subject.extent
    noise = valid(low + span * rng.random(chosen.shape, np.float32))
    yield "random pairs", noise, valid(low + span * rng.random(chosen.shape, np.float32))
    yield "an image and noise", chosen, noise
    yield "two images", chosen, np.roll(chosen, 1, axis=0)
    ball = subject.domain.ball(subject.x[:count], subject.certificate.eps, outward=False)
    inside = valid(ball.lower + rng.random(ball.shape, np.float32) * (ball.upper - ball.lower))
    yield "two points of a ball", subject.x[:count].astype(np.float32), inside
    flipped = chosen.copy().reshape(count, -1)
    at = np.arange(count), rng.integers(flipped.shape[1], size=count)
    lows, spans = (np.broadcast_to(each, chosen.shape).reshape(count, -1)[at] for each in (low, span))
    flipped[at] = np.where(flipped[at] > lows + spans / 2, lows, lows + spans)
    yield "one pixel flipped", chosen, valid(flipped.reshape(chosen.shape))
    way = rng.integers(-1, 2, chosen.shape)
    yield "one unit in the last place apart", chosen, valid(subject.domain.neighbours(chosen, way))
    # along the gradient of one logit, whose slope is the full Lipschitz constant as long as the maxima stay the same
    starts = valid(chosen + span / 16 * rng.standard_normal(chosen.shape, np.float32))
    for scale in (1 / 4, 1 / 64, 1 / 1024):
        yield "along a gradient", starts, valid(starts + scale * span * np.sign(gradient_of(subject, starts, None)))
    found = pgd(subject.model, subject.inputs[:count], subject.labels[:count], subject.certificate.eps, steps=10)
    yield "an image and its worst neighbour", subject.x[:count].astype(np.float32), found.point
