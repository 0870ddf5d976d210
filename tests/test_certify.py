"""Certificates: what is certified is true, of the net in exact fractions and of the program in float32."""

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_cases import Array
from scipy.stats import binomtest
from strategies import arrays, points_in

from linfengine import Tensor
from linfengine.audit import pgd
from linfengine.backends import available_backends, use_backend
from linfengine.certify import METHODS, Certificate, box, certify, clopper_pearson, margins, parse_eps, predict
from linfengine.errors import UserError
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    LinfDistNet,
    MeanShift,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
)

# The referee: the same nets in exact arithmetic, written anew and with nothing of the engine but its numbers.


def fractions(numbers: Any) -> Array:
    """An array of Fractions, each exactly the number."""
    return np.array([Fraction(float(number)) for number in np.ravel(numbers)], object).reshape(np.shape(numbers))


def exact_logits(net: Sequential, x: Array) -> Array:
    """Logits (classes,) of one image (c, h, w), in Fractions."""
    for layer in net.layers:
        match layer:
            case Normalize():
                x = (x - fractions(layer.mean)) / Fraction(float(layer.std))
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


def deep(mean_shift: bool = True) -> LinfDistNet:
    return LinfDistNet((1, 2, 2), 3, width=4, depth=3, mean=(0.5,), std=0.25, mean_shift=mean_shift)


def conv() -> Sequential:
    return Sequential(
        Normalize((0.375,), 0.5),
        LinfDistConv2d(1, 2, 2, padding=1),
        MeanShift(2),
        Flatten(),
        LinfDistDense(18, 3, bias=True),
        Negate(),
    )


def with_linear_layers() -> Sequential:
    return Sequential(
        Normalize((0.5,), 0.25), Flatten(), LinfDistDense(4, 6), Dense(6, 5), Tanh(), Dense(5, 4), ReLU(), Dense(4, 3)
    )


DISTANCE_NETS: list[Callable[[], Sequential]] = [deep, lambda: deep(mean_shift=False), conv]
NETS = [*DISTANCE_NETS, with_linear_layers]


@st.composite
def nets(draw: st.DrawFn, makers: Sequence[Callable[[], Sequential]] = DISTANCE_NETS, grid: bool = False) -> Sequential:
    """Nets on 2 x 2 pixels with normal weights. Those on the grid 2^-6 have ties, and float32 computes them exactly."""
    net = draw(st.sampled_from(makers))()
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    on_grid = grid or draw(st.booleans())
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
        if on_grid:
            array[...] = np.round(array * 64) / 64
    return net


def images(n: int = 3, grid: bool = False) -> st.SearchStrategy[Array]:
    if grid:
        return arrays((n, 1, 2, 2), 0, 1).map(lambda x: np.round(x * 64) / np.float32(64))
    return arrays((n, 1, 2, 2), 0, 1)


def radii(draw: st.DrawFn, net: Sequential, pixels: Array, labels: Array) -> Fraction:
    """A radius for which a verdict is open: a usual one, or one near that of some image."""
    usual = [Fraction(0), Fraction(1, 255), Fraction(8, 255), Fraction(3, 10), Fraction(1)]
    factors = [Fraction(factor, 1000) for factor in (500, 990, 999, 1000, 1001, 1100)]
    proved = certify(net, pixels, labels, 0, method="margin").radius
    assert proved is not None
    near = Fraction(float(draw(st.sampled_from(list(proved))))) * draw(st.sampled_from(factors))
    return min(draw(st.sampled_from([*usual, near, near, near])), Fraction(1))


@st.composite
def cases(
    draw: st.DrawFn, makers: Sequence[Callable[[], Sequential]] = DISTANCE_NETS
) -> tuple[Sequential, Array, Array, Fraction]:
    """(net, pixels, the labels it predicts, eps)"""
    net, pixels = draw(nets(makers)), draw(images())
    labels = predict(net, pixels).argmax(axis=1)
    return net, pixels, labels, radii(draw, net, pixels, labels)


@given(net=nets(grid=True), pixels=images(grid=True))
@settings(max_examples=40)
def test_on_a_dyadic_grid_the_program_is_exact(net: Sequential, pixels: Array) -> None:
    """The referee and the engine agree where they must: subtract, abs, max and add need no rounding on the grid."""
    computed = predict(net, pixels)
    for image, logits in zip(pixels, computed, strict=True):
        assert list(exact_logits(net, fractions(image))) == list(fractions(logits))


