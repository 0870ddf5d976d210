"""Certificates: what is certified is true, of the net in exact fractions and of the program in float32."""

import ctypes
import ctypes.util
import itertools
import math
import platform
import sys
from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.draws import draws
from support.nets import (
    DISTANCE_NETS,
    NETS,
    Question,
    deep,
    exact_logits,
    exact_margin,
    exact_nets,
    exact_questions,
    float_questions,
    fractions,
    gray_images,
    nets,
    pixels,
    questions,
)
from support.op_cases import Array
from support.strategies import arrays, points_in

from linfengine import Interval, Tensor
from linfengine.attack import pgd
from linfengine.backends import available_backends, use_backend
from linfengine.certify import METHODS, Certificate, certify, clopper_pearson, margins, predict
from linfengine.data import to_pixels
from linfengine.domain import domain_of
from linfengine.errors import UserError
from linfengine.exact import ExactNet, quantize
from linfengine.layers import Dense, LinfDistConv2d, Normalize, Sequential, linf_net
from linfengine.ops.base import Result
from linfengine.units import WHITE, parse_eps, parse_gray_levels

ROUNDED = ("interval", "margin")  # the methods of a net that is not exact
COLUMNS = ("logits", "prediction", "correct", "certified", "margin", "radius")


def quantized(bits: int = 8) -> ExactNet:
    return quantize(deep(), bits)


def net_for(method: str) -> Sequential:
    return quantized() if method == "exact" else deep()


@given(net=nets(grid=True), x=pixels(grid=True))
@draws(40)
def test_on_a_dyadic_grid_the_program_is_exact(net: Sequential, x: Array) -> None:
    """The referee and the engine agree where they must: subtract, abs, max and add need no rounding on the grid."""
    computed = predict(net, x)
    for image, logits in zip(x, computed, strict=True):
        assert list(exact_logits(net, fractions(image))) == list(fractions(logits))


@given(net=exact_nets(), images=gray_images())
@draws(60)
def test_an_exact_net_is_exact(net: ExactNet, images: Array) -> None:
    """All its numbers, at any number of fraction bits, on bytes as well."""
    labels = np.zeros(len(images), int)
    verdict = certify(net, images, labels, 0, method="exact")
    for image, logits, margin in zip(images, verdict.logits, verdict.margin, strict=True):
        assert list(exact_logits(net, fractions(image))) == list(fractions(logits))
        assert exact_margin(net, fractions(image), 0) == Fraction(float(margin))


# Laws.


@given(question=questions(NETS), factor=st.fractions(0, 1))
def test_what_is_certified_is_certified_at_smaller_radii(question: Question, factor: Fraction) -> None:
    if question.method == "interval" and isinstance(question.net.layers[-1], Dense):
        assume(factor < Fraction(999, 1000))  # sums are rounded as the library pleases
    wide, narrow = (question.answer(eps=radius).certified for radius in (question.eps, question.eps * factor))
    assert (narrow >= wide).all()


@given(question=questions(NETS))
def test_the_interval_certifies_whatever_the_margin_does(question: Question) -> None:
    by_margin, by_interval = (question.answer(method=method) for method in ("margin", "interval"))
    assert (by_interval.certified >= by_margin.certified).all()
    assert (by_interval.radius >= by_margin.radius).all()


@given(question=exact_questions())
def test_all_methods_are_exact_on_an_exact_net(question: Question) -> None:
    """And interval is another name of exact."""
    exact, interval, margin = (question.answer(method=method) for method in METHODS)
    for column in (*COLUMNS, "steps"):
        np.testing.assert_array_equal(getattr(exact, column), getattr(interval, column))
    for column in ("logits", "prediction", "correct", "margin"):
        np.testing.assert_array_equal(getattr(exact, column), getattr(margin, column))
    assert exact.threshold == interval.threshold == margin.threshold


def proved_by_box(question: Question) -> Array:
    """Whether the label's lowest logit over the box is above the highest of all others."""
    bounds, rows = question.net(domain_of(question.net).ball(question.x, question.eps)), np.arange(len(question.labels))
    worst = bounds.upper.copy()
    worst[rows, question.labels] = bounds.lower[rows, question.labels]
    return np.asarray(margins(worst, question.labels) > 0)


@given(question=questions())
def test_the_box_alone_proves_whatever_the_margin_does(question: Question) -> None:
    """In exact arithmetic a layer's bounds are within L eps of its value. Rounding keeps it so: the interval may lose
    2 E at its ends and 2 E at the image, and the margin has paid 4 E; what box() adds is less than what E allows
    Normalize and it does not use. The box of an exact net is rounded to its grid, where eps has to lie."""
    eps = question.eps
    if isinstance(question.net, ExactNet):
        grid = WHITE << question.net.fraction_bits
        eps = Fraction(math.floor(eps * grid), grid)
    by_margin = question.answer(method="margin", eps=eps).certified
    on_grid = Question(question.net, question.images, question.labels, eps, "interval")
    assert (proved_by_box(on_grid) >= by_margin).all()


