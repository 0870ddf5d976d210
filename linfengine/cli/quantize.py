"""linfengine quantize"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import click
from rich.table import Table

from ..data import split_holdout
from ..errors import UserError
from ..evaluate import evaluate
from ..exact import DEFAULT_FRACTION_BITS, MOST_FRACTION_BITS
from .models import check_exact_place, load_with_data, quantized, recipe_of
from .options import (
    ResultType,
    check_results,
    data_dir_option,
    dataset_option,
    eps_option,
    gray_levels_option,
    one_radius,
)
from .output import json_option, say, show, suggest, write_json
from .program import Command
from .tables import radius_text


@click.command("quantize", cls=Command)
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--fraction-bits",
    type=click.IntRange(0, MOST_FRACTION_BITS),
    default=DEFAULT_FRACTION_BITS,
    show_default=True,
    metavar="F",
    help="Numbers become multiples of 2^-F gray levels; with 0 the net runs on bytes.",
)
@click.option("--out", type=ResultType(), required=True, help="File of the exact net.")
@dataset_option
@eps_option
@gray_levels_option
@json_option("the comparison")
@data_dir_option
def quantize_command(
    model: Path,
    fraction_bits: int,
    out: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    json_file: Path | None,
    data_dir: Path | None,
) -> None:
    """Make an exact net of a trained one: in gray levels on a grid, evaluated without rounding.

    The exact net is a model of its own, with the same logits on every machine, whose certificates are comparisons of
    integers. Shows how rounding changed the accuracies, at the given radius or that of the recipe, on held-out
    training images if there are any, else on the test images.
    """
    check_results([model], json_file)
    check_exact_place(model, out, json_file)
    net, dataset, metadata = load_with_data(model, name, data_dir)
    recipe = recipe_of(model, metadata)
    eps = one_radius(eps, gray_levels, recipe)
    exact = quantized(model, out, fraction_bits)
    images, labels, which = dataset.test_images, dataset.test_labels, "test"
    if held_out := recipe.get("held_out"):
        try:
            _, chosen = split_holdout(dataset.train_labels, held_out)
        except ValueError as error:
            raise UserError(f"{model}: the recipe in it cannot be read ({error})") from None
        images, labels, which = dataset.train_images[chosen], dataset.train_labels[chosen], "held-out"
    table = Table()
    for heading in ("net", "clean, %", "certified, %"):
        table.add_column(heading, justify="left" if heading == "net" else "right")
    results = {}
    for form, each in (("float32", net), (f"exact, {fraction_bits} fraction bits", exact)):
        results[form] = evaluate(each, images, labels, eps).summary()
        table.add_row(form, *(f"{100 * results[form][key]:.2f}" for key in ("clean", "certified")))
    largest = exact.largest_value
    facts = {"dataset": dataset.name, "images": which, "fraction_bits": fraction_bits, "largest value": largest}
    write_json(json_file, facts | {"results": results})
    say(f"{dataset.name}, {len(labels):,} {which} images, ε = {radius_text(eps)}")
    show(table)
    say(f"Proved: no value exceeds {largest:.0f} gray levels, so float32 holds all multiples of {exact.step}.")
    suggest("linfengine", "certify", out, "--eps", eps, "--certificate", out.with_suffix(".jsonl"))