# Laws.


@given(case=cases(NETS), factor=st.fractions(0, 1), method=st.sampled_from(METHODS))
def test_what_is_certified_is_certified_at_smaller_radii(case: Any, factor: Fraction, method: str) -> None:
    net, pixels, labels, eps = case
    if method == "interval" and isinstance(net.layers[-1], Dense):
        assume(factor < Fraction(999, 1000))  # sums are rounded as the library pleases
    wide, narrow = (certify(net, pixels, labels, radius, method=method).certified for radius in (eps, eps * factor))
    assert (narrow >= wide).all()


@given(case=cases())
def test_the_interval_certifies_whatever_the_margin_does(case: Any) -> None:
    """In exact arithmetic a layer's bounds are within L eps of its value. Rounding keeps it so: the interval may lose
    2 E at its ends and 2 E at the image, and the margin has paid 4 E; what box() adds is less than what E allows
    Normalize and it does not use."""
    net, pixels, labels, eps = case
    by_margin, by_interval = (certify(net, pixels, labels, eps, method=method) for method in ("margin", "interval"))
    assert (by_interval.certified >= by_margin.certified).all()


@given(case=cases(NETS), labels=st.lists(st.integers(0, 2), min_size=3, max_size=3), method=st.sampled_from(METHODS))
def test_only_what_is_right_is_certified(case: Any, labels: list[int], method: str) -> None:
    net, pixels, predicted, eps = case
    verdict = certify(net, pixels, np.array(labels), eps, method=method)
    np.testing.assert_array_equal(verdict.prediction, predicted)
    np.testing.assert_array_equal(verdict.correct, predicted == labels)
    assert (verdict.correct >= verdict.certified).all()
    assert verdict.radius is None or (verdict.radius[~verdict.correct] == 0).all()


@given(case=cases())
@settings(max_examples=40)
def test_backends_and_batches_do_not_change_a_bit(case: Any) -> None:
    net, pixels, labels, eps = case
    for method in METHODS:
        verdicts = []
        for name, size in itertools.product(available_backends(), (1, 2, 512)):
            with use_backend(name):
                verdicts.append(certify(net, pixels, labels, eps, method=method, batch_size=size))
        for verdict in verdicts:
            np.testing.assert_array_equal(verdict.margin, verdicts[0].margin)
            np.testing.assert_array_equal(verdict.certified, verdicts[0].certified)


# Soundness: nothing in the ball changes a certified prediction.


@given(case=cases(NETS), data=st.data(), method=st.sampled_from(METHODS))
def test_no_input_of_the_box_changes_what_the_program_says(case: Any, data: st.DataObject, method: str) -> None:
    net, pixels, labels, eps = case
    certified = certify(net, pixels, labels, eps, method=method).certified
    ball = box(pixels, eps)
    corners = np.random.default_rng(0).integers(0, 2, (64, *pixels.shape))
    attempts = [data.draw(points_in(ball)), *np.where(corners, ball.lower, ball.upper)]
    for attempt in attempts:
        assert (predict(net, attempt).argmax(axis=1) == labels)[certified].all()
    assert pgd(net, pixels, labels, eps, steps=5)[certified].all()


@given(case=cases(), data=st.data())
@settings(max_examples=60)
def test_no_input_of_the_ball_changes_the_exact_prediction(case: Any, data: st.DataObject) -> None:
    """A ball of real numbers, not of float32 ones, and not clipped: the margin speaks of all of it."""
    net, pixels, labels, eps = case
    verdict = certify(net, pixels, labels, eps, method="margin")
    for image, label, certified in zip(pixels, labels, verdict.certified, strict=True):
        for _ in range(4 * certified):
            steps = data.draw(st.lists(st.sampled_from([-1, 1]) | st.fractions(-1, 1), min_size=4, max_size=4))
            moved = fractions(image) + eps * np.array([Fraction(step) for step in steps], object).reshape(1, 2, 2)
            assert exact_margin(net, moved, label) > 0


