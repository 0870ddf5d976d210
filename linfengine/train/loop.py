"""`train`: a plan, trained epoch by epoch into a folder.

Each epoch draws its shuffling and augmentation from (seed, epoch) alone, so a run that resumes from a checkpoint ends
with the same bits as one that was never interrupted. One that is interrupted, or diverges, before its first epoch is
done leaves nothing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..backends import resolve_device
from ..data import Dataset
from ..files import folder_lock
from ..layers import Sequential
from ..recipes import Recipe
from ..rounding import check_arithmetic
from .folder import MODEL, Folder, check_folder, clean
from .plan import make_plan
from .progress import Observer, watching
from .trainer import Diverged, Trainer


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: str | Path,
    *,
    resume: bool = False,
    restart: bool = False,
    keep: int = 0,
    device: str = "cpu",
    observer: Observer | None = None,
) -> Sequential:
    """Train a net by a recipe; DIR = `out` gets model.safetensors, checkpoint.safetensors and metrics.jsonl.

    Where the recipe holds samples out, best.safetensors is the net after the epoch that certified most of them. The
    last `keep` checkpoints before the newest stay as checkpoint-EPOCH.safetensors: copied over checkpoint.safetensors,
    one is resumed as well.

    A recipe whose `dataset` is "" takes whatever data set is given.

    On `device` "cuda" (or "auto", where there is one) the images, the net and the optimizer live on the GPU, and the
    net is returned there. The files are the same: a run may be resumed on another device, with other last bits.

    Nothing that a run left behind is written over, unless it is asked for: with `resume` the run in DIR goes on where
    its last checkpoint left it; with `restart` a run of the very same recipe begins anew, its old files removed. While
    it trains, DIR is locked: a second run in it is refused.

    `observer` is told of every step and epoch. Without one, a progress bar is shown on standard error where that is a
    terminal, a line now and then in a notebook, and nothing elsewhere; `Observer()` shows nothing anywhere.

    Raises UserError when the recipe does not fit the data set, when DIR holds another run, when there is nothing to
    resume, when training diverges, and when this process does not compute as IEEE 754 says; ImportError, with the
    reason, where there is no GPU to use.
    """
    if keep < 0:
        raise ValueError(f"keep must be a number of checkpoints from 0 on, got {keep}")
    device, out = resolve_device(device), Path(out)
    check_arithmetic()
    with folder_lock(out), np.errstate(all="ignore"):  # what overflows shows in the loss, and that stops the run
        check_folder(out, resume=resume, restart=recipe if restart else None)
        clean(out)
        trainer = Trainer(make_plan(recipe, dataset, device))
        folder = Folder(out, trainer, keep)
        if resume:
            folder.resume()
        begun = trainer.epochs_done
        if not begun:
            folder.begin()
        try:
            with watching(observer, trainer.plan.epochs) as watcher:
                _train_epochs(trainer, folder, watcher)
        except (KeyboardInterrupt, Diverged):
            if not begun:
                folder.forget()
            raise
        folder.write_net(MODEL)
    trainer.plan.net.eval()
    return trainer.plan.net


def _train_epochs(trainer: Trainer, folder: Folder, observer: Observer) -> None:
    """The epochs that are left."""
    while trainer.epochs_done < trainer.plan.epochs:
        check_arithmetic()
        try:
            figures = trainer.train_epoch(observer)
        except Diverged as error:
            done = trainer.epochs_done
            kept = f"{folder.checkpoint} holds epoch {done}, whole" if done else "no epoch was done"
            raise Diverged(f"{error}; {kept}; try another folder with {trainer.plan.remedy}") from error
        folder.write_epoch(figures)
        observer.epoch(figures)
