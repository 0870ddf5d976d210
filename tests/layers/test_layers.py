"""Layers against plain loops, and the two numbers each states about itself: Lipschitz constant and rounding error."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import Array
from support.strategies import arrays, boxes, points_in
from support.tolerances import CENTRAL_DIFFERENCES, FORWARD

from linfengine import Interval, Tensor, no_grad
from linfengine.backends import to_numpy
from linfengine.checkpoint import load_model, save_model
from linfengine.domain import domain_of
from linfengine.gradcheck import gradcheck
from linfengine.layers import (
    KINDS,
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
    build,
    conv_net,
    linf_net,
)
from linfengine.losses import hinge, robust_cross_entropy

RGB = (0.4914, 0.4822, 0.4465)


def single(numbers: Any) -> Array:
    return np.array(numbers, np.float32)


@dataclass(frozen=True)
class Case:
    """A layer or net and the shape of one of its inputs."""

    make: Callable[[], Module]
    shape: tuple[int, ...]
    label: str

    def __str__(self) -> str:
        return self.label

    def layer(self, seed: int = 0, scale: float = 1.0) -> Module:
        """The layer at evaluation, each parameter and running mean `scale` times a normal number."""
        layer, rng = self.make(), np.random.default_rng(seed)
        state = {name: scale * rng.standard_normal(array.shape) for name, array in layer.state().items()}
        layer.load_state({name: single(array) for name, array in state.items()})
        return layer.eval()


def convnet() -> Module:
    conv = LinfDistConv2d(3, 4, 2, stride=2, padding=1, seed=0)
    return Sequential(Normalize(RGB, 0.2), conv, MeanShift(4), Flatten(), LinfDistDense(36, 3, bias=True), Negate())


def net_with_mlp() -> Module:
    """The ℓ∞-dist Net+MLP: distance layers as features, then linear, tanh, linear."""
    features = [Normalize((0.5,), 0.25), Flatten(), LinfDistDense(9, 8, seed=0), MeanShift(8)]
    return Sequential(*features, Dense(8, 5, seed=1), Tanh(), Dense(5, 3, seed=2))


NETS = [
    Case(
        lambda: linf_net((1, 3, 3), 3, width=6, depth=3, mean=(0.5,), std=0.25),
        (1, 3, 3),
        "linf_net",
    ),
    Case(
        lambda: linf_net((3, 2, 2), 2, width=14, depth=2, mean=RGB, std=0.2, mean_shift=False),
        (3, 2, 2),
        "linf_net-plain",
    ),
    Case(
        lambda: linf_net((1, 4, 3), 3, width=6, depth=2, mean=(0.5,), std=0.25, crop=2),
        (1, 4, 3),
        "linf_net-crop",
    ),
    Case(
        lambda: linf_net((1, 3, 3), 3, width=6, depth=2, mean=(0.5,), std=0.25, head=5),
        (1, 3, 3),
        "linf_net-head",
    ),
    Case(
        lambda: conv_net((1, 3, 4), 3, channels=2, width=5, mean=(0.5,), std=0.25),
        (1, 3, 4),
        "conv_net",
    ),
    Case(
        lambda: conv_net((3, 4, 4), 2, channels=1, width=4, mean=RGB, std=0.2, crop=3, head=3, mean_shift=False),
        (3, 4, 4),
        "conv_net-crop-head",
    ),
    Case(convnet, (3, 4, 4), "Sequential-conv"),
    Case(net_with_mlp, (1, 3, 3), "Sequential-mlp"),
]
CASES = [
    Case(lambda: Normalize(RGB, 0.2009), (3, 2, 2), "Normalize"),
    Case(Flatten, (2, 3), "Flatten"),
    Case(lambda: CenterCrop(2), (2, 3, 4), "CenterCrop"),
    Case(Negate, (4,), "Negate"),
    Case(ReLU, (4,), "ReLU"),
    Case(Tanh, (4,), "Tanh"),
    Case(lambda: LinfDistDense(5, 4), (5,), "LinfDistDense"),
    Case(lambda: LinfDistDense(6, 4, bias=True, groups=2), (6,), "LinfDistDense-groups"),
    Case(lambda: LinfDistConv2d(2, 3, 2), (2, 3, 4), "LinfDistConv2d"),
    Case(lambda: LinfDistConv2d(4, 6, 3, stride=2, padding=1, bias=True, groups=2), (4, 4, 3), "LinfDistConv2d-groups"),
    Case(lambda: MeanShift(4), (4,), "MeanShift"),
    Case(lambda: MeanShift(3, momentum=0.25), (3, 2, 2), "MeanShift-channels"),
    Case(lambda: Dense(5, 4), (5,), "Dense"),
    *NETS,
]

every_case = pytest.mark.parametrize("case", CASES, ids=str)


# What a layer computes at evaluation, in float64 from its own numbers, one entry after the other.


def plain(layer: Module, x: Array) -> Array:
    x = x.astype(np.float64)
    match layer:
        case Sequential():
            for inner in layer.layers:
                x = plain(inner, x)
            return x
        case Normalize():
            means = np.broadcast_to(layer.mean.reshape(-1), x.shape[1])
            return np.stack([(x[:, c] - float(means[c])) / float(layer.std) for c in range(x.shape[1])], axis=1)
        case Flatten():
            return np.array([image.ravel() for image in x])
        case CenterCrop():
            top, left = ((side - layer.size) // 2 for side in x.shape[2:])
            window = [(top + i, left + j) for i in range(layer.size) for j in range(layer.size)]
            picked = [[[image[c, i, j] for i, j in window] for c in range(x.shape[1])] for image in x]
            return np.array(picked).reshape(*x.shape[:2], layer.size, layer.size)
        case Negate():
            return 0 - x
        case ReLU():
            return np.where(x > 0, x, 0)
        case Tanh():
            return np.vectorize(math.tanh)(x)
        case LinfDistDense():
            return plain_dense(x, *doubles(layer), layer.groups)
        case LinfDistConv2d():
            return plain_conv(x, *doubles(layer), layer)
        case MeanShift():
            return np.stack([x[:, c] - float(layer.running_mean[c]) for c in range(x.shape[1])], axis=1)
        case Dense():
            w, bias = doubles(layer)
            return np.array([[math.fsum(row * w_o) / math.sqrt(len(w_o)) for w_o in w] for row in x]) + bias
    raise AssertionError(f"no plain version of {type(layer).__name__}")


def doubles(layer: Any) -> tuple[Array, Array]:
    """(weight, bias) in float64; no bias is a bias of 0."""
    weight = layer.weight.numpy().astype(np.float64)
    return weight, np.zeros(len(weight)) if layer.bias is None else layer.bias.numpy().astype(np.float64)


def plain_dense(x: Array, w: Array, bias: Array, groups: int, p: float = math.inf) -> Array:
    (outputs, k), y = w.shape, np.empty((len(x), len(w)))
    for n, o in np.ndindex(*y.shape):
        first = o // (outputs // groups) * k
        y[n, o] = norm([x[n, first + i] - w[o, i] for i in range(k)], p) + bias[o]
    return y


def plain_conv(x: Array, w: Array, bias: Array, layer: LinfDistConv2d, p: float = math.inf) -> Array:
    """Pixels outside the image are 0, and output o sees the channels of its own group."""
    size, stride, padding = layer.kernel_size, layer.stride, layer.padding
    n, channels, height, width = x.shape
    outputs, seen = len(w), channels // layer.groups
    rows, columns = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
    w = w.reshape(outputs, seen, size, size)
    y = np.empty((n, outputs, rows, columns))
    for b, o, i, j in np.ndindex(*y.shape):
        first = o // (outputs // layer.groups) * seen
        differences = []
        for c, di, dj in product(range(seen), range(size), range(size)):
            row, column = i * stride + di - padding, j * stride + dj - padding
            inside = 0 <= row < height and 0 <= column < width
            differences.append((x[b, first + c, row, column] if inside else 0.0) - w[o, c, di, dj])
        y[b, o, i, j] = norm(differences, p) + bias[o]
    return y


def norm(d: list[float], p: float) -> float:
    return max(map(abs, d)) if math.isinf(p) else math.fsum(abs(t) ** p for t in d) ** (1 / p)


def test_every_layer_has_a_case() -> None:
    covered = {type(layer).__name__ for case in CASES for _, layer in case.make().modules()}
    assert covered == KINDS.keys()


# values


@every_case
def test_value_at_evaluation(backend: str, case: Case) -> None:
    layer = case.layer()
    x = np.random.default_rng(1).standard_normal((3, *case.shape), np.float32)
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), plain(layer, x), **FORWARD[np.float32])


@every_case
def test_an_array_is_as_good_as_a_tensor(case: Case) -> None:
    layer = case.layer()
    x = np.random.default_rng(1).standard_normal((3, *case.shape), np.float32)
    y = layer(x)
    assert isinstance(y, Tensor)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.numpy(), layer(Tensor(x)).numpy())


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("p", [1, 2, 3.5, 8])
def test_dense_in_training_is_the_lp_norm(backend: str, p: float, bias: bool, groups: int) -> None:
    layer = LinfDistDense(6, 4, bias=bias, groups=groups, seed=0)
    layer.p = p
    w, b = doubles(layer)
    x = np.random.default_rng(1).standard_normal((3, 6), np.float32)
    np.testing.assert_allclose(layer(Tensor(x)).numpy(), plain_dense(x, w, b, groups, p), rtol=1e-5)
    np.testing.assert_array_equal(layer.eval()(Tensor(x)).numpy(), plain_linf(layer, x))


def plain_linf(layer: LinfDistDense, x: Array) -> Array:
    """At p = infinity float32 gives the same bits in any order: the plain formula is an equality."""
    per_group, k = len(layer.weight) // layer.groups, layer.weight.shape[1]
    columns = [x[:, o // per_group * k : (o // per_group + 1) * k] for o in range(len(layer.weight))]
    y = np.stack([np.abs(c - w).max(axis=1) for c, w in zip(columns, layer.weight.numpy(), strict=True)], axis=1)
    return y if layer.bias is None else y + layer.bias.numpy()


@pytest.mark.parametrize("p", [2, 8, math.inf])
@pytest.mark.parametrize(("stride", "padding", "groups", "bias"), [(1, 0, 1, False), (2, 1, 2, True), (3, 2, 1, True)])
def test_conv_in_training(backend: str, stride: int, padding: int, groups: int, bias: bool, p: float) -> None:
    layer = LinfDistConv2d(2, 4, 3, stride=stride, padding=padding, groups=groups, bias=bias, seed=0)
    layer.p = p
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 4), np.float32)
    w, b = doubles(layer)
    y = layer(Tensor(x))
    np.testing.assert_allclose(y.numpy(), plain_conv(x, w, b, layer, p), rtol=1e-5)
    np.testing.assert_allclose(layer.eval()(Tensor(x)).numpy(), plain_conv(x, w, b, layer), rtol=1e-6)


def test_conv_is_the_dense_layer_on_explicit_patches(backend: str) -> None:
    """To the bit, at p = infinity: rows of pixels (channel, row, column) take the place of features."""
    conv = LinfDistConv2d(2, 3, 2, bias=True, seed=0).eval()
    dense = LinfDistDense(8, 3, bias=True).eval()
    dense.load_state(conv.state())
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 4), np.float32)
    y = conv(Tensor(x)).numpy()
    assert y.shape == (2, 3, 2, 3)
    for i, j in np.ndindex(2, 3):
        patch = np.ascontiguousarray(x[:, :, i : i + 2, j : j + 2]).reshape(2, 8)
        np.testing.assert_array_equal(y[:, :, i, j], dense(Tensor(patch)).numpy())


def test_a_neuron_by_hand(backend: str) -> None:
    layer = LinfDistDense(3, 2, bias=True)
    layer.load_state({"weight": single([[0, 0, 0], [1, -1, 2]]), "bias": single([0.5, -1])})
    x = Tensor(single([[1, 2, -3], [1, -1, 2]]))
    np.testing.assert_array_equal(layer.eval()(x).numpy(), [[3.5, 4], [2.5, -1]])
    layer.train().p = 1
    np.testing.assert_array_equal(layer(x).numpy(), [[6.5, 7], [4.5, -1]])


# the order p


def test_p_is_one_setting_of_all_distance_layers() -> None:
    net = linf_net((1, 3, 3), 3, width=6, depth=3, mean=(0.5,), std=0.25)
    assert net.p == math.inf
    net.p = 8
    assert net.p == 8
    assert [layer.p for _, layer in net.modules() if isinstance(layer, LinfDistDense)] == [8, 8, 8]
    net.layers[2].p = 16
    with pytest.raises(ValueError, match=r"different p: \[8.0, 16.0\]"):
        _ = net.p
    net.p = math.inf
    assert net.p == math.inf


@pytest.mark.parametrize("p", [0.5, 0, -1, -math.inf, math.nan])
def test_an_order_below_1_is_refused(p: float) -> None:
    net = linf_net((1, 3, 3), 3, width=6, depth=3, mean=(0.5,), std=0.25)
    net.p = 8
    with pytest.raises(ValueError, match="p must be at least 1"):
        net.p = p
    assert net.p == 8


def test_a_net_without_distance_layers_is_at_infinity() -> None:
    assert Sequential(Dense(2, 2), Tanh()).p == math.inf


def test_train_and_eval_reach_every_layer() -> None:
    net = Sequential(Sequential(LinfDistDense(2, 2), MeanShift(2)), Negate())
    assert {layer.training for _, layer in net.modules()} == {True}
    assert net.eval() is net
    assert {layer.training for _, layer in net.modules()} == {False}
    assert net.train() is net
    assert {layer.training for _, layer in net.modules()} == {True}


def test_evaluation_does_not_depend_on_p() -> None:
    net = linf_net((1, 3, 3), 3, width=6, depth=3, mean=(0.5,), std=0.25).eval()
    x = Tensor(np.random.default_rng(0).random((4, 1, 3, 3), np.float32))
    expected = net(x).numpy()
    net.p = 8
    np.testing.assert_array_equal(net(x).numpy(), expected)
    assert (net.train()(x).numpy() != expected).any()


# names and states


def test_names_of_parameters_and_buffers() -> None:
    net = Sequential(LinfDistConv2d(1, 2, 2, bias=True), Sequential(MeanShift(2), Flatten(), Dense(8, 3)))
    assert list(net.parameters()) == ["0.weight", "0.bias", "1.2.weight", "1.2.bias"]
    assert set(net.state()) == {*net.parameters(), "1.0.running_mean"}
    assert list(LinfDistDense(2, 3).parameters()) == ["weight"]
    assert list(MeanShift(2).state()) == ["running_mean"]
    assert all(parameter.requires_grad for parameter in net.parameters().values())


def test_an_attribute_that_is_a_module_is_a_child() -> None:
    class Residual(Module):
        def __init__(self) -> None:
            self.branch = Sequential(LinfDistDense(2, 2))

    net = Sequential(Residual())
    assert list(net.parameters()) == ["0.branch.0.weight"]
    net.p = 3
    assert net.p == net.decay_order("0.branch.0.weight") == 3


def test_state_holds_the_arrays_themselves_and_load_state_copies() -> None:
    one, other = LinfDistDense(2, 3, bias=True, seed=0), LinfDistDense(2, 3, bias=True, seed=1)
    assert one.state()["weight"] is one.weight.data
    one.load_state(other.state())
    np.testing.assert_array_equal(one.weight.numpy(), other.weight.numpy())
    other.weight.data[...] = 0
    assert one.weight.numpy().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("0.weight"), r"missing \['0.weight'\], extra nothing"),
        (lambda state: state.update({"7.scale": np.zeros(1)}), r"missing nothing, extra \['7.scale'\]"),
        (
            lambda state: state.update({"1.running_mean": np.zeros(4, np.float32)}),
            r"1.running_mean: expected .*\(3,\), got .*\(4,\)",
        ),
        (
            lambda state: state.update({"2.bias": np.zeros(3)}),
            "2.bias: expected float32.*, got float64",
        ),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Callable[[dict[str, Array]], Any], message: str) -> None:
    net = Sequential(LinfDistDense(2, 3, seed=0), MeanShift(3), Dense(3, 3, seed=1))
    before = {name: array.copy() for name, array in net.state().items()}
    state = {name: array + 1 for name, array in before.items()}
    change(state)
    with pytest.raises(ValueError, match=message):
        net.load_state(state)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])


def test_decay_order_follows_p_for_the_weights_of_distance_layers_alone() -> None:
    net = Sequential(LinfDistConv2d(1, 2, 2, bias=True), Flatten(), LinfDistDense(8, 3), Dense(3, 3))
    net.p = 8
    orders = {"0.weight": 8, "0.bias": 2, "2.weight": 8, "3.weight": 2, "3.bias": 2}
    assert {name: net.decay_order(name) for name in net.parameters()} == orders
    net.p = math.inf
    assert net.decay_order("2.weight") == math.inf
    assert LinfDistDense(2, 2).decay_order("weight") == math.inf


# how weights start


@pytest.mark.parametrize("make", [lambda **kw: LinfDistDense(3, 7, **kw), lambda **kw: LinfDistConv2d(3, 7, 1, **kw)])
def test_identity_init_passes_coordinates_on(make: Callable[..., Any]) -> None:
    """w[o, o mod k] = -10, so that y_o = 10 + x[o mod k] while the other weights are small."""
    layer, usual = make(seed=0), make(seed=0, identity=False)
    ours = layer.weight.numpy() == -10
    assert [list(np.flatnonzero(row)) for row in ours] == [[0], [1], [2], [0], [1], [2], [0]]
    np.testing.assert_array_equal(layer.weight.numpy()[~ours], usual.weight.numpy()[~ours])
    assert np.abs(usual.weight.numpy()).max() < 10


def test_identity_init_makes_a_layer_nearly_an_identity() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    y = LinfDistDense(4, 4, seed=1).eval()(Tensor(x))
    np.testing.assert_allclose(y.numpy(), 10 + x, rtol=1e-6)


def test_identity_init_of_a_convolution_passes_the_middle_of_a_patch_on() -> None:
    """Of channel o mod in_channels, so that the images of a 3 x 3 layer with padding start as those of its channels."""
    layer = LinfDistConv2d(2, 5, 3, padding=1, seed=0)
    places = [list(np.flatnonzero(row)) for row in layer.weight.numpy() == -10]
    assert places == [[4], [13], [4], [13], [4]]  # of 9 columns a channel
    x = np.random.default_rng(0).uniform(-1, 1, (3, 2, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(layer.eval()(Tensor(x)).numpy(), 10 + x[:, [0, 1, 0, 1, 0]], rtol=1e-6)
    grouped = LinfDistConv2d(4, 4, 2, groups=2, seed=0).weight.numpy() == -10
    assert [list(np.flatnonzero(row)) for row in grouped] == [[2], [6], [2], [6]]
    assert not (LinfDistConv2d(3, 2, 3, seed=0).weight.numpy() == -10).any()  # fewer channels out than in


def test_identity_init_of_groups_counts_within_the_group() -> None:
    weight = LinfDistDense(4, 6, groups=2, seed=0).weight.numpy()
    assert [list(np.flatnonzero(row)) for row in weight == -10] == [[0], [1], [0], [0], [1], [0]]


def test_no_identity_init_into_fewer_outputs() -> None:
    np.testing.assert_array_equal(
        LinfDistDense(8, 7, seed=0).weight.numpy(), LinfDistDense(8, 7, seed=0, identity=False).weight.numpy()
    )
    assert not (LinfDistDense(8, 8, groups=2).weight.numpy()[:, 0] == -10).all()
    assert not (LinfDistDense(8, 6, groups=2).weight.numpy() == -10).any()  # 3 outputs of 4 inputs in each group


def test_weights_are_standard_normal_and_biases_zero() -> None:
    dense, linear = LinfDistDense(300, 200, bias=True, seed=0), Dense(300, 200, seed=0)
    for layer in (dense, linear):
        assert abs(layer.weight.numpy().mean()) < 0.02
        assert abs(layer.weight.numpy().std() - 1) < 0.02
        assert layer.bias is not None
        np.testing.assert_array_equal(layer.bias.numpy(), 0)


def test_the_seed_decides() -> None:
    first, again, other = (linf_net((1, 2, 2), 2, width=4, depth=3, mean=(0,), std=1, seed=s) for s in (5, 5, 6))
    for name, array in first.state().items():
        np.testing.assert_array_equal(array, again.state()[name])
    assert any((array != other.state()[name]).any() for name, array in first.state().items())
    assert (first.state()["4.weight"][:4] != first.state()["2.weight"]).any()  # layers do not repeat each other


# descriptions


@every_case
def test_a_description_builds_the_same_function(case: Case) -> None:
    """Through JSON, as in a model file."""
    layer = case.layer(seed=3)
    copy = build(json.loads(json.dumps(layer.config())))
    assert type(copy) is type(layer)
    assert copy.config() == layer.config()
    copy.load_state(layer.state())
    x = np.random.default_rng(1).standard_normal((3, *case.shape), np.float32)
    np.testing.assert_array_equal(copy.eval()(Tensor(x)).numpy(), layer(Tensor(x)).numpy())
    layer.train().p = copy.train().p = 8
    np.testing.assert_array_equal(copy(Tensor(x)).numpy(), layer(Tensor(x)).numpy())


@pytest.mark.parametrize("case", NETS, ids=str)
def test_a_net_comes_back_from_a_file(case: Case, tmp_path: Path) -> None:
    net = case.layer(seed=4)
    save_model(net, tmp_path / "model")
    loaded, _ = load_model(tmp_path / "model")
    assert type(loaded) is type(net)
    assert loaded.config() == net.config()
    assert {name: array.tobytes() for name, array in loaded.state().items()} == {
        name: array.tobytes() for name, array in net.state().items()
    }
    x = np.random.default_rng(1).random((3, *case.shape), np.float32)
    np.testing.assert_array_equal(loaded(x).numpy(), net(x).numpy())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layer": "Convolution"}, "unknown layer 'Convolution': expected one of CenterCrop, Dense, Flatten"),
        ({"in_features": 3}, "unknown layer None"),
        ({"layer": "LinfDistDense", "in_features": 3}, "LinfDistDense layer does not fit.*out_features"),
        ({"layer": "Tanh", "p": 3}, "Tanh layer does not fit"),
        ({"layer": "CenterCrop"}, "CenterCrop layer does not fit.*size"),
        ({"layer": "Sequential", "layers": [], "domain": {"shape": None}}, "Sequential layer does not fit: 'inputs'"),
        ({"layer": "Dense", "in_features": 0, "out_features": 3}, "Dense: sizes must be at least 1"),
        ({"layer": "Sequential"}, "Sequential layer does not fit.*layers"),
        ({"layer": "Sequential", "layers": [{"layer": "Relu"}]}, "unknown layer 'Relu'"),
    ],
)
def test_a_description_that_is_none(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(config)


# the mean shift


def test_mean_shift_by_hand(backend: str) -> None:
    """running <- 0.75 running + 0.25 batch mean, in numbers that float32 holds exactly."""
    layer = MeanShift(2, momentum=0.25)
    x = single([[1, 10], [3, -2], [5, 4]])  # means 3 and 4
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), [[-2, 6], [0, -6], [2, 0]])
    np.testing.assert_array_equal(to_numpy(layer.running_mean), [0.75, 1])
    layer(Tensor(x + single([4, -4])))  # means 7 and 0
    np.testing.assert_array_equal(to_numpy(layer.running_mean), [2.3125, 0.75])
    layer.eval()
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), x - single([2.3125, 0.75]))
    np.testing.assert_array_equal(to_numpy(layer.running_mean), [2.3125, 0.75])


def test_mean_shift_of_channels_by_hand(backend: str) -> None:
    layer = MeanShift(2, momentum=0.5)
    x = single([[[[1, 3]], [[0, 2]]], [[[5, 7]], [[-4, 10]]]])  # (2, 2, 1, 2), means 4 and 2
    expected = [[[[-3, -1]], [[-2, 0]]], [[[1, 3]], [[-6, 8]]]]
    np.testing.assert_array_equal(layer(Tensor(x)).numpy(), expected)
    np.testing.assert_array_equal(to_numpy(layer.running_mean), [2, 1])


def test_the_usual_momentum_is_a_tenth() -> None:
    layer = MeanShift(1)
    for _ in range(3):
        layer(Tensor(single([[1], [1]])))
    np.testing.assert_allclose(layer.running_mean, [1 - 0.9**3], rtol=1e-6)


@given(data=st.data())
def test_mean_shift_takes_a_constant_away(data: st.DataObject) -> None:
    """What is added to a whole channel has no influence in training."""
    x = data.draw(arrays((3, 2), -8, 8))
    by = data.draw(arrays((2,), -8, 8))
    one, other = MeanShift(2)(Tensor(x)), MeanShift(2)(Tensor(x + by))
    np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)
    np.testing.assert_allclose(one.numpy().sum(axis=0), 0, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2, 2)])
def test_the_gradient_flows_through_the_batch_mean(shape: tuple[int, ...]) -> None:
    """dx = g - mean of g over the batch; at evaluation dx = g."""
    rng = np.random.default_rng(0)
    layer, x, g = MeanShift(3), Tensor(rng.standard_normal(shape), requires_grad=True), rng.standard_normal(shape)
    layer(x).backward(g)
    axes = (0, *range(2, len(shape)))
    assert x.grad is not None
    np.testing.assert_allclose(x.grad, g - g.mean(axis=axes, keepdims=True), atol=1e-12)
    gradcheck(layer, x, **CENTRAL_DIFFERENCES)
    x.zero_grad()
    layer.eval()(x).backward(g)
    np.testing.assert_array_equal(x.grad, g)


def test_a_batch_mean_has_no_bounds() -> None:
    box = Interval(np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"MeanShift.*eval\(\)"):
        MeanShift(2)(box)


def test_a_finite_p_has_no_bounds() -> None:
    layer = LinfDistDense(2, 2)
    layer.p = 8
    box = Interval(np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="a finite p is not 1-Lipschitz"):
        layer(box)
    assert isinstance(layer.eval()(box), Interval)


# gradients


@pytest.mark.parametrize("p", [3, 8])
def test_gradients_of_the_distance_layers(backend: str, p: float) -> None:
    conv = LinfDistConv2d(2, 2, 2, padding=1, bias=True, groups=2, identity=False, seed=0)
    conv.p = p
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 2))

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        conv.weight, conv.bias = weight, bias
        return conv(x)

    gradcheck(run, x, conv.weight, conv.bias, **CENTRAL_DIFFERENCES)


def test_gradients_of_the_linear_layer(backend: str) -> None:
    dense = Dense(4, 3, seed=0)

    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Any:
        dense.weight, dense.bias = weight, bias
        return dense(x)

    gradcheck(run, np.random.default_rng(1).standard_normal((2, 4)), dense.weight, dense.bias, **CENTRAL_DIFFERENCES)


def test_every_parameter_of_a_net_gets_a_gradient(backend: str) -> None:
    net = linf_net((1, 3, 3), 3, width=9, depth=3, mean=(0.5,), std=0.25)
    net.p = 8
    net(Tensor(np.random.default_rng(0).random((4, 1, 3, 3), np.float32))).mean().backward()
    for name, parameter in net.parameters().items():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


# the Lipschitz constant


SCALES = st.sampled_from([1e-3, 1.0, 1.0, 30.0])


@every_case
@draws(30)
@given(data=st.data())
def test_the_lipschitz_constant_is_never_exceeded(case: Case, data: st.DataObject) -> None:
    """Up to the rounding of both outputs, which the layer states as well."""
    layer = case.layer(data.draw(st.integers(0, 2**32)), data.draw(SCALES))
    x, other = (data.draw(arrays((2, *case.shape))) for _ in range(2))
    if data.draw(st.booleans()):  # as near as an attack would look
        other = (x + other / 256).astype(np.float32)
    y, y_other = (layer(Tensor(z)).numpy().astype(np.float64) for z in (x, other))
    distance = np.abs(x.astype(np.float64) - other).max()
    error, _ = layer.rounding(float(max(np.abs(x).max(), np.abs(other).max())))
    assert np.abs(y - y_other).max() <= (layer.lipschitz() * distance + 2 * error) * (1 + 1e-12)


def steepest(layer: Module, width: int) -> tuple[Array, Array]:
    """Two inputs, 2 apart, between which a layer should change the most."""
    up = np.full((1, width), 1e3)
    if isinstance(layer, Dense):
        w = layer.weight.numpy().astype(np.float64)
        up = np.sign(w[np.abs(w).sum(axis=1).argmax()])[None, :]
        return up, -up
    if isinstance(layer, Tanh | ReLU):
        up = np.full((1, width), 2e-4)
        return up, up / 2
    return up + 1, up - 1


@pytest.mark.parametrize(
    "layer",
    [Negate(), ReLU(), Tanh(), Flatten(), LinfDistDense(6, 4, bias=True, groups=2), MeanShift(6), Dense(6, 4, seed=3)],
    ids=lambda layer: type(layer).__name__,
)
def test_the_lipschitz_constant_is_attained(layer: Module) -> None:
    x, other = (z.astype(np.float32) for z in steepest(layer, 6))
    y, y_other = (layer.eval()(Tensor(z)).numpy().astype(np.float64) for z in (x, other))
    assert np.abs(y - y_other).max() == pytest.approx(layer.lipschitz() * np.abs(x - other).max(), rel=1e-4)


def test_lipschitz_constants_by_hand() -> None:
    dense = Dense(4, 2)
    dense.load_state({"weight": single([[1, -2, 3, 0], [-4, 4, 4, -4]]), "bias": single([9, 9])})
    assert dense.lipschitz() == pytest.approx(16 / 2, rel=1e-6)  # the largest absolute row sum over √4
    assert dense.lipschitz() >= 8
    assert Normalize((0.25,), 0.5).lipschitz() == 2
    for layer in (LinfDistDense(3, 4), LinfDistConv2d(2, 2, 3), MeanShift(3), Negate(), ReLU(), Tanh(), Flatten()):
        assert layer.lipschitz() == 1
    assert CenterCrop(2).lipschitz() == 1
    assert conv_net((1, 3, 3), 2, channels=1, width=2, mean=(0.5,), std=0.25, crop=2).lipschitz() == 4
    net = Sequential(Normalize((0.0,), 0.125), Flatten(), dense, Tanh(), LinfDistDense(2, 2), dense)
    assert net.lipschitz() == 8 * dense.lipschitz() ** 2
    assert Sequential().lipschitz() == 1
    assert linf_net((1, 2, 2), 2, width=4, depth=4, mean=(0.5,), std=0.25).lipschitz() == 4


@given(seed=st.integers(0, 2**32), inputs=st.integers(1, 9))
def test_a_linear_layer_is_as_steep_as_the_rounded_weights_it_multiplies_by(seed: int, inputs: int) -> None:
    layer = Dense(inputs, 3, seed=seed)
    for matrix in (layer.matrix.numpy().astype(np.float64), layer.weight.data / math.sqrt(inputs)):
        assert abs(matrix).sum(axis=1).max() <= layer.lipschitz() * (1 + 1e-15)


def test_the_norm_of_a_net_is_attained_in_pixels() -> None:
    """One neuron, deep in its linear region: a pixel step of h moves the logit by h/std."""
    net = linf_net((1, 1, 1), 1, width=1, depth=3, mean=(0.5,), std=0.25).eval()
    net.load_state({name: np.full_like(array, -16 * ("weight" in name)) for name, array in net.state().items()})
    low, high = (net(np.full((1, 1, 1, 1), pixel, np.float32)).item() for pixel in (0.25, 0.75))
    assert low - high == 2  # logits are negative distances


# rounding


def exceeds(layer: Module, x: Array) -> tuple[float, float]:
    """How far the computed output is beyond the two numbers that rounding() gives; sound is ≤ 0."""
    with no_grad():
        y = layer(Tensor(x)).numpy().astype(np.float64)
    error, magnitude = layer.rounding(float(np.abs(x).max()))
    return float(np.abs(y - plain(layer, x)).max() - error * (1 + 1e-9)), float(np.abs(y).max() - magnitude)


@every_case
@draws(40)
@given(data=st.data())
def test_the_computed_output_is_as_near_the_exact_one_as_stated(case: Case, data: st.DataObject) -> None:
    """The exact one by float64 arithmetic on the same float32 parameters, whose own error is negligible here."""
    layer = case.layer(data.draw(st.integers(0, 2**32)), data.draw(st.sampled_from([1e-25, 1e-3, 1, 1, 30, 1e3])))
    x = data.draw(
        arrays((2, *case.shape)) | arrays((2, *case.shape), 0, 1) | arrays((2, *case.shape), -(2.0**-60), 2.0**-60)
    )
    beyond_error, beyond_magnitude = exceeds(layer, x)
    assert beyond_error <= 0
    assert beyond_magnitude <= 0


@draws(40)
@given(data=st.data())
def test_rounding_of_a_distance_layer_with_any_weights(backend: str, data: st.DataObject) -> None:
    layer = LinfDistDense(4, 3, bias=True, groups=1).eval()
    layer.load_state({"weight": data.draw(arrays((3, 4))), "bias": data.draw(arrays((3,)))})
    assert max(exceeds(layer, data.draw(arrays((2, 4))))) <= 0


@draws(40)
@given(data=st.data())
def test_rounding_of_a_linear_layer_with_any_weights(data: st.DataObject) -> None:
    layer = Dense(4, 3).eval()
    layer.load_state({"weight": data.draw(arrays((3, 4))), "bias": data.draw(arrays((3,)))})
    assert max(exceeds(layer, data.draw(arrays((2, 4))))) <= 0


def test_rounding_covers_a_sum_that_is_rounded_the_same_way_again_and_again() -> None:
    layer = Dense(2**14, 1)
    layer.weight.data[:] = 2**7  # divided by the root of 2^14 it is 1
    for term in np.random.default_rng(0).uniform(0.5, 1, 20).astype(np.float32):
        found = layer(np.full((1, 2**14), term)).item()
        assert abs(found - 2**14 * float(term)) <= layer.rounding(float(term))[0]


def test_rounding_covers_products_that_underflow() -> None:
    layer = Dense(2, 1)
    layer.load_state({"weight": single([[1e-30, 1e-30]]), "bias": single([0])})
    x = np.full((1, 2), 1e-16, np.float32)
    assert layer(Tensor(x)).item() == 0
    assert max(exceeds(layer, x)) <= 0


def test_rounding_is_small_and_in_the_end_attained() -> None:
    """A bound within a factor of two of an error that happens is no idle one: 2^24 + 1.5 has no float32."""
    layer = LinfDistDense(1, 1)
    layer.load_state({"weight": single([[-(2.0**24)]])})
    x = single([[1]])  # 2^24 + 1 lies halfway between two float32 numbers
    error, magnitude = layer.rounding(1.0)
    computed, exact = layer.eval()(Tensor(x)).item(), 2.0**24 + 1
    assert abs(computed - exact) == 1
    assert 1 <= error <= 1.0001
    assert exact <= magnitude <= exact * 1.0000002


def test_errors_add_up_over_distance_layers_and_grow_with_linear_ones() -> None:
    """E of a chain is E1 L2 + E2: here by hand, with magnitudes that make each u or 2 u."""
    u = 2.0**-24
    one = LinfDistDense(1, 1)
    one.load_state({"weight": single([[1]])})
    assert one.rounding(1)[0] == pytest.approx(2 * u)
    assert Sequential(one, one).rounding(1)[0] == pytest.approx(2 * u + 3 * u, rel=1e-6)
    assert Flatten().rounding(5.0) == CenterCrop(2).rounding(5.0) == (0.0, 5.0)
    assert Sequential(Negate(), ReLU()).rounding(5.0) == (2 * 2.0**-126, 5.0)  # where a GPU makes denormals 0
    linear = Dense(1, 1)
    linear.load_state({"weight": single([[8]]), "bias": single([0])})
    own = linear.rounding(one.rounding(1)[1])[0]
    assert Sequential(one, linear).rounding(1)[0] == pytest.approx(8 * 2 * u + own, rel=1e-5)


# intervals


@every_case
@draws(30)
@given(data=st.data())
def test_an_interval_contains_what_its_points_become(case: Case, data: st.DataObject) -> None:
    """The float32 program itself, rounding included."""
    layer = case.layer(data.draw(st.integers(0, 2**32)), data.draw(SCALES))
    box = data.draw(boxes((2, *case.shape)) | boxes((2, *case.shape), 0, 1))
    bounds = layer(box)
    assert isinstance(bounds, Interval)
    point = data.draw(points_in(box))
    y = layer(Tensor(point))
    assert bounds.shape == y.shape
    assert bounds.contains(y.numpy())


@every_case
def test_an_interval_without_width_stays_narrow(case: Case) -> None:
    layer = case.layer()
    x = np.random.default_rng(1).random((2, *case.shape), np.float32)
    bounds = layer(Interval(x, x))
    np.testing.assert_allclose(bounds.lower, bounds.upper, atol=4 * layer.rounding(1.0)[0])


# nets


@pytest.mark.parametrize("mean_shift", [True, False])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_depth_counts_the_distance_layers(depth: int, mean_shift: bool) -> None:
    net = linf_net((3, 2, 2), 4, width=6, depth=depth, mean=RGB, std=0.2, mean_shift=mean_shift)
    hidden = [LinfDistDense, MeanShift] if mean_shift else [LinfDistDense]
    assert [type(layer) for layer in net.layers] == [
        Normalize, Flatten, *hidden * (depth - 1), LinfDistDense, Negate,
    ]  # fmt: skip
    distance = [layer for layer in net.layers if isinstance(layer, LinfDistDense)]
    shapes = [(6, 12), *[(6, 6)] * (depth - 2), (4, 6)] if depth > 1 else [(4, 12)]
    assert [layer.weight.shape for layer in distance] == shapes
    assert [layer.bias is not None for layer in distance] == [False] * (depth - 1) + [True]
    assert net(np.zeros((5, 3, 2, 2), np.float32)).shape == (5, 4)


def test_every_distance_layer_starts_as_an_identity_where_it_is_no_narrower_than_its_input() -> None:
    def tens(classes: int, identity: bool = True) -> list[int]:
        net = linf_net((1, 2, 2), classes, width=4, depth=2, mean=(0,), std=1, identity=identity)
        return [int((net.state()[name] == -10).sum()) for name in ("2.weight", "4.weight")]

    assert [tens(3), tens(4), tens(6), tens(4, identity=False)] == [[4, 0], [4, 4], [4, 6], [0, 0]]
    conv = conv_net((1, 2, 2), 5, channels=1, width=4, mean=(0,), std=1)
    assert (conv.state()["14.weight"] == -10).sum() == 5


def test_logits_are_negative_distances() -> None:
    """At evaluation, with no bias yet: the nearest class has the largest logit."""
    net = linf_net((1, 3, 3), 5, width=9, depth=3, mean=(0.5,), std=0.25).eval()
    assert (net(np.random.default_rng(0).random((4, 1, 3, 3), np.float32)).numpy() <= 0).all()


def test_a_head_stands_on_all_the_distance_layers() -> None:
    net = linf_net((3, 4, 4), 7, width=6, depth=2, mean=RGB, std=0.2, crop=3, head=5, seed=1)
    assert [type(layer) for layer in net.layers] == [
        Normalize, CenterCrop, Flatten, *[LinfDistDense, MeanShift] * 2, Dense, Tanh, Dense,
    ]  # fmt: skip
    shapes = {"3.weight": (6, 27), "5.weight": (6, 6), "7.weight": (5, 6), "9.weight": (7, 5)}
    assert {name: each.shape for name, each in net.parameters().items() if "weight" in name} == shapes
    assert {name for name in net.parameters() if "bias" in name} == {"7.bias", "9.bias"}
    assert net(np.zeros((2, 3, 4, 4), np.float32)).shape == (2, 7)
    other = linf_net((3, 4, 4), 7, width=6, depth=2, mean=RGB, std=0.2, crop=3, head=5, seed=2)
    assert all((other.state()[name] != net.state()[name]).any() for name in shapes)


@pytest.mark.parametrize("head", [0, 4])
@pytest.mark.parametrize("mean_shift", [True, False])
@pytest.mark.parametrize(
    ("shape", "crop", "sizes"),
    [
        ((1, 4, 4), 0, [(4, 4)] * 2 + [(2, 2)] * 3),
        ((3, 5, 7), 0, [(5, 7)] * 2 + [(3, 4)] * 3),
        ((2, 1, 1), 0, [(1, 1)] * 5),
        ((2, 2, 9), 0, [(2, 9)] * 2 + [(1, 5)] * 3),
        ((3, 6, 8), 5, [(5, 5)] * 2 + [(3, 3)] * 3),
    ],
)
def test_the_shapes_in_a_conv_net(
    shape: tuple[int, int, int], crop: int, sizes: list[tuple[int, int]], mean_shift: bool, head: int
) -> None:
    """2, 2, 4, 4, 4 channels; a stride of 2 leaves half the pixels, rounded up."""
    net = conv_net(shape, 3, channels=2, width=5, mean=(0.5,), std=0.25, crop=crop, head=head, mean_shift=mean_shift)
    x: Any = Tensor(np.zeros((2, *shape), np.float32))
    found = []
    for layer in net.eval().layers:  # type: ignore[attr-defined]
        x = layer(x)
        if isinstance(layer, LinfDistConv2d):
            found.append(x.shape)
    assert found == [(2, channels, *size) for channels, size in zip((2, 2, 4, 4, 4), sizes, strict=True)]
    assert x.shape == (2, 3)
    pairs = [type(layer) for layer in net.layers if isinstance(layer, LinfDistConv2d | LinfDistDense | MeanShift)]
    last = [] if head else [LinfDistDense]
    shifted = [[LinfDistConv2d, MeanShift]] * 5 + [[LinfDistDense, MeanShift]]
    assert pairs == [kind for pair in shifted for kind in pair if mean_shift or kind is not MeanShift] + last


def test_a_conv_net_is_the_layers_it_names() -> None:
    """One made of the layers by hand gives the same bits."""
    net = Case(lambda: conv_net((1, 5, 4), 3, channels=2, width=6, mean=(0.5,), std=0.25), (), "").layer()
    layers: list[Module] = [Normalize((0.5,), 0.25)]
    for inputs, outputs, stride in [(1, 2, 1), (2, 2, 1), (2, 4, 2), (4, 4, 1), (4, 4, 1)]:
        layers += [LinfDistConv2d(inputs, outputs, 3, stride=stride, padding=1), MeanShift(outputs)]
    by_hand = Sequential(
        *layers, Flatten(), LinfDistDense(24, 6), MeanShift(6), LinfDistDense(6, 3, bias=True), Negate()
    )
    by_hand.load_state(net.state())
    x = np.random.default_rng(1).random((3, 1, 5, 4), np.float32)
    np.testing.assert_array_equal(by_hand.eval()(x).numpy(), net(x).numpy())


@given(sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), data=st.data())
def test_a_crop_takes_as_much_from_either_side(backend: str, sides: tuple[int, int], data: st.DataObject) -> None:
    """Or one pixel more below and on the right, of values as of bounds."""
    size = data.draw(st.integers(1, min(sides)))
    (above, below), (left, right) = (((side - size) // 2, (side - size + 1) // 2) for side in sides)
    ball = data.draw(boxes((2, 3, *sides)))
    bounds = CenterCrop(size)(ball)
    for found, end in ((bounds.lower, ball.lower), (bounds.upper, ball.upper)):
        expected = to_numpy(end)[:, :, above : sides[0] - below, left : sides[1] - right]
        assert expected.shape == (2, 3, size, size)
        np.testing.assert_array_equal(to_numpy(found), expected)
        np.testing.assert_array_equal(CenterCrop(size)(Tensor(to_numpy(end))).numpy(), expected)


def test_the_gradient_of_a_crop_is_zero_around_it(backend: str) -> None:
    x = Tensor(np.random.default_rng(0).standard_normal((2, 1, 3, 4)), requires_grad=True)
    CenterCrop(2)(x).sum().backward()
    assert x.grad is not None
    inside = [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(to_numpy(x.grad), np.broadcast_to(inside, (2, 1, 3, 4)))


@given(data=st.data())
def test_a_cropped_net_is_the_net_of_the_window(data: st.DataObject) -> None:
    """What lies around it may be anything."""
    cropped = Case(lambda: linf_net((1, 4, 3), 3, width=6, depth=2, mean=(0.5,), std=0.25, crop=2), (), "").layer()
    small = linf_net((1, 2, 2), 3, width=6, depth=2, mean=(0.5,), std=0.25).eval()
    small.load_state({re.sub(r"^\d+", lambda i: str(int(i[0]) - 1), key): a for key, a in cropped.state().items()})
    x = data.draw(arrays((2, 1, 4, 3), 0, 1))
    np.testing.assert_array_equal(cropped(x).numpy(), small(x[:, :, 1:3, :2].copy()).numpy())


# the worst case in training


def doubled(net: Module) -> Module:
    """The net with its numbers in float64."""
    for _, module in net.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Tensor):
                setattr(module, name, Tensor(value.numpy().astype(np.float64), requires_grad=True))
            elif isinstance(value, np.ndarray):
                setattr(module, name, value.astype(np.float64))
    return net


HEADS = [case for case in NETS if "head" in case.label]
every_head = pytest.mark.parametrize("case", HEADS, ids=str)


def headed(case: Case, seed: int = 0, scale: float = 1.0) -> Sequential:
    net = case.layer(seed, scale)
    assert isinstance(net, Sequential)
    return net


def samples(case: Case, n: int = 4, seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    x = rng.random((n, *case.shape), np.float32)
    return x, rng.integers(0, case.layer()(x).shape[1], n)


def worst_of(net: Sequential, x: Array, labels: Array, eps: float) -> Array:
    """Sample by sample and class by class, in float64: centre and radius of each neuron, one after the other."""
    *body, first, _, last = net.layers
    features = plain(Sequential(*body), x)
    (w1, b1), (w2, b2) = doubles(first), doubles(last)
    w1, w2 = w1 / math.sqrt(w1.shape[1]), w2 / math.sqrt(w2.shape[1])
    worst = np.zeros((len(x), len(w2)))
    for n, j in np.ndindex(*worst.shape):
        total = b2[j] - b2[labels[n]]
        for h, (w, b) in enumerate(zip(w1, b1, strict=True)):
            middle = math.fsum(w * features[n]) + b
            reach = eps * math.fsum(abs(w))
            low, high = math.tanh(middle - reach), math.tanh(middle + reach)
            difference = w2[j, h] - w2[labels[n], h]
            total += max(difference * low, difference * high)
        worst[n, j] = total
    return worst


@every_head
@pytest.mark.parametrize("eps", [0.0, 0.125, 1.5])
def test_the_worst_case_is_a_loop_over_samples_and_classes(backend: str, case: Case, eps: float) -> None:
    net, (x, labels) = headed(case), samples(case)
    z, worst = net.worst_case(Tensor(x), labels, eps)
    assert worst is not None
    assert worst.shape == z.shape
    assert worst.dtype == np.float32
    np.testing.assert_array_equal(z.numpy(), net(Tensor(x)).numpy())
    np.testing.assert_allclose(worst.numpy(), worst_of(net, x, labels, eps), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(worst.numpy()[np.arange(len(x)), labels], 0)


@every_head
def test_the_worst_case_at_a_point_is_the_difference_of_logits(case: Case) -> None:
    net, (x, labels) = headed(case), samples(case)
    z, worst = net.worst_case(x, labels, 0)
    assert worst is not None
    own = z.numpy()[np.arange(len(x)), labels][:, None]
    np.testing.assert_allclose(worst.numpy(), z.numpy() - own, atol=1e-6)


@every_head
@draws(30)
@given(data=st.data())
def test_the_worst_case_grows_with_eps_and_is_no_better_than_any_point(case: Case, data: st.DataObject) -> None:
    net, (x, labels) = headed(case, data.draw(st.integers(0, 2**32)), data.draw(SCALES)), samples(case)
    small, large = sorted(data.draw(st.floats(0, 2, width=32)) for _ in range(2))
    (z, near), (_, far) = (net.worst_case(x, labels, eps) for eps in (small, large))
    assert near is not None
    assert far is not None
    step = np.float32(small / net.layers[0].lipschitz()) * data.draw(arrays(x.shape, -1, 1))
    moved = net(x + step).numpy()
    differences = moved - moved[np.arange(len(x)), labels][:, None]
    tolerance = 1e-4 * (1 + np.abs(z.numpy()).max())
    assert (far.numpy() >= near.numpy() - tolerance).all()
    assert (near.numpy() >= differences - tolerance).all()


@pytest.mark.parametrize("case", [case for case in NETS if case.label.startswith("LinfDist")], ids=str)
def test_without_a_head_the_losses_know_the_worst_case(case: Case) -> None:
    net, (x, labels) = headed(case), samples(case)
    z, worst = net.worst_case(x, labels, 0.25)
    assert (worst is None) == ("head" not in case.label)
    np.testing.assert_array_equal(z.numpy(), net(x).numpy())


@every_head
@draws(40)
@given(data=st.data())
def test_a_certificate_is_no_looser_than_the_worst_case_of_training(case: Case, data: st.DataObject) -> None:
    """The box is the ball less what is no image, and its bounds pass through the distance layers one by one."""
    net, (x, labels) = headed(case, data.draw(st.integers(0, 2**32))), samples(case)
    eps = data.draw(st.fractions(0, Fraction(1, 2)))
    _, worst = net.worst_case(x, labels, float(eps) * net.layers[0].lipschitz())
    assert worst is not None
    others = np.arange(worst.shape[1]) != labels[:, None]
    in_training = -np.where(others, worst.numpy(), -np.inf).max(axis=1)
    assert (net.lowest_margins(domain_of(net).ball(x, eps), labels) >= in_training - 1e-4).all()


@every_head
@pytest.mark.parametrize("p", [8, math.inf])
def test_gradients_flow_through_the_worst_case(case: Case, p: float) -> None:
    net = headed(case)
    net.train().p = p
    doubled(net)
    x, labels = samples(case)
    *_, first, _, last = net.layers

    def loss(x: Tensor, *parameters: Tensor) -> Tensor:
        first.weight, first.bias, last.weight, last.bias = parameters  # type: ignore[attr-defined]
        z, worst = net.worst_case(x, labels, 0.3)
        return robust_cross_entropy(z, labels, 0.3, 0.4, worst=worst) + hinge(z, labels, 0.3, worst=worst)

    head = [first.weight, first.bias, last.weight, last.bias]  # type: ignore[attr-defined]
    gradcheck(loss, x, *head, along=12, **CENTRAL_DIFFERENCES)


def test_every_parameter_gets_a_gradient_through_the_worst_case(backend: str) -> None:
    net = conv_net((1, 3, 3), 3, channels=2, width=4, mean=(0.5,), std=0.25, head=5)
    net.p = 8
    z, worst = net.worst_case(Tensor(np.random.default_rng(0).random((4, 1, 3, 3), np.float32)), np.arange(4) % 3, 0.1)
    robust_cross_entropy(z, np.arange(4) % 3, 0.1, worst=worst).backward()
    for name, parameter in net.parameters().items():
        assert parameter.grad is not None, name
        if name != list(net.parameters())[-1]:
            assert parameter.grad.any(), name


def test_a_loss_without_a_head_is_that_of_its_logits() -> None:
    net = linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0.5,), std=0.25).eval()
    x, labels = np.random.default_rng(0).random((4, 1, 2, 2), np.float32), np.array([0, 1, 2, 0])
    z, worst = net.worst_case(x, labels, 0.3)  # type: ignore[attr-defined]
    assert worst is None
    own = z.numpy()[np.arange(4), labels][:, None]
    by_hand = np.where(np.arange(3) == labels[:, None], 0, z.numpy() - own + np.float32(0.6))
    for loss in (hinge, robust_cross_entropy):
        given_it = loss(z, labels, 0.3, worst=Tensor(by_hand))
        assert loss(z, labels, 0.3, worst=worst).item() == pytest.approx(given_it.item(), rel=1e-6)


def test_normalize_by_hand() -> None:
    x = single([0.5, 0.25, 1]).reshape(1, 3, 1, 1)
    y = Normalize((0.5, 0, 0.25), 0.25)(Tensor(x))
    np.testing.assert_array_equal(y.numpy().reshape(-1), [0, 1, 3])
    np.testing.assert_array_equal(Normalize((0.5,), 0.25)(x).numpy().reshape(-1), [0, -1, 2])  # one mean for all


# what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinfDistDense(3, 0), "LinfDistDense: sizes must be at least 1, got 0 outputs of 3 inputs"),
        (lambda: LinfDistDense(0, 3), "LinfDistDense: sizes must be at least 1, got 3 outputs of 0 inputs"),
        (lambda: LinfDistDense(4, 3, groups=2), "3 outputs cannot be divided into 2 groups"),
        (lambda: LinfDistDense(3, 4, groups=2), "3 inputs cannot be divided into 2 groups"),
        (lambda: LinfDistDense(3, 4, groups=0), "into 0 groups"),
        (lambda: LinfDistConv2d(3, 4, 3, groups=2), "3 channels cannot be divided into 2 groups"),
        (lambda: LinfDistConv2d(2, 0, 3), "LinfDistConv2d: sizes must be at least 1"),
        (lambda: LinfDistConv2d(2, 3, 0), "kernel_size and stride must be at least 1"),
        (lambda: LinfDistConv2d(2, 3, -1), "kernel_size and stride must be at least 1"),
        (lambda: LinfDistConv2d(2, 3, 2, stride=0), "kernel_size and stride must be at least 1"),
        (lambda: LinfDistConv2d(2, 3, 2, padding=-1), "padding at least 0, got 2, 1 and -1"),
        (lambda: Dense(0, 3), "Dense: sizes must be at least 1, got 0 and 3"),
        (lambda: Dense(3, -1), "Dense: sizes must be at least 1"),
        (lambda: MeanShift(0), "MeanShift: expected at least 1 channel"),
        (lambda: MeanShift(2, momentum=1.5), r"MeanShift: .*momentum in \[0, 1\], got 2 and 1.5"),
        (lambda: MeanShift(2, momentum=math.nan), "MeanShift"),
        (lambda: Normalize((0.5,), 0), "Normalize: expected one positive number for std, or one a channel, got 0"),
        (lambda: Normalize((0.5,), (0.2, 0)), r"one positive number for std, or one a channel, got \(0.2, 0\)"),
        (lambda: Normalize((0.5,), ((0.2, 0.2),)), "one positive number for std"),  # type: ignore[arg-type]
        (lambda: Normalize((0.5,), -1), "Normalize"),
        (lambda: Normalize((0.5,), math.nan), "Normalize"),
        (lambda: Normalize((0.5,), 1e-60), "Normalize"),  # 0 in float32
        (lambda: Normalize((), 0.5), "Normalize"),
        (lambda: Normalize((0.5, math.inf, 0), 0.5), "Normalize"),
        (lambda: linf_net((1, 2, 2), 3, width=4, depth=0, mean=(0,), std=1), "depth must be at least 1, got 0"),
        (lambda: linf_net((1, 2, 2), 0, width=4, depth=2, mean=(0,), std=1), "sizes must be at least 1"),
        (lambda: linf_net((1, 2, 2), 3, width=0, depth=2, mean=(0,), std=1), "sizes must be at least 1"),
        (lambda: linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0,), std=1, head=-1), "Dense: sizes must be"),
        (lambda: linf_net((1, 5, 3), 3, width=4, depth=2, mean=(0,), std=1, crop=4), "of the images, 5 x 3, got 4"),
        (
            lambda: linf_net((1, 5, 3), 3, width=4, depth=2, mean=(0,), std=1, crop=-1),
            "of the images, 5 x 3, got -1",
        ),
        (lambda: conv_net((1, 2, 2), 3, channels=0, width=4, mean=(0,), std=1), "sizes must be at least 1"),
        (lambda: conv_net((1, 2, 2), 3, channels=1, width=0, mean=(0,), std=1), "sizes must be at least 1"),
        (lambda: conv_net((1, 2, 2), 0, channels=1, width=4, mean=(0,), std=1), "sizes must be at least 1"),
        (lambda: conv_net((1, 5, 3), 3, channels=1, width=4, mean=(0,), std=1, crop=4), "5 x 3, got 4"),
        (lambda: CenterCrop(0), "CenterCrop: size must be at least 1, got 0"),
        (lambda: CenterCrop(-2), "CenterCrop: size must be at least 1, got -2"),
    ],
)
def test_sizes_that_make_no_layer(make: Callable[[], Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (LinfDistDense(3, 4), (2, 5), "x has 5 features where w has 3"),
        (LinfDistDense(4, 4, groups=2), (2, 2), "x has 2 features where w has 2 times 2 groups"),
        (LinfDistDense(3, 4), (0, 3), "nothing to compute"),
        (LinfDistConv2d(2, 2, 2), (1, 3, 4, 4), "x has 12 features where w has 8"),
        (LinfDistConv2d(2, 2, 2), (2, 4, 4), "must be .n, channels, height, width"),
        (LinfDistConv2d(2, 2, 5, padding=1), (1, 2, 2, 2), "a window of 5 x 5 does not fit an image of 2 x 2"),
        (MeanShift(3), (2, 4), r"MeanShift: expected \(n, 3, ...\), got \(2, 4\)"),
        (MeanShift(3), (3,), r"MeanShift: expected \(n, 3, ...\), got \(3,\)"),
        (MeanShift(3), (0, 3), "nothing to reduce"),
        (Dense(3, 4), (2, 5), "must share k"),
        (Normalize(RGB, 0.2), (2, 1, 4, 4), r"Normalize: expected inputs \(n, 3, ...\), got \(2, 1, 4, 4\)"),
        (CenterCrop(3), (2, 1, 2, 5), r"CenterCrop: expected images of at least 3 x 3, got \(2, 1, 2, 5\)"),
        (CenterCrop(3), (2, 1, 5, 2), "CenterCrop: expected images of at least 3 x 3"),
        (CenterCrop(3), (2, 9), r"CenterCrop: expected images of at least 3 x 3, got \(2, 9\)"),
        (CenterCrop(3), (3, 4, 4), "CenterCrop: expected images of at least 3 x 3"),
        (
            linf_net((1, 4, 4), 3, width=4, depth=2, mean=(0,), std=1, crop=3),
            (2, 1, 2, 2),
            r"the net takes images \(n, 1, 4, 4\), got shape \(2, 1, 2, 2\)",
        ),
        (
            conv_net((1, 4, 4), 3, channels=1, width=4, mean=(0,), std=1),
            (2, 1, 6, 6),
            r"the net takes images \(n, 1, 4, 4\), got shape \(2, 1, 6, 6\)",
        ),
        (Normalize((0.5,), 0.2), (2,), r"Normalize: expected inputs \(n, 1, ...\), got \(2,\)"),
        (Normalize((0.5,), (0.2, 0.1)), (2, 3), r"Normalize: expected inputs \(n, 2, ...\), got \(2, 3\)"),
        (linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0,), std=1), (0, 1, 2, 2), "nothing to compute"),
        (
            linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0,), std=1),
            (2, 1, 3, 3),
            r"the net takes images \(n, 1, 2, 2\), got shape \(2, 1, 3, 3\)",
        ),
    ],
)
def test_inputs_that_do_not_fit(layer: Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer(np.zeros(shape, np.float32))


def test_float64_inputs_want_float64_weights() -> None:
    with pytest.raises(TypeError, match="one dtype, not float64 and float32"):
        LinfDistDense(3, 4)(np.zeros((2, 3)))


def test_layers_in_a_list_belong_to_the_net() -> None:
    """What the walk overlooked would keep its finite p in evaluation."""

    class Branches(Module):
        def __init__(self) -> None:
            self.branches = [LinfDistDense(3, 4), Sequential(LinfDistDense(3, 2))]

    net = Branches()
    net.p = 8
    assert set(net.parameters()) == {"branches.0.weight", "branches.1.0.weight"}
    assert all(module.p == 8 for _, module in net.modules())
    assert not any(module.training for _, module in net.eval().modules())


@pytest.mark.parametrize(
    "layers",
    [
        (Normalize((0,), 1e-39), Normalize((0,), 1e38)),
        (Normalize((3.4028e38,), 1e38), Normalize((0,), 1e38)),
        (Normalize((0,), 1e-20), Normalize((0,), 1e-20), Normalize((0,), 1e38)),
    ],
)
def test_where_an_inner_layer_may_overflow_rounding_has_no_bound(layers: tuple[Module, ...]) -> None:
    """Even if a later layer makes the numbers small again."""
    assert Sequential(*layers).rounding(1e34) == (math.inf, math.inf)
