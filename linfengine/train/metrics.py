"""What a training run left behind, read again: metrics.jsonl, a line an epoch; and the same for TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..backends import Array
from ..errors import UserError
from ..files import temporary_name

METRICS, EVENTS = "metrics.jsonl", "events"
MARGIN_EDGES = np.linspace(-2, 4, 49)  # of margin_counts, in units of 2 ε; what lies beyond is in the bins at the ends
ALWAYS = ("p", "lr", "loss", "accuracy")  # in every line, besides the epoch
OPTIONAL = ("margin", "beyond_2eps", "scale", "lambda", "eps", "held_out_accuracy", "held_out_certified", "seconds")
MOST_EPOCHS, MOST_SAMPLES = 10**9, 2**53  # what a recipe may ask for; what float64 counts
NUMBERS = (*ALWAYS[1:], *OPTIONAL)


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """The figures of every epoch of a run, in order; `run` is its folder, or the metrics.jsonl in it.

    `epoch` and `p` are always there, p as a float (inf when the ramp is done), and so are `lr`, `loss` and
    `accuracy`; other figures are where the run wrote them.

    Raises UserError for a run that is not there or has no epoch yet, and for a damaged line, with its number.
    """
    try:
        path = _metrics_path(run)
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"{run}: cannot be read ({error.strerror})") from None
    if not lines:
        raise UserError(f"{path}: expected at least one epoch, and the run has finished none yet")
    epochs: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        after = epochs[-1]["epoch"] if epochs else 0
        epochs.append(_figures(f"{path}: line {number}", line, after))
    return epochs


def _metrics_path(run: str | Path) -> Path:
    run = Path(run)
    if not run.exists():
        raise UserError(f"{run}: expected the folder of a training run, and there is nothing of that name")
    if run.is_file():
        return run
    if not (run / METRICS).exists():
        raise UserError(f"{run}: expected the folder of a training run with an epoch done, and it holds no {METRICS}")
    return run / METRICS


def _figures(place: str, line: bytes, after: int) -> dict[str, Any]:
    """One line of metrics.jsonl, of a later epoch than `after`.  Raises UserError for what no run writes."""
    try:
        figures = json.loads(line.decode(), parse_constant=_refuse)
        if not isinstance(figures, dict):
            raise ValueError("expected a JSON object")
        for key in ("epoch", *ALWAYS):
            if key not in figures:
                raise ValueError(f"expected a figure named {key}")
        if type(figures["epoch"]) is not int or not after < figures["epoch"] <= MOST_EPOCHS:
            raise ValueError(f"expected an epoch from {after + 1} to {MOST_EPOCHS}, got {figures['epoch']!r}")
        if figures["p"] != "inf" and not (_is_number(figures["p"]) and figures["p"] >= 1):
            raise ValueError(f"expected a p of at least 1, or 'inf', got {figures['p']!r}")
        for key in NUMBERS:
            if key in figures and not _is_number(figures[key]):
                raise ValueError(f"expected a number for {key}, got {figures[key]!r}")
        if "margin_counts" in figures and not _is_histogram(figures["margin_counts"]):
            raise ValueError(f"expected margin_counts to be {len(MARGIN_EDGES) - 1} counts that are not all 0")
    except json.JSONDecodeError as error:
        raise UserError(f"{place} is damaged: expected JSON ({error.msg} at character {error.pos + 1})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is damaged: {error}") from None
    return figures | {"p": float(figures["p"])}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {constant}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # neither NaN nor bool


def _is_histogram(counts: Any) -> bool:
    return (
        isinstance(counts, list)
        and len(counts) == len(MARGIN_EDGES) - 1
        and all(type(count) is int and 0 <= count <= MOST_SAMPLES for count in counts)
        and any(counts)
    )


def check_events(folder: Path) -> Any:
    """tensorboardX's SummaryWriter.  Raises UserError where it is missing, or `folder` holds anything but its files."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("TensorBoard's files need tensorboardX: pip install linfengine[tensorboard]") from None
    if folder.exists() and not (folder.is_dir() and all(".tfevents." in file.name for file in folder.iterdir())):
        raise UserError(f"{folder}: expected a folder of event files, to be replaced, or a name that is free")
    return SummaryWriter


def write_events(run: str | Path, out: str | Path | None = None) -> Path:
    """The run's figures as a TensorBoard event file in the folder `out`, RUN/events if none is named; returns it.

    Every figure stands under its own name, its step the epoch, its time that of training; p while it is finite, and
    margin_counts as a histogram in units of 2 ε.  What an earlier call wrote there is replaced as a whole.

    Raises UserError as `read_metrics`; where tensorboardX is missing; where `out` holds anything but event files, or
    cannot be written.
    """
    epochs, path = read_metrics(run), _metrics_path(run)
    shown = Path(out) if out is not None else path.parent / EVENTS
    writer_of = check_events(shown)
    folder = Path(os.path.realpath(shown))
    temporary = temporary_name(folder)
    time = path.stat().st_mtime - sum(figures.get("seconds", 0.0) for figures in epochs)
    try:
        try:
            temporary.mkdir(parents=True)
            with writer_of(str(temporary)) as writer:
                for figures in epochs:
                    time += figures.get("seconds", 0.0)
                    _write_epoch(writer, figures, time)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise UserError(f"{shown}: cannot be written ({error.strerror})") from None
    return shown


def _write_epoch(writer: Any, figures: dict[str, Any], time: float) -> None:
    for key, value in figures.items():
        if key != "epoch" and _is_number(value):
            writer.add_scalar(key, value, figures["epoch"], time)
    if "margin_counts" in figures:
        counts = np.array(figures["margin_counts"])
        writer.add_histogram_raw("margin_counts", *_histogram(counts), figures["epoch"], time)


def _histogram(counts: Array) -> tuple[float, float, int, float, float, list[float], list[int]]:
    """(smallest, largest, how many, sum, sum of squares, upper edges, counts), as if all lay in the middle of bins.

    TensorBoard draws the first and the last bin that are not empty from `smallest` and to `largest`.
    """
    filled = np.flatnonzero(counts)
    middle = (MARGIN_EDGES[:-1] + MARGIN_EDGES[1:]) / 2
    return (
        float(MARGIN_EDGES[filled[0]]),
        float(MARGIN_EDGES[filled[-1] + 1]),
        int(counts.sum()),
        float(counts @ middle),
        float(counts @ middle**2),
        MARGIN_EDGES[1:].tolist(),
        counts.tolist(),
    )
