"""linfengine audit"""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import click
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from .. import __version__
from ..audit import SECTIONS, audit
from ..evaluate import SoundnessError
from ..files import check_writable, write_file
from ..text import printable
from .models import load_with_data, recipe_of
from .options import (
    ResultType,
    data_dir_option,
    dataset_option,
    device_option,
    eps_option,
    gray_levels_option,
    one_radius,
    usable_device,
)
from .output import console, say
from .program import Command
from .tables import radius_text

REPORT, FACTS, PICTURE = "audit.txt", "audit.json", "audit.png"


@click.command("audit", cls=Command)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@dataset_option
@eps_option
@gray_levels_option
@click.option("--limit", type=click.IntRange(min=1), default=500, show_default=True, help="The first so many samples.")
@click.option("--effort", type=click.IntRange(min=1), default=1, show_default=True, help="Times as many attempts.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random attempts.")
@click.option("--out", type=ResultType(), help="Folder of the report.  [default: MODEL-audit]")
@device_option
@data_dir_option
def audit_command(
    model: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    limit: int,
    effort: int,
    seed: int,
    out: Path | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Try to break a model's certificates, and the engine that made them.

    Searches for pairs of images that violate the Lipschitz bound; attacks every certified sample, also in the last
    place; compares backends, instruction sets and threads bit for bit; checks gradients, and certificates against
    exact arithmetic. Writes audit.txt, audit.json and audit.png into the folder. Exit status 3 if anything broke.
    """
    from ..plots import plot_audit

    net, dataset, metadata = load_with_data(model, name, data_dir)
    eps = one_radius(eps, gray_levels, recipe_of(model, metadata))
    out = out or model.with_name(f"{model.stem}-audit")
    for name in (REPORT, FACTS, PICTURE):
        check_writable(out / name)
    net.to(usable_device(device))
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    start = time.perf_counter()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(SECTIONS))

        def begin(section: str) -> None:
            progress.update(task, description=section, completed=list(SECTIONS).index(section))

        sections = audit(net, images, labels, eps, effort=effort, seed=seed, progress=begin)
        progress.update(task, description="done", completed=len(SECTIONS))
    title = f"Audit of {printable(model)} on {len(labels):,} test images of {dataset.name} at ε = {radius_text(eps)}"
    lines = [title, *(f"{'holds ' if each.sound else 'BROKEN'}  {each.name}: {each.text}." for each in sections)]
    facts = {
        "model": str(model), "dataset": dataset.name, "n": len(labels), "eps": str(eps), "seed": seed, "effort": effort,
        "version": __version__, "device": net.device, "seconds": time.perf_counter() - start,
        "sections": [vars(each) for each in sections],
    }  # fmt: skip
    write_file(out / REPORT, ("\n".join(lines) + "\n").encode())
    write_file(out / FACTS, json.dumps(facts, indent=2).encode())
    plot_audit(out / PICTURE, title, sections)
    try:
        for line in lines:
            say(line)
        say(f"{out}/ now holds {REPORT}, {FACTS} and {PICTURE} ({facts['seconds']:.0f} s).")
    finally:  # a broken section raises even if standard output is closed
        for each in sections:
            if not each.sound:
                raise SoundnessError(f"{each.name}: {each.text}")
