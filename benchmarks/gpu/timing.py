"""What is timed on a GPU: the inner steps on registers alone, one layer, one training iteration, one epoch.

Times are medians by CUDA events. The calls get inputs in turn, so that none is still in the cache.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import Any

import cupy
import numpy as np

from benchmarks.gpu.ceilings import CEILINGS
from benchmarks.mnist import mnist_or_noise
from linfengine.backends import cuda, gpu
from linfengine.backends.cuda import device
from linfengine.backends.cuda.launch import launch
from linfengine.layers import linf_net
from linfengine.losses import mixture
from linfengine.optim import Adam
from linfengine.recipes import load_recipe
from linfengine.tensor import Tensor
from linfengine.train import Observer, Trainer, make_plan

ORDERS = (8.0, 20.3, 64.0, 300.0, math.inf)


@dataclass(frozen=True)
class Figure:
    """The median seconds of a call with the quartiles `low` and `high`, and the terms in a call."""

    what: str
    seconds: float
    low: float
    high: float
    terms: float

    @property
    def rate(self) -> float:
        """T terms/s."""
        return self.terms / self.seconds / 1e12


def timed(what: str, terms: float, calls: Sequence[Callable[[], object]], turns: int) -> Figure:
    """The calls take turns, after two untimed rounds."""
    for call in [*calls, *calls]:
        call()
    seconds = []
    for _, call in zip(range(turns), cycle(calls), strict=False):
        start, end = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        call()
        end.record()
        end.synchronize()
        seconds.append(cupy.cuda.get_elapsed_time(start, end) / 1e3)
    low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
    return Figure(what, median, low, high, terms)


def ceilings(turns: int, rounds: int = 4096) -> Iterator[Figure]:
    """Each metric's step on registers alone, on all multiprocessors."""
    x, y = cupy.arange(8, dtype=np.float32) / 3, cupy.zeros(1, np.float32)
    blocks = 8 * device.multiprocessors()
    for what, kernel in CEILINGS.items():
        call = partial(launch, kernel, blocks, x=x, w=x, y=y, n=rounds, p=20.3)
        yield timed(what, blocks * cuda.THREADS * rounds * 32, [call], turns)


def kernels(batch: int, width: int, turns: int) -> Iterator[Figure]:
    """Each kernel of one layer of B samples, K inputs and O outputs, K = O = width."""
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(3):
        x, w, g = (
            cupy.asarray(rng.standard_normal(shape, np.float32))
            for shape in ((batch, width), (width, width), (batch, width))
        )
        sets.append((x, w, g))
    terms = batch * width * width
    forward: list[tuple[str, Callable[..., Any]]] = [
        ("p = ∞ forward", gpu.linf_dist),
        ("p = ∞ forward with argmax", gpu.linf_dist_argmax),
        ("interval bounds", lambda x, w: gpu.linf_dist_bounds(x, x, w)),
        *((f"p = {p:g} forward", partial(gpu.lp_dist, p=p)) for p in ORDERS[:-1]),
    ]
    for what, call in forward:
        yield timed(what, terms, [partial(call, x, w) for x, w, _ in sets], turns)
    winners = [gpu.linf_dist_argmax(x, w)[1] for x, w, _ in sets]
    yield timed(
        "p = ∞ gradients",
        terms,
        [partial(gpu.linf_dist_backward, g, each, width) for (_, _, g), each in zip(sets, winners, strict=True)],
        turns,
    )
    for p in ORDERS[:-1]:
        ys = [gpu.lp_dist(x, w, p) for x, w, _ in sets]
        calls = [partial(gpu.lp_dist_backward, g, x, w, y, p) for (x, w, g), y in zip(sets, ys, strict=True)]
        yield timed(f"p = {p:g} gradients", terms, calls, turns)


def torch_cdist(batch: int, width: int, turns: int) -> Iterator[Figure]:
    """Forward and backward of the same layer in PyTorch, where it is installed and finds the device."""
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    x, w = (torch.randn(rows, width, device="cuda", requires_grad=True) for rows in (batch, width))
    g = torch.randn(batch, width, device="cuda")
    for p in ORDERS:

        def call(p: float = p) -> None:
            torch.cdist(x, w, p=p).backward(g)
            torch.cuda.synchronize()

        call()
        seconds = []
        for _ in range(max(3, turns // 10)):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
        low, median, high = (float(q) for q in np.quantile(seconds, [0.25, 0.5, 0.75]))
        yield Figure(f"p = {p:g} forward + gradients", median, low, high, batch * width * width)


def iterations(batch: int, width: int, turns: int) -> Iterator[Figure]:
    """A training step of the CIFAR-10 net on random pixels: depth 6, mixture loss, Adam."""
    net = linf_net((3, 32, 32), 10, width=width, depth=6, mean=(0.49, 0.48, 0.45), std=0.2).to("cuda").train()
    optimizer = Adam(net.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    images = cupy.asarray(rng.random((batch, 3, 32, 32), np.float32))
    labels = rng.integers(0, 10, batch)
    terms = batch * sum(each.data.size for name, each in net.parameters().items() if name.endswith("weight"))

    def step() -> None:
        loss = mixture(net(Tensor(images)), labels, 0.47, 0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for p in ORDERS:
        net.p = p
        yield timed(f"p = {p:g}", terms, [step], turns)


def epoch(batch: int, width: int) -> float:
    """Seconds of one epoch of the MNIST net, depth 5, at p = 8, after an untimed one that compiles."""
    recipe = load_recipe("z22a-mnist-0.3", [f"width={width}", f"batch_size={batch}"])
    run = Trainer(make_plan(recipe, mnist_or_noise(), "cuda"))
    run.train_epoch(Observer())
    start = time.perf_counter()
    run.train_epoch(Observer())
    cupy.cuda.Device().synchronize()
    return time.perf_counter() - start
