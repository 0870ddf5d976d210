"""Training: it learns, and neither threads nor interruptions leave a trace in the bits it ends with."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from op_cases import Array

from linfengine.backends import cpu
from linfengine.certify import certify, predict
from linfengine.checkpoint import load_model, load_tensors, save_tensors, write_file
from linfengine.data import Dataset, load_dataset, split_holdout, to_pixels
from linfengine.errors import UserError
from linfengine.losses import hinge, mixture
from linfengine.recipes import Recipe, load_recipe
from linfengine.runs import METRICS
from linfengine.tensor import Tensor
from linfengine.train import CHECKPOINT, MODEL, Observer, Run, train

ROOT = Path(__file__).parents[1]
TINY = ["loss=hinge", "width=32", "depth=2", "epochs=6", "ramp_start=2", "ramp_end=5", "lr=0.03", "batch_size=32"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Layers this small gain nothing from more, and the bits are the same."""
    before = cpu.threads()
    cpu.use_threads(1)
    yield
    cpu.use_threads(before)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """A hundred of them, for what need not learn."""
    return replace(digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100])


def tiny(*settings: str) -> Recipe:
    return load_recipe("digits", [*TINY, *settings])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without the time it took."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(a: Path, b: Path) -> None:
    tensors, others = (load_tensors(folder / MODEL)[0] for folder in (a, b))
    assert tensors.keys() == others.keys()
    for name, tensor in tensors.items():
        assert tensor.tobytes() == others[name].tobytes(), name
    assert (a / MODEL).read_bytes() == (b / MODEL).read_bytes()
    assert metrics(a) == metrics(b)
    assert sorted(os.listdir(a)) == sorted(os.listdir(b)) == [CHECKPOINT, METRICS, MODEL]


# It learns.


def test_a_tiny_net_learns_digits(digits: Dataset, tmp_path: Path) -> None:
    net = train(tiny(), digits, tmp_path)
    pixels, labels = to_pixels(digits.test_images), digits.test_labels
    proof = certify(net, pixels, labels, "1/20")
    assert proof.correct.mean() > 0.7  # chance is 0.1
    assert proof.certified.mean() > 0.5
    assert net.p == math.inf
    loaded, metadata = load_model(tmp_path / MODEL)
    np.testing.assert_array_equal(predict(loaded, pixels), predict(net, pixels))
    assert metadata["dataset"] == "digits"
    assert Recipe(**json.loads(metadata["recipe"])) == tiny()


