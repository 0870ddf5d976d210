"""Recipe: everything a training run depends on, a key each."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from ..data import DATASETS
from ..errors import UserError, did_you_mean
from .keys import (
    Beta,
    Channels,
    Depth,
    Epochs,
    Figures,
    Head,
    Order,
    Padding,
    Positive,
    PositiveRadius,
    Radius,
    Samples,
    Seed,
    Share,
    Tiny,
    Weight,
    Width,
    converted,
    key,
    out_of_range,
    wrong_choice,
)

Loss = Literal["mixture", "hinge", "cross-entropy"]
LOSSES: tuple[str, ...] = get_args(Loss)
SCHEDULE = ("ramp_start", "ramp_end", "lr_hold", "eps_ramp_start", "eps_ramp_end")  # in epochs
NOTES = ("source", "published")  # keys that training does not depend on


@dataclass(frozen=True)
class Recipe:
    """One training run. Epochs count as real numbers; eps_train is in pixel units; see `schedules` for the ramps.

    Without a `dataset` the recipe is for whatever `Dataset` is given to `train`. A radius may be written as a fraction
    ("8/255").

    Raises UserError, naming the key, for a wrong type, a value out of range, and a value other than the default of a
    key that has no effect on the chosen net or loss.
    """

    dataset: str = key("the data set")
    epochs: Epochs = key("passes over the training samples")
    ramp_start: float = key("p is p_first before this epoch")
    ramp_end: float = key("p is infinite from this epoch on")
    eps_train: PositiveRadius = key("radius to train for, in pixel units: 0.3, 8/255")
    lr: Positive = key("learning rate of Adam")
    net: Literal["dense", "conv"] = key("dense or conv", default="dense")
    width: Width = key("neurons in a layer; conv: in the dense one", default=1024)
    depth: Depth = key("dense: distance layers in all; with a head, all of them hidden", ("net", "dense"), default=4)
    channels: Channels = key("conv: channels of the first stage", ("net", "conv"), default=96)
    head: Head = key("neurons of the MLP on top, 0 for none", default=0)
    identity: bool = key("layers start as the identity where their width allows it", default=True)
    mean_shift: bool = key("a batch's mean is subtracted after each layer", default=True)
    loss: Loss = key("mixture, hinge or cross-entropy", default="mixture")
    mix: Share = key("hinge: the share of the worst class", ("loss", "hinge"), default=0.75)
    kappa: Share = key("cross-entropy: the share of the worst case", ("loss", "cross-entropy"), default=1.0)
    lambda_first: Weight = key(
        "mixture: weight of the cross-entropy before the ramp of p, 0 for none", ("loss", "mixture"), default=0.05
    )
    lambda_last: Positive = key("mixture: its weight after the ramp", ("lambda_first",), default=2e-4)
    scale_lr: Weight = key("mixture: learning rate of the logits' scale", ("lambda_first",), default=0.006)
    clip: bool = key("mixture: no sample costs more than 1", ("loss", "mixture"), default=True)
    eps_ramp_start: float = key(
        "hinge, cross-entropy: eps_train grows from 0 from this epoch on", ("eps_ramp_end",), default=0.0
    )
    eps_ramp_end: float = key("hinge, cross-entropy: until this epoch", default=0.0)
    p_first: Order = key("p before the ramp", default=8.0)
    p_last: float = key("the largest finite p of the ramp", default=1000.0)
    reset_at_switch: bool = key("Adam forgets its moments when p becomes infinite", default=False)
    cheap_orders: bool = key("p stays at orders that have fast kernels (schedules.CHEAP_ORDERS)", default=False)
    batch_size: int = key("samples in a mini-batch", default=512)
    lr_schedule: Literal["cosine", "constant"] = key("cosine or constant", default="cosine")
    lr_hold: float = key(
        "epochs of constant learning rate before the half cosine", ("lr_schedule", "cosine"), default=0.0
    )
    weight_decay: Weight = key("strength of the weight decay", default=0.0)
    lp_decay: bool = key(
        "distance weights decay by their layer's p, otherwise like all others", ("weight_decay",), default=True
    )
    beta1: Beta = key("Adam's decay of the first moment", default=0.9)
    beta2: Beta = key("Adam's decay of the second moment", default=0.99)
    adam_eps: Tiny = key("Adam's constant in the denominator", default=1e-10)
    crop_padding: Padding = key("pixels added at each side before a random crop", default=0)
    crop_mode: Literal["constant", "edge"] = key(
        "what is added: constant (black) or edge", ("crop_padding",), default="constant"
    )
    crop_size: int = key(
        "the window that the net looks at, in the middle in evaluation; 0 for the whole image", default=0
    )
    flip: bool = key("images are mirrored at random", default=False)
    held_out: Samples = key("training samples set apart to choose settings by", default=0)
    eps_test: Radius = key("radius at which these are certified after every epoch", default=0.0)
    seed: Seed = key("of weights, shuffling and augmentation", default=0)
    source: str = key("the paper and table the recipe is taken from", default="")
    published: Figures = key("clean, pgd, certified there, in % of the test set", default_factory=dict)

    def __post_init__(self) -> None:
        for each in KEYS.values():
            object.__setattr__(self, each.name, converted(each, getattr(self, each.name)))
        if self.dataset and self.dataset not in DATASETS:
            raise wrong_choice("dataset", self.dataset, DATASETS)
        for name, low, high, words in self._ranges():
            if not low <= (value := getattr(self, name)) <= high or value == math.inf:
                raise out_of_range(name, value, low, high, words)
        if self.held_out and not self.eps_test:
            raise UserError("recipe: eps_test must be the radius that held-out samples are certified at, got 0.0")
        if self.loss == "mixture" and self.eps_ramp_end > 0:
            raise UserError(
                f"recipe: eps_ramp_end must be 0 with the mixture loss, which divides by ε, got {self.eps_ramp_end!r}: "
                "take the loss hinge or cross-entropy"
            )
        if self.loss == "mixture" and self.head:
            raise UserError(
                "recipe: loss must be hinge or cross-entropy for a net with a head, got 'mixture', which measures "
                "logits in units of ε"
            )
        values = vars(self)
        check_effect((name for name, value in values.items() if value != KEYS[name].default), values)

    def _ranges(self) -> Iterator[tuple[str, float, float, str]]:
        """The ranges that depend on other keys: (key, low, high, words)."""
        last, side = self.epochs - 1, 2**16
        if self.dataset:
            side = min(DATASETS[self.dataset].shape[1:])
        yield "ramp_start", 0, last, f"an epoch from 0 to {last}, before the last of {self.epochs}"
        yield "ramp_end", self.ramp_start, math.inf, f"an epoch not before ramp_start = {self.ramp_start:g}"
        yield "ramp_end", self.ramp_start, last, f"before the last of {self.epochs} epochs, where p is ∞"
        yield "eps_ramp_start", 0, last, f"an epoch from 0 to {last}"
        start = self.eps_ramp_start
        yield "eps_ramp_end", start, last, f"from eps_ramp_start = {start:g} to {last}"
        yield "p_last", self.p_first, 1e5, f"from p_first = {self.p_first:g} to 1e5"
        fewest = 2 if self.mean_shift else 1
        yield "batch_size", fewest, 10**9, "from 2 (from 1 without mean_shift) to 1000000000"
        yield "lr_hold", 0, last, f"an epoch from 0 on, before the last of {self.epochs}"
        yield "crop_size", 0, side, f"a number of pixels from 0 (no crop) to {side}"

    def to_dict(self) -> dict[str, Any]:
        """All keys with their values, as files store them."""
        return asdict(self)


KEYS: dict[str, Field[Any]] = {each.name: each for each in fields(Recipe)}


def no_effect(name: str, values: Mapping[str, Any]) -> str:
    """Why a key has no effect among these values, for a sentence; empty where it has one.

    A key that is missing counts with its default.
    """
    if name not in KEYS or not (needs := KEYS[name].metadata["needs"]):
        return ""
    other, *choices = needs
    value = values.get(other, KEYS[other].default)
    if value in choices if choices else value:
        return no_effect(other, values)
    return f"no effect with {other} = {value}: it needs {other} {'= ' + ' or '.join(choices) if choices else '> 0'}"


def check_effect(names: Iterable[str], values: Mapping[str, Any]) -> None:
    """Raises UserError for the first of these keys that has no effect among the values."""
    for name in names:
        if why := no_effect(name, values):
            raise UserError(f"recipe: {name} has {why}")


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A Recipe from keys and values, such as `Recipe.to_dict` gives.

    Raises UserError for an unknown or missing key, and as Recipe.
    """
    for name in values:
        if name not in KEYS:
            raise UserError(f"recipe: unknown key {name!r}{did_you_mean(name, KEYS)}")
    required = (name for name, key in KEYS.items() if key.default is MISSING and key.default_factory is MISSING)
    if missing := [name for name in required if name not in values]:
        raise UserError(f"recipe: missing {', '.join(missing)}")
    return Recipe(**values)


