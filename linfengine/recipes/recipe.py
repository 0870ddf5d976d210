"""Recipes: everything a training run depends on, in a small TOML file.

The shipped ones lie in `linfengine/recipes/`; a path to one's own works as well as a name.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ..data import DATASETS
from ..errors import UserError, did_you_mean
from ..units import parse_eps

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NETS = ("dense", "conv")
LOSSES = ("mixture", "hinge", "cross-entropy")
LR_SCHEDULES = ("cosine", "constant")
CROP_MODES = ("constant", "edge")
PUBLISHED = ("clean", "pgd", "certified")
SCHEDULE = ("ramp_start", "ramp_end", "lr_hold", "eps_ramp_start", "eps_ramp_end")  # in epochs
NOTES = ("source", "published")  # keys that training does not depend on


def described(meaning: str, **default: Any) -> Any:
    """A field of Recipe whose metadata hold what the key means; `linfengine train --help` shows it."""
    return field(metadata={"meaning": meaning}, **default)


@dataclass(frozen=True)
class Recipe:
    """One training run.  Epochs count as real numbers; eps_train is in pixel units; see `schedules` for the ramps."""

    dataset: str = described("the data set")
    epochs: int = described("passes over the training samples")
    ramp_start: float = described("p is p_first before this epoch")
    ramp_end: float = described("p is infinite from this epoch on")
    eps_train: float = described("radius to train for, in pixel units: 0.3, 8/255")
    lr: float = described("learning rate of Adam")
    net: str = described("dense or conv", default="dense")
    width: int = described("dense: neurons in a layer", default=1024)
    depth: int = described("dense: distance layers in all; with a head, all of them hidden", default=4)
    channels: int = described("conv: channels of the first stage", default=96)
    head: int = described("neurons of the MLP on top, 0 for none", default=0)
    identity: bool = described("layers start as the identity where their width allows it", default=True)
    mean_shift: bool = described("a batch's mean is subtracted after each layer", default=True)
    loss: str = described("mixture, hinge or cross-entropy", default="mixture")
    mix: float = described("hinge: the share of the worst class", default=0.75)
    kappa: float = described("cross-entropy: the share of the worst case", default=1.0)
    lambda_first: float = described(
        "mixture: weight of the cross-entropy before the ramp of p, 0 for none", default=0.05
    )
    lambda_last: float = described("mixture: its weight after the ramp", default=2e-4)
    scale_lr: float = described("mixture: learning rate of the logits' scale", default=0.006)
    clip: bool = described("mixture: no sample costs more than 1", default=True)
    eps_ramp_start: float = described("hinge, cross-entropy: eps_train grows from 0 from this epoch on", default=0.0)
    eps_ramp_end: float = described("hinge, cross-entropy: until this epoch", default=0.0)
    p_first: float = described("p before the ramp", default=8.0)
    p_last: float = described("the largest finite p of the ramp", default=1000.0)
    reset_at_switch: bool = described("Adam forgets its moments when p becomes infinite", default=False)
    cheap_orders: bool = described("p stays at orders that have fast kernels (schedules.CHEAP_ORDERS)", default=False)
    batch_size: int = described("samples in a mini-batch", default=512)
    lr_schedule: str = described("cosine or constant", default="cosine")
    lr_hold: float = described("epochs of constant learning rate before the half cosine", default=0.0)
    weight_decay: float = described("strength of the weight decay", default=0.0)
    lp_decay: bool = described("distance weights decay by their layer's p, otherwise like all others", default=True)
    beta1: float = described("Adam's decay of the first moment", default=0.9)
    beta2: float = described("Adam's decay of the second moment", default=0.99)
    adam_eps: float = described("Adam's constant in the denominator", default=1e-10)
    crop_padding: int = described("pixels added at each side before a random crop", default=0)
    crop_mode: str = described("what is added: constant (black) or edge", default="constant")
    crop_size: int = described(
        "the window that the net looks at, in the middle in evaluation; 0 for the whole image", default=0
    )
    flip: bool = described("images are mirrored at random", default=False)
    held_out: int = described("training samples set apart to choose settings by", default=0)
    eps_test: float = described("radius at which these are certified after every epoch", default=0.0)
    seed: int = described("of weights, shuffling and augmentation", default=0)
    source: str = described("the paper and table the recipe is taken from", default="")
    published: dict[str, float] = described("clean, pgd, certified there, in % of the test set", default_factory=dict)

    def __post_init__(self) -> None:
        for key, choices in (
            ("dataset", tuple(DATASETS)), ("net", NETS), ("loss", LOSSES), ("lr_schedule", LR_SCHEDULES),
            ("crop_mode", CROP_MODES),
        ):  # fmt: skip
            if (value := getattr(self, key)) not in choices:
                raise UserError(
                    f"recipe: {key} must be one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}"
                )
        last, size = self.epochs - 1, min(DATASETS[self.dataset].shape[1:])
        for key, low, high, expected in (
            ("epochs", 1, 10**9, "from 1 to 1000000000"),
            ("ramp_start", 0, last, f"an epoch from 0 to {last}, before the last of {self.epochs}"),
            ("ramp_end", self.ramp_start, math.inf, f"an epoch not before ramp_start = {self.ramp_start:g}"),
            ("ramp_end", self.ramp_start, last, f"before the last of {self.epochs} epochs, where p is ∞"),
            ("eps_train", 1e-6, 1, "a radius in pixel units from 1e-6 to 1"),
            ("lr", 1e-12, 1e6, "a positive number from 1e-12 to 1e6"),
            ("width", 1, 2**20, f"from 1 to {2**20}"),
            ("depth", 1, 1000, "from 1 to 1000"),
            ("channels", 1, 2**16, f"from 1 to {2**16}"),
            ("head", 0, 2**16, f"a number of neurons from 0 (no head) to {2**16}"),
            ("mix", 0, 1, "from 0 to 1"),
            ("kappa", 0, 1, "from 0 to 1"),
            ("lambda_first", 0, 1e6, "from 0 to 1e6"),
            ("lambda_last", 1e-12, 1e6, "a positive number from 1e-12 to 1e6"),
            ("scale_lr", 0, 1e6, "from 0 to 1e6"),
            ("eps_ramp_start", 0, last, f"an epoch from 0 to {last}"),
            ("eps_ramp_end", self.eps_ramp_start, last, f"from eps_ramp_start = {self.eps_ramp_start:g} to {last}"),
            ("p_first", 1, 1e5, "from 1 to 1e5"),
            ("p_last", self.p_first, 1e5, f"from p_first = {self.p_first:g} to 1e5"),
            ("batch_size", 2 if self.mean_shift else 1, 10**9, "from 2 (from 1 without mean_shift) to 1000000000"),
            ("lr_hold", 0, last, f"an epoch from 0 on, before the last of {self.epochs}"),
            ("weight_decay", 0, 1e6, "from 0 to 1e6"),
            ("beta1", 0, 0.999999, "from 0 to 0.999999"),
            ("beta2", 0, 0.999999, "from 0 to 0.999999"),
            ("adam_eps", 1e-30, 1, "a positive number from 1e-30 to 1"),
            ("crop_padding", 0, 64, "a number of pixels from 0 to 64"),
            ("crop_size", 0, size, f"a number of pixels from 0 (no crop) to {size}"),
            ("held_out", 0, 10**9, "a number of samples from 0 to 1000000000"),
            ("eps_test", 0, 1, "a radius in pixel units from 0 to 1"),
            ("seed", 0, 2**63 - 1, f"from 0 to {2**63 - 1}"),
        ):  # fmt: skip
            value = getattr(self, key)
            if not low <= value <= high or value == math.inf:
                nearest = min(max(value, low), high)
                nearest = f"{nearest:.15g}" if isinstance(nearest, float) else nearest
                closest = f" (the nearest is {nearest})" if abs(value) < math.inf else ""  # a NaN has none, either
                raise UserError(f"recipe: {key} must be {expected}, got {value!r:.40}{closest}")
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
        for key, value in self.published.items():
            if key not in PUBLISHED or type(value) not in (int, float) or not 0 <= value <= 100:
                hint = "" if key in PUBLISHED else did_you_mean(key, PUBLISHED)
                raise UserError(
                    f"recipe: published must give {', '.join(PUBLISHED)} in percent, got {key} = {value!r}{hint}"
                )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_names() -> list[str]:
    """The names of the recipes that come with linfengine."""
    folder = resources.files("linfengine") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, settings: Iterable[str] = (), *, epochs: int | None = None) -> Recipe:
    """The shipped recipe of that name, or the TOML file at that path, with `key=value` settings put over it.

    With `epochs`, its schedule is first stretched to so many epochs (`with_epochs`); settings then count in these.

    Raises UserError, naming the key, for an unknown recipe or key, a missing key, a wrong type or an impossible value.
    """
    text = _text_of(name)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UserError(f"recipe {name}: not a TOML file ({error})") from None
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected key=value")
        changes[key.strip()] = _parse_value(value.strip())
    if epochs is not None:
        if "epochs" in changes:
            raise UserError("--epochs and --set epochs=N name the same number: give one of them")
        values = with_epochs(make_recipe(values), epochs).to_dict()
    try:
        return make_recipe(values | changes)
    except UserError as error:
        if "epochs" in changes and str(error).startswith(tuple(f"recipe: {key} must be" for key in SCHEDULE)):
            raise UserError(f"{error}; --epochs {changes['epochs']} stretches the whole schedule") from None
        raise


def _text_of(name: str) -> str:
    """The TOML text of a recipe."""
    path = Path(name)
    if name in recipe_names():
        return (resources.files("linfengine") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    if path.name.endswith(".toml"):
        if not path.name.removesuffix(".toml").strip("."):  # a run's folder has the recipe's name: not "." or ".."
            raise UserError(f"recipe {name}: expected a file with a name before .toml")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {name}: cannot be read ({error})") from None
    if name and path.is_dir():
        raise UserError(f"{name}: expected the name of a recipe or a .toml file, and this is a folder")
    known = recipe_names()
    raise UserError(
        f"there is no recipe {name!r}{did_you_mean(name, known)}: expected {', '.join(known)}, or a .toml file"
    )


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A Recipe from keys and values.  Raises UserError as `load_recipe`."""
    known = {each.name: each for each in fields(Recipe)}
    for key in values:
        if key not in known:
            raise UserError(f"recipe: unknown key {key!r}{did_you_mean(key, known)}")
    missing = [
        name
        for name, each in known.items()
        if each.default is MISSING and each.default_factory is MISSING and name not in values
    ]
    if missing:
        raise UserError(f"recipe: missing {', '.join(missing)}")
    return Recipe(**{key: _convert(known[key], value) for key, value in values.items()})


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe over so many epochs, its schedule stretched alike; the last epoch stays one at p = ∞.

    Raises UserError for epochs that are no whole number from 1 to 10^9.
    """
    other = make_recipe(recipe.to_dict() | dict.fromkeys(SCHEDULE, 0.0) | {"epochs": epochs})  # refuses a bad number
    stretched = {key: getattr(recipe, key) * epochs / recipe.epochs for key in SCHEDULE}
    return replace(other, **{key: min(round(at, 2), epochs - 1.0) for key, at in stretched.items()})


def size_of(recipe: Recipe) -> str:
    """The size of its net in words."""
    body = f"{recipe.channels} channels" if recipe.net == "conv" else f"{recipe.depth} layers, {recipe.width} wide"
    return f"{body}, an MLP of {recipe.head} on top" if recipe.head else body


def _convert(key: Field[Any], value: Any) -> Any:
    if key.name in ("eps_train", "eps_test") and isinstance(value, str):
        try:
            return float(parse_eps(value))  # "8/255"
        except UserError as error:
            raise UserError(f"recipe: {key.name}: {str(error).removeprefix('eps: ')}") from None
    kind = str(key.type).partition("[")[0]
    if isinstance(value, int) and abs(value) >= 2**64:
        raise UserError(f"recipe: {key.name} must be a number of at most 64 bits, got one of {value.bit_length()}")
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value).__name__ != kind:
        words = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "text",
            "dict": "a table",
        }
        raise UserError(f"recipe: {key.name} must be {words[kind]}, got {value!r:.40}")
    return value


def _parse_value(text: str) -> Any:
    """A value as TOML writes it; anything that is none is taken as text, so that dataset=mnist needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
