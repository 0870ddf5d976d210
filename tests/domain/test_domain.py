"""What an input is: bounds, scale and grid, and the balls in them, against exact fractions."""

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.op_cases import Array

from linfengine.domain import Domain, domain_from, domain_of
from linfengine.errors import UserError
from linfengine.layers import Flatten, LinfDistDense, Sequential

INF = math.inf
GRAY = Domain.gray_levels(4, (1, 2, 2))
DOMAINS: dict[str, Any] = {
    "pixels": Domain.pixels((1, 2, 2)),
    "pixels of any size": Domain.pixels(),
    "gray levels": GRAY,
    "points": Domain((2,), 0, 1),
    "points on a grid": Domain((2,), -1, 1, 2.0, 6),
    "half a line": Domain((1,), 0.0),
    "table": Domain((3,), (-INF, 0, -1), (INF, 100, 1), (0.1, 25, 1e-3)),
    "one scale, no bounds": Domain((2, 2), scale=0.3),
}
float32s = st.floats(-1000, 1000, width=32)


@st.composite
def tables(draw: st.DrawFn) -> Domain:
    """Domains of three columns, some without an end, some with one bound for all."""
    ends = [sorted((draw(float32s), draw(float32s))) for _ in range(3)]
    lower = tuple(-INF if draw(st.booleans()) else low for low, _ in ends)
    upper = tuple(INF if draw(st.booleans()) else high for _, high in ends)
    scale = tuple(draw(st.floats(2.0**-10, 2.0**10, width=32)) for _ in range(3))
    scales: list[Any] = [scale, scale[0]]
    return Domain((3,), lower, upper, draw(st.sampled_from(scales)))


def inside(domain: Domain, rng: np.random.Generator, n: int = 4) -> Array:
    """Inputs of a table."""
    return domain.clip(rng.uniform(-1000, 1000, (n, 3)).astype(np.float32))


def each(numbers: Any) -> list[Fraction]:
    """An entry for every column, each exactly the number."""
    return [Fraction(float(number)) for number in np.broadcast_to(numbers, 3)]


@given(domain=tables(), seed=st.integers(0, 999), eps=st.fractions(0, 4, max_denominator=1000))
def test_a_ball_contains_every_real_point_of_it(domain: Domain, seed: int, eps: Fraction) -> None:
    """Its ends are the exact ones moved outward, by little, and stay within the bounds."""
    x = inside(domain, np.random.default_rng(seed))
    ball = domain.ball(x, eps)
    lower, upper, scale = each_end(domain)
    for point, low, high in zip(x, ball.lower, ball.upper, strict=True):
        for k in range(3):
            ends = Fraction(float(point[k])) - eps * scale[k], Fraction(float(point[k])) + eps * scale[k]
            exact = max(ends[0], lower[k]), min(ends[1], upper[k])
            room = 2.0**-21 * (1 + max(abs(float(end)) for end in ends))
            assert exact[0] - Fraction(room) <= Fraction(float(low[k])) <= exact[0]
            assert exact[1] <= Fraction(float(high[k])) <= exact[1] + Fraction(room)


def each_end(domain: Domain) -> tuple[list[Any], list[Any], list[Fraction]]:
    """Bounds and scale of every column; infinite ones stay floats, which Fractions can be compared with."""
    lower, upper = (
        [Fraction(end) if math.isfinite(end) else end for end in np.broadcast_to(side, 3).tolist()]
        for side in (domain.lower, domain.upper)
    )
    return lower, upper, each(domain.scale)


