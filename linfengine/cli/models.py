"""Load a model file with its data set and recipe, and check them before the work begins."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import verify as checker
from ..certify import check_model, check_samples, predict
from ..checkpoint import load_model, model_content, read_model, save_model
from ..data import DATASETS, Dataset, load_dataset
from ..domain import domain_of
from ..errors import UserError
from ..exact import DEFAULT_FRACTION_BITS, ExactNet, quantize
from ..files import check_writable
from ..layers import Module
from ..units import parse_eps


def load_with_data(model: Path, name: str | None, data_dir: Path | None) -> tuple[Module, Dataset, dict[str, str]]:
    """A model that can be certified, its data set or the one named, and the model file's metadata."""
    net, metadata = load_model(model)
    name = name or metadata.get("dataset")
    if name not in DATASETS:
        said = f"names the data set {name!r:.40}, which is unknown" if name else "does not say which data set it is for"
        raise UserError(f"{model} {said}: name one with --dataset ({', '.join(DATASETS)})")
    dataset = load_dataset(name, data_dir)
    check_model(net)
    check_fit(net, dataset)
    if not np.isfinite(net.rounding(domain_of(net).largest)[1]):
        raise UserError(f"{model}: its values may overflow float32, so nothing can be proved or tried with it")
    return net, dataset, metadata


def check_exact_place(model: Path, out: Path, json_file: Path | None = None) -> None:
    """Raises UserError if the exact net cannot be written, or would overwrite a file that is no exact net."""
    if os.path.realpath(out) in {os.path.realpath(path) for path in (model, json_file) if path}:
        raise UserError(f"{out}: the exact net would be written over another file of this command: name another")
    check_writable(out)
    if out.is_file() and not is_exact_net(out):
        raise UserError(f"{out}: it exists and is no exact net, so it is not written over: name another")


def is_exact_net(file: Path) -> bool:
    try:
        return isinstance(load_model(file)[0], ExactNet)
    except UserError:
        return False


def check_verifiable(net: Module, shape: tuple[int, ...]) -> None:
    """Raises UserError if the checker has no rules for the net on images of that shape."""
    try:
        checker.Net(model_content(net)).shapes(shape)
    except checker.Disagreement as missing:
        raise UserError(f"no certificate file can be written for this net: {missing}") from None


def _outputs(net: Module) -> int | None:
    """How many outputs the last layer with weights has; None where there is none."""
    weights = [each for name, each in net.parameters().items() if name.rpartition(".")[2] == "weight"]
    return int(weights[-1].shape[0]) if weights else None


def check_fit(net: Module, dataset: Dataset) -> None:
    """Raises UserError if the model takes images of another shape, or has another number of classes."""
    shape, classes = dataset.test_images.shape[1:], len(dataset.classes)
    own = domain_of(net).shape
    if own is not None:
        found = _outputs(net)
        if own != shape or found not in (None, classes):
            raise UserError(
                f"the model takes images of shape {own} in {found} classes; {dataset.name} has {shape} in {classes}"
            )
    # a net of any layers: call it to see what it takes
    logits = predict(net, check_samples(net, dataset.test_images[:1], dataset.test_labels[:1])[0])
    if logits.shape != (1, classes):
        raise UserError(
            f"the model gives an image logits of shape {logits.shape}; {dataset.name} has {classes} classes"
        )


def recipe_of(model: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The recipe in the metadata of a model file, {} without one. Raises UserError for an invalid recipe."""
    try:
        recipe = json.loads(metadata.get("recipe", "{}"))
        if recipe.get("eps_test"):
            parse_eps(recipe["eps_test"])
        published = recipe.get("published", {})
        if not (isinstance(published, dict) and all(type(value) in (int, float) for value in published.values())):
            raise ValueError("published holds no figures")
        held_out = recipe.get("held_out", 0)
        if type(held_out) is not int or held_out < 0:
            raise ValueError("held_out is no number of samples")
    except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{model}: the recipe in it cannot be read ({error})") from None
    return recipe


def quantized(model: Path, out: Path, fraction_bits: int = DEFAULT_FRACTION_BITS) -> ExactNet:
    """The exact net of a model's file, saved with its metadata."""
    net, metadata, sha256 = read_model(model)
    exact = quantize(net, fraction_bits)
    kept = {key: metadata[key] for key in ("dataset", "recipe") if key in metadata}
    save_model(exact, out, **kept, quantized_from=sha256)
    return exact