@given(question=questions())
def test_a_certificate_is_the_margin_or_the_box(question: Question) -> None:
    verdict = question.answer()
    by_margin = verdict.margin > verdict.threshold
    if question.method == "margin":
        np.testing.assert_array_equal(verdict.certified, by_margin)
    else:
        np.testing.assert_array_equal(verdict.certified, by_margin | (proved_by_box(question) & (verdict.margin > 0)))


@given(question=questions())
def test_the_threshold_is_what_the_proof_asks_for(question: Question) -> None:
    """2 L eps + 4 E, or hardly more; of an exact net 2 eps, down to the grid that margins lie on."""
    threshold, net = Fraction(question.answer().threshold), question.net
    if isinstance(net, ExactNet):
        grid = 1 << net.fraction_bits
        assert threshold * grid == math.floor(2 * WHITE * question.eps * grid)
    else:
        least = 2 * Fraction(net.lipschitz()) * question.eps + 4 * Fraction(net.rounding(2.0)[0])
        assert least <= threshold <= least * (1 + Fraction(1, 10**8))


@given(
    question=questions(),
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    size=st.sampled_from([1, 2, 512]),
)
def test_the_box_is_looked_at_only_where_the_margin_leaves_the_question_open(
    question: Question, labels: list[int], size: int
) -> None:
    call, boxes = Sequential.__call__, []

    def counting(net: Sequential, x: Any) -> Result:
        boxes.append(len(x.lower) if isinstance(x, Interval) else 0)
        return call(net, x)

    with mock.patch.object(Sequential, "__call__", counting):
        verdict = certify(
            question.net, question.images, np.array(labels), question.eps, method=question.method, batch_size=size
        )
    undecided = (verdict.margin <= verdict.threshold) & (verdict.margin > 0)
    assert sum(boxes) == (0 if question.method == "margin" else undecided.sum())


@given(question=questions(NETS), labels=st.lists(st.integers(0, 2), min_size=3, max_size=3))
def test_only_what_is_right_is_certified(question: Question, labels: list[int]) -> None:
    verdict = question.answer(labels=np.array(labels))
    np.testing.assert_array_equal(verdict.prediction, question.labels)
    np.testing.assert_array_equal(verdict.correct, question.labels == labels)
    assert (verdict.correct >= verdict.certified).all()
    assert (verdict.radius[~verdict.correct] == 0).all()
    assert verdict.steps is None or (verdict.steps[~verdict.correct] == 0).all()


@given(question=questions())
@draws(40)
def test_backends_and_batches_do_not_change_a_bit(question: Question) -> None:
    verdicts = []
    for name, size in itertools.product(available_backends(), (1, 2, 512)):
        with use_backend(name):
            images, labels, eps = question.images, question.labels, question.eps
            net = deepcopy(question.net).to("cuda" if name == "gpu" else "cpu")
            verdicts.append(certify(net, images, labels, eps, method=question.method, batch_size=size))
    for verdict in verdicts:
        for column in COLUMNS:
            assert getattr(verdict, column).tobytes() == getattr(verdicts[0], column).tobytes()


@given(net=nets(NETS) | exact_nets(), images=gray_images(), eps=st.fractions(0, 1), data=st.data())
def test_bytes_and_their_pixels_are_the_same_images(
    net: Sequential, images: Array, eps: Fraction, data: st.DataObject
) -> None:
    method = data.draw(st.sampled_from(METHODS if isinstance(net, ExactNet) else ROUNDED))
    labels = np.array([0, 1, 2])
    of_bytes, of_pixels = (certify(net, x, labels, eps, method=method) for x in (images, to_pixels(images)))
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(of_bytes, column), getattr(of_pixels, column))


# Soundness: nothing in the ball changes a certified prediction.


@given(question=questions(NETS), data=st.data())
def test_no_input_of_the_ball_changes_what_the_program_says(question: Question, data: st.DataObject) -> None:
    net, labels = question.net, question.labels
    certified = question.answer().certified
    ball = domain_of(net).ball(question.x, question.eps, outward=not isinstance(net, ExactNet))
    corners = np.random.default_rng(0).integers(0, 2, (64, *question.images.shape))
    attempts = [data.draw(points_in(ball)), *np.where(corners, ball.lower, ball.upper)]
    if isinstance(net, ExactNet):  # which takes no numbers off its grid
        attempts[0] = np.round(attempts[0] * 2.0**net.fraction_bits).astype(np.float32) / 2.0**net.fraction_bits
        attempts[0] = attempts[0].astype(np.float32).clip(ball.lower, ball.upper)
    for attempt in attempts:
        assert (predict(net, attempt).argmax(axis=1) == labels)[certified].all()
    assert pgd(net, question.images, labels, question.eps, steps=5).withstood[certified].all()


