"""A budget: the recipe that is trained in it is the same but for its width, its epochs and the places of its ramps."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from linfengine.data import Dataset, load_dataset
from linfengine.errors import UserError
from linfengine.recipes import SCHEDULE, Recipe, load_recipe, recipe_names, with_epochs, with_settings
from linfengine.train import Moment, Trainer, budget, make_plan
from linfengine.train.budget import FITTED, fit_budget, resumed, scaled, seconds_per_epoch

RECIPE = load_recipe("digits", ["width=128", "batch_size=32", "epochs=100", "ramp_start=20", "ramp_end=90"])


@functools.cache
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def few() -> Dataset:
    """A hundred of them."""
    return replace(digits(), train_images=digits().train_images[:100], train_labels=digits().train_labels[:100])


def unfitted(recipe: Recipe) -> dict[str, Any]:
    return {key: value for key, value in recipe.to_dict().items() if key not in FITTED}


# other epochs


def test_epochs_stretch_the_schedule_by_hand() -> None:
    recipe = load_recipe("z21-mnist-mlp")  # ramps from 50 to 350 and 0 to 50 of 400, the rate held for 50
    half = with_epochs(recipe, 200)
    assert (half.epochs, half.ramp_start, half.ramp_end, half.lr_hold, half.eps_ramp_end) == (200, 25, 175, 25, 25)
    third = with_epochs(recipe, 133)
    assert (third.ramp_start, third.ramp_end, third.lr_hold) == (16.62, 116.38, 16.62)  # 16.625 and 116.375
    assert unfitted(third) == unfitted(recipe)
    assert third.width == recipe.width


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """With all the ramps that there are."""
    epochs = draw(st.integers(1, 1000))
    moments = st.floats(0, epochs - 1)
    ramp, eps_ramp = sorted([draw(moments), draw(moments)]), sorted([draw(moments), draw(moments)])
    return replace(
        load_recipe("digits", ["loss=hinge"]), epochs=epochs, ramp_start=ramp[0], ramp_end=ramp[1],
        eps_ramp_start=eps_ramp[0], eps_ramp_end=eps_ramp[1], lr_hold=draw(moments),
    )  # fmt: skip


@given(recipe=recipes(), epochs=st.integers(1, 3000))
@example(recipe=replace(RECIPE, ramp_end=99), epochs=2)
@example(recipe=RECIPE, epochs=1)
def test_epochs_keep_fractions_and_a_last_epoch_at_infinity(recipe: Recipe, epochs: int) -> None:
    """To a hundredth of an epoch, but for what would reach into the last one."""
    other = with_epochs(recipe, epochs)
    assert other.epochs == epochs
    assert unfitted(other) == unfitted(recipe)
    assert (other.width, other.channels) == (recipe.width, recipe.channels)
    for key in SCHEDULE:
        place = getattr(recipe, key) / recipe.epochs * epochs
        assert 0 <= getattr(other, key) <= epochs - 1
        assert getattr(other, key) == pytest.approx(min(place, epochs - 1), abs=0.0051)
    assert other.ramp_start <= other.ramp_end


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_over_its_own_epochs_is_itself(name: str) -> None:
    recipe = load_recipe(name)
    assert with_epochs(recipe, recipe.epochs) == recipe
    assert with_epochs(with_epochs(recipe, 2 * recipe.epochs), recipe.epochs) == recipe


# another width


@pytest.mark.parametrize(
    ("factor", "width", "channels"),
    [(1, 1024, 96), (0.5, 512, 48), (2, 2048, 192), (0.1, 96, 10), (0.333, 336, 32), (0.01, 16, 4), (1e-9, 16, 4)],
)
def test_widths_by_hand(factor: float, width: int, channels: int) -> None:
    """Multiples of 16, and never below it: 102.4 becomes 96, 340.99 becomes 336."""
    dense = replace(RECIPE, width=1024)
    recipe = with_settings(dense, net="conv", channels=96)
    other = scaled(recipe, factor)
    assert scaled(dense, factor) == replace(dense, width=width)
    assert (other.width, other.channels) == (width, channels)
    assert replace(other, width=1024, channels=96) == recipe


@pytest.mark.parametrize("width", [1, 8, 24, 100, 1000])
def test_a_factor_of_one_changes_nothing(width: int) -> None:
    for recipe in (replace(RECIPE, width=width), with_settings(RECIPE, net="conv", width=width, channels=3)):
        assert scaled(recipe, 1.0) == recipe


# what an epoch takes


def test_seconds_are_the_mean_over_the_run(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the epochs at p = 8, half at p = ∞, 4 steps each; every order is timed twice, the faster one counts."""
    times = {8.0: [3.0, 5.0], math.inf: [2.0, 1.0]}
    monkeypatch.setattr(budget, "_timed_step", lambda run, now: times[now.p].pop())
    recipe = replace(RECIPE, ramp_start=50.0, ramp_end=50.0)
    assert seconds_per_epoch(recipe, few) == pytest.approx(4 * (3 + 1) / 2)
    assert times == {8.0: [], math.inf: []}


