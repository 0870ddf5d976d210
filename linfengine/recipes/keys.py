"""Keys of a recipe: their types and ranges, and the sentences that refuse a value."""

import math
from collections.abc import Iterable
from dataclasses import Field, field
from typing import Annotated, Any, Literal, get_args

import msgspec
import numpy as np

from ..errors import UserError, did_you_mean
from ..units import parse_eps

PUBLISHED = ("clean", "pgd", "certified")
WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Literal: "text", dict: "a table"}


def limits(low: float, high: float, words: str) -> msgspec.Meta:
    """The range of a number, both ends included, and its words in a refusal."""
    return msgspec.Meta(ge=low, le=high, extra={"words": words})


Share = Annotated[float, limits(0, 1, "from 0 to 1")]
Beta = Annotated[float, limits(0, 0.999999, "from 0 to 0.999999")]
Weight = Annotated[float, limits(0, 1e6, "from 0 to 1e6")]
Positive = Annotated[float, limits(1e-12, 1e6, "a positive number from 1e-12 to 1e6")]
Tiny = Annotated[float, limits(1e-30, 1, "a positive number from 1e-30 to 1")]
Order = Annotated[float, limits(1, 1e5, "from 1 to 1e5")]
Radius = Annotated[float, limits(0, 1, "a radius in pixel units from 0 to 1")]
PositiveRadius = Annotated[float, limits(1e-6, 1, "a radius in pixel units from 1e-6 to 1")]
Epochs = Annotated[int, limits(1, 10**9, "from 1 to 1000000000")]
Width = Annotated[int, limits(1, 2**20, f"from 1 to {2**20}")]
Channels = Annotated[int, limits(1, 2**16, f"from 1 to {2**16}")]
Depth = Annotated[int, limits(1, 1000, "from 1 to 1000")]
Head = Annotated[int, limits(0, 2**16, f"a number of neurons from 0 (no head) to {2**16}")]
Padding = Annotated[int, limits(0, 64, "a number of pixels from 0 to 64")]
Samples = Annotated[int, limits(0, 10**9, "a number of samples from 0 to 1000000000")]
Seed = Annotated[int, limits(0, 2**63 - 1, f"from 0 to {2**63 - 1}")]
Figures = dict[Literal["clean", "pgd", "certified"], Annotated[float, msgspec.Meta(ge=0, le=100)]]


def key(meaning: str, needs: tuple[str, ...] = (), **default: Any) -> Any:
    """A field of a recipe. `linfengine train --help` shows its meaning.

    `needs` is another key, and the values of it with which this one has an effect; without values, all but 0.
    """
    return field(metadata={"meaning": meaning, "needs": needs}, **default)


def converted(key: Field[Any], value: Any) -> Any:
    """The value as the key's type.

    Raises UserError, naming the key, for a value of another type and for one out of range.
    """
    if key.type in (Radius, PositiveRadius) and isinstance(value, str):
        try:
            return float(parse_eps(value))  # "8/255"
        except UserError as error:
            raise UserError(f"recipe: {key.name}: {str(error).removeprefix('eps: ')}") from None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and abs(value) >= 2**64:
        raise UserError(f"recipe: {key.name} must be a number of at most 64 bits, got one of {value.bit_length()}")
    try:
        return msgspec.convert(value, key.type)
    except msgspec.ValidationError:
        raise _refusal(key, value) from None


def _refusal(key: Field[Any], value: Any) -> UserError:
    """The sentence on a value that msgspec does not take."""
    kind: Any = getattr(key.type, "__origin__", key.type)
    if kind is dict and isinstance(value, dict):
        return _wrong_figures(value)
    if kind is Literal and isinstance(value, str):
        return wrong_choice(key.name, value, get_args(key.type))
    if type(value) is kind or (kind is float and type(value) is int):
        (meta,) = key.type.__metadata__  # type: ignore[union-attr]
        return out_of_range(key.name, value, meta.ge, meta.le, meta.extra["words"])
    return UserError(f"recipe: {key.name} must be {WORDS[kind]}, got {value!r:.40}")


def wrong_choice(name: str, value: str, choices: Iterable[str]) -> UserError:
    choices = tuple(choices)
    return UserError(f"recipe: {name} must be one of {', '.join(choices)}, got {value!r}{did_you_mean(value, choices)}")


def out_of_range(name: str, value: float, low: float, high: float, words: str) -> UserError:
    """The sentence, with the nearest value that is possible; a NaN or an infinity has none."""
    nearest = min(max(value, low), high)
    shown = f"{nearest:.15g}" if isinstance(nearest, float) else nearest
    closest = f" (the nearest is {shown})" if abs(value) < math.inf else ""
    return UserError(f"recipe: {name} must be {words}, got {value!r:.40}{closest}")


def _wrong_figures(published: dict[Any, Any]) -> UserError:
    for name, value in published.items():
        if name not in PUBLISHED or type(value) not in (int, float) or not 0 <= value <= 100:
            hint = "" if name in PUBLISHED else did_you_mean(str(name), PUBLISHED)
            break
    return UserError(f"recipe: published must give {', '.join(PUBLISHED)} in percent, got {name} = {value!r}{hint}")
