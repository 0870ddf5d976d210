"""Ablation: a row is the recipe less one part, trained for the same epochs, judged on the same held-out samples."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from linfengine.certify import certify
from linfengine.checkpoint import load_model, load_tensors
from linfengine.data import Dataset, load_dataset, split_holdout
from linfengine.errors import UserError
from linfengine.recipes import Recipe, load_recipe, recipe_names, with_settings
from linfengine.train import CHECKPOINT, MODEL, Diverged, Observer, Trainer, budget
from linfengine.train.ablate import ABLATION, PARTS, WHOLE, ablate, parts_of, without
from linfengine.train.metrics import METRICS, read_metrics

TINY = ["loss=hinge", "width=16", "depth=2", "epochs=3", "ramp_start=1", "ramp_end=2", "lr=0.05", "batch_size=32"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A hundred digits."""
    digits = load_dataset("digits")
    return replace(digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100])


def tiny(*settings: str) -> Recipe:
    return load_recipe("digits", [*TINY, "held_out=40", "eps_test=0.03", *settings])


class Log:
    """The runs that were begun, and the epochs that were trained in each."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.runs: list[str] = []
        self.epochs: list[tuple[str, int]] = []
        self.recipes: dict[str, Recipe] = {}
        self.stop = stop

    def __call__(self, name: str, recipe: Recipe, number: int, of: int) -> Observer:
        self.runs.append(name)
        assert number == len(self.runs) <= of
        self.recipes[name] = recipe
        log = self

        class Watch(Observer):
            def epoch(self, figures: dict[str, Any]) -> None:
                log.epochs.append((name, figures["epoch"]))
                if log.stop == (name, figures["epoch"]):
                    raise KeyboardInterrupt

        return Watch()


def trained(*names: str) -> list[tuple[str, int]]:
    return [(name, epoch) for name in names for epoch in (1, 2, 3)]


# the parts


def test_every_part_is_in_a_recipe_that_is_shipped() -> None:
    having = {
        part for name in recipe_names() for part in parts_of(load_recipe(name)) if name.startswith(("z21", "z22"))
    }
    assert having == set(PARTS)


@pytest.mark.parametrize("name", recipe_names())
def test_the_parts_of_a_recipe_are_those_it_can_do_without(name: str) -> None:
    """Without one, another recipe is left, which has it no more; nothing but the part's own keys is changed."""
    recipe = load_recipe(name)
    for part in PARTS:
        if part not in parts_of(recipe):
            with pytest.raises(UserError, match=f"--drop {part}: this recipe has no such part; it has "):
                without(recipe, part)
            continue
        left = without(recipe, part)
        assert left != recipe
        assert part not in parts_of(left)
        assert left == with_settings(recipe, **PARTS[part].settings(recipe))


@pytest.mark.parametrize(
    ("recipe", "part", "settings"),
    [
        ("z22a-cifar-8", "p_ramp", {"ramp_start": 0, "ramp_end": 0, "lambda_last": 0.1}),
        ("z22a-cifar-8", "p_hold", {"ramp_start": 0}),
        ("z22a-cifar-8", "p_infinity", {"ramp_end": 1299}),
        ("z22a-cifar-8", "mean_shift", {"mean_shift": False}),
        ("z22a-cifar-8", "identity", {"identity": False}),
        ("z21-cifar", "weight_decay", {"weight_decay": 0}),
        ("z21-cifar", "lp_decay", {"lp_decay": False}),
        ("z22a-cifar-8", "cross_entropy", {"lambda_first": 0, "lambda_last": 2e-4}),
        ("z22a-cifar-8", "lambda_decay", {"lambda_last": 0.1}),
        ("z22a-cifar-8", "scale", {"scale_lr": 0}),
        ("z22a-cifar-8", "clip", {"clip": False}),
        ("z21-cifar", "mean_hinge", {"mix": 1}),
        ("z21-mnist-mlp", "kappa", {"kappa": 1}),
        ("z21-mnist-mlp", "eps_ramp", {"eps_ramp_end": 0}),
        ("z22a-cifar-8", "eps_margin", {"eps_train": 8 / 255}),
        ("z22a-cifar-8", "cosine", {"lr_schedule": "constant"}),
        ("z22a-cifar-8", "augmentation", {"crop_padding": 0, "crop_mode": "constant", "flip": False}),
        ("z22a-cifar-8", "adam_constants", {"beta2": 0.999, "adam_eps": 1e-8}),
    ],
)
def test_a_part_by_hand(recipe: str, part: str, settings: dict[str, Any]) -> None:
    whole = load_recipe(recipe)
    assert without(whole, part).to_dict() == whole.to_dict() | settings


