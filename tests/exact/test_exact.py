"""Exact nets: what float32 makes of them is what fractions make of them, to the last bit; nothing is ever rounded."""

import ctypes
import ctypes.util
import gc
import itertools
import math
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import Array

from linfengine import Tensor
from linfengine.backends import cpu, get_backend, to_numpy
from linfengine.certify import METHODS, certify
from linfengine.checkpoint import built_net, load_model, save_model
from linfengine.data import to_pixels
from linfengine.domain import Domain, domain_of
from linfengine.errors import UserError
from linfengine.exact import MOST_FRACTION_BITS, ExactNet, quantize
from linfengine.interval import Interval
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    conv_net,
    linf_net,
)

SHAPE = (2, 3, 4)  # of an image: several channels, and not square

# The referee: the nets in fractions, with nothing of the engine but its numbers.

to_fractions = np.frompyfunc(lambda number: Fraction(float(number)), 1, 1)


def reals(numbers: Any) -> Array:
    """An array of Fractions, each exactly the number."""
    return np.asarray(to_fractions(np.asarray(to_numpy(numbers))), object)


def neurons(columns: Array, layer: LinfDistDense | LinfDistConv2d) -> Array:
    """(outputs, positions) of inputs (features, positions)."""
    groups = zip(np.split(columns, layer.groups), np.split(reals(layer.weight.data), layer.groups), strict=True)
    y = np.concatenate([abs(x[None] - w[:, :, None]).max(axis=1) for x, w in groups])
    return y if layer.bias is None else np.asarray(y + reals(layer.bias.data)[:, None])


def patches(x: Array, layer: LinfDistConv2d) -> tuple[Array, int, int]:
    """The patches of x (c, h, w) as columns (features, positions), and the height and width of their places."""
    k, pad = layer.kernel_size, layer.padding
    padded = reals(np.zeros((x.shape[0], x.shape[1] + 2 * pad, x.shape[2] + 2 * pad)))
    padded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]] = x
    rows, columns = (range(0, size - k + 1, layer.stride) for size in padded.shape[1:])
    found = [padded[:, i : i + k, j : j + k].reshape(-1) for i in rows for j in columns]
    return np.array(found).T, len(rows), len(columns)


