"""The distance kernels: this engine on all threads, on one, on other instruction sets, and the ceilings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cpu.ceilings import read_once, registers_only
from benchmarks.cpu.timing import Case
from linfengine.backends import Array, cpu

ORDERS = (8.0, 20.3, 300.0)  # multiplications alone; logarithm and exponential; mostly negligible terms
OURS = "linfengine"
CEILINGS = {
    "p = ∞ forward": "linf",
    "interval bounds": "linf_bounds",
    "bytes": "dead_zone",
    "p = 8 forward": "lp_power_8",
}
BATCHES, OUTPUTS, INPUTS = (1, 8, 64, 512), (10, 64, 1024, 5120), (27, 784, 3072, 5120)


def problem(n: int, o: int, k: int) -> tuple[Array, Array, Array]:
    """Normally distributed x (n, k), w (o, k) and g (n, o), as the weights of a new net are."""
    rng = np.random.default_rng(0)
    return tuple(rng.standard_normal(shape, np.float32) for shape in ((n, k), (o, k), (n, o)))  # type: ignore[return-value]


def forward_backward(x: Array, w: Array, g: Array, p: float) -> None:
    if np.isinf(p):
        _, winner = cpu.linf_dist_argmax(x, w)
        cpu.linf_dist_backward(g, winner, w.shape[1])
    else:
        y = cpu.lp_dist(x, w, p)
        cpu.lp_dist_backward(g, x, w, y, p)


def cases(n: int, o: int, k: int) -> Iterator[Case]:
    x, w, g = problem(n, o, k)
    lower, upper = x - np.float32(0.1), x + np.float32(0.1)
    rng = np.random.default_rng(1)
    bytes_x = rng.integers(0, 256, x.shape).astype(np.uint8)
    below, above = np.sort(rng.integers(0, 256, (2, *w.shape)), axis=0).astype(np.uint8)
    calls: dict[str, Callable[[], Any]] = {
        "p = ∞ forward": partial(cpu.linf_dist, x, w),
        "p = ∞ forward, argmax": partial(cpu.linf_dist_argmax, x, w),
        "p = ∞ forward + backward": partial(forward_backward, x, w, g, np.inf),
        "interval bounds": partial(cpu.linf_dist_bounds, lower, upper, w),
        "bytes": partial(cpu.dead_zone, bytes_x, above, below),
    }
    for p in ORDERS:
        calls[f"p = {p:g} forward"] = partial(cpu.lp_dist, x, w, p)
        calls[f"p = {p:g} forward + backward"] = partial(forward_backward, x, w, g, p)
    for what, call in calls.items():
        yield Case(what, OURS, n * o * k, call)
    for what in ("p = ∞ forward", "p = 8 forward"):
        yield Case(what, "one thread", n * o * k, partial(_pinned, calls[what], cpu.use_threads, 1, cpu.threads()))
        for isa in cpu.instruction_sets():
            if isa != cpu.instruction_set():
                call = partial(_pinned, calls[what], cpu.use_instruction_set, isa, cpu.instruction_set())
                yield Case(what, isa, n * o * k, call)
    rounds = 300_000
    for what, metric in CEILINGS.items():
        yield Case(what, "ceiling", registers_only(metric, rounds), partial(registers_only, metric, rounds))


def shape_cases() -> Iterator[Case]:
    """The p = ∞ forward at many shapes; and reading w once, which is the least that a single sample can cost."""
    for o in OUTPUTS:
        for k in INPUTS:
            x, w, _ = problem(max(BATCHES), o, k)
            for n in BATCHES:
                yield Case(f"{n} {o} {k}", OURS, n * o * k, partial(cpu.linf_dist, np.ascontiguousarray(x[:n]), w))
    x, w, _ = problem(1, 1024, 784)
    yield Case("one sample, 784 to 1024", OURS, w.size, partial(cpu.linf_dist, x, w))
    yield Case("one sample, 784 to 1024", "reading w", w.size, partial(read_once, w))


def _pinned(call: Callable[[], Any], setter: Callable[[Any], None], value: Any, before: Any) -> None:
    setter(value)
    try:
        call()
    finally:
        setter(before)
