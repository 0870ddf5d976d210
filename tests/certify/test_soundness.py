"""Soundness by the million: no certificate of any kind of net is broken by any image that lies in its ball.

Hypothesis and Fractions take certificates apart one by one in test_certify.py; here they are attacked in bulk, at radii
so close to what is proved that the slightest mistake shows.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws, thorough
from support.nets import HEADED, fractions
from support.strategies import arrays, boxes, points_in

from linfengine import Interval, Tensor, load_dataset
from linfengine.attack import pgd, push
from linfengine.audit import RADII, attack_radii, random_net
from linfengine.backends import Array, to_numpy
from linfengine.certify import certify, check_samples, predict
from linfengine.domain import domain_of
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
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
    conv_net,
    linf_net,
)
from linfengine.recipes import load_recipe
from linfengine.train import train

Rng = np.random.Generator


def drawn(net: Module, rng: Rng) -> Module:
    """Its numbers drawn anew: normal, now and then with some that are large or on a coarse grid."""
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape) * rng.choice([0.5, 1.0, 4.0])
        if rng.random() < 0.3:
            array[...] = np.round(array * 8) / 8  # many ties
    return net.eval()


def dense(rng: Rng) -> Module:
    return drawn(
        linf_net((1, 3, 3), 3, width=int(rng.integers(3, 17)), depth=int(rng.integers(1, 4)), mean=(0.4,), std=0.3),
        rng,
    )


def conv(rng: Rng) -> Module:
    if rng.random() < 0.3:
        crop = int(rng.choice([0, 2]))
        return drawn(conv_net((2, 3, 3), 3, channels=2, width=6, mean=(0.3, 0.5), std=0.25, crop=crop), rng)
    net = Sequential(
        Normalize((0.3, 0.5), 0.25),
        LinfDistConv2d(2, 4, 2, padding=1, groups=2),
        MeanShift(4),
        ReLU(),
        LinfDistConv2d(4, 3, 2, stride=2),
        MeanShift(3),
        Flatten(),
        LinfDistDense(12, 4, bias=True),
        Negate(),
    )
    return drawn(net, rng)


def with_head(rng: Rng) -> Module:
    """Sometimes with two rows of the last layer that are equal, or nearly so."""
    crop = int(rng.choice([0, 0, 2]))
    net = drawn(linf_net((1, 3, 3), 3, width=12, depth=1, mean=(0.4,), std=0.3, crop=crop, head=6), rng)
    assert isinstance(net, Sequential)
    last = net.layers[-1].state()["weight"]
    if rng.random() < 0.3:
        last[1] = last[0] * np.float32(1 + 2.0**-23 * rng.integers(0, 3))
    return net


def exact(make: Callable[[Rng], Module], bits: int) -> Callable[[Rng], Module]:
    return lambda rng: quantize(make(rng), bits)


KINDS = {
    "dense": (dense, 1),
    "conv": (conv, 2),
    "with a head": (with_head, 1),
    "exact dense": (exact(dense, 6), 1),
    "exact conv": (exact(conv, 4), 2),
    "bytes": (exact(dense, 0), 1),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Module:
    recipe = load_recipe("digits", ["epochs=40", "ramp_start=10", "ramp_end=36"])
    return train(recipe, load_dataset("digits"), tmp_path_factory.mktemp("run"))


def close_radius(net: Module, images: Array, labels: Array, method: str, rng: Rng) -> Fraction:
    """Hardly smaller than what is proved of one of the images, or a usual one."""
    proved = certify(net, images, labels, 0, method="margin")
    radius = Fraction(float(rng.choice(proved.radius)))
    if isinstance(net, ExactNet) and proved.steps is not None:
        radius = Fraction(int(rng.choice(proved.steps)), 255 << net.fraction_bits)
    wider = Fraction(1) if method == "margin" else Fraction(11, 10)  # where the box has to prove it
    chosen = rng.choice(np.array([radius, radius * wider, radius * Fraction(999_999, 10**6), Fraction(8, 255)], object))
    return min(Fraction(chosen), Fraction(1))


def perturbed(net: Module, x: Array, labels: Array, eps: Fraction, count: int, rng: Rng) -> Array:
    """Images (count, n, c, h, w) of the balls around x: corners, faces, and what is pushed along the winning paths."""
    ball = domain_of(net).ball(x, eps, outward=False)
    way = rng.integers(-1, 2, (count, *x.shape))
    points = np.where(way > 0, ball.upper, np.where(way < 0, ball.lower, x)).astype(np.float32)
    for i in range(len(x)):
        found = push(net, x[i : i + 1], labels[i : i + 1], eps, rng, tries=7)
        points[: len(found), i] = found
    return points


@pytest.mark.parametrize("triples", [6_000, thorough(125_000)])
@pytest.mark.parametrize("method", ["margin", "interval"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_image_of_a_ball_breaks_its_certificate(kind: str, method: str, triples: int) -> None:
    """Triples of a model, an image and a perturbation, for each kind of net."""
    make, channels = KINDS[kind]
    rng = np.random.default_rng([list(KINDS).index(kind), method == "margin"])
    count, tried = 64, 0
    while tried < triples:
        net = make(rng)
        images = rng.integers(0, 256, (24, channels, 3, 3)).astype(np.uint8)
        x, _ = check_samples(net, images, np.zeros(24, int))
        labels = predict(net, x).argmax(axis=1)
        eps = close_radius(net, images, labels, method, rng)
        certified = certify(net, images, labels, eps, method=method).certified
        if not certified.any():
            tried += 1  # so that a net that certifies nothing at all ends the test
            continue
        x, labels = x[certified], labels[certified]
        points = perturbed(net, x, labels, eps, count, rng)
        predictions = predict(net, points.reshape(-1, *x.shape[1:]), 4096).argmax(axis=1).reshape(count, -1)
        assert (predictions == labels).all(), (kind, method, eps)
        tried += predictions.size


@pytest.mark.thorough
@pytest.mark.parametrize("bits", [None, 8, 0])
def test_no_image_of_a_ball_breaks_a_trained_net(bits: int | None, trained: Module) -> None:
    digits = load_dataset("digits")
    net, rng, tried = trained if bits is None else quantize(trained, bits), np.random.default_rng(0), 0
    for eps in (Fraction(1, 20), Fraction(1, 10), Fraction(1, 5)):
        certified = certify(net, digits.test_images, digits.test_labels, eps).certified
        assert certified.mean() > 0.2
        x, labels = check_samples(net, digits.test_images[certified], digits.test_labels[certified])
        points = perturbed(net, x, labels, eps, 96, rng)
        predictions = predict(net, points.reshape(-1, *x.shape[1:]), 4096).argmax(axis=1).reshape(len(points), -1)
        assert (predictions == labels).all()
        tried += predictions.size
    assert tried > 50_000


@pytest.mark.parametrize("bits", [0, 6])
def test_exact_certificates_hold_in_integers(bits: int) -> None:
    """The same with another judge: int64, and not a line of the engine but the net's numbers."""
    rng, grid = np.random.default_rng(bits), 1 << bits
    for _ in range(40):
        net = quantize(dense(rng), bits)
        images = rng.integers(0, 256, (24, 1, 3, 3)).astype(np.uint8)
        labels = predict(net, images).argmax(axis=1)
        eps = close_radius(net, images, labels, "interval", rng)
        certified = certify(net, images, labels, eps, method="exact").certified
        if not certified.any():
            continue
        steps = int(255 * eps * grid)
        centre = images[certified].reshape(certified.sum(), 9).astype(np.int64) * grid
        moved = centre + steps * rng.integers(-1, 2, (256, *centre.shape))
        h = moved.clip(0, 255 * grid)
        for layer in net.layers:
            if isinstance(layer, LinfDistDense):
                w = (layer.weight.data * grid).astype(np.int64)
                h = np.abs(h[..., None, :] - w).max(axis=-1)
                h = h if layer.bias is None else h + (layer.bias.data * grid).astype(np.int64)
        for others in range(3):
            rival = labels[certified] != others
            own = np.take_along_axis(h, labels[certified][None, :, None], axis=2)[..., 0]
            assert (own < h[..., others])[:, rival].all()  # distances: the nearest class wins, without a tie


