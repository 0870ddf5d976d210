"""The C++ kernels against the slow and obvious backend, on every instruction set this processor runs.

At p = ∞ values, argmaxes and bounds must be the same bits; at finite p they keep to the tolerance table.  Nothing may
depend on the number of threads.
"""

import math
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support import problems
from support.problems import equal_bits, problem
from support.strategies import layers
from support.tolerances import FLUSHED, lp_gradient_tolerance, lp_value_tolerance

import linfengine as le
from linfengine.backends import NO_WINNER, _cpu, cpu, reference, use_backend

Array = npt.NDArray[Any]

# Remainders in every dimension: of the register tile, the vector, the panel, the block of k and the chunk of rows.
SHAPES = [(1, 1, 1), (2, 3, 5), (7, 10, 27), (13, 70, 300), (97, 17, 129), (101, 131, 64), (8, 64, 257), (5, 6, 2100)]
ORDERS = [1, 1.5, 2, 3, 4, 8, 12, 16, 20.3, 24, 32, 48, 64, 96, 100, 128, 192, 256, 300, 1000, 1e4]

check_lp = partial(problems.check_lp, cpu.lp_dist, cpu.lp_dist_backward)


@pytest.fixture(params=cpu.instruction_sets(), autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before = cpu.instruction_set()
    cpu.use_instruction_set(request.param)
    yield request.param
    cpu.use_instruction_set(before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_linf_is_the_reference_bit_for_bit(shape: tuple[int, int, int], groups: int, dtype: Any) -> None:
    x, w, _ = problem(*shape, groups=groups, dtype=dtype)
    expected, expected_winner = reference.linf_dist_argmax(x, w, groups)
    y, winner = cpu.linf_dist_argmax(x, w, groups)
    assert equal_bits(y, expected)
    assert equal_bits(cpu.linf_dist(x, w, groups), expected)
    assert (winner == expected_winner).all()
    radius = np.abs(x) / 8
    for bound, expected_bound in zip(
        cpu.linf_dist_bounds(x - radius, x + radius, w, groups),
        reference.linf_dist_bounds(x - radius, x + radius, w, groups),
        strict=True,
    ):
        assert equal_bits(bound, expected_bound)


@given(layers(), st.booleans())
def test_linf_is_the_reference_on_small_hard_cases(layer: tuple[Array, Array, int], coarse: bool) -> None:
    x, w, groups = layer
    if coarse:  # many ties
        x, w = np.round(x / 50), np.round(w / 50)
    y, winner = cpu.linf_dist_argmax(x, w, groups)
    expected, expected_winner = reference.linf_dist_argmax(x, w, groups)
    assert equal_bits(y, expected)
    assert (winner == expected_winner).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e30])
def test_linf_keeps_denormals_and_large_numbers(scale: float) -> None:
    x, w, _ = problem(9, 40, 33, scale=scale)
    assert equal_bits(cpu.linf_dist(x, w), reference.linf_dist(x, w))
    assert cpu.linf_dist(x, w).any()


def test_lowest_index_wins_ties() -> None:
    x, w = np.zeros((5, 400), np.float32), np.zeros((70, 400), np.float32)
    x[:, [3, 130, 399]] = 2
    w[1, 2] = -2
    _, winner = cpu.linf_dist_argmax(x, w)
    assert (winner[:, 0] == 3).all()
    assert (winner[:, 1] == 2).all()
    x *= -1
    w *= -1
    assert (cpu.linf_dist_argmax(x, w)[1] == ~winner).all()  # the same places, seen from the other side
    assert (cpu.linf_dist_argmax(np.zeros_like(x), w)[1][:, 0] == NO_WINNER).all()


