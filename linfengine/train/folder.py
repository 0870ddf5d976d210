"""The folder of a run: what lies in it, and in which order it is written.

    before the first epoch  checkpoint.safetensors, of epoch 0
    after every epoch       metrics.jsonl gets a line; best.safetensors is replaced if the held-out samples have never
                            been certified better; then checkpoint.safetensors is replaced
    at the end              model.safetensors

The checkpoint is the state of the run; what other files say of later epochs is written again. So a run that is stopped
between any two writes can be resumed.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from ..checkpoint import load_tensors, save_model, save_tensors
from ..errors import UserError
from ..files import check_writable, remove_temporaries, write_file
from ..recipes import NOTES, Recipe, stored_recipe
from .events import EVENTS
from .metrics import METRICS
from .samples import at_infinity
from .trainer import Trainer

NUMBERED = re.compile(r"checkpoint-(\d{5,})\.safetensors")
MODEL, BEST, CHECKPOINT = "model.safetensors", "best.safetensors", "checkpoint.safetensors"


class Folder:
    """The files of one run, in a folder that is locked. With `keep`, so many earlier checkpoints stay."""

    def __init__(self, out: Path, trainer: Trainer, keep: int = 0) -> None:
        self.trainer, self.keep = trainer, keep
        self.out, self.checkpoint, self.metrics = out, out / CHECKPOINT, out / METRICS
        self.recipe = json.dumps(trainer.plan.recipe.to_dict())
        self.lines: list[str] = []

    def begin(self) -> None:
        """Write the checkpoint of epoch 0, and remove all else of a run.

        In this order: wherever it is stopped, the folder can be resumed and holds no file that the checkpoint knows
        nothing of. A model is removed first, since the old checkpoint makes it again.
        """
        check_writable(self.metrics)  # before an epoch of work rather than after it
        (self.out / MODEL).unlink(missing_ok=True)
        self._save()
        for file in (self.out / BEST, *numbered(self.out).values(), self.metrics):
            file.unlink(missing_ok=True)

    def resume(self) -> None:
        """Bring the trainer to the state of the checkpoint.

        Raises UserError where the checkpoint is not whole, or is of another recipe.
        """
        tensors, words = load_tensors(self.checkpoint)
        try:
            self._check_recipe(_recipe_of(words))
            self.trainer.load_state(tensors, words)
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{self.checkpoint}: not a checkpoint that fits its own description ({error})") from None
        check_writable(self.metrics)
        if self.trainer.epochs_done:
            self.lines = _lines_up_to(self.metrics, self.trainer.epochs_done)

    def _check_recipe(self, theirs: dict[str, Any]) -> None:
        ours = self.trainer.plan.recipe.to_dict()
        for key, value in ours.items():
            if key not in NOTES and theirs[key] != value:
                raise UserError(
                    f"{self.checkpoint}: this run was started with {key} = {theirs[key]!r}, not {value!r}; "
                    "resume it with the recipe, settings and budget it began with"
                )

    def write_epoch(self, figures: dict[str, Any]) -> None:
        """Write what an epoch has given, the checkpoint last."""
        p = figures["p"] if math.isfinite(figures["p"]) else "inf"  # JSON has no infinity
        self.lines.append(json.dumps(figures | {"p": p}, allow_nan=False))
        write_file(self.metrics, "".join(f"{line}\n" for line in self.lines).encode())
        if figures.get("held_out_certified", -1.0) > self.trainer.best:
            self.trainer.best = figures["held_out_certified"]
            self.write_net(BEST)
        self._rotate(self.trainer.epochs_done - 1)
        self._save()

    def write_net(self, name: str) -> None:
        """The net at p = ∞, as it is certified."""
        plan = self.trainer.plan
        save_model(at_infinity(plan.net), self.out / name, dataset=plan.dataset, recipe=self.recipe)

    def forget(self) -> None:
        """Remove the checkpoint of a run that has no epoch done: there is nothing to go on with."""
        if not self.metrics.exists():
            self.checkpoint.unlink(missing_ok=True)

    def _save(self) -> None:
        tensors, words = self.trainer.state()
        save_tensors(self.checkpoint, tensors, {"recipe": self.recipe, **words})

    def _rotate(self, epoch: int) -> None:
        """Keep the checkpoint of this epoch under its number, and of those up to it the last `keep`."""
        if not self.keep:
            return
        if epoch and self.checkpoint.exists():
            write_file(self.out / f"checkpoint-{epoch:05}.safetensors", self.checkpoint.read_bytes())
        files = numbered(self.out)
        for number in sorted(number for number in files if number <= epoch)[: -self.keep]:
            files[number].unlink()


def check_folder(out: Path, *, resume: bool = False, restart: Recipe | None = None) -> None:
    """Raises UserError unless a run may begin in the folder, or go on there with `resume`.

    A run of the recipe `restart` may begin where one of the very same recipe is.
    """
    present = [name for name in (CHECKPOINT, MODEL, BEST, METRICS) if (out / name).exists()]
    if kept := numbered(out):
        present.append(kept[max(kept)].name)
    files = ", ".join(present)
    if resume and CHECKPOINT not in present:
        raise UserError(f"{out}: there is no run to resume, since it holds no {CHECKPOINT}")
    if resume or not present or (restart and recipe_in(out) == restart.to_dict()):
        return
    if restart:
        raise UserError(f"{out} already holds a training run of another recipe ({files}): choose another folder")
    if CHECKPOINT not in present:
        copied = f", or copy {present[-1]} to {CHECKPOINT} and go on from there (--resume)" if kept else ""
        raise UserError(
            f"{out} already holds files of a training run ({files}), and no {CHECKPOINT} to go on from: "
            f"choose another folder{copied}"
        )
    raise UserError(
        f"{out} already holds a training run ({files}): go on with it (--resume, or resume=True) "
        "or choose another folder"
    )


def clean(out: Path) -> None:
    """Remove what killed processes left in the folder of a run under temporary names."""
    remove_temporaries(out, "checkpoint*.safetensors", MODEL, BEST, METRICS, EVENTS)


def numbered(out: Path) -> dict[int, Path]:
    """The checkpoints of earlier epochs in a folder, by epoch."""
    names = (NUMBERED.fullmatch(file.name) for file in (out.iterdir() if out.is_dir() else ()))
    return {int(name[1]): out / name[0] for name in names if name}


def recipe_in(out: Path) -> dict[str, Any] | None:
    """The recipe of the run in a folder, as its checkpoint or its model tells it; None where neither is there.

    Raises UserError where it is told, but cannot be read.
    """
    for file in (out / CHECKPOINT, out / MODEL):
        if file.exists():
            try:
                return _recipe_of(load_tensors(file)[1])
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise UserError(f"{file}: the recipe in it cannot be read ({error})") from None
    return None


def _recipe_of(metadata: dict[str, str]) -> dict[str, Any]:
    recipe = json.loads(metadata["recipe"])
    if not isinstance(recipe, dict):
        raise TypeError(f"its recipe is no table, but {recipe!r:.40}")
    return stored_recipe(recipe).to_dict()


def _lines_up_to(path: Path, epoch: int) -> list[str]:
    """The lines of the epochs that the checkpoint has seen: a run may have been stopped between line and checkpoint."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if json.loads(line)["epoch"] <= epoch]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object with its epoch in every line ({error})") from None