@given(case=cases())
@settings(max_examples=60)
def test_the_radius_is_half_the_margin_less_a_slack(case: Any) -> None:
    """No more than the exact margin allows, and less than that by no more than a few roundings."""
    net, pixels, labels, _ = case
    verdict = certify(net, pixels, labels, 0, method="margin")
    lipschitz = 1 / Fraction(float(net.layers[0].std))
    error = 4 * Fraction(net.rounding(2.0)[0])
    assert verdict.radius is not None
    for image, label, radius, margin in zip(pixels, labels, verdict.radius, verdict.margin, strict=True):
        exact, proved = exact_margin(net, fractions(image), label), 2 * lipschitz * Fraction(float(radius))
        assert abs(exact - Fraction(float(margin))) <= error / 2
        assert proved >= 0
        assert proved == 0 or proved <= exact - error / 2
        assert radius == 1 or proved >= (exact - 2 * error) * (1 - Fraction(1, 10**8))


@given(case=cases())
@settings(max_examples=40)
def test_an_image_is_certified_up_to_its_radius(case: Any) -> None:
    net, pixels, labels, _ = case
    radius = certify(net, pixels, labels, 0, method="margin").radius
    assert radius is not None
    for i, proved in enumerate(radius[:2].tolist()):
        for factor in (0.999, 1.001):
            eps = min(Fraction(proved) * Fraction(str(factor)), Fraction(1))
            verdict = certify(net, pixels[i : i + 1], labels[i : i + 1], eps, method="margin")
            assert verdict.certified[0] == (proved > eps) or proved == 1


def test_the_slack_is_that_of_the_derivation() -> None:
    """E <= sum over the layers of u (max|x - w| + max|y|), worked out by hand for one net."""
    net = deep()
    rng = np.random.default_rng(0)
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    size = (2 + 0.5) / 0.25
    error = 2 * size
    for layer in net.layers[2:-1]:
        size += max(float(abs(array).max()) for array in layer.state().values() if array.ndim == 2 or len(array) == 4)
        error += size
    size += float(abs(net.state()["6.bias"]).max())
    error += size
    assert 2.0**-24 * error <= net.rounding(2.0)[0] <= 1.5 * 2.0**-24 * error


# Ties.


def plain_net(weights: Any, bias: Any = 0.0) -> LinfDistNet:
    """One distance layer on one row of pixels, mean 0 and std 1."""
    w = np.array(weights, np.float32)
    net = LinfDistNet((1, 1, w.shape[1]), len(w), width=1, depth=1, mean=(0.0,), std=1.0)
    net.load_state({"2.weight": w, "2.bias": np.broadcast_to(np.float32(bias), len(w)).copy()})
    net.eval()
    return net


def row(*pixels: float) -> Array:
    return np.array(pixels, np.float32).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("method", METHODS)
