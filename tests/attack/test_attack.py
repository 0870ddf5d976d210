"""Attacks: they stay in the ball, they leave the net as it was, and they never break what is certified."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from support.draws import draws
from support.nets import (
    NETS,
    Question,
    deep,
    exact_nets,
    exact_questions,
    float_questions,
    gray_images,
    nets,
    questions,
)
from support.op_cases import Array

from linfengine.attack import Attacked, pgd, push
from linfengine.certify import certify, check_samples, margins, predict
from linfengine.data import to_pixels
from linfengine.domain import Domain, domain_of
from linfengine.errors import UserError
from linfengine.evaluate import evaluate
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    linf_net,
)
from linfengine.ops.base import Result
from linfengine.units import WHITE

EPS = Fraction(8, 255)


class Watched(Sequential):
    """A net that remembers every point it was asked about."""

    def __init__(self, *layers: Module) -> None:
        super().__init__(*layers)
        self.asked: list[Array] = []

    def __call__(self, x: Any) -> Result:
        if not hasattr(x, "lower"):
            self.asked.append(np.array(getattr(x, "data", x)) if not isinstance(x, np.ndarray) else x.copy())
        return super().__call__(x)


class WatchedExact(Watched, ExactNet):
    def __init__(self, *layers: Module, domain: Domain) -> None:
        ExactNet.__init__(self, *layers, domain=domain)
        self.asked = []


def watched(net: Sequential) -> Any:
    """The same net, and it remembers; which of the two, mypy need not know."""
    return WatchedExact(*net.layers, domain=net.domain) if isinstance(net, ExactNet) else Watched(*net.layers)


def small(seed: int = 0) -> Sequential:
    return linf_net((1, 2, 2), 3, width=5, depth=2, mean=(0.5,), std=0.25, seed=seed)


def exact(seed: int = 0) -> ExactNet:
    return quantize(small(seed), 8)


def on_bytes(seed: int = 0) -> ExactNet:
    return quantize(small(seed), 0)


MAKERS: list[Callable[[int], Sequential]] = [small, exact, on_bytes]
every_kind = pytest.mark.parametrize("make", MAKERS)


def samples(n: int = 12, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 1, 2, 2)).astype(np.uint8), rng.integers(0, 3, n)


def predicted(net: Sequential, images: Array) -> Array:
    x, _ = check_samples(net, images, np.zeros(len(images), int))
    return predict(net, x).argmax(axis=1)


def settings_of_pgd(max_steps: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "steps": st.integers(1, max_steps),
            "restarts": st.integers(1, 3),
            "targeted": st.booleans(),
            "smooth": st.booleans(),
            "rounding": st.integers(0, 3),
            "seed": st.integers(0, 99),
        }
    )


def distances(points: Array, x: Array) -> list[Fraction]:
    """|a - b| of numbers that broadcast, without rounding."""
    pairs = zip(points.ravel().tolist(), np.broadcast_to(x, points.shape).ravel().tolist(), strict=True)
    return [abs(Fraction(a) - Fraction(b)) for a, b in pairs]


def assert_valid(net: Sequential, points: Array, x: Array, eps: Fraction) -> None:
    """Images that the net takes, at exact distance <= eps (pixel units) from x."""
    assert max(distances(points, x), default=Fraction(0)) <= eps * domain_of(net).logit_unit
    assert ((0 <= points) & (points <= domain_of(net).logit_unit)).all()
    if isinstance(net, ExactNet):
        np.testing.assert_array_equal(points * 2.0**net.fraction_bits % 1, 0)


# What PGD does.


@given(question=questions(NETS), chosen=settings_of_pgd())
@draws(50)
def test_every_point_is_a_valid_image_of_the_ball(question: Question, chosen: dict[str, Any]) -> None:
    net = watched(question.net)
    for one in map(question.one, range(len(question.labels))):  # for it is not said which samples a batch consists of
        net.asked.clear()
        pgd(net, one.images, one.labels, one.eps, **chosen)
        np.testing.assert_array_equal(net.asked[0], one.x)
        for point in net.asked[1:]:
            assert point.dtype == np.float32
            assert point.shape == (1, 1, 2, 2)
            assert_valid(one.net, point, one.x, one.eps)


@given(question=questions(), chosen=settings_of_pgd())
@draws(50)
def test_what_is_found_is_the_worst_of_all_points_tried(question: Question, chosen: dict[str, Any]) -> None:
    """And a sample withstood if the label was the prediction at every one of them."""
    net = watched(question.net)
    for one in map(question.one, range(len(question.labels))):
        net.asked.clear()
        found = pgd(net, one.images, one.labels, one.eps, **chosen)
        asked = np.concatenate([point.astype(np.float32) for point in net.asked])
        logits = predict(one.net, asked)
        margin = margins(logits, np.repeat(one.labels, len(asked)))
        assert found.margin[0] == margin.min()
        np.testing.assert_array_equal(found.point[0], asked[margin.argmin()])
        assert found.withstood[0] == (logits.argmax(axis=1) == one.labels).all()


@given(question=questions(), labels=st.lists(st.integers(0, 2), min_size=3, max_size=3), chosen=settings_of_pgd())
def test_what_is_found_is_a_point_and_its_margin(question: Question, labels: list[int], chosen: dict[str, Any]) -> None:
    net, y = question.net, np.array(labels)
    found = pgd(net, question.images, y, question.eps, **chosen)
    assert isinstance(found, Attacked)
    assert (found.point.dtype, found.point.shape) == (np.float32, question.images.shape)
    assert_valid(net, found.point, question.x, question.eps)
    logits = predict(net, found.point)
    np.testing.assert_array_equal(found.margin, margins(logits, y))
    clean = predict(net, question.x)
    assert (found.margin <= margins(clean, y)).all()
    right = logits.argmax(axis=1) == y
    assert found.withstood.dtype == bool
    assert (found.withstood <= right).all()
    assert (found.withstood <= (clean.argmax(axis=1) == y)).all()
    assert (found.margin[~found.withstood] <= 0).all()


@every_kind
def test_it_tries_as_often_as_it_is_told(make: Callable[[int], Sequential]) -> None:
    """Without a radius nothing breaks, so that all of it can be counted."""
    net = watched(make(0))
    images, _ = samples()
    x, _ = check_samples(net, images, np.zeros(12, int))
    labels = predicted(make(0), images)
    for steps, restarts, targeted, smooth, rounding in (
        (1, 1, False, False, 0), (4, 1, False, False, 0), (2, 3, False, False, 0), (3, 1, True, False, 0),
        (3, 2, False, True, 0), (3, 4, False, True, 0), (1, 1, False, False, 5), (2, 3, True, True, 7),
    ):  # fmt: skip
        net.asked.clear()
        found = pgd(
            net, images, labels, 0,
            steps=steps, restarts=restarts, targeted=targeted, smooth=smooth, rounding=rounding,
        )  # fmt: skip
        descents = restarts + 2 * targeted
        on_the_smooth_net = steps * (restarts // 2) if smooth else 0
        assert len(net.asked) == 1 + descents * (steps + 1) + on_the_smooth_net + rounding
        assert found.withstood.all()
        for point in (*net.asked, found.point):
            np.testing.assert_array_equal(point, x)


@every_kind
def test_a_step_is_a_quarter_of_eps_and_the_start_within_a_half(make: Callable[[int], Sequential]) -> None:
    net = watched(make(0))
    images = samples(200)[0].clip(77, 178)  # no clipping to valid images
    labels = predicted(make(0), images)
    eps = 0.2 * domain_of(net).logit_unit
    near = 0.5 if domain_of(net).logit_unit == WHITE else 1e-6  # bytes move by whole gray levels
    pgd(net, images, labels, "0.2", steps=8)
    x = check_samples(net, images, labels)[0].astype(np.float32)
    start = np.abs(net.asked[1] - x)
    assert 0 < start.max() <= eps / 2 + near
    for before, after in zip(net.asked[1:], net.asked[2:], strict=False):
        assert np.abs(after - before).max() <= eps / 4 + near
        moved = np.abs(after - before) > 0
        inside = np.abs(after - x) < eps - 1.01 * near
        np.testing.assert_allclose(np.abs(after - before)[moved & inside], eps / 4, atol=near)
    assert np.abs(net.asked[-1] - x).max() >= eps / 2


def one_pixel() -> Sequential:
    """|x| against |x - 1|."""
    net = linf_net((1, 1, 1), 2, width=1, depth=1, mean=(0.0,), std=1.0)
    net.load_state({"2.weight": np.array([[0], [1]], np.float32), "2.bias": np.zeros(2, np.float32)})
    return net


def test_what_is_found_is_shown_in_one_line() -> None:
    net, x = deep().eval(), np.random.default_rng(0).random((7, 1, 2, 2), np.float32)
    labels = predict(net, x).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % 3
    assert repr(pgd(net, x, labels, 0, steps=1)) == "Attacked(5 of 7 withstood)"


def test_an_attack_succeeds_where_it_can() -> None:
    """At x = 3/8: at distance 1/8 the answer changes, and PGD knows the way."""
    x, y = np.full((1, 1, 1, 1), 0.375, np.float32), np.array([0])
    for eps, holds in (("0.12", True), ("0.13", False)):
        found = pgd(one_pixel(), x, y, eps)
        assert found.withstood == [holds]
        assert found.margin == pytest.approx(2 * (0.125 - float(eps)), abs=1e-6)
        np.testing.assert_allclose(found.point, x + float(eps), rtol=1e-6)


@pytest.mark.parametrize("bits", [0, 1, 8])
def test_an_attack_on_an_exact_net_goes_to_the_end_of_its_ball(bits: int) -> None:
    """At level 96 the answer changes at distance 31.5, which is a level of a net with one fraction bit, and no byte."""
    net, image, y = quantize(one_pixel(), bits), np.full((1, 1, 1, 1), 96, np.uint8), np.array([0])
    for levels, end in (
        (31, 127),
        (31.5, 127 if bits == 0 else 127.5),
        (31.99, 127 + {0: 0, 1: 0.5, 8: 253 / 256}[bits]),
    ):
        found = pgd(net, image, y, Fraction(levels) / WHITE)
        assert found.point == end
        assert found.margin == WHITE - 2 * end
        assert found.withstood == [end <= 127.5]  # at a tie the lowest class wins


def test_following_the_gradient_helps() -> None:
    images, _ = samples(200)
    labels = predicted(small(), images)
    broken = [int((~pgd(small(), images, labels, "0.1", steps=steps).withstood).sum()) for steps in (1, 20)]
    assert broken[1] > 1.5 * broken[0]


@every_kind
@pytest.mark.parametrize(
    ("setting", "without"),
    [
        ({"restarts": 5}, {}),
        ({"targeted": True}, {}),
        ({"restarts": 2, "smooth": True}, {"restarts": 2}),
    ],
    ids=str,
)
def test_every_setting_helps(
    setting: dict[str, Any], without: dict[str, Any], make: Callable[[int], Sequential]
) -> None:
    images, _ = samples(600)
    labels = predicted(make(0), images)
    less, more = (pgd(make(0), images, labels, "0.1", steps=5, batch_size=600, **s) for s in (without, setting))
    assert (~more.withstood).sum() > (~less.withstood).sum()
    assert more.margin.mean() < less.margin.mean()


def needle(point: float, width: float) -> Sequential:
    """The second class wins nearer than `width` to one value of the pixel, everywhere else the first."""
    net = Sequential(
        Normalize((0.0,), 1.0),
        Flatten(),
        LinfDistDense(1, 2, bias=True),
        ReLU(),
        LinfDistDense(2, 2, groups=2),
        Negate(),
    )
    net.load_state(
        {
            "2.weight": np.array([[0], [point]], np.float32),
            "2.bias": np.array([-2, 0], np.float32),  # the first neuron is always 0
            "4.weight": np.array([[width], [0]], np.float32),
        }
    )
    return net


@pytest.mark.parametrize(
    ("net", "image"),
    [
        (needle(0.5, 2.0**-24), np.full((1, 1, 1, 1), 0.5 + 2.0**-24, np.float32)),
        (quantize(needle((128 - 2.0**-8) / WHITE, 2.0**-8 / WHITE), 8), np.full((1, 1, 1, 1), 128, np.uint8)),
    ],
    ids=["float32", "exact"],
)
def test_rounding_finds_what_lies_in_the_last_place(net: Sequential, image: Array) -> None:
    """A tie at the image, and one place beside it the other class."""
    y = np.array([0])
    assert predicted(net, image) == [0]
    found = [pgd(net, image, y, "0.1", restarts=5, targeted=True, rounding=rounding) for rounding in (0, 30)]
    assert [each.withstood[0] for each in found] == [True, False]
    assert found[0].margin[0] == 0 > found[1].margin[0]


def test_a_sample_that_was_broken_on_the_way_is_broken() -> None:
    """Steps of 0.025 now and then hit a needle of 0.01, and the next one leaves it."""
    net, x, y = needle(0.5, 0.005), np.full((200, 1, 1, 1), 0.55, np.float32), np.zeros(200, int)
    witness = watched(net)
    found = pgd(witness, x, y, "0.1", steps=6)
    right = np.array([predict(net, point).argmax(axis=1) == 0 for point in witness.asked])
    np.testing.assert_array_equal(found.withstood, right.all(axis=0))
    assert (right[-1] & ~found.withstood).sum() > 10


@every_kind
def test_a_targeted_attack_goes_towards_the_other_classes(make: Callable[[int], Sequential]) -> None:
    """Each of them in turn: from the start to the end of a descent its logit gains on the label's."""
    net, (images, _) = watched(make(0)), samples(200)
    labels = predicted(make(0), images)
    certified = certify(make(0), images, labels, "1/50").certified  # so that all of them take part in all of it
    images, labels, rows = images[certified], labels[certified], np.arange(certified.sum())
    pgd(net, images, labels, "1/50", steps=6, targeted=True)
    for offset in (1, 2):
        start = 1 + 7 * offset
        before, after = (predict(make(0), net.asked[at]) for at in (start, start + 6))
        gain = [z[rows, (labels + offset) % 3] - z[rows, labels] for z in (before, after)]
        assert (gain[1] >= gain[0] - 1e-6).mean() > 0.95
        assert (gain[1] > gain[0] + 1e-6).mean() > 0.5


