"""Loading a recipe: a TOML file, one of those shipped or one's own, with settings put over it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UserError, did_you_mean
from .recipe import SCHEDULE, Recipe, check_effect, make_recipe, merged, no_effect, with_epochs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def recipe_names() -> list[str]:
    """The names of the recipes that come with linfengine."""
    folder = resources.files("linfengine") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name: str, settings: Iterable[str] = (), *, epochs: int | None = None) -> Recipe:
    """The shipped recipe of that name, or the TOML file at that path, with `key=value` settings put over it.

    With `epochs`, its schedule is first stretched to so many epochs (`with_epochs`); settings then count in these.
    Keys of the file that a setting takes the effect from (those of one loss, where a setting chooses another) are left
    out.

    Raises UserError, naming the key, for an unknown recipe or key, a missing key, a wrong type, an impossible value,
    and for a key of the file or a setting that has no effect, even if it is the default.
    """
    text = _text_of(name)
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UserError(f"recipe {name}: not a TOML file ({error})") from None
    changes = _parse_settings(settings)
    if epochs is not None:
        if "epochs" in changes:
            raise UserError("--epochs and --set epochs=N name the same number: give one of them")
        stretched = with_epochs(make_recipe(values), epochs).to_dict()
        values |= {key: stretched[key] for key in ("epochs", *SCHEDULE) if key in values}
    try:
        recipe = make_recipe(merged(values, changes))
    except UserError as error:
        if "epochs" in changes and str(error).startswith(tuple(f"recipe: {key} must be" for key in SCHEDULE)):
            raise UserError(f"{error}; --epochs {changes['epochs']} stretches the whole schedule") from None
        raise
    check_effect([*changes, *(key for key in values if no_effect(key, values))], recipe.to_dict())
    return recipe


def _parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Key and value of each `key=value`."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting}: expected key=value")
        changes[key.strip()] = _parse_value(value.strip())
    return changes


def _parse_value(text: str) -> Any:
    """A value as TOML writes it; anything that is none is taken as text, so that dataset=mnist needs no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


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
