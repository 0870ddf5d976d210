"""Exact nets: ℓ∞-dist nets that float32 evaluates without any rounding, from the pixel to the verdict.

Subtracting, taking absolute values and maxima, and adding never lead out of the multiples of 2^-f, and float32 holds
all of them below 2^(24−f).  A layer moves with its input and scales with it, ‖(a·x + c) − (a·w + c)‖∞ = a·‖x − w‖∞, so
a trained net can be rewritten for pixels 0..255, in gray levels:

    x → 255·x,   mean → 255·mean,   std → 1,   every weight, running mean and bias → 255·std times itself,

each rounded to a multiple of 2^-f gray levels, f being its `fraction_bits`.  The rounded net is a model of its own, and
its logits are the same integers over 2^f on every machine.  Derivation: docs/exact.md.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np

from .backends import Array, backend_of, to_numpy
from .domain import WHITE, Domain
from .errors import UserError
from .layers import (
    LAYERS,
    CenterCrop,
    Flatten,
    Input,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
)
from .ops.base import Result
from .tensor import Tensor

SIGNIFICAND = 24  # bits: float32 holds every integer up to 2^24
MOST_FRACTION_BITS = 15  # 510 gray levels, the ends of the largest box, must fit in
DEFAULT_FRACTION_BITS = 8
EXACT_LAYERS = (Normalize, CenterCrop, Flatten, LinfDistDense, LinfDistConv2d, MeanShift, ReLU, Negate)


def rounds_nothing(layer: Module) -> bool:
    """Whether a layer is one of the EXACT_LAYERS themselves: a subclass may compute anything."""
    return type(layer) in EXACT_LAYERS


class ExactNet(Sequential):
    """A net of exact layers in gray levels, all its numbers multiples of 2^-fraction_bits; made by `quantize`.

    Takes images (n, c, h, w) as uint8, or as float32 (or a Tensor, or an Interval) of gray levels 0..255 on the grid,
    and gives logits (n, classes) in gray levels, 1-Lipschitz in ℓ∞.  `shape` is that of an image, (c, h, w), where it
    is known.  With `fraction_bits` 0 and dense layers, uint8 images on the CPU run on the byte kernel.  On the CPU its
    numbers are kept in memory that nobody can write to.
    """

    _training = False
    white = WHITE
    made_again = ("_bytes",)

    def __init__(self, *layers: Module, fraction_bits: int, shape: Sequence[int] | None = None) -> None:
        super().__init__(*layers)
        self.fraction_bits = check_fraction_bits(fraction_bits)
        self.shape = None if shape is None else tuple(shape)
        self._bytes: _Made | None = None
        self.eval()
        for parameter in self.parameters().values():
            parameter.requires_grad = False
        self._lock()

    # the claims hold on bytes, too: the same function, proved in docs/exact.md
    lipschitz, rounding, lowest_margins = Sequential.lipschitz, Sequential.rounding, Sequential.lowest_margins

    @property
    def domain(self) -> Domain:
        return Domain(self.shape, WHITE, self.fraction_bits)

    def __call__(self, x: Input) -> Result:
        if isinstance(x, np.ndarray) and x.dtype == np.uint8 and self.fraction_bits == 0 and self.device == "cpu":
            self.domain.check_shape(x)
            if len(x) and (net := self._byte_net(x.shape[1:])):
                return Tensor(net(x))
        return super().__call__(x)

    def to(self, device: str) -> Module:
        super().to(device)
        self._lock()
        return self

    def _lock(self) -> None:
        """Keep the numbers in memory that nobody can write to, where they are on the CPU."""
        for holder, name, array in list(self._arrays()):
            if isinstance(array, np.ndarray) and not _is_constant(array):
                setattr(holder, name, np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape))

    def _byte_net(self, shape: tuple[int, ...]) -> _ByteNet | None:
        """The net on bytes for images of a shape: the one made last, if all that it was made of is still the same."""
        made, parts = self._bytes, [_Part.of(layer) for layer in self.layers]
        if made and made.shape == shape and len(made.parts) == len(parts) and all(map(_Part.same, made.parts, parts)):
            return made.net
        super().__call__(np.zeros((1, *shape), np.uint8))  # the layers refuse what does not fit them
        net = _ByteNet.of(parts, shape)
        if all(_is_constant(array) for part in parts for array in part.arrays if array is not None):
            self._bytes = _Made(shape, parts, net)
        return net

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_bytes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> ExactNet:
        """Layers of its own, over the same numbers: nobody can write to these."""
        memo |= {id(array): array for _, _, array in self._arrays() if _is_constant(array)}
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(vars(self) | {"_bytes": None}, memo))
        copied._bytes = self._bytes
        return copied

    def train(self, training: bool = True) -> Module:
        if training:
            raise ValueError("an exact net is not trained: train the net it was made from")
        return super().train(False)

    def load_state(self, state: dict[str, Array]) -> None:
        """As every module; raises UserError when the numbers are none of an exact net: nothing has changed then."""
        copied = deepcopy(self)
        for holder, name, array in list(copied._arrays()):
            setattr(holder, name, array.copy())
        super(ExactNet, copied).load_state(state)
        copied.check()
        copied._lock()
        for (holder, name, _), (_, _, array) in zip(list(self._arrays()), list(copied._arrays()), strict=True):
            setattr(holder, name, array)

    def config(self) -> dict[str, Any]:
        shape = {} if self.shape is None else {"shape": list(self.shape)}
        return super().config() | {"layer": "ExactNet", "fraction_bits": self.fraction_bits} | shape

    def check(self) -> None:
        """Prove that nothing is rounded: every number is on the grid, and every result below 2^(24 − fraction_bits).

        Raises UserError, naming what is not.
        """
        for name, layer in self.modules():
            if layer is self:
                continue
            if not rounds_nothing(layer):
                raise UserError(f"the net cannot be exact: its {type(layer).__name__} layer {name} may round")
            if isinstance(layer, Normalize) and layer.std != 1:
                raise UserError(f"the net cannot be exact: its Normalize layer {name} divides by {layer.std}, not by 1")
        means = {f"{name}.mean": layer.mean for name, layer in self.modules() if isinstance(layer, Normalize)}
        for name, array in (self.state() | means).items():
            array = to_numpy(array)
            if not np.isfinite(array).all():
                raise UserError(f"the net cannot be exact: {name} holds values that are not finite")
            steps = np.ldexp(array, self.fraction_bits)
            if not (steps == np.rint(steps)).all():
                raise UserError(f"the net cannot be exact: {name} holds numbers that are no multiples of {self.step}")
        largest, limit = Sequential.rounding(self, float(WHITE))[1], 2.0 ** (SIGNIFICAND - self.fraction_bits)
        if not largest < limit:
            raise UserError(
                f"the net cannot be exact at {self.fraction_bits} fraction bits: its values may reach {largest:.0f} "
                f"gray levels, and float32 holds multiples of {self.step} below {limit:.0f} only (use fewer bits)"
            )

    @property
    def step(self) -> str:
        return f"2^-{self.fraction_bits}"


def check_fraction_bits(bits: int) -> int:
    if isinstance(bits, bool) or not isinstance(bits, int) or not 0 <= bits <= MOST_FRACTION_BITS:
        raise UserError(f"fraction_bits: expected a whole number from 0 to {MOST_FRACTION_BITS}, got {bits!r}")
    return bits


def quantize(net: Module, fraction_bits: int = DEFAULT_FRACTION_BITS) -> ExactNet:
    """The exact net next to a trained one, its numbers rounded to multiples of 2^-fraction_bits gray levels.

    Shifts, or what rounding leaves over of them, move into the next weights before these are rounded, for
    |(x + r) − (w + r)| is |x − w|: of a net of d dense layers no logit moves by more than (d + 1)/2 multiples.
    The exact net is made where new Tensors are, on the CPU unless another backend is current.

    Raises UserError for a net that is not Normalize followed by ℓ∞-dist layers at p = ∞, one that is exact already, one
    with NaN or infinity, or one whose values might grow beyond what float32 holds exactly.
    """
    bits = check_fraction_bits(fraction_bits)
    if isinstance(net, ExactNet):
        raise UserError(
            f"the net is exact already, with {net.fraction_bits} fraction bits: quantize the one it came from"
        )
    if type(net).__call__ is not Sequential.__call__ and isinstance(net, Sequential):
        raise UserError(
            f"a {type(net).__name__} has a __call__ of its own, and only layers one after the other can be exact"
        )
    if not (isinstance(net, Sequential) and net.layers and isinstance(net.layers[0], Normalize)):
        raise UserError("only a net that begins with Normalize can be made exact: it says what a gray level is")
    if not math.isinf(net.p):
        raise UserError(f"the net is at p = {net.p:g}, and only the p = ∞ net can be made exact: finish its training")
    for name, array in net.state().items():
        if not np.isfinite(to_numpy(array)).all():
            raise UserError(f"the net cannot be made exact: {name} holds values that are not finite")
    scale = WHITE * float(net.layers[0].std)
    excess: Array = np.zeros(1)  # what the rounded net's numbers at this place have too much, a channel or feature
    layers: list[Module] = []
    state: dict[str, Array] = {}
    flat = False  # a dense layer takes the last axis, which is all features of a sample only after Flatten

    def rounded(numbers: Array) -> Array:
        return np.ldexp(np.rint(np.ldexp(numbers, bits)), -bits)

    for i, layer in enumerate(net.layers):
        place = len(layers)
        if not rounds_nothing(layer):
            raise UserError(f"the net cannot be made exact: its {type(layer).__name__} layer {i} may round")
        match layer:
            case Normalize() if i == 0:
                excess = WHITE * to_numpy(layer.mean).astype(np.float64).reshape(-1)
                if not _absorbs_a_shift(net.layers[i + 1 :]):
                    mean = rounded(excess)
                    excess = excess - mean
                    layers.append(Normalize(tuple(mean.tolist()), 1.0))
            case MeanShift():
                shift = to_numpy(layer.running_mean).astype(np.float64) * scale
                excess = _spread(excess, len(shift)) + shift
                if not _absorbs_a_shift(net.layers[i + 1 :]):
                    state[f"{place}.running_mean"] = rounded(excess)
                    excess = excess - state[f"{place}.running_mean"]
                    layers.append(MeanShift(len(excess)))
            case LinfDistDense() if not flat:
                raise UserError(f"the net cannot be made exact: its layer {i} is dense and no Flatten stands before it")
            case LinfDistDense() | LinfDistConv2d():
                layers.append(type(layer)(**{key: value for key, value in layer.config().items() if key != "layer"}))
                w = layer.weight.numpy().astype(np.float64) * scale
                state[f"{place}.weight"] = rounded(w + _beside(excess, w, layer))
                excess = np.zeros(1)
                if layer.bias is not None:
                    bias = layer.bias.numpy().astype(np.float64) * scale
                    state[f"{place}.bias"] = rounded(bias)
                    excess = state[f"{place}.bias"] - bias
            case CenterCrop():
                layers.append(CenterCrop(layer.size))
            case Flatten():
                layers.append(Flatten())
                flat = True
            case Negate():
                layers.append(Negate())
                excess = -excess
            case ReLU():
                layers.append(ReLU())
                excess = np.zeros(1)  # what is left over stops here
            case Normalize():
                raise UserError(f"the net cannot be made exact: its layer {i} normalizes a second time")
    result = ExactNet(*layers, fraction_bits=bits, shape=getattr(net, "shape", None))
    with np.errstate(over="ignore"):  # what is too large is told by the check
        result.load_state({name: array.astype(np.float32) for name, array in state.items()})
    return result


def _absorbs_a_shift(layers: tuple[Module, ...]) -> bool:
    """Whether what is added to all inputs of these layers can be added to weights instead.

    Not past a padding or a ReLU: their zero has to stay where it is.
    """
    following = next((layer for layer in layers if not isinstance(layer, Flatten | CenterCrop)), None)
    return isinstance(following, LinfDistDense) or (isinstance(following, LinfDistConv2d) and following.padding == 0)


def _beside(excess: Array, w: Array, layer: LinfDistDense | LinfDistConv2d) -> Array:
    """The excess of each input of w (o, k), as an array (o, k)."""
    outputs, k = w.shape
    inputs = _spread(excess, layer.groups * k)
    return np.repeat(inputs.reshape(layer.groups, k), outputs // layer.groups, axis=0)


def _spread(channels: Array, count: int) -> Array:
    """A number for each of `count` features: a channel's stands for all its pixels, or for those of a patch."""
    if count % len(channels):
        raise UserError(f"the net cannot be made exact: {len(channels)} channels do not make {count} features")
    return np.repeat(channels, count // len(channels))


def _is_constant(array: Any) -> bool:
    """Whether an array's memory can never be written to: the bytes that `ExactNet` keeps its numbers in."""
    base = array
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, bytes)