@given(
    question=questions(NETS),
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    chosen=settings_of_pgd(),
)
def test_certified_withstood_and_right(question: Question, labels: list[int], chosen: dict[str, Any]) -> None:
    """Sample by sample: certified implies withstood, and withstood implies right."""
    net, y = question.net, np.array(labels)
    withstood = pgd(net, question.images, y, question.eps, **chosen).withstood
    assert (question.answer(labels=y).certified <= withstood).all()
    assert (withstood <= (question.labels == y)).all()


# What is broken stays broken.

FURTHER: list[tuple[dict[str, Any], dict[str, Any]]] = [  # what the attack does first, and the same with more after it
    ({"steps": 2}, {"steps": 5}),
    ({"restarts": 1}, {"restarts": 4}),
    ({"restarts": 2, "smooth": True}, {"restarts": 3, "smooth": True, "targeted": True}),
    ({"restarts": 1}, {"restarts": 2, "smooth": True}),
    ({"restarts": 2}, {"restarts": 2, "targeted": True}),
    ({"restarts": 2}, {"restarts": 2, "rounding": 3}),
    ({"rounding": 2}, {"rounding": 6}),
    ({"targeted": True}, {"targeted": True, "rounding": 4}),
    (
        {"restarts": 2, "smooth": True, "targeted": True},
        {"restarts": 2, "smooth": True, "targeted": True, "rounding": 2},
    ),
]


