"""Distance layers: neurons whose output is the ℓp or ℓ∞ distance of their input from their weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..backends import Array
from ..ops.base import Result
from ..rounding import UNDERFLOW, UNIT_ROUNDOFF
from ..tensor import Tensor
from .mode import evaluation_order
from .module import Input, Module, size_in
from .registry import layer_kind


def _largest(array: Array) -> float:
    """max |a|, without a copy of the array."""
    return max(float(array.max()), -float(array.min()))


class DistanceLayer(Module):
    """The common part of the distance layers: weight (o, k), bias (o) or None, groups, and p."""

    weight: Tensor
    bias: Tensor | None
    groups: int

    def __init__(
        self, outputs: int, fan_in: int, groups: int, bias: bool, identity: bool, seed: Any, passed: slice = slice(None)
    ) -> None:
        if outputs < 1 or fan_in < 1:
            raise ValueError(
                f"{type(self).__name__}: sizes must be at least 1, got {outputs} outputs of {fan_in} inputs"
            )
        if groups < 1 or outputs % groups:
            raise ValueError(f"{type(self).__name__}: {outputs} outputs cannot be divided into {groups} groups")
        weight = np.random.default_rng(seed).standard_normal((outputs, fan_in), np.float32)
        columns = np.arange(fan_in)[passed]  # the inputs that an identity start passes on
        if identity and outputs // groups >= len(columns):
            rows = np.arange(outputs)
            weight[rows, columns[rows % (outputs // groups) % len(columns)]] = -10
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(outputs, np.float32), requires_grad=True) if bias else None
        self.groups = groups
        self._p = math.inf

    @property
    def p(self) -> float:
        """The order used in training, ≥ 1 or ∞; evaluation is at ∞, or at the order of an `evaluation` block."""
        return self._p

    @p.setter
    def p(self, value: float) -> None:
        if not value >= 1:
            raise ValueError(f"p must be at least 1 (or ∞), got {value}")
        self._p = float(value)

    def distance(self, x: Input) -> Result:
        order = evaluation_order()
        if order is None:
            order = self.p if self._training else math.inf
        y = ops.lp_dist(x, self.weight, p=order, groups=self.groups)
        return y if self.bias is None else y + self.bias

    def lipschitz(self) -> float:
        return 1.0

    def _decay_order(self, leaf: str) -> float:
        return self.p if leaf == "weight" else 2.0

    def rounding(self, magnitude: float) -> tuple[float, float]:
        size = magnitude + _largest(self.weight.data)
        error = UNIT_ROUNDOFF * size
        if self.bias is not None:
            size += float(abs(self.bias.data).max())
            error += UNIT_ROUNDOFF * size * (1 + UNIT_ROUNDOFF) + UNDERFLOW
        return error, size + error


@layer_kind(exact=True, checkable=True, prunable=True, exportable=True)
class LinfDistDense(DistanceLayer):
    """y[n, o] = max_k |x[n, k] − w[o, k]| (+ bias[o]); x (n, in_features), y (n, out_features).

    In training the maximum is the ℓp norm of the layer's p. Weights start as N(0, 1). With `identity`, and if
    out_features ≥ in_features, w[o, o mod k] = −10: at the start a neuron passes one coordinate on. `groups` splits
    inputs and outputs into that many independent layers. `seed` is anything that numpy.random.default_rng takes.

    1-Lipschitz in ℓ∞ at p = ∞. Raises ValueError for sizes below 1 and for groups that do not divide them.

    Source: Zhang et al., ICML 2021 (arXiv 2102.05363), sections 3 and 5.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = False,
        groups: int = 1,
        identity: bool = True,
        seed: Any = None,
    ) -> None:
        if groups < 1 or in_features % groups:
            raise ValueError(f"LinfDistDense: {in_features} inputs cannot be divided into {groups} groups")
        super().__init__(out_features, in_features // groups, groups, bias, identity, seed)

    lipschitz, rounding = DistanceLayer.lipschitz, DistanceLayer.rounding

    def __call__(self, x: Input) -> Result:
        return self.distance(x)

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        groups = max(size_in(config, "groups", 1), 1)
        return size_in(config, "in_features") // groups * size_in(config, "out_features")

    def config(self) -> dict[str, Any]:
        outputs, k = self.weight.shape
        return {
            "layer": "LinfDistDense",
            "in_features": k * self.groups,
            "out_features": outputs,
            "bias": self.bias is not None,
            "groups": self.groups,
        }


@layer_kind(exact=True, checkable=True, prunable=True, exportable=True)
class LinfDistConv2d(DistanceLayer):
    """The distance neuron on every patch: y[n, o, i, j] = max over the patch at (i, j) of |x − w[o]| (+ bias[o]).

    x (n, in_channels, h, w), y (n, out_channels, h', w') with h' = (h + 2·padding − kernel)//stride + 1. The padding
    is zero. `groups`, `seed`, p and errors are as in LinfDistDense, with a patch in place of a row. With `identity`,
    and if out_channels ≥ in_channels, neuron o at the start passes on the middle of the patch in channel
    o mod in_channels.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = False,
        groups: int = 1,
        identity: bool = True,
        seed: Any = None,
    ) -> None:
        if groups < 1 or in_channels % groups:
            raise ValueError(f"LinfDistConv2d: {in_channels} channels cannot be divided into {groups} groups")
        if kernel_size < 1 or stride < 1 or padding < 0:
            raise ValueError(
                "LinfDistConv2d: kernel_size and stride must be at least 1 and padding at least 0, "
                f"got {kernel_size}, {stride} and {padding}"
            )
        taps = kernel_size**2
        middle = slice(taps // 2, None, taps)  # of every channel's patch
        super().__init__(out_channels, in_channels // groups * taps, groups, bias, identity, seed, middle)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    lipschitz, rounding = DistanceLayer.lipschitz, DistanceLayer.rounding

    def __call__(self, x: Input) -> Result:
        patches = ops.unfold(x, self.kernel_size, stride=self.stride, padding=self.padding)
        y = ops.transpose(self.distance(patches), (0, 2, 1))  # (n, o, positions)
        height, width = ((size + 2 * self.padding - self.kernel_size) // self.stride + 1 for size in x.shape[2:])
        return ops.reshape(y, (y.shape[0], y.shape[1], height, width))

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        patch = (
            size_in(config, "in_channels") // max(size_in(config, "groups", 1), 1) * size_in(config, "kernel_size") ** 2
        )
        return patch * size_in(config, "out_channels")

    def config(self) -> dict[str, Any]:
        outputs, k = self.weight.shape
        return {
            "layer": "LinfDistConv2d",
            "in_channels": k // self.kernel_size**2 * self.groups,
            "out_channels": outputs,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "bias": self.bias is not None,
            "groups": self.groups,
        }
