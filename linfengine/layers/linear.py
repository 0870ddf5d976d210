"""Dense: the linear layer of an MLP on top of distance layers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .. import ops
from ..backends import Array, to_numpy
from ..interval import Interval, ends
from ..ops.base import Result
from ..rounding import LARGEST, UNDERFLOW, UNIT_ROUNDOFF, gamma
from ..tensor import Tensor
from .module import Input, Module, size_in
from .registry import layer_kind


@layer_kind(exportable=True)
class Dense(Module):
    """y = x·Wᵀ/√fan_in + bias; x (n, in_features), W (out_features, in_features) ~ N(0, 1), bias 0.

    ℓ∞ Lipschitz constant: the largest absolute row sum of W/√fan_in.
    """

    def __init__(self, in_features: int, out_features: int, *, seed: Any = None) -> None:
        if in_features < 1 or out_features < 1:
            raise ValueError(f"Dense: sizes must be at least 1, got {in_features} and {out_features}")
        weight = np.random.default_rng(seed).standard_normal((out_features, in_features), np.float32)
        self.weight = Tensor(weight, requires_grad=True)
        self.bias = Tensor(np.zeros(out_features, np.float32), requires_grad=True)

    @property
    def matrix(self) -> Tensor:
        """W/√fan_in (out_features, in_features), rounded as the program rounds it."""
        return self.weight / math.sqrt(self.weight.shape[1])

    def __call__(self, x: Input) -> Result:
        return ops.matmul(x, self.matrix.T) + self.bias

    def ball(self, centre: Tensor, radius: Tensor | float, value: Tensor) -> tuple[Tensor, Tensor]:
        """c·Wᵀ + b  and  r·|W|ᵀ, W standing for W/√fan_in: see `Module.ball`."""
        size = ops.abs(self.matrix)
        if isinstance(radius, float):
            return value, ops.reshape(ops.sum(size, axis=1) * radius, (1, -1))
        return value, ops.matmul(radius, size.T)

    def worst_differences(self, centre: Tensor, radius: Tensor, labels: Array) -> Tensor:
        """The largest y_j − y_label (n, out_features) over the inputs centre ∓ radius, 0 at the label.

            c·(W_j − W_label) + b_j − b_label + r·|W_j − W_label|,   W standing for W/√fan_in

        The differences are bounded, since two outputs may attain their separate bounds at different inputs. The samples
        of one label share the rows W_j − W_label and are multiplied together. For training: with gradients, and not
        rounded outward. Source: Zhang et al., ICML 2021 (arXiv 2102.05363), section 4.
        """
        matrix, y = self.matrix, self(centre)
        order = np.argsort(labels, kind="stable")
        own, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
        by_label = radius[order]
        reach = [
            ops.matmul(by_label[start : start + count], ops.abs(matrix - matrix[label]).T)
            for label, start, count in zip(own.tolist(), first.tolist(), counts.tolist(), strict=True)
        ]
        true = ops.reshape(y[np.arange(len(labels)), labels], (-1, 1))
        return y - true + ops.concatenate(reach)[np.argsort(order)]

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """A lower bound (n,) on y_label − max_{j≠label} y_j, as the program computes the y, over the points of x.

        The differences are bounded as in `worst_differences`, in float64. A bound on the rounding of the program's two
        outputs, (n + 4)-term sums in any order (`rounding.sum_slack`), is subtracted. −∞ if an output might overflow.
        """
        lower, upper = (to_numpy(end).astype(np.float64) for end in ends(x))
        matrix, bias = self.matrix.numpy().astype(np.float64), self.bias.numpy().astype(np.float64)
        size = np.maximum(abs(lower), abs(upper))
        terms = matrix.shape[1] + 4
        slack = gamma(terms) * (1 + 2.0**-10)  # and for float64's own rounding
        magnitude = size @ abs(matrix).T + abs(bias)
        error = slack * magnitude + terms * (1 + size.max(axis=1, keepdims=True)) * UNDERFLOW
        worst = np.full(len(lower), -np.inf)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            others = np.arange(len(matrix)) != label
            difference = matrix[label] - matrix[others]
            least = (lower[rows] + upper[rows]) @ difference.T - (upper[rows] - lower[rows]) @ abs(difference).T
            errors = error[rows][:, others] + error[rows, label][:, None]
            worst[rows] = (least / 2 + (bias[label] - bias[others]) - errors).min(axis=1)
        return np.where(magnitude.max(axis=1) * (1 + slack) < LARGEST, worst, -np.inf)

    def _row_sum(self) -> float:
        return float(abs(self.weight.data.astype(np.float64)).sum(axis=1).max()) / math.sqrt(self.weight.shape[1])

    def lipschitz(self) -> float:
        return self._row_sum() * (1 + 4 * UNIT_ROUNDOFF)  # the program divides W by √fan_in in float32

    def rounding(self, magnitude: float) -> tuple[float, float]:
        n = self.weight.shape[1] + 4  # the sum, the division of W, and the bias, in any order
        size = magnitude * self.lipschitz() + float(abs(self.bias.data).max())
        error = gamma(n) * size + n * (1 + magnitude) * UNDERFLOW
        return error, size + error

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        return size_in(config, "in_features") * size_in(config, "out_features")

    def config(self) -> dict[str, Any]:
        return {"layer": "Dense", "in_features": self.weight.shape[1], "out_features": self.weight.shape[0]}
