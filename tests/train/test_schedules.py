"""Schedules are pure functions of progress: exact at their ends, and what the formula says between."""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linfengine.data import Dataset, load_dataset
from linfengine.recipes import load_recipe
from linfengine.schedules import (
    CHEAP_ORDERS,
    cheap_order,
    geometric,
    half_cosine,
    learning_rate,
    linear,
    p_ramp,
    ramp,
)
from linfengine.train import Plan, Trainer, make_plan

CLOSE = 1 + 1e-12  # a few units in the last place
progress = st.floats(0, 1)
epochs = st.floats(0, 1000)
positive = st.floats(1e-6, 1e6)


# how far along


@pytest.mark.parametrize(
    ("epoch", "expected"), [(-5, 0), (0, 0), (2, 0), (2.5, 0.125), (4, 0.5), (5.5, 0.875), (6, 1), (100, 1)]
)
def test_ramp_by_hand(epoch: float, expected: float) -> None:
    assert ramp(epoch, 2, 6) == expected


@given(start=epochs, epoch=epochs)
def test_a_ramp_of_no_length_is_a_step(start: float, epoch: float) -> None:
    assert ramp(epoch, start, start) == (1 if epoch >= start else 0)
    assert ramp(epoch, start, start - 1) == ramp(epoch, start, start)


@given(start=epochs, end=epochs, one=epochs, other=epochs)
def test_a_ramp_rises_from_0_to_1(start: float, end: float, one: float, other: float) -> None:
    early, late = sorted([one, other])
    assert 0 <= ramp(early, start, end) <= ramp(late, start, end) <= 1


# between two values


@given(first=positive, last=positive)
def test_geometric_and_linear_are_exact_at_their_ends(first: float, last: float) -> None:
    """And beyond them."""
    for between in (geometric, linear):
        assert [between(r, first, last) for r in (-1, 0, 1, 2)] == [first, first, last, last]


@pytest.mark.parametrize(
    ("r", "expected"), [(0.25, Fraction(3, 2)), (0.5, Fraction(2)), (0.75, Fraction(5, 2)), (0.125, Fraction(5, 4))]
)
def test_linear_by_hand(r: float, expected: Fraction) -> None:
    assert Fraction(linear(r, 1, 3)) == expected
    assert Fraction(linear(r, 3, 1)) == 4 - expected


@pytest.mark.parametrize(("r", "expected"), [(0.25, 2), (0.5, 4), (0.75, 8)])
def test_geometric_by_hand(r: float, expected: float) -> None:
    assert geometric(r, 1, 16) == pytest.approx(expected, rel=1e-15)
    assert geometric(r, 16, 1) == pytest.approx(16 / expected, rel=1e-15)


@given(r=progress, s=progress, first=positive, last=positive)
def test_equal_steps_make_equal_ratios_or_differences(r: float, s: float, first: float, last: float) -> None:
    """The midpoint of two places is their geometric, respectively arithmetic, mean."""
    mean = math.sqrt(geometric(r, first, last)) * math.sqrt(geometric(s, first, last))
    assert geometric((r + s) / 2, first, last) == pytest.approx(mean, rel=1e-12)
    mean = (linear(r, first, last) + linear(s, first, last)) / 2
    assert linear((r + s) / 2, first, last) == pytest.approx(mean, rel=1e-9, abs=1e-9)


@given(r=progress, s=progress, first=positive, last=positive)
def test_between_two_values_nothing_turns_back(r: float, s: float, first: float, last: float) -> None:
    first, last = sorted([first, last])
    early, late = sorted([r, s])
    assert first <= geometric(early, first, last) * CLOSE
    assert geometric(early, first, last) <= geometric(late, first, last) * CLOSE
    assert geometric(late, first, last) <= last * CLOSE
    assert linear(early, first, last) <= linear(late, first, last) * CLOSE


# the order p


def test_p_ramp_by_hand() -> None:
    """8 until epoch 50, 1000 at the end of the ramp, infinity from epoch 350 on; halfway √(8·1000)."""
    assert [p_ramp(epoch, 50, 350) for epoch in (0, 49.99, 50)] == [8, 8, 8]
    assert p_ramp(200, 50, 350) == pytest.approx(math.sqrt(8000), rel=1e-14)
    assert p_ramp(math.nextafter(350, 0), 50, 350) == pytest.approx(1000, rel=1e-12)
    assert [p_ramp(epoch, 50, 350) for epoch in (350, 350.5, 400)] == [math.inf] * 3


