"""Every op with what it should compute, where its inputs may lie, and how far from a tie or kink these are.

`CASES` is walked by test_ops.py, which fails when an op of `OPS` has no case here. To add one, write a Case: `call` is
the op on Tensors or Intervals, `expected` the same in plain NumPy or SciPy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.special
from scipy.spatial.distance import cdist
from support.tolerances import GAP

import linfengine as le

Array = npt.NDArray[Any]
Domain = tuple[float, float]

ANY: Domain = (-2, 2)
POSITIVE: Domain = (0.25, 2)


def no_kink(*arrays: Array) -> float:
    return math.inf


@dataclass(frozen=True)
class Case:
    """One way to use an op.

    shapes, domains: of the inputs; one domain serves all of them
    gap: how far the inputs are from the nearest tie or kink
    boxes: which inputs may be Intervals together, for each way the op has bounds; None stands for all inputs at once
    """

    op: str
    call: Callable[..., Any]
    expected: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    domains: tuple[Domain, ...] = (ANY,)
    gap: Callable[..., float] = no_kink
    boxes: tuple[tuple[int, ...], ...] | None = None
    label: str = ""

    def __str__(self) -> str:
        return f"{self.op}-{self.label}" if self.label else self.op

    def domain(self, i: int) -> Domain:
        return self.domains[i % len(self.domains)]

    def interval_inputs(self) -> tuple[tuple[int, ...], ...]:
        return (tuple(range(len(self.shapes))),) if self.boxes is None else self.boxes

    def sample(self, seed: int = 0) -> list[Array]:
        """Inputs in float64, drawn until they keep the gap."""
        rng = np.random.default_rng([seed, *map(ord, str(self))])
        while True:
            arrays = [rng.uniform(*self.domain(i), shape) for i, shape in enumerate(self.shapes)]
            if self.gap(*arrays) >= GAP:
                return arrays


def from_zero(x: Array) -> float:
    return float(np.abs(x).min())


def from_tie(axis: int | tuple[int, ...] | None) -> Callable[[Array], float]:
    """The distance between the two best entries along the axes, be they the largest or the smallest."""

    def gap(x: Array) -> float:
        rest = [] if axis is None else [i for i in range(x.ndim) if i not in np.atleast_1d(axis) % x.ndim]
        flat = np.sort(np.moveaxis(x, rest, range(len(rest))).reshape([x.shape[i] for i in rest] + [-1]), axis=-1)
        return float(min((flat[..., -1] - flat[..., -2]).min(), (flat[..., 1] - flat[..., 0]).min()))

    return gap


def differences(x: Array, w: Array, groups: int) -> Array:
    """|x - w| for every row, output and feature, (n, o, k)."""
    per_group = len(w) // groups
    x = x.reshape(-1, groups, 1, w.shape[1])
    return np.abs(x - w.reshape(1, groups, per_group, -1)).reshape(len(x), len(w), -1)


def from_second(groups: int = 1) -> Callable[[Array, Array], float]:
    """How far the largest |x - w| is from the second largest, and from 0."""

    def gap(x: Array, w: Array) -> float:
        d = np.sort(differences(x, w, groups), axis=-1)
        return float(min((d[..., -1] - d[..., -2]).min(), d[..., -1].min()))

    return gap


def distance(metric: str, groups: int = 1, **settings: float) -> Callable[[Array, Array], Array]:
    """The distance neurons by scipy, group by group."""

    def expected(x: Array, w: Array) -> Array:
        rows = x.reshape(-1, x.shape[-1])
        parts = zip(np.split(rows, groups, axis=1), np.split(w, groups), strict=True)
        y = np.concatenate([cdist(part, weights, metric, **settings) for part, weights in parts], axis=1)
        return y.reshape(*x.shape[:-1], len(w))

    return expected


def windows(x: Array, kernel: tuple[int, int], stride: int, padding: int) -> Array:
    """unfold, one window after the other."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows = range(0, h + 2 * padding - kernel[0] + 1, stride)
    columns = range(0, w + 2 * padding - kernel[1] + 1, stride)
    patches = [padded[:, :, i : i + kernel[0], j : j + kernel[1]].reshape(n, -1) for i in rows for j in columns]
    return np.stack(patches, axis=1)


REPEATED = np.array([2, 0, 2, 2])
PAIRS = (np.array([0, 1, 0]), np.array([3, 1, 3]))
MASK = np.array([True, False, True])

