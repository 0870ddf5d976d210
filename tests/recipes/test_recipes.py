"""Shipped recipes against the published tables, and every way in which a recipe or a setting can be wrong."""

import json
import math
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfengine.errors import UserError
from linfengine.recipes import (
    LOSSES,
    Recipe,
    load_recipe,
    make_recipe,
    recipe_names,
    stored_recipe,
    with_epochs,
    with_settings,
)

# As published in arXiv 2102.05363 (hinge) and 2110.06850 (mixture). eps are in pixel units; the epochs are those of
# the p ramp's start and end, of the whole run, and of the constant learning rate.
HINGE = {"loss": "hinge", "lr": 0.02, "weight_decay": 5e-3, "crop_mode": "constant"}
MIXTURE = {"loss": "mixture", "lr": 0.03, "scale_lr": 0.006, "weight_decay": 0, "crop_mode": "edge"}
MNIST = {"width": 5120, "depth": 5, "crop_padding": 1, "flip": False}
CIFAR = {"width": 5120, "depth": 6, "flip": True, "dataset": "cifar-10"}


def schedule(start: int, end: int, total: int, hold: int) -> dict[str, Any]:
    return {"ramp_start": start, "ramp_end": end, "epochs": total, "lr_hold": hold}


Z21, Z21_CIFAR = schedule(50, 350, 400, hold=50), schedule(100, 750, 800, hold=100)
Z22A, Z22A_CIFAR = schedule(25, 400, 450, hold=0), schedule(100, 1250, 1300, hold=0)


def weights(first: float, last: float) -> dict[str, Any]:
    return {"lambda_first": first, "lambda_last": last}


def eps(train: float, test: float) -> dict[str, Any]:
    return {"eps_train": train, "eps_test": test}


Z21_MNIST, Z22A_MNIST = MNIST | HINGE | Z21, MNIST | MIXTURE | Z22A | weights(0.05, 2e-4)
Z22A_COLOR = CIFAR | MIXTURE | Z22A_CIFAR | {"crop_padding": 3}
HEAD = {"loss": "cross-entropy", "lr": 0.02, "weight_decay": 5e-3, "crop_mode": "constant", "width": 5120}
Z21_MNIST_HEAD = MNIST | HEAD | Z21 | {"depth": 4, "kappa": 0.5, "eps_ramp_start": 0, "eps_ramp_end": 50}
Z21_CIFAR_HEAD = (
    {"flip": True, "dataset": "cifar-10"}
    | HEAD
    | Z21_CIFAR
    | {"head": 512, "kappa": 1, "eps_ramp_end": 100, "crop_padding": 4}
)
PUBLISHED: dict[str, dict[str, Any]] = {
    "z21-mnist": Z21_MNIST | eps(0.45, 0.3) | {"dataset": "mnist", "mix": 0.75},
    "z21-fashion": Z21_MNIST | eps(0.225, 0.1) | {"dataset": "fashion-mnist", "mix": 1},
    "z21-cifar": CIFAR | HINGE | Z21_CIFAR | eps(0.1568, 8 / 255) | {"mix": 0.75, "crop_padding": 4},
    "z21-mnist-mlp": Z21_MNIST_HEAD | eps(0.35, 0.3) | {"dataset": "mnist", "head": 256},
    "z21-fashion-mlp": Z21_MNIST_HEAD | eps(0.11, 0.1) | {"dataset": "fashion-mnist", "head": 512},
    "z21-cifar-mlp": Z21_CIFAR_HEAD | eps(0.03451, 8 / 255) | {"net": "dense", "depth": 5},
    "z21-cifar-conv-mlp": Z21_CIFAR_HEAD | eps(0.03451, 8 / 255) | {"net": "conv", "channels": 96, "width": 1024},
    "z21-tiny-mlp": HEAD
    | schedule(100, 450, 500, hold=100)
    | eps(0.005, 1 / 255)
    | {"dataset": "tiny-imagenet", "depth": 5, "head": 512, "kappa": 1, "lr": 0.04, "eps_ramp_end": 200}
    | {"crop_size": 56, "crop_padding": 0, "flip": True},
    "z22a-mnist-0.1": Z22A_MNIST | eps(0.3, 0.1) | {"dataset": "mnist"},
    "z22a-mnist-0.3": Z22A_MNIST | eps(0.45, 0.3) | {"dataset": "mnist"},
    "z22a-cifar-2": Z22A_COLOR | weights(0.05, 2e-3) | eps(0.03922, 2 / 255),
    "z22a-cifar-8": Z22A_COLOR | weights(0.1, 5e-4) | eps(0.09411, 8 / 255),
    "z22a-cifar-16": Z22A_COLOR | weights(0.1, 2e-4) | eps(0.15685, 16 / 255),
}
FIGURES: dict[str, dict[str, float]] = {  # of the papers' tables, % of the test set
    "z21-mnist": {"certified": 92.64},
    "z21-fashion": {"certified": 77.48},
    "z21-cifar": {"clean": 56.80, "certified": 33.30},
    "z21-mnist-mlp": {"certified": 93.09},
    "z21-fashion-mlp": {"certified": 79.23},
    "z21-cifar-mlp": {"certified": 35.42},
    "z21-cifar-conv-mlp": {},
    "z21-tiny-mlp": {"certified": 16.31},
    "z22a-mnist-0.1": {"clean": 98.93, "pgd": 98.03, "certified": 97.95},
    "z22a-mnist-0.3": {"clean": 98.56, "pgd": 94.73, "certified": 93.20},
    "z22a-cifar-2": {"clean": 60.61, "pgd": 54.28, "certified": 54.12},
    "z22a-cifar-8": {"clean": 54.30, "pgd": 41.84, "certified": 40.06},
    "z22a-cifar-16": {"clean": 48.50, "pgd": 32.73, "certified": 29.04},
    "mnist-small": {"clean": 98.56, "pgd": 94.73, "certified": 93.20},  # of the large net that it stands beside
    "fashion-small": {"certified": 79.23},
    "cifar-small": {"clean": 54.30, "pgd": 41.84, "certified": 40.06},
}
OURS = {
    "digits": "digits",
    "mnist-small": "mnist",
    "fashion-small": "fashion-mnist",
    "cifar-small": "cifar-10",
}  # recipes of our own, and their data sets
COMMON = {  # what all the published runs share
    "p_first": 8, "p_last": 1000, "cheap_orders": False, "batch_size": 512, "beta1": 0.9, "beta2": 0.99,
    "adam_eps": 1e-10, "mean_shift": True, "held_out": 0, "lr_schedule": "cosine", "lp_decay": True, "clip": True,
    "reset_at_switch": False, "identity": True,
}  # fmt: skip

