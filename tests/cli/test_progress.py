"""Who watches training from Python: a bar on a terminal, nobody else."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from linfengine.data import Dataset, load_dataset
from linfengine.recipes import load_recipe
from linfengine.train import train
from linfengine.train.ablate import ablate
from linfengine.train.progress import Observer, ProgressBar, describe, watching

SHORT = ["loss=hinge", "width=16", "depth=2", "epochs=3", "ramp_start=1", "ramp_end=2", "batch_size=32"]

pytestmark = pytest.mark.usefixtures("one_thread")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(scope="module")
def few() -> Dataset:
    digits = load_dataset("digits")
    return replace(digits, train_images=digits.train_images[:60], train_labels=digits.train_labels[:60])


@pytest.mark.parametrize("stream", [io.StringIO, Terminal, lambda: None], ids=["file", "terminal", "none"])
def test_training_shows_a_bar_on_a_terminal_alone(
    stream: Any, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = stream()
    monkeypatch.setattr(sys, "stderr", shown)
    train(load_recipe("digits", SHORT), few, tmp_path / "run")
    said = shown.getvalue() if shown else ""
    assert ("epochs" in said and "3/3" in said) == (stream is Terminal)
    assert bool(said) == (stream is Terminal)
    train(load_recipe("digits", SHORT), few, tmp_path / "watched", observer=Observer())
    if shown:
        assert shown.getvalue() == said
    assert capsys.readouterr().out == ""


def test_an_ablation_shows_a_bar_as_well(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    ablate(load_recipe("digits", [*SHORT, "held_out=20", "eps_test=0.05"]), few, ["identity"], tmp_path)
    said = shown.getvalue()
    assert "whole (1 of 2): 2 layers, 16 wide, 3 epochs" in said
    assert "identity (2 of 2): epochs" in said


def test_a_notebook_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    figures: dict[str, Any] = {"p": 8.0, "lr": 0.03, "loss": 0.5, "accuracy": 0.75, "margin": 0.0}
    with watching(None, 1) as bar:
        assert isinstance(bar, ProgressBar)
        bar.step(1, 1, 1, figures)
        bar.epoch(figures | {"epoch": 1})
    assert shown.getvalue() == f"epoch 1: {describe(figures)}\n"


def test_names_are_no_markup() -> None:
    out = io.StringIO()
    with ProgressBar(console=Console(file=out, force_terminal=True, width=80)) as bar:
        bar.begin("[bold]x :smile:", load_recipe("digits"), 1, 2)
    assert "[bold]x :smile: (1 of 2): 3 layers, 256 wide, 400 epochs" in out.getvalue()
