"""Comparisons within the engine: backends, instruction sets, threads; gradients and changes of the margin."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np

from ..backends import Array, available_backends, use_backend
from ..certify import predict
from ..layers import evaluation, kind_of
from ..tensor import no_grad
from .subject import AGREEMENT, GRADIENTS, Section, Subject, gradient_of


def agreement(subject: Subject, effort: int) -> Section:
    """Logits and bounds of every backend, instruction set and number of threads: the same bits for exact layers."""
    x = subject.x[: 32 * effort]
    bitwise = all(kind_of(layer).exact for name, layer in subject.model.modules() if name)
    results: dict[str, tuple[Array, ...]] = {}
    for name in available_backends():
        model = deepcopy(subject.model).to("cuda" if name == "gpu" else "cpu")
        for setting, pinned in _settings(name):
            with use_backend(name), pinned, evaluation(), no_grad():
                bounds = model(subject.domain.ball(x, subject.certificate.eps).to(model.device)).to("cpu")
                results[setting] = predict(model, x), bounds.lower, bounds.upper
    first = next(iter(results.values()))
    if bitwise:
        differing = [
            s
            for s, each in results.items()
            if any(a.tobytes() != b.tobytes() for a, b in zip(first, each, strict=True))
        ]
        text = f"{len(results)} combinations of backend, instruction set and threads, bit for bit"
    else:
        differing = [s for s, each in results.items() if np.abs(first[0] - each[0]).max() > 2 * subject.error]
        text = f"{len(results)} combinations of backend, instruction set and threads, within 2E (the net's head rounds)"
    text += f"; differing: {', '.join(differing)}" if differing else "; none differs"
    return Section(AGREEMENT, not differing, text, {"combinations": list(results), "differing": differing})


def _settings(name: str) -> Iterator[tuple[str, Any]]:
    if name != "cpu":
        yield name, nullcontext()
        return
    from ..backends import cpu

    for isa, threads in itertools.product(cpu.instruction_sets(), sorted({1, 2, cpu.threads()})):
        yield f"cpu {isa} with {threads} threads", _pinned(isa, threads)


@contextmanager
def _pinned(isa: str, threads: int) -> Iterator[None]:
    from ..backends import cpu

    before = cpu.instruction_set(), cpu.threads()
    cpu.use_instruction_set(isa)
    cpu.use_threads(threads)
    try:
        yield
    finally:
        cpu.use_instruction_set(before[0])
        cpu.use_threads(before[1])


def gradients(subject: Subject, effort: int) -> Section:
    """A margin is piecewise linear: if its gradient is constant along a segment, it gives the change exactly."""
    if not all(kind_of(layer).exact for path, layer in subject.model.modules() if path):
        return Section(GRADIENTS, True, "not tried: the net is not piecewise linear", {})
    count = 256 * effort
    chosen = subject.rng.integers(len(subject.x), size=count)
    x = subject.x[chosen].astype(np.float32)
    z = subject.logits(x)
    rows, top = np.arange(count), z.argmax(axis=1)
    z[rows, top] = -np.inf
    second = z.argmax(axis=1)
    low, span = subject.extent
    step = np.minimum(span, subject.domain.scales).astype(np.float32) / np.float32(1024)
    if subject.exact:
        step = np.float32(max(subject.domain.step, 2.0 ** np.rint(np.log2(np.max(step)))))
    way = subject.rng.integers(-1, 2, x.shape).astype(np.float32)
    points = [subject.domain.clip(np.clip(x + step * k * way, low, low + span)) for k in range(5)]
    slopes = [gradient_of(subject, point, second) for point in points]
    flat = [slope.reshape(count, -1) for slope in slopes]
    straight = np.all([(each == flat[0]).all(axis=1) for each in flat], axis=0)
    moved = (points[-1].astype(np.float64) - points[0]).reshape(count, -1)
    predicted = (flat[0].astype(np.float64) * moved).sum(axis=1)
    ends = [subject.logits(point) for point in (points[0], points[-1])]
    change = np.subtract(*[each[rows, top] - each[rows, second] for each in reversed(ends)])
    wrong = np.abs(change - predicted)[straight]
    allowed = 4 * subject.error + 1e-12 * subject.slope
    worst = float(wrong.max(initial=0))
    text = (
        f"{int(straight.sum())} of {count} segments have no kink, so that the gradient predicts the margin's change: "
        f"off by at most {worst:.3g}, rounding allows {allowed:.3g}"
    )
    figures = {"segments": count, "without a kink": int(straight.sum()), "largest error": worst, "allowed": allowed}
    return Section(GRADIENTS, worst <= allowed, text, figures)