def referee(net: Sequential, x: Array) -> list[Fraction]:
    """Logits of one image (c, h, w) of Fractions."""
    for layer in net.layers:
        match layer:
            case Normalize():
                x = (x - reals(layer.mean).reshape(-1, 1, 1)) / Fraction(float(layer.std))
            case CenterCrop():
                top, left = ((side - layer.size) // 2 for side in x.shape[1:])
                x = x[:, top : top + layer.size, left : left + layer.size]
            case Flatten():
                x = x.reshape(-1)
            case LinfDistDense():
                x = neurons(x[:, None], layer)[:, 0]
            case LinfDistConv2d():
                columns, height, width = patches(x, layer)
                x = neurons(columns, layer).reshape(-1, height, width)
            case MeanShift():
                x = x - reals(layer.running_mean).reshape(-1, *[1] * (x.ndim - 1))
            case ReLU():
                x = np.where(x > 0, x, reals(0))
            case Negate():
                x = -x
            case _:
                raise AssertionError(f"no rule for {layer}")
    return list(x)


def agree(net: ExactNet, images: Array, logits: Array) -> bool:
    """Whether these logits are those of the referee, none more and none less."""
    return [list(reals(z)) for z in logits] == [referee(net, reals(image)) for image in images]


# The nets.

DENSE: dict[str, Callable[[], Sequential]] = {
    "net": lambda: linf_net(SHAPE, 3, width=5, depth=3, mean=(0.25, 0.6), std=0.3),
    "net without shifts": lambda: linf_net(SHAPE, 3, width=5, depth=2, mean=(0.4,), std=0.7, mean_shift=False),
    "groups": lambda: Sequential(
        Normalize((0.2, 0.9), 0.25),
        Flatten(),
        LinfDistDense(24, 6, groups=3, bias=True),
        MeanShift(6),
        LinfDistDense(6, 4, groups=2),
        LinfDistDense(4, 3, bias=True),
        Negate(),
    ),
    "cropped net": lambda: linf_net(SHAPE, 3, width=5, depth=3, mean=(0.25, 0.6), std=0.3, crop=2),
    "shifts that stay": lambda: Sequential(
        Normalize((0.3,), 0.6),
        MeanShift(2),
        Negate(),
        Flatten(),
        LinfDistDense(24, 4, bias=True),
        MeanShift(4),
        Negate(),
        LinfDistDense(4, 3),
        MeanShift(3),
    ),
}
CONV: dict[str, Callable[[], Sequential]] = {
    "conv": lambda: Sequential(
        Normalize((0.3, 0.55), 0.25),
        LinfDistConv2d(2, 4, 2, groups=2, bias=True),
        MeanShift(4),
        LinfDistConv2d(4, 2, 2),
        MeanShift(2),
        Flatten(),
        LinfDistDense(4, 3, bias=True),
        Negate(),
    ),
    "conv, padded and strided": lambda: Sequential(
        Normalize((0.3, 0.55), 0.4),
        LinfDistConv2d(2, 3, 3, padding=1, stride=2, bias=True),
        MeanShift(3),
        LinfDistConv2d(3, 2, 2, padding=1),
        Flatten(),
        LinfDistDense(18, 3),
        Negate(),
    ),
    "conv, cropped": lambda: Sequential(
        Normalize((0.3, 0.55), 0.25),
        LinfDistConv2d(2, 4, 2),
        MeanShift(4),
        CenterCrop(2),
        LinfDistConv2d(4, 2, 2, bias=True),
        MeanShift(2),
        CenterCrop(1),
        Flatten(),
        LinfDistDense(2, 3, bias=True),
        Negate(),
    ),
    "cropped, conv with padding": lambda: Sequential(
        Normalize((0.3, 0.55), 0.25),
        CenterCrop(3),
        LinfDistConv2d(2, 2, 3, padding=1, stride=2),
        MeanShift(2),
        Flatten(),
        LinfDistDense(8, 3, bias=True),
        Negate(),
    ),
    "conv net": lambda: conv_net(SHAPE, 3, channels=1, width=4, mean=(0.3, 0.55), std=0.3),
    "ReLU": lambda: Sequential(
        Normalize((0.5,), 0.3),
        LinfDistConv2d(2, 4, 2, stride=2),
        MeanShift(4),
        ReLU(),
        Flatten(),
        LinfDistDense(8, 4, groups=2),
        MeanShift(4),
        ReLU(),
        LinfDistDense(4, 3, bias=True),
        Negate(),
    ),
}
NETS = DENSE | CONV


def filled(net: Sequential, seed: int = 0, scale: float = 1.0) -> Sequential:
    """The net at evaluation with random numbers, some of them as far out as an identity start."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, array in net.state().items():
        state[name] = (scale * rng.standard_normal(array.shape)).astype(np.float32)
        state[name][rng.random(array.shape) < 0.1] = -10
    net.load_state(state)
    net.eval()
    return net


@st.composite
def dense_nets(draw: st.DrawFn) -> Sequential:
    """One to four dense layers, in groups or not, with shifts and biases or without."""
    mean = draw(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=2))
    layers: list[Module] = [Normalize(tuple(mean), draw(st.sampled_from([0.1, 0.25, 0.3, 1.0]))), Flatten()]
    features = math.prod(SHAPE)
    for _ in range(draw(st.integers(1, 4))):
        groups = draw(st.sampled_from([each for each in (1, 1, 2, 3) if features % each == 0]))
        outputs = groups * draw(st.integers(1, 3))
        layers.append(LinfDistDense(features, outputs, groups=groups, bias=draw(st.booleans())))
        if draw(st.booleans()):
            layers.append(MeanShift(outputs))
        features = outputs
    if draw(st.booleans()):
        layers.append(Negate())
    return filled(Sequential(*layers), draw(st.integers(0, 2**32)), draw(st.sampled_from([0.25, 1.0, 3.0])))


def nets(makers: dict[str, Callable[[], Sequential]] = NETS) -> st.SearchStrategy[Sequential]:
    return st.builds(
        lambda name, seed, scale: filled(makers[name](), seed, scale),
        st.sampled_from(sorted(makers)),
        st.integers(0, 2**32),
        st.sampled_from([0.25, 1.0, 3.0]),
    )


def images(n: int = 2) -> st.SearchStrategy[Array]:
    return hnp.arrays(np.uint8, (n, *SHAPE), elements=st.sampled_from([0, 255]) | st.integers(0, 255))


def some_images(n: int, shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)


def complaint(call: Callable[[], object]) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(UserError) as refusal:
        call()
    sentence = str(refusal.value)
    assert sentence
    assert "\n" not in sentence
    assert not sentence.endswith(".")
    return sentence


# What the net computes.


@given(net=nets(), x=images(), bits=st.sampled_from([0, 1, 4, 8, 11]))
@draws(50)
def test_the_logits_are_those_of_fractions(backend: str, net: Sequential, x: Array, bits: int) -> None:
    try:
        exact = quantize(net, bits)
    except UserError:
        assume(bits < 11)  # a few of these nets reach beyond what 11 leave room for
        raise
    assert agree(exact, x, exact(x).numpy())
    assert agree(exact, x, exact(x.astype(np.float32)).numpy())


@given(net=nets(), x=images(1), reach=st.integers(0, 300), bits=st.sampled_from([0, 4, 8]))
@draws(40)
def test_the_bounds_hold_and_meet_at_a_point(backend: str, net: Sequential, x: Array, reach: int, bits: int) -> None:
    """In the middle of a box of no width they are the logits; at its corners the logits lie between them."""
    exact = quantize(net, bits)
    levels = x.astype(np.float32)
    point = exact(Interval(levels, levels)).to("cpu")
    assert agree(exact, x, point.lower)
    assert agree(exact, x, point.upper)
    ball = Interval(np.maximum(levels - reach, 0), np.minimum(levels + reach, 255))
    bounds, ball = exact(ball).to("cpu"), ball.to("cpu")
    corners = np.random.default_rng(reach).integers(0, 2, (8, *SHAPE))
    for corner in np.where(corners, ball.lower, ball.upper):
        low, z, high = (reals(each) for each in (bounds.lower[0], referee(exact, reals(corner)), bounds.upper[0]))
        assert (low <= z).all()
        assert (z <= high).all()


@pytest.fixture
def on_every_processor() -> Iterator[Iterator[tuple[str, int]]]:
    """The cpu backend on every instruction set, with one thread and two."""

    def each() -> Iterator[tuple[str, int]]:
        for isa, count in itertools.product(cpu.instruction_sets(), (1, 2)):
            cpu.use_instruction_set(isa)
            cpu.use_threads(count)
            yield isa, count

    before = cpu.instruction_set(), cpu.threads()
    yield each()
    cpu.use_instruction_set(before[0])
    cpu.use_threads(before[1])


def wide(name: str) -> tuple[Sequential, tuple[int, ...]]:
    """A net wide enough that threads share its work, and the shape of its images."""
    if name == "conv":
        net = Sequential(
            Normalize((0.4,), 0.25), LinfDistConv2d(1, 33, 3, padding=1, stride=2), Flatten(), LinfDistDense(528, 70)
        )
    else:
        net = linf_net((1, 7, 7), 10, width=140, depth=3, mean=(0.4,), std=0.25)
    return filled(net), (1, 7, 7)


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("name", ["conv", "dense"])
def test_every_processor_gives_the_same_bits(
    name: str, bits: int, on_every_processor: Iterator[tuple[str, int]]
) -> None:
    net, shape = wide(name)
    exact, x = quantize(net, bits), some_images(210, shape)
    ball = domain_of(exact).ball(x, Fraction(1, 20))
    results = []
    for _ in on_every_processor:
        bounds = exact(ball)
        results.append([exact(x).numpy().tobytes(), bounds.lower.tobytes(), bounds.upper.tobytes()])
    assert len(results) == 2 * len(cpu.instruction_sets())
    assert all(result == results[0] for result in results)
    assert agree(exact, x[:1], exact(x).numpy()[:1])


# Bytes.


@given(net=dense_nets(), x=images(3))
@draws(80)
def test_bytes_give_what_floats_give(host_backend: str, net: Sequential, x: Array) -> None:
    exact = quantize(net, 0)
    np.testing.assert_array_equal(exact(x).numpy(), exact(x.astype(np.float32)).numpy())
    assert agree(exact, x[:1], exact(x).numpy()[:1])


@given(net=dense_nets(), x=images(2), far=st.sampled_from([-5000, -300, -1, 256, 1000]), seed=st.integers(0, 99))
@draws(40)
def test_weights_may_lie_far_from_every_byte(host_backend: str, net: Sequential, x: Array, far: int, seed: int) -> None:
    exact, rng = quantize(net, 0), np.random.default_rng(seed)
    state = {name: array.copy() for name, array in exact.state().items()}
    for array in state.values():
        array[rng.random(array.shape) < 0.3] += far
    exact.load_state(state)
    np.testing.assert_array_equal(exact(x).numpy(), exact(x.astype(np.float32)).numpy())


def calls_of(kernel: str, monkeypatch: pytest.MonkeyPatch) -> list[Array]:
    """The first arguments that a kernel of the current backend is called with from now on."""
    calls: list[Array] = []
    original = getattr(get_backend(), kernel)

    def spy(x: Array, *arguments: Any) -> Any:
        calls.append(x)
        return original(x, *arguments)

    monkeypatch.setattr(get_backend(), kernel, spy)
    return calls


NOT_ON_BYTES = (*CONV, "shifts that stay", "cropped net")  # Negate inside a net turns bytes around


@pytest.mark.parametrize("name", [name for name in DENSE if name not in NOT_ON_BYTES])
def test_dense_nets_run_on_bytes(host_backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = filled(DENSE[name]())
    x, bytewise, floats = some_images(3), calls_of("dead_zone", monkeypatch), calls_of("linf_dist", monkeypatch)
    quantize(net, 0)(x)
    assert len(bytewise) == sum(isinstance(layer, LinfDistDense) for layer in net.layers)
    assert all(each.dtype == np.uint8 for each in bytewise)
    assert all(each.shape[0] == 1 and not each[0].any() for each in floats[:1])  # one image of zeros, for its shape
    assert len(floats) == len(bytewise)
    quantize(net, 0)(x.astype(np.float32))
    quantize(net, 1)(x)
    assert len(floats) == 3 * len(bytewise)


@pytest.mark.parametrize("name", NOT_ON_BYTES)
def test_other_nets_run_on_floats(host_backend: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, x, bytewise = quantize(filled(NETS[name]()), 0), some_images(2), calls_of("dead_zone", monkeypatch)
    assert agree(exact, x, exact(x).numpy())
    assert not bytewise


def test_bytes_follow_the_numbers_that_are_loaded(host_backend: str) -> None:
    one, other = (quantize(filled(DENSE["net"](), seed), 0) for seed in (0, 1))
    x = some_images(2)
    before, expected = one(x).numpy(), other(x).numpy()
    assert (before != expected).any()
    one.load_state(other.state())
    np.testing.assert_array_equal(one(x).numpy(), expected)


def test_bytes_follow_numbers_that_take_the_place_of_others(host_backend: str) -> None:
    """Whichever array, setting or layer of the net is another now: it is certified as it is."""
    x, labels = some_images(24), np.zeros(24, int)

    def assert_same(changed: ExactNet, expected: ExactNet) -> None:
        changed(x)  # twice: what is made in the first call is not to be kept for the second
        for net in (changed, deepcopy(expected)):
            net.check()
        np.testing.assert_array_equal(changed(x).numpy(), Sequential.__call__(expected, x).numpy())
        a, b = (certify(net, x, labels, "1/255", method="exact") for net in (changed, expected))
        np.testing.assert_array_equal(a.steps, b.steps)

    one, other = (quantize(filled(DENSE["net"](), seed), 0) for seed in (0, 1))
    one(x)
    for name, parameter in one.parameters().items():
        parameter.data = other.parameters()[name].data
    for (_, a), (_, b) in zip(one.modules(), other.modules(), strict=True):
        if isinstance(a, MeanShift) and isinstance(b, MeanShift):
            a.running_mean = b.running_mean
        if isinstance(a, Normalize) and isinstance(b, Normalize):
            a.mean = b.mean
    assert_same(one, other)
    shifted = quantize(filled(DENSE["shifts that stay"](), 0), 0)
    shifted(x)
    for _, layer in shifted.modules():
        if isinstance(layer, Normalize):
            layer.mean = layer.mean + 3
    assert_same(shifted, shifted)
    one.layers = other.layers
    assert_same(one, other)


def test_bytes_follow_layers_that_have_no_numbers(host_backend: str) -> None:
    """A layer without numbers is added or taken away, and a divisor is another now."""
    x = some_images(4)
    net = quantize(filled(DENSE["net"](), 0), 0)
    logits = net(x).numpy()
    layers = net.layers
    assert isinstance(layers[-1], Negate)
    for others, factor in ((layers[:-1], -1), ((*layers, Negate()), -1), (layers, 1)):
        net.layers = others
        np.testing.assert_array_equal(net(x).numpy(), factor * logits)
    net = ExactNet(Normalize((3.0, 4.0), 1.0), Flatten(), *layers[1:], domain=Domain.gray_levels(0))
    before = net(x).numpy()
    np.testing.assert_array_equal(before, Sequential.__call__(net, x).numpy())
    net.layers[0].std = 2  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="divides by 2.0, not by 1"):
        net.check()


def test_bytes_follow_an_array_in_the_place_of_one_that_is_gone(host_backend: str) -> None:
    """Python may give it the same id."""
    net, x = ExactNet(Flatten(), LinfDistDense(4, 3), domain=Domain.gray_levels(0)), some_images(4, (1, 2, 2))
    rng, weight = np.random.default_rng(0), net.parameters()["1.weight"]

    def another() -> Array:
        return np.frombuffer(rng.integers(0, 256, (3, 4)).astype(np.float32).tobytes(), np.float32).reshape(3, 4)

    for _ in range(20):
        weight.data = another()
        net(x)
        weight.data = another()
        weight.data = another()
        np.testing.assert_array_equal(net(x).numpy(), Sequential.__call__(net, x).numpy())


def test_a_copy_that_was_pickled_makes_its_own_net_on_bytes() -> None:
    net = quantize(filled(DENSE["net"](), 0), 0)
    net(some_images(1))
    assert net._bytes is not None
    copy = pickle.loads(pickle.dumps(net))
    assert copy._bytes is None
    np.testing.assert_array_equal(copy(some_images(4)).numpy(), net(some_images(4)).numpy())


def test_bytes_take_the_images_that_the_layers_take(host_backend: str) -> None:
    net = ExactNet(Normalize((3.0, 4.0), 1.0), Flatten(), LinfDistDense(2, 3, seed=0), domain=Domain.gray_levels(0))
    net.load_state({"2.weight": np.arange(6, dtype=np.float32).reshape(3, 2)})
    x = some_images(4, (2, 1, 1))
    np.testing.assert_array_equal(net(x).numpy(), Sequential.__call__(net, x).numpy())
    with pytest.raises(ValueError, match="Normalize: expected inputs"):
        net(x.reshape(4, 1, 2, 1))
    flat = ExactNet(LinfDistDense(2, 3), domain=Domain.gray_levels(0))
    flat.load_state({"0.weight": np.arange(6, dtype=np.float32).reshape(3, 2)})
    assert flat(x.reshape(4, 1, 1, 2)).shape == (4, 1, 1, 3)


def test_a_net_that_turns_its_numbers_around_within_is_no_net_on_bytes(host_backend: str) -> None:
    net = filled(
        Sequential(Normalize((0.4,), 0.3), Flatten(), LinfDistDense(24, 5), Negate(), LinfDistDense(5, 3), Negate())
    )
    exact, x = quantize(net, 0), some_images(8)
    assert agree(exact, x, exact(x).numpy())


def test_numbers_that_are_not_whole_are_not_made_bytes(host_backend: str) -> None:
    """Such a net cannot be certified; called, it computes what it says."""
    exact, x = quantize(filled(DENSE["net"](), 0), 0), some_images(4)
    weight = next(iter(exact.parameters().values()))
    weight.data = weight.data + np.float32(0.5)
    np.testing.assert_array_equal(exact(x).numpy(), Sequential.__call__(exact, x).numpy())


def test_nobody_writes_to_the_numbers_of_an_exact_net(host_backend: str) -> None:
    for net in (quantize(filled(DENSE["net"](), 0), 0), deepcopy(quantize(filled(DENSE["net"](), 0), 8))):
        net.to("cpu")
        for array in net.state().values():
            with pytest.raises(ValueError, match="read-only"):
                array.reshape(-1)[0] = 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize(
    ("name", "shape"),
    [("net", (1, 1, 1)), ("net", (2, 3, 3)), ("net", (1, 3, 4)), ("net", (2, 3, 8)), ("groups", (1, 1, 3))],
)
def test_images_of_another_size_are_refused(backend: str, name: str, shape: tuple[int, ...], bits: int) -> None:
    """On bytes as on floats: a kernel that reads past the end of an image would give some logits, too."""
    exact, x = quantize(filled(DENSE[name]()), bits), some_images(2, shape)
    known = exact.domain.shape is not None
    for images in (x.astype(np.float32), x):
        with pytest.raises(ValueError, match="the net takes images" if known else r"features|broadcast"):
            exact(images)


# Nothing is rounded: the processor says so itself.


class Inexact:
    """The flag that the processor raises when a result is rounded."""

    def __init__(self) -> None:
        bits = {"x86_64": 0x20, "aarch64": 0x10, "arm64": 0x10}
        library = ctypes.util.find_library("m")
        if os.name == "nt" or library is None or platform.machine() not in bits:
            pytest.skip("the flags of this processor are not known here")
        self.library, self.bit = ctypes.CDLL(library), bits[platform.machine()]

    def raised_by(self, call: Callable[[Any], object], x: Any) -> bool:
        gc.disable()  # whose time Hypothesis measures, in floating point
        try:
            self.library.feclearexcept(self.bit)
            call(x)
            return bool(self.library.fetestexcept(self.bit))
        finally:
            gc.enable()


@pytest.fixture(params=["reference", *cpu.instruction_sets()])
def on_one_thread(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each instruction set in turn, and NumPy, on this thread alone, whose flags can be read."""
    before = cpu.instruction_set(), cpu.threads()
    cpu.use_threads(1)
    if request.param == "reference":
        monkeypatch.setattr("linfengine.backends._default", "reference")
    else:
        cpu.use_instruction_set(request.param)
    yield request.param
    cpu.use_instruction_set(before[0])
    cpu.use_threads(before[1])


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("name", NETS)
def test_nothing_is_rounded(name: str, bits: int, on_one_thread: str) -> None:
    flag = Inexact()
    net, x = filled(NETS[name]()), some_images(5)
    exact, pixels, levels = quantize(net, bits), to_pixels(x), x.astype(np.float32)
    ball, float_ball = domain_of(exact).ball(x, Fraction(1, 10)), domain_of(net).ball(pixels, Fraction(1, 10))
    each: Any
    for each in (x, levels, ball):
        assert not flag.raised_by(exact, each)
    for each in (pixels, float_ball):
        assert flag.raised_by(net, each)


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 24), (70, 70, 49)])
def test_a_distance_that_is_rounded_is_noticed(shape: tuple[int, int, int], on_one_thread: str) -> None:
    """The kernels leave the flag as they found it, or raise it: without that the test above could not fail."""
    n, outputs, features = shape
    flag, rng = Inexact(), np.random.default_rng(0)
    layer = LinfDistDense(features, outputs, seed=1)
    layer.weight.data[...] = np.rint(layer.weight.data * 256) / 256
    x = rng.random((n, features), np.float32)
    on_grid = (np.rint(x * 256) / 256).astype(np.float32)
    assert all(flag.raised_by(layer, each) for each in (x, Interval(x, x)))
    assert not any(flag.raised_by(layer, each) for each in (on_grid, Interval(on_grid, on_grid)))


