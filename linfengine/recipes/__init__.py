"""Recipes: everything that a training run depends on. The shipped ones are the TOML files of this folder."""

from .keys import PUBLISHED, out_of_range
from .load import load_recipe, recipe_names
from .recipe import (
    LOSSES,
    NOTES,
    SCHEDULE,
    Recipe,
    make_recipe,
    size_of,
    stored_recipe,
    with_epochs,
    with_settings,
)

__all__ = [
    "LOSSES",
    "NOTES",
    "PUBLISHED",
    "SCHEDULE",
    "Recipe",
    "load_recipe",
    "make_recipe",
    "out_of_range",
    "recipe_names",
    "size_of",
    "stored_recipe",
    "with_epochs",
    "with_settings",
]
