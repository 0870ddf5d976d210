"""The figures of a run, read again: metrics.jsonl, a line an epoch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..errors import UserError

METRICS = "metrics.jsonl"
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
        path = metrics_path(run)
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


def metrics_path(run: str | Path) -> Path:
    """The metrics.jsonl of a run; `run` is its folder, or that file. Raises UserError where there is none."""
    run = Path(run)
    if not run.exists():
        raise UserError(f"{run}: expected the folder of a training run, and there is nothing of that name")
    if run.is_file():
        return run
    if not (run / METRICS).exists():
        raise UserError(f"{run}: expected the folder of a training run with an epoch done, and it holds no {METRICS}")
    return run / METRICS


def _figures(place: str, line: bytes, after: int) -> dict[str, Any]:
    """One line of metrics.jsonl, of a later epoch than `after`. Raises UserError for what no run writes."""
    try:
        figures = json.loads(line.decode(), parse_constant=_refuse)
        if not isinstance(figures, dict):
            raise ValueError("expected a JSON object")
        for key in ("epoch", *ALWAYS):
            if key not in figures:
                raise ValueError(f"expected a figure named {key}")
        if type(figures["epoch"]) is not int or not after < figures["epoch"] <= MOST_EPOCHS:
            raise ValueError(f"expected an epoch from {after + 1} to {MOST_EPOCHS}, got {figures['epoch']!r}")
        if figures["p"] != "inf" and not (is_number(figures["p"]) and figures["p"] >= 1):
            raise ValueError(f"expected a p of at least 1, or 'inf', got {figures['p']!r}")
        for key in NUMBERS:
            if key in figures and not is_number(figures[key]):
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


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and no bool."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_histogram(counts: Any) -> bool:
    return (
        isinstance(counts, list)
        and len(counts) == len(MARGIN_EDGES) - 1
        and all(type(count) is int and 0 <= count <= MOST_SAMPLES for count in counts)
        and any(counts)
    )