@pytest.mark.parametrize(("nets", "seed"), [(400, 0), *(thorough(2_500, seed) for seed in range(4))])
def test_rounding_beats_radii_read_off_a_margin_and_none_of_ours(nets: int, seed: int) -> None:
    """On random 8-16-3 nets: the naive radius falls on many, a strict one on some, the proved on none."""
    rng = np.random.default_rng(seed)
    beaten = [attack_radii(*random_net(rng), rng) for _ in range(nets)]
    share = {claim: sum(each[claim] for each in beaten) / nets for claim in RADII}
    assert share["margin/2 >= r"] >= 0.05
    assert share["margin/2 > r"] >= 0.02
    assert share["proved"] == 0


def test_pgd_breaks_nothing_that_is_certified() -> None:
    """With restarts, targets, the smooth net's gradient and a search in the last place, on nets of all kinds."""
    for kind, (make, channels) in KINDS.items():
        rng = np.random.default_rng(len(kind))
        for _ in range(6):
            net = make(rng)
            images = rng.integers(0, 256, (24, channels, 3, 3)).astype(np.uint8)
            labels = predict(net, check_samples(net, images, np.zeros(24, int))[0]).argmax(axis=1)
            eps = close_radius(net, images, labels, "interval", rng)
            certified = certify(net, images, labels, eps, method="interval").certified
            found = pgd(net, images, labels, eps, steps=8, restarts=2, targeted=True, smooth=True, rounding=8)
            assert found.withstood[certified].all(), kind


