"""The command `gpu`."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks.output import markdown, write_record
from linfengine import __version__
from linfengine.backends import get_backend

if TYPE_CHECKING:
    from benchmarks.gpu.timing import Figure

OUT = Path(__file__).parents[1] / "gpu"


@click.command
@click.option("--batch", type=click.IntRange(min=1), default=512, show_default=True, help="Samples, B.")
@click.option("--width", type=click.IntRange(min=1), default=5120, show_default=True, help="Inputs and outputs, K = O.")
@click.option("--turns", type=click.IntRange(min=1), default=30, show_default=True, help="Timed calls of each.")
@click.option("--epoch/--no-epoch", "with_epoch", default=True, help="The epoch as well.")
@click.option("--out", type=click.Path(path_type=Path), default=OUT, help="Written with .json and .png added.")
def gpu(batch: int, width: int, turns: int, with_epoch: bool, out: Path) -> None:
    """Time the GPU backend on an NVIDIA GPU.

    \b
        python -m benchmarks gpu                             the sizes of the published nets
        python -m benchmarks gpu --batch 64 --width 256      something smaller

    \b
    What is timed:
        kernels     one layer of B samples, K inputs and O outputs, both the width, beside the device's limit
        iteration   forward, backward and optimizer of a net of six such layers on 3 x 32 x 32 pixels, at fixed p
        epoch       one epoch of a net of five on MNIST at p = 8, everything included

    Prints Markdown, and writes JSON and a picture. Rates are in T terms/s = B·O·K / seconds / 1e12. The ceiling of a
    kernel is its inner step on registers alone, measured in the same run. Times are medians by CUDA events.
    torch.cdist with autograd is timed, too, where PyTorch is installed.
    """
    get_backend("gpu")  # raises ImportError with the reason where there is no GPU
    from benchmarks.gpu import timing
    from linfengine.backends import gpu as backend

    limits = {each.what: each for each in timing.ceilings(turns)}
    layer = list(timing.kernels(batch, width, turns))
    steps = list(timing.iterations(batch, width, max(3, turns // 3)))
    peers = list(timing.torch_cdist(batch, width, turns))
    seconds = timing.epoch(batch, width) if with_epoch else None
    about = f"{backend.description()}; {date.today()}; B {batch}, O = K = {width}, float32; v{__version__}"
    click.echo(f"{about}\n\n{layer_table(layer, limits)}\n")
    click.echo(markdown(["iteration", "ms"], [[each.what, f"{1e3 * each.seconds:.1f}"] for each in steps]) + "\n")
    if peers:
        click.echo(f"{peers_table(peers, layer)}\n")
    if seconds is not None:
        click.echo(f"An epoch of MNIST, depth 5, p = 8, everything included: {seconds:.2f} s.")
    record = {
        "about": about,
        "ceilings": [vars(each) for each in limits.values()],
        "kernels": [vars(each) for each in layer],
        "iterations": [vars(each) for each in steps],
        "torch.cdist": [vars(each) for each in peers],
        "epoch": seconds,
    }
    write_record(out.with_suffix(".json"), record)
    draw(out.with_suffix(".png"), about, layer, limits)


def layer_table(layer: list[Figure], limits: dict[str, Figure]) -> str:
    rows = []
    for each in layer:
        limit = limits.get(each.what)
        milliseconds = f"{1e3 * each.seconds:.3f} ({1e3 * each.low:.3f}–{1e3 * each.high:.3f})"
        part = f"{100 * each.rate / limit.rate:.0f}% of {limit.rate:.2f}" if limit else ""
        rows.append([each.what, f"{each.rate:.2f}", milliseconds, part])
    return markdown(["one layer", "T terms/s", "ms (quartiles)", "of the ceiling"], rows)


def peers_table(peers: list[Figure], layer: list[Figure]) -> str:
    """torch.cdist beside our forward, with argmax at p = ∞, and our gradients."""
    ours = {each.what: each.seconds for each in layer}
    rows = []
    for each in peers:
        p = each.what.removesuffix(" forward + gradients").replace("inf", "∞")
        argmax = " with argmax" if "∞" in p else ""
        both = ours[f"{p} forward{argmax}"] + ours[f"{p} gradients"]
        rows.append([each.what, f"{1e3 * each.seconds:.1f}", f"{1e3 * both:.2f}", f"{each.seconds / both:.0f}"])
    return markdown(["one layer", "torch.cdist, ms", "linfengine, ms", "times as fast"], rows)


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
