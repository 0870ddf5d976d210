"""linfengine demo"""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import click
import numpy as np

from .. import __version__
from .. import verify as checker
from ..audit import evaluate
from ..certificate import write_certificate
from ..certify import certify
from ..data import load_dataset
from ..errors import UserError
from ..files import write_file
from ..progress import ProgressBar
from ..recipes import load_recipe
from ..runs import METRICS
from ..train import CHECKPOINT, MODEL, train
from .models import quantized
from .options import ResultType
from .output import console, say, show, suggest
from .program import Command
from .tables import accuracies, result_table, tell_certificate
from .verify import tell_verified, verify_watched

RESULTS = "results.json"  # what the demo writes, and by which it knows a folder of its own
DEMO_EPS = ("1/20", "1/10", "3/20", "1/5")
DEMO_EXACT_EPS = "1/10"
EXACT, CERTIFICATE, DATA = "exact.safetensors", "certificate.jsonl", "test.npz"


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

    Writes model.safetensors, results.json and certified.png into the folder.  The accuracies are those of the 360 test
    images: clean, after a PGD attack of 20 steps, and certified, which no attack whatever can undercut.  Then makes an
    exact net of it, exact.safetensors, writes its certificate, certificate.jsonl, and the images, test.npz, and
    verifies that in plain integers.
    """
    from ..plots import plot_certified  # matplotlib takes a while to load

    start = time.perf_counter()
    recipe, dataset = load_recipe("digits"), load_dataset("digits")
    say(
        f"Training an ℓ∞-distance net on {len(dataset.train_labels):,} scans of digits, "
        f"{recipe.depth} layers, {recipe.width} neurons wide:"
    )
    if (out / RESULTS).exists():  # an earlier demo's folder, perhaps with another version's recipe
        for name in (MODEL, CHECKPOINT, METRICS):
            (out / name).unlink(missing_ok=True)
    elif not (out / CHECKPOINT).exists():  # of a training run, which is refused below
        for name in (EXACT, CERTIFICATE, DATA):
            if (out / name).exists():
                raise UserError(f"{out / name} exists, and not from a demo: name another folder with --out")
    with ProgressBar(recipe.epochs, console=console) as bar:
        model = train(recipe, dataset, out, restart=True, observer=bar)
    images, labels = dataset.test_images, dataset.test_labels
    evaluations = [evaluate(model, images, labels, eps, attack_steps=20) for eps in DEMO_EPS]
    by_margin = certify(model, images, labels, 0, method="margin")
    points = [(float(each.certificate.eps), *accuracies(each)[1:]) for each in evaluations]
    plot_certified(out / "certified.png", by_margin, images, dataset.classes, points)
    exact = evaluate(
        quantized(out / MODEL, out / EXACT), images, labels, DEMO_EXACT_EPS, method="exact", attack_steps=20
    )
    write_certificate(out / CERTIFICATE, exact.certificate, out / EXACT, images, labels, dataset="digits", split="test")
    packed = io.BytesIO()
    np.savez_compressed(packed, images=images, labels=labels)
    write_file(out / DATA, packed.getvalue())  # for the checker where there is no engine
    header = verify_watched(out / CERTIFICATE, out / EXACT, *checker.read_data(out / DATA))
    results = {
        "dataset": "digits",
        "recipe": recipe.to_dict(),
        "version": __version__,
        "seconds": time.perf_counter() - start,
        "results": [each.summary() for each in [*evaluations, exact]],
    }
    write_file(out / RESULTS, json.dumps(results, indent=2).encode())
    show(result_table(evaluations, f"{len(labels)} test images, % (95% Clopper-Pearson bounds)"))
    tell_certificate(exact.certificate)
    tell_verified(header)
    say(
        f"{out}/ now holds {MODEL}, {EXACT}, {CERTIFICATE}, {DATA}, {RESULTS} and certified.png "
        f"({results['seconds']:.0f} s)."
    )
    suggest("linfengine", "audit", out / EXACT, "--eps", DEMO_EXACT_EPS)
    suggest("linfengine", "train", "mnist-small", before="or:   ")