@pytest.mark.parametrize(
    "settings",
    [
        ["loss=mixture"],
        ["loss=cross-entropy"],
        ["loss=hinge", "mix=1"],
        ["weight_decay=0.01", "cheap_orders=false", "lr_hold=2"],
        ["crop_padding=1", "crop_mode=edge", "flip=true"],
        ["depth=1", "mean_shift=false", "identity=false"],
        ["ramp_start=0", "ramp_end=0"],
        ["batch_size=1437"],
    ],
    ids=" ".join,
)
def test_every_setting_trains(settings: list[str], digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny("epochs=3", "ramp_start=1", "ramp_end=2", *settings)
    net = train(recipe, digits, tmp_path)
    assert all(np.isfinite(array).all() for array in net.state().values())
    untrained = Run(recipe, digits).model
    assert any((array != untrained.state()[name]).any() for name, array in net.state().items())
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    if recipe.batch_size < 100:
        assert lines[-1]["accuracy"] > 0.15 or recipe.ramp_end == 0


@pytest.mark.parametrize("loss", ["mixture", "hinge"])
def test_the_loss_is_the_recipes(loss: str, few: Dataset) -> None:
    """eps in net units, lambda on its ramp, the learned scale: the loss of the run is that of `losses`."""
    recipe = tiny(f"loss={loss}", "mix=0.5", "lambda_first=0.1", "lambda_last=0.001", "ramp_start=2", "ramp_end=4")
    run = Run(recipe, few)
    run.scale.data[...] = 1.5
    eps = recipe.eps_train / few.std
    logits, labels = run.model(Tensor(to_pixels(few.train_images))), few.train_labels
    for epoch, weight in ((0.0, 0.1), (3.0, 0.01), (5.0, 0.001)):
        expected = mixture(logits, labels, eps, weight, 1.5) if loss == "mixture" else hinge(logits, labels, eps, 0.5)
        np.testing.assert_allclose(run.loss(logits, labels, eps, epoch).item(), expected.item(), rtol=1e-6)


# What it writes.


def test_metrics_hold_the_story_of_every_epoch(digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny("held_out=200")
    net = train(recipe, digits, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert line.keys() >= {"p", "lr", "loss", "accuracy", "margin", "epoch", "seconds"}
        assert 0 <= line["beyond_2eps"] <= line["accuracy"] <= 1
        assert line["seconds"] > 0
        assert all(math.isfinite(line[key]) for key in ("lr", "loss", "margin"))
    assert [line["p"] for line in lines[:2]] == [8.0, 8.0]
    assert lines[5]["p"] == "inf"  # JSON has no infinity
    orders = [float(line["p"]) for line in lines]
    assert orders == sorted(orders)
    rates = [line["lr"] for line in lines]
    assert rates == sorted(rates, reverse=True)
    _, held_out = split_holdout(digits.train_labels, 200)
    pixels, labels = to_pixels(digits.train_images[held_out]), digits.train_labels[held_out]
    assert lines[-1]["held_out_accuracy"] == (predict(net, pixels).argmax(axis=1) == labels).mean()
    certified = certify(net, pixels, labels, recipe.eps_test, method="margin").certified
    assert lines[-1]["held_out_certified"] == certified.mean()


def test_what_is_held_out_is_never_seen(digits: Dataset) -> None:
    run = Run(tiny("held_out=1000"), digits)
    train_part, held_out = split_holdout(digits.train_labels, 1000)
    np.testing.assert_array_equal(run.images, digits.train_images[train_part])
    np.testing.assert_array_equal(run.held_out[1], digits.train_labels[held_out])
    assert len(run.labels) == 437


class Diary(Observer):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int, int]] = []
        self.lines: list[dict[str, Any]] = []

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        assert figures.keys() == {"p", "lr", "loss", "accuracy", "margin"}
        self.steps.append((epoch, done, steps))

    def epoch(self, figures: dict[str, Any]) -> None:
        self.lines.append(figures)


def test_an_observer_sees_every_step(few: Dataset, tmp_path: Path) -> None:
    diary = Diary()
    train(tiny(), few, tmp_path, observer=diary)
    assert diary.steps == [(epoch, step, 4) for epoch in range(1, 7) for step in range(1, 5)]
    assert [{**line, "p": float(line["p"])} for line in metrics(tmp_path)] == [
        {key: value for key, value in line.items() if key != "seconds"} for line in diary.lines
    ]


# The same bits.


def command(
    out: Path, *settings: str, resume: bool = False, threads: int = 1, **keywords: Any
) -> subprocess.Popen[str]:
    """A real `linfengine train digits`, in a process of its own."""
    words = [word for setting in (*TINY, *settings) for word in ("--set", setting)]
    return subprocess.Popen(
        [sys.executable, "-m", "linfengine", "train", "digits", "--out", out, *words, *["--resume"] * resume],
        cwd=ROOT,
        env=os.environ | {"LINFENGINE_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **keywords,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def wait_for_epochs(process: subprocess.Popen[str], out: Path, epochs: int) -> None:
    """Until that many epochs are in the checkpoint's folder, with more to come."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / CHECKPOINT).exists() and len(metrics(out)) >= epochs:
            return
        time.sleep(0.002)
    process.kill()
    pytest.fail(f"the training ended before it could be stopped: {process.communicate()}")


def remove_strays(out: Path) -> None:
    """Files that were being written under a temporary name."""
    for stray in out.glob(".*"):
        stray.unlink()


def test_threads_do_not_change_a_bit(digits: Dataset, tmp_path: Path) -> None:
    short = ["epochs=3", "ramp_start=1", "ramp_end=2", "batch_size=128"]
    train(tiny(*short), digits, tmp_path / "here")
    for threads in (1, 2):
        out = tmp_path / str(threads)
        status, _, err = finish(command(out, *short, threads=threads))
        assert (status, err) == (0, "")
        assert_same_run(out, tmp_path / "here")


def test_seeds_do(few: Dataset, tmp_path: Path) -> None:
    a, b = (train(tiny(f"seed={seed}"), few, tmp_path / str(seed)).state() for seed in (0, 1))
    assert all((a[name] != b[name]).any() for name in a)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(digits: Dataset, tmp_path: Path) -> None:
    long = ["epochs=40", "ramp_start=10", "ramp_end=30", "loss=mixture", "crop_padding=1", "weight_decay=0.001"]
    train(tiny(*long), digits, tmp_path / "whole")
    out = tmp_path / "killed"
    for epochs in (2, 9):
        process = command(out, *long, resume=out.exists())
        wait_for_epochs(process, out, epochs)
        process.send_signal(signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert not (out / MODEL).exists()
        assert epochs <= len(metrics(out)) < 40
    remove_strays(out)  # a killed process cannot clean up after itself
    status, _, err = finish(command(out, *long, resume=True))
    assert (status, err) == (0, "")
    assert_same_run(out, tmp_path / "whole")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT")
def test_ctrl_c_leaves_a_whole_checkpoint_and_says_how_to_go_on(digits: Dataset, tmp_path: Path) -> None:
    long = ["epochs=40", "ramp_start=10", "ramp_end=30"]
    train(tiny(*long), digits, tmp_path / "whole")
    out = tmp_path / "interrupted"
    # a shell that starts tests in the background has them ignore SIGINT, and their children with them
    process = command(out, *long, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for_epochs(process, out, 3)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert err.startswith("Interrupted. The last finished epoch is safe in ")
    assert err.endswith("the same command with --resume goes on from there.\n")
    remove_strays(out)  # there is hardly ever one, but an interruption may come before a file is looked after
    assert sorted(os.listdir(out)) == [CHECKPOINT, METRICS]
    train(tiny(*long), digits, out, resume=True)
    assert_same_run(out, tmp_path / "whole")


class Stop(Observer):
    """Interrupts at one step, or after one epoch."""

    def __init__(self, epoch: int, step: int | None) -> None:
        self.at = epoch, step

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        if (epoch, done) == self.at:
            raise KeyboardInterrupt

    def epoch(self, figures: dict[str, Any]) -> None:
        if (figures["epoch"], None) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("epoch", "step"), [(2, 1), (2, 4), (3, 2), (4, None), (6, 4), (6, None)])
def test_a_run_can_stop_anywhere(epoch: int, step: int | None, few: Dataset, tmp_path: Path) -> None:
    """At any step, between epochs, before the ramp, on it and after it."""
    recipe = tiny("loss=mixture", "flip=true")
    train(recipe, few, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, few, tmp_path / "stopped", observer=Stop(epoch, step))
    diary = Diary()
    train(recipe, few, tmp_path / "stopped", resume=True, observer=diary)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
    first = epoch if step else epoch + 1
    assert {at for at, _, _ in diary.steps} == set(range(first, 7))


@pytest.mark.parametrize("name", [METRICS, CHECKPOINT, MODEL])
def test_a_disk_that_is_full_costs_an_epoch_at_most(
    name: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails, between the line and the checkpoint as well, leaves what can be resumed."""
    train(tiny(), few, tmp_path / "whole")
    times = 0

    def full(path: Path, content: bytes) -> None:
        nonlocal times
        times += Path(path).name == name
        if Path(path).name == name and times == (1 if name == MODEL else 4):
            raise UserError(f"{path}: cannot be written (No space left on device)")
        write_file(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("linfengine.train.write_file", full)
        patch.setattr("linfengine.checkpoint.write_file", full)
        with pytest.raises(UserError, match="No space left"):
            train(tiny(), few, tmp_path / "stopped")
    train(tiny(), few, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_that_is_done_can_be_resumed(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path / "once")
    train(tiny(), few, tmp_path / "twice")
    (tmp_path / "twice" / MODEL).unlink()
    train(tiny(), few, tmp_path / "twice", resume=True)
    assert_same_run(tmp_path / "once", tmp_path / "twice")


# What is refused.


def test_a_run_is_not_overwritten(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for kept in ([CHECKPOINT, METRICS, MODEL], [METRICS, MODEL], [MODEL], [METRICS]):
        for name in {CHECKPOINT, METRICS, MODEL} - set(kept):
            (tmp_path / name).unlink(missing_ok=True)
        with pytest.raises(UserError, match="already holds a training run .*go on with it"):
            train(tiny(), few, tmp_path)
        with pytest.raises(UserError, match="already holds a training run"):
            train(tiny("seed=1"), few, tmp_path, restart=True)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: before[name] for name in kept}
        (tmp_path / MODEL).write_bytes(before[MODEL])
        (tmp_path / METRICS).write_bytes(before[METRICS])


def test_a_run_of_the_same_recipe_can_begin_anew(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path / "once")
    for stop in (Stop(3, 1), None):  # after a part of it, and after the whole
        with suppress(KeyboardInterrupt):
            train(tiny(), few, tmp_path / "again", restart=True, observer=stop)
    train(tiny(), few, tmp_path / "again", restart=True)
    assert_same_run(tmp_path / "again", tmp_path / "once")


def test_an_interruption_in_the_first_epoch_leaves_no_run(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), few, tmp_path, observer=Stop(1, 2))
    assert os.listdir(tmp_path) == []
    train(tiny(), few, tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("width=48", "started with width = 32, not 48"),
        ("seed=1", "started with seed = 0, not 1"),
        ("loss=mixture", "started with loss = 'hinge', not 'mixture'"),
        ("epochs=7", "started with epochs = 6, not 7"),
    ],
)
def test_another_recipe_cannot_go_on(setting: str, message: str, few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path)
    with pytest.raises(UserError, match=message):
        train(tiny(setting), few, tmp_path, resume=True)


def test_there_is_nothing_to_resume(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run to resume, since it holds no checkpoint.safetensors"):
        train(tiny(), few, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


Change = Callable[[dict[str, Array], dict[str, str]], None]


def without_weight(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    del tensors["model.2.weight"]


def without_moment(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    del tensors["optimizer.m.2.weight"]


def without_steps(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    del tensors["optimizer.steps"]


def without_scale(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    del tensors["loss.scale"]


def with_another(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    tensors["banana"] = np.zeros(1, np.float32)


def with_another_shape(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    tensors["optimizer.v.2.weight"] = np.zeros((5, 7), np.float32)


def without_recipe(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    del metadata["recipe"]


def with_a_list_for_a_recipe(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["recipe"] = "[]"


def with_a_word_for_an_epoch(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["epoch"] = "three"


@pytest.mark.parametrize(
    "change",
    [
        without_weight,
        without_moment,
        without_steps,
        without_scale,
        with_another,
        with_another_shape,
        without_recipe,
        with_a_list_for_a_recipe,
        with_a_word_for_an_epoch,
    ],
)
def test_a_damaged_checkpoint(change: Change, few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path)
    tensors, metadata = load_tensors(tmp_path / CHECKPOINT)
    change(tensors, metadata)
    save_tensors(tmp_path / CHECKPOINT, tensors, metadata)
    with pytest.raises(UserError, match="not a checkpoint that fits its own description"):
        train(tiny(), few, tmp_path, resume=True)


def test_other_damage(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for line in ("{", "[]", "{}", "3"):
        (tmp_path / METRICS).write_text(line)
        with pytest.raises(UserError, match="expected a JSON object with its epoch in every line"):
            train(tiny(), few, tmp_path, resume=True)
    for content, message in (
        (whole[:-1], "whole safetensors file"),
        ((tmp_path / MODEL).read_bytes(), "not a checkpoint that fits"),
    ):
        (tmp_path / CHECKPOINT).write_bytes(content)
        with pytest.raises(UserError, match=message):
            train(tiny(), few, tmp_path, resume=True)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size=101", "batch_size 101 is above the 100 training samples"),
        ("held_out=100", "held_out 100 leaves none of the 100 training samples"),
        ("held_out=70", "batch_size 32 is above the 30 training samples"),
    ],
)
def test_recipes_that_want_more_than_there_is(setting: str, message: str, few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train(tiny(setting), few, tmp_path)


def test_a_place_that_cannot_be_written_is_known_at_once(few: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    diary = Diary()
    with pytest.raises(UserError, match="cannot be written"):
        train(tiny(), few, tmp_path / "file", observer=diary)
    assert not diary.steps


@pytest.mark.parametrize("loss", ["hinge", "mixture", "cross-entropy"])
@pytest.mark.parametrize("size", [1e30, 3e38])
def test_numbers_beyond_float32_are_a_divergence(
    size: float, loss: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the loss shows it or a distance refuses it: one sentence, and no warning of NumPy's."""
    make = Run.__init__

    def enormous(run: Run, *arguments: Any) -> None:
        make(run, *arguments)
        for array in run.model.state().values():
            array[...] = size * np.sign(np.arange(array.size) % 3 - 1).reshape(array.shape)
        run.scale.data[...] = size

    monkeypatch.setattr(Run, "__init__", enormous)
    recipe = tiny(f"loss={loss}", "depth=6", "weight_decay=0.1")
    if size == 1e30 and loss != "mixture":  # large, and all of it finite
        train(recipe, few, tmp_path)
        return
    with pytest.raises(
        UserError, match=r"training diverged in step \d+ of epoch 1: .*\(try a smaller lr than .*\)"
    ) as refusal:
        train(recipe, few, tmp_path)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == []


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(), few, tmp_path / "whole")
    sound = Run.loss

    def diverging(run: Run, *arguments: Any) -> Tensor:
        return sound(run, *arguments) * (math.nan if run.epochs_done == 3 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "loss", diverging)
        with pytest.raises(
            UserError, match="step 1 of epoch 4: the loss is nan .*; the checkpoint of epoch 3 is whole"
        ):
            train(tiny(), few, tmp_path / "stopped")
    assert len(metrics(tmp_path / "stopped")) == 3
    train(tiny(), few, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
