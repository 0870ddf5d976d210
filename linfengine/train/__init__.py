"""Training: the loop and its files, and what tells of a run; `budget` and `ablate` stand in modules of their own."""

from .loop import (
    BEST,
    CHECKPOINT,
    MODEL,
    Diverged,
    Observer,
    Run,
    check_folder,
    check_samples,
    make_net,
    recipe_in,
    train,
)

__all__ = [
    "BEST",
    "CHECKPOINT",
    "MODEL",
    "Diverged",
    "Observer",
    "Run",
    "check_folder",
    "check_samples",
    "make_net",
    "recipe_in",
    "train",
]
