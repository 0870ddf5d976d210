"""From a trained net to an exact one: its numbers rounded to a grid.

A distance layer commutes with shifts and scaling: ‖(a·x + c) − (a·w + c)‖∞ = a·‖x − w‖∞. So a trained net can be
rewritten for inputs s times as large (s = 255 from pixels to gray levels, s = 1 for other inputs):

    x → s·x,   mean → s·mean,   std → 1,   every weight, running mean and bias → s·std times itself,

each rounded to a multiple of 2^-f, f being the `fraction_bits`. The rounded net is a model of its own, and its logits
are the same integers over 2^f on every machine. Derivation: docs/exact.md.
"""

from __future__ import annotations

import math

import numpy as np

from ..backends import Array, to_numpy
from ..domain import MOST_FRACTION_BITS, Domain, check_fraction_bits, domain_of
from ..errors import UserError
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
from .net import ExactNet

DEFAULT_FRACTION_BITS = 8  # of a gray level; other inputs get MOST_FRACTION_BITS


def quantize(net: Module, fraction_bits: int | None = None) -> ExactNet:
    """The exact net next to a trained one, its numbers rounded to multiples of 2^-fraction_bits.

    For images the unit is a gray level, with 8 bits by default. Other inputs keep their unit, with 15 bits by default.
    A shift, or its rounding error, is added to the next weights before these are rounded, since |(x + r) − (w + r)| is
    |x − w|. In a net of d dense layers no logit changes by more than (d + 1)/2 multiples. The exact net is made where
    new Tensors are: on the CPU unless another backend is current.

    Raises UserError for a net that is not Normalize followed by ℓ∞-dist layers at p = ∞, that is exact already, that
    holds NaN or infinity, whose values might exceed what float32 holds exactly, or whose domain cannot have a grid
    (`Domain.refined`).
    """
    domain = domain_of(net)
    if fraction_bits is None:
        fraction_bits = DEFAULT_FRACTION_BITS if domain.white else MOST_FRACTION_BITS
    bits = check_fraction_bits(fraction_bits)
    layers = _layers_of(net)
    rewriting = _Rewriting(domain, domain.refined(bits), layers)
    for i, layer in enumerate(layers):
        rewriting.take(i, layer)
    return rewriting.net()


def _layers_of(net: Module) -> tuple[Module, ...]:
    """The layers of a net that can be made exact. Raises UserError for another net."""
    if isinstance(net, ExactNet):
        raise UserError(
            f"the net is exact already, with {net.fraction_bits} fraction bits: quantize the one it came from"
        )
    if type(net).__call__ is not Sequential.__call__ and isinstance(net, Sequential):
        raise UserError(
            f"a {type(net).__name__} has a __call__ of its own, and only layers one after the other can be exact"
        )
    if not (isinstance(net, Sequential) and net.layers and isinstance(first := net.layers[0], Normalize)):
        raise UserError("only a net that begins with Normalize can be made exact: it says what a gray level is")
    if isinstance(first.std, tuple):
        raise UserError("only a net with one std for all its inputs can be made exact: each column has its own here")
    if not math.isinf(net.p):
        raise UserError(f"the net is at p = {net.p:g}, and only the p = ∞ net can be made exact: finish its training")
    for name, array in net.state().items():
        if not np.isfinite(to_numpy(array)).all():
            raise UserError(f"the net cannot be made exact: {name} holds values that are not finite")
    return net.layers