class _Part(NamedTuple):
    """What the byte net takes from a layer: its class, groups and divisor, and mean, weight, bias and running mean."""

    kind: type[Module]
    settings: tuple[Any, ...]
    arrays: tuple[Array | None, ...]

    @classmethod
    def of(cls, layer: Module) -> _Part:
        weight, bias = (
            None if each is None else each.data for each in (getattr(layer, name, None) for name in ("weight", "bias"))
        )
        means = getattr(layer, "mean", None), getattr(layer, "running_mean", None)
        settings = getattr(layer, "groups", None), getattr(layer, "std", None)
        return cls(type(layer), settings, (means[0], weight, bias, means[1]))

    def same(self, other: _Part) -> bool:
        return self[:2] == other[:2] and all(map(operator.is_, self.arrays, other.arrays))


class _Made(NamedTuple):
    """A byte net with the shape of image and the parts that it was made of, which lie in constant memory."""

    shape: tuple[int, ...]
    parts: list[_Part]
    net: _ByteNet | None


class _ByteNet:
    """An exact net of dense layers with fraction_bits 0, on bytes alone.

    The pixels span 255 gray levels and every neuron is 1-Lipschitz, so its values span no more than 255, either: they
    are a byte b above a least value that depends on the weights alone.  With x = b + low and v = w − low,

        max_k |b_k − v_k| = least + max_k max(b_k − above_k, below_k − b_k, 0)
        least = max_k max(−v_k, v_k − 255, 0),   above = min(v + least, 255),   below = max(v − least, 0),

    where the second line's clipping changes nothing: 0 ≤ b ≤ 255, and least is no less than −v and v − 255.
    """

    def __init__(self, steps: list[tuple[Array, Array, int]], low: Array, sign: int) -> None:
        self.steps, self.low, self.sign = steps, low, sign

    @classmethod
    def of(cls, parts: list[_Part], shape: tuple[int, ...]) -> _ByteNet | None:
        """None where there are other layers than Normalize, Flatten, dense distances, shifts, and Negate at the end, or
        numbers that are not whole.
        """
        if not all((array == np.rint(array)).all() for part in parts for array in part.arrays if array is not None):
            return None
        low: Array = np.zeros(shape, np.int64)
        steps: list[tuple[Array, Array, int]] = []
        for i, (kind, (groups, std), (mean, weight, bias, running_mean)) in enumerate(parts):
            if kind is Normalize and mean is not None and std == 1:
                low = low - mean.astype(np.int64)
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


LAYERS["ExactNet"] = ExactNet