MINIMAL = {"dataset": "mnist", "epochs": 10, "ramp_start": 2, "ramp_end": 8, "eps_train": 0.3, "lr": 0.02}


# what is shipped


def test_the_shipped_recipes() -> None:
    assert recipe_names() == sorted([*PUBLISHED, *OURS])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_is_the_row_of_its_table(name: str) -> None:
    recipe = load_recipe(name).to_dict()
    expected = COMMON | PUBLISHED[name]
    assert {key: recipe[key] for key in expected} == expected
    paper = "2102.05363" if name.startswith("z21") else "2110.06850"
    assert paper in recipe["source"]


@pytest.mark.parametrize("name", [*PUBLISHED, *OURS])
def test_a_recipe_gives_the_figures_of_its_paper_and_no_others(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.published == FIGURES.get(name, {})
    assert recipe.eps_test > 0 or not recipe.published  # they are figures at a radius
    assert recipe.source or not recipe.published


@pytest.mark.parametrize(("name", "dataset"), OURS.items())
def test_a_recipe_of_our_own_is_whole(name: str, dataset: str) -> None:
    """It names a data set, and leaves epochs at p = infinity after a ramp that begins at 8."""
    recipe = load_recipe(name)
    assert recipe.dataset == dataset
    assert recipe.ramp_start < recipe.ramp_end <= recipe.epochs - 1
    assert recipe.p_first == 8
    assert 100 <= recipe.p_last <= 1000


def test_a_recipe_survives_its_dictionary() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert make_recipe(recipe.to_dict()) == recipe
    assert set(recipe.to_dict()) == {field.name for field in fields(Recipe)}


def test_a_recipe_stays_as_it_is() -> None:
    with pytest.raises(AttributeError):
        load_recipe("digits").lr = 1.0  # type: ignore[misc]


# settings


@pytest.mark.parametrize(
    ("setting", "key", "value"),
    [
        ("epochs=500", "epochs", 500),
        ("lr=0.5", "lr", 0.5),
        ("lr=1", "lr", 1.0),
        ("lr=1e-3", "lr", 0.001),
        ("weight_decay=0", "weight_decay", 0.0),
        ("eps_train=8/255", "eps_train", 8 / 255),
        ("eps_train=0.3", "eps_train", 0.3),
        ("eps_train=1", "eps_train", 1.0),
        ('eps_train="1/10"', "eps_train", 0.1),
        ("eps_test=2/255", "eps_test", 2 / 255),
        ("dataset=cifar-10", "dataset", "cifar-10"),
        ('dataset="mnist"', "dataset", "mnist"),
        ("source=a note of 2 words", "source", "a note of 2 words"),
        ("source=", "source", ""),
        ("source=a=b", "source", "a=b"),
        ("flip=true", "flip", True),
        ("cheap_orders=false", "cheap_orders", False),
        ("batch_size = 64", "batch_size", 64),
        ("batch_size=1_000", "batch_size", 1000),
        ("seed=0", "seed", 0),
        ("clip=false", "clip", False),
        ("reset_at_switch=true", "reset_at_switch", True),
        ("lr_schedule=constant", "lr_schedule", "constant"),
        ("crop_size=6", "crop_size", 6),
        ("published={clean = 99, certified = 90.5}", "published", {"clean": 99, "certified": 90.5}),
        ("published={}", "published", {}),
    ],
)
def test_a_setting_is_put_over_the_recipe(setting: str, key: str, value: Any) -> None:
    recipe, plain = load_recipe("digits", [setting]).to_dict(), load_recipe("digits").to_dict()
    assert recipe[key] == value
    assert type(recipe[key]) is type(value)
    assert {k: v for k, v in recipe.items() if k != key} == {k: v for k, v in plain.items() if k != key}


@pytest.mark.parametrize(
    ("settings", "values", "left"),
    [
        (["loss=cross-entropy", "kappa=0"], {"loss": "cross-entropy", "kappa": 0.0}, ["scale_lr"]),
        (["net=conv", "channels=24"], {"net": "conv", "channels": 24}, ["depth"]),
        (["lambda_first=0"], {"lambda_first": 0.0}, ["scale_lr"]),
        (["weight_decay=1", "lp_decay=false"], {"weight_decay": 1.0, "lp_decay": False}, []),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_keys_of_what_a_setting_replaces_return_to_their_defaults(
    settings: list[str], values: dict[str, Any], left: list[str]
) -> None:
    """The file gives a scale_lr and a depth, which have no effect any more."""
    plain, defaults = load_recipe("digits"), make_recipe(MINIMAL).to_dict()
    expected = plain.to_dict() | values | {key: defaults[key] for key in left}
    assert load_recipe("digits", settings).to_dict() == with_settings(plain, **values).to_dict() == expected
    assert all(plain.to_dict()[key] != defaults[key] for key in left)


def test_a_head_and_a_ramp_of_eps_come_with_a_loss_that_takes_them() -> None:
    recipe = load_recipe("digits", ["loss=hinge", "head=32", "eps_ramp_start=1.5", "eps_ramp_end=20"])
    assert (recipe.head, recipe.eps_ramp_start, recipe.eps_ramp_end) == (32, 1.5, 20.0)


def test_of_several_settings_the_last_one_counts() -> None:
    recipe = load_recipe("digits", ["width=16", "depth=2", "width=32"])
    assert (recipe.width, recipe.depth) == (32, 2)


def test_a_setting_can_add_what_the_file_lacks(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('dataset = "mnist"\nepochs = 10\nramp_start = 2\nramp_end = 8\nlr = 0.02\n')
    with pytest.raises(UserError, match="recipe: missing eps_train"):
        load_recipe(str(file))
    assert load_recipe(str(file), ["eps_train=1/10"]) == make_recipe(MINIMAL | {"eps_train": 0.1})


@given(lr=st.floats(1e-10, 1e6), epochs=st.integers(361, 10**9))
def test_numbers_come_through_as_they_were_written(lr: float, epochs: int) -> None:
    recipe = load_recipe("digits", [f"lr={lr!r}", f"epochs={epochs}"])
    assert (recipe.lr, recipe.epochs) == (lr, epochs)


# epochs


@pytest.mark.parametrize("epochs", [1, 2, 100, 800])
def test_other_epochs_stretch_the_schedule(epochs: int) -> None:
    """400 epochs of digits, its ramp from 80 to 360; the last epoch is one at p = infinity."""
    recipe = load_recipe("digits", ["width=32"], epochs=epochs)
    assert recipe == with_epochs(load_recipe("digits", ["width=32"]), epochs)
    assert (recipe.epochs, recipe.ramp_start) == (epochs, min(epochs / 5, epochs - 1))
    assert recipe.ramp_end == min(0.9 * epochs, epochs - 1)


def test_settings_count_in_the_new_epochs() -> None:
    recipe = load_recipe("digits", ["ramp_end=95.5"], epochs=100)
    assert (recipe.epochs, recipe.ramp_start, recipe.ramp_end) == (100, 20, 95.5)
    with pytest.raises(UserError, match="recipe: ramp_end must be before the last of 100 epochs.*got 360"):
        load_recipe("digits", ["ramp_end=360"], epochs=100)
    with pytest.raises(UserError, match="--epochs and --set epochs=N name the same number: give one of them"):
        load_recipe("digits", ["epochs=50"], epochs=100)


@pytest.mark.parametrize("epochs", [0, -1, 10**9 + 1, 10**400, -(10**400), 2.5, True, "3"])
def test_epochs_that_are_none(epochs: Any) -> None:
    with pytest.raises(UserError, match="recipe: epochs must be "):
        load_recipe("digits", epochs=epochs)


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        (["epochs=100"], "ramp_end"),
        (["ramp_start=2", "epochs=100"], "ramp_end"),
        (["epochs=50"], "ramp_start"),
        (["loss=hinge", "lr_hold=45", "ramp_start=0", "ramp_end=0", "epochs=40"], "lr_hold"),
    ],
)
def test_epochs_that_leave_no_room_for_the_schedule_name_the_option(settings: list[str], key: str) -> None:
    with pytest.raises(UserError, match=f"recipe: {key} must be .*; --epochs [0-9]+ stretches the whole schedule$"):
        load_recipe("digits", settings)


def test_other_faults_do_not_name_it() -> None:
    for settings in (["ramp_end=400"], ["epochs=400", "lr=0"], ["epochs=0"]):
        with pytest.raises(UserError) as refusal:
            load_recipe("digits", settings)
        assert "--epochs" not in str(refusal.value)


# files


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('# ε as a fraction\ndataset = "cifar-10"\nepochs = 10\nramp_start = 2\nramp_end = 8.5\n'
                    'eps_train = "8/255"\nlr = 1\n', encoding="utf-8")  # fmt: skip
    recipe = load_recipe(str(file), ["lr=0.5"])
    assert recipe == make_recipe(MINIMAL | {"dataset": "cifar-10", "ramp_end": 8.5, "eps_train": 8 / 255, "lr": 0.5})
    assert [type(value) for value in (recipe.epochs, recipe.ramp_start)] == [int, float]


def test_a_file_with_a_table_of_published_figures(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    lines = [f"{key} = {value!r}" for key, value in MINIMAL.items()]
    file.write_text("\n".join([*lines, "[published]", "clean = 98.5", "pgd = 95", "certified = 93.25"]))
    recipe = load_recipe(str(file))
    assert recipe == make_recipe(MINIMAL | {"published": {"clean": 98.5, "pgd": 95, "certified": 93.25}})
    assert make_recipe(dict(MINIMAL)).published == {}


def test_what_a_recipe_can_leave_out() -> None:
    recipe = make_recipe(dict(MINIMAL))
    assert recipe == Recipe("mnist", 10, 2.0, 8.0, 0.3, 0.02)
    assert {key: recipe.to_dict()[key] for key in COMMON} == COMMON


# what is refused


def refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        make_recipe(MINIMAL | values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", r"there is no recipe 'digit' \(did you mean 'digits'\?\): expected cifar-small, .*, or a .toml file"),
        ("z22a-cifar-9", "did you mean 'z22a-cifar-"),
        ("entirely something else", "there is no recipe 'entirely something else': expected cifar-small, "),
        ("", "there is no recipe ''"),
        ("absent.toml", r"recipe absent.toml: cannot be read \(.*No such file"),
        (".toml", "recipe .toml: expected a file with a name before .toml"),
        ("..toml", "recipe ..toml: expected a file with a name before .toml"),
        ("folder/...toml", "recipe folder/...toml: expected a file with a name before .toml"),
    ],
)
def test_a_recipe_that_is_not_there(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_recipe(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs 10", r"not a TOML file \(.*line 1"),
        (b"epochs = 10\nepochs = 20\n", r"not a TOML file \(.*line 2"),
        (b"lr = .02\n", "not a TOML file"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "recipe: missing dataset, epochs, ramp_start, ramp_end, eps_train, lr$"),
        (b'[training]\ndataset = "mnist"\n', "recipe: unknown key 'training'"),
        (b"epochs = " + b"9" * 5000, "not a TOML file"),
        (b"epochs = " + b"[" * 5000 + b"]" * 5000, "not a TOML file"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_recipe(str(file))


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    folder = tmp_path / "mine.toml"
    folder.mkdir()
    with pytest.raises(UserError, match=r"mine.toml: cannot be read"):
        load_recipe(str(folder))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set epochs: expected key=value"),
        ("", "--set : expected key=value"),
        ("=3", "recipe: unknown key ''"),
        ("widht=3", r"recipe: unknown key 'widht' \(did you mean 'width'\?\)"),
        ("learning rate=3", "recipe: unknown key 'learning rate'"),
        ("epochs=ten", "recipe: epochs must be a whole number, got 'ten'"),
        ("epochs=", "recipe: epochs must be a whole number, got ''"),
        ("epochs=10.0", "recipe: epochs must be a whole number, got 10.0"),
        ("epochs=1e2", "recipe: epochs must be a whole number, got 100.0"),
        ("epochs=true", "recipe: epochs must be a whole number, got True"),
        (f"epochs={10**400}", "recipe: epochs must be a number of at most 64 bits, got one of 1329"),
        (f"lr={10**400}", "recipe: lr must be a number of at most 64 bits, got one of 1329"),
        (f"epochs=0x{'f' * 4500}", "recipe: epochs must be a number of at most 64 bits, got one of 18000"),
        (f"epochs={'9' * 5000}", "recipe: epochs must be a whole number, got '9{39}$"),
        ("lr=fast", "recipe: lr must be a number, got 'fast'"),
        ("lr=true", "recipe: lr must be a number, got True"),
        ("lr=1/2", "recipe: lr must be a number, got '1/2'"),
        ("lr=[0.1]", r"recipe: lr must be a number, got \[0.1\]"),
        ("flip=1", "recipe: flip must be true or false, got 1"),
        ("flip=True", "recipe: flip must be true or false, got 'True'"),
        ("dataset=3", "recipe: dataset must be text, got 3"),
        ("eps_train=a lot", "recipe: eps_train: expected a number or a fraction such as 0.3 or 8/255, got 'a lot'"),
        ("eps_train=8/0", "recipe: eps_train: expected a number or a fraction"),
        ("eps_train=300/255", "recipe: eps_train: expected a radius in pixel units from 0 to 1, got 300/255"),
        ("eps_test=-1/255", "recipe: eps_test: expected a radius in pixel units from 0 to 1, got -1/255"),
        ("eps_train=true", "recipe: eps_train must be a number, got True"),
        ("net=3", "recipe: net must be text, got 3"),
        ("channels=2.5", "recipe: channels must be a whole number, got 2.5"),
        ("head=yes", "recipe: head must be a whole number, got 'yes'"),
        ("kappa=half", "recipe: kappa must be a number, got 'half'"),
        ("clip=1", "recipe: clip must be true or false, got 1"),
        ("eps_ramp_end=later", "recipe: eps_ramp_end must be a number, got 'later'"),
        ("reset_at_switch=yes", "recipe: reset_at_switch must be true or false, got 'yes'"),
        ("lr_schedule=true", "recipe: lr_schedule must be text, got True"),
        ("lp_decay=0", "recipe: lp_decay must be true or false, got 0"),
        ("crop_size=6.0", "recipe: crop_size must be a whole number, got 6.0"),
        ("published=93", "recipe: published must be a table, got 93"),
        ("published=[93]", r"recipe: published must be a table, got \[93\]"),
    ],
)
def test_a_setting_that_is_none(setting: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_recipe("digits", [setting])
    assert "\n" not in str(error.value)


IMPOSSIBLE: dict[str, list[Any]] = {
    "dataset": ["imagenet", "MNIST"],
    "epochs": [0, -1, 10**9 + 1],
    "ramp_start": [-0.5, math.nan],
    "ramp_end": [1.5, 10, 11, math.inf, math.nan],  # before the ramp's start at 2, or not before the end at 10
    "eps_train": [0, -0.1, 1.01, math.nan, math.inf],
    "lr": [0, -0.1, 1e-320, 2e6, math.nan, math.inf],
    "width": [0, -1, 2**20 + 1],
    "depth": [0, -1, 1001],
    "net": ["cnn", ""],
    "channels": [0, -1, 2**16 + 1],
    "head": [-1, 2**16 + 1],
    "kappa": [-0.1, 1.1, math.nan],
    "eps_ramp_start": [-0.5, math.inf, math.nan],
    "eps_ramp_end": [-1, 10, math.inf, math.nan],
    "lr_schedule": ["linear", ""],
    "crop_size": [-1, 29],
    "loss": ["hinge loss", ""],
    "mix": [-0.1, 1.1, math.nan],
    "lambda_first": [-1, math.inf, math.nan],
    "lambda_last": [0, -1, math.inf, math.nan],
    "scale_lr": [-1, math.inf, math.nan],
    "p_first": [0.5, math.inf, math.nan],
    "p_last": [7, 2e5, math.inf, math.nan],  # below p_first = 8
    "batch_size": [0, -1, 1],  # of one sample, a mean shift leaves nothing
    "lr_hold": [-1, 10, math.nan],
    "weight_decay": [-1, math.inf, math.nan],
    "beta1": [-0.1, 1, math.nan],
    "beta2": [-0.1, 1, math.nan],
    "adam_eps": [0, -1, 1.5, math.inf, math.nan],
    "crop_padding": [-1, 65],
    "crop_mode": ["reflect", ""],
    "held_out": [-1],
    "eps_test": [-0.1, 1.01, math.nan, math.inf],
    "seed": [-1, 2**63],
}


def test_every_key_with_impossible_values_is_tried() -> None:
    """All but the switches and the note."""
    free = {"identity", "mean_shift", "cheap_orders", "flip", "source", "clip", "lp_decay", "reset_at_switch"}
    free |= {"published"}
    assert set(IMPOSSIBLE) == {field.name for field in fields(Recipe)} - free


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in IMPOSSIBLE.items() for value in values])
def test_a_value_that_is_impossible(key: str, value: Any) -> None:
    refused({key: value}, rf"recipe: {key} must be .*, got {value!r}")


WORDS = ("dataset", "net", "loss", "lr_schedule", "crop_mode")
EFFECTIVE: dict[str, dict[str, Any]] = {  # what gives a key an effect that it has not by default
    "channels": {"net": "conv"},
    "mix": {"loss": "hinge"},
    "kappa": {"loss": "cross-entropy"},
    "eps_ramp_start": {"loss": "hinge", "eps_ramp_end": 3},
    "eps_ramp_end": {"loss": "hinge"},
    "head": {"loss": "hinge"},
    "lp_decay": {"weight_decay": 0.1},
    "crop_mode": {"crop_padding": 1},
}


@pytest.mark.parametrize(
    ("key", "value", "nearest"),
    [
        ("epochs", -3, "1"),
        ("ramp_start", -0.5, "0"),
        ("ramp_end", 1.5, "2"),
        ("ramp_end", 10, "9"),
        ("eps_train", 0, "1e-06"),
        ("eps_train", 1.01, "1"),
        ("lr", -0.1, "1e-12"),
        ("width", 0, "1"),
        ("width", 2**20 + 1, "1048576"),
        ("depth", 1001, "1000"),
        ("channels", 0, "1"),
        ("channels", 2**16 + 1, "65536"),
        ("head", -1, "0"),
        ("head", 2**16 + 1, "65536"),
        ("mix", 1.1, "1"),
        ("kappa", -0.1, "0"),
        ("kappa", 1.1, "1"),
        ("lambda_first", -1, "0"),
        ("lambda_last", 0, "1e-12"),
        ("scale_lr", -1, "0"),
        ("eps_ramp_start", -0.5, "0"),
        ("eps_ramp_end", -1, "0"),
        ("eps_ramp_end", 9.5, "9"),
        ("p_first", 0.5, "1"),
        ("p_last", 7, "8"),
        ("p_last", 2e5, "100000"),
        ("lr_hold", 10, "9"),
        ("beta2", 1, "0.999999"),
        ("adam_eps", 0, "1e-30"),
        ("crop_padding", 65, "64"),
        ("crop_size", -1, "0"),
        ("crop_size", 29, "28"),
        ("held_out", -1, "0"),
        ("eps_test", 1.01, "1"),
        ("seed", -1, "0"),
        ("seed", 2**63, "9223372036854775807"),
        ("batch_size", 1, "2"),
        ("adam_eps", 2, "1"),
    ],
)
def test_the_nearest_possible_value_is_named(key: str, value: Any, nearest: str) -> None:
    refused({"loss": "hinge", key: value}, rf"recipe: {key} must be .*, got .* \(the nearest is {nearest}\)$")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key, values in IMPOSSIBLE.items()
        if key not in WORDS
        for value in values
        if math.isfinite(value)
    ],
)
def test_the_nearest_value_that_is_named_is_possible(key: str, value: Any) -> None:
    others = MINIMAL | EFFECTIVE.get(key, {}) | ({"ramp_start": 0, "ramp_end": 0} if key == "epochs" else {})
    with pytest.raises(UserError) as error:
        make_recipe(others | {key: value})
    named = str(error.value).partition(" (the nearest is ")[2].removesuffix(")")
    kind = type(make_recipe(MINIMAL).to_dict()[key])
    assert make_recipe(others | {key: kind(named)}).to_dict()[key] == kind(named)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_nothing_is_near_to_what_is_no_number(value: float) -> None:
    for key in ("lr", "kappa", "eps_ramp_end"):
        refused({key: value}, f"recipe: {key} must be .*, got {value!r}$")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dataset", "minst", r"one of digits, .*, got 'minst' \(did you mean 'mnist'\?\)"),
        ("net", "conf", r"one of dense, conv, got 'conf' \(did you mean 'conv'\?\)"),
        ("net", "cnn", "one of dense, conv, got 'cnn'$"),
        ("loss", "hing", r"one of mixture, hinge, cross-entropy, got 'hing' \(did you mean 'hinge'\?\)"),
        (
            "loss",
            "cross_entropy",
            r"one of mixture, hinge, cross-entropy, got 'cross_entropy' \(did you mean 'cross-entropy'\?\)",
        ),
        ("lr_schedule", "const", r"one of cosine, constant, got 'const' \(did you mean 'constant'\?\)"),
        ("lr_schedule", "step", "one of cosine, constant, got 'step'$"),
        ("crop_mode", "edges", r"one of constant, edge, got 'edges' \(did you mean 'edge'\?\)"),
    ],
)
def test_a_word_that_is_close_to_another(key: str, value: str, message: str) -> None:
    refused({key: value}, f"recipe: {key} must be {message}")