@given(
    question=questions(),
    labels=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    both=st.sampled_from(FURTHER),
    seed=st.integers(0, 99),
)
@draws(100)
def test_more_never_mends(
    question: Question, labels: list[int], both: tuple[dict[str, Any], dict[str, Any]], seed: int
) -> None:
    less, more = (
        pgd(question.net, question.images, np.array(labels), question.eps, **{"steps": 2, "seed": seed} | each)
        for each in both
    )
    assert (more.withstood <= less.withstood).all()
    assert (more.margin <= less.margin).all()
    done = ~less.withstood  # what is broken is not looked at again
    if "steps" not in both[0]:
        np.testing.assert_array_equal(more.point[done], less.point[done])


@every_kind
def test_what_is_broken_is_not_attacked_again(make: Callable[[int], Sequential]) -> None:
    net = watched(make(0))
    images, labels = samples(50)
    x, _ = check_samples(net, images, labels)
    found = pgd(net, images, labels, "0.3", steps=2, restarts=3, targeted=True, rounding=2)
    sizes = [len(point) for point in net.asked]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == (predicted(make(0), images) == labels).sum() < sizes[0] == 50
    assert found.withstood.sum() <= sizes[-1] < sizes[1]
    wrong = predicted(make(0), images) != labels
    np.testing.assert_array_equal(found.point[wrong], x[wrong])


