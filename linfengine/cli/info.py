"""linfengine info"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.table import Table

from .. import __version__
from ..backends import NO_GPU, available_backends, get_backend
from ..recipes import recipe_names
from .output import json_option, show, write_json
from .program import Command


@click.command("info", cls=Command)
@json_option("it", bare=True)
def info_command(json_file: Path | None) -> None:
    """Show the installation: version, instruction sets, threads, the GPU or why there is none, recipes.

    LINFENGINE_ISA pins the instruction set, LINFENGINE_NUM_THREADS the threads, LINFENGINE_BACKEND the backend.
    """
    facts = installation_facts()
    write_json(json_file, facts)
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(key, ", ".join(value) if isinstance(value, list) else str(value))
    show(table)


def installation_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "linfengine": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "backends": available_backends(),
        "backend in use": get_backend().name,
    }
    if "cpu" in facts["backends"]:
        from ..backends import cpu

        facts |= {
            "instruction sets": list(cpu.instruction_sets()),
            "instruction set in use": cpu.instruction_set(),
            "threads": cpu.threads(),
            "processors": os.cpu_count(),
        }
    return facts | {"gpu": gpu_facts(), "recipes": recipe_names()}


def gpu_facts() -> str:
    """The GPU in words, or why there is none to use."""
    try:
        get_backend("gpu")
    except ImportError as error:
        return "none: " + str(error).removeprefix(NO_GPU)
    from ..backends import gpu

    return gpu.description()
