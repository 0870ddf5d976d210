"""How fast the engine is, in G terms/s = B·O·K / seconds / 1e9; a term is one |x − w| folded into an output.

\b
    python -m benchmarks                     everything; other libraries where they are installed
    python -m benchmarks kernels             only the kernels, at B, O, K = 512, 1024, 1024
    python -m benchmarks kernels --shape 64 10 784 --no-peers
    python -m benchmarks --json FILE --chart FILE

\b
The parts:
    kernels    forward, backward, bounds and bytes beside what the processor can do and beside other libraries
    shapes     the p = ∞ forward from one sample to 512, from 27 inputs to 5,120
    training   a step of a net, and the share of it inside the kernels
    ramp       forward + backward at every p that training meets
    epoch      one epoch of the mnist-small recipe
    certify    certificates of a trained model beside its forward, and the checker (only when asked for, with --model)

The ceiling of a kernel is its inner step on registers alone, measured in the same run: nothing is loaded, nothing
waits.  All contenders take turns, so that a noisy moment hits all alike.  Prints Markdown.
"""

from __future__ import annotations

import io
import json
import platform
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks import certificates, kernels, peers, report, training
from benchmarks.timing import Case, Timing, interleave
from linfengine import __version__
from linfengine.backends import cpu
from linfengine.files import write_file

PARTS = ("kernels", "shapes", "training", "ramp", "epoch")
CERTIFY = "certify"


@click.command(help=__doc__)
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, CERTIFY]))
@click.option(
    "--shape", nargs=3, type=click.IntRange(min=1), default=(512, 1024, 1024), metavar="B O K", show_default=True
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.01, 600),
    default=1.0,
    show_default=True,
    help="Seconds for each contender, about.",
)
@click.option("--peers/--no-peers", "with_peers", default=True, help="Other libraries, where installed.")
@click.option(
    "--model",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The trained model whose certificates are timed.",
)
@click.option("--eps", default="0.3", show_default=True, help="Radius of those certificates.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
@click.option("--chart", "chart_file", type=click.Path(path_type=Path), help="Draw the kernels there as PNG.")
def main(
    parts: tuple[str, ...],
    shape: tuple[int, int, int],
    seconds: float,
    with_peers: bool,
    model: Path | None,
    eps: str,
    json_file: Path | None,
    chart_file: Path | None,
) -> None:
    machine = (
        f"{cpu_model()}, {cpu.threads()} threads, {cpu.instruction_set()}, {date.today()}, linfengine {__version__}"
    )
    results: dict[str, Any] = {"machine": machine, "shape": shape}
    print(f"{machine}\n")

    def timed(part: str, cases: Iterable[Case]) -> list[Timing]:
        with Console(stderr=True).status(f"{part} ..."):
            timings = interleave(cases, seconds)
        results[part] = [asdict(t) | {"gterms": t.rate} for t in timings]
        return timings

    for part in dict.fromkeys(parts or PARTS):
        if part == "kernels":
            others = peers.cases(*shape) if with_peers else ()
            timings = timed(part, (*kernels.cases(*shape), *others))
            print(f"B, O, K = {', '.join(map(str, shape))}; peers have B = {min(shape[0], peers.ROWS)}\n")
            print(report.kernels(timings))
            if chart_file:
                picture = io.BytesIO()
                report.chart(timings, machine).savefig(picture, format="png", dpi=120)
                write_file(chart_file, picture.getvalue())
        elif part == "shapes":
            print(report.shapes(timed(part, kernels.shape_cases())))
        elif part == "training":
            results[part] = training.steps()
            print(report.steps(results[part]))
        elif part == "ramp":
            print(report.ramp(timed(part, training.ramp_cases())))
        elif part == CERTIFY:
            if model is None:
                raise click.UsageError("certify needs a trained model: --model runs/mnist-small/model.safetensors")
            print(report.certificates(timed(part, certificates.cases(model, eps))))
            results["checker"] = certificates.checker(model, eps)
            for form, spent in results["checker"].items():
                print(f"\n{certificates.SAMPLES} samples of the {form} net re-derived by the checker: {spent:.1f} s")
        else:
            results[part] = training.epoch()
            print(f"An epoch of mnist-small, 60,000 images: {results[part]:.1f} s")
        print(flush=True)
    if json_file:
        write_file(json_file, json.dumps(results, indent=1).encode())


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