@given(domain=tables(), seed=st.integers(0, 999), eps=st.fractions(0, 4, max_denominator=1000))
def test_an_inner_ball_is_contained_in_the_ball(domain: Domain, seed: int, eps: Fraction) -> None:
    x = inside(domain, np.random.default_rng(seed))
    ball, scale = domain.ball(x, eps, outward=False), each(domain.scale)
    assert domain.ball(x, eps).contains(ball.lower)
    assert domain.ball(x, eps).contains(ball.upper)
    for end in (ball.lower, ball.upper):
        domain.check_range(end)
        for point, other in zip(x, end, strict=True):
            moved = [abs(Fraction(float(a)) - Fraction(float(b))) for a, b in zip(point, other, strict=True)]
            assert all(by <= eps * unit for by, unit in zip(moved, scale, strict=True))


@given(domain=tables(), seed=st.integers(0, 999), eps=st.fractions(0, 4, max_denominator=1000))
def test_no_point_that_a_certificate_may_speak_of_is_beyond_its_reach(domain: Domain, seed: int, eps: Fraction) -> None:
    x = inside(domain, np.random.default_rng(seed))
    most, magnitude = domain.reach(x, eps)
    assert most >= eps
    widest = domain.widest
    assert widest is None or most == max(widest, eps)
    ball = domain.ball(x, eps)
    assert (np.maximum(abs(ball.lower), abs(ball.upper)) <= np.asarray(magnitude) * (1 + 1e-6) + 1e-30).all()


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_comes_back_from_json(name: str) -> None:
    domain = DOMAINS[name]
    text = json.dumps(domain.config(), allow_nan=False)
    assert domain_from(json.loads(text)) == domain


def test_a_net_that_states_none_takes_pixels() -> None:
    assert domain_of(Sequential(Flatten(), LinfDistDense(4, 3))) == Domain.pixels()
    assert domain_of(Sequential(Flatten(), domain=DOMAINS["points"])) == DOMAINS["points"]


def test_a_grid() -> None:
    points = DOMAINS["points on a grid"]
    x = np.array([[0.3, -0.7], [1, -1]], np.float32)
    on_grid = points.snap(x)
    np.testing.assert_array_equal(on_grid * 64, np.rint(x * 64))
    np.testing.assert_array_equal(points.samples(on_grid), on_grid)
    with pytest.raises(UserError, match="multiples of 2\\^-6, got numbers between these \\(Domain.snap moves"):
        points.samples(x)
    ball = points.ball(on_grid, Fraction(1, 100))  # 0.02 is 1.28 steps
    np.testing.assert_array_equal(ball.upper - on_grid, [[2 / 64, 2 / 64], [0, 2 / 64]])
    inner = points.ball(on_grid, Fraction(1, 100), outward=False)
    np.testing.assert_array_equal(on_grid - inner.lower, [[1 / 64, 1 / 64], [1 / 64, 0]])
    way = np.array([[1, 0], [-1, 1]])
    np.testing.assert_array_equal(points.neighbours(on_grid, way) - on_grid, way / 64)


def test_neighbours_in_the_last_place() -> None:
    x = np.array([[0.5, 1.0]], np.float32)
    near = DOMAINS["points"].neighbours(x, np.array([[1, -1]]))
    np.testing.assert_array_equal(near, [[np.nextafter(np.float32(0.5), np.float32(1)), 1 - 2.0**-24]])


def test_distances_are_measured_by_the_scale() -> None:
    table = DOMAINS["table"]
    a, b = np.array([[0, 50, 0.5]], np.float32), np.array([[0.1, 25, 0.5]], np.float32)
    np.testing.assert_allclose(table.distance(a, b), [1], rtol=1e-6)
    np.testing.assert_allclose(table.lengths(Fraction(1, 2)), [0.05, 12.5, 0.0005], rtol=1e-6)


@pytest.mark.parametrize(
    ("source", "bits", "bounds", "levels"),
    [("pixels", 8, (0, 255), 255), ("points", 15, (0, 1), 1), ("one scale, no bounds", 4, None, 1)],
)
def test_a_grid_for_an_exact_net(source: str, bits: int, bounds: tuple[float, float] | None, levels: int) -> None:
    domain = DOMAINS[source]
    assert domain.levels == levels
    if bounds is None:
        with pytest.raises(UserError, match="its values have no bound"):
            domain.refined(bits)
    else:
        refined = domain.refined(bits)
        assert (refined.lower, refined.upper) == bounds
        assert refined.fraction_bits == bits
        with pytest.raises(UserError, match=f"on a grid of {bits} fraction bits already"):
            refined.refined(bits)


