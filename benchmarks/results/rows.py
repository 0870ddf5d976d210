"""One row of the results table: a recipe trained, evaluated as in the papers, and certified again as an exact net."""

from __future__ import annotations

import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import machine
from linfengine import verify
from linfengine.certify import write_certificate
from linfengine.checkpoint import load_model, save_model
from linfengine.data import Dataset, load_dataset
from linfengine.errors import UserError
from linfengine.evaluate import evaluate
from linfengine.exact import quantize
from linfengine.files import write_file
from linfengine.recipes import NOTES, Recipe, load_recipe, make_recipe
from linfengine.train import CHECKPOINT, MODEL, recipe_in, train
from linfengine.train.budget import fit_budget
from linfengine.train.metrics import read_metrics
from linfengine.train.progress import ProgressBar
from linfengine.units import parse_eps

TRAINED = "trained.json"  # in a run's folder: where and when its training ended
PGD_STEPS = 100
CHECKED = 200  # samples of the exact certificate that the checker re-derives


def make_row(name: str, run: Path, budget: float | None, device: str, rows: dict[str, Any]) -> dict[str, Any]:
    """The row of one recipe, whose run is trained first unless it is finished.

    `budget` fits a run that is not begun yet to so many minutes. Raises UserError for a recipe without eps_test.
    """
    shipped = load_recipe(name)
    if not shipped.eps_test:
        raise UserError(f"recipe {name}: eps_test must be the radius to certify at, got 0.0")
    dataset = load_dataset(shipped.dataset)
    recipe = _trained_recipe(name, shipped, dataset, run, budget, device)
    print(f"{name}: evaluating")
    model, _ = load_model(run / MODEL)
    model.to(device)
    eps, images, labels = parse_eps(recipe.eps_test), dataset.test_images, dataset.test_labels
    found = evaluate(model, images, labels, eps, attack_steps=PGD_STEPS).summary()
    ours, theirs = recipe.to_dict(), shipped.to_dict()
    seconds = sum(figures["seconds"] for figures in read_metrics(run))
    row = {key: found[key] for key in ("eps", "clean", "attacked", "certified")} | {
        "bounds": {"certified": found["bounds"]["certified"]},
        "recipe": ours | {key: theirs[key] for key in NOTES},
        "changed": [key for key in ours if key not in NOTES and ours[key] != theirs[key]],
        "pgd_steps": PGD_STEPS,
        "seconds": seconds,
        "trained": _place(run, ours, seconds, rows),
    }
    if not recipe.head:
        row["exact"] = _exact(run / MODEL, images, labels, str(eps))
    return row


def _trained_recipe(
    name: str, recipe: Recipe, dataset: Dataset, run: Path, budget: float | None, device: str
) -> Recipe:
    """The recipe of a run, which is trained where it is not finished."""
    if begun := recipe_in(run):
        recipe = make_recipe(begun)
    elif budget is not None:
        recipe = fit_budget(recipe, dataset, budget, device)
    if not (run / MODEL).exists():
        print(f"{name}: training")
        with ProgressBar(recipe.epochs) as bar:
            train(recipe, dataset, run, resume=(run / CHECKPOINT).exists(), device=device, observer=bar)
        place = {"machine": machine.describe(device), "date": str(date.today())}
        write_file(run / TRAINED, json.dumps(place).encode())
    return recipe


def _place(run: Path, recipe: dict[str, Any], seconds: float, rows: dict[str, Any]) -> dict[str, str] | None:
    """Where and when a run was trained, by its folder or else by an earlier row of it; None where neither says."""
    try:
        place: dict[str, str] = json.loads((run / TRAINED).read_text(encoding="utf-8"))
        return {key: place[key] for key in ("machine", "date")}
    except (OSError, ValueError, KeyError, TypeError):
        same = (row for row in rows.values() if row["recipe"] == recipe and row["seconds"] == seconds)
        return next((row["trained"] for row in same), None)


def _exact(model: Path, images: Any, labels: Any, eps: str) -> dict[str, Any]:
    """The certified accuracy of the exact net. The independent checker re-derives some of its claims."""
    exact = quantize(load_model(model)[0])
    found = evaluate(exact, images, labels, eps, method="exact")
    with tempfile.TemporaryDirectory() as folder:
        net, certificate = Path(folder) / "net.safetensors", Path(folder) / "certificate.jsonl"
        save_model(exact, net)
        write_certificate(certificate, found.certificate, net, images, labels)
        verify.verify(certificate, net, images, labels, samples=CHECKED)  # raises where it disagrees
    return {"certified": found.summary()["certified"], "re-derived": CHECKED}