# What rounding the net itself costs.


def moved(net: Sequential, exact: ExactNet, image: Array) -> Fraction:
    """By how much the logits of one image differ, in multiples of 2^-fraction_bits gray levels, in real arithmetic."""
    normalize = net.layers[0]
    assert isinstance(normalize, Normalize)
    scale = 255 * Fraction(float(normalize.std))
    pairs = zip(referee(exact, reals(image)), referee(net, reals(image) / 255), strict=True)
    return max(abs(a - scale * b) for a, b in pairs) * 2**exact.fraction_bits


@given(net=dense_nets() | nets(DENSE), x=images(1), bits=st.sampled_from([0, 1, 4, 8, 10]))
@draws(120)
def test_no_logit_moves_by_more_than_half_a_step_a_layer(net: Sequential, x: Array, bits: int) -> None:
    dense = sum(isinstance(layer, LinfDistDense) for layer in net.layers)
    assert moved(net, quantize(net, bits), x[0]) <= Fraction(dense + 1, 2) + Fraction(1, 10**6)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("shift", [False, True])
def test_roundings_that_add_up_make_up_for_each_other(depth: int, shift: bool) -> None:
    """Rounded each by itself the weight, the bias and the mean of a layer would add half a level each."""
    layers: list[Module] = [Normalize((0.0,), 1.0), Flatten()]
    for _ in range(depth):
        layer = LinfDistDense(1, 1, bias=True)
        layer.weight.data[...], layer.bias.data[...] = -9.51 / 255, 5.51 / 255  # type: ignore[union-attr]
        layers += [layer, MeanShift(1)] if shift else [layer]
    net = Sequential(*layers)
    net.eval()
    for name, array in net.state().items():
        if "mean" in name:
            array[...] = -2.51 / 255
    assert moved(net, quantize(net, 0), np.full((1, 1, 1), 7)) <= Fraction(depth + 1, 2)