def test_without_a_radius_only_mistakes_are_broken() -> None:
    for make in MAKERS:
        images, labels = samples(50)
        right = predicted(make(0), images) == labels
        np.testing.assert_array_equal(pgd(make(0), images, labels, 0, targeted=True, rounding=3).withstood, right)


def test_the_seed_decides_where_it_starts() -> None:
    images, _ = samples()
    labels = predicted(small(), images)
    paths = []
    for seed in (0, 0, 1):
        net = watched(small())
        pgd(net, images, labels, EPS, seed=seed)
        paths.append(np.array(net.asked))
    np.testing.assert_array_equal(paths[0], paths[1])
    assert (paths[0][1] != paths[2][1]).any()


def test_each_restart_and_each_batch_starts_elsewhere_and_all_samples_are_judged() -> None:
    net = watched(small())
    repeated = np.repeat(samples(1)[0], 5, axis=0)
    labels = predicted(small(), repeated)
    found = pgd(net, repeated, labels, "1/255", steps=1, restarts=3, batch_size=2)
    assert found.withstood.all()
    for column in (found.point, found.margin, found.withstood):
        assert len(column) == 5
    of_batch = 1 + 3 * 2
    starts = [net.asked[of_batch * batch + 1 + 2 * restart] for batch in range(3) for restart in range(3)]
    assert len(np.unique(np.concatenate(starts).reshape(15, -1), axis=0)) == 15


