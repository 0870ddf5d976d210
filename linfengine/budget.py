"""Fitting a recipe to a machine and a time: how wide, and for how many epochs.

The recipe's steps are timed for a few seconds, at moments all over its run, since their cost depends on p.  Then

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

from .backends import to_numpy
from .data import Dataset
from .errors import UserError
from .recipes import Recipe, make_recipe
from .train import Run

SHARE = 0.9  # of the budget that the epochs are to fill; the rest is for what the estimate misses
FEWEST, MOST = 0.25, 2.0  # times the recipe's epochs
MOMENTS = 12  # of the run at which a step is timed
CHEAP_WIDTH = 512  # where the search begins, so that no single step takes long
MOST_TRIES = 7  # widths that are timed
SCHEDULE = ("ramp_start", "ramp_end", "lr_hold", "eps_ramp_start", "eps_ramp_end")
FITTED = ("width", "channels", "epochs", *SCHEDULE)  # what a budget may change in a recipe


def check_minutes(minutes: float) -> None:
    if not 0 < minutes < math.inf:
        raise UserError(f"--budget: expected a positive number of minutes, got {minutes:g}")


def fit_budget(recipe: Recipe, dataset: Dataset, minutes: float, device: str = "cpu") -> Recipe:
    """The recipe at the width and for the epochs that this machine trains in so many minutes.

    Raises UserError for a budget that is no positive number, or too short for two epochs of the narrowest net.
    """
    check_minutes(minutes)
    afforded: dict[float, float] = {}  # epochs, by the factor of the width
    factor, below, above = min(1.0, CHEAP_WIDTH / recipe.width), 0.0, math.inf  # wide enough, and too wide
    while len(afforded) < MOST_TRIES and factor not in afforded:
        afforded[factor] = SHARE * 60 * minutes / seconds_per_epoch(scaled(recipe, factor), dataset, device)
        wanted = (FEWEST if factor <= 1 else MOST) * recipe.epochs
        if afforded[factor] < wanted:
            above = min(above, factor)
        else:
            below = max(below, factor)
            if factor == 1:
                wanted = MOST * recipe.epochs
        if below == 1 and afforded[1] < MOST * recipe.epochs:
            break  # its own width, and not so much time that it could be wider
        # a step costs between width and width squared
        factor *= min(max((afforded[factor] / wanted) ** 0.6, 0.1), 10.0)
        if not below < factor < above:
            factor = (below + min(above, 4 * below)) / 2
        width = scaled(recipe, min(factor, 1.0) if below < 1 else factor).width
        if width / recipe.width in afforded:
            width = max(width + (16 if width / recipe.width == below else -16), 16)
        factor = width / recipe.width
    factor = below or min(afforded)
    epochs = math.floor(afforded[factor])
    if epochs < 2:
        raise UserError(f"--budget: {minutes:g} min are too few for two epochs of this recipe on this machine")
    return with_epochs(scaled(recipe, factor), epochs)


def resumed(recipe: Recipe, begun: dict[str, Any]) -> Recipe:
    """The recipe of a run that was begun with a budget, to go on with: not fitted again.

    Raises UserError where it is not this recipe but for what a budget may change.
    """
    own = recipe.to_dict()
    changed = [key for key, value in own.items() if key not in FITTED and begun.get(key) != value]
    if changed:
        key = changed[0]
        raise UserError(f"--resume: this run was begun with {key} = {begun.get(key)!r}, not {own[key]!r}")
    return make_recipe(own | {key: begun[key] for key in FITTED})


def scaled(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with so many times the neurons in every hidden layer, the width a multiple of 16; 1 is the recipe."""
    if factor == 1:
        return recipe
    width, channels = max(16, 16 * round(factor * recipe.width / 16)), max(4, round(factor * recipe.channels))
    return replace(recipe, width=width, channels=channels)


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over so many epochs, its schedule stretched alike; the last epoch stays one at p = ∞."""
    stretched = {key: getattr(recipe, key) * epochs / recipe.epochs for key in SCHEDULE}
    return replace(recipe, epochs=epochs, **{key: min(round(at, 2), epochs - 1.0) for key, at in stretched.items()})


def seconds_per_epoch(recipe: Recipe, dataset: Dataset, device: str = "cpu") -> float:
    """What an epoch of the recipe takes here on average, by timing a few of its steps at moments all over the run."""
    run = Run(recipe, dataset, device)
    run.model.train()
    steps = math.ceil(len(run.labels) / recipe.batch_size)
    total, known = 0.0, {}
    for i in range(MOMENTS):
        now = (i + 0.5) / MOMENTS * recipe.epochs
        p = run.order(now)
        if p not in known:
            known[p] = min(_timed_step(run, now) for _ in range(2))
        total += known[p] / MOMENTS
    return total * steps


def _timed_step(run: Run, now: float) -> float:
    start = time.perf_counter()
    pixels, labels = next(run.batches())
    run.step(pixels, labels, now)
    to_numpy(run.scale.data)  # waits for a GPU
    return time.perf_counter() - start
