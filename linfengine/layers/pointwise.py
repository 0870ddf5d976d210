"""Layers that act on each number separately: Negate, ReLU, Tanh, MeanShift."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..interval import Interval
from ..ops.base import Result
from ..rounding import UNDERFLOW, UNIT_ROUNDOFF
from ..tensor import Tensor, as_array
from .module import Input, Module, size_in
from .registry import layer_kind


class Choice(Module):
    """A 1-Lipschitz layer whose result never rounds, except that a GPU may turn denormals into 0."""

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return UNDERFLOW, magnitude + UNDERFLOW

    def config(self) -> dict[str, Any]:
        return {"layer": type(self).__name__}


@layer_kind(exact=True, checkable=True, exportable=True)
class Negate(Choice):
    """z = −y: the nearest class has the largest logit."""

    lipschitz, rounding = Choice.lipschitz, Choice.rounding

    def __call__(self, x: Input) -> Result:
        return ops.neg(x)


@layer_kind(exact=True, checkable=True, exportable=True)
class ReLU(Choice):
    """y = max(x, 0)."""

    lipschitz, rounding = Choice.lipschitz, Choice.rounding

    def __call__(self, x: Input) -> Result:
        return ops.relu(x)


@layer_kind(exportable=True)
class Tanh(Module):
    """y = tanh(x)."""

    def __call__(self, x: Input) -> Result:
        return ops.tanh(x)

    def ball(self, centre: Tensor, radius: Tensor | float, value: Tensor) -> tuple[Tensor, Tensor]:
        """Centre and radius of the interval from tanh(c − r) to tanh(c + r): see `Module.ball`."""
        low, high = ops.tanh(centre - radius), ops.tanh(centre + radius)
        return (high + low) / 2, (high - low) / 2

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 8 * UNIT_ROUNDOFF, 1.0 + 8 * UNIT_ROUNDOFF  # NumPy's vector code stays within 4 units in the last place

    def config(self) -> dict[str, Any]:
        return {"layer": "Tanh"}


@layer_kind(exact=True, checkable=True, exportable=True)
class MeanShift(Module):
    """y = x − mean_c: the batch mean of each channel in training, the running mean in evaluation.

    x (n, c) or (n, c, h, w). running ← (1 − momentum)·running + momentum·batch mean. There is no division: a
    scale would change the Lipschitz constant. Gradients flow through the batch mean.
    """

    buffer_names = ("running_mean",)

    def __init__(self, channels: int, *, momentum: float = 0.1) -> None:
        if channels < 1 or not 0 <= momentum <= 1:
            raise ValueError(
                f"MeanShift: expected at least 1 channel and a momentum in [0, 1], got {channels} and {momentum}"
            )
        self.running_mean = as_array(np.zeros(channels, np.float32))
        self.momentum = momentum

    def __call__(self, x: Input) -> Result:
        shape: tuple[int, ...] = x.shape
        if len(shape) < 2 or shape[1] != len(self.running_mean):
            raise ValueError(f"MeanShift: expected (n, {len(self.running_mean)}, ...), got {shape}")
        channels = (-1, *[1] * (len(shape) - 2))
        if not self.training:
            return ops.sub(x, self.running_mean.reshape(channels))
        if isinstance(x, Interval):
            raise ValueError("MeanShift: a batch mean has no bounds, call eval() on the net first")
        mean = ops.mean(x, axis=(0, *range(2, len(shape))))
        with np.errstate(under="ignore"):
            self.running_mean *= np.float32(1 - self.momentum)
            self.running_mean += np.float32(self.momentum) * mean.data
        return ops.sub(x, ops.reshape(mean, channels))

    def lipschitz(self) -> float:
        return 1.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        size = magnitude + float(abs(self.running_mean).max())
        error = UNIT_ROUNDOFF * size + UNDERFLOW
        return error, size + error

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        return size_in(config, "channels")

    def config(self) -> dict[str, Any]:
        return {"layer": "MeanShift", "channels": len(self.running_mean), "momentum": self.momentum}
