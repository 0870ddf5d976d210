"""Training: it learns, and neither threads nor interruptions leave a trace in the bits it ends with."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.op_cases import Array

from linfengine.certify import certify, predict
from linfengine.checkpoint import load_model, load_tensors, save_tensors
from linfengine.data import Dataset, load_dataset, split_holdout, to_pixels
from linfengine.errors import UserError
from linfengine.files import write_file
from linfengine.losses import hinge, mixture
from linfengine.optim import Adam
from linfengine.recipes import Recipe, load_recipe
from linfengine.tensor import Tensor
from linfengine.train import BEST, CHECKPOINT, MODEL, HeldOut, Observer, Plan, Trainer, make_net, make_plan, train
from linfengine.train.metrics import MARGIN_EDGES, METRICS

ROOT = Path(__file__).parents[2]
TINY = ["loss=hinge", "width=32", "depth=2", "epochs=6", "ramp_start=2", "ramp_end=5", "lr=0.03", "batch_size=32"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def few(digits: Dataset) -> Dataset:
    """A hundred of them, for what need not learn."""
    return replace(digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100])


def tiny(*settings: str) -> Recipe:
    """A convolutional net has no depth to be set."""
    tiny = [each for each in TINY if not ("net=conv" in settings and each.startswith("depth="))]
    return load_recipe("digits", [*tiny, *settings])


def metrics(folder: Path) -> list[dict[str, Any]]:
    """What metrics.jsonl says, without the time it took."""
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (folder / METRICS).read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(a: Path, b: Path, *others: str) -> None:
    """The same three files, and these others, with the same bytes but for the seconds of the metrics."""
    one, other = (load_tensors(folder / MODEL)[0] for folder in (a, b))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.tobytes() == other[name].tobytes(), name
    for name in (MODEL, CHECKPOINT, *others):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert metrics(a) == metrics(b)
    assert sorted(os.listdir(a)) == sorted(os.listdir(b)) == sorted([CHECKPOINT, METRICS, MODEL, *others])


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
        ["head=16", "loss=cross-entropy", "kappa=0.5", "eps_ramp_start=0.5", "eps_ramp_end=1.5"],
        ["head=16", "loss=hinge", "depth=1"],
        ["net=conv", "channels=2", "width=16", "batch_size=256", "epochs=3"],
        ["net=conv", "channels=2", "width=16", "batch_size=256", "head=8", "crop_size=5"],
        ["crop_size=6", "crop_padding=1"],
        ["lr_schedule=constant", "lr=0.01", "reset_at_switch=true", "lp_decay=false", "weight_decay=0.01"],
        ["loss=mixture", "clip=false", "lambda_first=0"],
    ],
    ids=" ".join,
)
def test_every_setting_trains(settings: list[str], digits: Dataset, tmp_path: Path) -> None:
    recipe = tiny("epochs=3", "ramp_start=1", "ramp_end=2", *settings)
    net = train(recipe, digits, tmp_path)
    assert all(np.isfinite(array).all() for array in net.state().values())
    untrained = make_net(recipe, digits)
    assert any((array != untrained.state()[name]).any() for name, array in net.state().items())
    lines = metrics(tmp_path)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    if recipe.batch_size < 100:
        assert lines[-1]["accuracy"] > 0.15 or recipe.ramp_end == 0


@pytest.mark.parametrize("loss", ["mixture", "hinge"])
def test_the_loss_is_the_recipes(loss: str, few: Dataset) -> None:
    """eps in net units, lambda on its ramp, the learned scale: the loss of the plan is that of `losses`."""
    own = ["lambda_first=0.1", "lambda_last=0.001"] if loss == "mixture" else ["mix=0.5"]
    recipe = tiny(f"loss={loss}", *own, "ramp_start=2", "ramp_end=4")
    plan = make_plan(recipe, few)
    plan.scale.data[...] = 1.5
    eps = recipe.eps_train / few.std
    logits, labels = plan.net(Tensor(to_pixels(few.train_images))), few.train_labels
    for epoch, weight in ((0.0, 0.1), (3.0, 0.01), (5.0, 0.001)):
        expected = mixture(logits, labels, eps, weight, 1.5) if loss == "mixture" else hinge(logits, labels, eps, 0.5)
        found = plan.loss(logits, labels, plan.moment(epoch), None)
        np.testing.assert_allclose(found.item(), expected.item(), rtol=1e-6)


Z2 = Tensor(np.array([[1.0, 0.0]], np.float32))  # a margin of 1, with 2ε = 1 no room is left
Z3 = Tensor(np.array([[0.0, 3.0, -2.0]], np.float32))  # 3 short, and with 2ε = 1 it is (0, 4, −1)
LN2, CE2 = math.log(2), math.log(1 + math.exp(-1))  # the cross-entropy of (0, 0), and of (1, 0)


def loss_at_half(logits: Tensor, dataset: Dataset, *settings: str, worst: Tensor | None = None) -> Tensor:
    """The loss of one sample of class 0 where ε is 1/2 and training begins."""
    plan = make_plan(tiny(*settings), dataset)
    return plan.loss(logits, np.array([0]), plan.moment(0.0)._replace(eps=0.5), worst)


@pytest.mark.parametrize(
    ("settings", "logits", "expected"),
    [
        (["loss=cross-entropy", "kappa=1"], Z2, LN2),
        (["loss=cross-entropy", "kappa=0"], Z2, CE2),
        (["loss=cross-entropy", "kappa=0.25"], Z2, 0.25 * LN2 + 0.75 * CE2),
        (["loss=hinge", "mix=1"], Z3, 4.0),
        (["loss=hinge", "mix=0"], Z3, 4 / 3),
        (["loss=hinge", "mix=0.75"], Z3, 3 + 1 / 3),
        (["loss=mixture", "lambda_first=0"], Z3, 1.0),
        (["loss=mixture", "lambda_first=0", "clip=false"], Z3, 4.0),
        (["loss=mixture", "lambda_first=0", "clip=false"], Z2, 0.0),
        (["loss=mixture", "lambda_first=0.5", "clip=false"], Z2, 0.5 * CE2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_the_loss_by_hand(settings: list[str], logits: Tensor, expected: float, few: Dataset) -> None:
    assert loss_at_half(logits, few, *settings).item() == pytest.approx(expected, rel=1e-6)


def test_a_head_bounds_the_worst_case_itself(few: Dataset) -> None:
    """The loss is that of its bounds, whatever the logits and ε say; κ weighs it against the logits' own."""
    worst = Tensor(np.array([[0.0, 2.0]], np.float32))
    bad = math.log(1 + math.exp(2))
    for kappa in (0.0, 0.5, 1.0):
        loss = loss_at_half(Z2, few, "loss=cross-entropy", f"kappa={kappa}", "head=4", worst=worst)
        assert loss.item() == pytest.approx(kappa * bad + (1 - kappa) * CE2, rel=1e-6)
    assert loss_at_half(Z2, few, "loss=hinge", "mix=1", "head=4", worst=worst).item() == 2