@pytest.mark.parametrize(
    ("dataset", "side"), [("digits", 8), ("mnist", 28), ("fashion-mnist", 28), ("cifar-10", 32), ("tiny-imagenet", 64)]
)
def test_a_crop_is_no_larger_than_the_images(dataset: str, side: int) -> None:
    assert make_recipe(MINIMAL | {"dataset": dataset, "crop_size": side}).crop_size == side
    refused(
        {"dataset": dataset, "crop_size": side + 1},
        rf"crop_size must be a number of pixels from 0 \(no crop\) to {side}, got {side + 1} \(the nearest is {side}\)",
    )


@pytest.mark.parametrize(
    ("published", "message"),
    [
        ({"clean": 100.5}, r"got clean = 100.5$"),
        ({"pgd": -1}, r"got pgd = -1$"),
        ({"certified": math.nan}, r"got certified = nan$"),
        ({"certified": "93"}, r"got certified = '93'$"),
        ({"clean": True}, r"got clean = True$"),
        ({"clean": 98, "certifed": 93}, r"got certifed = 93 \(did you mean 'certified'\?\)$"),
        ({"error": 7}, r"got error = 7$"),
        ({"clean": {"mean": 98}}, r"got clean = {'mean': 98}$"),
    ],
)
def test_published_figures_that_are_none(published: dict[str, Any], message: str) -> None:
    refused({"published": published}, f"recipe: published must give clean, pgd, certified in percent, {message}")


