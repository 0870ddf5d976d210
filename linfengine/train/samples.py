"""The samples of a run: mini-batches to train on, and a held-out part that is certified after every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ..backends import Array, to_device
from ..certify import certify
from ..data import Augment, Dataset, batches, random_crop, random_flip, split_holdout
from ..errors import UserError
from ..layers import Module
from ..recipes import Recipe, out_of_range

IMAGES_ONLY = {"net": "dense", "crop_padding": 0, "crop_size": 0, "flip": False}  # keys, and what other inputs take


@dataclass(frozen=True)
class Batches:
    """Mini-batches of the training samples, which lie on the device that computes.

    A last batch of one sample is dropped: MeanShift would make it zero.
    """

    inputs: Array
    labels: Array
    size: int
    seed: int
    augment: Augment

    def __len__(self) -> int:
        """Mini-batches in an epoch."""
        whole, rest = divmod(len(self.labels), self.size)
        return whole + (rest > 1)

    def of(self, epoch: int) -> Iterator[tuple[Array, Array]]:
        """The mini-batches (inputs, labels) of an epoch: shuffling and augmentation depend on (seed, epoch) alone."""
        rng = np.random.default_rng([self.seed, epoch])
        return islice(batches(self.inputs, self.labels, self.size, rng, self.augment), len(self))


@dataclass(frozen=True)
class HeldOut:
    """Training samples that are never trained on; they are certified at `eps`, in pixel units, by `method`."""

    inputs: Array
    labels: Array
    eps: float
    method: str

    def figures(self, net: Module, limit: int | None = None) -> dict[str, float]:
        """Clean and certified accuracy of the net at p = ∞, whatever p training has reached; empty without samples.

        With `limit`, on the first so many of them.
        """
        inputs, labels = self.inputs[:limit], self.labels[:limit]
        if not len(labels):
            return {}
        proof = certify(at_infinity(net), inputs, labels, self.eps, method=self.method)
        return {
            "held_out_accuracy": float(proof.correct.mean()),
            "held_out_certified": float((proof.certified & proof.correct).mean()),
        }


def at_infinity(net: Module) -> Module:
    """A copy of the net, at p = ∞."""
    hard = deepcopy(net)
    hard.p = math.inf
    return hard


def split_samples(recipe: Recipe, dataset: Dataset, device: str) -> tuple[Batches, HeldOut]:
    """The training samples as the recipe divides them. Raises UserError as `check_fits`."""
    check_fits(recipe, dataset)
    inputs, labels = dataset.train_images, dataset.train_labels
    held_inputs, held_labels = inputs[:0], labels[:0]
    if recipe.held_out:
        train, held_out = split_holdout(labels, recipe.held_out)
        held_inputs, held_labels = inputs[held_out], labels[held_out]
        inputs, labels = inputs[train], labels[train]
    method = "interval" if recipe.head else "margin"  # a head's Lipschitz constant proves next to nothing
    return (
        Batches(to_device(inputs, device), labels, recipe.batch_size, recipe.seed, augmentation(recipe)),
        HeldOut(dataset.domain.numbers(held_inputs), held_labels, recipe.eps_test, method),
    )


def augmentation(recipe: Recipe) -> Augment:
    """What is done to a mini-batch as it is stored: a random crop after padding, then a random flip."""
    padding, size, mode, flip = recipe.crop_padding, recipe.crop_size or None, recipe.crop_mode, recipe.flip

    def augment(inputs: Array, rng: np.random.Generator) -> Array:
        if padding or size:
            inputs = random_crop(inputs, padding, rng, mode=mode, size=size)
        return random_flip(inputs, rng) if flip else inputs

    return augment


def check_fits(recipe: Recipe, dataset: Dataset) -> None:
    """Raises UserError where the recipe is for another data set or other inputs, or asks for more than there is."""
    if recipe.dataset and dataset.name != recipe.dataset:
        raise UserError(f"recipe: dataset is {recipe.dataset}, got the samples of {dataset.name}")
    shape = dataset.train_images.shape[1:]
    images = dataset.domain.white is not None
    if images and recipe.crop_size > (side := min(shape[1:])):
        raise out_of_range("crop_size", recipe.crop_size, 0, side, f"a number of pixels from 0 (no crop) to {side}")
    for key, value in IMAGES_ONLY.items():
        if not images and (found := getattr(recipe, key)) != value:
            raise UserError(
                f"recipe: {key} must be {value} for inputs of shape {shape}, which are no images, got {found!r}"
            )
    n, fewest = len(dataset.train_labels), 2 if recipe.mean_shift else 1
    left = n - recipe.held_out
    if left < fewest:
        raise UserError(
            f"recipe: held_out {recipe.held_out} leaves {'one' if left == 1 else 'none'} of the {n} training samples "
            f"(the nearest is {n - fewest})"
        )
    if recipe.batch_size > left:
        raise UserError(
            f"recipe: batch_size {recipe.batch_size} is above the {left} training samples (the nearest is {left})"
        )