# The optimizer.


def one_step(dataset: Dataset, *settings: str, now: float = 0.0) -> tuple[Plan, dict[str, Array]]:
    """After one mini-batch, and the parameters before."""
    plan = make_plan(tiny(*settings), dataset)
    before = {name: parameter.numpy().copy() for name, parameter in plan.optimizer.parameters.items()}
    plan.net.train()
    Trainer(plan).step(*next(plan.batches.of(0)), plan.moment(now))
    return plan, before


@pytest.mark.parametrize("lp_decay", ["true", "false"])
@pytest.mark.parametrize("head", ["head=0", "head=4"])
def test_distance_weights_decay_by_their_order_or_as_all_others(lp_decay: str, head: str, few: Dataset) -> None:
    """w loses lr·wd·(|w|/‖w‖_p)^(p−2)·w, with p = 8 at first; Adam's own part of the step is the same."""
    settings = [head, "lr=0.01", "lr_schedule=constant"]
    free, before = one_step(few, *settings)
    decayed, _ = one_step(few, *settings, f"lp_decay={lp_decay}", "weight_decay=2")
    for name, parameter in decayed.optimizer.parameters.items():
        w = before[name].astype(np.float64)
        factor = np.ones_like(w)
        if lp_decay == "true" and decayed.net.decay_order(name) == 8:
            norm = (abs(w) ** 8).sum(axis=1, keepdims=True) ** (1 / 8)
            factor = (abs(w) / norm) ** 6
        lost = free.optimizer.parameters[name].numpy().astype(np.float64) - parameter.numpy()
        np.testing.assert_allclose(lost, 0.01 * 2 * factor * w, atol=3e-6, err_msg=name)
    orders = {name: decayed.net.decay_order(name) for name in before}
    assert sorted(set(orders.values())) == [2, 8]


def test_the_constant_rate_and_no_rate_for_the_scale(few: Dataset) -> None:
    plan, before = one_step(few, "loss=mixture", "scale_lr=0", "lr_schedule=constant", "weight_decay=0", now=5.5)
    assert plan.optimizer.lr == 0.03
    assert plan.scale.item() == before["loss.scale"].item() == 1
    learned, _ = one_step(few, "loss=mixture", "scale_lr=0.004")
    assert abs(learned.scale.item() - 1) == pytest.approx(0.004, rel=1e-4)  # Adam's first step is lr long


