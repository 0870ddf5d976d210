"""The command line: its results are those of the library, and a mistake is one sentence and exit status 2."""

import errno
import hashlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from support.draws import thorough

from linfengine import __version__, audit, cli
from linfengine.attack import Attacked
from linfengine.audit import SECTIONS
from linfengine.certify import certify, clopper_pearson
from linfengine.checkpoint import load_model, load_tensors, save_model, save_tensors
from linfengine.cli import main
from linfengine.cli.demo import DEMO_EPS, DEMO_EXACT_EPS
from linfengine.data import load_dataset, split_holdout, to_pixels
from linfengine.evaluate import evaluate
from linfengine.exact import ExactNet, quantize
from linfengine.files import folder_lock
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    Negate,
    Normalize,
    Sequential,
    Tanh,
    linf_net,
)
from linfengine.recipes import Recipe, load_recipe, recipe_names
from linfengine.train import BEST, CHECKPOINT, MODEL, HeldOut, Trainer, budget
from linfengine.train.ablate import ABLATION, PARTS, ablate
from linfengine.train.events import EVENTS
from linfengine.train.metrics import METRICS, read_metrics
from linfengine.train.progress import ProgressBar

ROOT = Path(__file__).parents[2]
TINY = ["loss=hinge", "width=16", "depth=2", "epochs=3", "ramp_start=1", "ramp_end=2", "lr=0.03", "batch_size=64"]
SET_TINY = [word for setting in TINY for word in ("--set", setting)]
ON_CPU = [*SET_TINY, "--device", "cpu"]


def run(*arguments: object) -> Result:
    """The command within this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def process(
    *arguments: object, flags: Sequence[str] = (), stdout: int = subprocess.PIPE, **environment: Any
) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, *flags, "-m", "linfengine", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
    )


def sentence(result: Result | subprocess.CompletedProcess[str], start: str = "Error: ") -> str:
    """What a mistake is answered with: status 2, one line on standard error, and no word of Python."""
    status = result.exit_code if isinstance(result, Result) else result.returncode
    assert status == 2, result
    lines = result.stderr.splitlines()
    if lines[0].startswith("Usage: "):  # click recalls how a command is used before it says what is wrong
        lines = lines[lines.index("") + 1 :]
    else:
        assert lines[0].endswith(".")
    assert len(lines) == 1, lines
    assert lines[0].startswith(start)
    assert not lines[0].endswith("..")
    assert "Traceback" not in f"{result.stdout}{result.stderr}"
    return lines[0]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    result = run("train", "digits", *SET_TINY, "--out", folder)
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A trained model that a test may spoil."""
    (tmp_path / MODEL).write_bytes((trained / MODEL).read_bytes())
    return tmp_path / MODEL