@given(net=nets(CONV), x=images(1), bits=st.sampled_from([0, 4, 8]))
@draws(50)
def test_where_padding_or_relu_stop_a_shift_a_logit_moves_a_step_an_array(net: Sequential, x: Array, bits: int) -> None:
    """An array's own rounding costs half a step, and another half where the next cannot make up for it."""
    exact = quantize(net, bits)
    assert moved(net, exact, x[0]) <= len(exact.state()) + 1


@given(
    name=st.sampled_from(sorted(NETS)),
    seed=st.integers(0, 2**32),
    std=st.sampled_from([0.25, 0.5, 1.0]),
    x=images(1),
    bits=st.sampled_from([6, 8]),
)
@draws(60)
def test_numbers_on_the_grid_stay_what_they_are(name: str, seed: int, std: float, x: Array, bits: int) -> None:
    """Numbers that are multiples of 1/16, times 255/4: multiples of 1/64 gray level."""
    net = filled(NETS[name](), seed)
    for array in net.state().values():
        array[...] = np.rint(array * 16) / 16
    net.layers = (Normalize((0.5,), std), *net.layers[1:])
    assert moved(net, quantize(net, bits), x[0]) == 0


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize(
    "layers",
    [
        (Normalize((0.31, 0.72), 0.25), Flatten(), MeanShift(24), LinfDistDense(24, 3, bias=True)),
        (Normalize((0.31, 0.72), 0.25), LinfDistConv2d(2, 3, 2, bias=True), Flatten(), MeanShift(18), Negate()),
    ],
)
def test_shifts_of_channels_meet_shifts_of_features(layers: tuple[Module, ...], bits: int) -> None:
    net = filled(Sequential(*layers))
    exact, x = quantize(net, bits), some_images(1)
    assert agree(exact, x, exact(x).numpy())
    assert moved(net, exact, x[0]) <= len(exact.state()) + 1