def test_a_tie_fails(method: str) -> None:
    net = plain_net([[0.0, 0.5], [1.0, 0.5]])
    np.testing.assert_array_equal(predict(net, row(0.5, 0.5)), [[-0.5, -0.5]])
    verdict = certify(net, row(0.5, 0.5), np.array([0]), 0, method=method)
    assert verdict.correct[0]  # the lowest class wins a tie, and that is luck
    assert verdict.margin[0] <= 0
    assert not verdict.certified[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_margin_of_exactly_two_eps_fails(method: str) -> None:
    """|x| against |x - 1| at x = 1/4: the margin is 1/2, and at distance 1/4 the two are equal."""
    net, x, y = plain_net([[0.0], [1.0]]), row(0.25), np.array([0])
    assert margins(predict(net, x), y) == [0.5]
    verdicts = [certify(net, x, y, Fraction(1, 4) - less, method=method) for less in (0, Fraction(1, 10**5))]
    assert [bool(verdict.certified[0]) for verdict in verdicts] == [False, True]
    np.testing.assert_array_equal(predict(net, row(0.5)), [[-0.5, -0.5]])


def test_clipping_makes_the_interval_tighter() -> None:
    """At x = 0.95 only 0.05 is left above: the interval proves 0.3 where the margin, blind to that, does not."""
    net, x, y = plain_net([[1.0], [1.5]]), row(0.95), np.array([0])
    assert certify(net, x, y, "0.3", method="interval").certified[0] == (0.65 > 0.5)  # worst at x = 0.65: 0.35 < 0.85
    bias = plain_net([[0.0], [0.0]], [0.0, 0.4])
    assert not certify(bias, row(0.0), y, "0.25", method="margin").certified[0]
    assert certify(bias, row(0.0), y, "0.25", method="interval").certified[0]


# Floating point: a margin computed in float32 proves nothing until its rounding is paid for.

CORNERS = np.array(list(itertools.product((-1, 0, 1), repeat=8))).reshape(-1, 1, 2, 4)


def random_net(seed: int, std: float = 0.25) -> LinfDistNet:
    return LinfDistNet((1, 2, 4), 3, width=16, depth=2, mean=(0.0,), std=std, identity=False, seed=seed)


def naive_radius(net: LinfDistNet, x: Array) -> Fraction:
    """Half the margin over L, computed in float32 and believed. (The std of these nets is a power of two.)"""
    z = np.sort(predict(net, x)[0])
    return Fraction(float((z[-1] - z[-2]) / np.float32(2))) * Fraction(float(net.layers[0].std))  # type: ignore[attr-defined]


def farthest(x: Array, radius: Fraction) -> Array:
    """The float32 images at exact distance <= radius on the 3^8 corners, faces and edges of the ball."""
    ends = []
    for sign in (-1, 1):
        end = np.empty_like(x)
        for index, centre in np.ndenumerate(x):
            reach = Fraction(float(centre)) + sign * radius
            number = np.float32(float(reach))
            while sign * (Fraction(float(number)) - reach) > 0:
                number = np.nextafter(number, centre)
            end[index] = number
        ends.append(end)
    return np.where(CORNERS < 0, ends[0], np.where(CORNERS > 0, ends[1], x))


def is_beaten(net: LinfDistNet, x: Array, radius: Fraction) -> bool:
    """Whether one of those images gets another answer from the program."""
    answers = predict(net, farthest(x, radius), batch_size=len(CORNERS)).argmax(axis=1)
    return bool((answers != predict(net, x).argmax()).any())


def test_a_naive_margin_is_beaten_and_ours_is_not() -> None:
    beaten = 0
    for seed in range(100):
        net = random_net(seed)
        x = np.random.default_rng(seed).uniform(0.3, 0.7, (1, 1, 2, 4)).astype(np.float32)
        y, naive = predict(net, x).argmax(axis=1), naive_radius(net, x)
        proof = certify(net, x, y, 0, method="margin")
        assert proof.radius is not None
        ours = Fraction(float(proof.radius[0]))
        assert ours < naive
        assert not is_beaten(net, x, ours)
        if is_beaten(net, x, naive):
            beaten += 1
            assert not any(certify(net, x, y, naive, method=method).certified[0] for method in METHODS)
    assert beaten >= 10


def nearly_tied(net: LinfDistNet, rng: np.random.Generator) -> Array | None:
    """An image with a margin of a few roundings, found between two with different answers."""
    a, b = rng.uniform(0.3, 0.7, (2, 1, 1, 2, 4)).astype(np.float32)
    if predict(net, a).argmax() == predict(net, b).argmax():
        return None
    answer, tied = predict(net, a).argmax(), None
    for _ in range(40):
        middle = (a + b) / np.float32(2)
        if predict(net, middle).argmax() == answer:
            a = middle
        else:
            b = middle
        if naive_radius(net, a) * 4 < Fraction(1, 10**5):
            tied = a
            break
    return tied


def test_a_relative_slack_does_not_help() -> None:
    """A thousandth less of next to nothing is still next to nothing: the slack must be absolute."""
    beaten = tried = 0
    for seed in range(60):
        net = random_net(seed)
        x = nearly_tied(net, np.random.default_rng(seed))
        if x is None or naive_radius(net, x) == 0:
            continue
        tried += 1
        radius = certify(net, x, predict(net, x).argmax(axis=1), 0, method="margin").radius
        assert radius is not None
        assert not radius[0] or not is_beaten(net, x, Fraction(float(radius[0])))
        beaten += is_beaten(net, x, naive_radius(net, x) * Fraction(999, 1000))
    assert tried >= 10
    assert beaten >= 3


def test_where_float32_overflows_nothing_is_proved() -> None:
    """One logit is -3e38, the other, -4e38, becomes -inf: a margin of infinity is none."""
    net, x, y = plain_net([[3e38], [3e38]], [0.0, 1e38]), row(0.5), np.array([0])
    with np.errstate(over="ignore", invalid="ignore"):
        verdict = certify(net, x, y, "0.1", method="margin")
    assert np.isinf(verdict.margin[0])
    assert verdict.radius is not None
    assert (verdict.certified[0], verdict.radius[0]) == (False, 0)


# The box.

UNIT = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.3, 8 / 255, 1e-45, 1e-38]).map(
    lambda x: float(np.float32(x))
)