@given(images=gray_images(), net=exact_nets() | nets(NETS), eps=st.fractions(0, 1), chosen=settings_of_pgd())
@draws(40)
def test_bytes_and_their_pixels_are_attacked_alike(
    images: Array, net: Sequential, eps: Fraction, chosen: dict[str, Any]
) -> None:
    labels = predicted(net, images)
    of_bytes, of_pixels = (pgd(net, x, labels, eps, **chosen) for x in (images, to_pixels(images)))
    for column in ("point", "margin", "withstood"):
        np.testing.assert_array_equal(getattr(of_bytes, column), getattr(of_pixels, column))


# The ball that points are taken from: the inner box.

UNIT = st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.3, 0.5, 8 / 255, 1e-45, 1e-38]).map(
    lambda x: float(np.float32(x))
)


@st.composite
def balls(draw: st.DrawFn) -> tuple[float, Fraction]:
    """A pixel and a radius, a usual one or nearly the distance to another pixel."""
    x, usual = draw(UNIT), draw(st.fractions(0, 1) | st.sampled_from([Fraction(n, 255) for n in range(256)]))
    other, away = draw(st.sampled_from([0.0, 1.0]) | UNIT), Fraction(1, 2 ** draw(st.integers(30, 160)))
    close = abs(Fraction(x) - Fraction(other)) + draw(st.sampled_from([-1, 0, 1])) * away
    eps = draw(st.sampled_from([usual, close]))
    assume(0 <= eps <= 1)
    return x, eps