def test_every_part_is_tried_by_hand() -> None:
    (mark,) = (mark for mark in test_a_part_by_hand.pytestmark if mark.name == "parametrize")
    assert [part for _, part, _ in mark.args[1]] == list(PARTS)


def test_a_mixture_without_cross_entropy_has_parts_all_the_same() -> None:
    """λ is 0 before and after: there is nothing to let decay."""
    recipe = load_recipe("digits", ["lambda_first=0"])
    assert "clip" in parts_of(recipe)
    assert not {"cross_entropy", "lambda_decay"} & set(parts_of(recipe))


# the rows


def test_the_rows_are_what_the_runs_say(few: Dataset, tmp_path: Path) -> None:
    log = Log()
    rows = ablate(tiny(), few, ["p_ramp", "mean_shift"], tmp_path, begin=log)
    assert log.epochs == trained("whole", "p_ramp", "mean_shift")
    assert [row["part"] for row in rows] == [None, "p_ramp", "mean_shift"]
    assert [row["instead"] for row in rows] == [WHOLE, PARTS["p_ramp"].instead, PARTS["mean_shift"].instead]
    _, held_out = split_holdout(few.train_labels, 40)
    images, labels = few.train_images[held_out], few.train_labels[held_out]
    for row, name in zip(rows, log.runs, strict=True):
        model, metadata = load_model(tmp_path / name / MODEL)
        expected = without(tiny(), name) if name != "whole" else tiny()
        assert log.recipes[name] == Recipe(**json.loads(metadata["recipe"])) == expected
        proof = certify(model, images, labels, "3/100", method="interval")
        assert row["clean"] == proof.correct.mean()
        assert row["certified"] == (proof.certified & proof.correct).mean()
        assert row["gain"] == rows[0]["certified"] - row["certified"]
        assert row["seconds"] == pytest.approx(sum(line["seconds"] for line in read_metrics(tmp_path / name)))
    assert rows[0]["gain"] == 0
    assert rows[0]["certified"] > 0
    facts = json.loads((tmp_path / ABLATION).read_text())
    assert facts["rows"] == rows
    assert Recipe(**facts["recipe"]) == tiny()


def test_rows_are_means_over_seeds(few: Dataset, tmp_path: Path) -> None:
    """Of which each has folders of its own, and begins at the recipe's."""
    log = Log()
    rows = ablate(tiny("seed=5"), few, ["identity"], tmp_path / "two", seeds=2, begin=log)
    names = ["whole-seed5", "whole-seed6", "identity-seed5", "identity-seed6"]
    assert log.epochs == trained(*names)
    assert [log.recipes[name].seed for name in names] == [5, 6, 5, 6]
    single = [ablate(tiny(f"seed={seed}"), few, ["identity"], tmp_path / str(seed)) for seed in (5, 6)]
    for row, one, other in zip(rows, *single, strict=True):
        for key in ("clean", "certified", "gain"):
            assert row[key] == pytest.approx(fmean([one[key], other[key]]), abs=1e-12)
        assert row["by_seed"] == [one["certified"], other["certified"]]


def test_a_recipe_without_held_out_samples_gets_a_tenth(few: Dataset, tmp_path: Path) -> None:
    log = Log()
    ablate(tiny("held_out=0"), few, ["mean_shift"], tmp_path, begin=log)
    assert [recipe.held_out for recipe in log.recipes.values()] == [10, 10]


def test_a_part_named_twice_is_dropped_once(few: Dataset, tmp_path: Path) -> None:
    rows = ablate(tiny(), few, ["identity", "identity"], tmp_path)
    assert [row["part"] for row in rows] == [None, "identity"]


# once more