def test_bounds_move_outward_to_the_grid() -> None:
    refined = Domain((2,), 0.1, (0.5, 0.3)).refined(2)
    assert (refined.lower, refined.upper) == (0.0, (0.5, 0.5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Domain((2,), 1, 0), "needs lower <= upper, got 1.0 and 0.0"),
        (lambda: Domain((2,), math.nan), "needs lower <= upper"),
        (lambda: Domain((2,), (0, 0, 0)), r"shape \(2,\) needs one lower or one for each number"),
        (lambda: Domain(None, (0, 0)), "shape None needs one lower"),
        (lambda: Domain((2, 0), 0, 1), r"shape of positive sizes, got \(2, 0\)"),
        (lambda: Domain.pixels((2, 2)), r"the shape \(channels, height, width\), got \(2, 2\)"),
        (lambda: Domain.pixels((1, 4, 5), window=5), "a window has a size from 0 .* got 5"),
        (lambda: Domain.pixels((1, 4, 5), window=-1), "a window has a size from 0 .* got -1"),
        (lambda: Domain(None, 0, 1), "needs the shape of an input, got None"),
        (lambda: Domain((2,), scale=0), "finite scales above 0"),
        (lambda: Domain((2,), scale=(1, INF)), "finite scales above 0"),
        (lambda: Domain((2,), 0, 1, (1, 2), 4), "on a grid has one scale"),
        (lambda: Domain((2,), 0.1, 1, fraction_bits=4), "on a grid has its bounds there"),
        (lambda: domain_from({"inputs": "sounds", "shape": None}), "pixels, gray levels or numbers, got 'sounds'"),
    ],
)
def test_domains_that_are_none(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("domain", "x", "message"),
    [
        (DOMAINS["points"], np.zeros((3, 2)), r"takes float32 numbers in \[0, 1\], got float64"),
        (DOMAINS["points"], np.zeros((3, 3), np.float32), r"takes inputs \(n, 2\), got shape \(3, 3\)"),
        (DOMAINS["points"], np.full((3, 2), 1.5, np.float32), "got numbers from 1.5 to 1.5"),
        (DOMAINS["points"], np.full((3, 2), np.nan, np.float32), "got numbers from nan to nan"),
        (DOMAINS["half a line"], np.full((3, 1), np.inf, np.float32), "got numbers from inf to inf"),
        (
            DOMAINS["table"],
            np.full((3, 3), -2, np.float32),
            "of their coordinates, got numbers beyond",
        ),
        (DOMAINS["table"], np.full((3, 3), np.inf, np.float32), "got numbers beyond these"),
    ],
)
def test_samples_that_are_none(domain: Domain, x: Array, message: str) -> None:
    with pytest.raises(UserError, match=message):
        domain.samples(x)


@pytest.mark.parametrize(
    ("domain", "eps", "expected"),
    [
        (DOMAINS["pixels"], 8 / 255, Fraction(8, 255)),
        (DOMAINS["points"], 0.1, Fraction(1, 10)),
        (DOMAINS["one scale, no bounds"], "7/2", Fraction(7, 2)),
        (DOMAINS["table"], 2, Fraction(2)),
    ],
)
def test_radii(domain: Domain, eps: Any, expected: Fraction) -> None:
    assert domain.radius(eps) == expected


@pytest.mark.parametrize("eps", [1.1, -0.1, "x", True])
def test_radii_beyond_the_domain(eps: Any) -> None:
    with pytest.raises(UserError, match="eps: expected a "):
        DOMAINS["points"].radius(eps)