@given(ball=balls())
@example(ball=(1.5 * 2.0**-54, Fraction(3, 4) - Fraction(1, 2**53)))  # 3/4 less the pixel is rounded down to eps
@draws(300)
def test_the_ends_of_the_inner_box_are_the_outermost_numbers_of_the_ball(ball: tuple[float, Fraction]) -> None:
    """None is at an exact distance above eps, and the next one is; or above the float64 number that eps is rounded down
    to, which a distance that no float64 number holds may lie beyond."""
    x, eps = ball
    radius = Fraction(float(eps))
    if radius > eps:
        radius = Fraction(math.nextafter(float(eps), 0))
    inner = domain_of(deep()).ball(np.full((1, 1, 1, 1), x, np.float32), eps, outward=False)
    assert inner.dtype == np.float32
    for end, limit in ((inner.lower.item(), 0.0), (inner.upper.item(), 1.0)):
        assert abs(Fraction(end) - Fraction(x)) <= eps
        if end != limit:
            beyond = np.nextafter(np.float32(end), np.float32(limit)).item()
            assert 0 <= beyond <= 1
            assert abs(Fraction(beyond) - Fraction(x)) > radius


@given(net=exact_nets(), level=st.integers(0, WHITE), data=st.data())
@draws(100)
def test_so_they_are_for_an_exact_net(net: ExactNet, level: int, data: st.DataObject) -> None:
    """On its grid, in gray levels."""
    grid = 1 << net.fraction_bits
    eps = data.draw(st.fractions(0, 1) | st.integers(0, 2 * WHITE * grid).map(lambda k: Fraction(k, 2 * WHITE * grid)))
    ball = domain_of(net).ball(np.full((1, 1, 1, 1), level, np.uint8), eps, outward=False)
    assert ball.dtype == np.float32
    for end, limit, away in ((ball.lower.item(), 0, -1), (ball.upper.item(), WHITE, 1)):
        assert (Fraction(end) * grid).denominator == 1
        assert abs(Fraction(end) - level) <= WHITE * eps
        assert away * (limit - end) >= 0
        assert end == limit or abs(Fraction(end) + Fraction(away, grid) - level) > WHITE * eps


@given(question=questions(NETS))
def test_the_inner_box_lies_in_the_outer_one(question: Question) -> None:
    inner, outer = (
        domain_of(question.net).ball(question.x, question.eps, outward=outward) for outward in (False, True)
    )
    assert outer.contains(inner.lower)
    assert outer.contains(inner.upper)
    assert inner.contains(question.x)


# Pushing an image along the paths that win.


@given(question=questions(NETS), seed=st.integers(0, 99), tries=st.integers(0, 5))
def test_what_is_pushed_stays_in_the_ball(question: Question, seed: int, tries: int) -> None:
    net, x = question.net, question.x
    for i in range(len(x)):
        label = question.labels[i : i + 1]
        points = push(net, x[i : i + 1], label, question.eps, np.random.default_rng(seed), tries)
        assert points.shape == (2 * (tries + 1), 1, 2, 2)  # two other classes
        assert points.dtype == np.float32
        assert_valid(net, points, x[i : i + 1], question.eps)