# A linear layer at the end: the difference of two logits is bounded as such.


def difference(logits: Array, label: int) -> Fraction:
    """z_y - max_{j != y} z_j, exactly, of numbers or Fractions (classes,)."""
    exact = [Fraction(z) if isinstance(z, Fraction) else Fraction(float(z)) for z in logits]
    return exact[label] - max(z for j, z in enumerate(exact) if j != label)


def in_fractions(layer: Dense, h: Array) -> Array:
    """The logits (classes,) of features (k,): the real ones, of the layer's numbers as the program divides them."""
    matrix, bias = (fractions(to_numpy(array)) for array in (layer.matrix.data, layer.bias.data))
    return np.asarray(matrix @ fractions(h) + bias)


@st.composite
def last_layers(draw: st.DrawFn) -> Dense:
    """(4 classes, 5 features), numbers from next to nothing to huge, and rows that are equal or nearly so."""
    layer = Dense(5, 4, seed=draw(st.integers(0, 2**32)))
    layer.weight.data[...] = draw(arrays((4, 5), -4, 4) | st.just(layer.weight.numpy()))
    layer.weight.data[...] *= np.float32(draw(st.sampled_from([1e-42, 1e-30, 1e-3, 1.0, 1.0, 1e4, 1e20])))
    layer.bias.data[...] = draw(arrays((4,), -4, 4) | st.just(np.zeros(4, np.float32)))
    layer.bias.data[...] *= np.float32(draw(st.sampled_from([1e-42, 1e-6, 1.0, 1e20])))
    close = draw(st.sampled_from([None, 0, 1, 3]))
    if close is not None:
        layer.weight.data[1] = layer.weight.data[0] * np.float32(1 + close * 2.0**-23)
        layer.bias.data[1] = layer.bias.data[0] * np.float32(1 + draw(st.integers(0, 2)) * 2.0**-23)
    return layer


@given(layer=last_layers(), data=st.data())
@draws(60)
def test_no_features_of_a_box_have_less_than_the_lowest_margin(backend: str, layer: Dense, data: st.DataObject) -> None:
    """Neither as the program computes the logits, nor as they are."""
    ball = data.draw(boxes((3, 5), -1, 1) | boxes((3, 5)) | arrays((3, 5)).map(lambda x: Interval(x, x)))
    labels = np.array(data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)))
    lowest = layer.lowest_margins(ball, labels)
    assert (lowest.shape, lowest.dtype) == ((3,), np.float64)
    ball = ball.to("cpu")
    matrix = layer.matrix.numpy()
    slopes = matrix[labels][:, None] - matrix[None]  # (3, 4, 5): the worst corner of each rival
    rival = data.draw(st.integers(0, 3))
    corner = np.where(slopes[:, rival] > 0, ball.lower, ball.upper).astype(np.float32)
    for point in (data.draw(points_in(ball)), corner):
        logits = layer(Tensor(point)).numpy()
        for h, z, label, least in zip(point, logits, labels, lowest.tolist(), strict=True):
            assert difference(z, label) >= Fraction(least)
            assert difference(in_fractions(layer, h), label) >= Fraction(least)


