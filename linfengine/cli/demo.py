"""linfengine demo"""

from __future__ import annotations

import io
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from .. import __version__
from .. import verify as checker
from ..certify import certify, write_certificate
from ..checkpoint import load_tensors
from ..data import load_dataset
from ..errors import UserError
from ..evaluate import evaluate
from ..files import check_writable, folder_lock, write_file
from ..recipes import Recipe, load_recipe
from ..train import BEST, CHECKPOINT, MODEL, check_folder, train
from ..train.metrics import METRICS
from ..train.progress import ProgressBar
from .models import check_exact_place, quantized
from .options import ResultType, check_results
from .output import console, say, show, suggest
from .program import Command
from .tables import BOUNDS, accuracies, result_table, tell_certificate
from .verify import tell_verified, verify_watched

DEMO_EPOCHS = 200  # half those of the recipe, whose net certifies some 3% more
DEMO_EPS = ("1/20", "1/10", "3/20", "1/5")
DEMO_EXACT_EPS = "1/10"
EXACT, CERTIFICATE, DATA = "exact.safetensors", "certificate.jsonl", "test.npz"
RESULTS, PICTURE = "results.json", "certified.png"
KEYS = {
    "dataset",
    "recipe",
    "version",
    "seconds",
    "results",
}  # of the results: a demo knows its folder by them


@click.command("demo", cls=Command)
@click.option(
    "--out",
    type=ResultType(),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for the results.",
)
def demo_command(out: Path) -> None:
    """Train on real scans of digits, certify, and show the result, in under a minute.

    Writes model.safetensors, results.json and certified.png into the folder. The accuracies are those of the 360 test
    images: clean, after a PGD attack of 20 steps, and certified. No attack can go below the last. Then makes an exact
    net of it, exact.safetensors, writes its certificate, certificate.jsonl, and the images, test.npz, and verifies the
    certificate in plain integers.
    """
    from ..plots import plot_certified  # matplotlib takes a while to load

    start = time.perf_counter()
    recipe, dataset = load_recipe("digits", epochs=DEMO_EPOCHS), load_dataset("digits")
    images, labels = dataset.test_images, dataset.test_labels
    with folder_lock(out):
        make_room(out, recipe)
        say(
            f"Training an ℓ∞-distance net on {len(dataset.train_labels):,} scans of digits, "
            f"{recipe.depth} layers, {recipe.width} neurons wide:"
        )
        with ProgressBar(recipe.epochs, console=console) as bar:
            model = train(recipe, dataset, out, restart=True, observer=bar)
        evaluations = [evaluate(model, images, labels, eps, attack_steps=20) for eps in DEMO_EPS]
        by_margin = certify(model, images, labels, 0, method="margin")
        points = [(float(each.certificate.eps), *accuracies(each)[1:]) for each in evaluations]
        plot_certified(out / PICTURE, by_margin, images, dataset.classes, points)
        net = quantized(out / MODEL, out / EXACT)
        exact = evaluate(net, images, labels, DEMO_EXACT_EPS, method="exact", attack_steps=20)
        write_certificate(
            out / CERTIFICATE, exact.certificate, out / EXACT, images, labels, dataset="digits", split="test"
        )
        packed = io.BytesIO()
        np.savez_compressed(packed, images=images, labels=labels)
        write_file(out / DATA, packed.getvalue())  # for the checker on a machine without the engine
        header = verify_watched(out / CERTIFICATE, out / EXACT, *checker.read_data(out / DATA))
        results = {
            "dataset": "digits",
            "recipe": recipe.to_dict(),
            "version": __version__,
            "seconds": time.perf_counter() - start,
            "results": [each.summary() for each in [*evaluations, exact]],
        }
        write_file(out / RESULTS, json.dumps(results, indent=2).encode())
    say(f"{len(labels)} test images, {BOUNDS}")
    show(result_table(evaluations))
    tell_certificate(exact.certificate)
    tell_verified(header)
    say(
        f"{out}/ now holds {MODEL}, {EXACT}, {CERTIFICATE}, {DATA}, {RESULTS} and {PICTURE} "
        f"({results['seconds']:.0f} s)."
    )
    suggest("linfengine", "audit", out / EXACT, "--eps", DEMO_EXACT_EPS)
    suggest("linfengine", "train", "mnist-small", before="or:   ")


def make_room(out: Path, recipe: Recipe) -> None:
    """Remove the run of an earlier demo, perhaps of another version. The folder has to be locked.

    A run is that of a demo if its files name the same recipe as the results of a demo. Raises UserError if the folder
    holds another run, if a file that no demo wrote would be overwritten, or if a file cannot be written.
    """
    recipe_shown = recipe_of_demo(out / RESULTS)
    files = [file for file in (out / CHECKPOINT, out / MODEL) if file.exists()]
    more = (out / BEST).exists() or any(out.glob("checkpoint-*.safetensors"))  # a demo leaves none of these
    if recipe_shown and files and not more and all(recipe_of_file(file) == recipe_shown for file in files):
        for file in (out / METRICS, *files):
            file.unlink(missing_ok=True)
    check_folder(out, restart=recipe)
    begun = (out / CHECKPOINT).exists()  # by a demo that was interrupted, before it wrote its results
    for name in (RESULTS,) if begun else (EXACT, CERTIFICATE, DATA, RESULTS, PICTURE):
        if (out / name).exists() and not recipe_shown:
            raise UserError(f"{out / name} exists, and not from a demo: name another folder with --out")
    check_exact_place(out / MODEL, out / EXACT)
    check_results([], certificate=out / CERTIFICATE)
    for name in (MODEL, DATA, RESULTS, PICTURE):
        check_writable(out / name)


def recipe_of_demo(results: Path) -> dict[str, Any] | None:
    """The recipe that the results of a demo name; None if the file is anything else."""
    try:
        facts = json.loads(results.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not (isinstance(facts, dict) and facts.keys() >= KEYS and isinstance(facts["recipe"], dict)):
        return None
    return facts["recipe"]


def recipe_of_file(file: Path) -> Any:
    """The recipe in a checkpoint or a model, unchecked: this version may not know its keys."""
    try:
        return json.loads(load_tensors(file)[1]["recipe"])
    except (KeyError, ValueError, RecursionError):
        return None
