"""The training strategy at work: a net that learns in a second, and what it loses without each part.

A part that is silently broken costs nothing to leave out: then these tests fail. Some parts matter only in a hard
setting (a deep net, a high learning rate, a strong decay, wrong labels, a large ε), so they are tested in one. The loss
is counted in held-out samples certified at eps_test; thresholds are at most about half of the measured loss. For a few
parts the loss on such small nets is within the noise: their tests only ask that leaving them out changes the net.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from linfengine.checkpoint import load_tensors
from linfengine.data import Dataset, load_dataset
from linfengine.recipes import load_recipe
from linfengine.train import MODEL, train
from linfengine.train.ablate import PARTS, ablate, without

QUICK = [
    "width=96", "epochs=40", "ramp_start=10", "ramp_end=36", "identity=false", "held_out=300", "eps_test=0.1"
]  # fmt: skip
WORTH = {  # settings, seeds, what is certified in all, and what is lost
    "plain": (
        [], 2, 0.65, {"p_ramp": 0.25, "p_hold": 0.08, "mean_shift": 0.1, "cross_entropy": 0.25, "eps_margin": 0.015}
    ),
    "high rate": (["lr=0.2"], 2, 0.65, {"cosine": 0.025}),
    "deep": (["depth=12", "identity=true"], 1, 0.65, {"identity": 0.15}),
    "strong decay": (["loss=hinge", "weight_decay=0.5"], 2, 0.65, {"lp_decay": 0.02}),
    "p stays 8": (["p_last=8", "ramp_end=25", "lr=0.1"], 2, 0.65, {"p_infinity": 0.02}),
    "wrong labels": (["eps_train=0.05", "eps_test=0.05"], 1, 0.65, {"clip": 0.05}),
    "large eps": (
        ["head=32", "loss=cross-entropy", "kappa=0.5", "eps_train=0.25", "eps_ramp_end=15"],
        1, 0.5, {"kappa": 0.08, "eps_ramp": 0.12},
    ),
}  # fmt: skip
CHANGES = {
    "plain": (["weight_decay=0.1", "crop_padding=1"], ["weight_decay", "lambda_decay", "scale", "augmentation"]),
    "hinge": (["loss=hinge"], ["mean_hinge", "adam_constants"]),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def with_wrong_labels(data: Dataset) -> Dataset:
    """A tenth of the training labels drawn anew."""
    rng, labels = np.random.default_rng(3), data.train_labels.copy()
    wrong = rng.random(len(labels)) < 0.1
    labels[wrong] = rng.integers(len(data.classes), size=wrong.sum())
    return replace(data, train_labels=labels)


@pytest.mark.thorough
@pytest.mark.parametrize("case", WORTH)
def test_a_part_is_worth_something(case: str, digits: Dataset, tmp_path: Path) -> None:
    settings, seeds, floor, lost = WORTH[case]
    data = with_wrong_labels(digits) if case == "wrong labels" else digits
    whole, *others = ablate(load_recipe("digits", [*QUICK, *settings]), data, lost, tmp_path, seeds=seeds)
    assert whole["certified"] > floor
    gains = {row["part"]: row["gain"] for row in others}
    assert {part: gain for part, gain in gains.items() if gain < lost[part]} == {}


@pytest.mark.parametrize("case", CHANGES)
def test_a_part_changes_the_net(case: str, digits: Dataset, tmp_path: Path) -> None:
    settings, parts = CHANGES[case]
    recipe = load_recipe("digits", [*QUICK, "epochs=3", "ramp_start=1", "ramp_end=2", *settings])
    nets = []
    for name in ("whole", *parts):
        train(recipe if name == "whole" else without(recipe, name), digits, tmp_path / name)
        tensors, _ = load_tensors(tmp_path / name / MODEL)
        nets.append(b"".join(array.tobytes() for array in tensors.values()))
    assert len(set(nets)) == len(nets)


def test_every_part_is_tested() -> None:
    tested = [part for *_, lost in WORTH.values() for part in lost] + [
        part for _, parts in CHANGES.values() for part in parts
    ]
    assert sorted(tested) == sorted(PARTS)