@given(question=float_questions(methods=["margin"]) | exact_questions(), data=st.data())
@draws(60)
def test_no_input_of_the_ball_changes_the_exact_prediction(question: Question, data: st.DataObject) -> None:
    """A ball of real numbers, not of float32 ones, and not clipped, either, where it rests on the margin."""
    net, verdict = question.net, question.answer()
    reach = question.eps * domain_of(net).logit_unit
    for x, label, certified in zip(question.x, question.labels, verdict.certified, strict=True):
        for _ in range(4 * certified):
            steps = data.draw(st.lists(st.sampled_from([-1, 1]) | st.fractions(-1, 1), min_size=4, max_size=4))
            moved = fractions(x) + reach * np.array([Fraction(step) for step in steps], object).reshape(1, 2, 2)
            if question.method != "margin":
                moved = np.minimum(np.maximum(moved, fractions(0)), fractions(domain_of(net).logit_unit))
            assert exact_margin(net, moved, label) > 0


# The radius.


@given(question=float_questions(methods=["margin"]))
@draws(60)
def test_the_radius_is_half_the_margin_less_a_slack(question: Question) -> None:
    """No more than the exact margin allows, and less than that by no more than a few roundings."""
    net, verdict = question.net, question.answer()
    lipschitz = 1 / Fraction(float(net.layers[0].std))  # type: ignore[attr-defined]
    error = 4 * Fraction(net.rounding(2.0)[0])
    for x, label, radius, margin in zip(question.x, question.labels, verdict.radius, verdict.margin, strict=True):
        exact, proved = exact_margin(net, fractions(x), label), 2 * lipschitz * Fraction(float(radius))
        assert abs(exact - Fraction(float(margin))) <= error / 2
        assert proved >= 0
        assert proved == 0 or proved <= exact - error / 2
        assert radius == 1 or proved >= (exact - 2 * error) * (1 - Fraction(1, 10**8))


@given(question=exact_questions(), labels=st.lists(st.integers(0, 2), min_size=3, max_size=3))
@draws(150)
def test_the_radius_of_an_exact_net_is_exact_to_the_last_integer(question: Question, labels: list[int]) -> None:
    """margin > 2 r, and not margin > 2 (r + 1), in steps of the grid; or eps, where the box proved that."""
    verdict, net = question.answer(labels=np.array(labels)), question.net
    assert isinstance(net, ExactNet)
    assert verdict.steps is not None
    grid = 1 << net.fraction_bits
    for x, label, steps, certified in zip(question.x, labels, verdict.steps, verdict.certified, strict=True):
        margin = exact_margin(net, fractions(x), label) * grid
        if margin <= 0:
            assert (steps, certified) == (0, False)
            continue
        largest = math.ceil(margin / 2) - 1
        assert margin > 2 * largest
        assert not margin > 2 * (largest + 1)
        if certified and not margin > 2 * WHITE * question.eps * grid:
            assert question.method != "margin"
            largest = max(largest, math.floor(WHITE * question.eps * grid))
        assert steps == min(largest, WHITE * grid)


@given(question=exact_questions())
def test_the_steps_of_an_exact_radius_in_pixel_units(question: Question) -> None:
    """A float64 number, so it may be smaller by a place or two, and never larger."""
    verdict, net = question.answer(), question.net
    assert isinstance(net, ExactNet)
    assert verdict.steps is not None
    for steps, radius in zip(verdict.steps.tolist(), verdict.radius.tolist(), strict=True):
        exact = Fraction(steps, WHITE << net.fraction_bits)
        assert exact * (1 - Fraction(1, 2**51)) <= Fraction(radius) <= exact


@given(question=questions())
def test_where_the_box_proves_eps_the_radius_says_so(question: Question) -> None:
    """Hardly less than eps, of an exact net down to its grid."""
    verdict, net = question.answer(), question.net
    least = question.eps
    if isinstance(net, ExactNet):
        least = Fraction(math.floor(WHITE * least * 2**net.fraction_bits), WHITE << net.fraction_bits)
    for radius in verdict.radius[verdict.certified].tolist():
        assert Fraction(radius) >= least * (1 - Fraction(1, 10**8))
    assert ((0 <= verdict.radius) & (verdict.radius <= 1)).all()


@given(question=questions())
def test_a_radius_holds_when_certified_again_at_it(question: Question) -> None:
    """By the same method; of an exact net to the last step, of others but for a few roundings."""
    verdict, net = question.answer(), question.net
    for i, radius in enumerate(verdict.radius.tolist()):
        if verdict.steps is not None and isinstance(net, ExactNet):
            again = Fraction(int(verdict.steps[i]), WHITE << net.fraction_bits)
        else:
            again = Fraction(radius) * (1 - Fraction(1, 10**6))
        if radius > 1e-9:
            assert question.one(i).answer(eps=again).certified[0]


