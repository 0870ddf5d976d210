"""What NVIDIA's compiler makes of a kernel: registers, shared memory, faults, and the instructions of inner loops."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from linfengine.backends.cuda import Kernel
from linfengine.backends.cuda.compiler import CompileError, compile_kernel

EXPECTED = "deprecated and may be removed"  # NVRTC warns so of compute capability 7.0
SHORT = 64  # instructions: a shorter loop is no inner loop of a distance


@dataclass(frozen=True)
class Compiled:
    """Registers of a thread, bytes of shared memory, and errors and warnings (`faults`), also of spilled registers."""

    registers: int
    shared: int
    faults: list[str]
    binary: bytes


def compiled(kernel: Kernel, capability: str) -> Compiled:
    """A kernel compiled for a compute capability such as "9.0"."""
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


def disassembler() -> str | None:
    """The nvdisasm of the nvidia-cuda-nvdisasm wheel, or of a CUDA toolkit on the path."""
    found = [str(path) for path in Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin/nvdisasm")]
    return found[0] if found else shutil.which("nvdisasm")


def loops(binary: bytes, tool: str) -> list[int]:
    """The number of instructions of each inner loop, in program order. A label and a jump back to it make a loop."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        listing = subprocess.run([tool, "-c", file.name], capture_output=True, text=True)
    lines = listing.stdout.splitlines()  # empty for a GPU that nvdisasm no longer knows
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"\s*(\.L_x_\d+):", line))}
    found = []
    for end, line in enumerate(lines):
        jump = re.search(r"BRA.*?`\((\.L_x_\d+)\)", line)
        begin = labels.get(jump[1], end) if jump else end
        if end - begin > SHORT:
            found.append((begin, end))
    inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b for b in found)]
    instruction = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?\w+\s+)?[A-Z]")
    return [sum(bool(instruction.match(line)) for line in lines[a:b]) for a, b in sorted(inner)]