def test_a_shift_passes_a_crop_and_stays_where_a_padding_follows() -> None:
    """Into the weights behind the window, of its own channels; or else beside the Normalize, whose zero is padded."""
    for name, first in (
        ("cropped net", [CenterCrop, Flatten]),
        ("cropped, conv with padding", [Normalize, CenterCrop]),
    ):
        net = filled(NETS[name]())
        exact, x = quantize(net, 8), some_images(2)
        assert [type(layer) for layer in exact.layers[:2]] == first
        assert agree(exact, x, exact(x).numpy())
        assert 0 < moved(net, exact, x[0]) <= len(exact.state()) + 1


def test_the_default_is_eight_bits() -> None:
    assert quantize(filled(DENSE["net"]())).fraction_bits == 8


# How large its values may grow.


@given(net=nets(), x=images(1), magnitude=st.floats(0, 6), bits=st.integers(0, MOST_FRACTION_BITS))
@draws(60)
def test_a_net_is_exact_or_refused(net: Sequential, x: Array, magnitude: float, bits: int) -> None:
    for array in net.state().values():
        array *= np.float32(10**magnitude)
    exact, refusal = None, ""
    try:
        exact = quantize(net, bits)
    except UserError as error:
        refusal = str(error)
    assert agree(exact, x, exact(x).numpy()) if exact else "its values may reach" in refusal