def stored_recipe(values: Mapping[str, Any]) -> Recipe:
    """The Recipe in a file of this version or an earlier one: what has no effect is taken at its default.

    Raises UserError as `make_recipe`.
    """
    return make_recipe({name: value for name, value in values.items() if not no_effect(name, values)})


def with_settings(recipe: Recipe, **settings: Any) -> Recipe:
    """The recipe with other values for some keys; keys that lose their effect by that return to their defaults.

    Raises UserError as `make_recipe`.
    """
    return make_recipe(merged(recipe.to_dict(), settings))


def merged(values: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """The values with the settings put over them, without those that lose their effect by that."""
    both = values | settings
    return {
        name: value
        for name, value in both.items()
        if name in settings or not no_effect(name, both) or no_effect(name, values)
    }


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over so many epochs, its schedule stretched alike; the last epoch stays one at p = ∞.

    Raises UserError for epochs that are no whole number from 1 to 10^9.
    """
    other = with_settings(recipe, **dict.fromkeys(SCHEDULE, 0.0), epochs=epochs)  # refuses a bad number
    stretched = {key: getattr(recipe, key) * epochs / recipe.epochs for key in SCHEDULE}
    return replace(other, **{key: min(round(at, 2), epochs - 1.0) for key, at in stretched.items()})


def size_of(recipe: Recipe) -> str:
    """The size of its net in words."""
    body = f"{recipe.channels} channels" if recipe.net == "conv" else f"{recipe.depth} layers, {recipe.width} wide"
    return f"{body}, an MLP of {recipe.head} on top" if recipe.head else body
