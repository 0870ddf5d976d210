"""Nets on 2 x 2 pixels, float32 ones and exact ones, and a referee who evaluates them in fractions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st
from support.op_cases import Array
from support.strategies import arrays

from linfengine.certify import METHODS, Certificate, certify, check_samples, predict
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    conv_net,
    linf_net,
)
from linfengine.units import WHITE

# The referee: the same nets in exact arithmetic, written anew and with nothing of the engine but its numbers.


def fractions(numbers: Any) -> Array:
    """An array of Fractions, each exactly the number."""
    return np.array([Fraction(float(number)) for number in np.ravel(numbers)], object).reshape(np.shape(numbers))


def exact_logits(net: Sequential, x: Array) -> Array:
    """Logits (classes,) of one image (c, h, w), in Fractions."""
    for layer in net.layers:
        match layer:
            case Normalize():
                x = (x - fractions(layer.mean).reshape(-1, 1, 1)) / Fraction(float(layer.std))
            case CenterCrop():
                top, left = ((side - layer.size) // 2 for side in x.shape[1:])
                x = x[:, top : top + layer.size, left : left + layer.size]
            case Flatten():
                x = x.reshape(-1)
            case LinfDistDense():
                x = abs(x - fractions(layer.weight.data)).max(axis=1)
            case LinfDistConv2d():
                k, pad = layer.kernel_size, layer.padding
                padded = fractions(np.zeros((x.shape[0], x.shape[1] + 2 * pad, x.shape[2] + 2 * pad)))
                padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]] = x
                w = fractions(layer.weight.data)
                rows, columns = (range(0, size - k + 1, layer.stride) for size in padded.shape[1:])
                patches = [[padded[:, i : i + k, j : j + k].reshape(-1) for j in columns] for i in rows]
                x = abs(np.array(patches)[None] - w[:, None, None]).max(axis=3)
            case MeanShift():
                x = x - fractions(layer.running_mean).reshape(-1, *[1] * (x.ndim - 1))
            case ReLU():
                x = np.maximum(x, fractions(0))
            case Negate():
                x = -x
            case _:
                raise AssertionError(f"no rule for {layer}")
        if isinstance(layer, LinfDistDense) and layer.bias is not None:
            x = x + fractions(layer.bias.data)
    return x


def exact_margin(net: Sequential, x: Array, label: int) -> Fraction:
    """z_y - max_{j != y} z_j of one image (c, h, w) of Fractions."""
    z = exact_logits(net, x)
    return Fraction(z[label] - max(z[j] for j in range(len(z)) if j != label))


# The nets.


def deep(mean_shift: bool = True) -> Sequential:
    return linf_net((1, 2, 2), 3, width=4, depth=3, mean=(0.5,), std=0.25, mean_shift=mean_shift)


def conv() -> Sequential:
    return Sequential(
        Normalize((0.375,), 0.5),
        LinfDistConv2d(1, 2, 2, padding=1),
        MeanShift(2),
        ReLU(),
        Flatten(),
        LinfDistDense(18, 3, bias=True),
        Negate(),
    )


def cropped() -> Sequential:
    return linf_net((1, 2, 2), 3, width=3, depth=2, mean=(0.25,), std=0.5, crop=1)


def five_convs() -> Sequential:
    return conv_net((1, 2, 2), 3, channels=1, width=3, mean=(0.5,), std=0.25)


def with_head() -> Sequential:
    return linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0.5,), std=0.25, head=5)


def with_linear_layers() -> Sequential:
    return Sequential(
        Normalize((0.5,), 0.25), Flatten(), LinfDistDense(4, 6), Dense(6, 5), Tanh(), Dense(5, 4), ReLU(), Dense(4, 3)
    )


Maker = Callable[[], Sequential]
DISTANCE_NETS: list[Maker] = [deep, lambda: deep(mean_shift=False), conv, cropped, five_convs]
HEADED: list[Maker] = [with_linear_layers, with_head]
NETS = [*DISTANCE_NETS, *HEADED]


@st.composite
def nets(draw: st.DrawFn, makers: Sequence[Maker] = DISTANCE_NETS, grid: bool = False) -> Sequential:
    """Nets with normal weights. Those on the grid 2^-6 have ties, and float32 computes them exactly."""
    net = draw(st.sampled_from(makers))()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    on_grid = grid or draw(st.booleans())
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
        if on_grid:
            array[...] = np.round(array * 64) / 64
    net.eval()
    return net


def exact_nets() -> st.SearchStrategy[ExactNet]:
    """Those with few fraction bits have ties, and those with none run on bytes."""
    return st.builds(quantize, nets(), st.sampled_from([0, 1, 4, 8, 12]))


def pixels(n: int = 3, grid: bool = False) -> st.SearchStrategy[Array]:
    if grid:
        return arrays((n, 1, 2, 2), 0, 1).map(lambda x: np.round(x * 64) / np.float32(64))
    return arrays((n, 1, 2, 2), 0, 1)


def gray_images(n: int = 3) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.uint8, (n, 1, 2, 2), elements=st.integers(0, WHITE) | st.sampled_from([0, 127, WHITE]))


# What is asked of them.


@dataclass(frozen=True)
class Question:
    """The arguments of a certificate."""

    net: Sequential
    images: Array
    labels: Array
    eps: Fraction
    method: str

    def answer(self, **changes: Any) -> Certificate:
        asked = replace(self, **changes)
        return certify(asked.net, asked.images, asked.labels, asked.eps, method=asked.method)

    @property
    def x(self) -> Array:
        """The images as the net takes them."""
        return check_samples(self.net, self.images, self.labels)[0]

    def one(self, i: int) -> "Question":
        """The same about sample i alone."""
        return replace(self, images=self.images[i : i + 1], labels=self.labels[i : i + 1])


def near(draw: st.DrawFn, net: Sequential, images: Array, labels: Array) -> Fraction:
    """A radius for which a verdict is open: a usual one, or one near that of some image."""
    proved = certify(net, images, labels, 0, method="margin")
    factors = [Fraction(factor, 1000) for factor in (500, 990, 999, 1000, 1001, 1100, 1400)]
    if isinstance(net, ExactNet) and proved.steps is not None:
        half_steps = 2 * int(draw(st.sampled_from(list(proved.steps)))) + draw(st.integers(-1, 3))
        close = max(Fraction(half_steps, 2 * WHITE << net.fraction_bits), Fraction(0))
        close *= draw(st.sampled_from([Fraction(1), Fraction(1), *factors]))
    else:
        close = Fraction(float(draw(st.sampled_from(list(proved.radius))))) * draw(st.sampled_from(factors))
    usual = [Fraction(0), Fraction(1, 255), Fraction(8, 255), Fraction(3, 10), Fraction(1)]
    return min(draw(st.sampled_from([*usual, close, close, close])), Fraction(1))


@st.composite
def float_questions(
    draw: st.DrawFn, makers: Sequence[Maker] = DISTANCE_NETS, methods: Sequence[str] = ("interval", "margin")
) -> Question:
    """About the labels that a float32 net predicts."""
    net, images = draw(nets(makers)), draw(pixels())
    labels = predict(net, images).argmax(axis=1)
    return Question(net, images, labels, near(draw, net, images, labels), draw(st.sampled_from(methods)))


@st.composite
def exact_questions(draw: st.DrawFn, methods: Sequence[str] = METHODS) -> Question:
    """About the labels that an exact net predicts."""
    net, images = draw(exact_nets()), draw(gray_images())
    labels = predict(net, images).argmax(axis=1)
    return Question(net, images, labels, near(draw, net, images, labels), draw(st.sampled_from(methods)))


def questions(makers: Sequence[Maker] = DISTANCE_NETS) -> st.SearchStrategy[Question]:
    return st.one_of(float_questions(makers), exact_questions())