@pytest.mark.parametrize("weight", [-1000, -20_000, 30_000, 1_000_000])
def test_the_most_bits_that_are_allowed_are_exact_and_one_more_is_refused(weight: int) -> None:
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(24, 2, bias=True), Negate()).eval()
    rng = np.random.default_rng(0)
    w = (weight + rng.random((2, 24))).astype(np.float32) / np.float32(255)
    net.load_state({"2.weight": w, "2.bias": rng.random(2, np.float32)})
    most = 24 - (abs(weight) + 255 + 2).bit_length()
    extremes = np.concatenate([some_images(2), np.zeros((1, *SHAPE), np.uint8), np.full((1, *SHAPE), 255, np.uint8)])
    exact = quantize(net, most)
    assert agree(exact, extremes, exact(extremes).numpy())
    assert np.abs(exact(extremes).numpy()).max() * 2.0**most > 2**22  # nearly as far as float32 reaches
    sentence = complaint(lambda: quantize(net, most + 1))
    assert f"cannot be exact at {most + 1} fraction bits: its values may reach" in sentence
    assert f"multiples of 2^-{most + 1} below {2 ** (23 - most)} only (use fewer bits)" in sentence


def test_a_net_beyond_all_numbers_is_refused() -> None:
    net = filled(DENSE["net"]())
    net.state()["2.weight"][0, 0] = 3e38
    assert "cannot be exact" in complaint(lambda: quantize(net, 0))


# What is refused.


def simple(*more: Module) -> Sequential:
    return Sequential(Normalize((0.5,), 0.25), Flatten(), LinfDistDense(24, 3), *more)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (LinfDistDense(24, 3), "only a net that begins with Normalize"),
        (Normalize((0.5,), 0.25), "only a net that begins with Normalize"),
        (Sequential(), "only a net that begins with Normalize"),
        (Sequential(Flatten(), LinfDistDense(24, 3)), "only a net that begins with Normalize"),
        (simple(Dense(3, 3)), "its Dense layer 3 may round"),
        (simple(Tanh()), "its Tanh layer 3 may round"),
        (simple(Negate(), Tanh(), Negate()), "its Tanh layer 4 may round"),
        (
            linf_net(SHAPE, 3, width=4, depth=2, mean=(0.5,), std=0.25, head=5),
            "its Dense layer 6 may round",
        ),
        (Sequential(Normalize((0.5,), 0.25), Normalize((0.5,), 0.25)), "its layer 1 normalizes a second time"),
    ],
)
def test_nets_that_are_refused(net: Module, message: str) -> None:
    assert message in complaint(lambda: quantize(net, 4))


def test_a_net_with_a_call_of_its_own_is_refused() -> None:
    class Turned(Sequential):
        def __call__(self, x: Any) -> Any:
            return -super().__call__(x)

    with pytest.raises(UserError, match="a Turned has a __call__ of its own"):
        quantize(Turned(Normalize((0.4,), 0.3), Flatten(), LinfDistDense(4, 3)))


@pytest.mark.parametrize("p", [1, 8, 1000])
def test_a_net_in_training_is_refused(p: float) -> None:
    net = filled(DENSE["net"]())
    net.p = p
    assert f"the net is at p = {p}, and only the p = ∞ net" in complaint(lambda: quantize(net))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["2.weight", "3.running_mean", "6.bias"])
def test_a_net_that_is_not_finite_is_refused(name: str, bad: float) -> None:
    net = filled(DENSE["net"]())
    net.state()[name].reshape(-1)[-1] = bad
    assert f"{name} holds values that are not finite" in complaint(lambda: quantize(net))


def test_an_exact_net_is_exact_already() -> None:
    exact = quantize(filled(DENSE["net"]()), 4)
    assert "is exact already, with 4 fraction bits" in complaint(lambda: quantize(exact, 4))


@pytest.mark.parametrize("bits", [-1, 16, True, False, 1.5, 8.0, "8"])
def test_bits_that_are_none(bits: Any) -> None:
    sentence = f"fraction_bits: expected a whole number from 0 to 15, got {bits!r}"
    assert complaint(lambda: quantize(filled(DENSE["net"]()), bits)) == sentence
    assert complaint(lambda: ExactNet(Flatten(), LinfDistDense(24, 3), domain=Domain.gray_levels(bits))) == sentence


