"""The trainer: one epoch after the other of a plan, and its state between two of them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..backends import Array, backend_of, to_device
from ..certify import margins
from ..errors import UserError
from ..tensor import Tensor
from .metrics import MARGIN_EDGES
from .plan import Moment, Plan
from .progress import Observer


class Diverged(UserError):
    """Training has left the numbers that it can go on with."""


class Tally:
    """Sums over the samples of an epoch so far: losses, margins (n,) and room (n,) as `Trainer.step` returns them.

    With a `unit`, `counts` is the histogram of the margins in that unit.
    """

    def __init__(self, unit: float | None) -> None:
        self.unit, self.samples = unit, 0
        self.loss, self.correct, self.robust, self.margin = 0.0, 0, 0, 0.0
        self.counts = np.zeros(len(MARGIN_EDGES) - 1, np.int64)

    def add(self, loss: float, margin: Array, room: Array) -> None:
        self.samples += len(margin)
        self.loss += loss * len(margin)
        self.correct += int((margin > 0).sum())
        self.robust += int((room > 0).sum())
        self.margin += float(margin.sum())
        if self.unit:
            inside = np.clip(margin / self.unit, MARGIN_EDGES[0], MARGIN_EDGES[-1])
            self.counts += np.histogram(inside, MARGIN_EDGES)[0]

    def means(self) -> dict[str, float]:
        return {
            "loss": self.loss / self.samples,
            "accuracy": self.correct / self.samples,
            "margin": self.margin / self.samples,
        }


class Trainer:
    """Training between two epochs: the plan, how many epochs are done, and the largest held_out_certified so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.epochs_done = 0
        self.best = -1.0

    def train_epoch(self, observer: Observer) -> dict[str, Any]:
        """One pass over the training samples; returns the epoch's figures.

        Raises Diverged, with mini-batch and epoch, where a loss or, after the last mini-batch, a weight is not finite.
        """
        plan, epoch, start, steps = self.plan, self.epochs_done, time.perf_counter(), len(self.plan.batches)
        by_margin = plan.held_out.method == "margin"  # a net without a head
        tally = Tally(2 * plan.moment(plan.epochs).eps if by_margin else None)
        plan.net.train()
        for step, (inputs, labels) in enumerate(plan.batches.of(epoch)):
            now = plan.moment(epoch + step / steps)
            try:
                tally.add(*self.step(inputs, labels, now))
                if step + 1 == steps:
                    self.check_numbers()
            except Diverged as error:
                raise Diverged(f"training diverged in step {step + 1} of epoch {epoch + 1}: {error}") from error
            figures: dict[str, Any] = {"p": now.p, "lr": now.lr, **tally.means()}
            observer.step(epoch + 1, step + 1, steps, figures)
        self.epochs_done += 1
        figures |= {"epoch": self.epochs_done, "eps": now.eps, "beyond_2eps": tally.robust / tally.samples}
        if now.weight is not None:
            figures |= {"scale": plan.scale.item(), "lambda": now.weight}
        if by_margin:
            figures["margin_counts"] = tally.counts.tolist()
        figures |= plan.held_out.figures(plan.net)
        return figures | {"seconds": time.perf_counter() - start}

    def step(self, inputs: Array, labels: Array, now: Moment) -> tuple[float, Array, Array]:
        """One mini-batch: the loss, margins z_y − max z_j (n,), and room (n,) to 2ε.

        Room is −max_{j≠y} worst_j: what the margin has above 2ε, or by the bounds of a head. Raises Diverged where
        the loss is not finite.
        """
        net, optimizer = self.plan.net, self.plan.optimizer
        if self.plan.reset_at_switch and math.isinf(now.p) and not math.isinf(net.p):
            optimizer.reset()
        net.p, optimizer.lr = now.p, now.lr
        try:
            logits, worst = net.worst_case(Tensor(inputs), labels, now.eps)
            loss = self.plan.loss(logits, labels, now, worst)
        except ValueError as error:  # distances refuse what is not finite
            raise Diverged(str(error).rstrip(".")) from error
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(f"the loss is {value}")
        margin = margins(logits.numpy(), labels)  # a GPU has just been waited for; after the step it would be again
        room = margin - 2 * now.eps if worst is None else margins(worst.numpy(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return value, margin, room

    def check_numbers(self) -> None:
        """Raises Diverged where the last step has left weights that are not finite."""
        for name, parameter in self.plan.optimizer.parameters.items():
            if not bool(backend_of(parameter.data).xp.isfinite(parameter.data).all()):
                raise Diverged(f"{name} holds values that are not finite")

    def state(self) -> tuple[dict[str, Array], dict[str, str]]:
        """The whole state between two epochs: tensors, and the rest in words."""
        plan = self.plan
        tensors = {f"model.{name}": array for name, array in plan.net.state().items()}
        tensors |= {f"optimizer.{name}": array for name, array in plan.optimizer.state().items()}
        tensors["loss.scale"] = plan.scale.numpy()
        return tensors, {"epoch": str(self.epochs_done), "p": repr(plan.net.p), "best": repr(self.best)}

    def load_state(self, tensors: Mapping[str, Array], words: Mapping[str, str]) -> None:
        """Copy back what `state` gave. Raises KeyError, TypeError or ValueError for what it cannot have given."""
        plan = self.plan
        parts: dict[str, dict[str, Array]] = {"model": {}, "optimizer": {}, "loss": {}}
        for name, array in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = array
        plan.net.load_state(parts["model"])
        plan.optimizer.load_state(parts["optimizer"])
        plan.scale.data[...] = to_device(parts["loss"]["scale"], plan.scale.device)
        plan.net.p = float(words["p"])
        self.epochs_done, self.best = int(words["epoch"]), float(words["best"])
        if not 0 <= self.epochs_done <= plan.epochs:
            raise ValueError(f"expected an epoch from 0 to {plan.epochs}, got {self.epochs_done}")
        if not -1 <= self.best <= 1:
            raise ValueError(f"expected a best fraction certified of at most 1, got {self.best}")