@pytest.fixture(scope="module")
def exact(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exact net of the trained one."""
    path = tmp_path_factory.mktemp("exact") / "exact.safetensors"
    result = run("quantize", trained / MODEL, "--out", path)
    assert (result.exit_code, result.stderr) == (0, "")
    return path


@pytest.fixture(scope="module")
def certificate(exact: Path) -> Path:
    """What is certified of it at 0.05, which is 12.75 gray levels."""
    path = exact.with_name("certificate.jsonl")
    result = run("certify", exact, "--eps", "0.05", "--certificate", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert f"linfengine verify {path} {exact} digits" in result.stdout
    return path


# Help and information.


@pytest.mark.parametrize("command", [[], *([name] for name in main.commands)], ids=" ".join)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_explains_itself(command: list[str], flag: str) -> None:
    result = run(*command, flag)
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: {' '.join(['linfengine', *command])}")
    assert result.stderr == ""


def test_help_names_every_exit_status() -> None:
    said = " ".join(run("--help").stdout.split())
    for status in (0, 2, 3, 130, cli.program.OUTPUT_CLOSED):
        assert re.search(rf"\b{status} [a-z]", said.partition("Exit status: ")[2])


def test_no_command_waits_for_what_it_does_not_use() -> None:
    program = "import sys, linfengine.cli; print([name for name in sys.modules if name in ('scipy', 'matplotlib')])"
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "[]\n"


def test_help_names_every_command() -> None:
    assert sorted(main.commands) == sorted(
        ["demo", "train", "plot", "ablate", "certify", "quantize", "verify", "audit", "info"]
    )
    said = run("--help").stdout
    assert all(f"\n  {name}  " in said for name in main.commands)


def test_the_module_is_the_program() -> None:
    result = process("--version")
    assert (result.returncode, result.stdout, result.stderr) == (0, f"linfengine, version {__version__}\n", "")
    result = process("--help")
    assert result.returncode == 0
    assert "ℓ∞" in result.stdout


def test_info_is_for_people_and_for_programs() -> None:
    result = run("info", "--json")
    assert result.exit_code == 0
    assert result.stderr.startswith(" linfengine ")
    facts = json.loads(result.stdout)
    assert facts["linfengine"] == __version__
    assert facts["recipes"] == recipe_names()
    assert facts["backend in use"] in facts["backends"]
    assert facts["instruction set in use"] in facts["instruction sets"]
    assert 1 <= facts["threads"]
    assert "compute capability" in facts["gpu"]
    table = run("info")
    assert table.exit_code == 0
    said = " ".join(table.stdout.split())
    for key, value in facts.items():
        assert key in said
        assert all(word in said for word in (value if isinstance(value, list) else str(value).split()))


def test_info_follows_the_environment() -> None:
    facts = json.loads(process("info", "--json", LINFENGINE_NUM_THREADS="1", LINFENGINE_ISA="portable").stdout)
    assert facts["threads"] == 1
    assert facts["instruction set in use"] == "portable"
    facts = json.loads(process("info", "--json", LINFENGINE_BACKEND="reference").stdout)
    assert facts["backend in use"] == "reference"


@pytest.mark.parametrize("name", ["LINFENGINE_BACKEND", "LINFENGINE_ISA", "LINFENGINE_NUM_THREADS"])
def test_an_environment_that_asks_for_what_there_is_not(name: str) -> None:
    assert "banana" in sentence(process("info", **{name: "banana"}))  # type: ignore[arg-type]


# Training.


def width_of(model: Path) -> int:
    """Of the first distance layer."""
    net, _ = load_model(model)
    return next(int(layer.weight.shape[0]) for _, layer in net.modules() if isinstance(layer, LinfDistDense))


def test_train_writes_a_run_and_says_what_next(trained: Path) -> None:
    assert sorted(os.listdir(trained)) == [CHECKPOINT, METRICS, MODEL]
    net, metadata = load_model(trained / MODEL)
    assert isinstance(net, Sequential)
    assert [layer.weight.shape for layer in net.layers if isinstance(layer, LinfDistDense)] == [(16, 64), (10, 16)]
    assert (net.p, metadata["dataset"]) == (math.inf, "digits")
    assert json.loads(metadata["recipe"]) == load_recipe("digits", TINY).to_dict()


def test_train_shows_progress_and_takes_a_recipe_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = ['dataset = "digits"', "eps_train = 0.1", *(f'{x}"' if x[:4] == "loss" else x for x in TINY)]
    (tmp_path / "mine.toml").write_text("\n".join(values).replace("loss=", 'loss="'))
    result = run("train", "mine.toml", "--set", "width=8")
    assert (result.exit_code, result.stderr) == (0, "")
    said = " ".join(result.stdout.split())
    assert "epoch 1: p 8 " in said
    assert "epoch 3: p inf " in said
    assert "linfengine certify runs/mine/model.safetensors" in said
    assert width_of(Path("runs/mine", MODEL)) == 8


def test_train_resumes_only_when_told_to(trained: Path) -> None:
    again = ["train", "digits", *SET_TINY, "--out", trained]
    before = (trained / MODEL).read_bytes()
    assert f"{trained} already holds a training run: go on with it (--resume) or" in sentence(run(*again))
    killed = trained / f".{EVENTS}.{'0' * 16}.part"  # what a killed process left of a folder of events
    killed.mkdir()
    (killed / "half").touch()
    assert run(*again, "--resume").exit_code == 0
    assert (trained / MODEL).read_bytes() == before
    assert not killed.exists()
    assert "started with width = 16, not 17" in sentence(run(*again, "--set", "width=17", "--resume"))


def test_an_interruption_before_the_first_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **settings: Any) -> None:
        raise KeyboardInterrupt

    for module in (cli.train, cli.demo):
        monkeypatch.setattr(module, "train", interrupt)
    result = run("train", "digits", "--out", tmp_path)
    assert result.exit_code == 130
    assert result.stderr == "Interrupted before the first epoch was done: there is nothing to resume.\n"
    result = run("demo", "--out", tmp_path)
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")
    (tmp_path / CHECKPOINT).touch()
    result = run("train", "digits", "--out", tmp_path, "--resume")
    assert result.exit_code == 130
    assert "the same command with --resume goes on from there" in result.stderr


def ten_seconds_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a width of 16: a minute pays for 5 epochs, and a few for a wider net."""
    monkeypatch.setattr(budget, "seconds_per_epoch", lambda recipe, dataset, device: 10.0 * recipe.width / 16)


def test_train_within_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """9 of 10 seconds go to epochs, of which 3 were asked for: 5 of them, with the ramp at the same thirds."""
    ten_seconds_an_epoch(monkeypatch)
    words = ["train", "digits", *ON_CPU, "--out", tmp_path, "--keep", 9]
    result = run(*words, "--budget", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "For 1 min on this machine: 2 layers, 16 wide, 5 epochs." in result.stdout
    net, metadata = load_model(tmp_path / MODEL)
    recipe = load_recipe("digits", [*TINY, "epochs=5", "ramp_start=1.67", "ramp_end=3.33"])
    assert json.loads(metadata["recipe"]) == recipe.to_dict()
    assert len(read_metrics(tmp_path)) == 5
    before = (tmp_path / MODEL).read_bytes()
    # going on: nothing is timed again, whatever budget is named
    monkeypatch.setattr(budget, "seconds_per_epoch", lambda *arguments: pytest.fail("timed again"))
    (tmp_path / CHECKPOINT).write_bytes((tmp_path / "checkpoint-00002.safetensors").read_bytes())
    (tmp_path / MODEL).unlink()
    result = run(*words, "--budget", 7.5, "--resume")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / MODEL).read_bytes() == before
    said = sentence(run(*words, "--budget", 1, "--resume", "--set", "lr=0.5"))
    assert "--resume: this run was begun with lr = 0.03, not 0.5" in said
    assert "started with epochs = 5, not 3" in sentence(run(*words, "--resume"))


def test_a_budget_can_widen_a_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_seconds_an_epoch(monkeypatch)
    result = run("train", "digits", *ON_CPU, "--out", tmp_path, "--budget", 4)
    assert result.exit_code == 0
    width = width_of(tmp_path / MODEL)
    assert width > 16
    assert f"For 4 min on this machine: 2 layers, {width} wide, " in result.stdout


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_a_budget_that_is_none(minutes: str, tmp_path: Path) -> None:
    said = sentence(run("train", "digits", *ON_CPU, "--out", tmp_path / "out", "--budget", minutes))
    assert "--budget: expected a positive number of minutes, got " in said
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_too_small_or_has_nothing_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ten_seconds_an_epoch(monkeypatch)
    words = ["train", "digits", *ON_CPU, "--out", tmp_path / "out", "--budget"]
    assert "0.25 min are too few for two epochs of this recipe" in sentence(run(*words, 0.25))
    monkeypatch.setattr(budget, "seconds_per_epoch", lambda *arguments: pytest.fail("timed in vain"))
    assert "there is no run to resume" in sentence(run(*words, 1, "--resume"))
    assert not (tmp_path / "out").exists()


def test_train_keeps_checkpoints_and_writes_events(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    plain = tmp_path_factory.mktemp("plain")
    assert run("train", "digits", *ON_CPU, "--out", plain).exit_code == 0
    result = run("train", "digits", *ON_CPU, "--out", tmp_path, "--keep", 1, "--tensorboard")
    assert (result.exit_code, result.stderr) == (0, "")
    kept = "checkpoint-00002.safetensors"
    assert sorted(os.listdir(tmp_path)) == sorted([CHECKPOINT, kept, EVENTS, METRICS, MODEL])
    assert load_tensors(tmp_path / kept)[1]["epoch"] == "2"
    assert (tmp_path / MODEL).read_bytes() == (plain / MODEL).read_bytes()
    (events,) = (tmp_path / EVENTS).iterdir()
    assert all(name in events.read_bytes() for name in (b"loss", b"accuracy", b"margin_counts"))


def test_events_without_tensorboard_are_missed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = sentence(run("train", "digits", *ON_CPU, "--out", tmp_path, "--tensorboard"))
    assert "TensorBoard's files need tensorboardX: pip install linfengine[tensorboard]" in said
    assert os.listdir(tmp_path) == []


def test_what_the_events_cannot_hold_costs_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stray file in their folder is told of once, and the run goes on."""
    pytest.importorskip("tensorboardX")

    def stray(*arguments: Any) -> dict[str, float]:
        (tmp_path / EVENTS).mkdir(exist_ok=True)
        (tmp_path / EVENTS / "notes.txt").write_text("mine")
        return {}

    monkeypatch.setattr(HeldOut, "figures", stray)
    result = run("train", "digits", *ON_CPU, "--out", tmp_path, "--tensorboard")
    assert result.exit_code == 0
    assert result.stderr.startswith("No more TensorBoard files of this run: ")
    assert result.stderr.count("\n") == 1
    assert (tmp_path / EVENTS / "notes.txt").read_text() == "mine"
    assert len(read_metrics(tmp_path)) == 3


def test_a_refused_run_has_no_events(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    before = sorted(os.listdir(trained))
    words = ["train", "digits", *ON_CPU, "--set", "seed=5", "--out", trained, "--tensorboard"]
    assert "already holds a training run" in sentence(run(*words))
    assert sorted(os.listdir(trained)) == before


def test_an_interrupted_run_has_its_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX")
    sound = Trainer.step

    def step(trainer: Trainer, *arguments: Any) -> Any:
        if trainer.epochs_done == 2:
            raise KeyboardInterrupt
        return sound(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    assert run("train", "digits", *ON_CPU, "--out", tmp_path, "--tensorboard").exit_code == 130
    (events,) = (tmp_path / EVENTS).iterdir()
    assert events.read_bytes().count(b"accuracy") == 2


def test_progress_says_how_long_it_will_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of 40 s, ten steps each; what was held out stays in sight while the next epoch runs."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    figures: dict[str, Any] = {"p": 8.0, "lr": 0.03, "loss": 0.5, "accuracy": 0.75, "margin": 0.0}
    bar = ProgressBar(10)
    bar.progress.get_time = lambda: now
    with bar:
        for epoch in range(1, 4):
            for step in range(1, 11):
                now += 4
                bar.step(epoch, step, 10, figures)
                assert bar.progress.tasks[1].completed == step
            bar.epoch(figures | {"epoch": epoch, "held_out_accuracy": 0.5, "held_out_certified": 0.25})
        bar.step(4, 1, 10, figures)
    assert bar.progress.tasks[0].time_remaining == 280
    assert bar.figures.plain.endswith("held out 50.0%, certified 25.0%")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("epoch 3: p 8 ")
    assert last.endswith("held out 50.0%, certified 25.0%  5 min left")


def test_the_best_net_can_be_certified(tmp_path: Path) -> None:
    words = ["--set", "held_out=200", "--set", "head=8", "--set", "loss=cross-entropy", "--out", tmp_path]
    assert run("train", "digits", *ON_CPU, *words).exit_code == 0
    result = run("certify", tmp_path / BEST, "--eps", "0.01", "--limit", 20)
    assert (result.exit_code, result.stderr) == (0, "")


# Learning curves.


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("another")
    assert run("train", "digits", *ON_CPU, "--set", "seed=1", "--set", "epochs=4", "--out", folder).exit_code == 0
    return folder


PICTURES = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF"}


@pytest.mark.parametrize("suffix", [".png", ".svg", thorough(".pdf")])
@pytest.mark.parametrize("several", [False, True])
def test_plot_draws_runs_and_writes_their_figures(
    suffix: str, several: bool, trained: Path, another: Path, tmp_path: Path
) -> None:
    runs = [trained, another] if several else [trained]
    out, figures = tmp_path / "deep" / f"curves{suffix}", tmp_path / "figures.json"
    result = run("plot", *runs, "--out", out, "--json", figures)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"Drawn: {out}\n"
    assert out.read_bytes().startswith(PICTURES[suffix])
    found = json.loads(figures.read_text(), parse_constant=pytest.fail)
    assert list(found) == [folder.name for folder in runs]
    for folder in runs:
        assert [each | {"p": float(each["p"])} for each in found[folder.name]] == read_metrics(folder)
        assert found[folder.name][-1]["p"] == "inf"
    if several and suffix == ".svg":  # the legend names both
        assert all(folder.name in out.read_text() for folder in runs)


def test_plot_leaves_its_picture_in_the_folder_of_the_first_run(trained: Path, another: Path, tmp_path: Path) -> None:
    for folder, source in (("a", trained), ("b", another)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / METRICS).write_bytes((source / METRICS).read_bytes())
    assert run("plot", tmp_path / "b", tmp_path / "a").exit_code == 0
    assert os.listdir(tmp_path / "a") == [METRICS]
    assert sorted(os.listdir(tmp_path / "b")) == ["curves.png", METRICS]
    (tmp_path / "b" / "curves.png").unlink()
    assert run("plot", tmp_path / "b" / METRICS).exit_code == 0  # the file itself will do
    assert sorted(os.listdir(tmp_path / "b")) == ["curves.png", METRICS]


def test_runs_of_the_same_name_are_told_apart(trained: Path, another: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "one" / "run", tmp_path / "two" / "run"]
    for folder, source in zip(folders, (trained, another), strict=True):
        folder.mkdir(parents=True)
        (folder / METRICS).write_bytes((source / METRICS).read_bytes())
    assert run("plot", *folders, "--json", tmp_path / "figures").exit_code == 0
    found = json.loads((tmp_path / "figures").read_text())
    assert {name: len(epochs) for name, epochs in found.items()} == {str(folders[0]): 3, str(folders[1]): 4}


def test_plot_writes_events_as_well(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    (tmp_path / METRICS).write_bytes((trained / METRICS).read_bytes())
    result = run("plot", tmp_path, "--tensorboard")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        f"Next, with TensorBoard (pip install tensorboard): tensorboard --logdir {tmp_path / EVENTS}\n" in result.stdout
    )
    assert sorted(os.listdir(tmp_path)) == sorted(["curves.png", EVENTS, METRICS])


def test_plot_writes_over_no_run(trained: Path, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes((trained / METRICS).read_bytes())
    said = sentence(run("plot", tmp_path, "--json", tmp_path / METRICS))
    assert "the result would be written over another file of this command: name another" in said
    assert (tmp_path / METRICS).read_bytes() == (trained / METRICS).read_bytes()
    assert "expected a file's name, and this is a folder" in sentence(run("plot", trained, "--json", tmp_path))


@pytest.mark.parametrize("name", ["curves.jpg", "curves", "curves.png.txt", METRICS])
def test_a_picture_of_another_kind(name: str, trained: Path, tmp_path: Path) -> None:
    said = sentence(run("plot", trained, "--out", tmp_path / name))
    assert f"{tmp_path / name}: expected a picture's name that ends in .png, .svg or .pdf" in said
    assert os.listdir(tmp_path) == []


def test_a_run_that_cannot_be_drawn(trained: Path, tmp_path: Path) -> None:
    assert "it holds no metrics.jsonl" in sentence(run("plot", tmp_path))
    assert "there is nothing of that name" in sentence(run("plot", trained, tmp_path / "none"))
    (tmp_path / METRICS).write_text("{}\n")
    assert "line 1 is damaged: expected a figure named epoch" in sentence(run("plot", tmp_path))
    assert os.listdir(tmp_path) == [METRICS]


# Ablation.

SET_ABLATED = [*SET_TINY, *("--set", "held_out=100"), *("--set", "eps_test=8/255"), *("--set", "batch_size=256")]


def test_ablate_shows_what_the_library_finds(tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    words = [
        "ablate",
        "digits",
        *SET_ABLATED,
        "--device",
        "cpu",
        "--drop",
        "p_ramp, mean_hinge",
        "--out",
        tmp_path / "out",
    ]
    result = run(*words, "--json", table)
    assert (result.exit_code, result.stderr) == (0, "")
    recipe = load_recipe("digits", SET_ABLATED[1::2])
    rows = ablate(recipe, load_dataset("digits"), ["p_ramp", "mean_hinge"], tmp_path / "out")  # trains nothing
    found = json.loads(table.read_text())
    assert found == {"name": "digits", "seeds": 1, **json.loads((tmp_path / "out" / ABLATION).read_text())}
    assert found["rows"] == rows
    assert [row["part"] for row in rows] == [None, "p_ramp", "mean_hinge"]
    said = " ".join(result.stdout.split())
    told = f"digits: {recipe.depth} layers, {recipe.width} wide, {recipe.epochs} epochs {recipe.held_out:,} held-out"
    assert f"{told} samples at ε = 8/255, %" in said
    lines = result.stdout.splitlines()
    for row in rows:
        (line,) = (line for line in lines if f"│ {row['part'] or '–':<6}" in line)
        assert all(f" {100 * row[key]:.2f} " in line for key in ("clean", "certified", "gain"))
    size = f"{recipe.depth} layers, {recipe.width} wide, {recipe.epochs} epochs"
    assert said.startswith(f"whole (1 of 3): {size}")
    assert all(f"{name} ({i} of 3): {size}" in lines for i, name in enumerate(("whole", "p_ramp", "mean_hinge"), 1))
    assert f"The runs are in {tmp_path / 'out'}/." in said
    again = run(*words)
    assert again.exit_code == 0
    assert "epoch 1:" in result.stdout
    assert "epoch 1:" not in again.stdout
    assert "holds an ablation of other settings" in sentence(run(*words, "--set", "seed=1"))


def test_ablate_all_drops_every_part_that_the_recipe_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def ablation(recipe: Any, dataset: Any, names: list[str], out: Path, **settings: Any) -> list[dict[str, Any]]:
        asked.update(settings | {"names": names, "out": out, "recipe": recipe})
        figures = {"clean": 1.0, "certified": 0.5, "gain": 0.0, "seconds": 1.0, "by_seed": [0.25, 0.75], "diverged": 0}
        other = figures | {"part": "p_ramp", "instead": "", "diverged": 1}
        rows = [figures | {"part": None, "instead": ""}, other]
        out.mkdir(parents=True)
        (out / ABLATION).write_text(json.dumps({"recipe": recipe.to_dict(), "rows": rows}))
        return rows

    monkeypatch.setattr(cli.ablate, "ablate", ablation)
    monkeypatch.chdir(tmp_path)
    result = run("ablate", "digits", *ON_CPU, "--drop", "all", "--budget", 3, "--seeds", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    recipe = load_recipe("digits", TINY)
    assert (asked["recipe"], asked["names"]) == (recipe, ["all"])
    assert (asked["minutes"], asked["seeds"], asked["out"]) == (3, 2, Path("runs/digits-ablation"))
    assert os.listdir(tmp_path) == ["runs"]
    assert " 50.00 │ 25.00–75.00 │ " in result.stdout
    assert "(1 of 2 diverged)" in " ".join(result.stdout.split())


def test_ablate_fits_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two minutes are one for each of two runs, which pays for 5 epochs."""
    ten_seconds_an_epoch(monkeypatch)
    words = ["ablate", "digits", *SET_ABLATED, "--device", "cpu", "--drop", "identity", "--out", tmp_path, "--budget"]
    assert run(*words, 2).exit_code == 0
    for name in ("whole", "identity"):
        assert len(read_metrics(tmp_path / name)) == 5
    assert json.loads((tmp_path / ABLATION).read_text())["recipe"]["epochs"] == 5


def test_help_names_every_part() -> None:
    said = run("ablate", "--help").stdout
    assert all(name in said and part.instead in said for name, part in PARTS.items())


# The demo.


def test_the_demo_leaves_a_model_its_results_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = load_recipe("digits", TINY)
    monkeypatch.setattr(cli.demo, "load_recipe", lambda name, epochs: small)
    for _ in range(2):  # it begins anew each time
        result = run("demo", "--out", tmp_path)
        assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(os.listdir(tmp_path)) == sorted(
        [
            "certificate.jsonl",
            "certified.png",
            CHECKPOINT,
            "exact.safetensors",
            METRICS,
            MODEL,
            "results.json",
            "test.npz",
        ]
    )
    assert (tmp_path / "certified.png").read_bytes().startswith(b"\x89PNG\r\n")
    found = json.loads((tmp_path / "results.json").read_text())
    assert (found["dataset"], found["version"]) == ("digits", __version__)
    assert found["recipe"] == small.to_dict()
    assert found["seconds"] > 0
    digits, net = load_dataset("digits"), load_model(tmp_path / MODEL)[0]
    exact = load_model(tmp_path / "exact.safetensors")[0]
    shown = [*((net, eps, "interval") for eps in DEMO_EPS), (exact, DEMO_EXACT_EPS, "exact")]
    for summary, (each, eps, method) in zip(found["results"], shown, strict=True):
        images, labels = digits.test_images, digits.test_labels
        assert summary == evaluate(each, images, labels, eps, method=method, attack_steps=20).summary()
        assert summary["certified"] <= summary["attacked"] <= summary["clean"]
        assert method == "exact" or f"{100 * summary['certified']:.2f} (" in result.stdout
    count = round(360 * found["results"][-1]["certified"])
    assert (
        f"Verified: {count} of 360 samples certified at ε = 1/10 = 25.5 gray levels, 360 of the 360 re-derived."
        in result.stdout
    )
    for data in ("digits", tmp_path / "test.npz"):
        assert run("verify", tmp_path / "certificate.jsonl", tmp_path / "exact.safetensors", data).exit_code == 0
    assert "linfengine audit" in result.stdout
    other = load_recipe("digits", [*TINY, "seed=1"])
    monkeypatch.setattr(cli.demo, "load_recipe", lambda name, epochs: other)
    assert run("demo", "--out", tmp_path).exit_code == 0  # a demo's folder, be it of another version
    assert json.loads((tmp_path / "results.json").read_text())["recipe"] == other.to_dict()
    monkeypatch.setattr(cli.demo, "load_recipe", lambda name, epochs: small)
    (tmp_path / "results.json").unlink()
    before = (tmp_path / MODEL).read_bytes()
    assert "already holds a training run" in sentence(run("demo", "--out", tmp_path))
    assert (tmp_path / MODEL).read_bytes() == before


@pytest.mark.parametrize("name", ["exact.safetensors", "certificate.jsonl", "test.npz"])
def test_the_demo_writes_over_nothing_that_is_not_its_own(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("dear diary")
    said = sentence(run("demo", "--out", tmp_path))
    assert f"{name} exists, and not from a demo: name another folder with --out" in said
    assert os.listdir(tmp_path) == [name]
    assert (tmp_path / name).read_text() == "dear diary"


def test_the_demo_in_a_place_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in sentence(run("demo", "--out", tmp_path / "file"))
    for name in ("model.safetensors", "exact.safetensors", "certificate.jsonl", "test.npz", "certified.png"):
        (tmp_path / name / name).mkdir(parents=True)
        assert name in sentence(run("demo", "--out", tmp_path / name))
        assert os.listdir(tmp_path / name) == [name]


def test_the_demo_removes_no_other_run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever results.json is; a demo's names the recipe of the run beside it."""
    run_files = {name: (trained / name).read_bytes() for name in (CHECKPOINT, MODEL, METRICS)}
    recipe = json.loads(load_model(trained / MODEL)[1]["recipe"])
    of_demo = {"dataset": "digits", "version": "0", "seconds": 1, "results": []}

    def left_behind(results: Any, *names: str) -> None:
        """A demo into a folder with these results and files of a run leaves all of them, and is refused."""
        for name in names:
            (tmp_path / name).write_bytes(run_files[name])
        (tmp_path / "results.json").write_text(json.dumps(results))
        sentence(run("demo", "--out", tmp_path))
        assert sorted(os.listdir(tmp_path)) == sorted([*names, "results.json"])
        assert all((tmp_path / name).read_bytes() == run_files[name] for name in names)
        assert json.loads((tmp_path / "results.json").read_text()) == results
        for name in names:
            (tmp_path / name).unlink()

    several: tuple[Any, ...] = ({}, [], {"dataset": "digits", "n": 360}, of_demo | {"recipe": recipe | {"seed": 1}})
    for results in several:
        left_behind(results, *run_files)
        left_behind(results, MODEL)
        left_behind(results, METRICS)
    left_behind({})
    monkeypatch.setattr(cli.demo, "load_recipe", lambda name, epochs: load_recipe("digits", TINY))
    left_behind({}, *run_files)  # a run of the demo's recipe, and somebody else's results
    monkeypatch.setattr(cli.demo, "train", Mock(side_effect=KeyboardInterrupt))
    for name, content in run_files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "results.json").write_text(json.dumps(of_demo | {"recipe": recipe}))
    with folder_lock(tmp_path), ThreadPoolExecutor(1) as pool:
        said = sentence(pool.submit(run, "demo", "--out", tmp_path).result())
    assert "is at work in this folder: wait for it" in said
    assert (tmp_path / MODEL).exists()
    assert run("demo", "--out", tmp_path).exit_code == 130
    assert os.listdir(tmp_path) == ["results.json"]


# Certifying.


@pytest.mark.parametrize("method", ["interval", "margin"])
@pytest.mark.parametrize("attack", [[], ["--attack", "pgd"], ["--attack", "pgd", "--steps", 3]], ids=str)
@pytest.mark.parametrize("eps", ["8/255", "0.05"])
def test_certify_says_what_the_library_finds(
    method: str, attack: list[Any], eps: str, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "result.json"
    result = run("certify", trained / MODEL, "--eps", eps, "--method", method, *attack, "--json", out, "--limit", 90)
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(out.read_text())
    digits, net = load_dataset("digits"), load_model(trained / MODEL)[0]
    steps = (attack[-1] if len(attack) > 2 else 20) if attack else 0
    pixels, labels = to_pixels(digits.test_images[:90]), digits.test_labels[:90]
    expected = evaluate(net, pixels, labels, eps, method=method, attack_steps=steps)
    assert {key: value for key, value in found.items() if key in expected.summary()} == expected.summary()
    assert (found["n"], found["method"], found["dataset"]) == (90, method, "digits")
    assert (found["model"], found["version"]) == (str(trained / MODEL), __version__)
    assert found["eps"] == {"8/255": "8/255", "0.05": "1/20"}[eps]
    assert found["attack_steps"] == (steps or None)
    assert ("attacked" in found) == bool(attack)
    for name in found["bounds"]:
        count = round(90 * found[name])
        assert found[name] == count / 90
        assert found["bounds"][name] == list(clopper_pearson(count, 90))
        assert f"{100 * found[name]:.2f} (" in result.stdout


@pytest.mark.parametrize("method", [[], ["--method", "exact"], ["--method", "interval"], ["--method", "margin"]])
def test_certify_an_exact_net(method: list[str], exact: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    result = run("certify", exact, "--gray-levels", "12.75", "--json", out, "--limit", 90, *method)
    assert (result.exit_code, result.stderr) == (0, "")
    digits, net = load_dataset("digits"), load_model(exact)[0]
    name = method[-1] if method else "exact"
    expected = evaluate(net, digits.test_images[:90], digits.test_labels[:90], "1/20", method=name)
    found = json.loads(out.read_text())
    assert {key: value for key, value in found.items() if key in expected.summary()} == expected.summary()
    assert (found["method"], found["eps"]) == (name, "1/20")
    assert "ε = 1/20 = 12.75 gray levels. Arithmetic: integers over 2^8 gray levels, nothing rounded." in result.stdout
    assert f"Rests on {expected.certificate.rests_on}." in result.stdout


def test_certify_attacks_as_it_is_told(exact: Path, tmp_path: Path) -> None:
    digits, net = load_dataset("digits"), load_model(exact)[0]
    images, labels, counts = digits.test_images, digits.test_labels, []
    for words, chosen in (
        ([], {}),
        (["--restarts", 4], {"restarts": 4}),
        (["--restarts", 4, "--targeted"], {"restarts": 4, "targeted": True}),
    ):
        result = run(
            "certify", exact, "--eps", "0.05", "--attack", "pgd", "--steps", 2, *words, "--json", tmp_path / "result"
        )
        assert result.exit_code == 0
        found = json.loads((tmp_path / "result").read_text())
        expected = evaluate(net, images, labels, "0.05", method="exact", attack_steps=2, **chosen)  # type: ignore[arg-type]
        assert found["attacked"] == expected.summary()["attacked"]
        assert found["attack_steps"] == 2
        assert (found["attack_restarts"], found["attack_targeted"]) == (
            chosen.get("restarts", 1),
            chosen.get("targeted", False),
        )
        counts.append(found["attacked"])
    assert counts[0] >= counts[1] >= counts[2]
    assert counts[0] > counts[2]


def test_certify_takes_the_whole_test_set_unless_told(trained: Path, tmp_path: Path) -> None:
    for limit, n in (([], 360), (["--limit", 1], 1), (["--limit", 9999], 360)):
        result = run("certify", trained / MODEL, "--eps", "0", "--json", tmp_path / "result", *limit)
        assert result.exit_code == 0
        assert json.loads((tmp_path / "result").read_text())["n"] == n
        assert (f"digits, first {n} test images, " in result.stdout) == (n == 1)
        assert (
            f"{n} test images, interval certificate, % (95% Clopper–Pearson bounds)\n" in result.stdout
        )  # on one line


def with_published(model: Path, published: Any) -> Path:
    """The model with figures at 8/255 in its recipe."""
    net, _ = load_model(model)
    recipe = load_recipe("digits", TINY).to_dict() | {"eps_test": 8 / 255, "source": "A paper, table 3"}
    save_model(net, model, dataset="digits", recipe=json.dumps(recipe | {"published": published}))
    return model


@pytest.mark.parametrize(
    ("published", "cells"),
    [
        ({"clean": 56.8, "pgd": 40.0, "certified": 33.3}, ["56.80", "40.00", "33.30"]),
        ({"certified": 35.42}, ["–", "–", "35.42"]),
    ],
)
def test_certify_shows_what_was_published_at_this_radius(
    published: dict[str, float], cells: list[str], model: Path
) -> None:
    with_published(model, published)
    for words in (["--eps", "8/255"], ["--gray-levels", "8"]):
        result = run("certify", model, *words)
        assert (result.exit_code, result.stderr) == (0, "")
        (line,) = (line for line in result.stdout.splitlines() if "published" in line)
        assert [cell.strip() for cell in line.strip("│ ").split("│")] == ["published", *cells]
        assert "\nThis net: 2 layers, 16 wide, 3 epochs.\nPublished: A paper, table 3.\n" in result.stdout
    for words in (["--eps", "0.03"], ["--gray-levels", "7"], ["--gray-levels", "8", "--limit", "20"]):
        assert "ublished" not in run("certify", model, *words).stdout


def test_certify_shows_none_where_none_were_published(model: Path) -> None:
    with_published(model, {})
    result = run("certify", model, "--eps", "8/255", "--limit", 20)
    assert result.exit_code == 0
    assert "ublished" not in result.stdout


@pytest.mark.parametrize("published", [[], 93, "much", {"certified": "93"}, {"clean": None}])
def test_published_figures_in_a_model_that_are_none(published: Any, model: Path) -> None:
    said = sentence(run("certify", with_published(model, published), "--eps", "8/255", "--limit", 20))
    assert f"{model}: the recipe in it cannot be read (" in said


def conv(classes: int = 10) -> Sequential:
    return Sequential(
        Normalize((0.3,), 0.4), LinfDistConv2d(1, 2, 3), Flatten(), LinfDistDense(72, classes, bias=True), Negate()
    )


def test_certify_takes_any_net_that_fits(tmp_path: Path) -> None:
    save_model(conv(), tmp_path / "conv")
    arguments = ["certify", tmp_path / "conv", "--eps", "0.01", "--limit", 20, "--attack", "pgd"]
    assert "does not say which data set it is for" in sentence(run(*arguments))
    assert run(*arguments, "--dataset", "digits").exit_code == 0
    save_model(conv(), tmp_path / "conv", dataset="digits")
    assert run(*arguments).exit_code == 0


def test_a_broken_certificate_is_an_alarm(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Attacked(np.zeros((360, 1, 8, 8)), np.zeros(360), np.zeros(360, bool))
    monkeypatch.setattr("linfengine.evaluate.pgd", lambda *arguments, **settings: broken)
    result = run("certify", trained / MODEL, "--eps", "1/100", "--attack", "pgd")
    assert result.exit_code == 3
    assert result.stderr.startswith("SOUNDNESS: sample ")
    assert result.stderr.endswith("an attack broke it. Please report this.\n")
    assert len(result.stderr.splitlines()) == 1


# Making a net exact.


@pytest.mark.parametrize("bits", [None, 0, 4])
def test_quantize_makes_an_exact_net_and_says_what_that_did(bits: int | None, trained: Path, tmp_path: Path) -> None:
    out, facts = tmp_path / "deep" / "exact.safetensors", tmp_path / "facts.json"
    words = [] if bits is None else ["--fraction-bits", bits]
    result = run("quantize", trained / MODEL, "--out", out, "--json", facts, *words)
    assert (result.exit_code, result.stderr) == (0, "")
    bits = 8 if bits is None else bits
    (net, metadata), (source, source_metadata) = load_model(out), load_model(trained / MODEL)
    assert isinstance(net, ExactNet)
    assert net.fraction_bits == bits
    expected = quantize(source, bits)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, expected.state()[name])
    assert {key: metadata[key] for key in ("dataset", "recipe")} == {
        key: source_metadata[key] for key in ("dataset", "recipe")
    }
    assert metadata["quantized_from"] == hashlib.sha256((trained / MODEL).read_bytes()).hexdigest()
    digits, found = load_dataset("digits"), json.loads(facts.read_text())
    assert (found["dataset"], found["images"], found["fraction_bits"]) == ("digits", "test", bits)
    assert found["largest value"] == expected.rounding(255.0)[1] < 2.0 ** (24 - bits)
    forms = {"float32": source, f"exact, {bits} fraction bits": expected}
    assert found["results"].keys() == forms.keys()
    for form, each in forms.items():
        summary = evaluate(each, digits.test_images, digits.test_labels, "1/10").summary()  # the recipe's radius
        assert found["results"][form] == summary
        assert f"{100 * summary['certified']:.2f}" in result.stdout
    assert f"linfengine certify {out} --eps 1/10 --certificate {out.with_suffix('.jsonl')}" in result.stdout


def test_quantize_compares_on_what_was_held_out(tmp_path: Path) -> None:
    assert run("train", "digits", *SET_TINY, "--set", "held_out=200", "--out", tmp_path).exit_code == 0
    facts = tmp_path / "facts.json"
    words = ["--out", tmp_path / "exact", "--gray-levels", "51/2", "--json", facts]
    result = run("quantize", tmp_path / MODEL, *words)
    assert result.exit_code == 0
    digits, found = load_dataset("digits"), json.loads(facts.read_text())
    _, held_out = split_holdout(digits.train_labels, 200)
    images, labels = digits.train_images[held_out], digits.train_labels[held_out]
    expected = evaluate(load_model(tmp_path / "exact")[0], images, labels, "1/10").summary()
    assert found["images"] == "held-out"
    assert found["results"]["exact, 8 fraction bits"] == expected


def test_what_cannot_be_made_exact(exact: Path, trained: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "exact already, with 8 fraction bits" in sentence(run("quantize", exact, "--out", out))
    said = sentence(run("quantize", trained / MODEL, "--out", out, "--fraction-bits", 15))
    assert "cannot be exact at 15 fraction bits" in said
    assert "use fewer bits" in said
    tanh = Sequential(Normalize((0.3,), 0.4), Flatten(), LinfDistDense(64, 10), Tanh(), Negate())
    save_model(tanh, out, dataset="digits")
    assert "its Tanh layer 3 may round" in sentence(run("quantize", out, "--out", tmp_path / "x", "--eps", "0.1"))
    save_model(load_model(model)[0], out, dataset="digits")
    assert "a radius is needed" in sentence(run("quantize", out, "--out", tmp_path / "x"))  # no recipe has one
    assert not (tmp_path / "x").exists()


def test_nothing_is_written_over_what_it_is_made_of(model: Path, certificate: Path, exact: Path) -> None:
    before = model.read_bytes(), certificate.read_bytes()
    for command in (
        ["quantize", model, "--out", model],
        ["certify", model, "--eps", "0.1", "--certificate", model.parent / "." / MODEL],
        ["certify", model, "--eps", "0.1", "--json", model],
        ["verify", certificate, exact, "digits", "--json", certificate],
        ["verify", certificate, exact, "digits", "--json", exact],
        ["quantize", model, "--out", model.with_name("z"), "--json", model.with_name("z")],
        ["certify", model, "--eps", "0.1", "--certificate", model.with_name("z"), "--json", model.with_name("z")],
    ):
        assert "would be written over another file of this command" in sentence(run(*command))
    text = model.with_name("text")
    text.write_text("dear diary")
    assert f"{text}: it exists and is no exact net, so it" in sentence(run("quantize", model, "--out", text))
    copy = model.with_name("copy.safetensors")
    copy.write_bytes(before[0])
    for command in (["quantize", model, "--out", copy], ["certify", model, "--eps", "0.1", "--certificate", copy]):
        assert "so it is not written over" in sentence(run(*command))
    assert copy.read_bytes() == before[0]
    assert (model.read_bytes(), certificate.read_bytes()) == before


def test_results_are_written_over_results_alone(certificate: Path, exact: Path, tmp_path: Path) -> None:
    words = ["certify", exact, "--eps", "0.05", "--limit", 5]
    lines = tmp_path / "lines.jsonl"
    for content in (b'{"a": 1}\n{"b": 2}\n', certificate.read_bytes(), b"[1]", b"{", b"\xff"):
        lines.write_bytes(content)
        said = sentence(run(*words, "--json", lines))
        assert said == f"Error: {lines}: it exists and is no JSON object, so it is not written over: name another."
        assert lines.read_bytes() == content
    for content in (b'{"a": 1}\n{"b": 2}\n', b'{"format": "other-1"}\n', b"{}", b"dear diary"):
        lines.write_bytes(content)
        assert "it exists and is no certificate, so it is not written" in sentence(run(*words, "--certificate", lines))
        assert lines.read_bytes() == content
    for content in (certificate.read_bytes(), b""):
        lines.write_bytes(content)
        assert run(*words, "--certificate", lines).exit_code == 0
        assert json.loads(lines.read_bytes().partition(b"\n")[0])["n"] == 5
    for content in (b'{\n "a": 1}', b""):
        lines.write_bytes(content)
        assert run(*words, "--json", lines).exit_code == 0
        assert json.loads(lines.read_bytes())["n"] == 5


@pytest.mark.parametrize(
    "recipe",
    [
        "banana",
        "[]",
        '{"eps_test": "x"}',
        '{"eps_test": 2}',
        '{"eps_test": 0.1, "held_out": "all"}',
        '{"eps_test": 0.1, "held_out": 1e400}',
        '{"eps_test": 0.1, "held_out": NaN}',
        "[" * 100_000,
    ],
    ids=range(8),
)
@pytest.mark.parametrize("command", ["quantize", "audit"])
def test_a_recipe_that_cannot_be_read(command: str, recipe: str, model: Path, tmp_path: Path) -> None:
    save_model(load_model(model)[0], model, dataset="digits", recipe=recipe)
    said = sentence(run(command, model, "--out", tmp_path / "out"))
    assert f"{model}: the recipe in it cannot be read (" in said


# Certificates in files, and the checker.


def test_a_certificate_is_what_the_library_finds_and_verifies(exact: Path, certificate: Path, tmp_path: Path) -> None:
    digits, net = load_dataset("digits"), load_model(exact)[0]
    expected = certify(net, digits.test_images, digits.test_labels, "1/20", method="exact")
    header, *records, seal = map(json.loads, certificate.read_text().splitlines())
    assert (header["dataset"], header["split"], header["eps"], header["gray_levels"]) == (
        "digits",
        "test",
        "1/20",
        "51/4",
    )
    assert header["certified"]["count"] == expected.certified.sum() > 0
    assert [record["certified"] for record in records] == expected.certified.tolist()
    assert expected.steps is not None
    assert [record["radius"] for record in records] == expected.steps.tolist()
    assert seal.keys() == {"sha256"}
    for words, derived in (([], 360), (["--samples", 7], 7), (["--samples", 999], 360)):
        result = run("verify", certificate, exact, "digits", "--json", tmp_path / "verdict", *words)
        assert (result.exit_code, result.stderr) == (0, "")
        said = f"Verified: {header['certified']['count']} of 360 samples certified at ε = 1/20 = 12.75 gray levels"
        assert f"{said}, {derived} of the 360 re-derived." in result.stdout
        verdict = json.loads((tmp_path / "verdict").read_text())
        counts = {"data_n": 360, "rederived": derived}
        assert verdict == {"verified": True, "samples": words[1] if words else None} | header | counts


@pytest.mark.parametrize("method", ["interval", "margin"])
def test_a_certificate_of_a_float32_net_verifies(method: str, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "certificate.jsonl"
    words = ["--eps", "0.05", "--method", method, "--limit", 60, "--certificate", file]
    assert run("certify", trained / MODEL, *words).exit_code == 0
    result = run("verify", file, trained / MODEL, "digits", "--samples", 20)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "of 60 samples certified at ε = 1/20 = 12.75 gray levels, 20 of the 60 re-derived." in result.stdout


def test_data_may_be_a_file_of_arrays(exact: Path, certificate: Path, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    np.savez(tmp_path / "test.npz", images=digits.test_images, labels=digits.test_labels)
    assert run("verify", certificate, exact, tmp_path / "test.npz", "--samples", 5).exit_code == 0
    np.savez(tmp_path / "train.npz", images=digits.train_images, labels=digits.train_labels)
    said = sentence(run("verify", certificate, exact, tmp_path / "train.npz"), "Not verified: ")
    assert "sample 0, pixels: the certificate says" in said


Records = list[dict[str, Any]]


def tampered(certificate: Path, out: Path, change: Callable[[Records], None]) -> Path:
    """The certificate with a change, sealed anew by someone who knows how."""
    lines: Records = [json.loads(line) for line in certificate.read_text().splitlines()[:-1]]
    change(lines)
    body = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    out.write_bytes(body + json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n")
    return out


def with_one_more_certified(lines: Records) -> None:
    line = next(line for line in lines[1:] if line["margin"] > 0 and not line["certified"])
    line |= {"certified": True, "radius": 3264}  # as if the box had proved 12.75 gray levels


def with_a_larger_radius(lines: Records) -> None:
    next(line for line in lines[1:] if line["certified"])["radius"] += 1


def with_larger_logits(lines: Records) -> None:
    for line in lines[1:]:
        line["logits"] = [each + 1 for each in line["logits"]]


def with_a_larger_count(lines: Records) -> None:
    lines[0]["certified"]["count"] += 1


def untouched(lines: Records) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_one_more_certified, "certified by the box: the certificate says True, and False was found"),
        (with_a_larger_radius, "radius: the certificate says"),
        (with_larger_logits, "sample 0, logit 0: the certificate says"),
        (with_a_larger_count, "certified: the certificate says"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_certificate_that_is_tampered_with_is_refused(
    change: Callable[[Records], None], message: str, exact: Path, certificate: Path, tmp_path: Path
) -> None:
    assert run("verify", tampered(certificate, tmp_path / "same", untouched), exact, "digits").exit_code == 0
    assert (tmp_path / "same").read_bytes() == certificate.read_bytes()
    said = sentence(run("verify", tampered(certificate, tmp_path / "other", change), exact, "digits"), "Not verified: ")
    assert message in said


def test_no_certificate_is_written_that_could_not_be_verified(tmp_path: Path) -> None:
    net = Sequential(Normalize((0.3,), 0.4), Flatten(), LinfDistDense(64, 12), Dense(12, 10))
    save_model(net, tmp_path / "head", dataset="digits")
    arguments = ["certify", tmp_path / "head", "--eps", "0.01", "--limit", 5]
    assert run(*arguments).exit_code == 0
    said = sentence(run(*arguments, "--certificate", tmp_path / "x"))
    assert "this checker has no rule for a 'Dense' layer" in said
    assert os.listdir(tmp_path) == ["head"]


def test_a_certificate_cut_short_or_of_another_model_is_refused(exact: Path, certificate: Path, tmp_path: Path) -> None:
    whole, cut = certificate.read_bytes(), tmp_path / "cut"
    for content in (whole[:-1], whole[:-100], whole.replace(b'"label": 2', b'"label": 3', 1), b"", b"{}\n"):
        cut.write_bytes(content)
        assert "cut short or edited" in sentence(run("verify", cut, exact, "digits"), "Not verified: ")
    net, metadata = load_model(exact)
    save_model(net, tmp_path / "other", **{**metadata, "comment": "the same numbers"})
    said = sentence(run("verify", certificate, tmp_path / "other", "digits"), "Not verified: ")
    assert said.startswith("Not verified: model: the certificate says ")
    said = sentence(run("verify", certificate, exact, tmp_path / "nowhere"), "Not verified: ")
    assert "expected an .npz file, or a folder" in said


# The audit.


@pytest.mark.parametrize("kind", [thorough("float32"), "exact"])
def test_audit_writes_a_report_in_three_files(kind: str, exact: Path, model: Path, tmp_path: Path) -> None:
    path, out = (exact, tmp_path / "report") if kind == "exact" else (model, model.with_name("model-audit"))
    words = ["--gray-levels", "12.75", "--out", out, "--seed", 3] if kind == "exact" else []
    result = run("audit", path, "--limit", 40, *words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert sorted(os.listdir(out)) == ["audit.json", "audit.png", "audit.txt"]
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG\r\n")
    lines = (out / "audit.txt").read_text().splitlines()
    assert all(line in result.stdout for line in lines)
    facts = json.loads((out / "audit.json").read_text())
    assert facts["eps"] == ("1/20" if kind == "exact" else "1/10")  # the recipe's, if nothing else is said
    assert (facts["model"], facts["dataset"], facts["n"], facts["version"]) == (str(path), "digits", 40, __version__)
    assert (facts["seed"], facts["effort"]) == (3 if kind == "exact" else 0, 1)
    assert [section["name"] for section in facts["sections"]] == list(SECTIONS)
    for section, line in zip(facts["sections"], lines[1:], strict=True):
        assert section["sound"]
        assert line == f"holds   {section['name']}: {section['text']}."
    digits = load_dataset("digits")
    sections = audit.audit(
        load_model(path)[0], digits.test_images[:40], digits.test_labels[:40], facts["eps"], seed=facts["seed"]
    )
    assert json.loads(json.dumps([vars(section) for section in sections])) == facts["sections"]


def test_an_audit_that_breaks_something_is_an_alarm(
    exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With status 3, and a report all the same."""

    def generous(*arguments: Any, **settings: Any) -> Any:
        found = certify(*arguments, **settings)
        found.certified[...] = found.correct
        return found

    monkeypatch.setattr("linfengine.audit.run.certify", generous)
    result = run("audit", exact, "--limit", 40, "--out", tmp_path)
    assert result.exit_code == 3
    assert result.stderr.startswith("SOUNDNESS: attack on what is certified: ")
    assert result.stderr.endswith(". Please report this.\n")
    assert len(result.stderr.splitlines()) == 1
    assert sorted(os.listdir(tmp_path)) == ["audit.json", "audit.png", "audit.txt"]
    assert "\nBROKEN  attack on what is certified: " in (tmp_path / "audit.txt").read_text()
    sound = {each["name"]: each["sound"] for each in json.loads((tmp_path / "audit.json").read_text())["sections"]}
    assert sound == {name: name != "attack on what is certified" for name in SECTIONS}


def test_an_audit_whose_report_has_no_place(exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    assert "cannot be written" in sentence(run("audit", exact, "--limit", 5, "--out", tmp_path / "file"))
    monkeypatch.setattr(cli.audit, "audit", lambda *arguments, **settings: pytest.fail("audited in vain"))
    for name in ("audit.txt", "audit.json", "audit.png"):
        (tmp_path / name / name).mkdir(parents=True)
        assert "this is a folder" in sentence(run("audit", exact, "--limit", 5, "--out", tmp_path / name))


# Mistakes.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "Missing argument 'RECIPE'"),
        (["train", "digit"], "there is no recipe 'digit' (did you mean 'digits'?)"),
        (["train", "MNIST-small"], "there is no recipe 'MNIST-small' (did you mean 'mnist-small'?)"),
        (["train", "none.toml"], "recipe none.toml: cannot be read"),
        (["train", "."], ".: expected the name of a recipe or a .toml file, and this is a folder"),
        (["ablate", "digits", "--drop", "p_ramp", "--seeds", "9999999999"], "Invalid value for '--seeds'"),
        (["train", "digits", "--set", "widht=3"], "unknown key 'widht' (did you mean 'width'?)"),
        (["train", "digits", "--set", "width"], "--set width: expected key=value"),
        (["train", "digits", "--set", "width=wide"], "width must be a whole number, got 'wide'"),
        (["train", "digits", "--set", "lr=-1"], "lr must be a positive number"),
        (["train", "digits", "--set", "dataset=cats"], "dataset must be one of digits"),
        (["train", "digits", "--set", "eps_train=2/0"], "recipe: eps_train: expected a number or a fraction"),
        (["train", "digits", "--set", "held_out=1437"], "held_out 1437 leaves none of the 1437 training samples"),
        (["train", "digits", "--set", "batch_size=9999"], "batch_size 9999 is above the 1437"),
        (["train", "digits", "--resume", "--out", "nowhere"], "nowhere: there is no run to resume"),
        (["train", "digits", "--out", "/dev/null/runs"], "cannot be written"),
        (["train", "mnist-small", "--data-dir", "nowhere"], "nowhere: expected a folder of data sets"),
        (["train", "digits", "--widht", "3"], "No such option"),
        (["train", "digits", "--keep", "-1"], "Invalid value for '--keep'"),
        (["train", "digits", "--budget", "soon"], "Invalid value for '--budget'"),
        (["train", "digits", "--set", "kappa=1.5"], "kappa must be from 0 to 1, got 1.5 (the nearest is 1)"),
        (["train", "digits", "--set", "net=conf"], "got 'conf' (did you mean 'conv'?)"),
        (["train", "digits", "--set", "head=8"], "loss must be hinge or cross-entropy for a net with a head"),
        (["train", "digits", "--set", "crop_size=9"], "crop_size must be a number of pixels from 0 (no crop) to 8"),
        (["plot"], "Missing argument 'RUN...'"),
        (["plot", "none"], "none: expected the folder of a training run, and there is nothing of that name"),
        (["plot", "."], ".: expected the folder of a training run with an epoch done, and it holds no metrics.jsonl"),
        (["ablate", "digits"], "Missing option '--drop'"),
        (["ablate", "digit", "--drop", "all"], "there is no recipe 'digit' (did you mean 'digits'?)"),
        (["ablate", "digits", "--drop", "p_rampe"], "there is no such part (did you mean 'p_ramp'?): expected p_ramp"),
        (["ablate", "digits", "--drop", "kappa"], "--drop kappa: this recipe has no such part; it has p_ramp, p_hold"),
        (["ablate", "digits", "--drop", " , "], "--drop: name the parts to drop, of p_ramp, p_hold"),
        (["ablate", "digits", "--drop", "p_ramp", "--seeds", "0"], "Invalid value for '--seeds'"),
        (["ablate", "digits", "--drop", "p_ramp", "--epochs", "3", "--budget", "1"], "give one of them"),
        (["train", "digits", "--epochs", "3", "--budget", "1"], "--epochs and --budget both set the number of epochs"),
        (["ablate", "digits", "--drop", "p_ramp", "--budget", "-3"], "a positive number of minutes, got -3"),
        (["ablate", "digits", "--drop", "p_ramp", "--set", "eps_test=0"], "eps_test must be the radius to certify at"),
        (["trane", "digits"], "No such command 'trane'"),
        (["certify"], "Missing argument 'MODEL'"),
        (["certify", "none"], "a radius is needed: --eps 0.3 with pixels in [0, 1], or --gray-levels 76.5 of 255"),
        (["certify", "none", "--eps", "0.1", "--gray-levels", "8"], "name the same radius: give one of them"),
        (["certify", "none", "--gray-levels", "-1"], "expected a radius in gray levels from 0 to 255, got -1"),
        (["certify", "none", "--gray-levels", "256"], "expected a radius in gray levels from 0 to 255, got 256"),
        (["certify", "none", "--gray-levels", "x"], "expected a number or a fraction such as 8 or 76.5, got 'x'"),
        (["certify", "none", "--eps", "0.1"], "none: there is no such file"),
        (["certify", ".", "--eps", "0.1"], ".: expected a safetensors file, and this is a folder"),
        (["certify", "none", "--eps", "8/"], "expected a number or a fraction such as 0.3 or 8/255, got '8/'"),
        (
            ["certify", "none", "--eps", "8"],
            "Invalid value for '--eps': expected a radius in pixel units",
        ),
        (["certify", "none", "--eps", "-0.1"], "expected a radius in pixel units from 0 to 1"),
        (["certify", "none", "--eps", "nan"], "expected a number or a fraction"),
        (["certify", "none", "--eps", "0.1", "--method", "guess"], "'guess' is not one of"),
        (["certify", "none", "--eps", "0.1", "--attack", "pdg"], "'pdg' is not"),
        (["certify", "none", "--eps", "0.1", "--steps", "3"], "are for an attack: add --attack pgd"),
        (["certify", "none", "--eps", "0.1", "--restarts", "3"], "are for an attack: add --attack pgd"),
        (["certify", "none", "--eps", "0.1", "--targeted"], "are for an attack: add --attack pgd"),
        (["certify", "none", "--eps", "0.1", "--restarts", "0"], "Invalid value for '--restarts'"),
        (["certify", "none", "--eps", "1e-99999999"], "expected a number or a fraction"),
        (["certify", "none", "--eps", "0.1", "--steps", "0"], "Invalid value for '--steps'"),
        (["certify", "none", "--eps", "0.1", "--limit", "0"], "Invalid value for '--limit'"),
        (["certify", "none", "--eps", "0.1", "--dataset", "cats"], "'cats' is not one of"),
        (["quantize", "none"], "Missing option '--out'"),
        (["quantize", "none", "--out", "x"], "none: there is no such file"),
        (["quantize", "none", "--out", "x", "--fraction-bits", "16"], "Invalid value for '--fraction-bits'"),
        (["quantize", "none", "--out", "x", "--fraction-bits", "-1"], "Invalid value for '--fraction-bits'"),
        (["quantize", "none", "--out", "/dev/null/x"], "cannot be written"),
        (["verify", "none", "none", "digits"], "File 'none' does not exist"),
        (["verify", ".", ".", "digits"], "File '.' is a directory"),
        (["audit"], "Missing argument 'MODEL'"),
        (["audit", "none"], "none: there is no such file"),
        (["audit", "none", "--effort", "0"], "Invalid value for '--effort'"),
        (["audit", "none", "--gray-levels", "300"], "expected a radius in gray levels from 0 to 255"),
        (["info", "--yaml"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_told_in_a_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in sentence(run(*arguments))
    assert os.listdir(tmp_path) == []


def test_a_mistake_in_a_process_of_its_own(tmp_path: Path) -> None:
    assert f"{tmp_path / 'none'}: there is no such file" in sentence(
        process("certify", tmp_path / "none", "--eps", "0.1")
    )


def test_a_long_sentence_stays_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / ("long " * 40)
    assert f"Error: {path}: there is no such file." == sentence(run("certify", path, "--eps", "0.1"))
    path = tmp_path / "with [red]marks[/red] [/]"
    assert f"Error: {path}: there is no such file." == sentence(run("certify", path, "--eps", "0.1"))


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def with_text(path: Path) -> None:
    path.write_text("a model, I swear")


def of_another_net(path: Path) -> None:
    with_config(path, width=17)


def with_config(path: Path, **changes: Any) -> None:
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {"config": json.dumps(json.loads(metadata["config"]) | changes)})


def with_two_means(path: Path) -> None:
    with_config(path, mean=[0.1, 0.2])


def with_two_stds(path: Path) -> None:
    with_config(path, std=[0.1, 0.2])


def that_overflows(path: Path) -> None:
    net, metadata = load_model(path)
    for weight, value in zip(("2.weight", "4.weight"), (3e38, -3e38), strict=True):
        net.state()[weight][...] = value
    save_model(net, path, dataset=metadata["dataset"], recipe=metadata["recipe"])


def of_another_format(path: Path) -> None:
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {"format": "linfengine-9"})


def not_finite(path: Path) -> None:
    net, metadata = load_model(path)
    net.state()["2.weight"][0, 0] = np.nan
    save_model(net, path, dataset=metadata["dataset"])


def at_finite_p(path: Path) -> None:
    net, metadata = load_model(path)
    net.p = 8
    save_model(net, path, dataset=metadata["dataset"])


def for_other_images(path: Path) -> None:
    save_model(linf_net((1, 28, 28), 10, width=4, depth=2, mean=(0.1,), std=0.3), path, dataset="digits")


def for_other_classes(path: Path) -> None:
    save_model(linf_net((1, 8, 8), 3, width=4, depth=2, mean=(0.1,), std=0.3), path, dataset="digits")


def conv_for_other_images(path: Path) -> None:
    save_model(Sequential(*conv().layers[:-2], LinfDistDense(50, 10, bias=True)), path, dataset="digits")


def conv_for_other_classes(path: Path) -> None:
    save_model(conv(classes=3), path, dataset="digits")


def conv_not_finite(path: Path) -> None:
    net = conv()
    net.state()["1.weight"][0, 0] = np.inf
    save_model(net, path, dataset="digits")


def for_no_dataset(path: Path) -> None:
    save_model(load_model(path)[0], path)


def for_an_unknown_dataset(path: Path) -> None:
    save_model(load_model(path)[0], path, dataset="cats")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "expected a whole safetensors file"),
        (with_text, "expected a whole safetensors file"),
        (of_another_net, "not a model that fits its own description"),
        (with_two_means, "not a model that fits its own description"),
        (with_two_stds, "not a model that fits its own description"),
        (that_overflows, "its values may overflow float32"),
        (of_another_format, "expected format linfengine-2, got linfengine-9"),
        (not_finite, "cannot be certified: 2.weight holds values that are not finite"),
        (conv_not_finite, "cannot be certified: 1.weight holds values that are not finite"),
        (at_finite_p, "the model is at p = 8: only the p = ∞ net"),
        (for_other_images, "the model takes images of shape (1, 28, 28) in 10 classes; digits has (1, 8, 8) in 10"),
        (for_other_classes, "the model takes images of shape (1, 8, 8) in 3 classes; digits has (1, 8, 8) in 10"),
        (conv_for_other_images, "the model cannot be evaluated on these images: linf_dist: x has 72 features"),
        (conv_for_other_classes, "the model gives an image logits of shape (1, 3); digits has 10 classes"),
        (for_no_dataset, "does not say which data set it is for: name one with --dataset (digits, mnist"),
        (for_an_unknown_dataset, "names the data set 'cats', which is unknown: name one with --dataset (digits, mnist"),
    ],
)
def test_a_model_that_cannot_be_certified(spoil: Callable[[Path], None], message: str, model: Path) -> None:
    spoil(model)
    assert message in sentence(run("certify", model, "--eps", "0.1", "--attack", "pgd"))
    for command in ("audit", "quantize"):
        assert message in sentence(run(command, model, "--eps", "0.1", "--out", model.with_name("out")))
    assert os.listdir(model.parent) == [model.name]


@pytest.mark.parametrize("command", ["certify", "quantize", "audit"])
def test_two_radii_are_one_too_many(command: str, model: Path, tmp_path: Path) -> None:
    words = ["--out", tmp_path / "out"] if command != "certify" else []
    said = sentence(run(command, model, "--eps", "0.1", "--gray-levels", "25.5", *words))
    assert "--eps and --gray-levels name the same radius: give one of them" in said


def test_a_net_that_rounds_has_no_exact_certificate(model: Path) -> None:
    said = sentence(run("certify", model, "--eps", "0.1", "--method", "exact"))
    assert "has no exact certificate: make it exact with quantize first" in said


def test_a_checkpoint_is_no_model(trained: Path) -> None:
    said = sentence(run("certify", trained / CHECKPOINT, "--eps", "0.1"))
    assert "expected a model, got a file without a net's description (a training checkpoint?)" in said


def test_a_data_set_that_does_not_fit_or_is_not_there(model: Path, tmp_path: Path) -> None:
    arguments = ["certify", model, "--eps", "0.1", "--dataset", "mnist", "--data-dir", tmp_path / "none"]
    assert "expected a folder of data sets, found none" in sentence(run(*arguments))


@pytest.mark.skipif("LINFENGINE_DATA" not in os.environ, reason="MNIST wanted")
def test_a_real_data_set_that_does_not_fit(model: Path) -> None:
    said = sentence(run("certify", model, "--eps", "0.1", "--dataset", "mnist"))
    assert "the model takes images of shape (1, 8, 8) in 10 classes; mnist has (1, 28, 28) in 10" in said


def test_results_that_cannot_be_written(model: Path, tmp_path: Path) -> None:
    said = sentence(run("certify", model, "--eps", "0.1", "--limit", 5, "--json", tmp_path))
    assert f"{tmp_path}: expected a file's name, and this is a folder" in said
    said = sentence(run("certify", "none", "--eps", "0.1", "--json", tmp_path))  # before anything is read
    assert f"{tmp_path}: expected a file's name, and this is a folder" in said


def test_training_that_diverges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfengine.losses.hinge", lambda logits, *arguments, **settings: logits.sum() * math.nan)
    said = sentence(run("train", "digits", *SET_TINY, "--out", tmp_path))
    assert (
        "diverged in step 1 of epoch 1: the loss is nan; no epoch was done; try another folder with a smaller" in said
    )


@pytest.mark.parametrize("encoding", ["ascii", thorough("cp1252")])
def test_a_terminal_without_greek_letters(encoding: str, trained: Path, tmp_path: Path) -> None:
    arguments = ["certify", trained / MODEL, "--eps", "0.1", "--limit", 5, "--json", tmp_path / "result.json"]
    for command in (["--help"], arguments, ["certify", trained / MODEL, "--eps", "2"]):
        result = process(*command, PYTHONIOENCODING=encoding)
        assert "Traceback" not in result.stderr
        assert result.returncode == (2 if "2" in command else 0)
    assert (tmp_path / "result.json").exists()


# What is printed, and where.


@pytest.fixture
def hostile(model: Path) -> Path:
    """A model whose path and metadata hold escape sequences, markup and formulas."""
    net, _ = load_model(model)
    facts = {"eps_test": 0.1, "source": "\x1b[31mred\n\u202e[bold]", "published": {"clean": 50}}
    path = model.with_name("$\\frac$[bold]\x1b[1m.safetensors")
    save_model(net, path, dataset="digits", recipe=json.dumps(facts))
    return path


def test_what_comes_from_a_file_is_shown_escaped(hostile: Path, tmp_path: Path) -> None:
    result = run("certify", hostile, "--eps", "0.1", "--certificate", tmp_path / "[red]proof.jsonl")
    assert (result.exit_code, result.stderr) == (0, "")
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", result.stdout)
    assert "Published: \\x1b[31mred\\n\\u202e[bold].\n" in result.stdout
    assert "$\\frac$[bold]\\x1b[1m.safetensors' digits\n" in result.stdout
    assert f"{tmp_path}/[red]proof.jsonl" in result.stdout
    tensors, metadata = load_tensors(hostile)
    save_tensors(hostile, tensors, metadata | {"format": "\x1b[2J"})
    assert sentence(run("certify", hostile, "--eps", "0.1")).endswith(
        "$\\frac$[bold]\\x1b[1m.safetensors: expected format linfengine-2, got \\x1b[2J."
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31m"],
        ["info", "--\x1b[31m"],
        ["certify", "x", "--method", "\x1b[31m"],
        ["certify", "x", "--eps", "\x1b[31m"],
        ["verify", "\x1b[31m", "x", "x"],
        ["train", "\x1b[31m"],
        ["train", "digits", "--set", "\x1b[31m=1"],
        ["ablate", "digits", "--drop", "\x1b[31m"],
        ["plot", "\x1b[31m"],
    ],
    ids=lambda words: words[0].strip("\x1b"),
)
def test_what_comes_from_an_argument_is_shown_escaped(arguments: list[str]) -> None:
    said = sentence(run(*arguments))
    assert "\\x1b[31m" in said
    assert "\x1b" not in said


def test_markup_in_a_table_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli.info, "gpu_facts", lambda: "pip install 'linfengine[cuda12]' :smile: \x1b[1m")
    said = " ".join(run("info").stdout.split())
    assert "gpu pip install 'linfengine[cuda12]' :smile: \\x1b[1m recipes" in said


def test_colour_is_for_those_who_want_it(tmp_path: Path) -> None:
    for environment, coloured in (({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False), ({"TERM": "xterm"}, True)):
        words = ["certify", str(tmp_path / "none"), "--eps", "0.1"]
        result = CliRunner(env={"NO_COLOR": "", **environment}).invoke(main, words, color=True)
        assert ("\x1b[" in result.stderr) == coloured


def test_json_on_standard_output_is_alone_there(exact: Path, certificate: Path, trained: Path, tmp_path: Path) -> None:
    for words in (
        ["certify", exact, "--eps", "0.05", "--limit", 5],
        ["quantize", trained / MODEL, "--out", tmp_path / "exact"],
        ["verify", certificate, exact, "digits", "--samples", 1],
        ["plot", trained, "--out", tmp_path / "curves.svg"],
    ):
        for name in ("-", "/dev/stdout"):
            result = run(*words, "--json", name)
            assert result.exit_code == 0
            assert isinstance(json.loads(result.stdout), dict)
            assert result.stderr
        assert json.loads(result.stdout).keys() == json.loads(run(*words, "--json", "-").stdout).keys()
    assert run("certify", exact, "--eps", "0.05", "--limit", 5).stderr == ""  # of the next command words are no JSON
    for flags in (["--json", "-"], ["--json"]):
        assert json.loads(run("info", *flags).stdout)["linfengine"] == __version__
    assert run("info", "--json", tmp_path / "facts.json").stdout.startswith(" linfengine ")
    assert json.loads((tmp_path / "facts.json").read_text())["linfengine"] == __version__
    assert not Path("-").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such files")
def test_json_goes_to_devices_pipes_and_through_links(exact: Path, tmp_path: Path) -> None:
    words = ["certify", exact, "--eps", "0.05", "--limit", 5, "--json"]
    assert run(*words, "/dev/null", "--certificate", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "target.json")
    (tmp_path / "target.json").write_text("{}")
    (tmp_path / "target.json").chmod(0o600)
    assert run(*words, tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "target.json").read_text())["n"] == 5
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        assert run(*words, tmp_path / "pipe").exit_code == 0
        assert json.loads(read.result(timeout=10))["n"] == 5


@pytest.mark.parametrize(
    "words",
    [
        ["certify", "x", "--eps", "0.1", "--certificate", "-"],
        ["quantize", "x", "--out", "-"],
        ["plot", "x", "--out", "-"],
        ["train", "digits", "--out", "-"],
        ["audit", "x", "--out", ""],
    ],
    ids=lambda words: words[0],
)
def test_only_json_goes_to_standard_output(words: list[str]) -> None:
    assert f"expected the name of a file or folder, got '{words[-1]}'" in sentence(run(*words))


def closed() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.skipif(sys.platform == "win32", reason="pipes fail otherwise there")
def test_files_are_written_before_a_closed_output_ends_the_command(exact: Path, tmp_path: Path) -> None:
    words = ["certify", exact, "--eps", "0.05", "--json", tmp_path / "h.json", "--certificate", tmp_path / "c.jsonl"]
    output = closed()
    result = process(*words, stdout=output)
    os.close(output)
    assert (result.returncode, result.stderr) == (cli.program.OUTPUT_CLOSED, "")
    assert json.loads((tmp_path / "h.json").read_text())["n"] == 360
    assert (tmp_path / "c.jsonl").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full wanted")
@pytest.mark.parametrize("words", [["--help"], ["info"], ["info", "--json"]], ids=" ".join)
def test_an_output_that_is_full(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as end:
            main(words)
    assert end.value.code == 2
    assert capfd.readouterr().err == "Error: standard output: No space left on device.\n"


def test_training_whose_output_is_closed_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = ProgressBar.epoch

    def broken(bar: ProgressBar, figures: dict[str, Any]) -> None:
        sound(bar, figures)
        if figures["epoch"] == 2:
            raise BrokenPipeError

    monkeypatch.setattr(ProgressBar, "epoch", broken)
    result = run("train", "digits", *ON_CPU, "--out", tmp_path)
    assert result.exit_code == cli.program.OUTPUT_CLOSED
    assert result.stderr.startswith("Standard output was closed. The run is safe in ")
    monkeypatch.undo()
    assert run("train", "digits", *ON_CPU, "--out", tmp_path, "--resume").exit_code == 0


def test_an_error_that_is_nobodys_mistake_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, status in ((OSError(errno.EAGAIN, "Try again"), 2), (MemoryError(), 2), (ZeroDivisionError(), None)):
        monkeypatch.setattr(cli.info, "installation_facts", Mock(side_effect=error))
        if status:
            sentence(run("info"))
        else:
            assert run("info").exception is error


# From the first moment on.


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals")
@pytest.mark.parametrize("module", ["linfengine.startup", "numpy", "linfengine.tensor", "linfengine.cli"])
def test_an_interruption_while_modules_are_imported(module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "linfengine", "info"]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell that starts tests in the background has them ignore SIGINT, and their children with them
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as started:
        assert started.stderr
        assert any(line.split("|")[-1].strip() == module for line in started.stderr)
        started.send_signal(signal.SIGINT)
        _, said = started.communicate(timeout=60)
    assert started.returncode == 130
    assert [line for line in said.splitlines() if not line.startswith("import time:")][-1] == "Interrupted."
    assert "Traceback" not in said


@pytest.mark.parametrize("beside_setup", [True, False])
def test_a_package_that_is_not_compiled(beside_setup: bool, tmp_path: Path) -> None:
    package = tmp_path / "linfengine"
    package.mkdir()
    for name in ("__init__", "__main__", "startup"):
        (package / f"{name}.py").write_text((ROOT / "linfengine" / f"{name}.py").read_text())
    if beside_setup:
        (tmp_path / "setup.py").touch()
    remedy = "run 'pip install -e .' there, or start Python in another folder" if beside_setup else "install it anew"
    # -S: an editable install would lend its compiled modules
    for words, status in ((["-m", "linfengine"], 2), (["-c", "import linfengine"], 1)):
        result = subprocess.run(
            [sys.executable, "-S", *words], cwd=tmp_path, env={"PYTHONPATH": ""}, capture_output=True, text=True
        )
        assert result.returncode == status
        assert remedy in result.stderr.splitlines()[-1]
        assert ("Traceback" in result.stderr) == (status == 1)


def test_no_warning_hides_in_a_command(exact: Path, tmp_path: Path) -> None:
    words = ["certify", exact, "--eps", "0.05", "--limit", 5, "--json", tmp_path / "h.json"]
    result = process(*words, flags=["-X", "dev", "-W", "error"])
    assert (result.returncode, result.stderr) == (0, "")


SINGLE = [
    (name, option.opts[-1])
    for name, command in main.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple and not option.is_flag
]


@pytest.mark.parametrize(("command", "option"), SINGLE, ids=" ".join)
def test_an_option_is_given_once(command: str, option: str) -> None:
    assert f"Error: {option} is given 2 times: give it once." == sentence(run(command, option, "1", option, "2"))


def test_epochs_stretch_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli.train, "train", lambda recipe, *arguments, **settings: asked.append(recipe))
    assert run("train", "digits", "--epochs", 30, "--out", tmp_path).exit_code == 0
    assert asked == [load_recipe("digits", epochs=30)]
    assert "give one of them" in sentence(run("train", "digits", "--epochs", 30, "--set", "epochs=3"))


def test_help_is_enough() -> None:
    """It names every key of a recipe, and no file that an installed package lacks."""
    said = run("train", "--help").stdout
    for each in fields(Recipe):
        assert re.search(rf"^  {each.name} .*{re.escape(each.metadata['meaning'])}$", said, re.MULTILINE)
    assert not [name for name in main.commands if "docs/" in run(name, "--help").stdout]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such paths")
def test_paths_that_are_no_text(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = [
        audit.Section("Lipschitz search", True, "", {"by kind": {"pairs": {"ratio": 0.5}}}),
        audit.Section("attack on what is certified", True, "", {}),
        audit.Section("floating-point attack", True, "", {"nets": {"tried": 1} | dict.fromkeys(audit.RADII, 0)}),
    ]
    monkeypatch.setattr(cli.audit, "audit", lambda *arguments, **settings: sections)
    folder = tmp_path / "\udcff$\\frac$[bold]\n"
    folder.mkdir()
    for name in (MODEL, METRICS):
        (folder / name).write_bytes((trained / name).read_bytes())
    for words in (
        ["plot", folder],
        ["audit", folder / MODEL],
    ):
        result = run(*words)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "\\udcff$\\frac$[bold]\\n/" in result.stdout
    report = (folder / "model-audit" / "audit.txt").read_text(encoding="utf-8")
    assert "\\udcff$\\frac$[bold]\\n/model.safetensors on 360 test images" in report.splitlines()[0]
