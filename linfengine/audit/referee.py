"""Exact evaluation of a net in unlimited integers, slow and simple, to compare certificates with."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import numpy as np

from ..backends import Array, to_numpy
from ..exact import ExactNet
from ..layers import (
    CenterCrop,
    DistanceLayer,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    kind_of,
)
from .subject import EVALUATION, Section, Subject

GRAIN = 149  # every float32 number is a multiple of 2^-149


def exact_evaluation(subject: Subject, effort: int) -> Section:
    """Compare the certificates of the samples with the smallest margins with exact integer arithmetic."""
    try:
        if isinstance(subject.domain.scale, tuple):
            raise ValueError("only inputs with one scale are evaluated exactly")
        referee = Referee(subject.model)
    except ValueError as reason:
        return Section(EVALUATION, True, f"not tried: {reason}", {})
    chosen = subject.smallest(8 * effort)
    errors, false = [], []
    certificate = subject.certificate
    for i in chosen.tolist():
        z = referee.logits(subject.x[i])
        computed = [Fraction(float(each)) for each in certificate.logits[i]]
        errors.append(float(max(abs(a - b) for a, b in zip(z, computed, strict=True))))
        y = int(subject.labels[i])
        lead = z[y] - max(each for j, each in enumerate(z) if j != y)
        by_margin = certificate.margin[i] > certificate.threshold
        if by_margin and not lead > 2 * referee.lipschitz * certificate.eps * Fraction(subject.domain.scale):
            false.append(i)
    worst = max(errors, default=0.0)
    margins_tried = "the smallest margin" if len(chosen) == 1 else f"the {len(chosen)} smallest margins"
    text = (
        f"{margins_tried} evaluated in unlimited integers: logits off by at most {worst:.3g} "
        f"(proved {subject.error:.3g}), {len(false)} certificates refuted"
    )
    figures = {"samples": chosen.tolist(), "errors": errors, "proved": subject.error, "refuted": false}
    return Section(EVALUATION, worst <= subject.error and not false, text, figures)


def _layers_of(model: Module) -> tuple[Module, ...]:
    """The layers of a net that can be evaluated exactly. Raises ValueError for another."""
    if not isinstance(model, Sequential) or type(model) not in (Sequential, ExactNet):
        raise ValueError("only layers one after the other are evaluated exactly")
    for layer in model.layers:
        if not kind_of(layer).exact:
            raise ValueError(f"there is no exact rule for a {type(layer).__name__} layer")
    later = any(isinstance(layer, Normalize) for layer in model.layers[1:])
    if later or any(isinstance(layer, Normalize) and isinstance(layer.std, tuple) for layer in model.layers):
        raise ValueError("only a net with one Normalize, at its beginning, and one std is evaluated exactly")
    return model.layers


def _integers(array: Array) -> Array:
    """float32 numbers as whole multiples of 2^-149: an array of Python integers."""
    ratios = (float(number).as_integer_ratio() for number in to_numpy(array).reshape(-1))
    return np.array([(above << GRAIN) // below for above, below in ratios], object).reshape(array.shape)


class Referee:
    """Exact logits of the real-valued net, in unlimited integers.

    Instead of dividing by std, everything after the division is multiplied by std, and so are the logits:

        std·max_k |x_k/std − w_k| = max_k |x_k − std·w_k|

    Inputs are multiples of 2^-149 and so is std, so everything is an integer over 2^298. Raises ValueError for a net
    with layers that have no exact rule.
    """

    def __init__(self, model: Module) -> None:
        layers = _layers_of(model)
        first = layers[0] if layers else None
        std = float(first.std) if isinstance(first, Normalize) else 1.0
        self.lipschitz = 1 / Fraction(std)
        self.std = int(Fraction(std) * 2**GRAIN)
        self.layers = [(layer, self._arrays(layer)) for layer in layers]

    def _arrays(self, layer: Module) -> dict[str, Any]:
        """The layer's arrays as integers over 2^298, those after the division multiplied by std."""
        if isinstance(layer, Normalize):
            return {"mean": _integers(layer.mean) << GRAIN}
        arrays = {name: _integers(array) * self.std for name, array in layer.state().items()}
        if isinstance(layer, DistanceLayer):
            arrays["rows"] = arrays["weight"].tolist()
        return arrays

    def logits(self, x: Array) -> list[Fraction]:
        """The logits of one input, as the net takes it."""
        values = _integers(x.astype(np.float32)) << GRAIN
        for layer, arrays in self.layers:
            values = self._through(layer, arrays, values)
        return [Fraction(z, self.std << GRAIN) for z in values.tolist()]

    def _through(self, layer: Module, arrays: dict[str, Any], x: Array) -> Array:
        along = (-1, *[1] * (x.ndim - 1))
        match layer:
            case Normalize():
                return np.asarray(x - arrays["mean"].reshape(along))
            case MeanShift():
                return np.asarray(x - arrays["running_mean"].reshape(along))
            case CenterCrop():
                top, left = ((side - layer.size) // 2 for side in x.shape[1:])
                return x[:, top : top + layer.size, left : left + layer.size]
            case Flatten():
                return x.reshape(-1)
            case Negate():
                return -x
            case ReLU():
                return np.maximum(x, 0)
            case LinfDistDense():
                return np.array(_neurons(layer.groups, arrays, x.tolist()), object)
            case LinfDistConv2d():
                k, pad, stride = layer.kernel_size, layer.padding, layer.stride
                padded = np.zeros((len(x), *(side + 2 * pad for side in x.shape[1:])), object)
                padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]] = x
                rows, columns = (range(0, side - k + 1, stride) for side in padded.shape[1:])
                places = [padded[:, i : i + k, j : j + k].reshape(-1).tolist() for i in rows for j in columns]
                results = [_neurons(layer.groups, arrays, place) for place in places]
                return np.array(results, object).T.reshape(-1, len(rows), len(columns))
        raise AssertionError(f"no rule for {type(layer).__name__}")


def _neurons(groups: int, arrays: dict[str, Any], x: list[int]) -> list[int]:
    """max_k |x_k − w_k| + b of every output."""
    rows, bias = arrays["rows"], arrays.get("bias")
    k, outputs = len(rows[0]), len(rows) // groups
    found = []
    for o, row in enumerate(rows):
        begin = o // outputs * k
        value = max(map(abs, map(operator.sub, x[begin : begin + k], row)))
        found.append(value if bias is None else value + bias[o])
    return found