@pytest.mark.parametrize(("ramp_end", "after"), [(5, 4), (2.5, 14), (0, 24)])
def test_the_moments_are_forgotten_once_at_the_switch(
    ramp_end: float, after: int, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 6 epochs of 4 steps, `after` are at p = ∞; the first of these is Adam's first step again."""
    reset, at = Adam.reset, []

    def noted(optimizer: Adam) -> None:
        at.append(optimizer.steps)
        reset(optimizer)
        assert not any(moment.any() for moment in [*optimizer.m.values(), *optimizer.v.values()])

    monkeypatch.setattr(Adam, "reset", noted)
    ramp = [f"ramp_end={ramp_end}", f"ramp_start={min(ramp_end, 1)}"]
    train(tiny("reset_at_switch=true", *ramp), few, tmp_path / "forgets")
    assert at == ([24 - after] if ramp_end else [])  # with p = ∞ from the first step there is nothing to forget
    assert load_tensors(tmp_path / "forgets" / CHECKPOINT)[0]["optimizer.steps"] == after
    train(tiny(*ramp), few, tmp_path / "remembers")
    assert len(at) == (1 if ramp_end else 0)
    assert load_tensors(tmp_path / "remembers" / CHECKPOINT)[0]["optimizer.steps"] == 24


def test_the_step_after_the_switch_knows_its_own_gradient_alone(few: Dataset) -> None:
    """m = (1 − β₁)·g and v = (1 − β₂)·g²."""
    plan = make_plan(tiny("reset_at_switch=true"), few)
    trainer, optimizer = Trainer(plan), plan.optimizer
    plan.net.train()
    for now in (0.0, 1.0, 4.9, 5.0):
        trainer.step(*next(plan.batches.of(0)), plan.moment(now))
    assert (plan.net.p, optimizer.steps) == (math.inf, 1)
    for name, parameter in optimizer.parameters.items():
        if parameter.grad is not None:
            g = np.asarray(parameter.grad)
            np.testing.assert_allclose(optimizer.m[name], 0.1 * g, rtol=1e-5, atol=1e-12)
            np.testing.assert_allclose(optimizer.v[name], 0.01 * g**2, rtol=1e-5, atol=1e-12)
    trainer.step(*next(plan.batches.of(0)), plan.moment(5.25))
    assert optimizer.steps == 2


# Crops.


@pytest.fixture(scope="module")
def maps(few: Dataset) -> Dataset:
    """Images whose pixels tell where they are: 8·row + column."""
    return replace(few, train_images=np.broadcast_to(np.arange(64, dtype=np.uint8).reshape(1, 8, 8), (100, 1, 8, 8)))


@pytest.mark.parametrize(("settings", "rows"), [(["crop_size=6"], [0, 1, 2]), (["crop_size=8"], [0])])
def test_training_looks_at_windows_all_over(settings: list[str], rows: list[int], maps: Dataset) -> None:
    recipe, places = tiny(*settings), set()
    for pixels, _ in make_plan(recipe, maps).batches.of(0):
        for image in np.rint(255 * np.asarray(pixels)).astype(int):
            row, column = divmod(image[0, 0, 0], 8)
            size = recipe.crop_size
            np.testing.assert_array_equal(image[0], maps.train_images[0, 0, row : row + size, column : column + size])
            places.add((int(row), int(column)))
    assert places == {(row, column) for row in rows for column in rows}


def test_a_window_of_the_padded_image(maps: Dataset) -> None:
    """One pixel of padding makes 5 × 5 places of a 6 × 6 window; zeros are from outside, or pixel 0."""
    ((pixels, _),) = make_plan(tiny("crop_size=6", "crop_padding=1", "batch_size=100"), maps).batches.of(0)
    assert pixels.shape == (100, 1, 6, 6)
    centres = {int(image[0, 2, 2]) for image in np.rint(255 * np.asarray(pixels))}
    assert centres <= {8 * row + column for row in range(1, 6) for column in range(1, 6)}
    assert len(centres) > 15


@pytest.mark.parametrize("net", [["net=dense"], ["net=conv", "channels=2"]], ids=" ".join)
def test_evaluation_looks_at_the_middle(net: list[str], digits: Dataset, few: Dataset, tmp_path: Path) -> None:
    train(tiny("crop_size=6", "epochs=2", "ramp_start=0", "ramp_end=1", *net), few, tmp_path)
    loaded, _ = load_model(tmp_path / MODEL)
    pixels = to_pixels(digits.test_images[:20])
    inside, outside = pixels.copy(), pixels.copy()
    outside[:, :, [0, -1], :] = outside[:, :, :, [0, -1]] = 1  # the frame, one pixel wide
    inside[:, :, 1:7, 1:7] = 1
    np.testing.assert_array_equal(predict(loaded, outside), predict(loaded, pixels))
    assert (predict(loaded, inside) != predict(loaded, pixels)).any(axis=1).all()


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
    plan = make_plan(tiny("held_out=1000"), digits)
    train_part, held_out = split_holdout(digits.train_labels, 1000)
    np.testing.assert_array_equal(plan.batches.inputs, digits.train_images[train_part])
    np.testing.assert_array_equal(plan.held_out.inputs, to_pixels(digits.train_images[held_out]))
    np.testing.assert_array_equal(plan.held_out.labels, digits.train_labels[held_out])
    assert len(plan.batches.labels) == 437


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["loss=mixture"], {"margin_counts", "scale", "lambda"}),
        (["loss=hinge"], {"margin_counts"}),
        (["loss=hinge", "head=8"], set()),
        (["loss=cross-entropy", "held_out=40"], {"margin_counts", "held_out_accuracy", "held_out_certified"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_line_has_what_the_recipe_has(settings: list[str], expected: set[str], few: Dataset, tmp_path: Path) -> None:
    train(tiny(*settings), few, tmp_path)
    always = {"p", "lr", "loss", "accuracy", "margin", "epoch", "eps", "beyond_2eps"}
    assert [line.keys() for line in metrics(tmp_path)] == [always | expected] * 6


def test_eps_and_lambda_of_an_epoch_are_those_of_its_last_step(few: Dataset, tmp_path: Path) -> None:
    """Epoch 1 of 4 steps ends with the one at 0.75."""
    ramp = ["epochs=4", "ramp_start=0", "ramp_end=3"]
    train(tiny("loss=hinge", "eps_train=0.2", "eps_ramp_end=3", *ramp), few, tmp_path / "eps")
    whole = 0.2 / 0.3757
    expected = [whole * part for part in (0.25, 0.75 - 1 / 6, 0.75 + 1 / 6, 1)]
    assert [line["eps"] for line in metrics(tmp_path / "eps")] == pytest.approx(expected, rel=1e-6)
    train(tiny("loss=mixture", "lambda_first=1", "lambda_last=1e-12", *ramp), few, tmp_path / "lambda")
    assert [line["lambda"] for line in metrics(tmp_path / "lambda")] == pytest.approx([1e-3, 1e-7, 1e-11, 1e-12])


@pytest.mark.parametrize("settings", [["eps_ramp_end=4"], ["loss=mixture"]], ids=" ".join)
def test_margin_counts_are_those_of_the_margins(
    settings: list[str], few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """48 bins from −2 to 4, in units of 2ε_train; the ones at the ends count what is beyond."""
    assert MARGIN_EDGES.tolist() == [i / 8 - 2 for i in range(49)]
    step, seen = Trainer.step, []

    def watched(trainer: Trainer, *arguments: Any) -> tuple[float, Array, Array]:
        loss, margin, room = step(trainer, *arguments)
        seen.append((trainer.epochs_done, margin, room))
        return loss, margin, room

    monkeypatch.setattr(Trainer, "step", watched)
    recipe = tiny(*settings)
    train(recipe, few, tmp_path)
    unit = 2 * recipe.eps_train / 0.3757
    for epoch, line in enumerate(metrics(tmp_path)):
        margins = np.concatenate([margin for at, margin, _ in seen if at == epoch]).astype(np.float64)
        room = np.concatenate([room for at, _, room in seen if at == epoch])
        bins = np.floor(8 * (margins / unit + 2)).clip(0, 47).astype(int)
        np.testing.assert_array_equal(line["margin_counts"], np.bincount(bins, minlength=48))
        assert sum(line["margin_counts"]) == 100
        assert sum(line["margin_counts"][16:]) == round(100 * line["accuracy"])
        assert line["beyond_2eps"] == (room > 0).mean()
        if epoch >= 5 or recipe.eps_ramp_end == 0:  # where the radius is the whole one
            assert sum(line["margin_counts"][24:]) == (room > 0).sum()
        assert line["margin"] == pytest.approx(margins.mean(), rel=1e-5, abs=1e-6)


HELD_OUT = ["held_out=40", "eps_test=0.05", "lr=0.05"]


@pytest.mark.parametrize("head", [[], ["head=8", "loss=cross-entropy"]], ids=["net", "head"])
def test_the_best_net_is_that_of_the_epoch_with_most_certified(head: list[str], few: Dataset, tmp_path: Path) -> None:
    """The first such epoch, the net at p = ∞ though training was not there yet, and it can be certified."""
    recipe = tiny(*HELD_OUT, *head, "eps_test=0.02" if head else "eps_test=0.05")
    train(recipe, few, tmp_path, keep=6)
    figures = [line["held_out_certified"] for line in metrics(tmp_path)]
    best = figures.index(max(figures)) + 1
    net, metadata = load_model(tmp_path / BEST)
    assert net.p == math.inf
    assert json.loads(metadata["recipe"]) == recipe.to_dict()
    assert metadata["dataset"] == "digits"
    states = tmp_path / CHECKPOINT if best == 6 else tmp_path / f"checkpoint-{best:05}.safetensors"
    state = {name: array for name, array in load_tensors(states)[0].items() if name.startswith("model.")}
    assert state.keys() == {f"model.{name}" for name in net.state()}
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, state[f"model.{name}"])
    _, held_out = split_holdout(few.train_labels, 40)
    method = "interval" if head else "margin"
    proof = certify(net, few.train_images[held_out], few.train_labels[held_out], recipe.eps_test, method=method)
    assert (proof.certified & proof.correct).mean() == max(figures) > 0
    assert proof.correct.mean() == metrics(tmp_path)[best - 1]["held_out_accuracy"]


def test_a_worse_epoch_does_not_replace_the_best(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor an equal one, nor one after a resumption."""
    scores = iter([0.25, 0.5, 0.125, 0.5, 0.375, 0.5])
    monkeypatch.setattr(
        HeldOut, "figures", lambda *arguments: {"held_out_accuracy": 1.0, "held_out_certified": next(scores)}
    )
    recipe = tiny(*HELD_OUT)
    for stop in (1, 2, 3, 4, 5, None):
        with suppress(KeyboardInterrupt):
            train(recipe, few, tmp_path, resume=stop != 1, keep=6, observer=Stop(stop, None) if stop else None)
    assert [line["held_out_certified"] for line in metrics(tmp_path)] == [0.25, 0.5, 0.125, 0.5, 0.375, 0.5]
    state, best = load_tensors(tmp_path / "checkpoint-00002.safetensors")[0], load_model(tmp_path / BEST)[0].state()
    assert all((array == state[f"model.{name}"]).all() for name, array in best.items())


def test_without_held_out_samples_no_epoch_is_best(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path)
    assert not (tmp_path / BEST).exists()


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
    """Until that many epochs are in the folder's checkpoint, with more to come."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (out / METRICS).exists() and len(metrics(out)) > epochs:  # the line comes before the checkpoint
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


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_run_that_is_killed_and_resumed_ends_with_the_same_bits(digits: Dataset, tmp_path: Path) -> None:
    long = [
        "epochs=40",
        "ramp_start=10",
        "ramp_end=30",
        "batch_size=64",
        "loss=mixture",
        "crop_padding=1",
        "weight_decay=0.001",
    ]
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
    long = ["epochs=40", "ramp_start=10", "ramp_end=30", "batch_size=64"]
    train(tiny(*long), digits, tmp_path / "whole")
    out = tmp_path / "interrupted"
    # a shell that starts tests in the background has them ignore SIGINT, and their children with them
    process = command(out, *long, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_for_epochs(process, out, 3)
    process.send_signal(signal.SIGINT)
    status, _, err = finish(process)
    assert status == 130
    assert err.startswith("Interrupted. The run is safe in ")
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


@pytest.mark.parametrize(
    "settings",
    [
        ["head=8", "loss=cross-entropy", "kappa=0.5", "eps_ramp_start=1", "eps_ramp_end=4"],
        ["net=conv", "channels=2", "width=8"],
        ["net=conv", "channels=2", "width=8", "head=4", "crop_size=5"],
        ["crop_size=6", "crop_padding=1", "flip=true"],
        ["reset_at_switch=true"],
        ["reset_at_switch=true", "ramp_end=4.5", "loss=mixture"],
        ["lp_decay=false", "weight_decay=0.01", "lr_schedule=constant"],
        ["held_out=40", "eps_test=0.05", "reset_at_switch=true"],
        ["held_out=40", "eps_test=0.01", "head=8", "crop_size=7", "loss=cross-entropy"],
    ],
    ids=" ".join,
)
def test_every_kind_of_run_goes_on_with_the_same_bits(settings: list[str], few: Dataset, tmp_path: Path) -> None:
    """Stopped in the ramp; right at the switch, which is the first step of epoch 6; and within the epoch after it."""
    recipe = tiny("epochs=7", "ramp_end=5", *settings)
    train(recipe, few, tmp_path / "whole")
    for at in ((3, 1), (5, None), (6, 2), None):
        with suppress(KeyboardInterrupt):
            observer = Stop(*at) if at else None
            train(recipe, few, tmp_path / "stopped", resume=(tmp_path / "stopped").exists(), observer=observer)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole", *[BEST] * bool(recipe.held_out))


def test_the_last_checkpoints_are_kept_and_each_leads_to_the_same_end(few: Dataset, tmp_path: Path) -> None:
    recipe = tiny("reset_at_switch=true", *HELD_OUT)
    kept = [[], ["00001"], ["00001", "00002"], ["00002", "00003"], ["00003", "00004"], ["00004", "00005"]]

    class Watch(Observer):
        def epoch(self, figures: dict[str, Any]) -> None:
            names = sorted(path.name for path in tmp_path.glob("whole/checkpoint-*"))
            assert names == [f"checkpoint-{number}.safetensors" for number in kept[figures["epoch"] - 1]]

    train(recipe, few, tmp_path / "whole", keep=2, observer=Watch())
    files = [f"checkpoint-{number}.safetensors" for number in kept[-1]]
    for epoch, name in enumerate(files, 4):
        shutil.copytree(tmp_path / "whole", tmp_path / name)
        (tmp_path / name / MODEL).unlink()
        (tmp_path / name / CHECKPOINT).write_bytes((tmp_path / "whole" / name).read_bytes())
        assert load_tensors(tmp_path / name / CHECKPOINT)[1]["epoch"] == str(epoch)
        train(recipe, few, tmp_path / name, resume=True, keep=2)
        assert_same_run(tmp_path / name, tmp_path / "whole", BEST, *files)


def test_going_back_to_an_earlier_checkpoint_keeps_those_on_the_way(few: Dataset, tmp_path: Path) -> None:
    """Those of epochs that are yet to come stay until they are written anew."""
    train(tiny(), few, tmp_path, keep=4)

    def checkpoints() -> list[int]:
        return sorted(int(path.name[11:16]) for path in tmp_path.glob("checkpoint-*"))

    assert checkpoints() == [2, 3, 4, 5]
    shutil.copy(tmp_path / "checkpoint-00002.safetensors", tmp_path / CHECKPOINT)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), few, tmp_path, resume=True, keep=2, observer=Stop(4, None))
    assert checkpoints() == [2, 3, 4, 5]
    train(tiny(), few, tmp_path, resume=True, keep=2)
    assert checkpoints() == [4, 5]


def test_checkpoints_alone_are_a_run_as_well(few: Dataset, tmp_path: Path) -> None:
    train(tiny(), few, tmp_path, keep=1)
    for name in (CHECKPOINT, MODEL, METRICS):
        (tmp_path / name).unlink()
    kept = "checkpoint-00005.safetensors"
    copied = f"or copy {kept} to {CHECKPOINT} and go on from there"
    with pytest.raises(UserError, match=rf"files of a training run \({kept}\), .*, {copied} \(--resume\)$"):
        train(tiny("seed=1"), few, tmp_path, keep=1)


@pytest.mark.parametrize("settings", [[], ["mean_shift=false"]], ids=["mean shift", "none"])
def test_a_sample_that_is_left_alone_is_left_out(settings: list[str], few: Dataset, tmp_path: Path) -> None:
    """Its features less their mean over the batch would be 0."""
    n = len(few.train_labels)
    batches = make_plan(tiny(f"batch_size={n - 1}", *settings), few).batches
    assert [len(labels) for _, labels in batches.of(0)] == [n - 1]
    assert len(batches) == 1
    batches = make_plan(tiny(f"batch_size={n - 2}"), few).batches
    assert [len(labels) for _, labels in batches.of(0)] == [n - 2, 2]


def test_samples_of_another_data_set(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="recipe: dataset is mnist, got the samples of digits"):
        train(tiny("dataset=mnist"), few, tmp_path / "out")


@pytest.mark.parametrize(("keep", "expected"), [(0, []), (1, [5]), (9, [1, 2, 3, 4, 5])])
def test_as_many_checkpoints_are_kept_as_asked_for(
    keep: int, expected: list[int], few: Dataset, tmp_path: Path
) -> None:
    train(tiny(), few, tmp_path / "kept", keep=keep)
    train(tiny(), few, tmp_path / "plain")
    files = [f"checkpoint-{epoch:05}.safetensors" for epoch in expected]
    for epoch, name in zip(expected, files, strict=True):
        assert load_tensors(tmp_path / "kept" / name)[1]["epoch"] == str(epoch)
        (tmp_path / "kept" / name).unlink()
    assert_same_run(tmp_path / "kept", tmp_path / "plain")  # they change nothing else


def test_kept_checkpoints_and_a_run_that_stops(few: Dataset, tmp_path: Path) -> None:
    """Those of before the interruption count."""
    train(tiny(), few, tmp_path / "whole", keep=3)
    with pytest.raises(KeyboardInterrupt):
        train(tiny(), few, tmp_path / "stopped", keep=3, observer=Stop(5, 3))
    train(tiny(), few, tmp_path / "stopped", keep=3, resume=True)
    assert_same_run(
        tmp_path / "stopped", tmp_path / "whole", *[f"checkpoint-{epoch:05}.safetensors" for epoch in (3, 4, 5)]
    )


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
        patch.setattr("linfengine.train.folder.write_file", full)
        patch.setattr("linfengine.checkpoint.write_file", full)
        with pytest.raises(UserError, match="No space left"):
            train(tiny(), few, tmp_path / "stopped")
    train(tiny(), few, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


# Stopped between any two writes.


def snapshot(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def states_of(call: Callable[[], object], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, bytes]]:
    """The folder's files around everything that changes them: what a process that is killed might leave.

    Of states that differ in temporary files alone, the first without any and the first with one.
    """
    states: dict[Any, dict[str, bytes]] = {}

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        def watch(*arguments: Any, **keywords: Any) -> Any:
            for act in (lambda: None, lambda: real(*arguments, **keywords)):
                result = act()
                if folder.exists():
                    now = snapshot(folder)
                    files = {name: content for name, content in now.items() if not name.endswith(".part")}
                    states.setdefault((frozenset(files.items()), len(files) < len(now)), now)
            return result

        return watch

    with monkeypatch.context() as patch:
        for owner, name in ((os, "open"), (os, "fsync"), (os, "replace"), (Path, "unlink")):
            patch.setattr(owner, name, watched(getattr(owner, name)))
        call()
    return list(states.values())


def put(state: dict[str, bytes], folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in state.items():
        (folder / name).write_bytes(content)
    return folder


def go_on(recipe: Recipe, few: Dataset, folder: Path, **settings: Any) -> None:
    """Resume where that is what `train` says, and begin where it does not refuse; the two agree."""
    if (folder / CHECKPOINT).exists():
        with pytest.raises(UserError, match="go on with it"):
            train(recipe, few, folder, **settings)
        train(recipe, few, folder, resume=True, **settings)
    else:
        with pytest.raises(UserError, match="there is no run to resume"):
            train(recipe, few, folder, resume=True, **settings)
        train(recipe, few, folder, **settings)


BRIEF = [
    "epochs=2",
    "ramp_start=0",
    "ramp_end=1",
    "held_out=70",
    "batch_size=30",
    "eps_test=0.05",
    "width=8",
    "lr=0.05",
]


@pytest.mark.parametrize("restart", [False, True])
def test_a_run_that_is_killed_anywhere_goes_on(
    restart: bool, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it left, the run ends with the same files, and no others; so does one that begins anew."""
    recipe, whole, out = tiny(*BRIEF), tmp_path / "whole", tmp_path / "killed"
    train(recipe, few, whole, keep=1)
    if restart:  # of another run's files, as they would be from an earlier version of the program
        put(snapshot(whole) | {BEST: b"old", MODEL: b"old", "checkpoint-00009.safetensors": b"old"}, out)
    states = states_of(lambda: train(recipe, few, out, keep=1, restart=restart), out, monkeypatch)
    assert len(states) > 15
    assert any(CHECKPOINT in state and METRICS not in state for state in states)  # after epoch 0
    for state in states:
        assert MODEL not in state or load_epoch(state[CHECKPOINT], tmp_path) == 2  # a model is of a run that is done
        go_on(recipe, few, put(state, tmp_path / "stopped"), keep=1)
        if restart and state.get(BEST) == b"old" and load_epoch(state[CHECKPOINT], tmp_path) == 2:
            continue  # killed before anything was begun anew: the old run, with the files that were put there
        assert_same_run(tmp_path / "stopped", whole, BEST, "checkpoint-00001.safetensors")


def load_epoch(content: bytes, folder: Path) -> int:
    (folder / "state").write_bytes(content)
    return int(load_tensors(folder / "state")[1]["epoch"])


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["^C", "full"])
@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
def test_a_run_whose_write_fails_goes_on(
    failure: BaseException, late: bool, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any of its writes, right before or right after the file has its name; folder, run and sentence agree."""
    recipe, real = tiny(*BRIEF), os.replace
    train(recipe, few, tmp_path / "whole", keep=1)
    for number in range(100):
        left = number

        def replace_or_fail(*names: Any) -> None:
            nonlocal left
            left -= 1
            if late:
                real(*names)
            if left < 0:
                raise failure
            if not late:
                real(*names)

        out = tmp_path / str(number)
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace_or_fail)
            try:
                train(recipe, few, out, keep=1)
                break
            except KeyboardInterrupt:
                pass
            except UserError as error:
                assert "cannot be written (No space left on device)" in str(error)  # noqa: PT017
        if out.exists():
            assert not any(name.startswith(".") for name in os.listdir(out))
        go_on(recipe, few, out, keep=1)
        assert_same_run(out, tmp_path / "whole", BEST, "checkpoint-00001.safetensors")
    assert number > 6


def test_an_epoch_that_is_done_is_not_lost_to_an_interruption(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after its checkpoint has its name."""
    real = os.replace

    def interrupted(source: Any, target: Any) -> None:
        real(source, target)
        if Path(target).name == CHECKPOINT and (tmp_path / METRICS).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tiny(), few, tmp_path)
    assert load_tensors(tmp_path / CHECKPOINT)[1]["epoch"] == "1"


def test_metrics_that_are_gone_do_not_cost_the_best_net(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.25, 0.5, 0.125, 0.375, 0.5, 0.25])
    monkeypatch.setattr(
        HeldOut, "figures", lambda *arguments: {"held_out_accuracy": 1.0, "held_out_certified": next(scores)}
    )
    recipe = tiny(*HELD_OUT)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, few, tmp_path, observer=Stop(3, None))
    best = (tmp_path / BEST).read_bytes()
    (tmp_path / METRICS).unlink()
    train(recipe, few, tmp_path, resume=True)
    assert (tmp_path / BEST).read_bytes() == best
    assert [line["epoch"] for line in metrics(tmp_path)] == [4, 5, 6]


def test_a_second_run_in_the_folder_is_refused(few: Dataset, tmp_path: Path) -> None:
    """Whatever it asks for, with the process that is in its way; the first goes on."""
    said: list[str] = []

    def second(**settings: bool) -> None:
        with pytest.raises(UserError) as refusal:
            train(tiny(), few, tmp_path / "out", **settings)  # type: ignore[arg-type]
        said.append(str(refusal.value))

    class Second(Observer):
        def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
            if done == 1 and epoch in (1, 3, 6):
                for settings in ({}, {"resume": True}, {"restart": True}):
                    thread = threading.Thread(target=second, kwargs=settings)
                    thread.start()
                    thread.join()

    train(tiny(), few, tmp_path / "out", observer=Second())
    assert (
        said
        == [f"{tmp_path}/out: process {os.getpid()} is at work in this folder: wait for it, or choose another folder"]
        * 9
    )
    train(tiny(), few, tmp_path / "alone")
    assert_same_run(tmp_path / "out", tmp_path / "alone")


def test_arithmetic_is_checked_before_work_and_at_every_epoch(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = 0

    def refuse() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise UserError("this process flushes denormal numbers to zero")

    monkeypatch.setattr("linfengine.train.loop.check_arithmetic", refuse)
    for left, epochs in ((0, None), (1, 0), (4, 3)):
        out, diary = tmp_path / str(left), Diary()
        with pytest.raises(UserError, match="flushes"):
            train(tiny(), few, out, observer=diary)
        assert len(diary.lines) == (epochs or 0)
        assert out.exists() == (epochs is not None)
        if epochs is not None:
            assert load_tensors(out / CHECKPOINT)[1]["epoch"] == str(epochs)


@pytest.mark.parametrize("settings", [["loss=mixture"], ["loss=cross-entropy", "head=4"]], ids=" ".join)
def test_numpys_way_of_telling_errors_does_not_matter(settings: list[str], few: Dataset, tmp_path: Path) -> None:
    recipe = tiny(*BRIEF, "weight_decay=0.01", *settings)
    train(recipe, few, tmp_path / "plain")
    with np.errstate(all="raise"):
        train(recipe, few, tmp_path / "raises")
    assert_same_run(tmp_path / "plain", tmp_path / "raises", BEST)


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
        whole = CHECKPOINT in kept
        told = "already holds a training run .*go on with it" if whole else "no checkpoint.safetensors to go on from"
        with pytest.raises(UserError, match=told):
            train(tiny(), few, tmp_path)
        if not whole:
            with pytest.raises(UserError, match="there is no run to resume, since it holds no checkpoint.safetensors"):
                train(tiny(), few, tmp_path, resume=True)
        with pytest.raises(UserError, match="already holds a training run of another recipe"):
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


def with_a_negative_epoch(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["epoch"] = "-1"


def with_an_epoch_to_come(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["epoch"] = "7"


def with_no_number_for_the_best(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["best"] = "nan"


def with_no_order(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    metadata["p"] = "0"


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
        with_a_negative_epoch,
        with_an_epoch_to_come,
        with_no_number_for_the_best,
        with_no_order,
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
    for line in ("{", "[]", "{}", "3", '{"epoch": "1"}', "[" * 100_000):
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

    def enormous(*arguments: Any) -> Plan:
        plan = make_plan(*arguments)
        for array in plan.net.state().values():
            array[...] = size * np.sign(np.arange(array.size) % 3 - 1).reshape(array.shape)
        plan.scale.data[...] = size
        return plan

    monkeypatch.setattr("linfengine.train.loop.make_plan", enormous)
    recipe = tiny(f"loss={loss}", "depth=6", "weight_decay=0.1")
    if size == 1e30 and loss != "mixture":  # large, and all of it finite
        train(recipe, few, tmp_path)
        return
    with pytest.raises(UserError, match=r"training diverged in step \d+ of epoch 1: .*; try another folder") as refusal:
        train(recipe, few, tmp_path)
    assert "\n" not in str(refusal.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("epoch", "said"), [(1, "no epoch was done"), (3, "{} holds epoch 2, whole")])
def test_a_divergence_says_where_and_what_to_try(
    epoch: int, said: str, few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = 0

    def diverging(*arguments: Any, **settings: Any) -> Tensor:
        nonlocal steps
        steps += 1
        return hinge(*arguments, **settings) * (math.inf if steps == 4 * (epoch - 1) + 3 else 1.0)

    monkeypatch.setattr("linfengine.losses.hinge", diverging)
    with pytest.raises(UserError) as refusal:
        train(tiny("lr=0.25", "p_last=500"), few, tmp_path)
    assert str(refusal.value) == (
        f"training diverged in step 3 of epoch {epoch}: the loss is inf; {said.format(tmp_path / CHECKPOINT)}; "
        "try another folder with a smaller lr than 0.25, or a smaller p_last than 500"
    )
    assert (tmp_path / CHECKPOINT).exists() == (epoch > 1)


def test_weights_that_the_last_step_ruined_are_not_saved(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of that step is still finite, and no other step would stumble over them."""
    sound = Trainer.step

    def ruinous(trainer: Trainer, *arguments: Any) -> Any:
        result = sound(trainer, *arguments)
        if trainer.epochs_done == 5:
            trainer.plan.net.layers[2].weight.data[0, 0] = math.inf  # type: ignore[attr-defined]
        return result

    monkeypatch.setattr(Trainer, "step", ruinous)
    with pytest.raises(
        UserError, match=r"of epoch 6: .*2.weight holds .*non-finite|2.weight holds values that are not"
    ):
        train(tiny("batch_size=100"), few, tmp_path)
    assert not (tmp_path / MODEL).exists()
    assert all(np.isfinite(array).all() for array in load_tensors(tmp_path / CHECKPOINT)[0].values())


def test_other_files_are_not_taken_for_checkpoints(few: Dataset, tmp_path: Path) -> None:
    mine = [tmp_path / f"checkpoint-{name}.safetensors" for name in ("best", "0-mine", "12")]
    for file in mine:
        file.write_bytes(b"mine")
    train(tiny(), few, tmp_path, keep=1)
    assert [file.read_bytes() for file in mine] == [b"mine"] * 3
    assert (tmp_path / "checkpoint-00005.safetensors").exists()
    with pytest.raises(ValueError, match="keep must be a number of checkpoints from 0 on, got -1"):
        train(tiny(), few, tmp_path / "other", keep=-1)


def test_a_run_that_diverges_keeps_its_last_checkpoint(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny(), few, tmp_path / "whole")
    steps = 0

    def diverging(*arguments: Any, **settings: Any) -> Tensor:
        nonlocal steps
        steps += 1
        return hinge(*arguments, **settings) * (math.nan if steps > 3 * 4 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr("linfengine.losses.hinge", diverging)
        whole = (
            rf"step 1 of epoch 4: the loss is nan; {tmp_path}/stopped/{CHECKPOINT} holds epoch 3, whole; try another"
        )
        with pytest.raises(UserError, match=whole):
            train(tiny(), few, tmp_path / "stopped")
    assert len(metrics(tmp_path / "stopped")) == 3
    train(tiny(), few, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")