@pytest.mark.parametrize("eps_ramp", [{"eps_ramp_end": 0.5}, {"eps_ramp_start": 2, "eps_ramp_end": 9}])
def test_the_mixture_takes_no_ramp_of_eps(eps_ramp: dict[str, Any]) -> None:
    """It divides by ε, which is 0 where the ramp begins."""
    refused(
        {"loss": "mixture"} | eps_ramp,
        "recipe: eps_ramp_end must be 0 with the mixture loss, .*, got .*: take the loss hinge or cross-entropy",
    )
    for loss in ("hinge", "cross-entropy"):
        assert make_recipe(MINIMAL | {"loss": loss} | eps_ramp).eps_ramp_end == eps_ramp["eps_ramp_end"]


def test_the_mixture_takes_no_head() -> None:
    refused({"loss": "mixture", "head": 1}, "recipe: loss must be hinge or cross-entropy for a net with a head, got 'm")
    for loss in ("hinge", "cross-entropy"):
        assert make_recipe(MINIMAL | {"loss": loss, "head": 1}).head == 1


def test_a_ramp_that_begins_too_late_is_told_of_its_beginning() -> None:
    """No eps_ramp_end is from 20 to 9: it is the beginning that has to change."""
    refused({"loss": "hinge", "eps_ramp_start": 20}, "recipe: eps_ramp_start must be .*, got 20")


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 1, "ramp_start": 0, "ramp_end": 0},
        {"ramp_start": 8},
        {"eps_train": 1},
        {"width": 1, "depth": 1, "batch_size": 2},
        {"batch_size": 1, "mean_shift": False},
        {"loss": "hinge", "mix": 0},
        {"loss": "hinge", "mix": 1},
        {"scale_lr": 0, "weight_decay": 0, "adam_eps": 1e-30, "beta1": 0, "beta2": 0},
        {"p_first": 1, "p_last": 1},
        *({"loss": loss} for loss in LOSSES),
        {"lambda_first": 0},
        {"width": 2**20, "depth": 1000},
        {"net": "conv", "channels": 1},
        {"net": "conv", "channels": 2**16, "loss": "hinge", "head": 2**16},
        {"loss": "cross-entropy", "kappa": 0},
        {"loss": "cross-entropy", "eps_ramp_start": 9, "eps_ramp_end": 9},
        {"loss": "hinge", "eps_ramp_end": 9},
        {"crop_size": 1},
        {"crop_size": 28, "crop_padding": 64},
        {"lr_hold": 9},
        {"published": {"clean": 0, "pgd": 0.0, "certified": 100}},
    ],
)
def test_values_at_the_edge_of_the_possible(values: dict[str, Any]) -> None:
    recipe = make_recipe(MINIMAL | values).to_dict()
    assert {key: recipe[key] for key in values} == values