@given(x=UNIT, eps=st.fractions(0, 1) | st.sampled_from([Fraction(n, 255) for n in range(256)]), data=st.data())
@settings(max_examples=400)
def test_the_box_encloses_the_exact_box(x: float, eps: Fraction, data: st.DataObject) -> None:
    if data.draw(st.booleans()):  # x - eps or x + eps - 1 next to nothing, where eps has places no float has
        target = data.draw(st.sampled_from([Fraction(x), 1 - Fraction(x)]))
        places = data.draw(st.tuples(st.integers(30, 54), st.integers(53, 68)))
        signs = data.draw(st.tuples(*[st.sampled_from([-1, 1])] * 2))
        eps = target + sum(sign * Fraction(1, 2**place) for sign, place in zip(signs, places, strict=True))
        assume(0 <= eps <= 1)
    ball = box(row(x), eps)
    lower, upper = (Fraction(float(end.item())) for end in (ball.lower, ball.upper))
    assert ball.dtype == np.float32
    assert 0 <= lower <= max(Fraction(x) - eps, Fraction(0))
    assert min(Fraction(x) + eps, Fraction(1)) <= upper <= 1
    assert upper - lower <= 2 * eps + Fraction(1, 2**21)


@given(x=images(), radii=st.tuples(st.fractions(0, 1), st.fractions(0, 1)))
def test_boxes_grow_with_eps(x: Array, radii: tuple[Fraction, Fraction]) -> None:
    small, large = (box(x, radius) for radius in sorted(radii))
    assert large.contains(small.lower)
    assert large.contains(small.upper)


# What is asked.


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("0.3", Fraction(3, 10)),
        ("8/255", Fraction(8, 255)),
        (" 1e-3 ", Fraction(1, 1000)),
        (0.3, Fraction(3, 10)),
        (1, Fraction(1)),
        (0, Fraction(0)),
        (Fraction(8, 255), Fraction(8, 255)),
        ("0", Fraction(0)),
        ("1", Fraction(1)),
        (np.float64(0.1), Fraction(1, 10)),
    ],
)
def test_eps_is_what_people_write(text: Any, eps: Fraction) -> None:
    assert parse_eps(text) == eps


@given(eps=st.fractions(0, 1))
def test_eps_keeps_its_fraction(eps: Fraction) -> None:
    assert parse_eps(str(eps)) == eps == parse_eps(eps)


@pytest.mark.parametrize(
    "text",
    ["-1/255", "1.0000001", "256/255", "-0.0001", 2, -1, 1e-3 - 1, "nan", "inf", "-inf", math.nan, math.inf]
    + ["", "x", "1/0", "8 / 255 px", "0,3", "1/2/3", None, [0.1], b"0.1"],
)
def test_eps_that_is_none(text: Any) -> None:
    with pytest.raises(UserError, match="^eps: expected a (number|radius)"):
        parse_eps(text)
    with pytest.raises(UserError, match="^eps: expected a (number|radius)"):
        certify(deep(), row(0, 0, 0, 0).reshape(1, 1, 2, 2), np.array([0]), text)


PIXELS, LABELS = np.full((2, 1, 2, 2), 0.5, np.float32), np.array([0, 1])