def test_p_ramp_of_equal_ratios() -> None:
    """Every sixtieth of the way multiplies p by the sixtieth root of 1000/8."""
    orders = [p_ramp(50 + 5 * k, 50, 350) for k in range(60)]
    for one, other in pairwise(orders):
        assert other / one == pytest.approx(125 ** (1 / 60), rel=1e-12)


def test_p_ramp_between_other_orders() -> None:
    assert p_ramp(1, 1, 3, 2, 32) == 2
    assert p_ramp(2, 1, 3, 2, 32) == pytest.approx(8, rel=1e-14)
    assert p_ramp(3, 1, 3, 2, 32) == math.inf


@given(start=epochs, length=epochs, one=epochs, other=epochs)
def test_p_never_falls(start: float, length: float, one: float, other: float) -> None:
    early, late = sorted([one, other])
    p = p_ramp(early, start, start + length)
    assert p >= 8
    assert p <= p_ramp(late, start, start + length) * CLOSE
    assert p <= 1000 * CLOSE or p == math.inf


@given(start=epochs, epoch=epochs)
def test_a_ramp_of_no_length_goes_straight_to_infinity(start: float, epoch: float) -> None:
    assert p_ramp(epoch, start, start) == (math.inf if epoch >= start else 8)


@given(p=st.floats(8, 384))
def test_a_cheap_order_is_the_nearest_in_ratio(p: float) -> None:
    def ratio(order: float) -> Fraction:
        return max(Fraction(order) / Fraction(p), Fraction(p) / Fraction(order))

    chosen = cheap_order(p)
    assert chosen in CHEAP_ORDERS
    assert float(ratio(chosen)) <= min(float(ratio(order)) for order in CHEAP_ORDERS) * CLOSE


@pytest.mark.parametrize(
    ("p", "expected"), [(9.7, 8), (9.9, 12), (13.8, 12), (13.9, 16), (39, 32), (40, 48), (55, 48), (56, 64)]
)
def test_cheap_orders_change_at_their_geometric_means(p: float, expected: float) -> None:
    """√(8·12) = 9.80, √(12·16) = 13.86, √(32·48) = 39.2, √(48·64) = 55.4."""
    assert cheap_order(p) == expected


@pytest.mark.parametrize("p", [*CHEAP_ORDERS, 1, 2, 7.99, 384.01, 1000, math.inf])
def test_orders_that_stay(p: float) -> None:
    assert cheap_order(p) == p


@given(p=st.floats(1, 1000), q=st.floats(1, 1000))
def test_cheap_orders_keep_the_order(p: float, q: float) -> None:
    assert cheap_order(min(p, q)) <= cheap_order(max(p, q))


# the learning rate


def test_half_cosine_by_hand() -> None:
    assert [half_cosine(r) for r in (-1, 0, 0.5, 1, 2)] == [1, 1, 0.5, 0, 0]
    assert half_cosine(1 / 3) == pytest.approx(3 / 4, rel=1e-15)
    assert half_cosine(2 / 3) == pytest.approx(1 / 4, rel=1e-15)


@given(r=progress, s=progress)
def test_half_cosine_falls_and_is_symmetric_about_its_middle(r: float, s: float) -> None:
    early, late = sorted([r, s])
    assert half_cosine(late) <= half_cosine(early) * CLOSE
    assert half_cosine(r) + half_cosine(1 - r) == pytest.approx(1, rel=1e-12)


def test_learning_rate_by_hand() -> None:
    """Held for 50 of 400 epochs, at half its height in epoch 225, 0 in the end."""
    rates = [learning_rate(epoch, 0.02, 400, hold=50) for epoch in (0, 49, 50, 225, 400)]
    assert rates == [0.02, 0.02, 0.02, 0.01, 0]
    assert [learning_rate(epoch, 0.03, 450) for epoch in (0, 150, 225, 450)] == pytest.approx(
        [0.03, 0.0225, 0.015, 0], rel=1e-14
    )


@given(hold=epochs, length=epochs, one=epochs, other=epochs)
def test_learning_rate_never_rises(hold: float, length: float, one: float, other: float) -> None:
    early, late = sorted([one, other])
    rates = [learning_rate(epoch, 0.5, hold + length, hold) for epoch in (early, late)]
    assert 0 <= rates[1] <= rates[0] * CLOSE
    assert rates[0] <= 0.5
    if late < hold:
        assert rates == [0.5, 0.5]


# as a run uses them

STD = 0.3757  # of the digits' pixels
SMALL = ["width=8", "depth=1", "batch_size=10", "cheap_orders=false", "epochs=10", "ramp_start=2", "ramp_end=6"]