@given(st.integers(0, 2**32 - 1))
def test_lowest_index_wins_ties_between_blocks_and_lanes(seed: int) -> None:
    """Small whole numbers in rows long enough for many blocks: nearly every maximum is attained many times."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 700))
    x, w = (rng.integers(-2, 3, (rows, k)).astype(np.float32) for rows in (7, 9))
    assert (cpu.linf_dist_argmax(x, w)[1] == reference.linf_dist_argmax(x, w)[1]).all()


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_are_exact(shape: tuple[int, int, int], groups: int) -> None:
    n, o, k = shape
    rng = np.random.default_rng([n, o, k])
    for top in (3, 256):
        x = rng.integers(0, top, (n, groups * k)).astype(np.uint8)
        below, above = np.sort(rng.integers(0, top, (2, groups * o, k)), axis=0).astype(np.uint8)
        terms = x.reshape(n, groups, 1, k).astype(int)
        parts = (terms - above.reshape(1, groups, o, k), below.reshape(1, groups, o, k) - terms)
        whole = np.maximum(*parts).max(axis=3).clip(0).reshape(n, groups * o)
        assert (cpu.dead_zone(x, above, below, groups) == whole).all()
        assert equal_bits(cpu.dead_zone(x, above, below, groups), reference.dead_zone(x, above, below, groups))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 10, 27), (101, 131, 64)])
def test_what_is_not_finite_is_refused_wherever_it_stands(shape: tuple[int, int, int], bad: float) -> None:
    rng = np.random.default_rng(0)
    x, w, _ = problem(*shape)
    for array in (x, w):
        for _ in range(4):
            at = tuple(rng.integers(array.shape))
            before, array[at] = array[at], bad
            calls = [lambda: cpu.linf_dist(x, w), lambda: cpu.linf_dist_argmax(x, w), lambda: cpu.lp_dist(x, w, 20.3)]
            calls += [lambda p=p: cpu.lp_dist(x, w, p) for p in (1, 8, 64, 1000)]  # type: ignore[misc]
            calls += [lambda: cpu.linf_dist_bounds(x, x, w), lambda: cpu.linf_dist_bounds(np.zeros_like(x), x, w)]
            for call in calls:
                with pytest.raises(FloatingPointError):
                    call()
            array[at] = before
    cpu.linf_dist(x, w)


def test_rows_of_nan_are_refused_and_nothing_else_is_read() -> None:
    """Hardware maxima may drop NaN or keep it, and then no coordinate attains the maximum."""
    for k in (1, 7, 8, 16, 128, 129):
        for rows in (1, 7):
            x, w = np.full((rows, k), math.nan, np.float32), np.ones((5, k), np.float32)
            with pytest.raises(FloatingPointError):
                cpu.linf_dist_argmax(x, w)
            x = np.ones_like(x)
            x[-1, -1] = math.nan
            with pytest.raises(FloatingPointError):
                cpu.linf_dist_argmax(x, w)
            cpu.lp_decay(x, math.inf, 0.1)  # a diverged net: no result, but no crash either


@pytest.mark.parametrize(("p", "small"), [(1e4, 0.99963), (1e4, 1.0), (300, 0.98), (20.3, 0.58), (1, 1e-9)])
def test_gradients_of_many_equal_terms(p: float, small: float) -> None:
    """The largest gradient is then far below g, and others must keep to the tolerance beside it."""
    for k in (101, 4096):
        x = np.ones((1, k), np.float32)
        x[0, 0] = small
        check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


def test_p_is_1_over_a_wide_range() -> None:
    x, w = np.array([[1e30, 1e-9, -1e-9]], np.float32), np.zeros((1, 3), np.float32)
    y = cpu.lp_dist(x, w, 1)
    grad_x, _ = cpu.lp_dist_backward(np.ones_like(y), x, w, y, 1)
    assert grad_x.tolist() == [[1, 1, -1]]


def test_an_order_beyond_float32_is_no_special_case() -> None:
    x, w = np.array([[3.0, 1.0]], np.float32), np.zeros((1, 2), np.float32)
    y = cpu.lp_dist(x, w, 1e300)
    assert y.tolist() == [[3]]
    assert cpu.lp_dist_backward(np.ones_like(y), x, w, y, 1e300)[0].tolist() == [[1, 0]]


@pytest.mark.parametrize("p", [1, 1.5, 2, 8, 20.3, 100, 1e4, math.inf])
def test_lp_decay_is_the_reference_to_rounding(p: float) -> None:
    for rows, k in ((1, 1), (5, 27), (70, 300)):
        _, w, _ = problem(1, rows, k)
        w[0] = 0
        expected = w.astype(np.float64)
        decayed = w.copy()
        cpu.lp_decay(decayed, p, 0.01)
        reference.lp_decay(expected, p, 0.01)
        atol = 1e-9 if math.isinf(p) else lp_gradient_tolerance(p, w.dtype) * np.abs(expected - w).max()
        np.testing.assert_allclose(decayed, expected, rtol=2e-7, atol=atol)


def test_forward_agrees_with_scipy() -> None:
    x, w, _ = problem(20, 30, 40, dtype=np.float64)
    assert (cpu.linf_dist(x, w) == cdist(x, w, "chebyshev")).all()
    for p in (1, 2.5, 8, 30):
        np.testing.assert_allclose(cpu.lp_dist(x, w, p), cdist(x, w, "minkowski", p=p), rtol=1e-12)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_linf_backward_scatters_like_the_reference(shape: tuple[int, int, int], groups: int) -> None:
    x, w, g = problem(*shape, groups=groups)
    _, winner = cpu.linf_dist_argmax(x, w, groups)
    k = w.shape[1]
    for got, expected in zip(
        cpu.linf_dist_backward(g, winner, k, groups),
        reference.linf_dist_backward(g.astype(float), winner, k, groups),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("shape", [(2, 3, 5), (7, 10, 27), (13, 70, 300)])
def test_lp_keeps_to_the_tolerance(shape: tuple[int, int, int], p: float, dtype: Any) -> None:
    x, w, g = problem(*shape, groups=2, dtype=dtype)
    check_lp(x, w, g, p, groups=2)


@pytest.mark.parametrize("p", [1, 8, 16, 20.3, 64, 1000])
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12, 1e30])
def test_lp_keeps_to_the_tolerance_at_every_scale(scale: float, p: float) -> None:
    check_lp(*problem(7, 20, 50, scale=scale), p)


@given(layers(), st.just(1.0) | st.floats(1.5, 1e4), st.integers(-100, 100), st.booleans())
def test_lp_keeps_to_the_tolerance_for_any_order_and_scale(
    layer: tuple[Array, Array, int], p: float, exponent: int, coarse: bool
) -> None:
    """Coarse inputs hold many ties and exact zeros, fine ones also numbers that are denormal beside the others."""
    x, w, groups = layer
    if coarse:
        x, w = np.round(x / 50), np.round(w / 50)
    x, w = np.ldexp(x, exponent), np.ldexp(w, exponent)
    g = np.random.default_rng(0).standard_normal((len(x), len(w))).astype(x.dtype)
    largest = max(np.abs(x).max(), np.abs(w).max())
    x64, w64 = x.astype(float), w.astype(float)
    if (reference.linf_dist(x64, w64, groups) >= largest * 2.0**-20).all():  # rounding x - w is not the kernel's doing
        expected = reference.lp_dist(x64, w64, p, groups)
        np.testing.assert_allclose(cpu.lp_dist(x, w, p, groups), expected, rtol=lp_value_tolerance(p, x.dtype), atol=0)
        # one sample and one output: sums over several may cancel, and then no entry is large
        check_lp(x[:1, : w.shape[1]], w[:1], g[:1, :1], p)


@pytest.mark.parametrize("p", [1, 2, 8, 20.3, 64, 300])
def test_lp_at_zero_distance_is_zero_with_zero_gradient(p: float) -> None:
    x = np.full((3, 20), 1.5, np.float32)
    w = np.full((17, 20), 1.5, np.float32)
    y = cpu.lp_dist(x, w, p)
    assert (y == 0).all()
    grad_x, grad_w = cpu.lp_dist_backward(np.ones_like(y), x, w, y, p)
    assert not grad_x.any()
    assert not grad_w.any()


@pytest.mark.parametrize("p", [1, 8, 20.3, 64, 1000])
@pytest.mark.parametrize("magnitudes", [(1e-44, 1.0), (1e-20, 1e20), (1e-44, 3e38), (1e38, 3e38)])
def test_lp_never_makes_nan_from_finite_input(magnitudes: tuple[float, float], p: float) -> None:
    rng = np.random.default_rng(0)
    scales = rng.choice(np.array(magnitudes, np.float32), (6, 30))
    x = (scales * rng.uniform(-1, 1, (6, 30))).astype(np.float32)
    w = np.concatenate([x[:3], -x[3:]])
    y = cpu.lp_dist(x, w, p)
    assert not np.isnan(y).any()
    for gradient in cpu.lp_dist_backward(np.ones_like(y), x, w, y, p):
        assert not np.isnan(gradient).any()


@given(layers(), st.sampled_from([1, 2, 8, 20.3, 64, 300]))
def test_lp_lies_between_linf_and_l1(layer: tuple[Array, Array, int], p: float) -> None:
    x, w, groups = layer
    y, k = cpu.lp_dist(x, w, p, groups).astype(float), w.shape[1]
    smallest = reference.linf_dist(x.astype(float), w.astype(float), groups)
    slack = 1 + lp_value_tolerance(p, np.float32) + 1e-6
    assert (smallest <= y * slack + FLUSHED).all()
    assert (y <= smallest * k ** (1 / p) * slack + FLUSHED).all()


@pytest.mark.parametrize("p", [8, 20.3, 64, 300, math.inf])
def test_no_bit_depends_on_the_number_of_threads(p: float) -> None:
    x, w, g = problem(210, 150, 70)  # enough terms to be shared out

    def run() -> list[bytes]:
        if math.isinf(p):
            y, winner = cpu.linf_dist_argmax(x, w)
            gradients = cpu.linf_dist_backward(g, winner, w.shape[1])
        else:
            y = cpu.lp_dist(x, w, p)
            gradients = cpu.lp_dist_backward(g, x, w, y, p)
        return [array.tobytes() for array in (y, *gradients, cpu.matmul(x, w.T))]

    before = cpu.threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            cpu.use_threads(count)
            results.append(run())
    finally:
        cpu.use_threads(before)
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_matmul_agrees_with_numpy_in_float64(shape: tuple[int, int, int], dtype: Any) -> None:
    x, w, _ = problem(*shape, dtype=dtype)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(w.T).astype(np.float64)
    assert (np.abs(cpu.matmul(x, w.T) - exact) <= np.finfo(dtype).eps * (shape[2] + 1) * size).all()


def test_adam_step_is_the_reference_to_rounding() -> None:
    rng = np.random.default_rng(0)
    for shape in ((), (5,), (37, 129)):
        ours = [np.array(rng.standard_normal(shape), np.float32) for _ in range(4)]
        np.abs(ours[3], out=ours[3])
        theirs = [array.astype(np.float64) for array in ours]
        for step in (1, 2, 3):
            settings: Any = {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "eps": 1e-10, "step": step}
            cpu.adam_step(ours[0], ours[1], ours[2], ours[3], **settings)
            reference.adam_step(theirs[0], theirs[1], theirs[2], theirs[3], **settings)
        for got, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_all_finite_sees_every_position(bad: float) -> None:
    for size in (1, 15, 16, 17, 100):
        for position in {0, size // 2, size - 1}:
            a = np.full(size, 3e38, np.float32)
            assert _cpu.all_finite(a)
            a[position] = bad
            assert not _cpu.all_finite(a)


def arrays(**shapes: tuple[int, ...]) -> dict[str, Array]:
    return {name: np.zeros(shape, np.int32 if name == "winner" else np.float32) for name, shape in shapes.items()}


ENTRIES: dict[str, tuple[dict[str, Array], dict[str, Any]]] = {
    "linf_dist": (arrays(x=(5, 6), w=(4, 3), y=(5, 4), winner=(5, 4)), {"groups": 2}),
    "linf_dist_bounds": (arrays(lower=(5, 6), upper=(5, 6), w=(4, 3), y_lower=(5, 4), y_upper=(5, 4)), {"groups": 2}),
    "linf_dist_backward": (arrays(g=(5, 4), winner=(5, 4), grad_x=(5, 6), grad_w=(4, 3)), {"k": 3, "groups": 2}),
    "dot": (arrays(x=(5, 3), w=(4, 3), y=(5, 4)), {}),
    "lp_dist": (arrays(x=(5, 6), w=(4, 3), y=(5, 4)), {"p": 8, "groups": 2}),
    "lp_dist_backward": (
        arrays(g=(5, 4), x=(5, 6), w=(4, 3), y=(5, 4), grad_x=(5, 6), grad_w=(4, 3)),
        {"p": 8, "groups": 2},
    ),
    "adam_step": (
        arrays(param=(9,), grad=(9,), m=(9,), v=(9,)),
        {"lr": 1, "beta1": 0.9, "beta2": 0.9, "eps": 1, "step": 1},
    ),
    "dead_zone": (
        {name: np.zeros(shape, np.uint8) for name, shape in
         {"x": (5, 6), "above": (4, 3), "below": (4, 3), "y": (5, 4)}.items()},
        {"groups": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_refuses_arrays_that_do_not_fit(entry: str) -> None:
    """Each would otherwise be read or written past its end."""
    kernel, (given_arrays, settings) = getattr(_cpu, entry), ENTRIES[entry]
    kernel(*call_order(entry, given_arrays | settings))
    for name, array in given_arrays.items():
        wrong = [array[:-1], array[..., :-1], array[:0], array.astype(np.int64), array[..., None], array[::-1]]
        if array.ndim > 1:
            wrong.append(np.asfortranarray(array))
        for other in wrong:
            with pytest.raises((ValueError, TypeError)):
                kernel(*call_order(entry, given_arrays | settings | {name: other}))
        if not (name.startswith("grad_") or name == "winner"):
            with pytest.raises((ValueError, TypeError)):
                kernel(*call_order(entry, given_arrays | settings | {name: None}))
    for groups in (0, -1, 3, 2**62):
        if "groups" in settings:
            with pytest.raises(ValueError, match="groups"):
                kernel(*call_order(entry, given_arrays | settings | {"groups": groups}))


def call_order(entry: str, arguments: dict[str, Any]) -> list[Any]:
    """Settings stand between the arrays in two entries."""
    order = list(arguments)
    if entry == "linf_dist_backward":
        order = ["g", "winner", "k", "grad_x", "grad_w", "groups"]
    elif entry == "lp_dist_backward":
        order = ["g", "x", "w", "y", "p", "grad_x", "grad_w", "groups"]
    elif entry == "lp_dist":
        order = ["x", "w", "p", "y", "groups"]
    return [arguments[name] for name in order]


def test_what_an_entry_takes_is_said_in_a_sentence() -> None:
    x, w, _ = problem(3, 4, 5)
    with pytest.raises(
        ValueError, match=r"^linf_dist: expected C-contiguous x \(n, groups\*k\), w .*; got float32 \(3, "
    ):
        cpu.linf_dist(x[:, :-1].copy(), w)
    with pytest.raises(ValueError, match=r"got float32 \(3, 5\), float64 \(4, 5\), float32 \(3, 4\)"):
        cpu.lp_dist(x, w.astype(np.float64), 8)


@pytest.mark.parametrize("winner", [5, 2**31 - 1, ~5, -(2**31) + 1])
@pytest.mark.parametrize("needs", [(True, False), (False, True)])
def test_a_winner_that_is_no_input_is_refused(winner: int, needs: tuple[bool, bool]) -> None:
    winners = np.full((3, 4), NO_WINNER, np.int32)
    winners[-1, -1] = winner
    with pytest.raises(ValueError, match=r"a winner is not k or ~k with 0 <= k < 5"):
        cpu.linf_dist_backward(np.ones((3, 4), np.float32), winners, 5, needs=needs)


def test_adam_refuses_a_gradient_of_another_shape() -> None:
    w = np.zeros((100, 50), np.float32)
    for grad in (np.zeros(1, np.float32), np.zeros((50, 100), np.float32), np.zeros(w.shape)):
        with pytest.raises(ValueError, match="must have one shape and one dtype, got float32"):
            cpu.adam_step(w, grad, w.copy(), w.copy(), 0.1, 0.9, 0.99, 1e-8, 1)
    with pytest.raises(ValueError, match="C-contiguous"):
        cpu.adam_step(w.T, w.T, w.T, w.T, 0.1, 0.9, 0.99, 1e-8, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 5, 1), (300, 70, 1), (5, 3, 7), (2, 3, 129), (1, 40, 33), (64, 96, 100)]
)
def test_channel_sums_are_those_of_float64(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    sums = cpu.channel_sums(x)
    exact = np.array([math.fsum(x[:, c].ravel().tolist()) for c in range(shape[1])])
    size = np.abs(x).sum(axis=(0, 2), dtype=np.float64)
    assert sums.dtype == np.float64
    assert (np.abs(sums - exact) <= 2.0**-53 * (shape[0] * shape[2] - 1) * size).all()
    before = cpu.threads()
    for count in (1, 3):
        cpu.use_threads(count)
        assert equal_bits(cpu.channel_sums(x), sums)
    cpu.use_threads(before)


def test_channel_sums_refuse_what_does_not_fit() -> None:
    x = np.zeros((5, 4, 3), np.float32)
    pairs = [(x, np.zeros(3)), (x, np.zeros(4, np.float32)), (x[:0], np.zeros(4)), (x[:, ::2], np.zeros(2))]
    for wrong, sums in pairs:
        with pytest.raises((ValueError, TypeError)):
            _cpu.channel_sums(np.asarray(wrong), np.asarray(sums))


def test_channel_sums_have_the_same_bits_on_every_instruction_set() -> None:
    x = np.random.default_rng(0).standard_normal((50, 37, 41))
    results = []
    for isa in cpu.instruction_sets():
        cpu.use_instruction_set(isa)
        results.append(cpu.channel_sums(x).tobytes() + cpu.channel_sums(x.reshape(-1, 41, 1)).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("layout", ["rows", "images", "a view of channels last"])
def test_the_error_of_a_batch_mean_does_not_grow_with_the_batch(layout: str) -> None:
    """The mean shift's batch mean and the sum over the batch in its gradient, against float64."""
    rng = np.random.default_rng(0)
    for n in (4, 20000):
        x = rng.uniform(0, 1, (n, 4) if layout == "rows" else (n, 4, 2, 2)).astype(np.float32)
        if layout.startswith("a view"):
            x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            x = np.moveaxis(x, -1, 1)
        axes = (0, *range(2, x.ndim))
        exact = x.mean(axis=axes, dtype=np.float64)
        with use_backend("cpu"):
            mean = le.Tensor(x).mean(axis=axes).data
            bias = le.Tensor(np.zeros((4, *[1] * (x.ndim - 2)), np.float32), requires_grad=True)
            (le.Tensor(x) * 0 + bias).backward(x)
        assert (np.abs(mean - exact) <= np.spacing(mean) * 0.5001).all()
        assert bias.grad is not None
        total = bias.grad.reshape(-1)
        assert (np.abs(total - x.sum(axis=axes, dtype=np.float64)) <= np.spacing(total) * 0.5001).all()


