"""How fast the GPU backend is, in T terms/s = B·O·K / seconds / 1e12; a term is one |x − w| folded into an output.

\b
    python -m benchmarks.bench_gpu                             the published nets' sizes: needs an NVIDIA GPU
    python -m benchmarks.bench_gpu --batch 64 --width 256      something smaller

\b
    kernels     one layer of B samples, K inputs and O outputs, both the width, beside what the device can do
    iteration   forward, backward and optimizer of a net of six such layers on 3 x 32 x 32 pixels, at fixed p
    epoch       one epoch of a net of five on MNIST at p = 8, everything included

The ceiling of a kernel is its inner step on registers alone, measured in the same run.  Times are medians by CUDA
events, over inputs that take turns, so that none is still in the cache.  torch.cdist with autograd stands beside
where PyTorch is installed.  Prints Markdown; writes JSON and a picture beside it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import click
import cupy
import numpy as np

from benchmarks.ceilings import CEILINGS, FOLDER
from benchmarks.report import table
from benchmarks.training import dataset
from linfengine import __version__
from linfengine.backends import cuda, gpu
from linfengine.files import write_file
from linfengine.layers import linf_net
from linfengine.losses import mixture
from linfengine.optim import Adam
from linfengine.recipes import load_recipe
from linfengine.tensor import Tensor
from linfengine.train import Observer, Run

ORDERS = (8.0, 20.3, 64.0, 300.0, math.inf)
OUT = FOLDER / "gpu"


@dataclass(frozen=True)
class Figure:
    """What was timed, the median seconds of a call with its quartiles, and the terms in a call."""

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
    """The calls take turns; two of each come first, untimed."""
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
    blocks = 8 * gpu.multiprocessors()
    for what, kernel in CEILINGS.items():
        call = partial(gpu.launch, kernel, blocks, x=x, w=x, y=y, n=rounds, p=20.3)
        yield timed(what, blocks * cuda.THREADS * rounds * 32, [call], turns)


def kernels(batch: int, width: int, turns: int) -> Iterator[Figure]:
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
    """Forward and backward of the same layer in PyTorch, where it is installed and sees the device."""
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
    """A training step of the net that CIFAR-10 is trained with, on random pixels: depth 6, mixture loss, Adam."""
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
    """Seconds for one epoch of the MNIST net, depth 5, at p = 8; an untimed one comes first and compiles."""
    recipe = load_recipe("z22a-mnist-0.3", [f"width={width}", f"batch_size={batch}"])
    run = Run(recipe, dataset(), "cuda")
    run.train_epoch(Observer())
    start = time.perf_counter()
    run.train_epoch(Observer())
    cupy.cuda.Device().synchronize()
    return time.perf_counter() - start


@click.command(help=__doc__)
@click.option("--batch", type=click.IntRange(min=1), default=512, show_default=True, help="Samples, B.")
@click.option("--width", type=click.IntRange(min=1), default=5120, show_default=True, help="Inputs and outputs, K = O.")
@click.option("--turns", type=click.IntRange(min=1), default=30, show_default=True, help="Timed calls of each.")
@click.option("--epoch/--no-epoch", "with_epoch", default=True, help="The epoch as well.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="Written with .json and .png added.")
def main(batch: int, width: int, turns: int, with_epoch: bool, out: Path) -> None:
    limits = {each.what: each for each in ceilings(turns)}
    layer = list(kernels(batch, width, turns))
    steps = list(iterations(batch, width, max(3, turns // 3)))
    peers = list(torch_cdist(batch, width, turns))
    seconds = epoch(batch, width) if with_epoch else None
    about = f"{gpu.description()}; {date.today().isoformat()}; B {batch}, O = K = {width}, float32; v{__version__}"
    rows = []
    for each in layer:
        limit = limits.get(each.what)
        part = f"{100 * each.rate / limit.rate:.0f}% of {limit.rate:.2f}" if limit else ""
        rows.append(
            [
                each.what,
                f"{each.rate:.2f}",
                f"{1e3 * each.seconds:.3f} ({1e3 * each.low:.3f}–{1e3 * each.high:.3f})",
                part,
            ]
        )
    click.echo(f"{about}\n")
    click.echo(table(["one layer", "T terms/s", "ms (quartiles)", "of the ceiling"], rows) + "\n")
    click.echo(table(["iteration", "ms"], [[each.what, f"{1e3 * each.seconds:.1f}"] for each in steps]) + "\n")
    if peers:
        ours = {each.what: each.seconds for each in layer}
        rows = []
        for each in peers:
            p = each.what.removesuffix(" forward + gradients")
            argmax = " with argmax" if "inf" in p else ""
            both = ours[f"{p.replace('inf', '∞')} forward{argmax}"] + ours[f"{p.replace('inf', '∞')} gradients"]
            rows.append([each.what, f"{1e3 * each.seconds:.1f}", f"{1e3 * both:.2f}", f"{each.seconds / both:.0f}"])
        click.echo(table(["one layer", "torch.cdist, ms", "linfengine, ms", "times as fast"], rows) + "\n")
    if seconds is not None:
        click.echo(f"An epoch of MNIST, depth 5, p = 8, everything included: {seconds:.2f} s.")
    report = {
        "about": about,
        "ceilings": [vars(each) for each in limits.values()],
        "kernels": [vars(each) for each in layer],
        "iterations": [vars(each) for each in steps],
        "torch.cdist": [vars(each) for each in peers],
        "epoch": seconds,
    }
    write_file(out.with_suffix(".json"), json.dumps(report, indent=1).encode())
    draw(out.with_suffix(".png"), about, layer, limits)


def draw(path: Path, title: str, layer: list[Figure], limits: dict[str, Figure]) -> None:
    """Bars of the rates, each with its ceiling where one was measured."""
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(9, 0.35 * len(layer) + 1.2), layout="constrained")
    axes = picture.subplots()
    places = range(len(layer))
    axes.barh(places, [each.rate for each in layer], color="C0")
    for place, each in zip(places, layer, strict=True):
        if each.what in limits:
            axes.plot([limits[each.what].rate] * 2, [place - 0.4, place + 0.4], color="black")
    axes.set_yticks(places, [each.what for each in layer])
    axes.invert_yaxis()
    axes.set_xlabel("T terms/s; black: the step on registers alone")
    axes.set_title(title, fontsize=8)
    picture.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
