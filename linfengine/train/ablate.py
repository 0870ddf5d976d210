"""What each part of the training strategy is worth: the recipe trained whole, and once without each part.

All variants are judged on held-out training samples, certified at the recipe's eps_test by the interval method; the
test set is never touched. The papers' ablation, at a scale a reader can afford.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..certify import certify
from ..checkpoint import load_model
from ..data import Dataset, split_holdout
from ..errors import UserError, did_you_mean
from ..files import check_writable, folder_lock, write_file
from ..recipes import Recipe, stored_recipe, with_settings
from ..rounding import check_arithmetic
from .budget import check_minutes, fit_budget
from .folder import CHECKPOINT, MODEL, recipe_in
from .loop import train
from .metrics import read_metrics
from .progress import Observer, watching
from .samples import check_fits
from .trainer import Diverged

ABLATION = "ablation.json"
WHOLE = "the whole recipe"


@dataclass(frozen=True)
class Part:
    """A part of the strategy: what takes its place when it is dropped, in words, and as settings of a recipe."""

    instead: str
    settings: Callable[[Recipe], dict[str, Any]]


PARTS = {
    "p_ramp": Part(  # λ goes along the same ramp: without one it would be λ_last from the first step, too
        "p = ∞ and λ = λ_first from the first step",
        lambda r: {"ramp_start": 0.0, "ramp_end": 0.0} | _mixture(r, lambda_last=r.lambda_first or r.lambda_last),
    ),
    "p_hold": Part("p grows from the first step", lambda r: {"ramp_start": 0.0}),
    "p_infinity": Part("p grows to the last epoch but one", lambda r: {"ramp_end": r.epochs - 1.0}),
    "mean_shift": Part("no mean shift", lambda r: {"mean_shift": False}),
    "identity": Part("all weights start as N(0, 1)", lambda r: {"identity": False}),
    "weight_decay": Part("no weight decay", lambda r: {"weight_decay": 0.0}),
    "lp_decay": Part(
        "ordinary weight decay for the distance weights", lambda r: {"lp_decay": False} if r.weight_decay else {}
    ),
    "cross_entropy": Part("the clipped hinge alone", lambda r: _mixture(r, lambda_first=0.0)),
    "lambda_decay": Part("λ stays at λ_first", lambda r: _mixture(r, lambda_last=r.lambda_first or r.lambda_last)),
    "scale": Part("the logits' scale stays 1", lambda r: _mixture(r, scale_lr=0.0) if r.lambda_first else {}),
    "clip": Part("the hinge is not clipped", lambda r: _mixture(r, clip=False)),
    "mean_hinge": Part("the hinge of the worst class alone", lambda r: {"mix": 1.0} if r.loss == "hinge" else {}),
    "kappa": Part("the worst case alone, κ = 1", lambda r: {"kappa": 1.0} if r.loss == "cross-entropy" else {}),
    "eps_ramp": Part("ε_train from the first step", lambda r: {"eps_ramp_start": 0.0, "eps_ramp_end": 0.0}),
    "eps_margin": Part("ε_train no larger than ε_test", lambda r: {"eps_train": r.eps_test} if r.eps_test else {}),
    "cosine": Part("the learning rate stays constant", lambda r: {"lr_schedule": "constant"}),
    "augmentation": Part("no padded crops, no flips", lambda r: {"crop_padding": 0, "flip": False}),
    "adam_constants": Part("Adam's β₂ = 0.999 and eps = 1e-8", lambda r: {"beta2": 0.999, "adam_eps": 1e-8}),
}


def _mixture(recipe: Recipe, **settings: Any) -> dict[str, Any]:
    return settings if recipe.loss == "mixture" else {}


def without(recipe: Recipe, part: str) -> Recipe:
    """The recipe with one part dropped. Raises UserError for a part that there is not, or not in this recipe."""
    if part not in PARTS:
        raise UserError(
            f"--drop {part}: there is no such part{did_you_mean(part, PARTS)}: expected {', '.join(PARTS)}, or all"
        )
    dropped = with_settings(recipe, **PARTS[part].settings(recipe))
    if dropped == recipe:
        raise UserError(f"--drop {part}: this recipe has no such part; it has {', '.join(parts_of(recipe))}")
    return dropped


def parts_of(recipe: Recipe) -> list[str]:
    """The parts that the recipe has."""
    return [name for name, part in PARTS.items() if with_settings(recipe, **part.settings(recipe)) != recipe]


def ablate(
    recipe: Recipe,
    dataset: Dataset,
    drop: Iterable[str],
    out: str | Path,
    *,
    minutes: float | None = None,
    seeds: int = 1,
    device: str = "cpu",
    begin: Callable[[str, Recipe, int, int], Observer] | None = None,
) -> list[dict[str, Any]]:
    """A row for the whole recipe, and one for each part dropped, all trained for the same epochs.

    A row: `part`, `instead`, `clean` and `certified` (fractions of the held-out samples, means over the seeds), `gain`
    (certified of the whole recipe less this row's), `by_seed` (certified, of each), `diverged` (how many runs did: they
    count as 0) and `seconds` of training. With `minutes`, the recipe is first fitted to its equal share of them
    (`fit_budget`). A recipe without held-out samples gets a tenth of the data.

    Each run has a folder of its own in `out`; called again, runs that are done are taken as they are and one that was
    interrupted goes on. `begin(name, recipe, number, of)` is told of every run and gives its observer; without it,
    progress is shown as `train` shows it.

    With "all" in `drop`, all the parts that the recipe has are dropped in turn.

    Raises UserError for parts that the recipe does not have, no parts, a recipe without an eps_test or with more held
    out than there is, an `out` that holds another ablation or in which one is running, or a process that does not
    compute as IEEE 754 says; Diverged where the whole recipe does.
    """
    out = Path(out)
    names = list(dict.fromkeys(drop))
    if not names:
        raise UserError(f"--drop: name the parts to drop, of {', '.join(parts_of(recipe))}")
    if minutes is not None:
        check_minutes(minutes)
    if seeds < 1:
        raise UserError(f"--seeds: expected at least 1, got {seeds}")
    if not recipe.eps_test:
        raise UserError("recipe: eps_test must be the radius to certify at, got 0.0")
    if not recipe.held_out:
        recipe = replace(recipe, held_out=len(dataset.train_labels) // 10)
    check_fits(recipe, dataset)
    for name in names:
        if name != "all":
            without(recipe, name)
    check_arithmetic()
    watched = watching(None) if begin is None else nullcontext(Observer())
    with folder_lock(out), np.errstate(all="ignore"), watched as observer:
        return _ablate(recipe, dataset, names, out, minutes, seeds, device, begin or observer.begin)


def _ablate(
    recipe: Recipe,
    dataset: Dataset,
    names: list[str],
    out: Path,
    minutes: float | None,
    seeds: int,
    device: str,
    begin: Callable[[str, Recipe, int, int], Observer],
) -> list[dict[str, Any]]:
    """As `ablate`, in a folder that is locked."""
    check_writable(out / ABLATION)  # before the budget is fitted rather than after it
    everything = "all" in names
    count = len(parts_of(recipe) if everything else names)
    facts = _facts(recipe, dataset, out, minutes, seeds * (count + 1), device)
    recipe, before = stored_recipe(facts["recipe"]), facts.pop("rows", None)
    names = parts_of(recipe) if everything else names
    for name in names:
        without(recipe, name)  # a recipe of few epochs may have no room for a part
    if before is None:
        write_file(out / ABLATION, json.dumps(facts, indent=2).encode())
    rows: list[dict[str, Any]] = []
    started = 0
    for part in (None, *names):
        variant = without(recipe, part) if part else recipe
        found, diverged = [], 0
        for seed in range(recipe.seed, recipe.seed + seeds):
            folder = out / ((part or "whole") + (f"-seed{seed}" if seeds > 1 else ""))
            run = replace(variant, seed=seed)
            started += 1
            observer = begin(folder.name, run, started, seeds * (len(names) + 1))
            try:
                found.append(_run(run, dataset, folder, device, observer))
            except Diverged:
                if not part:
                    raise
                found.append((0.0, 0.0, 0.0))  # without the part, there is no net
                diverged += 1
        clean, certified, seconds = (statistics.fmean(column) for column in zip(*found, strict=True))
        whole = rows[0]["certified"] if rows else certified
        rows.append({
            "part": part, "instead": PARTS[part].instead if part else WHOLE, "clean": clean, "certified": certified,
            "gain": whole - certified, "by_seed": [figures[1] for figures in found], "diverged": diverged,
            "seconds": seconds,
        })  # fmt: skip
        if before is None or rows != before[: len(rows)]:  # rows of an earlier call stay until one of them differs
            write_file(out / ABLATION, json.dumps(facts | {"rows": rows}, indent=2).encode())
    if before and len(rows) < len(before):
        write_file(out / ABLATION, json.dumps(facts | {"rows": rows}, indent=2).encode())
    return rows


def _facts(
    recipe: Recipe, dataset: Dataset, out: Path, minutes: float | None, runs: int, device: str
) -> dict[str, Any]:
    """What was asked for, and the recipe fitted to its share of the budget: once, so that an ablation that goes on
    trains the same nets.
    """
    asked = {"recipe": recipe.to_dict(), "minutes": minutes, "runs": runs if minutes else None}
    if not (out / ABLATION).exists():
        fitted = recipe if minutes is None else fit_budget(recipe, dataset, minutes / runs, device)
        return {"asked": asked, "recipe": fitted.to_dict()}
    try:
        facts: dict[str, Any] = json.loads((out / ABLATION).read_text(encoding="utf-8"))
        begun: dict[str, Any] = facts["asked"]
        same = begun | {"recipe": None} == asked | {"recipe": None} and stored_recipe(begun["recipe"]) == recipe
        if same:
            stored_recipe(facts["recipe"])
        if not isinstance(facts.setdefault("rows", []), list):
            raise TypeError("its rows are no list")
    except OSError as error:
        raise UserError(f"{out / ABLATION}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{out / ABLATION}: expected what an ablation writes ({error})") from None
    if not same:
        raise UserError(f"{out} holds an ablation of other settings: name another folder with --out")
    return facts


def _run(recipe: Recipe, dataset: Dataset, out: Path, device: str, observer: Observer) -> tuple[float, float, float]:
    """(clean, certified) accuracy on the held-out samples of a run, trained where it is not yet, and its seconds."""
    if not (out / MODEL).exists() or recipe_in(out) != recipe.to_dict():
        train(recipe, dataset, out, resume=(out / CHECKPOINT).exists(), device=device, observer=observer)
    model, _ = load_model(out / MODEL)
    _, chosen = split_holdout(dataset.train_labels, recipe.held_out)
    model.to(device)
    proof = certify(model, dataset.train_images[chosen], dataset.train_labels[chosen], recipe.eps_test)
    seconds = sum(figures["seconds"] for figures in read_metrics(out))
    return float(proof.correct.mean()), float((proof.certified & proof.correct).mean()), seconds