def test_held_out_samples_need_a_radius() -> None:
    refused({"held_out": 10}, "recipe: eps_test must be the radius that held-out samples are certified at, got 0.0")


def test_the_first_fault_is_named_with_what_it_depends_on() -> None:
    refused({"ramp_end": 1}, r"recipe: ramp_end must be an epoch not before ramp_start = 2, got 1.0")
    refused({"epochs": 8}, r"recipe: ramp_end must be before the last of 8 epochs.*, got 8.0")
    refused({"p_last": 4}, r"recipe: p_last must be from p_first = 8 to 1e5, got 4.0")
    refused(
        {"dataset": "cifar"},
        r"recipe: dataset must be one of digits, mnist, fashion-mnist, cifar-10, tiny-imagenet, got 'cifar'",
    )


# keys without an effect


IDLE: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"net": "conv"}, {"depth": 3}, "depth has no effect with net = conv: it needs net = dense"),
    ({}, {"channels": 8}, "channels has no effect with net = dense: it needs net = conv"),
    ({}, {"mix": 0.5}, "mix has no effect with loss = mixture: it needs loss = hinge"),
    ({"loss": "hinge"}, {"kappa": 0.5}, "kappa has no effect with loss = hinge: it needs loss = cross-entropy"),
    ({"loss": "hinge"}, {"lambda_first": 1.0}, "lambda_first has no effect with loss = hinge: it needs loss = mixture"),
    ({"loss": "hinge"}, {"lambda_last": 1.0}, "lambda_last has no effect with loss = hinge: it needs loss = mixture"),
    ({"loss": "hinge"}, {"scale_lr": 1.0}, "scale_lr has no effect with loss = hinge: it needs loss = mixture"),
    ({"lambda_first": 0}, {"lambda_last": 1.0}, "lambda_last has no effect with lambda_first = 0.0: it needs lambda_f"),
    ({"lambda_first": 0}, {"scale_lr": 0.0}, "scale_lr has no effect with lambda_first = 0.0: it needs lambda_first >"),
    ({"loss": "cross-entropy"}, {"clip": False}, "clip has no effect with loss = cross-entropy: it needs loss = mixt"),
    ({}, {"eps_ramp_start": 2.0}, "eps_ramp_end must be from eps_ramp_start = 2 to 9, got 0.0"),  # it says what to do
    ({"lr_schedule": "constant"}, {"lr_hold": 1.0}, "lr_hold has no effect with lr_schedule = constant: it needs lr_"),
    ({}, {"lp_decay": False}, "lp_decay has no effect with weight_decay = 0.0: it needs weight_decay > 0"),
    ({}, {"crop_mode": "edge"}, "crop_mode has no effect with crop_padding = 0: it needs crop_padding > 0"),
]


