"""Compile every CUDA kernel for named GPUs, with no GPU and no driver: python -m benchmarks.gpu_compile

Exit status 1 for an error, a warning, a spilled register, or an inner loop with more instructions than it should have:
they are counted, where nvdisasm is at hand, since that is where the time goes. The committed record is made with
--json benchmarks/gpu-kernels.json.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from cupy.cuda import nvrtc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.ceilings import CEILINGS
from linfengine.backends import cuda
from linfengine.backends.cuda import Kernel
from linfengine.backends.cuda.compiler import CompileError, compile_kernel
from linfengine.files import write_file

COMPUTE_CAPABILITIES = ("7.0", "8.0", "8.9", "9.0", "10.0", "12.0")
EXPECTED = "deprecated and may be removed"  # what NVRTC has to say of 7.0
KERNELS = (*cuda.ALL, *CEILINGS.values())


@dataclass(frozen=True)
class Compiled:
    """What the compiler says: `faults` are its errors and warnings, spilled registers among them."""

    registers: int
    shared: int
    faults: list[str]
    binary: bytes


def compiled(kernel: Kernel, capability: str) -> Compiled:
    try:
        binary, log = compile_kernel(
            kernel, int(capability.replace(".", "")), "--ptxas-options=-v", "--ptxas-options=-warn-spills"
        )
    except CompileError as error:
        return Compiled(0, 0, [str(error)], b"")
    faults = [line for line in log.splitlines() if "warning" in line and EXPECTED not in line]
    faults += [line for line in log.splitlines() if re.search(r"[1-9]\d* bytes (stack|spill)", line)]

    def largest(pattern: str) -> int:
        return max(map(int, re.findall(pattern, log)), default=0)

    return Compiled(largest(r"Used (\d+) registers"), largest(r"(\d+) bytes smem"), faults, binary)


# ---- Instructions ------------------------------------------------------------------------------------------------

# A kernel, which of its inner loops, in their order, the terms in one round of that, and the most instructions a term.
# Counted are all that stand in the loop, also what runs in every fourth round only, or for unaligned rows.
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
SHORT = 64  # instructions: loops below that are no inner loops of a distance


def disassembler() -> str | None:
    """That of the nvidia-cuda-nvdisasm wheel, or of a CUDA toolkit on the path."""
    found = [str(path) for path in Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")]
    return found[0] if found else shutil.which("nvdisasm")


def loops(binary: bytes, tool: str) -> list[Counter[str]]:
    """The instructions of each inner loop, in the program's order; a label and a jump back to it make a loop."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        listing = subprocess.run([tool, "-c", file.name], capture_output=True, text=True)
    lines = listing.stdout.splitlines()  # none for a GPU that nvdisasm does not know any more
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"\s*(\.L_x_\d+):", line))}
    found = []
    for end, line in enumerate(lines):
        jump = re.search(r"BRA.*?`\((\.L_x_\d+)\)", line)
        begin = labels.get(jump[1], end) if jump else end
        if end - begin > SHORT:
            found.append((begin, end))
    inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in found)]
    name = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9]*)")
    return [Counter(match[1] for line in lines[a:b] if (match := name.match(line))) for a, b in sorted(inner)]


# ---- The report --------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cc", nargs="+", default=COMPUTE_CAPABILITIES, metavar="X.Y", help="compute capabilities")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there, too")
    parser.add_argument("--jobs", type=int, default=2, help="compilations side by side")
    settings = parser.parse_args(arguments)
    console = Console()
    version = ".".join(map(str, nvrtc.getVersion()))
    known = {f"{arch // 10}.{arch % 10}" for arch in nvrtc.getSupportedArchs()}
    capabilities = [each for each in settings.cc if each in known]
    for each in settings.cc:
        if each not in known:
            console.print(f"NVRTC {version} does not know compute capability {each}: left out.")
    work = [(kernel, capability) for kernel in KERNELS for capability in capabilities]
    with ProcessPoolExecutor(settings.jobs) as pool:
        results = pool.map(compiled, *zip(*work, strict=True), chunksize=4)
        results_of = dict(zip(work, track(results, "compiling", len(work), console=console), strict=True))
    faults = [
        f"{kernel.body}, {capability}: {each}"
        for (kernel, capability), result in results_of.items()
        for each in result.faults
    ]
    table = Table("kernel", *capabilities, title=f"registers a thread, bytes of shared memory; NVRTC {version}")
    for kernel in KERNELS:
        sizes = [results_of[kernel, capability] for capability in capabilities]
        table.add_row(kernel.body, *(f"{each.registers}, {each.shared}" for each in sizes))
    console.print(table)
    report: dict[str, Any] = {
        "nvrtc": version,
        "date": date.today().isoformat(),
        "kernels": {
            kernel.body: {
                capability: {"registers": result.registers, "shared memory": result.shared}
                for capability in capabilities
                for result in [results_of[kernel, capability]]
            }
            for kernel in KERNELS
        },
        "inner loops": {},
    }
    if tool := disassembler():
        table = Table("inner loop", *capabilities, title="instructions a term")
        for name, (kernel, place, terms, most) in LOOPS.items():
            listed = {each: loops(results_of[kernel, each].binary, tool) for each in capabilities}
            counts = {each: found[place] for each, found in listed.items() if found}
            report["inner loops"][name] = {
                each: {"terms": terms, "instructions": dict(count.most_common())} for each, count in counts.items()
            }
            cells = (f"{counts[each].total() / terms:.2f}" if each in counts else "–" for each in capabilities)
            table.add_row(name, *cells)
            faults += [
                f"{name}, {each}: {count.total() / terms:.2f} instructions a term, more than {most}"
                for each, count in counts.items()
                if count.total() > most * terms
            ]
        console.print(table)
    if settings.json:
        write_file(settings.json, (json.dumps(report, indent=1) + "\n").encode())
    for fault in faults:
        console.print(fault, style="red", markup=False, highlight=False)
    console.print(f"{len(work)} compilations, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
