"""linfengine plot"""

from __future__ import annotations

import math
from pathlib import Path

import click

from ..files import check_writable
from ..train.events import write_events
from ..train.metrics import METRICS, read_metrics
from .options import ResultType, check_results
from .output import json_option, say, suggest, write_json
from .program import Command


@click.command("plot", cls=Command)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", type=ResultType(), help="A .png, .svg or .pdf.  [default: RUN/curves.png]")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard event files to RUN/events as well.")
@json_option("the figures")
def plot_command(runs: tuple[Path, ...], out: Path | None, tensorboard: bool, json_file: Path | None) -> None:
    """Draw the learning curves of training runs, several of them overlaid: their folders, finished or not.

    Loss, accuracy, certified accuracy (of the held-out samples, where the recipe sets some apart: --set held_out=1000),
    p, learning rate, and the margins of the training samples.
    """
    from ..plots import plot_runs

    folder = runs[0] if runs[0].is_dir() else runs[0].parent
    out = out or folder / "curves.png"
    check_results([out, *(file for run in runs for file in (run, run / METRICS))], json_file)
    check_writable(out)
    folders = [run if run.is_dir() else run.parent for run in map(Path.resolve, runs)]
    names = [folder.name or str(folder) for folder in folders]
    keys = names if len(set(names)) == len(names) else [str(run) for run in runs]
    figures = {key: read_metrics(run) for key, run in zip(keys, runs, strict=True)}
    plot_runs(out, figures)
    events = [write_events(run) for run in runs] if tensorboard else []
    write_json(
        json_file,
        {key: [each | {"p": "inf"} if math.isinf(each["p"]) else each for each in figures[key]] for key in keys},
    )
    say(f"Drawn: {out}")
    for each in events:
        suggest("tensorboard", "--logdir", each, before="Next, with TensorBoard (pip install tensorboard): ")
