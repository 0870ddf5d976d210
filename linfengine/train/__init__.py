"""Training: a recipe becomes a plan, the loop follows it, its files lie in one folder.

`budget` and `ablate` stand in modules of their own.
"""

from .folder import BEST, CHECKPOINT, MODEL, check_folder, recipe_in
from .loop import train
from .plan import Moment, Plan, make_net, make_plan
from .progress import Observer
from .samples import HeldOut, check_fits
from .trainer import Diverged, Trainer

__all__ = [
    "BEST",
    "CHECKPOINT",
    "MODEL",
    "Diverged",
    "HeldOut",
    "Moment",
    "Observer",
    "Plan",
    "Trainer",
    "check_fits",
    "check_folder",
    "make_net",
    "make_plan",
    "recipe_in",
    "train",
]