@given(question=float_questions(methods=["margin"]))
@draws(40)
def test_an_image_is_certified_up_to_its_radius(question: Question) -> None:
    for i, proved in enumerate(question.answer().radius[:2].tolist()):
        for factor in (0.999, 1.001):
            eps = min(Fraction(proved) * Fraction(str(factor)), Fraction(1))
            assert question.one(i).answer(eps=eps).certified[0] == (proved > eps) or proved == 1


@given(question=exact_questions(methods=["margin"]))
@draws(60)
def test_an_image_is_certified_up_to_its_last_step_and_not_beyond(question: Question) -> None:
    steps, net = question.answer().steps, question.net
    assert isinstance(net, ExactNet)
    assert steps is not None
    grid = WHITE << net.fraction_bits
    for i, proved in enumerate(steps.tolist()):
        eps = Fraction(proved, grid), Fraction(2 * proved + 1, 2 * grid), Fraction(proved + 1, grid)
        verdicts = [question.one(i).answer(eps=min(each, Fraction(1))).certified[0] for each in eps]
        margin = exact_margin(net, fractions(question.x[i]), question.labels[i])
        assert verdicts == [margin > 2 * WHITE * min(each, Fraction(1)) for each in eps]
        assert proved in (0, grid) or verdicts[::2] == [True, False]


@pytest.mark.parametrize("method", METHODS)
def test_no_radius_is_larger_than_all_of_an_image(method: str) -> None:
    """A margin of 1200 gray levels, and radii are at most 255."""
    net: Sequential = plain_net([[0.0], [0.0]], [0.0, 1200 / 255])
    net = quantize(net, 4) if method == "exact" else net
    verdict = certify(net, gray(0), np.array([0]), 1, method=method)
    assert verdict.certified[0]
    assert verdict.margin[0] > 4 * domain_of(net).logit_unit
    assert 1 - 2.0**-50 < verdict.radius[0] <= 1
    assert verdict.steps is None or verdict.steps[0] == WHITE << 4


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


def plain_net(weights: Any, bias: Any = 0.0) -> Sequential:
    """One distance layer on one row of pixels, mean 0 and std 1."""
    w = np.array(weights, np.float32)
    net = linf_net((1, 1, w.shape[1]), len(w), width=1, depth=1, mean=(0.0,), std=1.0)
    net.load_state({"2.weight": w, "2.bias": np.broadcast_to(np.float32(bias), len(w)).copy()})
    net.eval()
    return net


def row(*pixels: float) -> Array:
    return np.array(pixels, np.float32).reshape(1, 1, 1, -1)


def gray(*levels: int) -> Array:
    return np.array(levels, np.uint8).reshape(1, 1, 1, -1)


@pytest.mark.parametrize("method", METHODS)
def test_a_tie_fails(method: str) -> None:
    net: Sequential = plain_net([[0.0, 0.4], [0.8, 0.4]])
    net = quantize(net) if method == "exact" else net
    x, y = gray(102, 102), np.array([0])  # 102 is 0.4
    verdict = certify(net, x, y, 0, method=method)
    np.testing.assert_allclose(verdict.logits, -0.4 * domain_of(net).logit_unit, rtol=1e-7)
    assert verdict.logits[0, 0] == verdict.logits[0, 1]
    assert verdict.correct[0]  # the lowest class wins a tie, and that is luck
    assert verdict.margin[0] == 0
    assert not verdict.certified[0]
    assert verdict.radius[0] == 0


@pytest.mark.parametrize("bits", [0, 1, 8])
@pytest.mark.parametrize("method", METHODS)
def test_a_margin_of_exactly_two_eps_fails(method: str, bits: int) -> None:
    """|x| against |x - 1| at x = 1/4, or level 64: at distance 1/4, or 63.5, the two are equal."""
    net: Sequential = plain_net([[0.0], [1.0]])
    x, y, tied, least = row(0.25), np.array([0]), Fraction(1, 4), Fraction(1, 10**5)
    if method == "exact":
        net, x, tied, least = quantize(net, bits), gray(64), Fraction(127, 2 * WHITE), Fraction(1, 10**50)
    verdicts = [certify(net, x, y, tied - less, method=method) for less in (0, least)]
    assert verdicts[0].margin == [2 * domain_of(net).logit_unit * tied]
    # a box without fraction bits ends at whole levels, but the margin proves it
    assert [bool(verdict.certified[0]) for verdict in verdicts] == [False, True]
    if method != "exact":
        np.testing.assert_array_equal(predict(net, row(0.5)), [[-0.5, -0.5]])
    elif bits > 0:
        np.testing.assert_array_equal(predict(net, row(127.5)), [[-127.5, -127.5]])