@given(
    make=st.sampled_from(HEADED),
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1e-3, 1.0, 1.0, 30.0]),
    close=st.sampled_from([None, 0, 1]),
    eps=st.sampled_from([Fraction(0), Fraction(1, 255), Fraction(1, 20), Fraction(1, 3), Fraction(1)]),
    data=st.data(),
)
@draws(40)
def test_no_image_of_a_box_has_less_than_the_lowest_margin(
    backend: str,
    make: Callable[[], Sequential],
    seed: int,
    scale: float,
    close: int | None,
    eps: Fraction,
    data: st.DataObject,
) -> None:
    """Of whole nets: the last layer's real logits of the features that the program computes are judged as well."""
    net, rng = make().eval(), np.random.default_rng(seed)
    assert isinstance(net, Sequential)
    for array in net.state().values():
        array[...] = array.dtype.type(scale) * rng.standard_normal(array.shape).astype(np.float32)
    *body, last = net.layers
    assert isinstance(last, Dense)
    if close is not None:
        last.weight.data[1] = last.weight.data[0] * np.float32(1 + close * 2.0**-23)
        last.bias.data[1] = last.bias.data[0]  # with equal rows the logits are equal: a tie, and no certificate
    x, labels = data.draw(arrays((3, 1, 2, 2), 0, 1)), np.array([0, 1, 2])
    ball = domain_of(net).ball(x, eps).to(net.device)
    lowest = net.lowest_margins(ball, labels)
    if close == 0:
        assert (lowest[:2] < 0).all()
    for point in (data.draw(points_in(ball)), x):
        logits, features = net(Tensor(point)).numpy(), Sequential(*body)(Tensor(point)).numpy()
        for h, z, label, least in zip(features, logits, labels, lowest.tolist(), strict=True):
            assert difference(z, label) >= Fraction(least)
            assert difference(in_fractions(last, h), label) >= Fraction(least)


def twins(apart: float) -> Sequential:
    """Two logits with the same row, one of them larger by `apart` everywhere, and one that is far below."""
    net = linf_net((1, 2, 2), 3, width=6, depth=1, mean=(0.5,), std=0.25, head=5, seed=3).eval()
    assert isinstance(net, Sequential)
    last = net.layers[-1].state()
    last["weight"][1], last["weight"][2] = last["weight"][0], 0
    last["bias"][...] = [apart, 0, -100]
    return net


def test_the_difference_proves_what_two_logits_apart_do_not() -> None:
    """It is the same at every image of the ball, however far either logit goes."""
    net, x, labels = twins(0.001), np.full((1, 1, 2, 2), 0.5, np.float32), np.array([0])
    ball = domain_of(net).ball(x, Fraction(1, 10))
    apart = Module.lowest_margins(net, ball, labels)
    assert apart[0] < -0.1
    assert 0 < 0.001 - net.lowest_margins(ball, labels)[0] < 1e-5
    assert not certify(net, x, labels, "0.1", method="margin").certified[0]
    assert certify(net, x, labels, "0.1", method="interval").certified[0]
    assert (predict(net, np.random.default_rng(0).random((200, 1, 2, 2), np.float32)).argmax(axis=1) == 0).all()


@pytest.mark.parametrize("apart", [0.0, 1e-7])
def test_a_difference_that_rounding_could_eat_up_proves_nothing(apart: float) -> None:
    net, x, labels = twins(apart), np.full((1, 1, 2, 2), 0.5, np.float32), np.array([0])
    assert net.lowest_margins(Interval(x, x), labels)[0] <= 0
    assert not certify(net, x, labels, 0).certified[0]


@given(make=st.sampled_from(HEADED), seed=st.integers(0, 2**32), x=arrays((3, 1, 2, 2), 0, 1))
def test_the_lowest_margin_of_a_point_is_nearly_its_margin(make: Callable[[], Sequential], seed: int, x: Array) -> None:
    net = make().eval()
    rng, labels = np.random.default_rng(seed), np.array([0, 1, 2])
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    margin = [float(difference(z, y)) for z, y in zip(predict(net, x), labels, strict=True)]
    lowest = net.lowest_margins(Interval(x, x), labels)
    np.testing.assert_allclose(lowest, margin, atol=2e-4)
    assert (lowest <= margin).all()


