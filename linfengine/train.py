"""The training loop.

    for every mini-batch:   p, lr, λ from the schedules  →  loss of the batch  →  backward  →  Adam
    after every epoch:      metrics.jsonl gets a line, checkpoint.safetensors is replaced

Each epoch draws its shuffling and augmentation from (seed, epoch) alone, so a run that resumes from a checkpoint ends
with the same bits as one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import losses, schedules
from .backends import Array, resolve_device, to_device
from .certify import certify, margins
from .checkpoint import check_writable, load_tensors, save_model, save_tensors, write_file
from .data import Dataset, batches, random_crop, random_flip, split_holdout, to_pixels
from .errors import UserError
from .layers import LinfDistNet
from .optim import Adam
from .recipes import Recipe
from .tensor import Tensor

MODEL, CHECKPOINT, METRICS = "model.safetensors", "checkpoint.safetensors", "metrics.jsonl"


class Observer:
    """Who watches a training run; the default looks away."""

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        """After every mini-batch: `done` of the epoch's `steps`, with the figures of the epoch so far."""

    def epoch(self, figures: dict[str, Any]) -> None:
        """After every epoch: the line that metrics.jsonl gets."""


class Run:
    """A training run between two epochs: net, scale of the logits, optimizer, and how many epochs are done."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: str = "cpu") -> None:
        self.recipe = recipe
        held_out = np.empty(0, np.intp)
        train = np.arange(len(dataset.train_labels))
        if recipe.held_out >= len(train):
            raise UserError(f"recipe: held_out {recipe.held_out} leaves none of the {len(train)} training samples")
        if recipe.held_out:
            train, held_out = split_holdout(dataset.train_labels, recipe.held_out)
        if recipe.batch_size > len(train):
            raise UserError(f"recipe: batch_size {recipe.batch_size} is above the {len(train)} training samples")
        self.images, self.labels = to_device(dataset.train_images[train], device), dataset.train_labels[train]
        self.held_out = to_pixels(dataset.train_images[held_out]), dataset.train_labels[held_out]
        self.model = LinfDistNet(
            self.images.shape[1:],
            len(dataset.classes),
            width=recipe.width,
            depth=recipe.depth,
            mean=dataset.mean,
            std=dataset.std,
            identity=recipe.identity,
            mean_shift=recipe.mean_shift,
            seed=recipe.seed,
        )
        self.model.to(device)
        self.scale = Tensor(np.ones(1, np.float32), requires_grad=True, device=device)
        parameters = self.model.parameters()
        if recipe.loss == "mixture":
            parameters["loss.scale"] = self.scale
        self.optimizer = Adam(
            parameters,
            recipe.lr,
            betas=(recipe.beta1, recipe.beta2),
            eps=recipe.adam_eps,
            weight_decay=recipe.weight_decay,
            decay_order=lambda name: 2.0 if name == "loss.scale" else self.model.decay_order(name),
            rate_scale={"loss.scale": recipe.scale_lr / recipe.lr},
        )
        self.epochs_done = 0

    def train_epoch(self, observer: Observer) -> dict[str, Any]:
        """One pass over the training set; returns the epoch's figures."""
        recipe, epoch, start = self.recipe, self.epochs_done, time.perf_counter()
        rng = np.random.default_rng([recipe.seed, epoch])
        steps = math.ceil(len(self.labels) / recipe.batch_size)
        eps = recipe.eps_train * self.model.lipschitz()  # in net units
        seen, total, correct, beyond, margin_sum = 0, 0.0, 0, 0, 0.0
        self.model.train()
        for step, (pixels, labels) in enumerate(
            batches(self.images, self.labels, recipe.batch_size, rng, self.augment)
        ):
            self._set_schedules(epoch + step / steps)
            try:
                logits = self.model(Tensor(pixels))
                loss = self._loss(logits, labels, eps, epoch + step / steps)
                value = loss.item()
                if not math.isfinite(value):
                    raise ValueError(f"the loss is {value}")
            except ValueError as error:  # distances refuse what is not finite
                safe = f"; the checkpoint of epoch {epoch} is whole" if epoch else ""
                raise UserError(
                    f"training diverged in step {step + 1} of epoch {epoch + 1}: {str(error).rstrip('.')} "
                    f"(try a smaller lr{safe})"
                ) from error
            margin = margins(logits.numpy(), labels)  # a GPU has just been waited for; after the step it would be again
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            seen += len(labels)
            total += value * len(labels)
            correct += int((margin > 0).sum())
            beyond += int((margin > 2 * eps).sum())
            margin_sum += float(margin.sum())
            figures = {
                "p": self.model.p,
                "lr": self.optimizer.lr,
                "loss": total / seen,
                "accuracy": correct / seen,
                "margin": margin_sum / seen,
            }
            observer.step(epoch + 1, step + 1, steps, figures)
        self.epochs_done += 1
        figures |= {"epoch": self.epochs_done, "beyond_2eps": beyond / seen}
        if recipe.loss == "mixture":
            figures["scale"] = self.scale.item()
        return figures | self._held_out_figures() | {"seconds": time.perf_counter() - start}

    def augment(self, images: Array, rng: np.random.Generator) -> Array:
        if self.recipe.crop_padding:
            images = random_crop(images, self.recipe.crop_padding, rng, mode=self.recipe.crop_mode)  # type: ignore[arg-type]
        return random_flip(images, rng) if self.recipe.flip else images

    def _set_schedules(self, epoch: float) -> None:
        recipe = self.recipe
        p = schedules.p_ramp(epoch, recipe.ramp_start, recipe.ramp_end, recipe.p_first, recipe.p_last)
        self.model.p = schedules.cheap_order(p) if recipe.cheap_orders else p
        self.optimizer.lr = schedules.learning_rate(epoch, recipe.lr, recipe.epochs, recipe.lr_hold)

    def _loss(self, logits: Tensor, labels: Array, eps: float, epoch: float) -> Tensor:
        recipe = self.recipe
        if recipe.loss == "hinge":
            return losses.hinge(logits, labels, eps, recipe.mix)
        if recipe.loss == "cross-entropy":
            return losses.cross_entropy(logits, labels)
        progress = schedules.ramp(epoch, recipe.ramp_start, recipe.ramp_end)
        weight = schedules.geometric(progress, recipe.lambda_first, recipe.lambda_last)
        return losses.mixture(logits, labels, eps, weight, self.scale)

    def _held_out_figures(self) -> dict[str, float]:
        """Clean and certified accuracy of the p = ∞ net on the held-out samples, whatever p training has reached."""
        pixels, labels = self.held_out
        if not len(labels):
            return {}
        p, self.model.p = self.model.p, math.inf
        proof = certify(self.model, pixels, labels, self.recipe.eps_test, method="margin")
        self.model.p = p
        return {
            "held_out_accuracy": float(proof.correct.mean()),
            "held_out_certified": float((proof.certified & proof.correct).mean()),
        }

    def save(self, path: Path) -> None:
        """The whole state between two epochs."""
        tensors = {f"model.{name}": array for name, array in self.model.state().items()}
        tensors |= {f"optimizer.{name}": array for name, array in self.optimizer.state().items()}
        tensors["loss.scale"] = self.scale.numpy()
        recipe = json.dumps(self.recipe.to_dict())
        save_tensors(path, tensors, {"recipe": recipe, "epoch": str(self.epochs_done), "p": repr(self.model.p)})

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.  Raises UserError when it is not whole or comes from another recipe."""
        tensors, metadata = load_tensors(path)
        try:
            theirs = json.loads(metadata["recipe"])
            changed = [key for key, value in self.recipe.to_dict().items() if theirs.get(key) != value]
            if changed:
                key = changed[0]
                raise UserError(
                    f"{path}: this run was started with {key} = {theirs.get(key)!r}, not "
                    f"{self.recipe.to_dict()[key]!r}; resume it with the recipe and settings it began with"
                )
            parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "loss": {}}
            for name, array in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = array
            self.model.load_state(parts["model"])
            self.optimizer.load_state(parts["optimizer"])
            self.scale.data[...] = to_device(parts["loss"]["scale"], self.scale.device)
            self.model.p = float(metadata["p"])
            self.epochs_done = int(metadata["epoch"])
        except UserError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path}: not a checkpoint that fits its own description ({error})") from None


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: str | Path,
    *,
    resume: bool = False,
    restart: bool = False,
    device: str = "cpu",
    observer: Observer | None = None,
) -> LinfDistNet:
    """Train a net by a recipe; DIR = `out` gets model.safetensors, checkpoint.safetensors and metrics.jsonl.

    On `device` "cuda" (or "auto", where there is one) the images, the net and the optimizer live on the GPU, and the
    net is returned there.  The files are the same: a run may be resumed on another device, with other last bits.

    Nothing that a run left behind is written over, unless it is asked for: with `resume` the run in DIR goes on where
    its last checkpoint left it; with `restart` a run of the very same recipe, which loses nothing, begins anew.

    Raises UserError when DIR holds another run, when there is nothing to resume, and when training diverges;
    ImportError, with the reason, where there is no GPU to use.
    """
    device = resolve_device(device)
    out, observer = Path(out), observer or Observer()
    present = [name for name in (CHECKPOINT, MODEL, METRICS) if (out / name).exists()]
    if resume and CHECKPOINT not in present:
        raise UserError(f"{out}: there is no run to resume, since it holds no {CHECKPOINT}")
    if present and not resume and not (restart and _recipe_in(out, present) == recipe.to_dict()):
        raise UserError(
            f"{out} already holds a training run ({', '.join(present)}): go on with it (--resume, or resume=True) "
            "or choose another folder"
        )
    run = Run(recipe, dataset, device)
    if resume:
        run.load(out / CHECKPOINT)
    lines = _metrics_up_to(out / METRICS, run.epochs_done) if resume else []
    check_writable(out / METRICS)  # before an epoch of work rather than after it
    while run.epochs_done < recipe.epochs:
        with np.errstate(all="ignore"):  # what overflows shows in the loss, and that stops the run
            figures = run.train_epoch(observer)
        p = figures["p"] if math.isfinite(figures["p"]) else "inf"  # JSON has no infinity
        lines.append(json.dumps(figures | {"p": p}, allow_nan=False))
        write_file(out / METRICS, "".join(f"{line}\n" for line in lines).encode())
        run.save(out / CHECKPOINT)
        observer.epoch(figures)
    save_model(run.model.eval(), out / MODEL, dataset=recipe.dataset, recipe=json.dumps(recipe.to_dict()))
    return run.model


def _recipe_in(out: Path, present: list[str]) -> Any:
    """The recipe of the run in a folder, as its checkpoint or its model tells it; None where neither does."""
    files = [name for name in (CHECKPOINT, MODEL) if name in present]
    return json.loads(load_tensors(out / files[0])[1].get("recipe", "null")) if files else None


def _metrics_up_to(path: Path, epoch: int) -> list[str]:
    """The lines of the epochs that the checkpoint has seen: a run may have been stopped between line and checkpoint."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if json.loads(line)["epoch"] <= epoch]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object with its epoch in every line ({error})") from None
