"""A training step of a net and the share of the kernels in it; every p that training meets; an epoch.

The net is 784-1024-1024-1024-10 with batches of 512, on MNIST where it is at hand, else on random pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.cpu.kernels import OURS, forward_backward
from benchmarks.cpu.timing import Case
from benchmarks.mnist import mnist_or_noise
from linfengine.backends import cpu
from linfengine.recipes import load_recipe
from linfengine.schedules import CHEAP_ORDERS
from linfengine.tensor import Tensor
from linfengine.train import Observer, Trainer, make_plan

DISTANCES = ("linf_dist", "linf_dist_argmax", "linf_dist_backward", "lp_dist", "lp_dist_backward")
RAMP = (*CHEAP_ORDERS, 450.0, 600.0, 800.0, 1000.0, np.inf)  # above the cheap orders every p occurs


def new_trainer() -> Trainer:
    recipe = load_recipe("mnist-small", ["width=1024", "batch_size=512", "held_out=0", "crop_padding=1"])
    return Trainer(make_plan(recipe, mnist_or_noise()))


@contextmanager
def timed_kernels() -> Iterator[list[float]]:
    """Seconds spent inside the distance kernels during the block, call by call."""
    spent: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent.append(time.perf_counter() - start)
            return result

        return call

    originals = {name: getattr(cpu, name) for name in DISTANCES}
    for name, function in originals.items():
        setattr(cpu, name, timed(function))
    try:
        yield spent
    finally:
        for name, function in originals.items():
            setattr(cpu, name, function)


class _Steps(Observer):
    """Stops a training epoch after so many steps, and notes the time of each."""

    def __init__(self, steps: int) -> None:
        self.steps, self.times = steps, [time.perf_counter()]

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        self.times.append(time.perf_counter())
        if done == self.steps:
            raise StopIteration


def train_steps(trainer: Trainer, p: float, steps: int) -> tuple[float, float]:
    """(median seconds of a step, share of the time inside the distance kernels) over `steps` steps at a fixed p."""
    moment = trainer.plan.moment
    trainer.plan = replace(trainer.plan, moment=lambda now: moment(now)._replace(p=p))
    observer = _Steps(steps)
    with timed_kernels() as spent, suppress(StopIteration):
        trainer.train_epoch(observer)
    return float(np.median(np.diff(observer.times))), sum(spent) / (observer.times[-1] - observer.times[0])


def steps(counts: int = 15) -> list[dict[str, Any]]:
    """For some p: seconds of a step with augmentation, loss and optimizer, and the share inside the kernels."""
    trainer, figures = new_trainer(), []
    for p in (8.0, 64.0, np.inf):
        seconds, share = train_steps(trainer, p, counts)
        figures.append({"p": f"{p:g}", "seconds": seconds, "share": share})
    return figures


def ramp_cases(training_steps: int = 100) -> Iterator[Case]:
    """Forward + backward of the second hidden layer of a net that has begun to train, at every p of the ramp."""
    trainer = new_trainer()
    train_steps(trainer, 8.0, training_steps)
    trainer.plan.net.p = 8.0
    rng = np.random.default_rng(0)
    pixels, _ = next(trainer.plan.batches.of(0))
    x: Any = Tensor(pixels)
    layers = trainer.plan.net.layers
    for layer in layers[:4]:  # Normalize, Flatten, LinfDistDense, MeanShift
        x = layer(x)
    w = layers[4].state()["weight"]
    g = rng.standard_normal((len(x), len(w)), np.float32)
    for p in RAMP:
        yield Case(f"p = {p:g}", OURS, len(x) * w.size, partial(forward_backward, x.numpy(), w, g, p))


def epoch() -> float:
    """Seconds for an epoch of the mnist-small recipe at p = 8: 512 wide, batches of 256, all 60,000 images."""
    trainer = Trainer(make_plan(load_recipe("mnist-small", ["held_out=0"]), mnist_or_noise()))
    start = time.perf_counter()
    trainer.train_epoch(Observer())
    return time.perf_counter() - start