def altered(value: Any) -> Array:
    pixels = PIXELS.copy()
    pixels[1, 0, 1, 1] = value
    return pixels


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (altered(np.nextafter(np.float32(1), np.float32(2))), LABELS, "pixels must lie in"),
        (altered(-1e-45), LABELS, "pixels must lie in"),
        (altered(np.nan), LABELS, "pixels must lie in"),
        (altered(np.inf), LABELS, "pixels must lie in"),
        (PIXELS.astype(np.float64), LABELS, "expected float32 pixels in .* got float64"),
        ((PIXELS * 255).astype(np.uint8), LABELS, "got uint8 .*to_pixels"),
        (PIXELS[:0], LABELS[:0], "no samples"),
        (PIXELS[0], LABELS, r"shapes \(1, 2, 2\) and \(2,\)"),
        (PIXELS.reshape(2, 4), LABELS, r"shapes \(2, 4\) and \(2,\)"),
        (PIXELS, LABELS[:1], r"and \(1,\)"),
        (PIXELS, LABELS[:, None], r"and \(2, 1\)"),
        (PIXELS, LABELS * 1.0, "integer labels, got float64"),
        (PIXELS, LABELS > 0, "integer labels, got bool"),
        (PIXELS, np.array([0, 3]), "labels from 0 to 3 do not fit"),
        (PIXELS, np.array([-1, 0]), "labels from -1 to 0 do not fit"),
    ],
)
def test_samples_that_are_refused(method: str, pixels: Array, labels: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        certify(deep(), pixels, labels, "0.1", method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("make", DISTANCE_NETS)
def test_only_the_net_at_infinity_is_certified(make: Callable[[], Sequential], method: str) -> None:
    net = make()
    net.p = 1000
    with pytest.raises(UserError, match="at p = 1000: only the p = ∞ net is 1-Lipschitz"):
        certify(net, PIXELS, LABELS, "0.1", method=method)
    net.p = math.inf
    certify(net, PIXELS, LABELS, "0.1", method=method)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["2.weight", "3.running_mean", "6.bias"])
def test_a_net_must_be_finite(name: str, value: float) -> None:
    net = deep()
    net.state()[name].reshape(-1)[-1] = value
    for method in METHODS:
        with pytest.raises(UserError, match=f"cannot be certified: {name} holds values that are not finite"):
            certify(net, PIXELS, LABELS, "0.1", method=method)


def test_logits_must_be_a_row_a_sample() -> None:
    with pytest.raises(UserError, match=r"logits have shape \(2, 3, 1, 1\)"):
        certify(Sequential(Normalize((0.5,), 1.0), LinfDistConv2d(1, 3, 2)), PIXELS, LABELS, "0.1")


def test_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="expected interval or margin, got 'guess'"):
        certify(deep(), PIXELS, LABELS, "0.1", method="guess")


def test_the_net_is_certified_as_it_is_evaluated() -> None:
    """With running means instead of batch means, no gradient, and nothing changed."""
    net = deep()
    before = {name: array.copy() for name, array in net.state().items()}
    net.train()
    verdict = certify(net, PIXELS, LABELS, "0.01")
    assert not net.training
    again = certify(net, PIXELS, LABELS, "0.01")
    np.testing.assert_array_equal(verdict.margin, again.margin)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters().values())


def test_a_certificate_says_what_it_is_about() -> None:
    verdict = certify(deep(), PIXELS, LABELS, "8/255", method="margin")
    assert isinstance(verdict, Certificate)
    assert (verdict.method, verdict.eps) == ("margin", Fraction(8, 255))
    for column in (verdict.prediction, verdict.correct, verdict.certified, verdict.margin, verdict.radius):
        assert column is not None
        assert column.shape == (2,)
    assert verdict.correct.dtype == verdict.certified.dtype == bool
    assert certify(deep(), PIXELS, LABELS, "8/255").radius is None


# Numbers derived from logits and counts.


@given(logits=arrays((4, 3)), labels=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_margins(logits: Array, labels: list[int]) -> None:
    expected = [row[y] - max(np.delete(row, y)) for row, y in zip(logits.astype(float), labels, strict=True)]
    np.testing.assert_array_equal(margins(logits, np.array(labels)), expected)


def test_predict_is_the_net_in_batches() -> None:
    net, x = deep().eval(), np.random.default_rng(0).random((7, 1, 2, 2), np.float32)
    for size in (1, 3, 7, 100):
        np.testing.assert_array_equal(predict(net, x, batch_size=size), net(Tensor(x)).numpy())


@given(data=st.data(), confidence=st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_clopper_pearson_is_the_exact_interval(data: st.DataObject, confidence: float) -> None:
    n = data.draw(st.integers(1, 10_000))
    successes = data.draw(st.integers(0, n))
    expected = binomtest(successes, n).proportion_ci(confidence, method="exact")
    lower, upper = clopper_pearson(successes, n, confidence)
    np.testing.assert_allclose([lower, upper], [expected.low, expected.high], rtol=1e-9, atol=1e-12)
    assert 0 <= lower <= successes / n <= upper <= 1


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0), (1, 0)])
def test_counts_that_are_none(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"got {successes} of {n}"):
        clopper_pearson(successes, n)
