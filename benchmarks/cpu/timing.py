"""Times contenders side by side: one call of each in turn, many turns, so that noise hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

WARM = 0.005  # seconds of untimed calls before each timed one: they wake the threads and cool another library's
LONG = 0.1  # a call of so many seconds needs no such warming


@dataclass(frozen=True)
class Case:
    """One call to time: what it computes, who computes it, and how many terms |x − w| that is."""

    what: str
    who: str
    terms: int
    call: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of a call: the median of all turns with the quartiles `low` and `high`; and the terms in a call."""

    what: str
    who: str
    terms: int
    median: float
    low: float
    high: float

    @property
    def rate(self) -> float:
        """G terms/s."""
        return self.terms / self.median / 1e9


def interleave(cases: Iterable[Case], seconds: float = 1.0) -> list[Timing]:
    """The Timing of every case: calls for about `seconds`, at least 3 and at most 200, after two that do not count."""
    cases = list(cases)
    for case in cases:
        case.call()  # some libraries compile on the first call
    once = [_time(case.call) for case in cases]
    turns = [min(200, max(3, int(seconds / max(each, WARM)))) for each in once]
    samples: list[list[float]] = [[] for _ in cases]
    for turn in range(max(turns, default=0)):
        for case, expected, wanted, times in zip(cases, once, turns, samples, strict=True):
            if turn * wanted // max(turns) >= len(times):  # slow ones are spread over the whole run
                if expected < LONG:
                    _warm(case.call)
                times.append(_time(case.call))
    timings = []
    for case, times in zip(cases, samples, strict=True):
        low, median, high = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
        timings.append(Timing(case.what, case.who, case.terms, median, low, high))
    return timings


def _warm(call: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        call()


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