def test_unknown_instruction_set_and_thread_count_are_refused() -> None:
    with pytest.raises(ValueError, match="instruction set 'sse9' is not one"):
        cpu.use_instruction_set("sse9")
    with pytest.raises(ValueError, match="at least 1"):
        cpu.use_threads(0)


def test_bounds_never_hold_a_negative_zero() -> None:
    zero = np.zeros((3, 5), np.float32)
    lower, upper = cpu.linf_dist_bounds(-zero, zero, zero)
    assert equal_bits(lower, zero[:, :3])
    assert equal_bits(upper, zero[:, :3])


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_a_gradient_that_is_not_wanted_is_not_made(needs: tuple[bool, bool]) -> None:
    x, w, g = problem(13, 20, 40)
    y, winner = cpu.linf_dist_argmax(x, w)
    some = cpu.linf_dist_backward(g, winner, w.shape[1], needs=needs), cpu.lp_dist_backward(g, x, w, y, 8, needs=needs)
    both = cpu.linf_dist_backward(g, winner, w.shape[1]), cpu.lp_dist_backward(g, x, w, y, 8)
    for gradients, wanted in zip(some, both, strict=True):
        for gradient, array, needed in zip(gradients, wanted, needs, strict=True):
            assert equal_bits(gradient, array) if needed else gradient is None