@pytest.mark.parametrize("bits", [0, 15])
def test_bits_that_are_some(bits: int) -> None:
    net = filled(DENSE["net without shifts"](), scale=0.01)
    for array in net.state().values():
        array[...] = array.clip(-0.1, 0.1)
    x = some_images(2)
    exact = quantize(net, bits)
    assert agree(exact, x, exact(x).numpy())


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Dense(3, 3), "its Dense layer 2 may round"),
        (Tanh(), "its Tanh layer 2 may round"),
        (Sequential(Negate()), "its Sequential layer 2 may round"),
        (Normalize((0.0,), 2.0), "its Normalize layer 2 divides by 2.0, not by 1"),
        (Normalize((0.3,), 1.0), "2.mean holds numbers that are no multiples of 2^-4"),
    ],
)
def test_layers_that_no_exact_net_has(layer: Module, message: str) -> None:
    dense = LinfDistDense(24, 3, seed=0)
    dense.weight.data[...] = np.rint(dense.weight.data)
    net = ExactNet(Flatten(), dense, layer, domain=Domain.gray_levels(4))
    assert message in complaint(net.check)


@pytest.mark.parametrize("bad", [2.0**-5, 1 / 3, 1e-45, math.nan, math.inf, 2.0**21])
@pytest.mark.parametrize("name", ["1.weight", "3.bias"])
def test_no_numbers_off_the_grid_can_be_loaded(name: str, bad: float) -> None:
    exact = quantize(filled(DENSE["net without shifts"]()), 4)
    assert exact.state().keys() == {"1.weight", "2.weight", "2.bias"}
    name = {"3.bias": "2.bias"}.get(name, name)
    state = {key: array.copy() for key, array in exact.state().items()}
    state[name].reshape(-1)[-1] = bad
    with pytest.raises(UserError, match="its values may reach" if bad == 2.0**21 else f"{name} holds (numbers|values)"):
        exact.load_state(state)


def test_an_exact_net_is_not_trained() -> None:
    exact = quantize(filled(DENSE["net"]()), 4)
    with pytest.raises(ValueError, match="an exact net is not trained"):
        exact.train()
    assert exact.eval() is exact
    assert exact.train(False) is exact
    assert not any(module.training for _, module in exact.modules())
    assert not any(parameter.requires_grad for parameter in exact.parameters().values())


def may_be_written(net: Module) -> list[str]:
    return [name for name, array in net.state().items() if array.flags.writeable]


@pytest.mark.parametrize("name", NETS)
def test_its_numbers_are_read_only(name: str, tmp_path: Path) -> None:
    exact = quantize(filled(NETS[name]()), 4)
    assert not may_be_written(exact)
    with pytest.raises(ValueError, match="read-only"):
        next(iter(exact.state().values()))[...] = 0
    save_model(exact, tmp_path / "model")
    loaded, _ = load_model(tmp_path / "model")
    assert not may_be_written(loaded)
    loaded.load_state(exact.state())
    assert not may_be_written(loaded)


def test_its_numbers_stay_read_only_when_others_are_refused() -> None:
    exact = quantize(filled(DENSE["net"]()), 4)
    before = {key: array.copy() for key, array in exact.state().items()}
    for bad in ({key: array[:0] for key, array in before.items()}, {}):
        with pytest.raises(ValueError, match=r"expected float32|missing"):
            exact.load_state(bad)
        assert all((array == before[key]).all() for key, array in exact.state().items())
        assert not may_be_written(exact)


# Files and certificates.


@pytest.mark.parametrize("bits", [0, 8])
@pytest.mark.parametrize("name", NETS)
def test_what_is_saved_comes_back(name: str, bits: int, tmp_path: Path) -> None:
    exact, x = quantize(filled(NETS[name]()), bits), some_images(3)
    save_model(exact, tmp_path / "model", dataset="digits")
    loaded, metadata = load_model(tmp_path / "model")
    assert isinstance(loaded, ExactNet)
    assert metadata["dataset"] == "digits"
    assert loaded.config() == exact.config()
    assert type(built_net(exact.config())) is ExactNet
    assert {key: array.tobytes() for key, array in loaded.state().items()} == {
        key: array.tobytes() for key, array in exact.state().items()
    }
    assert loaded(x).numpy().tobytes() == exact(x).numpy().tobytes()


def test_a_file_that_holds_no_exact_net_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = quantize(filled(DENSE["net"]()), 4)
    exact._domain = Domain.gray_levels(3, exact.domain.shape)
    save_model(exact, tmp_path / "model")
    assert "no multiples of 2^-3" in complaint(lambda: load_model(tmp_path / "model"))
    object.__setattr__(exact.domain, "fraction_bits", 16)
    save_model(exact, tmp_path / "model")
    assert "expected a whole number from 0 to 15" in complaint(lambda: load_model(tmp_path / "model"))


def every_level() -> Array:
    """Images (11, 2, 3, 4) that hold every gray level."""
    return np.resize(np.arange(256), (11, *SHAPE)).astype(np.uint8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [0, 8])
def test_pixels_that_are_gray_levels_are_certified_as_the_images(bits: int, method: str) -> None:
    exact, x = quantize(filled(CONV["conv"]() if bits else DENSE["net"]()), bits), every_level()
    labels = exact(x).numpy().argmax(axis=1)
    one, other = (certify(exact, each, labels, "1/20", method=method) for each in (x, to_pixels(x)))
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(other, field.name))
    assert one.steps is not None
    assert one.steps.any()


