"""Times contenders side by side: one call of each in turn, many turns, so that a noisy moment hits all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

WARM = 0.005  # seconds of untimed calls before each timed one: threads wake up, and another library's go to sleep
LONG = 0.1  # seconds of a call beside which none of that matters


@dataclass(frozen=True)
class Case:
    """One call to time: what it computes, who computes it, and how many terms |x − w| that is."""

    what: str
    who: str
    terms: int
    call: Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds a call: the median of all turns, the quartiles as its spread; and the terms in a call."""

    what: str
    who: str
    terms: int
    median: float
    low: float
    high: float
    turns: int

    @property
    def rate(self) -> float:
        """G terms/s."""
        return self.terms / self.median / 1e9


def interleave(cases: Iterable[Case], seconds: float = 1.0) -> list[Timing]:
    """Every case's Timing: about `seconds` of calls each and at least three, after two untimed ones."""
    cases = list(cases)
    for case in cases:
        case.call()  # compiles, where a library does that on the first call
    once = [max(_time(case.call), 1e-9) for case in cases]
    turns = [min(200, max(3, int(seconds / each))) for each in once]
    samples: list[list[float]] = [[] for _ in cases]
    for turn in range(max(turns, default=0)):
        for case, expected, wanted, times in zip(cases, once, turns, samples, strict=True):
            if turn * wanted // max(turns) >= len(times):  # the slow ones spread over the whole run
                if expected < LONG:
                    _warm(case.call)
                times.append(_time(case.call))
    timings = []
    for case, times in zip(cases, samples, strict=True):
        low, median, high = (float(q) for q in np.quantile(times, [0.25, 0.5, 0.75]))
        timings.append(Timing(case.what, case.who, case.terms, median, low, high, len(times)))
    return timings


def _warm(call: Callable[[], object]) -> None:
    end = time.perf_counter() + WARM
    while time.perf_counter() < end:
        call()


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