def test_a_small_sample_survives_beside_a_large_one() -> None:
    x = np.array([[1e35], [1e-30]], np.float32)
    np.testing.assert_allclose(cpu.lp_dist(x, np.zeros((1, 1), np.float32), 8), x, rtol=1e-5)


def test_terms_too_small_to_matter_do_not_add_up_unseen() -> None:
    k, p = 65537, 1.5
    x = np.full((1, k), 2 ** (-30.1 / p), np.float32)
    x[0, 0] = 1
    check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


def test_settings_may_change_in_another_thread() -> None:
    """An operation keeps to the instruction set and thread count that it began with."""
    x, w, _ = problem(150, 110, 65)
    expected = cpu.linf_dist(x, w)
    before, stop = (cpu.instruction_set(), cpu.threads()), threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            for isa, count in zip(cpu.instruction_sets(), (1, 3, 2), strict=False):
                cpu.use_instruction_set(isa)
                cpu.use_threads(count)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        for _ in range(200):
            assert equal_bits(cpu.linf_dist(x, w), expected)
            cpu.lp_dist_backward(expected, x, w, expected, 8)
    finally:
        stop.set()
        meddler.join()
        cpu.use_instruction_set(before[0])
        cpu.use_threads(before[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in KiB, as Linux counts it")
def test_no_operation_takes_more_than_4_mib_for_itself() -> None:
    program = """
import resource
import numpy as np
from linfengine.backends import _cpu, cpu
rng = np.random.default_rng(0)
def problem(n, o, k):
    x, w, g = (rng.standard_normal(shape, np.float32) for shape in ((n, k), (o, k), (n, o)))
    outputs = [np.ones_like(a) for a in (x, w, g, g)]
    return x, w, g, *outputs, np.ones(g.shape, np.int32)
def everything(x, w, g, grad_x, grad_w, y, y_upper, winner):
    _cpu.linf_dist(x, w, y, None, 1)
    _cpu.linf_dist(x, w, y, winner, 1)
    _cpu.linf_dist_backward(g, winner, w.shape[1], grad_x, grad_w, 1)
    _cpu.linf_dist_bounds(x, x, w, y, y_upper, 1)
    for p in (8, 64, 100.5):
        _cpu.lp_dist(x, w, p, y, 1)
        _cpu.lp_dist_backward(g, x, w, y, p, grad_x, grad_w, 1)
    _cpu.lp_decay(w, 8, 0.1)
large = problem(1024, 4096, 256)
everything(*problem(256, 256, 64))  # starts the threads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
everything(*large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(result.stdout) <= 4096, result.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the mode of x86-64")
def test_linf_keeps_denormals_whatever_mode_the_process_runs_in() -> None:
    """A certificate is refused in such a process, since NumPy's own operations follow the mode."""
    program = """
import ctypes, numpy as np
import linfengine as le
from linfengine.certify import check_model
net = le.linf_net((1, 1, 1), 2, width=2, depth=2, mean=(0,), std=1).eval()
library = ctypes.CDLL("libm.so.6")
mode = (ctypes.c_char * 32)()
library.fegetenv(mode)
mode[29] = mode[29][0] | 0x80  # flush to zero: bit 15 of the MXCSR, which lies at byte 28
mode[28] = mode[28][0] | 0x40  # denormals are zero: bit 6
library.fesetenv(mode)
from linfengine.backends import cpu
x, w = np.full((1, 1), 1e-40, np.float32), np.zeros((1, 1), np.float32)
y = cpu.linf_dist(x, w)
try:
    check_model(net)
except le.UserError as error:
    print(y.tobytes() == x.tobytes(), "denormal" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "True True\n", result.stderr
