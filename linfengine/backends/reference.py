"""The slow and obvious backend: NumPy, one output neuron after the other. Every fast backend answers to this one.

    y[n, o] = max_k |x[n, k] - w[o, k]|                  linf_dist
    y[n, o] = (sum_k |x[n, k] - w[o, k]|^p)^(1/p)        lp_dist

Walking over the outputs keeps the memory at one (n, k) array, where a broadcast x[:, None] - w[None] would need
(n, o, k). The interface is described in `linfengine.backends`.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from . import NO_WINNER, Array, Gradients, Needs

name = "reference"
xp = np


def _neurons(w: Array, groups: int) -> Iterator[tuple[int, slice]]:
    """Each output with the columns of x that its group sees:

    outputs   0 .. o/groups-1 | o/groups .. 2*o/groups-1 | ...
    columns   0 .. k-1        | k .. 2k-1                | ...
    """
    outputs, k = w.shape
    for o in range(outputs):
        group = o * groups // outputs
        yield o, slice(group * k, (group + 1) * k)


def _check_finite(x: Array, w: Array) -> None:
    if not (np.isfinite(x).all() and np.isfinite(w).all()):
        raise FloatingPointError("x or w holds NaN or infinity")


def linf_dist(x: Array, w: Array, groups: int = 1) -> Array:
    _check_finite(x, w)
    y = np.empty((len(x), len(w)), x.dtype)
    for o, columns in _neurons(w, groups):
        y[:, o] = np.abs(x[:, columns] - w[o]).max(axis=1)
    return y


def dead_zone(x: Array, above: Array, below: Array, groups: int = 1) -> Array:
    y = np.empty((len(x), len(above)), x.dtype)
    for o, columns in _neurons(above, groups):
        here = x[:, columns].astype(np.int16)
        y[:, o] = np.maximum(here - above[o], below[o] - here).max(axis=1).clip(0)
    return y


def linf_dist_argmax(x: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
    _check_finite(x, w)
    y = np.empty((len(x), len(w)), x.dtype)
    winner = np.empty((len(x), len(w)), np.int32)
    rows = np.arange(len(x))
    for o, columns in _neurons(w, groups):
        d = x[:, columns] - w[o]
        k = np.abs(d).argmax(axis=1)  # the first of equals, so the lowest index wins ties
        d = d[rows, k]
        y[:, o] = np.abs(d)
        winner[:, o] = np.where(d > 0, k, np.where(d < 0, ~k, NO_WINNER))
    return y, winner


def linf_dist_backward(g: Array, winner: Array, k: int, groups: int = 1, needs: Needs = (True, True)) -> Gradients:
    grad_x, grad_w = np.zeros((len(g), groups * k), g.dtype), np.zeros((g.shape[1], k), g.dtype)
    rows = np.arange(len(g))
    for o, columns in _neurons(grad_w, groups):
        won = winner[:, o] != NO_WINNER
        at = np.where(winner[:, o] < 0, ~winner[:, o], winner[:, o])[won]
        slope = np.where(winner[:, o] < 0, -g[:, o], g[:, o])[won]
        grad_x[:, columns][rows[won], at] += slope
        np.subtract.at(grad_w[o], at, slope)
    return grad_x if needs[0] else None, grad_w if needs[1] else None


def linf_dist_bounds(lower: Array, upper: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
    _check_finite(lower, w)
    _check_finite(upper, w)
    y_lower = np.empty((len(lower), len(w)), lower.dtype)
    y_upper = np.empty_like(y_lower)
    for o, columns in _neurons(w, groups):
        from_lower, from_upper = lower[:, columns] - w[o], upper[:, columns] - w[o]
        y_lower[:, o] = np.maximum(np.maximum(from_lower, -from_upper), 0).max(axis=1)
        y_upper[:, o] = np.maximum(np.abs(from_lower), np.abs(from_upper)).max(axis=1)
    return y_lower, y_upper


def lp_dist(x: Array, w: Array, p: float, groups: int = 1) -> Array:
    _check_finite(x, w)
    y = np.empty((len(x), len(w)), x.dtype)
    for o, columns in _neurons(w, groups):
        distance = np.abs(x[:, columns] - w[o])
        largest = distance.max(axis=1, keepdims=True)
        ratio = distance / np.where(largest == 0, 1, largest)  # at most 1: no power overflows
        y[:, o] = largest[:, 0] * (ratio**p).sum(axis=1) ** (1 / p)
    return y


def lp_dist_backward(
    g: Array, x: Array, w: Array, y: Array, p: float, groups: int = 1, needs: Needs = (True, True)
) -> Gradients:
    grad_x, grad_w = np.zeros_like(x), np.empty_like(w)
    for o, columns in _neurons(w, groups):
        d = x[:, columns] - w[o]
        length = y[:, o, None]
        ratio = np.abs(d) / np.where(length == 0, 1, length)
        slope = np.sign(d) * ratio ** (p - 1) * g[:, o, None]
        grad_x[:, columns] += slope
        grad_w[o] = -slope.sum(axis=0)
    return grad_x if needs[0] else None, grad_w if needs[1] else None


def matmul(x: Array, y: Array) -> Array:
    return np.matmul(x, y)


def add_at(total: Array, key: Any, parts: Array) -> None:
    np.add.at(total, key, parts)


def channel_sums(x: Array) -> Array:
    return cast(Array, x.sum(axis=(0, 2), dtype=np.float64))


def adam_step(
    param: Array,
    grad: Array,
    m: Array,
    v: Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    step: int,
) -> None:
    m[...] = beta1 * m + (1 - beta1) * grad
    v[...] = beta2 * v + (1 - beta2) * grad**2
    param -= lr * (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)


def lp_decay(w: Array, p: float, amount: float) -> None:
    size = np.abs(w)
    if np.isinf(p):
        at = np.arange(len(w)), size.argmax(axis=1)
        w[at] -= w.dtype.type(amount) * w[at]
        return
    largest = size.max(axis=1, keepdims=True)
    largest[largest == 0] = 1
    size /= largest  # at most 1: no power overflows
    norm = (size**p).sum(axis=1, keepdims=True) ** (1 / p)
    norm[norm == 0] = 1
    w -= w.dtype.type(amount) * largest * norm * (size / norm) ** (p - 1) * np.sign(w)
