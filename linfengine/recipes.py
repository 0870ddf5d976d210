"""Recipes: everything a training run depends on, in a small TOML file.

The shipped ones lie in `linfengine/recipes/`; a path to one's own works as well as a name.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from .certify import parse_eps
from .data import DATASETS
from .errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LOSSES = ("mixture", "hinge", "cross-entropy")
CROP_MODES = ("constant", "edge")


@dataclass(frozen=True)
class Recipe:
    """One training run.  Epochs count as real numbers; eps_train is in pixel units; see `schedules` for the ramps."""

    dataset: str
    epochs: int
    ramp_start: float  # p is p_first before this epoch
    ramp_end: float  # and ∞ from this one on
    eps_train: float
    lr: float
    width: int = 1024
    depth: int = 4
    identity: bool = True
    mean_shift: bool = True
    loss: str = "mixture"
    mix: float = 0.75  # hinge: the share of the worst class
    lambda_first: float = 0.05  # mixture: the weight of the cross-entropy, before and after the ramp
    lambda_last: float = 2e-4
    scale_lr: float = 0.006  # mixture: the learning rate of the logits' scale
    p_first: float = 8.0
    p_last: float = 1000.0
    cheap_orders: bool = False  # hold p at orders with fast kernels (schedules.CHEAP_ORDERS)
    batch_size: int = 512
    lr_hold: float = 0.0  # epochs of constant learning rate before the half cosine
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.99
    adam_eps: float = 1e-10
    crop_padding: int = 0
    crop_mode: str = "constant"
    flip: bool = False
    held_out: int = 0  # training samples set apart to choose settings by
    eps_test: float = 0.0  # the radius at which they are certified after every epoch
    seed: int = 0
    source: str = ""  # the paper and table the recipe is taken from

    def __post_init__(self) -> None:
        for condition, key, expected in (
            (self.dataset in DATASETS, "dataset", f"one of {', '.join(DATASETS)}"),
            (self.epochs >= 1, "epochs", "at least 1"),
            (0 <= self.ramp_start, "ramp_start", "an epoch from 0 on"),
            (self.ramp_start <= self.ramp_end, "ramp_end", f"an epoch not before ramp_start = {self.ramp_start:g}"),
            (self.ramp_end <= self.epochs - 1, "ramp_end", f"before the last of {self.epochs} epochs, where p is ∞"),
            (0 < self.eps_train <= 1, "eps_train", "a radius in pixel units, above 0 and at most 1"),
            (1e-12 <= self.lr < math.inf, "lr", "a positive number, from 1e-12 on"),
            (1 <= self.width <= 2**20, "width", f"from 1 to {2**20}"),
            (1 <= self.depth <= 1000, "depth", "from 1 to 1000"),
            (self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}"),
            (0 <= self.mix <= 1, "mix", "from 0 to 1"),
            (0 < self.lambda_first < math.inf, "lambda_first", "a positive number"),
            (0 < self.lambda_last < math.inf, "lambda_last", "a positive number"),
            (0 <= self.scale_lr < math.inf, "scale_lr", "a number from 0 on"),
            (1 <= self.p_first <= 1e5, "p_first", "from 1 to 1e5"),
            (self.p_first <= self.p_last <= 1e5, "p_last", f"from p_first = {self.p_first:g} to 1e5"),
            (self.batch_size >= 1, "batch_size", "at least 1"),
            (0 <= self.lr_hold < self.epochs, "lr_hold", f"an epoch from 0 on, before the last of {self.epochs}"),
            (0 <= self.weight_decay < math.inf, "weight_decay", "a number from 0 on"),
            (0 <= self.beta1 < 1, "beta1", "from 0 to below 1"),
            (0 <= self.beta2 < 1, "beta2", "from 0 to below 1"),
            (0 < self.adam_eps < math.inf, "adam_eps", "a positive number"),
            (0 <= self.crop_padding <= 64, "crop_padding", "a number of pixels from 0 to 64"),
            (self.crop_mode in CROP_MODES, "crop_mode", f"one of {', '.join(CROP_MODES)}"),
            (self.held_out >= 0, "held_out", "a number of samples from 0 on"),
            (0 <= self.eps_test <= 1, "eps_test", "a radius in pixel units from 0 to 1"),
            (self.seed >= 0, "seed", "a number from 0 on"),
        ):
            if not condition:
                raise UserError(f"recipe: {key} must be {expected}, got {getattr(self, key)!r}")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recipe_names() -> list[str]:
    """The names of the recipes that come with linfengine."""
    folder = resources.files("linfengine") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, settings: Iterable[str] = ()) -> Recipe:
    """The shipped recipe of that name, or the TOML file at that path, with `key=value` settings put over it.

    Raises UserError, naming the key, for an unknown recipe or key, a missing key, a wrong type or an impossible value.
    """
    path = Path(name)
    if name in recipe_names():
        text = (resources.files("linfengine") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml":
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"recipe {name}: cannot be read ({error})") from None
    else:
        known = recipe_names()
        raise UserError(
            f"there is no recipe {name!r}{_nearest(name, known)}: expected {', '.join(known)}, or a .toml file"
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"recipe {name}: not a TOML file ({error})") from None
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected key=value")
        values[key.strip()] = _parse_value(value.strip())
    return make_recipe(values)


def make_recipe(values: dict[str, Any]) -> Recipe:
    """A Recipe from keys and values.  Raises UserError as `load_recipe`."""
    known = {field.name: field for field in fields(Recipe)}
    for key in values:
        if key not in known:
            raise UserError(f"recipe: unknown key {key!r}{_nearest(key, known)}")
    missing = [name for name, field in known.items() if field.default is MISSING and name not in values]
    if missing:
        raise UserError(f"recipe: missing {', '.join(missing)}")
    return Recipe(**{key: _convert(known[key], value) for key, value in values.items()})


def _convert(field: Field[Any], value: Any) -> Any:
    if field.name in ("eps_train", "eps_test") and isinstance(value, str):
        return float(parse_eps(value))  # "8/255"
    if field.type == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**53 else math.inf
    if type(value).__name__ != field.type:
        words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
        raise UserError(f"recipe: {field.name} must be {words[str(field.type)]}, got {value!r}")
    return value


def _parse_value(text: str) -> Any:
    """A value as TOML writes it; anything that is none is taken as text, so that dataset=mnist needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _nearest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
