"""Fitting a recipe to a machine and a time: how wide, and for how many epochs.

The recipe's steps are timed for a few seconds, at moments all over its run, since their cost depends on p. Then

    width and channels    stay, where between a quarter and twice the recipe's epochs can be afforded with them; else
                          they shrink until a quarter can be, or grow as long as twice as many can be
    epochs                as many as fit into nine tenths of the time
    ramps, holds          keep their place, as fractions of the run

Everything else (loss, radii, rates, batch size) is left as it is.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np

from ..backends import to_numpy
from ..data import Dataset
from ..errors import UserError
from ..recipes import NOTES, SCHEDULE, Recipe, stored_recipe, with_epochs
from ..rounding import check_arithmetic
from .plan import Moment, make_plan
from .trainer import Diverged, Trainer

SHARE = 0.9  # of the budget that the epochs are to fill; the rest is for what the estimate misses
FEWEST, MOST = 0.25, 2.0  # times the recipe's epochs
MOMENTS = 12  # of the run at which a step is timed
CHEAP_WIDTH = 512  # where the search begins, so that no single step takes long
WIDEST = 16.0  # times the recipe's width
FITTED = ("width", "channels", "epochs", *SCHEDULE)  # what a budget may change in a recipe


def check_minutes(minutes: float) -> None:
    if not 0 < minutes < math.inf:
        raise UserError(f"--budget: expected a positive number of minutes, got {minutes:g}")


def fit_budget(recipe: Recipe, dataset: Dataset, minutes: float, device: str = "cpu") -> Recipe:
    """The recipe at the width and for the epochs that this machine trains in so many minutes.

    An epoch is timed at two small widths, which tells the power of the width that its cost grows with, and at the width
    chosen. Raises UserError for a budget that is no positive number, or too short for two epochs, and where this
    process does not compute as IEEE 754 says.
    """
    check_minutes(minutes)
    check_arithmetic()
    end = time.perf_counter() + SHARE * 60 * minutes
    small = min(1.0, CHEAP_WIDTH / recipe.width)
    narrow, wide = scaled(recipe, small / 2), scaled(recipe, small)
    half, whole = (seconds_per_epoch(each, dataset, device) for each in (narrow, wide))
    power = math.log(whole / half) / math.log(wide.width / narrow.width) if narrow.width < wide.width else 1.0
    power = min(max(power, 0.5), 2.0)
    left = end - time.perf_counter()

    def factor_for(epochs: float) -> float:
        return small * (max(left, 0.0) / (whole * epochs)) ** (1 / power)

    factor = min(max(1.0, factor_for(MOST * recipe.epochs)), factor_for(FEWEST * recipe.epochs), WIDEST)
    fitted = scaled(recipe, factor)
    if factor != small:
        whole = seconds_per_epoch(fitted, dataset, device)
    epochs = min(math.floor((end - time.perf_counter()) / whole), 10**9)
    if epochs < 2:
        raise UserError(f"--budget: {minutes:g} min are too few for two epochs of this recipe on this machine")
    return with_epochs(fitted, epochs)


def resumed(recipe: Recipe, begun: dict[str, Any]) -> Recipe:
    """The recipe of a run that was begun with a budget, to go on with: not fitted again.

    Raises UserError where it is not this recipe but for what a budget may change.
    """
    own, theirs = recipe.to_dict(), stored_recipe(begun).to_dict()
    for key in own:
        if key not in (*FITTED, *NOTES) and theirs[key] != own[key]:
            raise UserError(f"--resume: this run was begun with {key} = {theirs[key]!r}, not {own[key]!r}")
    return replace(recipe, **{key: theirs[key] for key in FITTED})


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with so many times the neurons in every hidden layer, the width a multiple of 16; 1 is the recipe."""
    if factor == 1:
        return recipe
    width = min(max(min(16, recipe.width), 16 * math.floor(factor * recipe.width / 16 + 1e-9)), 2**20)
    if recipe.net != "conv":
        return replace(recipe, width=width)
    return replace(
        recipe, width=width, channels=min(max(min(4, recipe.channels), round(factor * recipe.channels)), 2**16)
    )


def seconds_per_epoch(recipe: Recipe, dataset: Dataset, device: str = "cpu") -> float:
    """What an epoch of the recipe takes here on average, by timing a few of its steps at moments all over the run."""
    with np.errstate(all="ignore"):
        plan = make_plan(recipe, dataset, device)
        trainer = Trainer(plan)
        plan.net.train()
        moments = [plan.moment((i + 0.5) / MOMENTS * plan.epochs) for i in range(MOMENTS)]
        seconds: dict[float, float] = {}  # of a step, by p
        for now in moments:
            if now.p not in seconds:
                seconds[now.p] = min(_timed_step(trainer, now) for _ in range(2))
        steps = len(plan.batches) * sum(seconds[now.p] for now in moments) / MOMENTS
        start, samples = time.perf_counter(), min(recipe.held_out, recipe.batch_size)
        plan.held_out.figures(plan.net, samples)
        return steps + (time.perf_counter() - start) * recipe.held_out / max(samples, 1)


def _timed_step(trainer: Trainer, now: Moment) -> float:
    start = time.perf_counter()
    inputs, labels = next(trainer.plan.batches.of(0))
    try:
        trainer.step(inputs, labels, now)
        trainer.check_numbers()
    except Diverged as error:
        raise UserError(f"--budget: training diverged while its steps were timed: {error}; try a smaller lr") from error
    to_numpy(trainer.plan.scale.data)  # waits for a GPU
    return time.perf_counter() - start
