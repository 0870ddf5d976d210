"""linfengine train"""

from __future__ import annotations

import time
from dataclasses import MISSING, fields
from pathlib import Path

import click

from ..data import Dataset, load_dataset
from ..errors import UserError
from ..recipes import Recipe, load_recipe, size_of
from ..train import CHECKPOINT, MODEL, check_folder, recipe_in, train
from ..train.budget import fit_budget, resumed
from ..train.events import EVENTS, check_events
from ..train.progress import ProgressBar
from ..units import parse_eps
from .options import ResultType, data_dir_option, device_option, epochs_option, one_length, usable_device
from .output import console, say, suggest
from .program import Command, stop, why_stopped


def keys_in_words() -> str:
    """The keys of a recipe, one line for each, with default and meaning."""
    lines = ["\b", "The keys of a recipe, their defaults, and what they mean:"]
    for each in fields(Recipe):
        default = "" if each.default is MISSING else str(each.default).lower()
        lines.append(f"{each.name:<16} {default:<9} {each.metadata['meaning']}")
    return "\n".join(lines)


@click.command("train", cls=Command, epilog=keys_in_words())
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Put a setting over the recipe's; may be repeated."
)
@epochs_option
@click.option("--out", type=ResultType(), help="Folder of the run.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder.")
@click.option(
    "--budget",
    type=float,
    metavar="MINUTES",
    help="Fit width, epochs and schedule to this machine and so many minutes of training.",
)
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, show_default=True, help="Also keep so many earlier checkpoints."
)
@click.option(
    "--tensorboard", is_flag=True, help="Also write TensorBoard event files, as training goes on, to OUT/events."
)
@device_option
@data_dir_option
def train_command(
    recipe: str,
    settings: tuple[str, ...],
    out: Path | None,
    epochs: int | None,
    resume: bool,
    budget: float | None,
    keep: int,
    tensorboard: bool,
    device: str,
    data_dir: Path | None,
) -> None:
    """Train a net by a recipe: one of those listed by `linfengine info`, or a TOML file.

    The folder gets model.safetensors (the result), best.safetensors (the net after the epoch that certified most
    held-out samples, where there are any), checkpoint.safetensors (replaced after every epoch, for --resume) and
    metrics.jsonl (a line an epoch, see `linfengine plot`). An interrupted run that is resumed on the same device ends
    with the same bits; it may also be resumed on another device.

    A TOML file holds the keys below, and --set puts a value over one of them: --set width=512 --set held_out=5000.
    A key that has no effect on the chosen net or loss is refused.
    """
    one_length(epochs, budget)
    chosen = load_recipe(recipe, settings, epochs=epochs)
    out = out or Path("runs") / Path(recipe).name.removesuffix(".toml")
    if not resume and (out / CHECKPOINT).exists():
        raise UserError(f"{out} already holds a training run: go on with it (--resume) or choose another folder")
    check_folder(out, resume=resume)
    start = time.perf_counter()
    dataset, device = load_dataset(chosen.dataset, data_dir), usable_device(device)
    if tensorboard:
        check_events(out / EVENTS)  # now rather than after an epoch
    if budget is not None:
        begun = recipe_in(out)
        chosen = resumed(chosen, begun) if begun else fitted(chosen, dataset, budget, device)
    try:
        with ProgressBar(chosen.epochs, out if tensorboard else None, console=console) as bar:
            train(chosen, dataset, out, resume=resume, keep=keep, device=device, observer=bar)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        status, what = why_stopped(error)
        if (out / CHECKPOINT).exists():
            stop(
                status,
                f"{what}. The run is safe in {out / CHECKPOINT}; the same command with --resume goes on from there",
            )
        stop(status, f"{what} before the first epoch was done: there is nothing to resume")
    say(f"Trained in {time.perf_counter() - start:.0f} s: {out / MODEL}")
    eps = parse_eps(chosen.eps_test) or "RADIUS"
    suggest("linfengine", "certify", out / MODEL, "--eps", eps)


def fitted(recipe: Recipe, dataset: Dataset, minutes: float, device: str) -> Recipe:
    with console.status("timing a few steps"):
        result = fit_budget(recipe, dataset, minutes, device)
    say(f"For {minutes:g} min on this machine: {size_of(result)}, {result.epochs} epochs.")
    return result
