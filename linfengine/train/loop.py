"""The training loop.

    before the first epoch: checkpoint.safetensors, of epoch 0
    for every mini-batch:   p, lr, λ from the schedules  →  loss of the batch  →  backward  →  Adam
    after every epoch:      metrics.jsonl gets a line; best.safetensors is replaced if the held-out samples have never
                            been certified better; then checkpoint.safetensors is replaced
    at the end:             model.safetensors

The checkpoint is the state of the run; what other files say of later epochs is written again.  So a run that is stopped
between any two writes can be resumed; one that is interrupted, or diverges, before its first epoch is done leaves
nothing.  Each epoch draws its shuffling and augmentation from (seed, epoch) alone, so a run that resumes from a
checkpoint ends with the same bits as one that was never interrupted.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from .. import losses, schedules
from ..backends import Array, backend_of, resolve_device, to_device
from ..certify import certify, check_arithmetic, margins
from ..checkpoint import load_tensors, save_model, save_tensors
from ..data import Dataset, batches, random_crop, random_flip, split_holdout, to_pixels
from ..errors import UserError
from ..files import check_writable, folder_lock, remove_temporaries, write_file
from ..layers import DistanceNet, LinfDistConvNet, LinfDistNet
from ..optim import Adam
from ..recipes import NOTES, Recipe, stored_recipe
from ..tensor import Tensor
from .metrics import EVENTS, MARGIN_EDGES, METRICS
from .progress import Observer as Observer
from .progress import watching

NUMBERED = re.compile(r"checkpoint-(\d{5,})\.safetensors")
MODEL, BEST, CHECKPOINT = "model.safetensors", "best.safetensors", "checkpoint.safetensors"


class Diverged(UserError):
    """Training has left the numbers that it can go on with."""


def make_net(recipe: Recipe, dataset: Dataset) -> DistanceNet:
    """The net that a recipe describes, for a data set, as training begins with it."""
    shape, classes = dataset.train_images.shape[1:], len(dataset.classes)
    settings: dict[str, Any] = {
        "mean": dataset.mean, "std": dataset.std, "width": recipe.width, "head": recipe.head, "crop": recipe.crop_size,
        "identity": recipe.identity, "mean_shift": recipe.mean_shift, "seed": recipe.seed,
    }  # fmt: skip
    if recipe.net == "conv":
        return LinfDistConvNet(shape, classes, channels=recipe.channels, **settings)
    return LinfDistNet(shape, classes, depth=recipe.depth, **settings)


def check_samples(recipe: Recipe, dataset: Dataset) -> None:
    """Raises UserError where the recipe is for another data set, or asks for more samples than there are."""
    if dataset.name != recipe.dataset:
        raise UserError(f"recipe: dataset is {recipe.dataset}, got the samples of {dataset.name}")
    n, fewest = len(dataset.train_labels), 2 if recipe.mean_shift else 1
    left = n - recipe.held_out
    if left < fewest:
        raise UserError(
            f"recipe: held_out {recipe.held_out} leaves {'one' if left == 1 else 'none'} of the {n} training samples "
            f"(the nearest is {n - fewest})"
        )
    if recipe.batch_size > left:
        raise UserError(
            f"recipe: batch_size {recipe.batch_size} is above the {left} training samples (the nearest is {left})"
        )


class Run:
    """A training run between two epochs: net, scale of the logits, optimizer, and how many epochs are done."""

    def __init__(self, recipe: Recipe, dataset: Dataset, device: str = "cpu") -> None:
        self.recipe = recipe
        check_samples(recipe, dataset)
        images, labels = dataset.train_images, dataset.train_labels
        self.held_out = to_pixels(images[:0]), labels[:0]
        if recipe.held_out:
            train, held_out = split_holdout(labels, recipe.held_out)
            self.held_out = to_pixels(images[held_out]), labels[held_out]
            images, labels = images[train], labels[train]
        self.images, self.labels = to_device(images, device), labels
        self.model = make_net(recipe, dataset)
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
            decay_order=lambda name: self.model.decay_order(name) if recipe.lp_decay and name != "loss.scale" else 2.0,
            rate_scale={"loss.scale": recipe.scale_lr / recipe.lr} if recipe.loss == "mixture" else {},
        )
        self.epochs_done = 0
        self.best = -1.0  # the largest held_out_certified so far

    def train_epoch(self, observer: Observer) -> dict[str, Any]:
        """One pass over the training set; returns the epoch's figures."""
        recipe, epoch, start = self.recipe, self.epochs_done, time.perf_counter()
        steps = self.steps_per_epoch()
        seen, total, correct, robust, margin_sum = 0, 0.0, 0, 0, 0.0
        counts, unit = np.zeros(len(MARGIN_EDGES) - 1, np.int64), 2 * self.eps(recipe.epochs)
        self.model.train()
        for step, (pixels, labels) in enumerate(self.batches()):
            now = epoch + step / steps
            try:
                loss, margin, room = self.step(pixels, labels, now)
                if step + 1 == steps:
                    self.check_numbers()
            except Diverged as error:
                raise Diverged(f"training diverged in step {step + 1} of epoch {epoch + 1}: {error}") from error
            seen += len(labels)
            total += loss * len(labels)
            correct += int((margin > 0).sum())
            robust += int((room > 0).sum())
            margin_sum += float(margin.sum())
            if not recipe.head:
                inside = np.clip(margin / unit, MARGIN_EDGES[0], MARGIN_EDGES[-1])
                counts += np.histogram(inside, MARGIN_EDGES)[0]
            figures: dict[str, Any] = {
                "p": self.model.p,
                "lr": self.optimizer.lr,
                "loss": total / seen,
                "accuracy": correct / seen,
                "margin": margin_sum / seen,
            }
            observer.step(epoch + 1, step + 1, steps, figures)
        self.epochs_done += 1
        figures |= {"epoch": self.epochs_done, "eps": self.eps(now), "beyond_2eps": robust / seen}
        if recipe.loss == "mixture":
            figures |= {"scale": self.scale.item(), "lambda": self.cross_entropy_weight(now)}
        if not recipe.head:
            figures["margin_counts"] = counts.tolist()
        figures |= self.held_out_figures()
        return figures | {"seconds": time.perf_counter() - start}

    def steps_per_epoch(self) -> int:
        """Mini-batches in an epoch.  One sample left over, which a mean shift would take to 0, is left out of it."""
        whole, rest = divmod(len(self.labels), self.recipe.batch_size)
        return whole + (rest > 1)

    def batches(self) -> Iterator[tuple[Array, Array]]:
        """The mini-batches of this epoch, by chance that depends on the seed and the epoch alone."""
        rng = np.random.default_rng([self.recipe.seed, self.epochs_done])
        all_batches = batches(self.images, self.labels, self.recipe.batch_size, rng, self.augment)
        return islice(all_batches, self.steps_per_epoch())

    def step(self, pixels: Array, labels: Array, now: float) -> tuple[float, Array, Array]:
        """One mini-batch at the moment `now`, in epochs: the loss, margins z_y − max z_j (n,), and room (n,) to 2ε_t.

        Room is −max_{j≠y} worst_j: what the margin has above 2ε_t, or by the bounds of a head.  Raises Diverged where
        the loss is not finite.
        """
        recipe, eps, p = self.recipe, self.eps(now), self.order(now)
        if recipe.reset_at_switch and math.isinf(p) and not math.isinf(self.model.p):
            self.optimizer.reset()
        self.model.p = p
        if recipe.lr_schedule == "cosine":
            self.optimizer.lr = schedules.learning_rate(now, recipe.lr, recipe.epochs, recipe.lr_hold)
        try:
            logits, worst = self.model.worst_case(Tensor(pixels), labels, eps)
            loss = self.loss(logits, labels, eps, now, worst)
        except ValueError as error:  # distances refuse what is not finite
            raise Diverged(str(error).rstrip(".")) from error
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value}")
        margin = margins(logits.numpy(), labels)  # a GPU has just been waited for; after the step it would be again
        room = margin - 2 * eps if worst is None else margins(worst.numpy(), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return value, margin, room

    def check_numbers(self) -> None:
        """The step just done may have left weights that only the next one would stumble over."""
        for name, parameter in self.optimizer.parameters.items():
            if not bool(backend_of(parameter.data).xp.isfinite(parameter.data).all()):
                raise Diverged(f"{name} holds values that are not finite")

    def loss(self, logits: Tensor, labels: Array, eps: float, now: float, worst: Tensor | None = None) -> Tensor:
        """The recipe's, at the moment `now`; `worst` where the net bounds its logits' differences itself."""
        recipe = self.recipe
        if recipe.loss == "hinge":
            return losses.hinge(logits, labels, eps, recipe.mix, worst=worst)
        if recipe.loss == "cross-entropy":
            return losses.robust_cross_entropy(logits, labels, eps, recipe.kappa, worst=worst)
        weight = self.cross_entropy_weight(now)
        return losses.mixture(logits, labels, eps, weight, self.scale, clip=recipe.clip)

    def augment(self, images: Array, rng: np.random.Generator) -> Array:
        recipe = self.recipe
        if recipe.crop_padding or recipe.crop_size:
            size = recipe.crop_size or None
            images = random_crop(images, recipe.crop_padding, rng, mode=recipe.crop_mode, size=size)
        return random_flip(images, rng) if recipe.flip else images

    def order(self, now: float) -> float:
        """p of the distance layers."""
        recipe = self.recipe
        p = schedules.p_ramp(now, recipe.ramp_start, recipe.ramp_end, recipe.p_first, recipe.p_last)
        return schedules.cheap_order(p) if recipe.cheap_orders else p

    def eps(self, now: float) -> float:
        """ε_t, in net units."""
        recipe = self.recipe
        grown = schedules.ramp(now, recipe.eps_ramp_start, recipe.eps_ramp_end)
        return schedules.linear(grown, 0.0, recipe.eps_train) * self.model.layers[0].lipschitz()

    def cross_entropy_weight(self, now: float) -> float:
        """λ of the mixture loss."""
        recipe = self.recipe
        progress = schedules.ramp(now, recipe.ramp_start, recipe.ramp_end)
        return schedules.geometric(progress, recipe.lambda_first, recipe.lambda_last) if recipe.lambda_first else 0.0

    def held_out_figures(self, limit: int | None = None) -> dict[str, float]:
        """Clean and certified accuracy of the p = ∞ net on the held-out samples, whatever p training has reached.

        With `limit`, on the first so many of them.
        """
        pixels, labels = (each[:limit] for each in self.held_out)
        if not len(labels):
            return {}
        method = "interval" if self.recipe.head else "margin"  # a head's Lipschitz constant proves next to nothing
        proof = certify(self.hard_net(), pixels, labels, self.recipe.eps_test, method=method)
        return {
            "held_out_accuracy": float(proof.correct.mean()),
            "held_out_certified": float((proof.certified & proof.correct).mean()),
        }

    def hard_net(self) -> DistanceNet:
        """A copy of the net, at p = ∞."""
        net = deepcopy(self.model)
        net.p = math.inf
        return net

    def save_net(self, path: Path) -> None:
        """The net at p = ∞, as it is certified."""
        save_model(self.hard_net(), path, dataset=self.recipe.dataset, recipe=json.dumps(self.recipe.to_dict()))

    def save(self, path: Path) -> None:
        """The whole state between two epochs."""
        tensors = {f"model.{name}": array for name, array in self.model.state().items()}
        tensors |= {f"optimizer.{name}": array for name, array in self.optimizer.state().items()}
        tensors["loss.scale"] = self.scale.numpy()
        recipe = json.dumps(self.recipe.to_dict())
        state = {"epoch": str(self.epochs_done), "p": repr(self.model.p), "best": repr(self.best)}
        save_tensors(path, tensors, {"recipe": recipe, **state})

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.  Raises UserError when it is not whole or comes from another recipe."""
        tensors, metadata = load_tensors(path)
        try:
            ours, theirs = self.recipe.to_dict(), _recipe_of(metadata)
            changed = [key for key in ours if key not in NOTES and theirs[key] != ours[key]]
            if changed:
                key = changed[0]
                raise UserError(
                    f"{path}: this run was started with {key} = {theirs[key]!r}, not {ours[key]!r}; "
                    "resume it with the recipe, settings and budget it began with"
                )
            parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "loss": {}}
            for name, array in tensors.items():
                part, _, rest = name.partition(".")
                parts[part][rest] = array
            self.model.load_state(parts["model"])
            self.optimizer.load_state(parts["optimizer"])
            self.scale.data[...] = to_device(parts["loss"]["scale"], self.scale.device)
            self.model.p = float(metadata["p"])
            self.epochs_done, self.best = int(metadata["epoch"]), float(metadata["best"])
            if not 0 <= self.epochs_done <= self.recipe.epochs:
                raise ValueError(f"expected an epoch from 0 to {self.recipe.epochs}, got {self.epochs_done}")
            if not -1 <= self.best <= 1:
                raise ValueError(f"expected a best fraction certified of at most 1, got {self.best}")
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
    keep: int = 0,
    device: str = "cpu",
    observer: Observer | None = None,
) -> DistanceNet:
    """Train a net by a recipe; DIR = `out` gets model.safetensors, checkpoint.safetensors and metrics.jsonl.

    Where the recipe holds samples out, best.safetensors is the net after the epoch that certified most of them.  The
    last `keep` checkpoints before the newest stay as checkpoint-EPOCH.safetensors: copied over checkpoint.safetensors,
    one is resumed as well.

    On `device` "cuda" (or "auto", where there is one) the images, the net and the optimizer live on the GPU, and the
    net is returned there.  The files are the same: a run may be resumed on another device, with other last bits.

    Nothing that a run left behind is written over, unless it is asked for: with `resume` the run in DIR goes on where
    its last checkpoint left it; with `restart` a run of the very same recipe begins anew, its old files removed.  While
    it trains, DIR is locked: a second run in it is refused.

    `observer` is told of every step and epoch.  Without one, a progress bar is shown on standard error where that is a
    terminal, a line now and then in a notebook, and nothing elsewhere; `Observer()` shows nothing anywhere.

    Raises UserError when DIR holds another run, when there is nothing to resume, when training diverges, and when this
    process does not compute as IEEE 754 says; ImportError, with the reason, where there is no GPU to use.
    """
    if keep < 0:
        raise ValueError(f"keep must be a number of checkpoints from 0 on, got {keep}")
    device, out = resolve_device(device), Path(out)
    check_arithmetic()
    with folder_lock(out), np.errstate(all="ignore"):  # what overflows shows in the loss, and that stops the run
        check_folder(out, resume=resume, restart=recipe if restart else None)
        remove_temporaries(out, "checkpoint*.safetensors", MODEL, BEST, METRICS, EVENTS)
        run = Run(recipe, dataset, device)
        if resume:
            run.load(out / CHECKPOINT)
        check_writable(out / METRICS)  # before an epoch of work rather than after it
        begun = run.epochs_done
        if not begun:
            _begin(run, out)
        try:
            with watching(observer, recipe.epochs) as watcher:
                _train_epochs(run, out, keep, watcher)
        except (KeyboardInterrupt, Diverged):
            if not begun and not (out / METRICS).exists():  # no epoch is done: there is nothing to go on with
                (out / CHECKPOINT).unlink(missing_ok=True)
            raise
        run.save_net(out / MODEL)
    run.model.eval()
    return run.model


def check_folder(out: Path, *, resume: bool = False, restart: Recipe | None = None) -> None:
    """Raises UserError unless a run may begin in the folder, or go on there with `resume`.

    A run of the recipe `restart` may begin where one of the very same recipe is.
    """
    present = [name for name in (CHECKPOINT, MODEL, BEST, METRICS) if (out / name).exists()]
    if numbered := _numbered(out):
        present.append(numbered[max(numbered)].name)
    files = ", ".join(present)
    if resume and CHECKPOINT not in present:
        raise UserError(f"{out}: there is no run to resume, since it holds no {CHECKPOINT}")
    if resume or not present or (restart and recipe_in(out) == restart.to_dict()):
        return
    if restart:
        raise UserError(f"{out} already holds a training run of another recipe ({files}): choose another folder")
    if CHECKPOINT not in present:
        kept = f", or copy {present[-1]} to {CHECKPOINT} and go on from there (--resume)" if numbered else ""
        raise UserError(
            f"{out} already holds files of a training run ({files}), and no {CHECKPOINT} to go on from: "
            f"choose another folder{kept}"
        )
    raise UserError(
        f"{out} already holds a training run ({files}): go on with it (--resume, or resume=True) "
        "or choose another folder"
    )


def _begin(run: Run, out: Path) -> None:
    """The checkpoint of epoch 0, and nothing else of a run.

    In this order: wherever it is stopped, the folder can be resumed and holds no file that the checkpoint knows nothing
    of.  A model is removed first, since the old checkpoint makes it again.
    """
    (out / MODEL).unlink(missing_ok=True)
    run.save(out / CHECKPOINT)
    for file in (out / BEST, *_numbered(out).values(), out / METRICS):
        file.unlink(missing_ok=True)


def _train_epochs(run: Run, out: Path, keep: int, observer: Observer) -> None:
    """The epochs that are left.  The checkpoint is written last: what an epoch wrote before, it writes again."""
    recipe, lines = run.recipe, _metrics_up_to(out / METRICS, run.epochs_done)
    while run.epochs_done < recipe.epochs:
        check_arithmetic()
        try:
            figures = run.train_epoch(observer)
        except Diverged as error:
            kept = (
                f"{out / CHECKPOINT} holds epoch {run.epochs_done}, whole" if run.epochs_done else "no epoch was done"
            )
            raise Diverged(
                f"{error}; {kept}; try another folder with a smaller lr than {recipe.lr:g}, "
                f"or a smaller p_last than {recipe.p_last:g}"
            ) from error
        p = figures["p"] if math.isfinite(figures["p"]) else "inf"  # JSON has no infinity
        lines.append(json.dumps(figures | {"p": p}, allow_nan=False))
        write_file(out / METRICS, "".join(f"{line}\n" for line in lines).encode())
        if figures.get("held_out_certified", -1.0) > run.best:
            run.best = figures["held_out_certified"]
            run.save_net(out / BEST)
        _rotate(out, run.epochs_done - 1, keep)
        run.save(out / CHECKPOINT)
        observer.epoch(figures)


def _rotate(out: Path, epoch: int, keep: int) -> None:
    """Keep the checkpoint of this epoch under its number, and of those up to it the last `keep`."""
    if not keep:
        return
    if epoch and (out / CHECKPOINT).exists():
        write_file(out / f"checkpoint-{epoch:05}.safetensors", (out / CHECKPOINT).read_bytes())
    numbered = _numbered(out)
    for number in sorted(number for number in numbered if number <= epoch)[:-keep]:
        numbered[number].unlink()


def _numbered(out: Path) -> dict[int, Path]:
    """The checkpoints of earlier epochs in a folder."""
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


def _metrics_up_to(path: Path, epoch: int) -> list[str]:
    """The lines of the epochs that the checkpoint has seen: a run may have been stopped between line and checkpoint."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [line for line in lines if json.loads(line)["epoch"] <= epoch]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected a JSON object with its epoch in every line ({error})") from None