def test_clipping_makes_the_interval_tighter() -> None:
    """At x = 0.95 only 0.05 is left above: the interval proves 0.3 where the margin, blind to that, does not."""
    net, x, y = plain_net([[1.0], [1.5]]), row(0.95), np.array([0])
    assert certify(net, x, y, "0.3", method="interval").certified[0]  # worst at x = 0.65: 0.35 < 0.85
    bias = plain_net([[0.0], [0.0]], [0.0, 0.4])
    assert not certify(bias, row(0.0), y, "0.25", method="margin").certified[0]
    assert certify(bias, row(0.0), y, "0.25", method="interval").certified[0]


@pytest.mark.parametrize("beyond", [0, Fraction(1, 1024)])
def test_clipping_makes_the_exact_certificate_reach_beyond_its_margin(beyond: Fraction) -> None:
    """A bias of 102 on one of two equal logits: it is proved to 63.75 by the box, and to less than 51 by the margin.

    What lies between two steps is proved, and is not part of the radius."""
    net, x, y = quantize(plain_net([[0.0], [0.0]], [0.0, 0.4])), gray(0), np.array([0])
    eps = parse_gray_levels(Fraction("63.75") + beyond)
    by_margin, exact = (certify(net, x, y, eps, method=method) for method in ("margin", "exact"))
    assert (by_margin.certified[0], exact.certified[0]) == (False, True)
    assert by_margin.margin == exact.margin == [102]
    assert by_margin.steps is not None
    assert exact.steps is not None
    assert (by_margin.steps[0], exact.steps[0]) == (51 * 256 - 1, 63.75 * 256)


# Floating point: a margin computed in float32 proves nothing until its rounding is paid for.

CORNERS = np.array(list(itertools.product((-1, 0, 1), repeat=8))).reshape(-1, 1, 2, 4)


def random_net(seed: int, std: float = 0.25) -> Sequential:
    return linf_net((1, 2, 4), 3, width=16, depth=2, mean=(0.0,), std=std, identity=False, seed=seed)


def naive_radius(net: Sequential, x: Array) -> Fraction:
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


def is_beaten(net: Sequential, x: Array, radius: Fraction) -> bool:
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
        ours = Fraction(float(proof.radius[0]))
        assert ours < naive
        assert not is_beaten(net, x, ours)
        if is_beaten(net, x, naive):
            beaten += 1
            assert not any(certify(net, x, y, naive, method=method).certified[0] for method in ROUNDED)
    assert beaten >= 10


def nearly_tied(net: Sequential, rng: np.random.Generator) -> Array | None:
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
    assert (verdict.certified[0], verdict.radius[0]) == (False, 0)


# The box.

UNIT = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.3, 8 / 255, 1e-45, 1e-38]).map(
    lambda x: float(np.float32(x))
)


@given(x=UNIT, eps=st.fractions(0, 1) | st.sampled_from([Fraction(n, 255) for n in range(256)]), data=st.data())
@draws(400)
def test_the_box_encloses_the_exact_box(x: float, eps: Fraction, data: st.DataObject) -> None:
    if data.draw(st.booleans()):  # x - eps or x + eps - 1 next to nothing, where eps has places no float has
        target = data.draw(st.sampled_from([Fraction(x), 1 - Fraction(x)]))
        places = data.draw(st.tuples(st.integers(30, 54), st.integers(53, 68)))
        signs = data.draw(st.tuples(*[st.sampled_from([-1, 1])] * 2))
        eps = target + sum(sign * Fraction(1, 2**place) for sign, place in zip(signs, places, strict=True))
        assume(0 <= eps <= 1)
    ball = domain_of(deep()).ball(row(x), eps)
    lower, upper = (Fraction(float(end.item())) for end in (ball.lower, ball.upper))
    assert ball.dtype == np.float32
    assert 0 <= lower <= max(Fraction(x) - eps, Fraction(0))
    assert min(Fraction(x) + eps, Fraction(1)) <= upper <= 1
    assert upper - lower <= 2 * eps + Fraction(1, 2**21)


@given(net=exact_nets(), level=st.integers(0, WHITE), data=st.data())
def test_the_box_of_an_exact_net_is_the_smallest_on_its_grid(net: ExactNet, level: int, data: st.DataObject) -> None:
    """It encloses the exact box, in gray levels, and by less than a step."""
    grid = 1 << net.fraction_bits
    eps = data.draw(st.fractions(0, 1) | st.integers(0, 2 * WHITE * grid).map(lambda k: Fraction(k, 2 * WHITE * grid)))
    for x in (gray(level), gray(level).astype(np.float32)):
        ball = domain_of(net).ball(x, eps)
        assert ball.dtype == np.float32
        lower, upper = (Fraction(float(end.item())) for end in (ball.lower, ball.upper))
        assert (lower * grid).denominator == (upper * grid).denominator == 1
        for end, exact, outward in ((lower, level - WHITE * eps, -1), (upper, level + WHITE * eps, 1)):
            valid = min(max(exact, Fraction(0)), Fraction(WHITE))
            assert 0 <= outward * (end - valid) < Fraction(1, grid)


