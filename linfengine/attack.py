"""Attacks: an attack gives an upper bound on robustness. An attack that fails proves nothing.

Every point tried is an input of the net's domain, at a distance of at most ε in exact arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .backends import Array, backend_of, to_device, to_numpy
from .certify.checks import check_batch_size, check_labels, check_model, check_samples, margins
from .domain import domain_of
from .interval import Interval
from .layers import Module, evaluation
from .losses import cross_entropy
from .ops import getitem, sum
from .tensor import Tensor, no_grad, only_grad
from .units import Radius

SMOOTH_P = 32.0  # of the smooth net whose gradient is followed: that of the maximum depends on one coordinate only


@dataclass(frozen=True, repr=False)
class Attacked:
    """The result of an attack: for each sample the `point` tried with the smallest `margin` (n,), as the net takes it.

    `withstood` (n,): whether the prediction was the label at every point tried, including the sample itself.
    """

    point: Array
    margin: Array
    withstood: Array

    def __repr__(self) -> str:
        return f"Attacked({int(self.withstood.sum())} of {len(self.withstood)} withstood)"


@np.errstate(all="ignore")
def pgd(
    model: Module,
    inputs: Array,
    labels: Array,
    eps: Radius,
    *,
    steps: int = 20,
    restarts: int = 1,
    targeted: bool = False,
    smooth: bool = False,
    rounding: int = 0,
    seed: int = 0,
    batch_size: int = 512,
) -> Attacked:
    """Projected gradient descent in the ℓ∞ ball; inputs and ε as in `certify`.

    Starts at x + clip(N(0, ε/4), ±ε/2) and takes `steps` steps of ε/4 along the sign of the gradient of the
    cross-entropy, each projected to the ball and to the domain; `restarts` times from another start. Then, with
    `targeted`, once towards every other class. With `smooth` every other restart follows the gradient of the ℓp net
    with p = 32 instead, whose gradient depends on all coordinates. `rounding` is a number of neighbours of the worst
    point in the last place to try. Only samples that have withstood so far are attacked again. The net is evaluated at
    p = ∞ with its running means and does not change; other threads may use it at the same time.

    Source: Madry et al., ICLR 2018 (arXiv 1706.06083); settings of Zhang et al., ICML 2021. Raises as `certify`.
    """
    eps = domain_of(model).radius(eps)
    for name, count, least in (("steps", steps, 1), ("restarts", restarts, 1), ("rounding", rounding, 0)):
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
    check_batch_size(batch_size)
    check_model(model)
    x, labels = check_samples(model, inputs, labels)
    rng = np.random.default_rng(seed)
    parts = []
    with evaluation(), no_grad():
        for start in range(0, len(x), batch_size):
            search = _Search(model, x[start : start + batch_size], labels[start : start + batch_size], eps, rng)
            for restart in range(restarts):
                search.descend(steps, search.labels, 1, smooth and restart % 2 == 1)
            for offset in range(1, search.classes * targeted):
                search.descend(steps, (search.labels + offset) % search.classes, -1)
            for _ in range(rounding):
                search.jiggle()
            parts.append((to_numpy(search.best), search.margin, search.intact))
    return Attacked(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class _Search:
    """The worst point found so far in the ball of each sample of a batch."""

    def __init__(self, model: Module, x: Array, labels: Array, eps: Fraction, rng: np.random.Generator) -> None:
        self.model, self.labels, self.rng = model, labels, rng
        self.domain = domain_of(model)
        self.ball = self.domain.ball(x, eps, outward=False).to(model.device)
        self.x = to_device(x.astype(np.float32), model.device)
        self.best = self.x.copy()
        self.xp = backend_of(self.x).xp
        self.radius = self.domain.lengths(eps)
        logits = model(self.x).numpy()
        check_labels(logits, labels)
        self.classes = logits.shape[1]
        self.margin = margins(logits, labels)
        self.intact = logits.argmax(axis=1) == labels

    def look(self, point: Array, chosen: Array, logits: Array) -> None:
        """Keep the points of the chosen samples whose margin is smaller than before."""
        margin = margins(logits, self.labels[chosen])
        self.intact[chosen] &= logits.argmax(axis=1) == self.labels[chosen]
        worse = np.flatnonzero(margin < self.margin[chosen])
        self.margin[chosen[worse]] = margin[worse]
        self.best[self.there(chosen[worse])] = point[self.there(worse)]

    def descend(self, steps: int, classes: Array, sign: int, smooth: bool = False) -> None:
        """PGD up the cross-entropy of those classes, or down with sign −1."""
        chosen = np.flatnonzero(self.intact)
        if not len(chosen):
            return
        ball, radius, scale = self.ball_of(chosen), self.radius, np.float32(1 / self.domain.logit_unit)
        noise = self.rng.standard_normal(ball.shape, np.float32) * (radius / 4)
        start = self.there(np.clip(noise, -radius / 2, radius / 2))
        point = self.project(self.x[self.there(chosen)] + start, ball)
        for _ in range(steps):
            at = Tensor(point, requires_grad=True, device=self.model.device)
            if smooth:  # the logits of the net attacked, and the gradient of the smooth net
                self.look(point, chosen, self.model(at).numpy())
            with only_grad(at), evaluation(SMOOTH_P if smooth else math.inf):
                logits = self.model(at)
                if not smooth:
                    self.look(point, chosen, logits.numpy())
                cross_entropy(logits * scale, classes[chosen]).backward()
            assert at.grad is not None
            point = self.project(point + self.there(sign * radius / 4) * self.xp.sign(at.grad), ball)
        self.look(point, chosen, self.model(point).numpy())

    def jiggle(self) -> None:
        """Try neighbours, in the last place, of the worst points: their rounding may change the prediction."""
        chosen = np.flatnonzero(self.intact)
        if not len(chosen):
            return
        point = self.best[self.there(chosen)]
        way = self.there(self.rng.integers(-1, 2, point.shape))
        near = self.project(self.domain.neighbours(point, way), self.ball_of(chosen))
        self.look(near, chosen, self.model(near).numpy())

    def ball_of(self, chosen: Array) -> Interval:
        there = self.there(chosen)
        return Interval(self.ball.lower[there], self.ball.upper[there], device=self.model.device)

    def there(self, array: Array) -> Array:
        """The array on the model's device."""
        return to_device(array, self.model.device)

    def project(self, point: Array, ball: Interval) -> Array:
        return self.xp.clip(self.domain.snap(point), ball.lower, ball.upper).astype(np.float32, copy=False)