@pytest.mark.parametrize(("others", "idle", "message"), IDLE, ids=lambda value: " ".join(value))
def test_a_key_without_an_effect_is_refused(
    others: dict[str, Any], idle: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """From Python where it is not the default; in a file or a setting even if it is."""
    both: dict[str, Any] = MINIMAL | others | idle
    refused(both, re.escape(f"recipe: {message}"))
    with pytest.raises(UserError, match=re.escape(message)):
        Recipe(**both)
    if "must be" in message:
        return
    ((key, value),) = idle.items()
    default = make_recipe(MINIMAL).to_dict()[key]
    assert make_recipe(MINIMAL | others | {key: default}).to_dict()[key] == default
    file = tmp_path / "mine.toml"
    for written in (value, default):
        text = "".join(f"{name} = {toml(each)}\n" for name, each in (MINIMAL | others).items())
        file.write_text(text)
        with pytest.raises(UserError, match=re.escape(message)):
            load_recipe(str(file), [f"{key}={toml(written)}"])
        file.write_text(f"{text}{key} = {toml(written)}\n")
        with pytest.raises(UserError, match=re.escape(message)):
            load_recipe(str(file))
        with pytest.raises(UserError, match=re.escape(message)):
            load_recipe(str(file), ["seed=1"], epochs=10)


def toml(value: Any) -> str:
    return json.dumps(value)


def test_what_a_setting_gives_an_effect_is_taken_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in (MINIMAL | {"mix": 0.5}).items()))
    assert load_recipe(str(file), ["loss=hinge"]).mix == 0.5