@given(x=pixels(), radii=st.tuples(st.fractions(0, 1), st.fractions(0, 1)), outward=st.booleans())
def test_boxes_grow_with_eps(x: Array, radii: tuple[Fraction, Fraction], outward: bool) -> None:
    small, large = (domain_of(deep()).ball(x, radius, outward=outward) for radius in sorted(radii))
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


@pytest.mark.parametrize("dtype", [float, np.float64, np.float32])
def test_a_float_means_what_it_is_nearest_to(dtype: Any) -> None:
    """More than half of the floats k/255 lie below k/255, and none of them means less."""
    assert sum(Fraction(k / 255) < Fraction(k, 255) for k in range(256)) > 128
    for k in range(256):
        exact = dtype(k) / dtype(255)
        for near in (exact, np.nextafter(exact, dtype(0)), np.nextafter(exact, dtype(1))):
            assert parse_eps(near) == Fraction(k, 255)
        assert parse_gray_levels(dtype(k)) == Fraction(k, 255)
    for digits in ("0.03137", "0.1568", "0.001"):
        assert parse_eps(dtype(digits)) == Fraction(digits)
    assert parse_eps(dtype(0.1) + dtype(0.2)) == Fraction(3, 10)


def test_a_float_that_is_near_nothing_is_taken_as_it_is() -> None:
    for number in (0.123456789012345678, math.pi / 4, 2.0**-40 * 1.3):
        assert parse_eps(number) == Fraction(number)
    assert parse_eps(np.float32(math.pi / 4)) == Fraction(float(np.float32(math.pi / 4)))


def test_a_radius_does_not_depend_on_how_numbers_are_printed() -> None:
    with np.printoptions(legacy="1.13"):
        assert parse_eps(np.float64(8 / 255)) == Fraction(8, 255)


def test_a_margin_of_exactly_two_eps_is_not_certified_at_a_float() -> None:
    """The float nearest to 8/255 is less than that; a margin of 16 gray levels does not exceed twice 8/255."""
    net = quantize(plain_net([[0.0], [256 / 255]]), 1)  # |x| against |x - 256| in gray levels
    image = np.full((1, 1, 1, 1), 120, np.uint8)
    assert Fraction(8 / 255) < Fraction(8, 255)
    for eps, certified in ((8 / 255, False), (np.float32(8 / 255), False), (7.99 / 255, True)):
        verdict = certify(net, image, np.array([0]), eps, method="exact")
        assert (verdict.margin[0], verdict.certified[0]) == (16, certified)


@given(eps=st.fractions(0, 1, max_denominator=10**20))
def test_eps_keeps_its_fraction(eps: Fraction) -> None:
    assert parse_eps(str(eps)) == eps == parse_eps(eps)


@pytest.mark.parametrize(
    "text",
    ["-1/255", "1.0000001", "256/255", "-0.0001", 2, -1, 1e-3 - 1, "nan", "inf", "-inf", math.nan, math.inf]
    + ["", "x", "1/0", "8 / 255 px", "0,3", "1/2/3", None, [0.1], b"0.1", True, np.bool_(True), np.array([0.1])]
    + ["1e-99_999_999", "1e-99_99", "1e-999", "1_0/255", "৪/255", "1e-80", 1e-80, "0." + 60 * "0" + "1"],
)
def test_eps_that_is_none(text: Any) -> None:
    with pytest.raises(UserError, match="^eps: expected a (number|radius|fraction of at most 60 digits)"):
        parse_eps(text)
    with pytest.raises(UserError, match="^eps: expected a (number|radius|fraction)"):
        certify(deep(), row(0, 0, 0, 0).reshape(1, 1, 2, 2), np.array([0]), text)


@pytest.mark.parametrize(
    ("text", "eps"),
    [
        ("76.5", Fraction(3, 10)),
        ("8", Fraction(8, 255)),
        (8, Fraction(8, 255)),
        (0.1, Fraction(1, 2550)),
        ("1/3", Fraction(1, 765)),
        (Fraction(51, 2), Fraction(1, 10)),
        ("0", Fraction(0)),
        ("255", Fraction(1)),
        ("2.55e2", Fraction(1)),
    ],
)
def test_gray_levels_are_what_people_write(text: Any, eps: Fraction) -> None:
    assert parse_gray_levels(text) == eps


@given(eps=st.fractions(0, 1, max_denominator=10**20))  # no longer than a radius may be
def test_gray_levels_and_eps_are_one_radius(eps: Fraction) -> None:
    assert parse_gray_levels(255 * eps) == parse_gray_levels(str(255 * eps)) == parse_eps(eps)