def push(model: Module, x: Array, label: Array, radius: Fraction, rng: np.random.Generator, tries: int = 16) -> Array:
    """Inputs at an exact distance of at most `radius` (in the units of ε) from x (1, ...), moved to lower the margin.

    z_label − z_j depends on few coordinates: those through which the two logits attain their maxima. For every other
    class j these go to the end of the ball that lowers the difference: once with the other coordinates as they are, and
    `tries` times with the others at random ends. In exact arithmetic no input closer than half the margin (over the
    Lipschitz constant) changes the prediction; in float32 an input very near a tie may.
    """
    ball = domain_of(model).ball(x, radius, outward=False)
    with evaluation(), no_grad():
        classes = model(to_device(x, model.device)).shape[1]
    repeated = np.repeat(x.astype(np.float32), classes - 1, axis=0)
    at = Tensor(repeated, requires_grad=True, device=model.device)
    with evaluation(), only_grad(at):
        z = model(at)
        others = np.delete(np.arange(classes), label[0])
        sum(getitem(z, (slice(None), int(label[0]))) - getitem(z, (np.arange(len(others)), others))).backward()
    assert at.grad is not None
    points = []
    for way in -np.sign(to_numpy(at.grad)):
        aside = rng.integers(-1, 2, (tries + 1, *way.shape))
        aside[0] = 0
        sign = np.where(way != 0, way, aside)
        points.append(np.where(sign > 0, ball.upper, np.where(sign < 0, ball.lower, x)))
    return np.concatenate(points).astype(np.float32)
