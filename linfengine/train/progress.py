"""Who watches a training run: nobody, or a progress bar."""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from ..errors import UserError
from ..recipes import Recipe, size_of
from ..text import printable
from .events import write_events

SECONDS_BETWEEN_LINES = 10  # of progress, where the output is no terminal
SECONDS_BETWEEN_EVENTS = 30  # TensorBoard's files are written whole each time


class Observer:
    """Watches training; this one shows nothing. A subclass defines the methods it needs."""

    def begin(self, name: str, recipe: Recipe, number: int, of: int) -> Observer:
        """Before each of several runs: the observer of that run."""
        return self

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        """After every mini-batch: `done` of the epoch's `steps`, with the figures of the epoch so far."""

    def epoch(self, figures: dict[str, Any]) -> None:
        """After every epoch: the line that metrics.jsonl gets."""


class ProgressBar(Observer, AbstractContextManager["ProgressBar"]):
    """A bar for the epochs and one for the steps of the epoch, the figures on a line below.

    Where `console` (standard output by default) is no terminal, it prints a line every ten seconds instead. With
    `events`, the folder of the run, its TensorBoard files are written every half minute and at the end; where they
    cannot be written, training goes on without them.
    """

    def __init__(
        self, epochs: int | None = None, events: Path | None = None, *, console: Console | None = None
    ) -> None:
        self.console = console or Console()
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=math.inf,  # an epoch may take longer than the half minute that rich looks back
        )
        self.epochs = self.progress.add_task("epochs", total=epochs)
        self.steps = self.progress.add_task("steps", total=None)
        self.figures = Text()
        shown = Group(self.progress, self.figures)
        self.live = Live(shown, console=self.console) if self.console.is_terminal else None
        self.told = self.shown = -math.inf  # when the last line was printed, and the last events were written
        self.events = events
        self.held_out: dict[str, float] = {}

    def begin(self, name: str, recipe: Recipe, number: int, of: int) -> ProgressBar:
        name = f"{name} ({number} of {of})"
        self.progress.reset(self.epochs, description=f"{name}: epochs", total=recipe.epochs)
        self.held_out = {}
        self._print(f"{name}: {size_of(recipe)}, {recipe.epochs} epochs")
        return self

    def __enter__(self) -> ProgressBar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()
        if self.shown > -math.inf:  # an epoch was done: it is this run's folder
            self._write_events()

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        if done == 1:
            self.progress.reset(self.steps, total=steps)
        self.progress.update(self.steps, completed=done)
        self.figures.plain = describe(figures | self.held_out)

    def epoch(self, figures: dict[str, Any]) -> None:
        self.progress.update(self.epochs, completed=figures["epoch"])
        self.held_out = {key: value for key, value in figures.items() if key.startswith("held_out")}
        done = figures["epoch"] == self.progress.tasks[0].total
        if not self.live and (done or time.monotonic() - self.told > SECONDS_BETWEEN_LINES):
            left = self.progress.tasks[0].time_remaining
            told = f"epoch {figures['epoch']}: {describe(figures)}"
            if not done and left is not None:
                told += f"  {left / 60:.0f} min left" if left >= 90 else f"  {left:.0f} s left"
            self._print(told)
            self.told = time.monotonic()
        if time.monotonic() - self.shown > SECONDS_BETWEEN_EVENTS:
            self.shown = time.monotonic()
            self._write_events()

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)

    def _write_events(self) -> None:
        if self.events:
            try:
                write_events(self.events)
            except UserError as error:
                told = Text(printable(f"No more TensorBoard files of this run: {error}."), style="yellow")
                Console(stderr=True).print(told, soft_wrap=True)
                self.events = None


def watching(observer: Observer | None, epochs: int | None = None) -> AbstractContextManager[Observer]:
    """The observer; without one, a bar where standard error is a terminal, lines in a notebook, else nothing."""
    if observer is not None:
        return nullcontext(observer)
    console = Console(stderr=True)
    if console.is_jupyter:
        console = Console(file=sys.stderr, force_jupyter=False, force_terminal=False)
    elif sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(Observer())
    return ProgressBar(epochs, console=console)


def describe(figures: dict[str, Any]) -> str:
    """The figures of an epoch on one line."""
    text = (
        f"p {figures['p']:.4g}  lr {figures['lr']:.2g}  loss {figures['loss']:.4f}  "
        f"train accuracy {100 * figures['accuracy']:.1f}%  margin {figures['margin']:.2f}"
    )
    if "held_out_certified" in figures:
        clean, certified = 100 * figures["held_out_accuracy"], 100 * figures["held_out_certified"]
        text += f"  held out {clean:.1f}%, certified {certified:.1f}%"
    return text
