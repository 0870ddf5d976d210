"""The machine in words, as the tables and records name it."""

from __future__ import annotations

import platform
from pathlib import Path

from linfengine.backends import cpu


def describe(device: str = "cpu") -> str:
    """The processor with its threads and instruction set; for "cuda" the current GPU, which must be usable."""
    if device == "cuda":
        from linfengine.backends import gpu

        return gpu.description()
    threads = cpu.threads()
    return f"{_cpu_model()}, {threads} thread{'s' * (threads > 1)}, {cpu.instruction_set()}"


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
