"""The published nets: functions that return a Sequential with its domain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..domain import Domain, Shape
from .distance import LinfDistConv2d, LinfDistDense
from .linear import Dense
from .module import Module
from .pixels import CenterCrop, Flatten, Normalize
from .pointwise import MeanShift, Negate, Tanh
from .sequential import Sequential


def linf_net(
    inputs: Shape | Domain,
    classes: int,
    *,
    width: int,
    depth: int,
    mean: tuple[float, ...] = (0.0,),
    std: float | tuple[float, ...] = 1.0,
    crop: int = 0,
    head: int = 0,
    identity: bool = True,
    mean_shift: bool = True,
    seed: int = 0,
) -> Sequential:
    """The ℓ∞-dist net, 1/std-Lipschitz in ℓ∞: Normalize, then `depth` distance layers, all hidden ones `width` wide.

    `inputs` is the shape (channels, height, width) of images of pixels in [0, 1], or a Domain. Hidden layers have no
    bias and are each followed by a MeanShift; the last of the `depth` layers, to the classes, has a bias and none;
    logits z = −y. With `head` > 0 this is the ℓ∞-dist Net+MLP: all `depth` layers are hidden, and Dense(head), Tanh,
    Dense(classes) follow. `mean` and `std` are those of Normalize. With `crop` > 0 the net uses only the middle
    crop × crop window of an image.

    Raises ValueError for sizes that fit no net. Source: Zhang et al., ICML 2021 (arXiv 2102.05363), sections 4 and 5.
    """
    if depth < 1:
        raise ValueError(f"linf_net: depth must be at least 1, got {depth}")
    domain, shape = _inputs(inputs, crop)
    layers: list[Module] = [*_begin(mean, std, crop), *([Flatten()] if len(shape) > 1 else [])]
    features, hidden = math.prod(shape), depth if head else depth - 1
    for i in range(hidden):
        layers.append(LinfDistDense(features, width, identity=identity, seed=[seed, i]))
        if mean_shift:
            layers.append(MeanShift(width))
        features = width
    layers += _end(features, classes, head, identity, [seed, hidden])
    return Sequential(*layers, domain=domain)


def conv_net(
    inputs: Shape | Domain,
    classes: int,
    *,
    channels: int,
    width: int,
    mean: tuple[float, ...] = (0.0,),
    std: float = 1.0,
    crop: int = 0,
    head: int = 0,
    identity: bool = True,
    mean_shift: bool = True,
    seed: int = 0,
) -> Sequential:
    """The convolutional ℓ∞-dist net, 1/std-Lipschitz in ℓ∞ without a head.

    Five LinfDistConv2d layers of 3 × 3, padding 1: two with `channels` channels, three with twice as many, the first of
    these with stride 2; a LinfDistDense to `width` features; a MeanShift after each; then the end of a `linf_net`.
    Its other arguments are the same.

    Raises ValueError for sizes that fit no net. Source: the published code of Zhang et al., ICML 2021 (arXiv
    2102.05363): 96 channels, width 1024, head 512.
    """
    domain, shape = _inputs(inputs, crop)
    if len(shape) != 3:
        raise ValueError(f"conv_net: expected images (channels, height, width), got inputs of shape {shape}")
    c, height, length = shape
    layers = _begin(mean, std, crop)
    for i, (outputs, stride) in enumerate([(channels, 1)] * 2 + [(2 * channels, 2)] + [(2 * channels, 1)] * 2):
        layers.append(LinfDistConv2d(c, outputs, 3, stride=stride, padding=1, identity=identity, seed=[seed, i]))
        if mean_shift:
            layers.append(MeanShift(outputs))
        c, height, length = outputs, (height - 1) // stride + 1, (length - 1) // stride + 1
    layers += [Flatten(), LinfDistDense(c * height * length, width, identity=identity, seed=[seed, 5])]
    if mean_shift:
        layers.append(MeanShift(width))
    layers += _end(width, classes, head, identity, [seed, 6])
    return Sequential(*layers, domain=domain)


def _inputs(inputs: Shape | Domain, crop: int) -> tuple[Domain, Shape]:
    """The domain, and the shape of the input of the first distance layer."""
    if not isinstance(inputs, Domain):
        if len(inputs) != 3:
            raise ValueError(f"shape must be (channels, height, width), got {inputs}")
        inputs = Domain.pixels(tuple(inputs))
    shape: Any = inputs.shape
    if shape is None:
        raise ValueError("a net needs the shape of its inputs, and the domain has none")
    if not crop:
        return inputs, shape
    if not inputs.white:
        raise ValueError(f"crop is for images (channels, height, width), got inputs of shape {shape}")
    if not 0 < crop <= min(shape[1:]):
        raise ValueError(
            f"crop must be a size from 0 (none) to that of the images, {shape[1]} x {shape[2]}, got {crop}"
        )
    return replace(inputs, window=crop), (shape[0], crop, crop)


def _begin(mean: tuple[float, ...], std: float | tuple[float, ...], crop: int) -> list[Module]:
    return [Normalize(mean, std), *([CenterCrop(crop)] if crop else [])]


def _end(features: int, classes: int, head: int, identity: bool, seed: list[int]) -> list[Module]:
    """A distance layer to the classes with a bias, z = −y; with `head` neurons Dense, Tanh, Dense."""
    if head:
        return [Dense(features, head, seed=[*seed, 0]), Tanh(), Dense(head, classes, seed=[*seed, 1])]
    return [LinfDistDense(features, classes, bias=True, identity=identity, seed=seed), Negate()]
