"""The first layers of a net: normalization, cropping, flattening."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..backends import Array, to_numpy
from ..ops.base import Result
from ..rounding import LARGEST, UNDERFLOW, UNIT_ROUNDOFF
from ..tensor import as_array
from .module import Input, Module
from .pointwise import Choice
from .registry import layer_kind


def _short(number: Any) -> float:
    """A float32 number as the shortest decimal that rounds to it."""
    return float(np.format_float_scientific(np.float32(number), unique=True))


@layer_kind(exact=True, checkable=True, exportable=True)
class Normalize(Module):
    """y_c = (x_c − mean_c)/std: from inputs (n, channels, ...) to net units. For pixels all channels share one std.

    With one std an ℓ∞ ball stays an ℓ∞ ball: ε in pixel units is ε/std in net units. Each column of a table may have
    its own std: then a ball whose scale (`Domain`) is std becomes an ℓ∞ ball. `mean` has one entry for each channel, or
    one for all. Raises ValueError for means that are not finite, and unless std is one positive number, or one for each
    channel.
    """

    def __init__(self, mean: tuple[float, ...], std: float | tuple[float, ...]) -> None:
        means = np.array(mean, np.float32).reshape(-1)
        if not (means.size and np.isfinite(means).all()):
            raise ValueError(f"Normalize: expected finite means, one a channel, got {mean}")
        self.mean = as_array(means)
        self.std = std

    @property
    def std(self) -> Any:
        return self._std

    @std.setter
    def std(self, value: Any) -> None:
        stds = np.asarray(value, np.float64).astype(np.float32)
        if stds.ndim > 1 or not (stds.size and ((0 < stds) & (stds < math.inf)).all()):
            raise ValueError(f"Normalize: expected one positive number for std, or one a channel, got {value}")
        self._std = tuple(stds) if stds.ndim else np.float32(stds)

    def __call__(self, x: Input) -> Result:
        channels = max(len(self.mean), np.size(self.std))
        if len(x.shape) < 2 or channels not in (1, x.shape[1]) or len(self.mean) not in (1, channels):
            raise ValueError(f"Normalize: expected inputs (n, {channels}, ...), got {tuple(x.shape)}")
        axes = len(x.shape) - 1
        shifted = ops.sub(x, self.mean.reshape(-1, *[1] * (axes - 1)))
        if isinstance(self.std, tuple):
            return ops.div(shifted, np.array(self.std).reshape(-1, *[1] * (axes - 1)))
        return ops.div(shifted, float(self.std))

    def lipschitz(self) -> float:
        return 1 / float(np.min(self.std))

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return self.within(1.0, magnitude)[1:]

    def within(self, scale: Any, magnitude: Any) -> tuple[float, float, float]:
        """(L, E, M) as `lipschitz` and `rounding`, where coordinate k moves by scale_k at most and |x_k| ≤ magnitude_k.

        Both are numbers, or arrays of the shape of one input.
        """
        mean, std = (self._beside(each, magnitude, scale) for each in (abs(to_numpy(self.mean)), self.std))
        shifted = magnitude + mean
        lipschitz, size = float(np.max(abs(scale / std))), float(np.max(abs(shifted / std)))
        if not np.max(shifted) <= LARGEST:
            return lipschitz, math.inf, math.inf
        error = 3 * UNIT_ROUNDOFF * size + UNDERFLOW
        return lipschitz, error, size + error

    @staticmethod
    def _beside(channels: Any, *others: Any) -> Array:
        """A float64 number for each channel, in a shape that broadcasts with arrays of the shape of one input."""
        return np.asarray(channels, np.float64).reshape(-1, *[1] * max(max(map(np.ndim, others)) - 1, 0))

    def config(self) -> dict[str, Any]:
        return {"layer": "Normalize"} | self.settings()

    def settings(self) -> dict[str, Any]:
        """Its mean and std as they are now, as plain numbers."""
        std = [_short(each) for each in self.std] if isinstance(self.std, tuple) else _short(self.std)
        return {"mean": [_short(mean) for mean in to_numpy(self.mean)], "std": std}


@layer_kind(exact=True, checkable=True, exportable=True)
class Flatten(Choice):
    """(n, ...) to (n, features)."""

    lipschitz = Choice.lipschitz

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 0.0, magnitude

    def __call__(self, x: Input) -> Result:
        return ops.reshape(x, (x.shape[0], math.prod(x.shape[1:])))


@layer_kind(exact=True, checkable=True, exportable=True)
class CenterCrop(Choice):
    """The middle size × size window of images (n, c, h, w), from row (h − size)//2 and column (w − size)//2 on."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"CenterCrop: size must be at least 1, got {size}")
        self.size = size

    lipschitz = Choice.lipschitz

    def rounding(self, magnitude: float) -> tuple[float, float]:
        return 0.0, magnitude

    def __call__(self, x: Input) -> Result:
        if len(x.shape) != 4 or min(x.shape[2:]) < self.size:
            raise ValueError(f"CenterCrop: expected images of at least {self.size} x {self.size}, got {x.shape}")
        top, left = ((size - self.size) // 2 for size in x.shape[2:])
        return ops.getitem(x, (..., slice(top, top + self.size), slice(left, left + self.size)))

    def config(self) -> dict[str, Any]:
        return {"layer": "CenterCrop", "size": self.size}