class _Rewriting:
    """Collects the layers of an exact net. `excess`: offset of the rounded net from the original, per feature."""

    def __init__(self, source: Domain, domain: Domain, layers: tuple[Module, ...]) -> None:
        first = layers[0]
        assert isinstance(first, Normalize)
        assert not isinstance(first.std, tuple)
        assert domain.fraction_bits is not None
        self.source, self.domain, self.following = source, domain, layers
        self.bits = domain.fraction_bits
        self.scale = source.levels * float(first.std)
        self.excess: Array = np.zeros(1)
        self.layers: list[Module] = []
        self.state: dict[str, Array] = {}
        self.flat = len(source.shape or ()) == 1  # a dense layer takes the last axis: all features only when flat

    def rounded(self, numbers: Array) -> Array:
        return np.ldexp(np.rint(np.ldexp(numbers, self.bits)), -self.bits)

    def take(self, i: int, layer: Module) -> None:
        """Add the exact form of layer i. Raises UserError for a layer that has none."""
        if not kind_of(layer).exact:
            raise UserError(f"the net cannot be made exact: its {type(layer).__name__} layer {i} may round")
        absorbed = _absorbs_a_shift(self.following[i + 1 :])
        match layer:
            case Normalize() if i == 0:
                self.excess = self.source.levels * to_numpy(layer.mean).astype(np.float64)
                if not absorbed:
                    mean = self.rounded(self.excess)
                    self.excess = self.excess - mean
                    self.layers.append(Normalize(tuple(mean.tolist()), 1.0))
            case Normalize():
                raise UserError(f"the net cannot be made exact: its layer {i} normalizes a second time")
            case MeanShift():
                shift = to_numpy(layer.running_mean).astype(np.float64) * self.scale
                self.excess = _spread(self.excess, len(shift)) + shift
                if not absorbed:
                    running_mean = self.rounded(self.excess)
                    self.state[f"{len(self.layers)}.running_mean"] = running_mean
                    self.excess = self.excess - running_mean
                    self.layers.append(MeanShift(len(running_mean)))
            case LinfDistDense() if not self.flat:
                raise UserError(f"the net cannot be made exact: its layer {i} is dense and no Flatten stands before it")
            case DistanceLayer():
                self.distance(layer)
            case _:
                self.layers.append(type(layer)(**{key: v for key, v in layer.config().items() if key != "layer"}))
                self.flat |= isinstance(layer, Flatten)
                if isinstance(layer, Negate):
                    self.excess = -self.excess
                if isinstance(layer, ReLU):
                    self.excess = np.zeros(1)  # the zero of a ReLU is exact: no offset is carried on

    def distance(self, layer: DistanceLayer) -> None:
        place = len(self.layers)
        self.layers.append(type(layer)(**{key: value for key, value in layer.config().items() if key != "layer"}))
        w = layer.weight.numpy().astype(np.float64) * self.scale
        self.state[f"{place}.weight"] = self.rounded(w + _beside(self.excess, w, layer.groups))
        self.excess = np.zeros(1)
        if layer.bias is not None:
            bias = layer.bias.numpy().astype(np.float64) * self.scale
            self.state[f"{place}.bias"] = self.rounded(bias)
            self.excess = self.state[f"{place}.bias"] - bias

    def net(self) -> ExactNet:
        result = ExactNet(*self.layers, domain=self.domain)
        with np.errstate(over="ignore"):  # load_state refuses what is too large
            result.load_state({name: array.astype(np.float32) for name, array in self.state.items()})
        return result


def _absorbs_a_shift(layers: tuple[Module, ...]) -> bool:
    """Whether a shift of the input of these layers can be added to the next weights instead.

    Not if a padding or a ReLU comes before them: their zero must not move.
    """
    following = next((layer for layer in layers if not isinstance(layer, Flatten | CenterCrop)), None)
    return isinstance(following, LinfDistDense) or (isinstance(following, LinfDistConv2d) and following.padding == 0)


def _beside(excess: Array, w: Array, groups: int) -> Array:
    """The excess of each input of w (o, k), as an array (o, k)."""
    outputs, k = w.shape
    inputs = _spread(excess, groups * k)
    return np.repeat(inputs.reshape(groups, k), outputs // groups, axis=0)


def _spread(channels: Array, count: int) -> Array:
    """A number for each of `count` features: that of its channel."""
    if count % len(channels):
        raise UserError(f"the net cannot be made exact: {len(channels)} channels do not make {count} features")
    return np.repeat(channels, count // len(channels))
