"""linf_dist: the ℓ∞-distance neuron, of which these nets are made."""

import contextlib
from collections.abc import Iterator

import numpy as np

from ..backends import Array, Backend, to_numpy
from ..interval import Interval, ends
from .base import Bounds, Like, Op, Result, apply, op

__all__ = ["linf_dist"]

MOST_FEATURES = 2**28  # kernels count blocks of at least 32 features in float32, which is exact up to 2^24


class LinfDist(Op):
    """y[..., o] = max_k |x[..., k] − w[o, k]|; the gradient goes to the k that attains it, the lowest of several."""

    def __init__(self, *, groups: int = 1) -> None:
        self.groups = check_groups("linf_dist", groups)

    def forward(self, be: Backend, x: Array, w: Array) -> Array:
        self.x_shape, self.k = x.shape, w.shape[-1]
        rows, weights = prepare(be, "linf_dist", x, w, self.groups)
        with refusing_non_finite("linf_dist", x=x, w=w):
            if any(self.needs):
                y, self.winner = be.linf_dist_argmax(rows, weights, self.groups)
            else:
                y = be.linf_dist(rows, weights, self.groups)
        return y.reshape(*self.x_shape[:-1], len(w))

    def backward(self, be: Backend, g: Array) -> tuple[Array | None, ...]:
        g = be.xp.ascontiguousarray(g.reshape(self.winner.shape))
        needs = self.needs[0], self.needs[1]
        grad_x, grad_w = be.linf_dist_backward(g, self.winner, self.k, self.groups, needs)
        return None if grad_x is None else grad_x.reshape(self.x_shape), grad_w

    def bounds(self, be: Backend, x: Interval | Array, w: Interval | Array) -> Bounds:
        # only the subtraction rounds, and rounding is monotone: the bounds need no widening
        if isinstance(w, Interval):
            raise TypeError("linf_dist has interval bounds for x only: w must be an array or a Tensor.")
        lower, upper = ends(x)
        low, rows = prepare(be, "linf_dist", lower, w, self.groups)
        high, _ = prepare(be, "linf_dist", upper, w, self.groups)
        with refusing_non_finite("linf_dist", x=lower, w=w), refusing_non_finite("linf_dist", x=upper):
            ys = be.linf_dist_bounds(low, high, rows, self.groups)
        return ys[0].reshape(*lower.shape[:-1], len(w)), ys[1].reshape(*lower.shape[:-1], len(w))


def check_groups(name: str, groups: int) -> int:
    if isinstance(groups, bool) or not isinstance(groups, int | np.integer) or groups < 1:
        raise ValueError(f"{name}: groups must be a whole number from 1 on, not {groups!r}.")
    return int(groups)


def prepare(be: Backend, name: str, x: Array, w: Array, groups: int) -> tuple[Array, Array]:
    """x as (n, groups*k) and w as (o, k), C-contiguous, after the checks that backends rely on.

    Raises ValueError or TypeError for shapes, dtypes or sizes that do not fit.
    """
    if x.ndim < 1 or w.ndim != 2:
        raise ValueError(f"{name}: x must be (..., features) and w (outputs, features), not {x.shape} and {w.shape}.")
    if x.dtype != w.dtype:
        raise TypeError(f"{name}: x and w must have one dtype, not {x.dtype} and {w.dtype}.")
    outputs, k = w.shape
    if outputs % groups:
        raise ValueError(f"{name}: {outputs} outputs cannot be divided into {groups} groups.")
    if x.shape[-1] != groups * k:
        times = f" times {groups} groups" if groups > 1 else ""
        raise ValueError(f"{name}: x has {x.shape[-1]} features where w has {k}{times} (shapes {x.shape}, {w.shape}).")
    if k > MOST_FEATURES:
        raise ValueError(f"{name}: w has {k} features, more than the {MOST_FEATURES} that a kernel can count.")
    if x.size == 0 or w.size == 0:
        raise ValueError(f"{name}: nothing to compute, x has shape {x.shape} and w {w.shape}.")
    return be.xp.ascontiguousarray(x.reshape(-1, groups * k)), be.xp.ascontiguousarray(w)


@contextlib.contextmanager
def refusing_non_finite(name: str, **arrays: Array) -> Iterator[None]:
    """Turn a FloatingPointError of the backend into a ValueError that names the first non-finite number."""
    try:
        yield
    except FloatingPointError:
        for letter, array in arrays.items():
            bad = np.argwhere(~np.isfinite(to_numpy(array)))
            if len(bad):
                first = tuple(int(i) for i in bad[0])
                raise ValueError(
                    f"{name}: {letter} holds {len(bad)} non-finite numbers, the first at index {first}."
                ) from None
        raise  # for an outer block, which names other arrays


@op
def linf_dist(x: Like, w: Like, *, groups: int = 1) -> Result:
    """y[..., o] = max_k |x[..., k] − w[o, k]|

    x (..., groups*k), w (o, k), y (..., o), float32 or float64 alike. With groups, the outputs are split into that
    many equal blocks, and block q uses the columns q*k .. (q+1)*k−1 of x.

    1-Lipschitz in the ℓ∞ norm: |y(x) − y(x')| ≤ max_k |x_k − x'_k|. Only the subtraction rounds, so the
    computed value is the same on every machine. The gradient sign(x_k − w_k) goes to the k that
    attains the maximum, the lowest of several. On an Interval x, for a point w:

        max_k max(lower_k − w_k, w_k − upper_k, 0)  ≤  y  ≤  max_k max(|lower_k − w_k|, |upper_k − w_k|)

    Raises TypeError for two dtypes or an Interval w; ValueError for shapes that do not fit, an empty x or w, NaN and
    infinity.

    Source: Zhang, Cai, Lu, He, Wang, "Towards Certifying L-infinity Robustness using Neural Networks with L-inf-dist
    Neurons", ICML 2021 (arXiv 2102.05363).
    """
    return apply(LinfDist(groups=groups), x, w)