@pytest.mark.parametrize(
    "text", ["-1", "256", "255.0001", -1, 256, "1e-99999999", "9" * 61, "nan", "inf", math.inf, "", "x", "1/0", None]
)
def test_gray_levels_that_are_none(text: Any) -> None:
    with pytest.raises(UserError, match="^gray levels: expected a (number|radius in gray levels from 0 to 255)"):
        parse_gray_levels(text)


PIXELS, LABELS = to_pixels(np.full((2, 1, 2, 2), 153, np.uint8)), np.array([0, 1])


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
        (PIXELS.astype(np.float64), LABELS, "expected uint8 images, or float32 pixels in .* got float64"),
        ((PIXELS * 255).astype(np.int64), LABELS, "expected uint8 images, or float32 pixels in .* got int64"),
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
        certify(net_for(method), pixels, labels, "0.1", method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.5, np.nextafter(np.float32(0.6), np.float32(1)), 1e-45])
def test_an_exact_net_takes_whole_gray_levels(value: float, method: str) -> None:
    certify(deep(), altered(value), LABELS, "0.1")
    with pytest.raises(UserError, match=r"whole gray levels.* pixel \(1, 0, 1, 1\) is np.float32"):
        certify(quantized(), altered(value), LABELS, "0.1", method=method)
    certify(quantized(), altered(1), LABELS, "0.1", method=method)


@pytest.mark.parametrize("method", ROUNDED)
@pytest.mark.parametrize("make", DISTANCE_NETS)
def test_only_the_net_at_infinity_is_certified(make: Callable[[], Sequential], method: str) -> None:
    net = make()
    net.p = 1000
    with pytest.raises(UserError, match="at p = 1000: only the p = ∞ net is 1-Lipschitz"):
        certify(net, PIXELS, LABELS, "0.1", method=method)
    net.p = math.inf
    certify(net, PIXELS, LABELS, "0.1", method=method)


@pytest.mark.parametrize("method", METHODS)
def test_an_exact_net_at_a_finite_p_is_refused_too(method: str) -> None:
    net = quantized()
    net.p = 1000
    with pytest.raises(UserError, match="at p = 1000: only the p = ∞ net is 1-Lipschitz"):
        certify(net, PIXELS, LABELS, "0.1", method=method)


@pytest.mark.parametrize("make", [*NETS, lambda: Sequential(*quantized().layers)])
def test_only_exact_nets_have_exact_certificates(make: Callable[[], Sequential]) -> None:
    with pytest.raises(UserError, match="no exact certificate: make it exact with quantize first"):
        certify(make(), PIXELS, LABELS, "0.1", method="exact")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1 / 512, "1.weight holds numbers that are no multiples of 2\\^-8"),
        (2.0**16, "values may reach .* gray levels, and float32 holds multiples of 2\\^-8 below 65536 only"),
        (math.nan, "1.weight holds values that are not finite"),
        (math.inf, "1.weight holds values that are not finite"),
    ],
)
def test_a_net_that_is_exact_no_more_is_refused(value: float, message: str, method: str) -> None:
    net = quantized()
    weight = net.state()["1.weight"]
    with pytest.raises(ValueError, match="read-only"):
        weight[0, 0] = value
    with pytest.raises(ValueError, match="WRITEABLE"):
        weight.flags.writeable = True
    changed = weight.copy()
    changed[0, 0] = value
    net.parameters()["1.weight"].data = changed
    with pytest.raises(UserError, match=message):
        certify(net, PIXELS, LABELS, "0.1", method=method)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["2.weight", "3.running_mean", "6.bias"])
def test_a_net_must_be_finite(name: str, value: float) -> None:
    net = deep()
    net.state()[name].reshape(-1)[-1] = value
    for method in ROUNDED:
        with pytest.raises(UserError, match=f"cannot be certified: {name} holds values that are not finite"):
            certify(net, PIXELS, LABELS, "0.1", method=method)


def test_logits_must_be_a_row_a_sample() -> None:
    with pytest.raises(UserError, match=r"logits have shape \(2, 3, 1, 1\)"):
        certify(Sequential(Normalize((0.5,), 1.0), LinfDistConv2d(1, 3, 2)), PIXELS, LABELS, "0.1")


