"""linfengine ablate"""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from ..data import load_dataset
from ..recipes import load_recipe, size_of, stored_recipe
from ..train.ablate import ABLATION, PARTS, ablate
from ..train.progress import ProgressBar
from ..units import parse_eps
from .options import (
    ResultType,
    check_results,
    data_dir_option,
    device_option,
    epochs_option,
    one_length,
    usable_device,
)
from .output import console, json_option, say, show, write_json
from .program import Command, stop, why_stopped

PARTS_IN_WORDS = "\b\nThe parts, and what takes their place:\n" + "\n".join(
    f"{name:<15} {part.instead}" for name, part in PARTS.items()
)


@click.command("ablate", cls=Command, epilog=PARTS_IN_WORDS)
@click.argument("recipe", metavar="RECIPE")
@click.option("--drop", required=True, metavar="PART,...", help="Parts to leave out, one at a time; all for every one.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Put a setting over the recipe's; may be repeated."
)
@epochs_option
@click.option(
    "--budget", type=float, metavar="MINUTES", help="For all the runs together.  [default: the recipe's epochs]"
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Runs of each variant, to average over.",
)
@click.option("--out", type=ResultType(), help="Folder of the runs.  [default: runs/RECIPE-ablation]")
@json_option("the table")
@device_option
@data_dir_option
def ablate_command(
    recipe: str,
    drop: str,
    settings: tuple[str, ...],
    epochs: int | None,
    budget: float | None,
    seeds: int,
    out: Path | None,
    json_file: Path | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Measure what each part of the training strategy is worth: train the recipe whole, and once without each part.

    The runs are compared on held-out training samples, certified at the recipe's eps_test; the test set is not used.
    The same command goes on with an interrupted ablation.
    """
    one_length(epochs, budget)
    chosen = load_recipe(recipe, settings, epochs=epochs)
    out = out or Path("runs") / f"{Path(recipe).name.removesuffix('.toml')}-ablation"
    check_results([out / ABLATION], json_file)
    names = [name.strip() for name in drop.split(",") if name.strip()]
    dataset, device = load_dataset(chosen.dataset, data_dir), usable_device(device)
    try:
        with ProgressBar(console=console) as bar:
            rows = ablate(chosen, dataset, names, out, minutes=budget, seeds=seeds, device=device, begin=bar.begin)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        status, what = why_stopped(error)
        if not (out / ABLATION).exists():
            stop(status, f"{what} before the first run began")
        stop(status, f"{what}. What was trained is safe in {out}; the same command goes on from there")
    facts = json.loads((out / ABLATION).read_text(encoding="utf-8"))
    write_json(json_file, {"name": recipe, "seeds": seeds, **facts})
    own = stored_recipe(facts["recipe"])
    say(f"{recipe}: {size_of(own)}, {own.epochs} epochs")
    means = f", means of {seeds} seeds" if seeds > 1 else ""
    say(f"{own.held_out:,} held-out samples at ε = {parse_eps(own.eps_test)}, %{means}")
    table = Table()
    for heading in ("without", "instead", "clean", "certified", *["least–most"] * (seeds > 1), "lost", "s"):
        left = heading in ("without", "instead")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "instead")
    for row in rows:
        clean, certified, gain = (f"{100 * row[key]:.2f}" for key in ("clean", "certified", "gain"))
        spread = [f"{100 * min(row['by_seed']):.2f}–{100 * max(row['by_seed']):.2f}"] * (seeds > 1)
        diverged = f" ({row['diverged']} of {seeds} diverged)" if row["diverged"] else ""
        table.add_row(
            row["part"] or "–", row["instead"] + diverged, clean, certified, *spread, gain, f"{row['seconds']:.0f}"
        )
    show(table)
    say(f"The runs are in {out}/.")
