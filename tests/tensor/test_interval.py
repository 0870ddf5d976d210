"""Intervals: what they are, and that the bounds of ops are right where random points would not notice."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import Array
from support.strategies import arrays, boxes, layers, points_in

import linfengine as le
from linfengine import Interval, Tensor


def test_an_interval_has_the_attributes_of_an_array() -> None:
    x = Interval(np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x)) == ((2, 3), 2, 6, np.float32, 2)
    assert "lower" in repr(x)


@pytest.mark.parametrize(
    ("lower", "upper", "error", "message"),
    [
        (np.zeros(2), np.zeros(3), ValueError, r"shapes \(2,\) and \(3,\)"),
        (np.zeros(2), np.zeros(2, np.float32), TypeError, "dtypes float64 and float32"),
        ([0.0, 2.0], [1.0, 1.0], ValueError, r"lower <= upper.* index \(1,\): 2.0 and 1.0"),
        ([0.0, np.nan], [1.0, 1.0], ValueError, r"lower <= upper.* index \(1,\): nan and 1.0"),
        ([[0.0]], [[np.nan]], ValueError, r"index \(0, 0\): 0.0 and nan"),
        ("a", "b", TypeError, "float32 or float64"),
    ],
)
def test_ends_that_are_none(lower: Any, upper: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Interval(lower, upper)


def test_an_interval_is_no_array() -> None:
    with pytest.raises(TypeError, match="got an Interval"):
        Tensor(Interval(0, 1))


@given(data=st.data())
def test_centre_and_radius_enclose_the_ends_exactly(data: st.DataObject) -> None:
    box = data.draw(boxes((2,), -(2.0**126), 2.0**126) | boxes((2,)) | boxes((2,), -(2.0**-126), 2.0**-126))
    for end_low, end_high, c, r in zip(box.lower, box.upper, box.centre, box.radius, strict=True):
        low, high, centre, radius = (Fraction(float(number)) for number in (end_low, end_high, c, r))
        assert centre - radius <= low
        assert high <= centre + radius
        assert radius <= (high - low) / 2 * (1 + Fraction(1, 2**20)) + abs(centre) / 2**23 + Fraction(2) ** -148


def test_a_box_without_width_has_radius_zero() -> None:
    x = np.array([0.1, -3e38, 1e-37, 0], np.float32)
    np.testing.assert_array_equal(Interval(x, x).radius, 0)


@given(data=st.data())
def test_contains(data: st.DataObject) -> None:
    box = data.draw(boxes((3,)))
    assert box.contains(data.draw(points_in(box)))
    assert box.contains(np.stack([box.lower, box.upper]))
    assert not box.contains(np.nextafter(box.upper, np.float32(np.inf)))
    assert not box.contains([np.nan, np.nan, np.nan])


@given(layer=layers(), data=st.data())
@draws(50)
def test_linf_dist_bounds_are_attained(backend: str, layer: tuple[Array, Array, int], data: st.DataObject) -> None:
    """Not only sound but exact: for each output the point of the box nearest to w gives the lower bound, to the bit,
    and the corner farthest from w the upper one."""
    x, w, groups = layer
    box = data.draw(boxes(x.shape))
    bounds, box = le.linf_dist(box, w, groups=groups).to("cpu"), box.to("cpu")
    k = w.shape[1]
    for o in range(len(w)):
        columns = slice(o * groups // len(w) * k, (o * groups // len(w) + 1) * k)
        lower, upper = box.lower[:, columns], box.upper[:, columns]
        nearest = np.clip(w[o], lower, upper)
        farthest = np.where(np.abs(lower - w[o]) >= np.abs(upper - w[o]), lower, upper)
        np.testing.assert_array_equal(bounds.lower[:, o], le.linf_dist(nearest, w[o : o + 1]).numpy()[:, 0])
        np.testing.assert_array_equal(bounds.upper[:, o], le.linf_dist(farthest, w[o : o + 1]).numpy()[:, 0])


@given(data=st.data())
def test_a_point_has_the_bounds_of_its_value(data: st.DataObject) -> None:
    """Ops that round monotonely lose nothing on a box without width."""
    x, w = data.draw(arrays((2, 3))), data.draw(arrays((4, 3)))

    def net(x: Any) -> Any:
        y = le.linf_dist(x, w) - 1.5
        return le.maximum(abs(y) * 2, y.relu()).reshape(4, 2).max(axis=1)

    bounds, value = net(Interval(x, x)), net(Tensor(x))
    np.testing.assert_array_equal(bounds.lower, value.numpy())
    np.testing.assert_array_equal(bounds.upper, value.numpy())


@given(data=st.data())
@draws(50)
def test_bounds_of_a_whole_net(backend: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(0)
    w1, w2, w3 = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 3), (5, 6), (5, 2)))

    def net(x: Any) -> Any:
        y = le.linf_dist(le.linf_dist(x, w1) - np.float32(0.25), w2)
        return le.log_softmax(le.tanh(y) @ w3 / 2 + np.float32(1))

    box = data.draw(boxes((2, 3), -4, 4))
    assert net(box).contains(net(Tensor(data.draw(points_in(box)))))


def test_sums_that_cancel_stay_within_their_bounds() -> None:
    """float32 sums in any order: what one order loses, the bounds of another have room for."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal(4096) * 10.0 ** rng.integers(-6, 6, 4096)).astype(np.float32)
    orders = [x, x[::-1], np.sort(x), x[np.argsort(np.abs(x))], x[np.argsort(-np.abs(x))]]
    ones = np.ones(len(x), np.float32)
    for bounded in orders:
        box = Interval(bounded, bounded)
        for computed in orders:
            one_by_one = np.add.accumulate(computed)[-1]
            assert box.sum().contains(one_by_one)
            assert box.mean().contains(one_by_one / np.float32(len(x)))
            assert (box @ ones).contains(one_by_one)
            assert (ones @ box).contains(np.dot(computed, ones))


