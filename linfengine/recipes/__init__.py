"""Recipes: everything that a training run depends on. The shipped ones are the TOML files of this folder."""

from .recipe import (
    CROP_MODES,
    LOSSES,
    LR_SCHEDULES,
    NETS,
    NOTES,
    PUBLISHED,
    SCHEDULE,
    Recipe,
    load_recipe,
    make_recipe,
    recipe_names,
    size_of,
    with_epochs,
)

__all__ = [
    "CROP_MODES",
    "LOSSES",
    "LR_SCHEDULES",
    "NETS",
    "NOTES",
    "PUBLISHED",
    "SCHEDULE",
    "Recipe",
    "load_recipe",
    "make_recipe",
    "recipe_names",
    "size_of",
    "with_epochs",
]