@pytest.mark.parametrize("net", HEADED)
def test_a_sequential_asks_its_last_layer_however_deep_it_lies(net: Callable[[], Sequential]) -> None:
    inner, rng = net(), np.random.default_rng(0)
    for array in inner.state().values():
        array[...] = rng.standard_normal(array.shape)  # by chance, a ReLU might leave nothing but zeros
    inner.eval()
    x, labels = rng.random((3, 1, 2, 2), np.float32), np.array([0, 1, 2])
    first, *others = inner.layers
    nested = Sequential(Sequential(first), Sequential(*others)).eval()
    ball = domain_of(inner).ball(x, Fraction(1, 50))
    expected = inner.lowest_margins(ball, labels)
    np.testing.assert_array_equal(nested.lowest_margins(ball, labels), expected)
    assert (expected >= Module.lowest_margins(inner, ball, labels)).all()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_a_linear_layer_that_is_not_finite_proves_nothing(name: str, bad: float) -> None:
    for row in range(3):
        layer, x, labels = Dense(2, 3, seed=0), np.ones((3, 2), np.float32), np.array([0, 1, 2])
        layer.state()[name][row] = bad
        lowest = layer.lowest_margins(Interval(x, x), labels)
        assert not (lowest > 0)[row]
        assert not (lowest > 0).any()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
def test_features_without_an_end_prove_nothing() -> None:
    layer, labels, infinite = Dense(2, 3, seed=0), np.array([0, 1, 2]), np.full((3, 2), np.inf, np.float32)
    for lower, upper in ((-infinite, infinite), (np.zeros_like(infinite), infinite), (-infinite, -infinite)):
        assert not (layer.lowest_margins(Interval(lower, upper), labels) > 0).any()


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
def test_where_logits_overflow_a_linear_layer_proves_nothing() -> None:
    """At 0.15 the second logit is infinite and the first is not; at 0.24 both are, and the first wins the tie."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), Dense(1, 2))
    weight, bias = np.array([[2e38], [3e38]], np.float32), np.array([3e38, 3e38], np.float32)
    net.load_state({"2.weight": weight, "2.bias": bias})
    x = np.full((1, 1, 1, 1), 0.15, np.float32)
    assert list(predict(net, np.concatenate([x, x + np.float32(0.09)])).argmax(axis=1)) == [1, 0]
    assert not certify(net, x, np.array([1]), "0.1").certified[0]
    # where sums overflow on their way to logits that would not
    cancelling = Dense(2, 2)
    cancelling.weight.data[...], cancelling.bias.data[...] = [[3e38, -3e38], [0, 0]], [1e38, 0]
    h = np.full((1, 2), 4, np.float32)
    assert not cancelling.lowest_margins(Interval(h, h), np.array([0]))[0] > 0


@pytest.mark.filterwarnings("ignore:(overflow|invalid value)")
@pytest.mark.parametrize(("shift", "pixel", "eps"), [(10.5, 0.6, "0.4"), (10.1, 0.1, "0.9")])
def test_where_a_layer_within_overflows_nothing_is_proved(shift: float, pixel: float, eps: str) -> None:
    """Sums of opposite infinities are NaN, and neither tanh nor an interval knows of them; or the box has no centre."""
    net = linf_net((1, 8, 8), 2, width=64, depth=1, mean=(0.0,), std=1.0, head=1)
    weights = {
        "2.weight": -10 * np.eye(64),
        "3.running_mean": np.full(64, shift),
        "4.weight": np.tile([3.3e38, -3.3e38], 32)[None],
        "6.weight": np.full((2, 1), 1e-3),
        "6.bias": np.array([0, 1]),
    }
    net.load_state(net.state() | {name: array.astype(np.float32) for name, array in weights.items()})
    x = np.full((1, 1, 8, 8), pixel, np.float32)
    assert predict(net, x).argmax() == 1
    assert not np.isfinite(predict(net, np.ones_like(x))).all()
    assert not certify(net, x, np.array([1]), eps).certified[0]
