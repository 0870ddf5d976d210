"""Times contenders side by side: one call of each in turn, many turns, so that a noisy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of all turns, and the quartiles as its spread."""

    median: float
    low: float
    high: float


def interleave(contenders: Mapping[str, Callable[[], object]], seconds: float = 2.0) -> dict[str, Timing]:
    """Every contender's Timing: about `seconds` each in all, and at least three turns after a first untimed one."""
    once = {name: _time(call) for name, call in contenders.items()}
    turns = max(3, int(seconds / max(sum(once.values()) / len(once), 1e-9)))
    turns = min(turns, 200)
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, call in contenders.items():
            samples[name].append(_time(call))
    quartiles = {name: np.quantile(times, [0.25, 0.5, 0.75]) for name, times in samples.items()}
    return {name: Timing(float(q[1]), float(q[0]), float(q[2])) for name, q in quartiles.items()}


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
