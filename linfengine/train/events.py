"""The figures of a run as TensorBoard event files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from ..backends import Array
from ..errors import UserError
from ..files import temporary_name
from .metrics import MARGIN_EDGES, is_number, metrics_path, read_metrics

EVENTS = "events"  # their folder in that of a run


def check_events(folder: Path) -> Any:
    """tensorboardX's SummaryWriter. Raises UserError where it is missing, or `folder` holds anything but its files."""
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
    margin_counts as a histogram in units of 2 ε. What an earlier call wrote there is replaced as a whole.

    Raises UserError as `read_metrics`; where tensorboardX is missing; where `out` holds anything but event files, or
    cannot be written.
    """
    epochs, path = read_metrics(run), metrics_path(run)
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
        if key != "epoch" and is_number(value):
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