@pytest.mark.parametrize("towards", [0, 1])
def test_pixels_between_two_gray_levels_are_refused(towards: int) -> None:
    exact, x = quantize(filled(DENSE["net"]()), 8), to_pixels(every_level())
    labels = np.zeros(len(x), int)
    for index in [(0, 0, 0, 1), (3, 1, 2, 3), (10, 0, 1, 1)]:
        pixels = x.copy()
        pixels[index] = np.nextafter(pixels[index], np.float32(towards))
        sentence = complaint(lambda pixels=pixels: certify(exact, pixels, labels, "1/20"))  # type: ignore[misc]
        assert "takes whole gray levels" in sentence
        assert f"pixel {index} is" in sentence


# Gradients.


def gaps(net: ExactNet, x: Array) -> Array:
    """How close each image comes to another gradient: the least lead of a winning coordinate, over all neurons."""
    closest, y = np.full(len(x), np.inf), x.astype(np.float32)
    for layer in net.layers:
        if isinstance(layer, LinfDistDense):
            groups = zip(np.split(y, layer.groups, axis=1), np.split(layer.weight.numpy(), layer.groups), strict=True)
            for columns, w in groups:
                ranked = np.sort(abs(columns[:, None] - w), axis=2)
                lead = ranked[..., -1] - (ranked[..., -2] if ranked.shape[2] > 1 else 0)
                closest = np.minimum(closest, lead.min(axis=1))
        y = layer(y).numpy()
    return closest


@pytest.mark.parametrize("name", ["net", "groups"])
@given(seed=st.integers(0, 2**32), output=st.integers(0, 2))
@draws(20)
def test_gradients_are_those_of_the_float_net(backend: str, name: str, seed: int, output: int) -> None:
    """dz/dx in gray levels is std dz/dx of the pixels, wherever rounding the net leaves all winners what they were."""
    net = filled(DENSE[name](), seed)
    net.layers = (Normalize((0.25, 0.6), 0.25), *net.layers[1:])
    exact, x = quantize(net, 10), some_images(20, seed=seed)
    x = x[gaps(exact, x) > 8 / 2**10]
    assume(len(x) > 3)
    levels = Tensor(x.astype(np.float32), requires_grad=True)
    pixels = Tensor(to_pixels(x), requires_grad=True)
    exact(levels)[:, output].sum().backward()
    net(pixels)[:, output].sum().backward()
    assert levels.grad is not None
    assert pixels.grad is not None
    assert (abs(levels.grad).sum(axis=(1, 2, 3)) == 1).all()
    np.testing.assert_array_equal(to_numpy(levels.grad), np.float32(0.25) * to_numpy(pixels.grad))


# What stands around an exact net.


def test_inside_another_net_it_is_a_float_net_like_others() -> None:
    """Pixels in [0, 1] are off its grid, so its rounding counts."""
    exact = quantize(filled(DENSE["net"]()), 8)
    assert Sequential(exact).rounding(2.0)[0] > 0


def test_a_copy_whose_numbers_change_changes_its_logits() -> None:
    """A copy has the numbers, which nobody can write to, and the byte net of the original, until it gets others."""
    exact = quantize(filled(DENSE["net without shifts"]()), 0)
    x = some_images(4)
    before = np.array(exact(x).numpy())
    copy = deepcopy(exact)
    bias = copy.parameters()["2.bias"]
    assert bias is not exact.parameters()["2.bias"]
    assert bias.data is exact.parameters()["2.bias"].data
    np.testing.assert_array_equal(copy(x).numpy(), before)
    bias.data = bias.data + 7
    np.testing.assert_array_equal(copy(x).numpy(), copy(x.astype(np.float32)).numpy())
    np.testing.assert_array_equal(copy(x).numpy(), before - 7)
    np.testing.assert_array_equal(exact(x).numpy(), before)
    again = pickle.loads(pickle.dumps(exact))
    np.testing.assert_array_equal(again(x).numpy(), before)
    with pytest.raises(ValueError, match="read-only"):
        again.state()["2.bias"][0] = 1


def test_layers_that_take_the_place_of_others_are_evaluated() -> None:
    """Also where a new layer has the address in memory of one that is gone."""
    exact, x = quantize(filled(DENSE["net without shifts"]()), 0), some_images(4)
    *body, _ = exact.layers
    for last in (Negate(), ReLU()) * 20:
        exact.layers = (*body, last)
        np.testing.assert_array_equal(exact(x).numpy(), Sequential.__call__(exact, x).numpy())
        exact.layers, last = tuple(body), None  # type: ignore[assignment]


def test_numbers_that_are_refused_are_never_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other threads evaluate the net meanwhile."""
    exact, x = quantize(filled(DENSE["net"]()), 8), some_images(2)
    before, seen = exact(x).numpy(), []

    def refuse(net: ExactNet) -> None:
        seen.append(exact(x).numpy())
        raise UserError("no")

    monkeypatch.setattr(ExactNet, "check", refuse)
    with pytest.raises(UserError):
        exact.load_state({name: array + 1 for name, array in exact.state().items()})
    np.testing.assert_array_equal(seen, [before])
    np.testing.assert_array_equal(exact(x).numpy(), before)


def test_refused_numbers_leave_the_old_ones() -> None:
    exact = quantize(filled(DENSE["net without shifts"]()), 4)
    before = {name: array.copy() for name, array in exact.state().items()}
    with pytest.raises(UserError, match="no multiples"):
        exact.load_state({name: array + np.float32(0.3) for name, array in before.items()})
    for name, array in exact.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_dense_layer_needs_its_features_in_a_row() -> None:
    net = Sequential(Normalize((0.1, 0.9), 0.25), LinfDistDense(4, 3), Flatten(), Negate())
    with pytest.raises(UserError, match="its layer 1 is dense and no Flatten stands before it"):
        quantize(net)
