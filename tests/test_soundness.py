"""Soundness by the million: no certificate of any kind of net is broken by any image that lies in its ball.

Hypothesis and Fractions take certificates apart one by one in test_certify.py; here they are attacked in bulk, at radii
so close to what is proved that the slightest mistake shows.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from linfengine import load_dataset
from linfengine.attack import pgd, push
from linfengine.audit import CLAIMS, attack_radii, random_net
from linfengine.backends import Array
from linfengine.certify import box, certify, check_samples, predict
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    LinfDistNet,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
)
from linfengine.recipes import load_recipe
from linfengine.train import train

Rng = np.random.Generator
TRIPLES = 125_000  # (model, image, perturbation), for each kind of net


def drawn(net: Module, rng: Rng) -> Module:
    """Its numbers drawn anew: normal, now and then with some that are large or on a coarse grid."""
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape) * rng.choice([0.5, 1.0, 4.0])
        if rng.random() < 0.3:
            array[...] = np.round(array * 8) / 8  # many ties
    return net.eval()


def dense(rng: Rng) -> Module:
    return drawn(
        LinfDistNet((1, 3, 3), 3, width=int(rng.integers(3, 17)), depth=int(rng.integers(1, 4)), mean=(0.4,), std=0.3),
        rng,
    )


def conv(rng: Rng) -> Module:
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
    return drawn(
        Sequential(
            Normalize((0.5,), 0.25), Flatten(), LinfDistDense(9, 12), MeanShift(12), Dense(12, 6), Tanh(), Dense(6, 3)
        ),
        rng,
    )


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
    ball = box(net, x, eps, outward=False)
    way = rng.integers(-1, 2, (count, *x.shape))
    points = np.where(way > 0, ball.upper, np.where(way < 0, ball.lower, x)).astype(np.float32)
    for i in range(len(x)):
        found = push(net, x[i : i + 1], labels[i : i + 1], eps, rng, tries=7)
        points[: len(found), i] = found
    return points


@pytest.mark.parametrize("method", ["margin", "interval"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_image_of_a_ball_breaks_its_certificate(kind: str, method: str) -> None:
    make, channels = KINDS[kind]
    rng = np.random.default_rng([list(KINDS).index(kind), method == "margin"])
    count, tried = 64, 0
    while tried < TRIPLES:
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


def test_rounding_beats_radii_read_off_a_margin_and_none_of_ours() -> None:
    """On 10,000 random 8-16-3 nets: the naive radius falls on many, a strict one on some, the proved on none."""
    rng = np.random.default_rng(0)
    nets = 10_000
    beaten = [attack_radii(*random_net(rng), rng) for _ in range(nets)]
    share = {claim: sum(each[claim] for each in beaten) / nets for claim in CLAIMS}
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
