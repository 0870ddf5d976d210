"""How fast the distance kernels are, in G terms/s = B·O·K / seconds / 1e9; a term is one |x − w| folded into an output.

    python -m benchmarks                     the standard shape
    python -m benchmarks --shape 64 10 784   another one
    python -m benchmarks --json FILE

Forward and backward are timed apart.  SciPy's cdist stands beside them as what a user would write without this engine;
it is single-threaded, in float64, and has no backward.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from datetime import date
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial.distance import cdist

from benchmarks.timing import Timing, interleave
from linfengine import __version__
from linfengine.backends import cpu
from linfengine.checkpoint import write_file

ORDERS = (8.0, 16.0, 20.3, 32.0, 64.0, 128.0, 300.0, 1000.0)


def contenders(n: int, o: int, k: int) -> dict[str, Callable[[], object]]:
    """Normally distributed inputs, weights and gradients: the distribution the weights of a net start from."""
    rng = np.random.default_rng(0)
    x, w, g = (rng.standard_normal(shape, np.float32) for shape in ((n, k), (o, k), (n, o)))
    _, index = cpu.linf_dist_argmax(x, w)
    lower, upper = x - np.float32(0.1), x + np.float32(0.1)
    calls: dict[str, Callable[[], object]] = {
        "p = ∞ forward": lambda: cpu.linf_dist(x, w),
        "p = ∞ forward with argmax": lambda: cpu.linf_dist_argmax(x, w),
        "p = ∞ backward": lambda: cpu.linf_dist_backward(g, x, w, index),
        "interval bounds": lambda: cpu.linf_dist_bounds(lower, upper, w),
    }
    for p in ORDERS:
        y = cpu.lp_dist(x, w, p)
        calls[f"p = {p:g} forward"] = lambda p=p: cpu.lp_dist(x, w, p)  # type: ignore[misc]
        calls[f"p = {p:g} backward"] = lambda p=p, y=y: cpu.lp_dist_backward(g, x, w, y, p)  # type: ignore[misc]
    few = x[: math.ceil(n / 16)].astype(np.float64), w.astype(np.float64)  # a sixteenth of the rows: it is slow
    calls["SciPy cdist, chebyshev"] = lambda: cdist(*few, "chebyshev")
    calls["SciPy cdist, minkowski p = 8"] = lambda: cdist(*few, "minkowski", p=8)
    return calls


@click.command(help=__doc__)
@click.option(
    "--shape", nargs=3, type=click.IntRange(min=1), default=(512, 1024, 1024), metavar="B O K", show_default=True
)
@click.option(
    "--seconds", type=click.FloatRange(0.01, 600), default=1.0, show_default=True, help="Time for each line, about."
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(shape: tuple[int, int, int], seconds: float, json_file: Path | None) -> None:
    timings = interleave(contenders(*shape), seconds)
    rates = {name: terms(name, shape) / timing.median / 1e9 for name, timing in timings.items()}
    machine = (
        f"{cpu_model()}, {cpu.threads()} threads, {cpu.instruction_set()}, {date.today()}, linfengine {__version__}"
    )
    Console().print(table(f"B, O, K = {shape}; {machine}", timings, rates))
    if json_file:
        figures = {name: {**vars(timing), "gterms": rates[name]} for name, timing in timings.items()}
        write_file(json_file, json.dumps({"shape": shape, "machine": machine, "figures": figures}, indent=2).encode())


def terms(name: str, shape: tuple[int, int, int]) -> int:
    n, o, k = shape
    return (math.ceil(n / 16) if name.startswith("SciPy") else n) * o * k


def table(title: str, timings: dict[str, Timing], rates: dict[str, float]) -> Table:
    result = Table(title=title, title_justify="left")
    for heading in ("", "G terms/s", "ms", "quartiles"):
        result.add_column(heading, justify="left" if not heading else "right")
    for name, timing in timings.items():
        spread = f"{1e3 * timing.low:.1f}–{1e3 * timing.high:.1f}"
        result.add_row(name, f"{rates[name]:.2f}", f"{1e3 * timing.median:.1f}", spread)
    return result


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