@given(question=float_questions(methods=["margin"]) | exact_questions(), seed=st.integers(0, 99))
def test_what_is_pushed_no_further_than_is_proved_stays(question: Question, seed: int) -> None:
    net, rng = question.net, np.random.default_rng(seed)
    for i in np.flatnonzero(question.answer().certified):
        points = push(net, question.x[i : i + 1], question.labels[i : i + 1], question.eps, rng)
        assert (predict(net, points).argmax(axis=1) == question.labels[i]).all()


@every_kind
def test_pushing_costs_the_margin_twice_the_radius_or_nothing(make: Callable[[int], Sequential]) -> None:
    """Nothing where both logits hang on the same pixel; something else only where a path changes on the way."""
    net, (images, _), rng = make(0), samples(100), np.random.default_rng(0)
    labels = predicted(net, images)
    x, _ = check_samples(net, images, labels)
    error, most = 4 * net.rounding(2.0)[0] + 1e-9, 2 * net.lipschitz() * domain_of(net).logit_unit / WHITE
    lost = []
    for i in range(len(x)):
        points = push(net, x[i : i + 1], labels[i : i + 1], Fraction(1, WHITE), rng)
        before, after = (margins(predict(net, at), np.repeat(labels[i], len(at))) for at in (x[i : i + 1], points))
        lost.append(before[0] - after.min())
    assert max(lost) <= most + error
    wholly = np.abs(np.array(lost) - most) <= error
    assert wholly.mean() > 0.5
    assert (wholly | (np.abs(lost) <= error)).mean() > 0.9


def test_pushing_finds_the_other_class_just_beyond_half_the_margin() -> None:
    """|x| against |x - 1| at x = 3/8, and at level 96, where a tie is at 31.5."""
    x, y, rng = np.full((1, 1, 1, 1), 0.375, np.float32), np.array([0]), np.random.default_rng(0)
    for radius, beaten in ((Fraction(1, 8), False), (Fraction(1, 8) + Fraction(1, 2**23), True)):
        assert (predict(one_pixel(), push(one_pixel(), x, y, radius, rng)).argmax(axis=1) == 1).any() == beaten
    net, image = quantize(one_pixel(), 1), np.full((1, 1, 1, 1), 96, np.uint8)
    for levels, beaten in ((Fraction(63, 2), False), (Fraction(64, 2), True)):
        assert (predict(net, push(net, image, y, levels / WHITE, rng)).argmax(axis=1) == 1).any() == beaten


def test_the_first_push_moves_only_the_pixels_that_logits_depend_on() -> None:
    """A logit of one distance layer depends on one pixel."""
    net = linf_net((1, 3, 3), 3, width=1, depth=1, mean=(0.5,), std=0.25, seed=0)
    x = np.full((1, 1, 3, 3), 0.5, np.float32)
    points = push(net, x, np.array([0]), EPS, np.random.default_rng(0), tries=2)
    moved = (points != x).sum(axis=(1, 2, 3)).reshape(2, 3)  # of two other classes, the first way and two more
    assert (moved[:, 0] <= 2).all()
    assert (moved[:, 0] >= 1).all()
    assert moved[:, 1:].max() > 2


def test_pushing_is_about_the_net_at_evaluation_and_leaves_it_as_it_was() -> None:
    """In training a mean shift takes the mean of what is pushed, and remembers it."""
    net, (images, labels) = small(), samples()
    x = to_pixels(images[:1])
    expected = push(net.eval(), x, labels[:1], EPS, np.random.default_rng(0))
    before = {name: array.copy() for name, array in net.state().items()}
    net.train()
    net.p = 2
    np.testing.assert_array_equal(push(net, x, labels[:1], EPS, np.random.default_rng(0)), expected)
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])


# What an attack leaves behind.


def test_the_net_is_left_as_it_was() -> None:
    net, (images, labels) = small(), samples()
    net.parameters()["2.weight"].requires_grad = False
    before = {name: array.copy() for name, array in net.state().items()}
    net.train()
    pgd(net, images, labels, EPS, restarts=2, targeted=True, smooth=True, rounding=2)
    assert all(module.training for _, module in net.modules())
    assert net.p == math.inf
    for name, array in net.state().items():
        np.testing.assert_array_equal(array, before[name])
    for name, parameter in net.parameters().items():
        assert parameter.grad is None
        assert parameter.requires_grad == (name != "2.weight")