def test_bounds_of_sums_are_not_loose() -> None:
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    bounds = Interval(x - 1, x + 1).sum()
    np.testing.assert_allclose([bounds.lower, bounds.upper], [-1000, 1000], rtol=2e-3)


def test_tanh_and_exp_keep_to_their_range() -> None:
    x = Interval(np.full(1, -200, np.float32), np.full(1, 200, np.float32))
    assert (x.tanh().lower[0], x.tanh().upper[0]) == (-1, 1)
    with np.errstate(over="ignore"):
        assert (x.exp().lower[0], x.exp().upper[0]) == (0, np.inf)


def test_an_even_power_is_lowest_at_zero() -> None:
    bounds = Interval([-2.0], [1.0]) ** 2
    np.testing.assert_allclose([bounds.lower, bounds.upper], [[0], [4]], rtol=1e-5, atol=1e-30)


BOX, POINTS = Interval([[-1.0, 0.0]], [[1.0, 2.0]]), Tensor([[1.0], [2.0]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: 1 / BOX, ValueError, "division by an interval that contains 0"),
        (lambda: BOX**-1, ValueError, "negative power of an interval that contains 0"),
        (lambda: BOX**0.5, ValueError, "negative base unless the exponent is a whole number"),
        (lambda: POINTS**BOX, TypeError, "constant exponent only"),
        (lambda: BOX @ BOX.T, TypeError, "one of the two is an Interval, not both"),
        (lambda: le.linf_dist(BOX, BOX), TypeError, "interval bounds for x only"),
        (lambda: le.linf_dist(POINTS.T, BOX), TypeError, "interval bounds for x only"),
        (lambda: le.linf_dist(BOX, POINTS), ValueError, "x has 2 features where w has 1"),
        (lambda: le.lp_dist(BOX, POINTS.T, p=8), ValueError, "p = 8: a finite p is not 1-Lipschitz in ℓ∞"),
        (lambda: BOX * np.inf, ValueError, r"lower <= upper, which fails at index \(0, 1\): nan"),
    ],
)
def test_bounds_that_are_refused(call: Any, error: type[Exception], message: str) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(error, match=message):
        call()


def test_an_op_without_bounds_says_so() -> None:
    class Unbounded(le.ops.Op):
        pass

    with pytest.raises(TypeError, match="no interval bounds are defined for Unbounded"):
        le.ops.apply(Unbounded(), BOX)


def test_infinite_ends_are_boxes_too() -> None:
    everything = Interval([-np.inf], [np.inf])
    assert (everything.relu().lower[0], everything.relu().upper[0]) == (0, np.inf)
    with pytest.raises(ValueError, match="x holds 1 non-finite"):
        le.linf_dist(everything, np.ones((1, 1), np.float32))
