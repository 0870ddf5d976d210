"""The command `gpu-compile`."""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.gpu.ceilings import CEILINGS
from benchmarks.output import write_record
from linfengine.backends import cuda
from linfengine.backends.cuda import Kernel
from linfengine.errors import UserError

if TYPE_CHECKING:
    from benchmarks.gpu.listing import Compiled

COMPUTE_CAPABILITIES = ("7.0", "8.0", "8.9", "9.0", "10.0", "12.0")
KERNELS = (*cuda.ALL, *CEILINGS.values())

Found: TypeAlias = "dict[tuple[Kernel, str], Compiled]"  # for a kernel and a compute capability
Counts: TypeAlias = dict[str, dict[str, Any]]  # for a loop: its terms, and its instructions by compute capability

# A kernel, the number of one of its inner loops, the terms in a round of that, and the most instructions a term.
# All instructions of the loop count, also those of every fourth round only, or of unaligned rows.
LOOPS: dict[str, tuple[Kernel, int, int, float]] = {
    "p = inf, forward": (cuda.forward("linf_dist", "float", (8, 4)), 0, 16 * 32, 2.4),
    "p = inf, forward with argmax": (cuda.forward("linf_dist_argmax", "float", (4, 4)), 0, 16 * 16, 2.7),
    "p = inf, bounds": (cuda.forward("linf_dist_bounds", "float", (4, 4)), 0, 16 * 16, 6.7),
    "p = 8, forward": (cuda.forward("lp_power<8>", "float", (4, 4)), 0, 16 * 16, 5.1),
    "p = 8, both gradients": (cuda.lp_backward("LpPowerSlope<8>", "float"), 1, 2 * 16, 9.3),
    "p = 64, forward, after the maximum": (cuda.forward("lp_power<64>", "float", (4, 4)), 1, 16 * 16, 9.1),
    "p = 64, both gradients": (cuda.lp_backward("LpPowerSlope<64>", "float"), 1, 2 * 16, 15.2),
    "any p, forward, after the maximum": (cuda.forward("lp_general", "float", (4, 4)), 1, 2 * 16, 11.5),
    "any p, both gradients": (cuda.lp_backward("LpGeneralSlope", "float"), 1, 2 * 16, 14.3),
}


@click.command("gpu-compile")
@click.option(
    "--cc",
    "wanted",
    multiple=True,
    default=COMPUTE_CAPABILITIES,
    metavar="X.Y",
    show_default=True,
    help="A compute capability; may be repeated.",
)
@click.option("--only", default="", metavar="TEXT", help="Only the kernels whose names contain this text.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the instructions there as JSON.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True, help="Compilations side by side.")
def gpu_compile(wanted: tuple[str, ...], only: str, json_file: Path | None, jobs: int) -> None:
    """Compile every CUDA kernel; needs no GPU and no driver.

    \b
        python -m benchmarks gpu-compile
        python -m benchmarks gpu-compile --cc 9.0 --only linf_dist
        python -m benchmarks gpu-compile --json benchmarks/gpu-kernels.json

    Prints registers and shared memory of each kernel and, where nvdisasm is at hand, the instructions of the inner
    loops. Exit status 1 says that there was an error, a warning, a spilled register, or an inner loop with more
    instructions than it should have.
    """
    try:
        from cupy.cuda import nvrtc

        from benchmarks.gpu import listing
    except ImportError as error:
        raise UserError(f"CuPy cannot be imported ({error}): pip install 'linfengine[gpu-compile]'") from None
    kernels = [kernel for kernel in KERNELS if only in kernel.body]
    if not kernels:
        raise UserError(f"--only must be part of a kernel's name, such as Linf, got {only!r}")
    console, version = Console(), ".".join(map(str, nvrtc.getVersion()))
    known = {f"{arch // 10}.{arch % 10}" for arch in nvrtc.getSupportedArchs()}
    for each in wanted:
        if each not in known:
            console.print(f"NVRTC {version} does not know compute capability {each}: left out.")
    capabilities = [each for each in wanted if each in known]
    if not capabilities:
        raise UserError(f"--cc must be a compute capability that NVRTC {version} knows, got {', '.join(wanted)}")

    work = [(kernel, capability) for kernel in kernels for capability in capabilities]
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(listing.compiled, *zip(*work, strict=True), chunksize=4)
        found = dict(zip(work, track(results, "compiling", len(work), console=console), strict=True))
    faults = [f"{kernel.body}, {cc}: {each}" for (kernel, cc), result in found.items() for each in result.faults]
    console.print(_sizes(found, f"registers a thread, bytes of shared memory; NVRTC {version}"))
    counts = {}
    if tool := listing.disassembler():
        counts = _instructions(found, tool)
        console.print(_instructions_table(counts, capabilities))
        faults += _too_many(counts)
    if json_file:
        write_record(json_file, {"nvrtc": version, "date": date.today().isoformat(), "inner loops": counts})
    for fault in faults:
        console.print(fault, style="red", markup=False, highlight=False)
    console.print(f"{len(work)} compilations, {len(faults)} faults")
    sys.exit(1 if faults else 0)


def _sizes(found: Found, title: str) -> Table:
    """A row for each kernel, a column for each compute capability."""
    rows: dict[str, list[str]] = {}
    for (kernel, _), result in found.items():
        rows.setdefault(kernel.body, []).append(f"{result.registers}, {result.shared}")
    table = Table("kernel", *dict.fromkeys(capability for _, capability in found), title=title)
    for body, cells in rows.items():
        table.add_row(body, *cells)
    return table


def _instructions(found: Found, tool: str) -> Counts:
    """The instructions of one round of each of the LOOPS, and the terms |x − w| in that round."""
    from benchmarks.gpu.listing import loops

    counts: Counts = {}
    for name, (kernel, place, terms, _) in LOOPS.items():
        for (other, capability), result in found.items():
            if other == kernel and (listed := loops(result.binary, tool)):
                entry = counts.setdefault(name, {"terms": terms, "instructions": {}})
                entry["instructions"][capability] = listed[place]
    return counts


def _instructions_table(counts: Counts, capabilities: list[str]) -> Table:
    table = Table("inner loop", *capabilities, title="instructions a term")
    for name, entry in counts.items():
        found = entry["instructions"]
        table.add_row(name, *(f"{found[each] / entry['terms']:.2f}" if each in found else "–" for each in capabilities))
    return table


def _too_many(counts: Counts) -> list[str]:
    return [
        f"{name}, {capability}: {count / entry['terms']:.2f} instructions a term, more than {LOOPS[name][3]}"
        for name, entry in counts.items()
        for capability, count in entry["instructions"].items()
        if count > LOOPS[name][3] * entry["terms"]
    ]