def test_an_exact_net_stays_exact() -> None:
    net, (images, labels) = exact(), samples()
    before = certify(net, images, labels, EPS, method="exact")
    pgd(net, images, labels, EPS, restarts=2, targeted=True, smooth=True, rounding=2)
    net.check()
    np.testing.assert_array_equal(certify(net, images, labels, EPS, method="exact").logits, before.logits)
    assert not any(parameter.requires_grad for parameter in net.parameters().values())
    assert not any(array.flags.writeable for array in net.state().values())


def test_a_gradient_that_was_there_stays() -> None:
    net, (images, labels) = small(), samples()
    net(to_pixels(images)).sum().backward()
    before = {name: np.array(parameter.grad) for name, parameter in net.parameters().items()}
    pgd(net, images, labels, EPS)
    for name, parameter in net.parameters().items():
        np.testing.assert_array_equal(parameter.grad, before[name])


# What is refused.


def at_finite_p() -> Module:
    net = small()
    net.p = 8
    return net


def exact_at_finite_p() -> Module:
    net = exact()
    net.p = 8
    return net


def not_finite() -> Module:
    net = small()
    net.state()["2.weight"][0, 0] = math.nan
    return net


@pytest.mark.parametrize("name", ["steps", "restarts"])
@pytest.mark.parametrize("count", [0, -1])
def test_steps_and_restarts_are_counted_from_one(count: int, name: str) -> None:
    images, labels = samples()
    settings: dict[str, Any] = {name: count}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {count}"):
        pgd(small(), images, labels, EPS, **settings)


@pytest.mark.parametrize("judge", [pgd, evaluate])
@pytest.mark.parametrize(
    ("make", "change", "eps", "message"),
    [
        (at_finite_p, {}, EPS, "at p = 8"),
        (exact_at_finite_p, {}, EPS, "at p = 8"),
        (not_finite, {}, EPS, "2.weight holds values that are not finite"),
        (small, {}, "2", "radius in pixel units"),
        (small, {}, "nan", "expected a number"),
        (small, {"pixels": np.full((2, 1, 2, 2), 1.5, np.float32)}, EPS, "pixels must lie in"),
        (small, {"pixels": np.full((2, 1, 2, 2), np.nan, np.float32)}, EPS, "pixels must lie in"),
        (small, {"pixels": np.zeros((2, 1, 2, 2))}, EPS, "got float64"),
        (small, {"pixels": np.zeros((0, 1, 2, 2), np.float32), "labels": np.zeros(0, int)}, EPS, "no samples"),
        (small, {"labels": np.zeros(3, int)}, EPS, "shapes"),
        (small, {"labels": np.zeros(2)}, EPS, "integer labels"),
        (small, {"labels": np.array([0, 3])}, EPS, "labels from 0 to 3 do not fit"),
        (exact, {"pixels": np.full((2, 1, 2, 2), 0.5, np.float32)}, EPS, "whole gray levels"),
        (lambda: Sequential(Normalize((0.5,), 1.0), LinfDistConv2d(1, 3, 2)), {}, EPS, "logits have shape"),
        (lambda: Sequential(Flatten(), Dense(4, 3)), {"pixels": np.full((2, 1, 2, 2), -1, np.float32)}, EPS, "pixels"),
    ],
)
def test_what_cannot_be_attacked(
    judge: Callable[..., Any], make: Callable[[], Module], change: dict[str, Array], eps: Any, message: str
) -> None:
    given_samples = {"pixels": np.zeros((2, 1, 2, 2), np.float32), "labels": np.zeros(2, int)} | change
    with pytest.raises(UserError, match=message):
        judge(make(), given_samples["pixels"], given_samples["labels"], eps)