@pytest.fixture(scope="module")
def ten() -> Dataset:
    digits = load_dataset("digits")
    return replace(digits, train_images=digits.train_images[:10], train_labels=digits.train_labels[:10])


def small(dataset: Dataset, *settings: str) -> Plan:
    return make_plan(load_recipe("digits", [*SMALL, *settings]), dataset)


def step(plan: Plan, now: float) -> Plan:
    """After one mini-batch at that moment."""
    plan.net.train()
    Trainer(plan).step(*next(plan.batches.of(0)), plan.moment(now))
    return plan


@pytest.mark.parametrize(
    ("now", "p", "weight"),
    [(0, 2, 0.1), (2, 2, 0.1), (3, 4, 10**-1.5), (4, 8, 0.01), (5, 16, 10**-2.5), (6, math.inf, 0.001)],
)
def test_p_and_lambda_of_a_run_by_hand(now: float, p: float, weight: float, ten: Dataset) -> None:
    """A fourth of the ramp doubles p from 2 to 32, and divides λ by √10."""
    plan = small(ten, "p_first=2", "p_last=32", "lambda_first=0.1", "lambda_last=0.001")
    moment = plan.moment(now)
    assert moment.p == pytest.approx(p, rel=1e-14)
    assert moment.weight == pytest.approx(weight, rel=1e-14)
    assert step(plan, now).net.p == moment.p


def test_without_cross_entropy_lambda_is_0_all_along(ten: Dataset) -> None:
    plan = small(ten, "lambda_first=0")
    assert [plan.moment(now).weight for now in (0, 4, 6, 10)] == [0, 0, 0, 0]
    assert math.isfinite(step(plan, 4).scale.item())


@pytest.mark.parametrize(("now", "p"), [(1, 8), (3, 24), (4, 96), (5, 256), (5.5, 547), (6, math.inf)])
def test_cheap_orders_of_a_run_by_hand(now: float, p: float, ten: Dataset) -> None:
    """The ramp from 8 to 1000 is at 26.7, 89.4, 299.1 and 547 then; the last is above the cheap ones and stays."""
    assert step(small(ten, "cheap_orders=true"), now).net.p == pytest.approx(p, rel=1e-3 if p == 547 else 0)


@pytest.mark.parametrize(
    ("now", "cosine"), [(0, 0.04), (1.9, 0.04), (2, 0.04), (2 + 8 / 3, 0.03), (6, 0.02), (2 + 16 / 3, 0.01)]
)
def test_the_learning_rate_of_a_run_by_hand(now: float, cosine: float, ten: Dataset) -> None:
    """Held until epoch 2, then a half cosine over the other 8; or constant."""
    for settings, expected in ((["lr_hold=2"], cosine), (["lr_schedule=constant"], 0.04)):
        plan = small(ten, "lr=0.04", *settings)
        assert step(plan, now).optimizer.lr == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("loss", ["hinge", "cross-entropy"])
@pytest.mark.parametrize(("now", "part"), [(0, 0), (1, 0), (1.5, 0.25), (2, 0.5), (3, 1), (9, 1)])
def test_eps_of_a_run_by_hand(now: float, part: float, loss: str, ten: Dataset) -> None:
    """From 0 in epoch 1 to ε_train/std in epoch 3; with no ramp it is that from the first step."""
    plan = small(ten, f"loss={loss}", "eps_train=0.3", "eps_ramp_start=1", "eps_ramp_end=3")
    assert plan.moment(now).eps == pytest.approx(part * 0.3 / STD, rel=1e-6)
    assert plan.moment(now).weight is None
    assert small(ten, f"loss={loss}", "eps_train=0.3").moment(now).eps == pytest.approx(0.3 / STD, rel=1e-6)


@pytest.mark.parametrize("now", [0.0, 1.0, 3.0, 7.0])
def test_a_step_uses_the_radius_of_its_moment(now: float, ten: Dataset) -> None:
    """Room is what the margin has above 2ε."""
    plan = small(ten, "loss=hinge", "eps_train=0.3", "eps_ramp_start=1", "eps_ramp_end=3")
    plan.net.train()
    _, margin, room = Trainer(plan).step(*next(plan.batches.of(0)), plan.moment(now))
    expected = {0.0: 0.0, 1.0: 0.0, 3.0: 0.6 / STD, 7.0: 0.6 / STD}[now]
    assert margin - room == pytest.approx(expected, rel=1e-4, abs=1e-6)