CASES = [
    # the neurons
    Case("linf_dist", le.linf_dist, distance("chebyshev"), ((5, 4), (3, 4)), gap=from_second(), boxes=((0,),)),
    Case(
        "linf_dist",
        lambda x, w: le.linf_dist(x, w, groups=2),
        distance("chebyshev", groups=2),
        ((2, 3, 6), (4, 3)),
        gap=from_second(groups=2),
        boxes=((0,),),
        label="groups",
    ),
    Case(
        "linf_dist", le.linf_dist, distance("chebyshev"), ((4,), (3, 4)), gap=from_second(), boxes=((0,),), label="1-d"
    ),
    Case(
        "lp_dist",
        lambda x, w: le.lp_dist(x, w, p=8),
        distance("minkowski", p=8),
        ((5, 4), (3, 4)),
        boxes=(),
    ),
    Case(
        "lp_dist",
        lambda x, w: le.lp_dist(x, w, p=3.5, groups=2),
        distance("minkowski", p=3.5, groups=2),
        ((2, 3, 6), (4, 3)),
        boxes=(),
        label="groups",
    ),
    Case(
        "lp_dist",
        lambda x, w: le.lp_dist(x, w, p=1),
        distance("minkowski", p=1),
        ((3, 4), (2, 4)),
        gap=lambda x, w: from_zero(differences(x, w, 1)),
        boxes=(),
        label="p=1",
    ),
    Case(
        "lp_dist",
        lambda x, w: le.lp_dist(x, w, p=math.inf),
        distance("chebyshev"),
        ((5, 4), (3, 4)),
        gap=from_second(),
        boxes=((0,),),
        label="p=inf",
    ),
    # entry by entry
    Case("add", lambda x, y: x + y, np.add, ((3, 4), (3, 4))),
    Case("add", lambda x, y: x + y, np.add, ((2, 1, 4), (3, 1)), boxes=((0, 1), (0,), (1,)), label="broadcast"),
    Case("add", lambda x: 2.5 + x, lambda x: 2.5 + x, ((3,),), label="number"),
    Case("sub", lambda x, y: x - y, np.subtract, ((3, 4), (4,)), boxes=((0, 1), (0,), (1,))),
    Case("sub", lambda x: 1 - x, lambda x: 1 - x, ((3,),), label="number"),
    Case("mul", lambda x, y: x * y, np.multiply, ((3, 4), (3, 1)), boxes=((0, 1), (0,), (1,))),
    Case("mul", lambda x: x * x, np.square, ((3,),), label="shared"),
    Case("div", lambda x, y: x / y, np.divide, ((4,), (3, 4)), (ANY, POSITIVE), boxes=((0, 1), (0,), (1,))),
    Case("div", lambda x: 1 / x, lambda x: 1 / x, ((3,),), (POSITIVE,), label="number"),
    Case("neg", lambda x: -x, np.negative, ((3, 4),)),
    Case("power", lambda x: x**2, np.square, ((3, 4),), label="square"),
    Case("power", lambda x: x**3, lambda x: x**3, ((3, 4),), label="cube"),
    Case("power", lambda x: x**-1.5, lambda x: x**-1.5, ((3, 4),), (POSITIVE,), label="negative"),
    Case("power", lambda x, y: x**y, np.power, ((3, 4), (4,)), (POSITIVE, ANY), boxes=((0,),), label="array"),
    Case("power", lambda y: 2.0**y, np.exp2, ((3, 4),), boxes=(), label="base"),
    Case("exp", le.exp, np.exp, ((3, 4),)),
    Case("log", le.log, np.log, ((3, 4),), (POSITIVE,)),
    Case("tanh", le.tanh, np.tanh, ((3, 4),)),
    Case("relu", le.relu, lambda x: np.maximum(x, 0), ((3, 4),), gap=from_zero),
    Case("abs", abs, np.abs, ((3, 4),), gap=from_zero),
    Case("maximum", le.maximum, np.maximum, ((3, 4), (4,)), gap=lambda x, y: from_zero(x - y)),
    Case("minimum", le.minimum, np.minimum, ((3, 1), (3, 4)), gap=lambda x, y: from_zero(x - y)),
    Case(
        "clip",
        lambda x: le.clip(x, -1, 0.5),
        lambda x: np.clip(x, -1, 0.5),
        ((3, 4),),
        gap=lambda x: min(from_zero(x + 1), from_zero(x - 0.5)),
    ),
    Case("clip", lambda x: x.clip(low=0), lambda x: np.maximum(x, 0), ((3, 4),), gap=from_zero, label="one-sided"),
    # linear layers
    Case("matmul", le.matmul, np.matmul, ((3, 4), (4, 2)), boxes=((0,), (1,))),
    Case("matmul", le.matmul, np.matmul, ((2, 3, 4), (4, 2)), boxes=((0,), (1,)), label="batch"),
    Case("matmul", le.matmul, np.matmul, ((2, 1, 3, 4), (5, 4, 2)), boxes=((0,), (1,)), label="broadcast"),
    Case("matmul", le.matmul, np.matmul, ((4,), (3, 4, 2)), boxes=((0,), (1,)), label="vector-left"),
    Case("matmul", le.matmul, np.matmul, ((3, 4), (4,)), boxes=((0,), (1,)), label="vector-right"),
    Case("matmul", le.matmul, np.matmul, ((4,), (4,)), boxes=((0,), (1,)), label="vectors"),
    # axes taken away
    Case("sum", lambda x: x.sum(), np.sum, ((3, 4),)),
    Case("sum", lambda x: x.sum(axis=0), lambda x: x.sum(axis=0), ((3, 4),), label="axis"),
    Case("sum", lambda x: x.sum((0, -1), True), lambda x: x.sum((0, -1), keepdims=True), ((2, 3, 4),), label="axes"),
    Case("mean", lambda x: x.mean(), np.mean, ((3, 4),)),
    Case("mean", lambda x: x.mean(axis=0), lambda x: x.mean(axis=0), ((3, 4),), label="axis"),
    Case("mean", lambda x: x.mean((0, 2), True), lambda x: x.mean((0, 2), keepdims=True), ((2, 3, 4),), label="axes"),
    Case("max", lambda x: x.max(), np.max, ((3, 4),), gap=from_tie(None)),
    Case("max", lambda x: x.max(axis=0), lambda x: x.max(axis=0), ((3, 4),), gap=from_tie(0), label="axis"),
    Case(
        "max",
        lambda x: x.max((0, 2), True),
        lambda x: x.max((0, 2), keepdims=True),
        ((2, 3, 4),),
        gap=from_tie((0, 2)),
        label="axes",
    ),
    Case("min", lambda x: x.min(), np.min, ((3, 4),), gap=from_tie(None)),
    Case("min", lambda x: x.min(axis=-1), lambda x: x.min(axis=-1), ((3, 4),), gap=from_tie(-1), label="axis"),
    Case(
        "min",
        lambda x: x.min((2, 1), True),
        lambda x: x.min((2, 1), keepdims=True),
        ((2, 3, 4),),
        gap=from_tie((2, 1)),
        label="axes",
    ),
    Case("logsumexp", le.logsumexp, lambda x: scipy.special.logsumexp(x, axis=-1), ((3, 4),)),
    Case(
        "logsumexp",
        lambda x: le.logsumexp(x, axis=(0, 2), keepdims=True),
        lambda x: scipy.special.logsumexp(x, axis=(0, 2), keepdims=True),
        ((2, 3, 4),),
        label="axes",
    ),
    Case("log_softmax", le.log_softmax, lambda x: scipy.special.log_softmax(x, axis=-1), ((3, 4),)),
    Case(
        "log_softmax",
        lambda x: le.log_softmax(x, axis=0),
        lambda x: scipy.special.log_softmax(x, axis=0),
        ((3, 2, 2),),
        label="axis",
    ),
    # entries rearranged
    Case("reshape", lambda x: x.reshape(2, -1), lambda x: x.reshape(2, -1), ((3, 4),)),
    Case("transpose", lambda x: x.T, lambda x: x.T, ((2, 3, 4),)),
    Case("transpose", lambda x: x.transpose(2, 0, -2), lambda x: x.transpose(2, 0, -2), ((2, 3, 4),), label="axes"),
    Case("getitem", lambda x: x[1:, ::-2], lambda x: x[1:, ::-2], ((3, 4),), label="slices"),
    Case("getitem", lambda x: x[..., None, 1], lambda x: x[..., None, 1], ((3, 4),), label="integer"),
    Case("getitem", lambda x: x[REPEATED], lambda x: x[REPEATED], ((3, 4),), label="repeated"),
    Case("getitem", lambda x: x[PAIRS], lambda x: x[PAIRS], ((3, 4),), label="pairs"),
    Case("getitem", lambda x: x[[2, 2], 1:], lambda x: x[[2, 2], 1:], ((3, 4),), label="list"),
    Case("getitem", lambda x: x[MASK], lambda x: x[MASK], ((3, 4),), label="mask"),
    Case(
        "concatenate",
        lambda x, y: le.concatenate([x, y], axis=-1),
        lambda x, y: np.concatenate([x, y], axis=-1),
        ((3, 1), (3, 2)),
        boxes=((0, 1), (1,)),
    ),
    Case(
        "stack",
        lambda x, y: le.stack([x, y, x], axis=1),
        lambda x, y: np.stack([x, y, x], axis=1),
        ((3, 2), (3, 2)),
        boxes=((0, 1), (1,)),
    ),
    Case(
        "pad",
        lambda x: le.pad(x, ((1, 0), (0, 2)), value=-1),
        lambda x: np.pad(x, ((1, 0), (0, 2)), constant_values=-1),
        ((3, 4),),
    ),
    Case("unfold", lambda x: le.unfold(x, 2), lambda x: windows(x, (2, 2), 1, 0), ((2, 3, 4, 5),)),
    Case(
        "unfold",
        lambda x: le.unfold(x, (3, 2), stride=2, padding=1),
        lambda x: windows(x, (3, 2), 2, 1),
        ((1, 2, 4, 5),),
        label="stride",
    ),
]
