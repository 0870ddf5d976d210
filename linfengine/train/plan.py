"""The plan of a run: a recipe turned once into what training works with.

net, loss, optimizer    as training begins
batches, held_out       the training samples
moment(now)             p, learning rate, ε and λ at a time in epochs, which count as real numbers
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .. import losses, schedules
from ..backends import Array
from ..data import Dataset
from ..domain import domain_of
from ..layers import Normalize, Sequential, conv_net, linf_net
from ..optim import Adam
from ..recipes import Recipe
from ..tensor import Tensor
from .samples import Batches, HeldOut, split_samples

SCALE = "loss.scale"  # the name of the logits' scale among the parameters


class Moment(NamedTuple):
    """What the schedules say at one time.

    `eps` is the training radius in net units; `weight` is λ, the weight of the cross-entropy in the mixture loss, and
    None with another loss.
    """

    p: float
    lr: float
    eps: float
    weight: float | None


Loss = Callable[[Tensor, Array, Moment, Tensor | None], Tensor]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run works with. `recipe` is only for its files, and `dataset` is the name of the samples there.

    `loss(logits, labels, moment, worst)` is a mean over the mini-batch; `worst` (n, classes) where the net bounds the
    differences of its logits itself, else None. `scale` is that of the mixture loss, which learns it. `remedy` says
    what to try where training diverges.
    """

    recipe: Recipe
    dataset: str
    epochs: int
    batches: Batches
    held_out: HeldOut
    net: Sequential
    scale: Tensor
    loss: Loss
    optimizer: Adam
    moment: Callable[[float], Moment]
    reset_at_switch: bool
    remedy: str


def make_plan(recipe: Recipe, dataset: Dataset, device: str = "cpu") -> Plan:
    """The plan of a recipe for a data set, its net, optimizer and training samples on the device.

    Raises UserError where the recipe is for another data set or other inputs, or asks for more samples than there are.
    """
    batches, held_out = split_samples(recipe, dataset, device)
    net = make_net(recipe, dataset)
    net.to(device)
    scale = Tensor(np.ones(1, np.float32), requires_grad=True, device=device)
    return Plan(
        recipe=recipe,
        dataset=dataset.name,
        epochs=recipe.epochs,
        batches=batches,
        held_out=held_out,
        net=net,
        scale=scale,
        loss=make_loss(recipe, scale),
        optimizer=make_optimizer(recipe, net, scale),
        moment=make_schedule(recipe, net_units(net)),
        reset_at_switch=recipe.reset_at_switch,
        remedy=f"a smaller lr than {recipe.lr:g}, or a smaller p_last than {recipe.p_last:g}",
    )


def make_net(recipe: Recipe, dataset: Dataset) -> Sequential:
    """The net that a recipe describes, for a data set, as training begins with it."""
    classes = len(dataset.classes)
    settings: dict[str, Any] = {
        "mean": dataset.mean, "std": dataset.std, "width": recipe.width, "head": recipe.head, "crop": recipe.crop_size,
        "identity": recipe.identity, "mean_shift": recipe.mean_shift, "seed": recipe.seed,
    }  # fmt: skip
    if recipe.net == "conv":
        return conv_net(dataset.domain, classes, channels=recipe.channels, **settings)
    return linf_net(dataset.domain, classes, depth=recipe.depth, **settings)


def net_units(net: Sequential) -> float:
    """How far the first layer, Normalize, moves what it gives when an input moves by a radius of 1."""
    first = net.layers[0]
    assert isinstance(first, Normalize)
    return first.within(domain_of(net).scales, 0.0)[0]


def make_loss(recipe: Recipe, scale: Tensor) -> Loss:
    """The loss that a recipe names."""
    mix, kappa, clip = recipe.mix, recipe.kappa, recipe.clip

    def hinge(logits: Tensor, labels: Array, now: Moment, worst: Tensor | None) -> Tensor:
        return losses.hinge(logits, labels, now.eps, mix, worst=worst)

    def cross_entropy(logits: Tensor, labels: Array, now: Moment, worst: Tensor | None) -> Tensor:
        return losses.robust_cross_entropy(logits, labels, now.eps, kappa, worst=worst)

    def mixture(logits: Tensor, labels: Array, now: Moment, worst: Tensor | None) -> Tensor:
        return losses.mixture(logits, labels, now.eps, now.weight or 0.0, scale, clip=clip)

    return {"hinge": hinge, "cross-entropy": cross_entropy, "mixture": mixture}[recipe.loss]


def make_optimizer(recipe: Recipe, net: Sequential, scale: Tensor) -> Adam:
    """Adam on the net's parameters, and on the scale where the loss learns it."""
    parameters, rate_scale = net.parameters(), {}
    if recipe.loss == "mixture":
        parameters[SCALE] = scale
        rate_scale[SCALE] = recipe.scale_lr / recipe.lr
    lp_decay = recipe.lp_decay

    def decay_order(name: str) -> float:
        return net.decay_order(name) if lp_decay and name != SCALE else 2.0

    return Adam(
        parameters,
        recipe.lr,
        betas=(recipe.beta1, recipe.beta2),
        eps=recipe.adam_eps,
        weight_decay=recipe.weight_decay,
        decay_order=decay_order,
        rate_scale=rate_scale,
    )


def make_schedule(recipe: Recipe, unit: float) -> Callable[[float], Moment]:
    """moment(now) of a recipe, `unit` being the net units of a radius of 1."""

    def moment(now: float) -> Moment:
        r = recipe
        p = schedules.p_ramp(now, r.ramp_start, r.ramp_end, r.p_first, r.p_last)
        cosine = r.lr_schedule == "cosine"
        grown = schedules.ramp(now, r.eps_ramp_start, r.eps_ramp_end)
        weight = None
        if r.loss == "mixture":
            progress = schedules.ramp(now, r.ramp_start, r.ramp_end)
            weight = schedules.geometric(progress, r.lambda_first, r.lambda_last) if r.lambda_first else 0.0
        return Moment(
            p=schedules.cheap_order(p) if r.cheap_orders else p,
            lr=schedules.learning_rate(now, r.lr, r.epochs, r.lr_hold) if cosine else r.lr,
            eps=schedules.linear(grown, 0.0, r.eps_train) * unit,
            weight=weight,
        )

    return moment
