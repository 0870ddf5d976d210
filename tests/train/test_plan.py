"""Plans: for any data set that fits the recipe, and for runs that an earlier version began."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linfengine.checkpoint import load_model, load_tensors, save_tensors
from linfengine.data import Dataset, load_dataset
from linfengine.domain import Domain
from linfengine.errors import UserError
from linfengine.recipes import Recipe, load_recipe, make_recipe
from linfengine.train import CHECKPOINT, MODEL, Observer, check_fits, recipe_in, train

BEFORE = Path(__file__).with_name("checkpoint_before_plans.json")  # what 0.2.0 wrote: metadata, and shapes of tensors
TINY = ["loss=hinge", "width=16", "depth=2", "epochs=3", "ramp_start=1", "ramp_end=2", "lr=0.05", "batch_size=10"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A hundred digits."""
    digits = load_dataset("digits")
    return replace(digits, train_images=digits.train_images[:100], train_labels=digits.train_labels[:100])


def any_data(*settings: str) -> Recipe:
    return load_recipe("digits", ["dataset=", *TINY, *settings])


# data of one's own


def test_a_recipe_without_a_data_set_takes_any(few: Dataset, tmp_path: Path) -> None:
    """The net is that of the same samples under a name, and its file says whose they are."""
    mine = replace(
        few, name="mine", train_images=few.train_images[:, :, 1:, :], test_images=few.test_images[:, :, 1:, :]
    )
    train(any_data("held_out=20", "crop_padding=1", "flip=true"), mine, tmp_path / "mine")
    net, metadata = load_model(tmp_path / "mine" / MODEL)
    assert metadata["dataset"] == "mine"
    assert json.loads(metadata["recipe"])["dataset"] == ""
    assert net(mine.test_images[:5]).shape == (5, 10)
    train(any_data(), few, tmp_path / "any")
    train(load_recipe("digits", TINY), few, tmp_path / "digits")
    one, other = (load_tensors(tmp_path / name / MODEL)[0] for name in ("any", "digits"))
    assert all(array.tobytes() == other[name].tobytes() for name, array in one.items())


def test_a_run_on_data_of_ones_own_goes_on(few: Dataset, tmp_path: Path) -> None:
    class Stop(Observer):
        def epoch(self, figures: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    mine, recipe = replace(few, name="mine"), any_data()
    train(recipe, mine, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, mine, tmp_path / "stopped", observer=Stop())
    train(recipe, mine, tmp_path / "stopped", resume=True)
    for name in (MODEL, CHECKPOINT):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_named_data_set_is_no_other(few: Dataset) -> None:
    with pytest.raises(UserError, match="recipe: dataset is digits, got the samples of mine"):
        check_fits(load_recipe("digits", TINY), replace(few, name="mine"))


def test_a_crop_is_compared_with_the_images_that_are_given(few: Dataset) -> None:
    check_fits(any_data("crop_size=8"), few)
    with pytest.raises(UserError, match=r"crop_size must be .* from 0 \(no crop\) to 8, got 9 \(the nearest is 8\)"):
        check_fits(any_data("crop_size=9"), few)


def test_numbers_in_the_shape_of_images_are_none() -> None:
    """Black, which a crop pads with, may lie beyond their bounds."""
    x, labels = np.full((50, 1, 8, 8), 0.5, np.float32), np.zeros(50, int)
    data = Dataset("fields", ("a", "b"), x, labels, x, labels, (0.5,), 0.25, Domain((1, 8, 8), 0.5, 1))
    check_fits(any_data(), data)
    for setting in ("flip=true", "crop_padding=2", "crop_size=4"):
        with pytest.raises(UserError, match="which are no images"):
            check_fits(any_data(setting), data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["flip=true"], "flip must be False for inputs of shape (2,), which are no images, got True"),
        (["crop_padding=1"], "crop_padding must be 0 for inputs of shape (2,), which are no images, got 1"),
        (["crop_size=2"], "crop_size must be 0 for inputs of shape (2,), which are no images, got 2"),
        (["net=conv"], "net must be dense for inputs of shape (2,), which are no images, got 'conv'"),
    ],
)
def test_what_is_for_images_alone(settings: list[str], message: str) -> None:
    x, labels = np.zeros((50, 2), np.float32), np.zeros(50, int)
    points = Dataset("points", ("a", "b"), x, labels, x, labels, (0.5,), 0.25, Domain((2,), 0, 1))
    words = [word for word in TINY if "net=conv" not in settings or not word.startswith("depth")]
    check_fits(any_data(), points)
    with pytest.raises(UserError) as refusal:
        check_fits(load_recipe("digits", ["dataset=", *words, *settings]), points)
    assert str(refusal.value) == f"recipe: {message}"


# runs of earlier versions


def test_a_run_that_an_earlier_version_began_goes_on(few: Dataset, tmp_path: Path) -> None:
    """Its recipe holds all keys, one of them in vain (scale_lr, with the hinge loss), its tensors have these names."""
    before = json.loads(BEFORE.read_text())
    recipe = load_recipe(
        "digits", [*TINY, "width=32", "epochs=6", "ramp_start=2", "ramp_end=5", "lr=0.03", "batch_size=32"]
    )
    train(recipe, few, tmp_path, keep=9)
    whole = (tmp_path / MODEL).read_bytes()
    tensors, metadata = load_tensors(tmp_path / "checkpoint-00003.safetensors")
    assert {name: [str(array.dtype), *array.shape] for name, array in tensors.items()} == before["tensors"]
    assert metadata.keys() == before["metadata"].keys()
    assert metadata["recipe"] != before["metadata"]["recipe"]
    save_tensors(tmp_path / CHECKPOINT, tensors, before["metadata"])
    (tmp_path / MODEL).unlink()
    assert recipe_in(tmp_path) == recipe.to_dict()
    train(recipe, few, tmp_path, resume=True)
    assert (tmp_path / MODEL).read_bytes() == whole


def test_the_stored_recipe_has_every_key_that_earlier_versions_know(few: Dataset) -> None:
    """They refuse a recipe with an unknown key, and want all others of the right type."""
    theirs = json.loads(json.loads(BEFORE.read_text())["metadata"]["recipe"])
    ours = json.loads(json.dumps(make_recipe(theirs | {"scale_lr": 0.006}).to_dict()))
    assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
