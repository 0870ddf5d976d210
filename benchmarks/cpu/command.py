"""The command `cpu`."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import machine
from benchmarks.cpu import certificates, kernels, peers, report, training
from benchmarks.cpu.timing import Case, Timing, interleave
from benchmarks.output import write_record
from linfengine import __version__
from linfengine.files import write_file

EVERYTHING = ("kernels", "shapes", "training", "ramp", "epoch")


@dataclass(frozen=True)
class Settings:
    """What the options say, and the machine in words."""

    machine: str
    shape: tuple[int, int, int]
    seconds: float
    peers: bool
    model: Path | None
    eps: str
    chart_file: Path | None

    def timed(self, part: str, cases: Iterable[Case]) -> tuple[dict[str, Any], list[Timing]]:
        """The record of a part, and its timings."""
        with Console(stderr=True).status(f"{part} ..."):
            timings = interleave(cases, self.seconds)
        return {part: [asdict(each) for each in timings]}, timings


Part = tuple[dict[str, Any], str]  # the record of a part, and the part in Markdown


def kernels_part(settings: Settings) -> Part:
    shape = settings.shape
    others = peers.cases(*shape) if settings.peers else ()
    record, timings = settings.timed("kernels", (*kernels.cases(*shape), *others))
    if settings.chart_file:
        picture = io.BytesIO()
        report.chart(timings, settings.machine).savefig(picture, format="png", dpi=120)
        write_file(settings.chart_file, picture.getvalue())
    about = f"B, O, K = {', '.join(map(str, shape))}; peers have B = {min(shape[0], peers.ROWS)}"
    return record, f"{about}\n\n{report.kernels(timings)}"


def shapes_part(settings: Settings) -> Part:
    record, timings = settings.timed("shapes", kernels.shape_cases())
    return record, report.shapes(timings)


def training_part(settings: Settings) -> Part:
    figures = training.steps()
    return {"training": figures}, report.steps(figures)


def ramp_part(settings: Settings) -> Part:
    record, timings = settings.timed("ramp", training.ramp_cases())
    return record, report.ramp(timings)


def epoch_part(settings: Settings) -> Part:
    seconds = training.epoch()
    return {"epoch": seconds}, f"An epoch of mnist-small, 60,000 images: {seconds:.1f} s"


def certify_part(settings: Settings) -> Part:
    if settings.model is None:
        raise click.UsageError("certify needs a trained model: --model runs/mnist-small/model.safetensors")
    record, timings = settings.timed("certify", certificates.cases(settings.model, settings.eps))
    checked = certificates.checker(settings.model, settings.eps)
    lines = [report.certificates(timings)] + [
        f"{certificates.SAMPLES} samples of the {form} net re-derived by the checker: {seconds:.1f} s"
        for form, seconds in checked.items()
    ]
    return record | {"checker": checked}, "\n\n".join(lines)


PARTS: dict[str, Callable[[Settings], Part]] = {
    "kernels": kernels_part,
    "shapes": shapes_part,
    "training": training_part,
    "ramp": ramp_part,
    "epoch": epoch_part,
    "certify": certify_part,
}


@click.command
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option(
    "--shape", nargs=3, type=click.IntRange(min=1), default=(512, 1024, 1024), metavar="B O K", show_default=True
)
@click.option(
    "--seconds", type=click.FloatRange(0.01, 600), default=1.0, show_default=True, help="Time for each contender."
)
@click.option("--peers/--no-peers", default=True, help="Other libraries, where installed.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The trained model whose certificates are timed.",
)
@click.option("--eps", default="0.3", show_default=True, help="Radius of those certificates.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
@click.option("--chart", "chart_file", type=click.Path(path_type=Path), help="Draw the kernels there as PNG.")
def cpu(parts: tuple[str, ...], json_file: Path | None, **options: Any) -> None:
    """Time the CPU backend.

    \b
        python -m benchmarks cpu                     everything; other libraries where they are installed
        python -m benchmarks cpu kernels             only the kernels, at B, O, K = 512, 1024, 1024
        python -m benchmarks cpu kernels --shape 64 10 784 --no-peers
        python -m benchmarks cpu --json FILE --chart FILE

    \b
    The parts:
        kernels    forward, backward, bounds and bytes beside the processor's limit and beside other libraries
        shapes     the p = ∞ forward from one sample to 512, from 27 inputs to 5,120
        training   a step of a net, and the share of it inside the kernels
        ramp       forward + backward at every p that training meets
        epoch      one epoch of the mnist-small recipe
        certify    certificates of a trained model beside its forward, and the checker; only on request, with --model

    Prints Markdown. Rates are in G terms/s = B·O·K / seconds / 1e9. The ceiling of a kernel is its inner step on
    registers alone, measured in the same run: nothing is loaded. All contenders take turns, so that noise hits all
    alike. LINFENGINE_ISA pins the instruction set, LINFENGINE_NUM_THREADS the threads.
    """
    settings = Settings(f"{machine.describe()}, {date.today()}, linfengine {__version__}", **options)
    record: dict[str, Any] = {"machine": settings.machine, "shape": settings.shape}
    print(f"{settings.machine}\n")
    for part in dict.fromkeys(parts or EVERYTHING):
        figures, markdown = PARTS[part](settings)
        record |= figures
        print(f"{markdown}\n", flush=True)
    if json_file:
        write_record(json_file, record)
