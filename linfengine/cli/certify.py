"""linfengine certify"""

from __future__ import annotations

import time
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..certify import METHODS, write_certificate
from ..data import Dataset
from ..domain import domain_of
from ..errors import UserError
from ..evaluate import evaluate
from ..recipes import size_of, stored_recipe
from ..units import parse_eps
from .models import check_verifiable, load_with_data, recipe_of
from .options import (
    ResultType,
    check_results,
    data_dir_option,
    dataset_option,
    device_option,
    eps_option,
    gray_levels_option,
    one_radius,
    usable_device,
)
from .output import console, json_option, say, show, suggest, write_json
from .program import Command
from .tables import BOUNDS, result_table, tell_certificate


@click.command("certify", cls=Command)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@dataset_option
@eps_option
@gray_levels_option
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How robustness is proved.  [default: exact for an exact net, interval for others]",
)
@click.option("--attack", type=click.Choice(["pgd"]), help="Also attack every sample, for comparison.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the attack.  [default: 20]")
@click.option("--restarts", type=click.IntRange(min=1), help="Starts of the attack.  [default: 1]")
@click.option("--targeted", is_flag=True, help="Attack towards every other class, too.")
@click.option(
    "--certificate",
    type=ResultType(),
    help="Write the claims on every sample there, for `linfengine verify`.",
)
@json_option("the result")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many test samples.")
@device_option
@data_dir_option
def certify_command(
    model: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    method: str | None,
    attack: str | None,
    steps: int | None,
    restarts: int | None,
    targeted: bool,
    certificate: Path | None,
    json_file: Path | None,
    limit: int | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Prove what share of a test set a model classifies robustly at one radius.

    \b
    margin    margin between the two largest logits > 2 x Lipschitz constant x radius + a bound on rounding
    interval  the margin; where it is too small, bounds on the logits over every valid image of the ball
    exact     the same for an exact net (see quantize), in integers: nothing is rounded
    """
    if (steps or restarts or targeted) and not attack:
        raise UserError("--steps, --restarts and --targeted are for an attack: add --attack pgd")
    eps = one_radius(eps, gray_levels)
    attack_steps = (steps or 20) if attack else 0
    check_results([model], json_file, certificate)
    net, dataset, metadata = load_with_data(model, name, data_dir)
    limit = limit if limit and limit < len(dataset.test_labels) else None
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    if certificate:
        check_verifiable(net, images.shape[1:])
    method = method or ("interval" if domain_of(net).fraction_bits is None else "exact")
    recipe = recipe_of(model, metadata)
    theirs = metadata.get("dataset") == dataset.name and parse_eps(recipe.get("eps_test", 0)) == eps and not limit
    published = recipe.get("published") if theirs else None
    net.to(usable_device(device))
    start = time.perf_counter()
    with console.status(_under_way(dataset, len(labels), attack_steps)):
        result = evaluate(
            net, images, labels, eps,
            method=method, attack_steps=attack_steps, restarts=restarts or 1, targeted=targeted,
        )  # fmt: skip
    if certificate:
        write_certificate(certificate, result.certificate, model, images, labels, dataset=dataset.name, split="test")
    facts = {
        "dataset": dataset.name, "model": str(model), "version": __version__, "device": net.device,
        "attack_steps": attack_steps or None, "attack_restarts": (restarts or 1) if attack else None,
        "attack_targeted": targeted if attack else None, "published": published,
        "seconds": time.perf_counter() - start,
    }  # fmt: skip
    write_json(json_file, result.summary() | facts)
    say(f"{dataset.name}, {'first ' if limit else ''}{len(labels):,} test images, {method} certificate, {BOUNDS}")
    show(result_table([result], published))
    if published:
        _tell_published(recipe)
    tell_certificate(result.certificate)
    if certificate:
        suggest("linfengine", "verify", certificate, model, dataset.name)


def _tell_published(recipe: dict[str, Any]) -> None:
    """The sizes of this net and of the published one whose figures the table shows."""
    with suppress(UserError):  # a recipe of another version
        own = stored_recipe(recipe)
        say(f"This net: {size_of(own)}, {own.epochs} epochs.")
    if recipe.get("source"):
        say(f"Published: {str(recipe['source']).rstrip('.')}.")


def _under_way(dataset: Dataset, n: int, attack_steps: int) -> str:
    what = f"certifying {n:,} images of {dataset.name}"
    return f"{what}, PGD with {attack_steps} steps" if attack_steps else what