def without_seconds(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def test_the_same_call_again_trains_nothing(few: Dataset, tmp_path: Path) -> None:
    rows = ablate(tiny(), few, ["p_ramp", "identity"], tmp_path)
    before = {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()}
    log = Log()
    assert ablate(tiny(), few, ["p_ramp", "identity"], tmp_path, begin=log) == rows
    assert log.runs == ["whole", "p_ramp", "identity"]
    assert log.epochs == []
    assert {path: path.read_bytes() for path in sorted(tmp_path.rglob("*")) if path.is_file()} == before


@pytest.mark.parametrize("stop", [("whole", 1), ("p_ramp", 2), ("identity", 3)])
def test_an_interrupted_ablation_goes_on(stop: tuple[str, int], few: Dataset, tmp_path: Path) -> None:
    names = ["p_ramp", "identity"]
    rows = ablate(tiny(), few, names, tmp_path / "at once")
    log, rest = Log(stop), Log()
    with pytest.raises(KeyboardInterrupt):
        ablate(tiny(), few, names, tmp_path / "stopped", begin=log)
    assert without_seconds(ablate(tiny(), few, names, tmp_path / "stopped", begin=rest)) == without_seconds(rows)
    assert log.epochs + rest.epochs == trained("whole", *names)
    for name in ("whole", *names):
        assert (tmp_path / "stopped" / name / MODEL).read_bytes() == (tmp_path / "at once" / name / MODEL).read_bytes()


def test_rows_that_are_done_are_written_at_once(few: Dataset, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ablate(tiny(), few, ["p_ramp", "identity"], tmp_path, begin=Log(("identity", 1)))
    assert [row["part"] for row in json.loads((tmp_path / ABLATION).read_text())["rows"]] == [None, "p_ramp"]


def test_rows_of_an_earlier_call_stay_until_they_are_made_again(few: Dataset, tmp_path: Path) -> None:
    rows = ablate(tiny(), few, ["identity", "p_ramp"], tmp_path)

    def begin(name: str, recipe: Recipe, number: int, of: int) -> Observer:
        assert json.loads((tmp_path / ABLATION).read_text())["rows"] == rows
        return Observer()

    ablate(tiny(), few, ["identity", "p_ramp"], tmp_path, begin=begin)
    ablate(tiny(), few, ["identity"], tmp_path, begin=begin)
    assert json.loads((tmp_path / ABLATION).read_text())["rows"] == rows[:2]


@pytest.mark.parametrize("with_a_line", [False, True])
def test_an_ablation_that_is_killed_in_a_first_epoch_goes_on(with_a_line: bool, few: Dataset, tmp_path: Path) -> None:
    """Such a run has left its checkpoint of epoch 0, alone or beside the first line of its metrics."""
    rows = ablate(tiny(), few, ["identity"], tmp_path)
    folder, left = tmp_path / "identity", {}

    class Watch(Observer):
        def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
            if (epoch, done) == (1, 1):
                left[CHECKPOINT] = (folder / CHECKPOINT).read_bytes()
            if (epoch, done) == (2, 1) and with_a_line:
                left[METRICS] = (folder / METRICS).read_bytes()

    shutil.rmtree(folder)
    ablate(tiny(), few, ["identity"], tmp_path, begin=lambda *_: Watch())
    shutil.rmtree(folder)
    folder.mkdir()
    for name, content in left.items():
        (folder / name).write_bytes(content)
    log = Log()
    assert without_seconds(ablate(tiny(), few, ["identity"], tmp_path, begin=log)) == without_seconds(rows)
    assert log.epochs == trained("identity")


def test_a_second_ablation_in_the_folder_is_refused(few: Dataset, tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        with pytest.raises(UserError) as refusal:
            ablate(tiny(), few, ["identity"], tmp_path)
        said.append(str(refusal.value))

    def begin(*_: Any) -> Observer:
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
        return Observer()

    ablate(tiny(), few, ["identity"], tmp_path, begin=begin)
    told = f"{tmp_path}: process {os.getpid()} is at work in this folder: wait for it, or choose another folder"
    assert said == [told, told]


def test_numpys_way_of_telling_errors_does_not_matter(few: Dataset, tmp_path: Path) -> None:
    recipe = tiny("loss=mixture")
    rows = ablate(recipe, few, ["cross_entropy"], tmp_path / "plain")
    with np.errstate(all="raise"):
        raising = ablate(recipe, few, ["cross_entropy"], tmp_path / "raises")
    assert without_seconds(raising) == without_seconds(rows)


def test_arithmetic_is_checked_before_anything(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("this process flushes denormal numbers to zero")

    monkeypatch.setattr("linfengine.train.ablate.check_arithmetic", refuse)
    with pytest.raises(UserError, match="flushes"):
        ablate(tiny(), few, ["identity"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# the budget


def test_a_budget_is_fitted_once_and_shared_by_the_runs(
    few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 seconds for 4 runs are 3 for each: at 0.53 for an epoch, nine tenths of them are 5 epochs."""
    timed: list[int] = []

    def seconds(recipe: Recipe, dataset: Dataset, device: str) -> float:
        timed.append(recipe.width)
        return 0.53 * recipe.width / 16

    monkeypatch.setattr(budget, "seconds_per_epoch", seconds)
    call: Callable[[Log], Any] = lambda log: ablate(  # noqa: E731
        tiny(), few, ["mean_shift"], tmp_path, minutes=0.2, seeds=2, begin=log
    )
    log = Log(("whole-seed1", 2))
    with pytest.raises(KeyboardInterrupt):
        call(log)
    assert set(timed) == {16}
    timed.clear()
    rest = Log()
    call(rest)
    assert timed == []
    recipes = log.recipes | rest.recipes
    assert len(recipes) == 4
    assert {(recipe.epochs, recipe.width, recipe.ramp_start, recipe.ramp_end) for recipe in recipes.values()} == {
        (5, 16, 1.67, 3.33)
    }
    assert load_tensors(tmp_path / "mean_shift-seed1" / CHECKPOINT)[1]["epoch"] == "5"


# what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": tiny("lr=0.04")}, "holds an ablation of other settings: name another folder with --out"),
        ({"recipe": tiny("seed=1")}, "holds an ablation of other settings"),
        ({"minutes": 1.0}, "holds an ablation of other settings"),
    ],
)
def test_another_ablation_in_the_same_folder(
    change: dict[str, Any], message: str, few: Dataset, tmp_path: Path
) -> None:
    ablate(tiny(), few, ["identity"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    asked: dict[str, Any] = {"recipe": tiny(), "drop": ["identity"]} | change
    with pytest.raises(UserError, match=message):
        ablate(asked.pop("recipe"), few, asked.pop("drop"), tmp_path, **asked)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_run_that_diverges_counts_as_nothing(few: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are still worth what they are."""
    sound = Trainer.step

    def step(trainer: Trainer, *arguments: Any) -> Any:
        if not trainer.plan.recipe.identity:
            raise Diverged("the loss is nan")
        return sound(trainer, *arguments)

    monkeypatch.setattr(Trainer, "step", step)
    whole, lost, other = ablate(tiny(), few, ["identity", "mean_shift"], tmp_path)
    assert (lost["clean"], lost["certified"], lost["seconds"], lost["diverged"]) == (0, 0, 0, 1)
    assert lost["gain"] == whole["certified"]
    assert other["seconds"] > 0
    assert whole["diverged"] == other["diverged"] == 0
    with pytest.raises(Diverged, match="the loss is nan"):
        ablate(tiny("identity=false"), few, ["mean_shift"], tmp_path / "other")


def test_one_part_more_in_the_same_folder(few: Dataset, tmp_path: Path) -> None:
    """Without a budget that they would share, the runs there are stay, and only the new part's is trained."""
    first = ablate(tiny(), few, ["identity"], tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    second = ablate(tiny(), few, ["identity", "mean_shift"], tmp_path)
    assert second[:2] == first
    assert second[2]["part"] == "mean_shift"
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("settings", "drop", "seeds", "message"),
    [
        ([], [], 1, "--drop: name the parts to drop, of p_ramp, p_hold, "),
        (
            [],
            ["mean_shfit"],
            1,
            r"--drop mean_shfit: there is no such part \(did you mean 'mean_shift'\?\): expected p_r",
        ),
        ([], ["banana"], 1, "--drop banana: there is no such part: expected p_ramp, p_hold, "),
        ([], ["identity", ""], 1, "--drop : there is no such part: expected p_ramp, "),
        ([], ["identity", "clip"], 1, "--drop clip: this recipe has no such part; it has p_ramp, p_hold, "),
        (["weight_decay=0"], ["lp_decay"], 1, "--drop lp_decay: this recipe has no such part; it has "),
        (["mean_shift=false"], ["mean_shift"], 1, "--drop mean_shift: this recipe has no such part; it has p_ramp"),
        (["eps_test=0", "held_out=0"], ["identity"], 1, "recipe: eps_test must be the radius to certify at, got 0.0"),
        ([], ["identity"], 0, "--seeds: expected at least 1, got 0"),
        (["held_out=100"], ["identity"], 1, "held_out 100 leaves none of the 100 training samples"),
    ],
)
def test_what_cannot_be_ablated(
    settings: list[str], drop: list[str], seeds: int, message: str, few: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        ablate(tiny(*settings), few, drop, tmp_path / "out", seeds=seeds)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()


def test_a_budget_that_is_none(few: Dataset, tmp_path: Path) -> None:
    for minutes in (0.0, -1.0):
        with pytest.raises(UserError, match="--budget: expected a positive number of minutes"):
            ablate(tiny(), few, ["identity"], tmp_path, minutes=minutes)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"asked": {}}', "[" * 100_000])
def test_a_file_of_another_kind_in_its_place(content: str, few: Dataset, tmp_path: Path) -> None:
    (tmp_path / ABLATION).write_text(content)
    with pytest.raises(UserError, match=ABLATION if content != '{"asked": {}}' else "other settings"):
        ablate(tiny(), few, ["identity"], tmp_path)
    assert (tmp_path / ABLATION).read_text() == content