def test_every_need_of_a_key_is_tried() -> None:
    tried = {key for _, idle, _ in IDLE for key in idle}
    assert tried == {field.name for field in fields(Recipe) if field.metadata["needs"]}


def test_what_is_out_of_range_is_told_first() -> None:
    refused({"mix": 2}, "recipe: mix must be from 0 to 1, got 2")


@given(data=st.data())
def test_a_stored_recipe_is_read_whatever_has_no_effect(data: st.DataObject) -> None:
    """Files of earlier versions hold all keys, some of them set in vain; those are as good as not there."""
    others, idle, _ = data.draw(st.sampled_from([case for case in IDLE if "must be" not in case[2]]))
    recipe = make_recipe(MINIMAL | others)
    assert stored_recipe(recipe.to_dict() | idle) == stored_recipe(recipe.to_dict()) == recipe
    with pytest.raises(UserError, match="recipe: unknown key 'banana'"):
        stored_recipe(recipe.to_dict() | {"banana": 1})


def test_radii_in_words_and_whole_numbers_come_as_their_types() -> None:
    recipe = Recipe("mnist", 10, 2, 8, "8/255", 1)  # type: ignore[arg-type]
    assert recipe == make_recipe(MINIMAL | {"eps_train": 8 / 255, "lr": 1})
    assert [type(value) for value in (recipe.ramp_start, recipe.eps_train, recipe.lr)] == [float] * 3


def test_a_recipe_may_be_for_any_data_set(tmp_path: Path) -> None:
    """A crop is then compared with the images when they are there."""
    assert make_recipe(MINIMAL | {"dataset": "", "crop_size": 500}).crop_size == 500
    refused(
        {"dataset": "", "crop_size": -1}, r"crop_size must be a number of pixels from 0 \(no crop\) to 65536, got -1"
    )
