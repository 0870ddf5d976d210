"""An exact net on bytes alone: what a net of dense layers with whole numbers becomes."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import numpy as np

from ..backends import Array, backend_of
from ..layers import Flatten, LinfDistDense, MeanShift, Module, Negate, Normalize
from ..units import WHITE


def is_constant(array: Any) -> bool:
    """Whether an array lies in a `bytes` object, which is read-only: `ExactNet` keeps its numbers so."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, bytes)


class Part(NamedTuple):
    """One layer for the byte net: class, (groups, std), and (mean, weight, bias, running mean)."""

    kind: type[Module]
    settings: tuple[Any, ...]
    arrays: tuple[Array | None, ...]

    @classmethod
    def of(cls, layer: Module) -> Part:
        weight, bias = (
            None if each is None else each.data for each in (getattr(layer, name, None) for name in ("weight", "bias"))
        )
        means = getattr(layer, "mean", None), getattr(layer, "running_mean", None)
        settings = getattr(layer, "groups", None), getattr(layer, "std", None)
        return cls(type(layer), settings, (means[0], weight, bias, means[1]))

    def same(self, other: Part) -> bool:
        return self[:2] == other[:2] and all(map(operator.is_, self.arrays, other.arrays))


class Made(NamedTuple):
    """A byte net, with the image shape and the parts (in read-only memory) that it was made of."""

    shape: tuple[int, ...]
    parts: list[Part]
    net: ByteNet | None


class ByteNet:
    """An exact net of dense layers with fraction_bits 0, on bytes alone.

    The pixels span 255 gray levels and every neuron is 1-Lipschitz, so its values span at most 255 levels, too. Each
    value is a least value low, which depends on the weights alone, plus a byte b. With x = low + b and v = w − low,

        max_k |b_k − v_k| = least + max_k max(b_k − above_k, below_k − b_k, 0)
        least = max_k max(−v_k, v_k − 255, 0),   above = min(v + least, 255),   below = max(v − least, 0),

    where clipping `above` and `below` does not change the result, since 0 ≤ b ≤ 255, least ≥ −v and least ≥ v − 255.
    """

    def __init__(self, steps: list[tuple[Array, Array, int]], low: Array, sign: int) -> None:
        self.steps, self.low, self.sign = steps, low, sign

    @classmethod
    def of(cls, parts: list[Part], shape: tuple[int, ...]) -> ByteNet | None:
        """The byte net of these layers, or None if there is none.

        There is one if all numbers are whole, and the layers are Normalize, Flatten, LinfDistDense, MeanShift, and
        Negate at the end.
        """
        if not all((array == np.rint(array)).all() for part in parts for array in part.arrays if array is not None):
            return None
        low: Array = np.zeros(shape, np.int64)
        steps: list[tuple[Array, Array, int]] = []
        for i, (kind, (groups, std), (mean, weight, bias, running_mean)) in enumerate(parts):
            if kind is Normalize and mean is not None and std == 1:
                low = low - mean.astype(np.int64).reshape(-1, *[1] * (low.ndim - 1))
            elif kind is Flatten:
                low = low.reshape(-1)
            elif kind is LinfDistDense and weight is not None and low.ndim == 1:
                w = weight.astype(np.int64)
                v = w - np.repeat(low.reshape(groups, -1), len(w) // groups, axis=0)
                least = np.maximum(-v, v - WHITE).max(axis=1).clip(0)
                above, below = (v + least[:, None]).clip(None, WHITE), (v - least[:, None]).clip(0)
                steps.append((above.astype(np.uint8), below.astype(np.uint8), groups))
                low = least if bias is None else least + bias.astype(np.int64)
            elif kind is MeanShift and running_mean is not None and low.ndim == 1:
                low = low - running_mean.astype(np.int64)
            elif not (kind is Negate and i == len(parts) - 1):
                return None
        sign = -1 if parts and parts[-1].kind is Negate else 1
        return cls(steps, low, sign) if steps else None

    def __call__(self, x: Array) -> Array:
        x = np.ascontiguousarray(x.reshape(len(x), -1))
        for above, below, groups in self.steps:
            x = backend_of(x).dead_zone(x, above, below, groups)
        return (self.sign * (x + self.low)).astype(np.float32)