def test_a_model_of_one_class_has_nothing_to_certify() -> None:
    for net in (plain_net([[0.0]]), quantize(plain_net([[0.0]]))):
        for ask in (certify, pgd):
            with pytest.raises(UserError, match="the model has one class only"):
                ask(net, gray(0), np.array([0]), "0.1")


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="knows the environment of glibc on x86-64"
)
@pytest.mark.parametrize(
    ("bits", "fault"),
    [
        (0x2000, "does not round to the nearest"),  # downward
        (0x4000, "does not round to the nearest"),  # upward
        (0x6000, "does not round to the nearest"),  # towards zero
        (0x8000, "flushes denormal numbers to zero"),  # results
        (0x0040, "flushes denormal numbers to zero"),  # operands
    ],
)
def test_arithmetic_that_is_not_that_of_ieee_754_is_refused(bits: int, fault: str) -> None:
    """The bits of the control register MXCSR, the last word of a floating-point environment."""
    libm, net, image = ctypes.CDLL(ctypes.util.find_library("m")), plain_net([[0.0], [1.0]]), row(0.25)
    usual = (ctypes.c_uint32 * 8)()
    libm.fegetenv(usual)
    changed = (ctypes.c_uint32 * 8)(*usual)
    changed[7] |= bits
    for ask in (
        lambda: predict(net, image),
        lambda: certify(net, image, np.array([0]), "0.1"),
        lambda: pgd(net, image, np.array([0]), "0.1"),
    ):
        ask()
        libm.fesetenv(changed)
        try:
            found = str(raised(ask))
        finally:
            libm.fesetenv(usual)
        assert fault in found


def raised(call: Callable[[], Any]) -> UserError | None:
    try:
        call()
    except UserError as error:
        return error
    return None


def test_an_unknown_method() -> None:
    with pytest.raises(ValueError, match="expected exact, interval or margin, got 'guess'"):
        certify(deep(), PIXELS, LABELS, "0.1", method="guess")


def test_the_net_is_certified_as_it_is_evaluated() -> None:
    """With running means instead of batch means, no gradient, and nothing changed."""
    net = deep()
    before = {name: array.copy() for name, array in net.state().items()}
    net.train()
    verdict = certify(net, PIXELS, LABELS, "0.01")
    assert net.training
    again = certify(net, PIXELS, LABELS, "0.01")
    np.testing.assert_array_equal(verdict.margin, again.margin)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters().values())


def test_the_box_of_a_net_in_training_is_that_of_its_evaluation() -> None:
    """Its mean shifts take the running mean there, too, where the margin leaves the question open."""
    net, rng = deep(), np.random.default_rng(0)
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    images = rng.random((40, 1, 2, 2), np.float32)
    labels = predict(net, images).argmax(axis=1)
    eps = Fraction(float(np.median(certify(net, images, labels, 0).radius)))
    one, other = (certify(net.train(mode), images, labels, eps) for mode in (True, False))
    for verdict in (one, other):
        assert ((verdict.margin <= verdict.threshold) & (verdict.margin > 0)).any()
    np.testing.assert_array_equal(one.certified, other.certified)


@pytest.mark.parametrize(
    ("exact", "method"), [*((True, method) for method in METHODS), *((False, method) for method in ROUNDED)]
)
def test_a_certificate_says_what_it_is_about(exact: bool, method: str) -> None:
    verdict = certify(quantized() if exact else deep(), PIXELS, LABELS, "8/255", method=method)
    assert isinstance(verdict, Certificate)
    assert (verdict.method, verdict.eps, verdict.gray_levels) == (method, Fraction(8, 255), 8)
    assert verdict.logits.shape == (2, 3)
    for column in (verdict.prediction, verdict.correct, verdict.certified, verdict.margin, verdict.radius):
        assert column.shape == (2,)
    assert verdict.correct.dtype == verdict.certified.dtype == bool
    assert verdict.radius.dtype == verdict.margin.dtype == np.float64
    assert verdict.fraction_bits == (8 if exact else None)
    if exact:
        assert verdict.steps is not None
        assert (verdict.steps.dtype, verdict.threshold) == (np.int64, 16)
    else:
        assert verdict.steps is None
    assert verdict.arithmetic.startswith("integers over 2^8 gray levels" if exact else "float32")
    assert ("rounding" in verdict.rests_on) == (not exact)
    assert ("the box" in verdict.rests_on) == (method != "margin")


# Numbers derived from logits and counts.


@given(logits=arrays((4, 3)), labels=st.lists(st.integers(0, 2), min_size=4, max_size=4))
def test_margins(logits: Array, labels: list[int]) -> None:
    expected = [row[y] - max(np.delete(row, y)) for row, y in zip(logits.astype(float), labels, strict=True)]
    np.testing.assert_array_equal(margins(logits, np.array(labels)), expected)


def test_predict_is_the_net_in_batches() -> None:
    net, x = deep().eval(), np.random.default_rng(0).random((7, 1, 2, 2), np.float32)
    for size in (1, 3, 7, 100):
        np.testing.assert_array_equal(predict(net, x, batch_size=size), net(Tensor(x)).numpy())


def test_a_certificate_is_shown_in_one_line() -> None:
    net, x = deep().eval(), np.random.default_rng(0).random((7, 1, 2, 2), np.float32)
    proof = certify(net, x, predict(net, x).argmax(axis=1), "1/255", method="margin")
    count = int(proof.certified.sum())
    assert repr(proof) == f"Certificate(margin, ε = 1/255: {count} of 7 certified, 7 right)"


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