@pytest.mark.parametrize("settings", [[], ["loss=hinge", "head=8", "eps_ramp_end=50"], ["net=conv", "channels=2"]])
def test_seconds_are_measured(settings: list[str], few: Dataset) -> None:
    """More for a net with a thousand times the weights; and the data are as they were."""
    recipe = load_recipe("digits", ["width=16", "batch_size=50", "held_out=20", *settings])
    before = few.train_images.copy()
    seconds = seconds_per_epoch(recipe, few)
    assert 0 < seconds < 10
    np.testing.assert_array_equal(few.train_images, before)
    if not settings:
        assert seconds_per_epoch(replace(recipe, width=1024), few) > seconds


def test_no_schedule_moment_is_left_out(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an order of its own at every moment, each is timed: twelve, in the middles of twelfths of the run."""
    moments: list[Moment] = []

    def timed(trainer: Trainer, now: Moment) -> float:
        moments.append(now)
        return 1.0

    monkeypatch.setattr(budget, "_timed_step", timed)
    recipe = replace(RECIPE, cheap_orders=False, ramp_start=0.0, ramp_end=99.0, epochs=120)
    seconds_per_epoch(recipe, few)
    at = make_plan(recipe, few).moment
    expected = [at(10 * i + 5) for i in range(10)] + [at(105)]  # 105 and 115 are both at p = ∞
    assert moments == [moment for moment in expected for _ in range(2)]


# fitting


Cost = Callable[[Recipe], float]


def cost_of(seconds: float, power: float) -> Cost:
    """An epoch takes so many seconds at width 128, and grows with that power of the width."""
    return lambda recipe: seconds * (recipe.width / 128) ** power


def fitted(cost: Cost, recipe: Recipe, minutes: float) -> Recipe:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(budget, "seconds_per_epoch", lambda candidate, dataset, device: cost(candidate))
        return fit_budget(recipe, digits(), minutes)


powers = st.floats(1, 2)
widths = st.integers(2, 32).map(lambda n: 16 * n)


@given(width=widths, epochs=st.integers(10, 1000), power=powers, minutes=st.floats(0.1, 1e4), share=st.floats(-1, 2))
def test_a_budget_is_spent(width: int, epochs: int, power: float, minutes: float, share: float) -> None:
    """Nine tenths of it, whatever the machine; nothing else of the recipe changes but with the schedule."""
    recipe = with_epochs(replace(RECIPE, width=width), epochs)
    cost = cost_of(60 * minutes / epochs * 10**-share, power)
    result = fitted(cost, recipe, minutes)
    spent = result.epochs * cost(result)
    assert 0.9 * 60 * minutes - 1.01 * cost(result) - 0.01 <= spent <= 60 * minutes  # but for a last epoch's share
    assert unfitted(result) == unfitted(recipe)
    assert result == with_epochs(replace(recipe, width=result.width, channels=result.channels), result.epochs)
    assert result.ramp_end <= result.epochs - 1


def assert_width_stays(width: int, power: float, wanted: float) -> None:
    recipe = replace(RECIPE, width=width)
    cost = cost_of(1.0, power)
    result = fitted(cost, recipe, wanted * 100 * cost(recipe) / 0.9 / 60)
    assert result.width == width
    assert abs(result.epochs - (100 * wanted - 0.5)) <= 0.55  # rounded down


@given(width=widths, power=powers, wanted=st.floats(0.26, 1.99))
def test_a_width_that_can_be_afforded_stays(width: int, power: float, wanted: float) -> None:
    """Where nine tenths of the time are between a quarter and twice the recipe's 100 epochs."""
    assert_width_stays(width, power, wanted)


@pytest.mark.parametrize("width", [528, 5120])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("wanted", [0.4, 1])
def test_so_does_a_large_one(width: int, power: float, wanted: float) -> None:
    """The search begins at 512, and ends at the recipe's."""
    assert_width_stays(width, power, wanted)


@given(width=st.integers(8, 32).map(lambda n: 16 * n), power=powers, wanted=st.floats(3, 50))
def test_much_time_widens(width: int, power: float, wanted: float) -> None:
    """As long as twice the epochs can be had, give or take a tenth of the width and a step or two of 16 neurons."""
    recipe = replace(RECIPE, width=width)
    cost = cost_of(1.0, power)
    budget_seconds = wanted * 100 * cost(recipe)
    result = fitted(cost, recipe, budget_seconds / 0.9 / 60)
    assert result.width > width
    assert result.epochs >= 200
    wider = cost(replace(recipe, width=int(1.1 * result.width) + 48))
    assert budget_seconds / wider < 200 or result.width == 16 * width  # and no wider than that


@given(width=widths, power=powers, wanted=st.floats(0.001, 0.2))
def test_little_time_narrows(width: int, power: float, wanted: float) -> None:
    """And leaves a quarter of the epochs, but for the tenth that the search may miss, where widths are close enough."""
    recipe = replace(RECIPE, width=width)
    cost = cost_of(1.0, power)
    seconds = wanted * 100 * cost(recipe)
    assume(seconds / cost(replace(recipe, width=64)) > 40)
    result = fitted(cost, recipe, seconds / 0.9 / 60)
    assert result.width < width
    assert 22 <= result.epochs <= 225


@pytest.mark.parametrize(("width", "epochs", "seconds", "power"), [(160, 10, 600.0, 2.0), (512, 100, 2.0, 1.875)])
def test_the_search_ends_at_a_net_that_can_be_afforded(width: int, epochs: int, seconds: float, power: float) -> None:
    """The next wider net has too few epochs: the search must not end there by turns, nor with a refusal."""
    recipe, cost = with_epochs(replace(RECIPE, width=width), epochs), cost_of(seconds, power)
    narrowest = cost(replace(recipe, width=16))
    minutes = 54 / 60 / 0.9 if width == 160 else 0.001 * epochs * cost(recipe) / 0.9 / 60
    assert 0.9 * 60 * minutes / narrowest > epochs / 4
    assert fitted(cost, recipe, minutes).epochs >= math.floor(epochs / 4 * math.exp(-0.1))


def test_a_convolutional_net_is_fitted_by_its_channels_and_width() -> None:
    recipe = load_recipe("z21-cifar-conv-mlp")
    cost: Cost = lambda recipe: recipe.channels**2 / 96  # noqa: E731
    result = fitted(cost, recipe, 60.0)
    assert 4 <= result.channels < 96
    assert result.width / 1024 == pytest.approx(result.channels / 96, rel=0.2)
    assert 0.6 * 3600 <= result.epochs * cost(result) <= 3600


@pytest.mark.parametrize("minutes", [0, -1, math.nan, math.inf, -math.inf])
def test_no_budget_is_no_budget(minutes: float) -> None:
    with pytest.raises(UserError, match=rf"--budget: expected a positive number of minutes, got {minutes}"):
        fitted(lambda recipe: pytest.fail("nothing is to be timed"), RECIPE, minutes)


def test_too_little_time_for_the_smallest_net() -> None:
    assert fitted(lambda recipe: 25.0, RECIPE, 1.0).epochs == 2  # 54 seconds of 60
    with pytest.raises(UserError, match=r"--budget: 1 min are too few for two epochs of this recipe"):
        fitted(lambda recipe: 28.0, RECIPE, 1.0)


def test_a_budget_on_this_machine(few: Dataset) -> None:
    """Timed for real: a recipe that can be trained, with more than one width's worth of time."""
    recipe = replace(RECIPE, width=32, depth=2, epochs=20, ramp_start=5.0, ramp_end=15.0)
    result = fit_budget(recipe, few, 0.02)
    assert result == with_epochs(replace(recipe, width=result.width, channels=result.channels), result.epochs)
    assert result.epochs >= 2


# going on


def test_a_run_goes_on_with_the_recipe_it_was_begun_with() -> None:
    for factor, epochs in ((1.0, 100), (0.5, 37), (3.0, 160)):
        begun = with_epochs(scaled(RECIPE, factor), epochs)
        assert resumed(RECIPE, json.loads(json.dumps(begun.to_dict()))) == begun


OTHERS: dict[str, Any] = {
    "lr": 0.5,
    "seed": 1,
    "loss": "hinge",
    "depth": 2,
    "batch_size": 33,
    "eps_train": 0.25,
    "clip": False,
}


@pytest.mark.parametrize("key", OTHERS)
def test_another_recipe_does_not_go_on(key: str) -> None:
    value = OTHERS[key]
    begun = with_epochs(scaled(RECIPE, 0.5), 37).to_dict()
    with pytest.raises(UserError) as refusal:
        resumed(with_settings(RECIPE, **{key: value}), begun)
    assert str(refusal.value) == f"--resume: this run was begun with {key} = {begun[key]!r}, not {value!r}"


def test_what_a_budget_may_change_is_what_resuming_overlooks() -> None:
    assert set(FITTED) == {"width", "channels", "epochs", *SCHEDULE} <= {field.name for field in fields(Recipe)}
    begun = with_epochs(scaled(RECIPE, 0.5), 37)
    asked = with_epochs(replace(RECIPE, width=48), 50)  # whatever is asked for now
    assert resumed(asked, begun.to_dict()) == begun
    conv = with_settings(RECIPE, net="conv", channels=8)
    assert resumed(replace(conv, channels=7), scaled(conv, 0.5).to_dict()) == scaled(conv, 0.5)


def test_numpys_way_of_telling_errors_does_not_matter(few: Dataset) -> None:
    for settings in (["loss=mixture"], ["loss=cross-entropy", "head=4"]):
        recipe = load_recipe("digits", ["width=16", "held_out=20", "batch_size=32", *settings])
        with np.errstate(all="raise"):
            assert seconds_per_epoch(recipe, few) > 0


def test_arithmetic_is_checked_before_steps_are_timed(few: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise UserError("this process flushes denormal numbers to zero")

    monkeypatch.setattr("linfengine.train.budget.check_arithmetic", refuse)
    monkeypatch.setattr("linfengine.train.budget.seconds_per_epoch", pytest.fail)
    with pytest.raises(UserError, match="flushes"):
        fit_budget(RECIPE, few, 1.0)
