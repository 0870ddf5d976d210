"""Schedules: pure functions of the progress of a training.

Epochs are real numbers: 2.25 is a quarter of the way through the third epoch.
"""

from __future__ import annotations

import math

from .backends.orders import CPU_POWERS

# The orders from 8 on that the CPU kernels compute with a few multiplications. Other orders need logarithm and
# exponential, at several times the cost, until p is so large that nearly all terms are negligible and skipped.
CHEAP_ORDERS = tuple(float(p) for p in CPU_POWERS if p >= 8)


def geometric(r: float, first: float, last: float) -> float:
    """first·(last/first)^r for r in [0, 1]: exactly `first` at 0 and `last` at 1."""
    if r <= 0:
        return first
    return last if r >= 1 else first * (last / first) ** r


def linear(r: float, first: float, last: float) -> float:
    """first + (last − first)·r for r in [0, 1]: exactly `first` at 0 and `last` at 1."""
    if r <= 0:
        return first
    return last if r >= 1 else first + (last - first) * r


def half_cosine(r: float) -> float:
    """(1 + cos πr)/2 for r in [0, 1]: 1 at 0, 1/2 halfway, exactly 0 at 1."""
    return 0.0 if r >= 1 else (1 + math.cos(math.pi * max(r, 0.0))) / 2


def p_ramp(epoch: float, start: float, end: float, first: float = 8.0, last: float = 1000.0) -> float:
    """The order p: `first` before `start`, first·(last/first)^r on the ramp (r its fraction done), ∞ from `end` on.

    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 4.
    """
    return math.inf if epoch >= end else geometric(ramp(epoch, start, end), first, last)


def cheap_order(p: float) -> float:
    """The cheap order nearest to p in ratio, if p lies between the smallest and the largest; else p itself."""
    if not CHEAP_ORDERS[0] <= p <= CHEAP_ORDERS[-1]:
        return p
    return min(CHEAP_ORDERS, key=lambda order: abs(math.log(order / p)))


def ramp(epoch: float, start: float, end: float) -> float:
    """The fraction of the way from `start` to `end`, in [0, 1]; 1 from `start` on if end ≤ start."""
    if end <= start:
        return float(epoch >= start)
    return min(max((epoch - start) / (end - start), 0.0), 1.0)


def learning_rate(epoch: float, rate: float, total: float, hold: float = 0.0) -> float:
    """Constant until `hold`, then a half cosine that reaches 0 at `total`.

    hold = 0 in Zhang et al., ICLR 2022; hold = the start of the p ramp in Zhang et al., ICML 2021.
    """
    return rate * half_cosine(ramp(epoch, hold, total))
