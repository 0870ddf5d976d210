"""The GPU backend's arithmetic, array by array, against the slow and obvious backend.

At p = ∞ values, winners, bounds and gradients must be the same bits, whichever tile computes them; at finite p they
keep to the tolerance table.  Equal calls give equal bits.  Where there is no GPU the kernels run on a CPU.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standin import cupy_on_cpu
from standin.cupy_on_cpu import LIBASAN
from support import problems
from support.problems import equal_bits, problem
from support.strategies import layers
from support.tolerances import FLUSHED, lp_gradient_tolerance, lp_value_tolerance

from linfengine.backends import NO_WINNER, cuda, gpu, reference, to_numpy
from linfengine.backends.cuda import Kernel
from linfengine.backends.cuda.compiler import CompileError, compile_kernel

Array = npt.NDArray[Any]
Tile = tuple[int, int]

xp = gpu.xp
ON_CPU = xp is cupy_on_cpu.cupy

# Samples, outputs and coordinates around the sides of every tile (16, 32, 64, 128) and the depths of its stages.
SHAPES = [
    (1, 1, 1), (16, 16, 64), (15, 17, 63), (17, 31, 65), (33, 15, 16), (63, 32, 15), (64, 64, 17), (65, 63, 4),
    (127, 129, 6), (128, 65, 128), (129, 1, 130), (2, 3, 701),
]  # fmt: skip
TILES = [(np.float32, tile) for tile in cuda.TILES["float"]] + [(np.float64, tile) for tile in cuda.TILES["double"]]
CHAINS = [float(p) for p in cuda.POWERS]
GENERAL, SPARSE = [1.5, 3.0, 20.3, 95.5], [96.0, 100.0, 300.0, 1000.0, 1e6]
ORDERS = [*CHAINS, *GENERAL, *SPARSE]
FEW_ORDERS = [1.0, 2.0, 8.0, 16.0, 20.3, 64.0, 96.0, 1000.0]


def ask(function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
    """What a function of the backend answers; arrays go to the GPU and come back."""
    there = [xp.asarray(each) if isinstance(each, np.ndarray) else each for each in arguments]
    answer = function(*there, **settings)
    if isinstance(answer, tuple):
        return tuple(None if each is None else to_numpy(each) for each in answer)
    return to_numpy(answer)


check_lp = partial(problems.check_lp, partial(ask, gpu.lp_dist), partial(ask, gpu.lp_dist_backward))


def changed(function: Callable[..., None], *arguments: Any, **settings: Any) -> list[Array]:
    """The arrays among the arguments, after a function of the backend has written into them."""
    there = [xp.asarray(each.copy()) if isinstance(each, np.ndarray) else each for each in arguments]
    function(*there, **settings)
    return [to_numpy(each) for each in there if isinstance(each, xp.ndarray)]


@contextmanager
def only(tile: Tile) -> Iterator[None]:
    """Within it the forwards run on that tile, where they can."""
    tiles = cuda.tiles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "tiles", lambda *about: [each for each in tiles(*about) if each == tile] or tiles(*about))
        yield


@contextmanager
def launches() -> Iterator[list[tuple[Kernel, int, dict[str, Any]]]]:
    """Within it every launch is remembered."""
    launch, seen = gpu.launch, []

    def remember(kernel: Kernel, blocks: int, **arguments: Any) -> None:
        seen.append((kernel, blocks, arguments))
        launch(kernel, blocks, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", remember)
        yield seen


# p = infinity: the reference's bits.


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tile"), TILES)
def test_linf_is_the_reference_bit_for_bit(dtype: Any, tile: Tile, shape: tuple[int, int, int], groups: int) -> None:
    x, w, _ = problem(*shape, groups=groups, dtype=dtype)
    expected, expected_winner = reference.linf_dist_argmax(x, w, groups)
    radius = np.abs(x) / 8
    with only(tile):
        assert equal_bits(ask(gpu.linf_dist, x, w, groups), expected)
        y, winner = ask(gpu.linf_dist_argmax, x, w, groups)
        bounds = ask(gpu.linf_dist_bounds, x - radius, x + radius, w, groups)
    assert equal_bits(y, expected)
    assert equal_bits(winner, expected_winner)
    for bound, wanted in zip(bounds, reference.linf_dist_bounds(x - radius, x + radius, w, groups), strict=True):
        assert equal_bits(bound, wanted)


@given(layers(), st.booleans(), st.sampled_from(TILES))
def test_linf_is_the_reference_on_small_hard_cases(
    layer: tuple[Array, Array, int], coarse: bool, tile: tuple[Any, Tile]
) -> None:
    x, w, groups = layer
    x, w = x.astype(tile[0]), w.astype(tile[0])
    if coarse:  # many ties
        x, w = np.round(x / 50), np.round(w / 50)
    with only(tile[1]):
        y, winner = ask(gpu.linf_dist_argmax, x, w, groups)
        lower, upper = ask(gpu.linf_dist_bounds, x, x + np.abs(x), w, groups)
    expected, expected_winner = reference.linf_dist_argmax(x, w, groups)
    assert equal_bits(y, expected)
    assert equal_bits(winner, expected_winner)
    expected_lower, expected_upper = reference.linf_dist_bounds(x, x + np.abs(x), w, groups)
    assert equal_bits(lower, expected_lower)
    assert equal_bits(upper, expected_upper)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.float32, 1e-44), (np.float32, 1e-38), (np.float32, 3e37), (np.float64, 1e-320), (np.float64, 1e300)],
)
def test_linf_keeps_denormals_and_large_numbers(dtype: Any, scale: float) -> None:
    x, w, g = problem(9, 40, 33, dtype=dtype, scale=scale)
    y, winner = ask(gpu.linf_dist_argmax, x, w)
    expected, expected_winner = reference.linf_dist_argmax(x, w)
    assert equal_bits(y, expected)
    assert equal_bits(winner, expected_winner)
    assert equal_bits(ask(gpu.linf_dist, x, w), expected)
    assert y.any()
    for bounds in zip(ask(gpu.linf_dist_bounds, x, x, w), reference.linf_dist_bounds(x, x, w), strict=True):
        assert equal_bits(*bounds)
    g = (scale * g).astype(dtype)
    for gradients in zip(
        ask(gpu.linf_dist_backward, g, winner, 33), reference.linf_dist_backward(g, winner, 33), strict=True
    ):
        assert equal_bits(*gradients)


def test_a_difference_beyond_the_largest_number_is_infinite() -> None:
    x, w = np.array([[3e38, 1]], np.float32), np.array([[-3e38, 1], [3e38, 2]], np.float32)
    y, winner = ask(gpu.linf_dist_argmax, x, w)
    assert y.tolist() == [[math.inf, 1]]
    assert winner.tolist() == [[0, ~1]]


def test_the_lowest_index_wins_ties() -> None:
    x, w = np.zeros((5, 400), np.float32), np.zeros((70, 400), np.float32)
    x[:, [3, 130, 399]] = 2
    w[1, 2] = -2
    _, winner = ask(gpu.linf_dist_argmax, x, w)
    assert (winner[:, 0] == 3).all()
    assert (winner[:, 1] == 2).all()
    assert equal_bits(ask(gpu.linf_dist_argmax, -x, -w)[1], ~winner)  # the same places, seen from the other side
    assert (ask(gpu.linf_dist_argmax, np.zeros_like(x), w)[1][:, 0] == NO_WINNER).all()


@given(st.integers(0, 2**32 - 1), st.sampled_from(TILES))
def test_the_lowest_index_wins_ties_between_stages(seed: int, tile: tuple[Any, Tile]) -> None:
    """Small whole numbers in rows long enough for many stages: nearly every maximum is attained many times."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 300))
    x, w = (rng.integers(-2, 3, (rows, k)).astype(tile[0]) for rows in (7, 9))
    with only(tile[1]):
        winner = ask(gpu.linf_dist_argmax, x, w)[1]
    assert equal_bits(winner, reference.linf_dist_argmax(x, w)[1])


@pytest.mark.parametrize(("dtype", "tile"), TILES)
def test_a_last_place_decides_who_wins(dtype: Any, tile: Tile) -> None:
    x, w = np.ones((40, 90), dtype), np.zeros((3, 90), dtype)
    most = np.random.default_rng(0).integers(90, size=40)
    x[np.arange(40), most] = np.nextafter(dtype(1), dtype(2))
    with only(tile):
        assert (ask(gpu.linf_dist_argmax, x, w)[1] == most[:, None]).all()


def test_bounds_never_hold_a_negative_zero() -> None:
    zero = np.zeros((3, 5), np.float32)
    for lower, upper in ((-zero, zero), (zero, zero), (-zero, -zero)):
        for w in (zero, -zero):
            for bound in ask(gpu.linf_dist_bounds, lower, upper, w):
                assert equal_bits(bound, zero[:, :3])


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 10, 27), (17, 65, 300), (70, 33, 129)])
def test_bytes_are_exact(shape: tuple[int, int, int], groups: int) -> None:
    n, o, k = shape
    rng = np.random.default_rng([n, o, k])
    for top in (3, 256):
        x = rng.integers(0, top, (n, groups * k)).astype(np.uint8)
        below, above = np.sort(rng.integers(0, top, (2, groups * o, k)), axis=0).astype(np.uint8)
        for low, high in ((below, above), (below, below)):
            expected = reference.dead_zone(x, high, low, groups)
            assert equal_bits(ask(gpu.dead_zone, x, high, low, groups), expected)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_linf_backward_adds_in_the_references_order(dtype: Any, shape: tuple[int, int, int], groups: int) -> None:
    x, w, g = problem(*shape, groups=groups, dtype=dtype)
    winner, k = reference.linf_dist_argmax(x, w, groups)[1], w.shape[1]
    gradients = ask(gpu.linf_dist_backward, g, winner, k, groups)
    for got, expected in zip(gradients, reference.linf_dist_backward(g, winner, k, groups), strict=True):
        assert equal_bits(got, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2049, 4095, 4096, 4097, 8191, 8192, 8193, 9000])
def test_linf_backward_of_more_columns_than_a_window_holds(k: int, dtype: Any) -> None:
    rng = np.random.default_rng(k)
    g = rng.standard_normal((5, 6)).astype(dtype)
    for winner in (
        rng.integers(-k, k, (5, 6)), rng.choice([0, ~0, k - 1, ~(k - 1), NO_WINNER], (5, 6)), np.full((5, 6), NO_WINNER)
    ):  # fmt: skip
        winner = winner.astype(np.int32)
        gradients = ask(gpu.linf_dist_backward, g, winner, k, 2)
        for got, expected in zip(gradients, reference.linf_dist_backward(g, winner, k, 2), strict=True):
            assert equal_bits(got, expected)


def shifted(array: Array) -> Any:
    """The array on the GPU, where it begins one number after an address that wide loads could use."""
    room = xp.empty(array.size + 1, array.dtype)
    room[1:] = xp.asarray(array.ravel())
    return room[1:].reshape(array.shape)


@pytest.mark.parametrize(("dtype", "tile"), TILES)
def test_rows_may_begin_anywhere(dtype: Any, tile: Tile) -> None:
    x, w, g = problem(33, 18, 68, groups=2, dtype=dtype)
    winner = reference.linf_dist_argmax(x, w, 2)[1]
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (gpu.linf_dist, (x, w, 2)), (gpu.linf_dist_argmax, (x, w, 2)), (gpu.linf_dist_bounds, (x, x + 1, w, 2)),
        (gpu.linf_dist_backward, (g, winner, 68, 2)), (gpu.matmul, (x, x.T)),
        *((gpu.lp_dist, (x, w, p, 2)) for p in (2, 24, 20.3, 300)),
        *((gpu.lp_dist_backward, (g, x, w, np.abs(g), p, 2)) for p in (2, 20.3, 300)),
    ]  # fmt: skip
    with only(tile):
        for function, arguments in calls:
            answer = function(*(shifted(each) if isinstance(each, np.ndarray) else each for each in arguments))
            for got, expected in zip(several(answer), several(ask(function, *arguments)), strict=True):
                assert equal_bits(to_numpy(got), expected)


def several(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("processors", [1, 4, 132])
@pytest.mark.parametrize(("n", "o"), [(1500, 3), (3, 1500), (513, 40), (1, 1025)])
def test_linf_backward_of_a_few_rows_of_many_entries(
    n: int, o: int, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shared out where there are multiprocessors to spare; sums of whole numbers do not show it."""
    monkeypatch.setattr(gpu, "multiprocessors", lambda: processors)
    rng = np.random.default_rng(0)
    winner = rng.integers(-3, 3, (n, o)).astype(np.int32)
    winner[rng.random((n, o)) < 0.1] = NO_WINNER
    whole, g = rng.integers(-9, 10, (n, o)).astype(np.float32), rng.standard_normal((n, o)).astype(np.float32)
    with launches() as seen:
        gradients = ask(gpu.linf_dist_backward, whole, winner, 3)
    for got, expected in zip(gradients, reference.linf_dist_backward(whole, winner, 3), strict=True):
        assert equal_bits(got, expected)
    for kernel, blocks, cut in seen:
        if kernel.structure == "Scatter":
            assert blocks // cut["rows"] * cut["share"] >= cut["count"]
    assert any(kernel.structure == "AddParts" for kernel, _, _ in seen) == (8 * processors > min(n, o))
    gradients = ask(gpu.linf_dist_backward, g, winner, 3)
    for got, expected in zip(gradients, reference.linf_dist_backward(g.astype(float), winner, 3), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_a_gradient_that_is_not_wanted_is_not_made(needs: tuple[bool, bool]) -> None:
    x, w, g = problem(33, 70, 140, groups=2)
    y, winner = reference.linf_dist_argmax(x, w, 2)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (gpu.linf_dist_backward, (g, winner, w.shape[1], 2)),
        *((gpu.lp_dist_backward, (g, x, w, y, p, 2)) for p in (8, 20.3, 300)),
    ]
    for function, arguments in calls:
        both = ask(function, *arguments)
        for gradient, array, needed in zip(ask(function, *arguments, needs), both, needs, strict=True):
            assert equal_bits(gradient, array) if needed else gradient is None


# Finite p: within the tolerance table.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", ORDERS)
def test_lp_keeps_to_the_tolerance(p: float, dtype: Any) -> None:
    """Rows and columns beside every tile, chunk (64 outputs, or 32) and run (16 samples), one group and three."""
    for shape, groups in (((1, 1, 1), 3), ((15, 17, 63), 3), ((17, 65, 129), 1), ((33, 31, 130), 3), ((2, 3, 701), 1)):
        check_lp(*problem(*shape, groups=groups, dtype=dtype), p, groups)


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 12.0, 20.3, 64.0, 300.0])
@pytest.mark.parametrize(("dtype", "tile"), TILES)
def test_every_tile_keeps_to_the_tolerance(dtype: Any, tile: Tile, p: float) -> None:
    with only(tile):
        for shape, groups in (((129, 65, 19), 1), ((17, 5, 66), 3)):
            check_lp(*problem(*shape, groups=groups, dtype=dtype), p, groups)


@pytest.mark.parametrize("processors", [1, 3, 30, 1000])
@pytest.mark.parametrize("p", [2.0, 20.3, 1000.0])
def test_any_number_of_multiprocessors(processors: int, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tile is chosen, and into how many parts a gradient is cut, shows in last bits at finite p alone."""
    monkeypatch.setattr(gpu, "multiprocessors", lambda: processors)
    x, w, g = problem(70, 260, 40, groups=2)
    with launches() as seen:
        check_lp(x, w, g, p, 2)
    ((_, _, cut),) = [each for each in seen if each[0].structure == "Backward"]
    assert (cut["splits"] * cut["shares"] > 1) == (processors > 1)
    assert (cut["splits"] > 1 and cut["shares"] > 1) or processors < 1000
    y, winner = ask(gpu.linf_dist_argmax, x, w, 2)
    expected, expected_winner = reference.linf_dist_argmax(x, w, 2)
    assert equal_bits(y, expected)
    assert equal_bits(winner, expected_winner)
    assert equal_bits(ask(gpu.linf_dist, x, w, 2), expected)


@pytest.mark.parametrize("p", FEW_ORDERS)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, 1e12, 1e30])
def test_lp_keeps_to_the_tolerance_at_every_scale(scale: float, p: float) -> None:
    check_lp(*problem(7, 20, 50, scale=scale), p)


@pytest.mark.parametrize("p", FEW_ORDERS)
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e38), (np.float64, 1e-300), (np.float64, 5e307)])
def test_lp_keeps_to_the_tolerance_at_the_ends_of_the_range(dtype: Any, size: float, p: float) -> None:
    rng = np.random.default_rng(0)
    x, w, g = ((size * rng.uniform(-0.8, 0.8, shape)).astype(dtype) for shape in ((20, 2), (7, 2), (20, 7)))
    check_lp(x, w, (g / size).astype(dtype), p)


@pytest.mark.parametrize("p", FEW_ORDERS)
@pytest.mark.parametrize("huge", [1e6, 1e17, 1e29])
def test_a_huge_row_does_not_spoil_the_others(huge: float, p: float) -> None:
    """Powers of one row leave the range, and only those tiles start again that hold it."""
    for tile in cuda.TILES["float"]:
        x, w, g = problem(140, 70, 20)
        x[3] *= huge
        w[68] *= huge
        with only(tile):
            y = ask(gpu.lp_dist, x, w, p)
        expected = reference.lp_dist(x.astype(float), w.astype(float), p)
        np.testing.assert_allclose(y, expected, rtol=lp_value_tolerance(p, x.dtype), atol=0)
    for got, want in zip(
        ask(gpu.lp_dist_backward, g, x, w, y, p),
        reference.lp_dist_backward(g.astype(float), x.astype(float), w.astype(float), expected, p),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=lp_gradient_tolerance(p, x.dtype) * np.abs(want).max())


@pytest.mark.parametrize("p", FEW_ORDERS)
def test_a_small_sample_survives_beside_a_large_one(p: float) -> None:
    x = np.array([[1e35], [1e-30]], np.float32)
    np.testing.assert_allclose(ask(gpu.lp_dist, x, np.zeros((1, 1), np.float32), p), x, rtol=1e-5)


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
        np.testing.assert_allclose(
            ask(gpu.lp_dist, x, w, p, groups), expected, rtol=lp_value_tolerance(p, x.dtype), atol=0
        )
        # one sample and one output: sums over several may cancel, and then no entry is large
        check_lp(x[:1, : w.shape[1]], w[:1], g[:1, :1], p)


@given(layers(), st.sampled_from([1, 2, 8, 20.3, 64, 300]))
def test_lp_lies_between_linf_and_l1(layer: tuple[Array, Array, int], p: float) -> None:
    x, w, groups = layer
    y, k = ask(gpu.lp_dist, x, w, p, groups).astype(float), w.shape[1]
    smallest = reference.linf_dist(x.astype(float), w.astype(float), groups)
    slack = 1 + lp_value_tolerance(p, np.float32) + 1e-6
    assert (smallest <= y * slack + FLUSHED).all()
    assert (y <= smallest * k ** (1 / p) * slack + FLUSHED).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", ORDERS)
def test_lp_at_zero_distance_is_zero_with_zero_gradient(p: float, dtype: Any) -> None:
    x, w, g = problem(20, 70, 20, dtype=dtype)
    x[::2] = w[5]
    w[:7] = w[5]
    y = ask(gpu.lp_dist, x, w, p)
    assert (y[::2, :7] == 0).all()
    assert (y[1::2] > 0).all()
    alone = np.where(y == 0, g, 0)  # a gradient that comes from zero distances alone
    assert alone.any()
    for gradient in ask(gpu.lp_dist_backward, alone, x, w, y, p):
        assert not gradient.any()


@pytest.mark.parametrize("p", [1, 8, 20.3, 64, 1000])
@pytest.mark.parametrize("magnitudes", [(1e-44, 1.0), (1e-20, 1e20), (1e-44, 3e38), (1e38, 3e38)])
def test_lp_never_makes_nan_from_finite_input(magnitudes: tuple[float, float], p: float) -> None:
    rng = np.random.default_rng(0)
    scales = rng.choice(np.array(magnitudes, np.float32), (6, 30))
    scales[5] = magnitudes[0]  # of which a row of x and of w hold nothing else
    x = (scales * rng.uniform(-1, 1, (6, 30))).astype(np.float32)
    w = np.concatenate([x[:3], -x[3:]])
    y = ask(gpu.lp_dist, x, w, p)
    assert not np.isnan(y).any()
    for gradient in ask(gpu.lp_dist_backward, np.ones_like(y), x, w, y, p):
        assert not np.isnan(gradient).any()


@pytest.mark.parametrize(("p", "small"), [(1e4, 0.99963), (1e4, 1.0), (300, 0.98), (20.3, 0.58), (1, 1e-9)])
def test_gradients_of_many_equal_terms(p: float, small: float) -> None:
    """The largest gradient is then far below g, and others must keep to the tolerance beside it."""
    for k in (101, 4096):
        x = np.ones((1, k), np.float32)
        x[0, 0] = small
        check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


@given(
    st.floats(1.5, 95.9) | st.floats(1.5, 200), st.integers(0, 2**32 - 1),
    st.sampled_from([1 / 4, 1 / 16, 1 / 64, 1e-4]), st.sampled_from([5, 60, 2000]),
)  # fmt: skip
def test_terms_near_the_largest_keep_to_the_tolerance(p: float, seed: int, spread: float, k: int) -> None:
    """There a gradient is large, and an error of the logarithm counts p times; y may be far above the largest."""
    rng = np.random.default_rng(seed)
    x = (1 - spread * rng.random((1, k))).astype(np.float32)
    check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


@pytest.mark.parametrize("p", [1.0, 2.0, 8.0, 16.0, 20.3, 64.0, 300.0])
def test_sums_of_many_terms(p: float) -> None:
    """The gradient at p multiplies the relative error of a distance by p - 1, which the root had divided by p."""
    k = 5120
    check_lp(*problem(2, 3, k), p)
    check_lp(np.full((1, k), 0.1, np.float32), np.zeros((2, k), np.float32), np.ones((1, 2), np.float32), p)


@pytest.mark.parametrize("largest", [1, 2.0**70])
@pytest.mark.parametrize("p", [1.0, 1.5, 8.0])
def test_terms_too_small_to_matter_do_not_add_up_unseen(p: float, largest: float) -> None:
    """Nor beside a sample whose powers leave the range, with which they are scaled."""
    k = 65537
    x = np.full((2, k), 2 ** (-30.1 / p), np.float32)
    x[:, 0] = 1
    x[1] *= largest
    check_lp(x, np.zeros((1, k), np.float32), np.ones((2, 1), np.float32), p)


@pytest.mark.parametrize("p", [1, 1.5, 8])
def test_denormal_coordinates_are_no_zeros(p: float) -> None:
    x, w = np.array([[2.0**-127, -(2.0**-127)]], np.float32), np.zeros((1, 2), np.float32)
    y = ask(gpu.lp_dist, x, w, p)
    np.testing.assert_allclose(y, 2.0**-127 * 2 ** (1 / p), rtol=2.0**-20)
    gradient = ask(gpu.lp_dist_backward, np.ones_like(y), x, w, y, p)[0]
    np.testing.assert_allclose(gradient, np.array([[1, -1]]) * 2 ** (1 / p - 1), rtol=2.0**-17)


def test_the_distance_of_one_denormal_is_exact() -> None:
    x, w = np.zeros((1, 1), np.float32), np.full((1, 1), 2.0**-127, np.float32)
    y = ask(gpu.lp_dist, x, w, 1)
    assert y.tolist() == [[2.0**-127]]
    assert [each.tolist() for each in ask(gpu.lp_dist_backward, np.ones_like(y), x, w, y, 1)] == [[[-1]], [[1]]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"out": np.float32(1)}, "out must be an array on the GPU, not float32"),
        ({"out": 1}, "out must be an array on the GPU, not int"),
        ({"out": np.zeros(3, np.float32)}, "out must be an array on the GPU, not ndarray"),
        ({"out": xp.zeros(3, np.float64)}, "out must be float32, not float64"),
        ({"a": xp.zeros(3, np.int32)}, "a must be float32, not int32"),
        ({"a": xp.zeros((3, 2), np.float32)[:, 0]}, "a must be C-contiguous"),
        ({"count": xp.ones((), np.int64)}, "count must be a number, not ndarray"),
        ({"shift": np.ones(1, np.int32)}, "shift must be a number, not ndarray"),
    ],
)
def test_a_launch_refuses_what_does_not_fit_its_field(wrong: dict[str, Any], message: str) -> None:
    out = xp.zeros(3, np.float32)
    arguments = {"a": xp.ones(3, np.float32), "out": out, "count": 3, "shift": 1} | wrong
    with pytest.raises(TypeError, match=rf"scale<float>: {message}"):
        gpu.launch(cuda.step("scale", "Scale", "float"), 1, **arguments)
    assert not out.any()


def test_winners_are_int32() -> None:
    with pytest.raises(TypeError, match="winner must be int32, not int64"):
        gpu.linf_dist_backward(xp.ones((2, 2), np.float32), xp.zeros((2, 2), np.int64), 3)


def test_p_is_1_over_a_wide_range() -> None:
    x, w = np.array([[1e30, 1e-9, -1e-9]], np.float32), np.zeros((1, 3), np.float32)
    y = ask(gpu.lp_dist, x, w, 1)
    assert ask(gpu.lp_dist_backward, np.ones_like(y), x, w, y, 1)[0].tolist() == [[1, 1, -1]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_order_beyond_the_range_is_no_special_case(dtype: Any) -> None:
    x, w = np.array([[3.0, 1.0]], dtype), np.zeros((1, 2), dtype)
    y = ask(gpu.lp_dist, x, w, 1e300)
    assert y.tolist() == [[3]]
    assert ask(gpu.lp_dist_backward, np.ones_like(y), x, w, y, 1e300)[0].tolist() == [[1, 0]]


# What is refused.


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 10, 27), (101, 91, 64)])
def test_what_is_not_finite_is_refused_wherever_it_stands(shape: tuple[int, int, int], bad: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    x, w, _ = problem(*shape, dtype=dtype)
    upper = np.abs(x)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (gpu.linf_dist, (x, w)), (gpu.linf_dist_argmax, (x, w)), (gpu.linf_dist_bounds, (x, upper, w)),
        *((gpu.lp_dist, (x, w, p)) for p in (1, 8, 20.3, 64, 1000)),
    ]  # fmt: skip
    for array in (x, w, upper):
        for at in (0, -1, *rng.integers(array.size, size=2)):
            before, array.flat[at] = array.flat[at], bad
            for function, arguments in calls:
                if any(each is array for each in arguments):
                    with pytest.raises(FloatingPointError, match="NaN or infinity"):
                        ask(function, *arguments)
                else:
                    ask(function, *arguments)
            array.flat[at] = before


def test_rows_of_nan_are_refused_and_nothing_else_is_read() -> None:
    """Maxima drop NaN, and then no coordinate attains the maximum."""
    for k in (1, 7, 16, 64, 129):
        for rows in (1, 17):
            x, w = np.full((rows, k), math.nan, np.float32), np.ones((5, k), np.float32)
            with pytest.raises(FloatingPointError):
                ask(gpu.linf_dist_argmax, x, w)
            for p in (8, math.inf):
                changed(gpu.lp_decay, x, p, 0.1)  # a diverged net: no result, but no crash either


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 255, 2049, 40_000])
def test_a_look_sees_the_largest_and_the_smallest(size: int, dtype: Any) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(size)
    for exponents in ((0, 1), (-90, 90), (int(info.minexp), int(info.maxexp))):
        a = np.ldexp(rng.uniform(0.5, 1, size), rng.integers(*exponents, size)).astype(dtype)
        a[rng.random(size) < 0.2] *= -1
        a[rng.random(size) < 0.1] = 0
        a[rng.integers(size)] = -1
        magnitudes = np.abs(a[a != 0])
        expected = math.frexp(magnitudes.max())[1], math.frexp(magnitudes.min())[1]
        assert gpu._Look(xp.asarray(a)).exponents == expected
        assert gpu._Look(xp.asarray(-a), xp.asarray(a[:1])).exponents == expected
    look = gpu._Look(xp.zeros(size, dtype))
    assert look.shift == 0
    look.refuse_non_finite()


# What a training step does besides.

STEPS = [(np.float32, 2e-5, 2e-6), (np.float64, 1e-12, 1e-12)]


@pytest.mark.parametrize(("dtype", "rtol", "atol"), STEPS)
@pytest.mark.parametrize("shape", [(), (1,), (5,), (255,), (256,), (257,), (37, 129)])
def test_an_adam_step_is_its_formula(shape: tuple[int, ...], dtype: Any, rtol: float, atol: float) -> None:
    rng = np.random.default_rng(0)
    param, grad, m, v = (np.array(rng.standard_normal(shape), dtype) for _ in range(4))
    np.abs(v, out=v)
    lr, beta1, beta2, eps = 0.02, 0.9, 0.99, 1e-10
    ours = [param, grad, m, v]
    theirs = [array.copy() for array in ours]
    p64, g64, m64, v64 = (array.astype(np.float64) for array in ours)
    for step in (1, 2, 3):
        ours = changed(gpu.adam_step, *ours, lr, beta1, beta2, eps, step)
        reference.adam_step(theirs[0], theirs[1], theirs[2], theirs[3], lr, beta1, beta2, eps, step)
        m64, v64 = beta1 * m64 + (1 - beta1) * g64, beta2 * v64 + (1 - beta2) * g64**2
        p64 = p64 - lr * (m64 / (1 - beta1**step)) / (np.sqrt(v64 / (1 - beta2**step)) + eps)
    for got, expected, formula in zip(ours, theirs, (p64, g64, m64, v64), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
        np.testing.assert_allclose(got, formula, rtol=rtol, atol=atol)


def test_an_adam_step_of_nothing() -> None:
    empty = np.zeros((0, 3), np.float32)
    assert [each.shape for each in changed(gpu.adam_step, empty, empty, empty, empty, 0.1, 0.9, 0.99, 1e-10, 1)] == [
        (0, 3)
    ] * 4


@pytest.mark.parametrize(("dtype", "denormal"), [(np.float32, 1e-42), (np.float64, 1e-320)])
def test_moments_may_be_denormal(dtype: Any, denormal: float) -> None:
    param, grad = np.linspace(-1, 1, 300).astype(dtype), np.zeros(300, dtype)
    small = np.full(300, denormal, dtype)
    after, _, m, v = changed(gpu.adam_step, param, grad, small, small, 0.02, 0.9, 0.99, 1e-10, 5)
    assert equal_bits(after, param)
    assert ((0 <= m) & (m <= small) & (0 <= v) & (v <= small)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [1, 1.5, 2, 8, 20.3, 100, 300, 1e4, math.inf])
def test_lp_decay_is_the_reference_to_rounding(p: float, dtype: Any) -> None:
    for rows, k in ((1, 1), (5, 27), (70, 300), (3, 256), (3, 700)):
        _, w, _ = problem(1, rows, k, dtype=dtype)
        w[0] = 0
        w[-1, k // 2] = 0
        expected = w.astype(np.float64)
        (decayed,) = changed(gpu.lp_decay, w, p, 0.01)
        reference.lp_decay(expected, p, 0.01)
        eps = np.finfo(dtype).eps
        atol = 0 if math.isinf(p) else lp_gradient_tolerance(p, dtype) * np.abs(expected - w).max()
        np.testing.assert_allclose(decayed, expected, rtol=2 * eps, atol=atol)
        assert not decayed[0].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_first_of_the_largest_decays(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-3, 4, (40, 700)).astype(dtype)
    w[0, :] = 0
    w[1, 1:] = 0
    (decayed,) = changed(gpu.lp_decay, w, math.inf, 0.25)
    expected = w.copy()
    reference.lp_decay(expected, math.inf, 0.25)
    assert equal_bits(decayed, expected)  # nothing of this is rounded
    first = np.abs(w).argmax(axis=1)
    assert ((decayed != w).sum(axis=1) == w.any(axis=1)).all()
    assert (decayed[np.arange(40), first] == 0.75 * w[np.arange(40), first]).all()


@pytest.mark.parametrize(
    "key",
    [
        (np.array([0, 2, 0, 0, 4]),),
        (np.array([1, 1, -1]), np.array([2, 2, 0])),
        (slice(None), np.array([3, 3, 1])),
        (Ellipsis, np.array([[0, 0], [1, 0]])),
        (np.array([[True, False, False, False], *[[False] * 4] * 3, [False, True, True, False]]),),
        (2, slice(1, None)),
        np.array([0, 2, 0]),
        slice(1, 3),
    ],
    ids=str,
)
def test_what_is_added_adds_up_as_in_numpy(key: Any) -> None:
    rng = np.random.default_rng(0)
    total = rng.standard_normal((5, 4)).astype(np.float32)
    parts = rng.standard_normal(total[key].shape).astype(np.float32)
    expected = total.copy()
    np.add.at(expected, key, parts)

    def there(part: Any) -> Any:
        return xp.asarray(part) if isinstance(part, np.ndarray) else part

    for each in (key, tuple(map(there, key)) if isinstance(key, tuple) else there(key)):
        ours = xp.asarray(total.copy())
        gpu.add_at(ours, each, xp.asarray(parts))
        assert equal_bits(to_numpy(ours), expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tile"), TILES)
def test_a_matrix_product_is_that_of_float64_to_rounding(dtype: Any, tile: Tile, shape: tuple[int, int, int]) -> None:
    x, w, _ = problem(*shape, dtype=dtype)
    exact = x.astype(np.longdouble) @ w.T.astype(np.longdouble)
    size = np.abs(x).astype(np.longdouble) @ np.abs(w.T).astype(np.longdouble)
    there, across = xp.asarray(x), xp.asarray(w).T  # which need not be contiguous
    with only(tile):
        z = to_numpy(gpu.matmul(there, across))
        assert equal_bits(to_numpy(gpu.matmul(there, across)), z)
        assert equal_bits(to_numpy(gpu.matmul(xp.asarray(x.T.copy()).T, xp.ascontiguousarray(across))), z)
    assert z.dtype == dtype
    assert (np.abs(z - exact) <= np.finfo(dtype).eps * (shape[2] + 1) * size).all()


# Equal calls give equal bits, and every kernel can be launched.


def everything(dtype: Any) -> dict[str, bytes]:
    """The bits of all that the backend computes, on every tile, with remainders in every dimension."""
    found: dict[str, bytes] = {}

    def keep(name: str, answer: Any) -> None:
        for i, array in enumerate(answer if isinstance(answer, tuple | list) else [answer]):
            found[f"{name} {i}"] = array.tobytes()

    x, w, g = problem(35, 66, 37, groups=2, dtype=dtype)
    for tile in cuda.TILES[cuda_type(dtype)]:
        with only(tile):
            keep(f"linf_dist {tile}", ask(gpu.linf_dist, x, w, 2))
            keep(f"linf_dist_argmax {tile}", ask(gpu.linf_dist_argmax, x, w, 2))
            keep(f"linf_dist_bounds {tile}", ask(gpu.linf_dist_bounds, x, x + 1, w, 2))
            keep(f"matmul {tile}", ask(gpu.matmul, x, x.T))
            for p in ORDERS:
                keep(f"lp_dist {p} {tile}", ask(gpu.lp_dist, x, w, p, 2))
    winner = reference.linf_dist_argmax(x, w, 2)[1]
    keep("linf_dist_backward", ask(gpu.linf_dist_backward, g, winner, w.shape[1], 2))
    for p in ORDERS:
        y = np.maximum(reference.linf_dist(x, w, 2), dtype(0.5))
        keep(f"lp_dist_backward {p}", ask(gpu.lp_dist_backward, g, x, w, y, p, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "multiprocessors", lambda: 1000)
        keep("lp_dist_backward in parts", ask(gpu.lp_dist_backward, g, x, w, y, 8, 2))
    keep("lp_dist of small numbers", ask(gpu.lp_dist, x * dtype(1e-30), w * dtype(1e-30), 8, 2))
    for p in (1, 8, 20.3, math.inf):
        keep(f"lp_decay {p}", changed(gpu.lp_decay, w, p, 0.1))
    keep("adam_step", changed(gpu.adam_step, x, x, x, np.abs(x), 0.1, 0.9, 0.99, 1e-10, 3))
    return found


def cuda_type(dtype: Any) -> str:
    return "float" if dtype == np.float32 else "double"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_calls_give_equal_bits(dtype: Any) -> None:
    with launches() as seen:
        once = everything(dtype)
    assert everything(dtype) == once
    assert {kernel for kernel, _, _ in seen} == {each for each in cuda.ALL if each.dtype == cuda_type(dtype)}


# The kernels, and how their work is cut up.


def test_every_kernel_has_a_source_of_its_own() -> None:
    assert len({(kernel.source, kernel.options) for kernel in cuda.ALL}) == len(cuda.ALL)
    for kernel in cuda.ALL:
        text = (cuda.FOLDER / kernel.file).read_text()
        function = kernel.body.partition("<")[0]
        assert f'#include "{kernel.file}"' in kernel.source
        assert re.search(rf"__device__ __forceinline__ void {function}\(const {kernel.structure}<T>& a\)", text)
        assert f"-I{cuda.FOLDER}" in kernel.options


@pytest.mark.parametrize("kernel", cuda.ALL, ids=lambda kernel: kernel.body)
def test_every_kernel_compiles(kernel: Kernel) -> None:
    """And the structures are as large as their description says."""
    code, log = compile_kernel(kernel, int(xp.cuda.Device().compute_capability))
    assert code
    assert "error" not in log


def test_a_compiled_kernel_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_folder", lambda: tmp_path)
    load, device = gpu._loaded.__wrapped__, xp.cuda.Device().id
    kernels = [cuda.step("adam", "Adam", dtype) for dtype in ("float", "double")]
    for kernel in kernels:
        load(kernel, device)
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(kept) == 2
    monkeypatch.setattr(gpu, "compile_kernel", None)
    for kernel in kernels:
        load(kernel, device)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("content", [b"", b"no kernel"])
def test_a_kept_kernel_that_is_damaged_is_made_anew(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, kernel, device = gpu._loaded.__wrapped__, cuda.step("adam", "Adam", "float"), xp.cuda.Device().id
    monkeypatch.setattr(gpu, "_folder", lambda: tmp_path)
    load(kernel, device)
    (whole,) = tmp_path.iterdir()
    (tmp_path / "other").mkdir()
    damaged = tmp_path / "other" / whole.name
    damaged.write_bytes(content)
    monkeypatch.setattr(gpu, "_folder", lambda: damaged.parent)
    load(kernel, device)
    assert damaged.read_bytes() == whole.read_bytes()


def test_a_kernel_that_does_not_compile_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.cu").write_text("undeclared here;")
    kernel = Kernel("broken.cu", "broken<float>", "Survey", "float", threads=256, blocks=1, folder=tmp_path)
    monkeypatch.setattr(gpu, "_folder", lambda: tmp_path)
    with pytest.raises(CompileError):
        gpu._loaded.__wrapped__(kernel, xp.cuda.Device().id)
    assert os.listdir(tmp_path) == ["broken.cu"]


def test_what_is_kept_has_a_name_of_its_own(tmp_path: Path) -> None:
    """It changes with any of the sources."""
    names = {kernel.digest(90) for kernel in cuda.ALL}
    names |= {kernel.digest(80) for kernel in cuda.ALL}
    assert len(names) == 2 * len(cuda.ALL)
    kernel = Kernel("own.cu", "own<float>", "Survey", "float", threads=256, blocks=1, folder=tmp_path)
    for text in ("", "// a", "// b"):
        (tmp_path / "own.cu").write_text(text)
        names.add(kernel.digest(90))
    (tmp_path / "own.cuh").write_text("// c")
    names.add(kernel.digest(90))
    assert len(names) == 2 * len(cuda.ALL) + 4


def test_kernels_are_kept_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = gpu._folder.__wrapped__
    monkeypatch.setenv("LINFENGINE_KERNELS", str(tmp_path / "new" / "kernels"))
    assert place() == tmp_path / "new" / "kernels"
    assert place().is_dir()
    (tmp_path / "file").touch()
    for there in ("file", "file/kernels"):  # which can be no folder
        monkeypatch.setenv("LINFENGINE_KERNELS", str(tmp_path / there))
        elsewhere = place()
        assert elsewhere.is_dir()
        assert tmp_path not in elsewhere.parents
        elsewhere.rmdir()


def test_the_structures_are_those_of_the_header() -> None:
    """Size alone would not show two fields in each other's place."""
    kinds = {"int": "i4", "long long": "i8", "T": "T"}
    text = re.sub(r"//.*", "", (cuda.FOLDER / "kernels.cuh").read_text())
    for structure, described in cuda.FIELDS.items():
        found = re.search(rf"struct {structure} \{{(.*?)\n\}};", text, re.DOTALL)
        assert found, structure
        fields = []
        for declaration in filter(None, map(str.strip, found[1].split(";"))):
            kind, names = re.fullmatch(r"(.*?[ *]) *(\w+(?:, \w+)*)", declaration, re.DOTALL).groups()  # type: ignore[union-attr]
            kind, pointer, _ = kind.strip().removeprefix("const ").partition("*")
            fields += [f"{name}:{kinds[kind]}{pointer}" for name in names.split(", ")]
        assert fields == described.split()


@given(
    st.integers(1, 500), st.integers(1, 500), st.integers(1, 3), st.sampled_from(cuda.FORWARDS),
    st.sampled_from([np.float32, np.float64]), st.sampled_from([1, 4, 132]),
)  # fmt: skip
def test_tiles_cover_every_output_once(n: int, o: int, groups: int, name: str, dtype: Any, processors: int) -> None:
    seen: list[tuple[Kernel, int]] = []
    x, w = xp.zeros((n, groups), dtype), xp.zeros((groups * o, 1), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", lambda kernel, blocks, **_: seen.append((kernel, blocks)))
        patch.setattr(gpu, "multiprocessors", lambda: processors)
        gpu._forward(name, x, w, groups)
    ((kernel, blocks),) = seen
    fits = {
        -(-n // (16 * rows)) * -(-o // (16 * columns)) * groups
        for rows, columns in cuda.tiles(name, cuda_type(dtype))
        if kernel == cuda.forward(name, cuda_type(dtype), (rows, columns))
    }
    assert fits == {blocks}


def test_few_outputs_take_the_smallest_tile_and_many_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Kernel] = []
    monkeypatch.setattr(gpu, "launch", lambda kernel, blocks, **_: seen.append(kernel))
    monkeypatch.setattr(gpu, "multiprocessors", lambda: 132)
    for name in cuda.FORWARDS:
        for n, o, which in ((1, 10, -1), (2048, 1024, 0)):
            gpu._forward(name, xp.zeros((n, 1), np.float32), xp.zeros((o, 1), np.float32), 1)
            assert seen[-1] == cuda.forward(name, "float", cuda.tiles(name, "float")[which])


@given(
    st.integers(1, 60), st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**29), st.integers(0, 2**29),
    st.integers(1, 200),
)  # fmt: skip
def test_parts_cover_chunks_and_runs(
    columns: int, chunks: int, runs: int, size_x: int, size_w: int, processors: int
) -> None:
    splits, shares = gpu._parts(columns, chunks, runs, size_x, size_w, processors)
    assert 1 <= splits <= chunks
    assert 1 <= shares <= runs
    assert splits == 1 or splits * size_x <= gpu.MOST_PARTS
    assert shares == 1 or shares * size_w <= gpu.MOST_PARTS

    def time(splits: int, shares: int) -> int:
        waves = -(-columns * splits * shares // processors)
        return waves * -(-chunks // splits) * -(-runs // shares)

    assert time(splits, shares) <= time(1, 1)
    if time(splits, shares) == time(1, 1) and size_x and size_w:
        assert (splits, shares) == (1, 1)  # parts are made for a reason


@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 300), st.integers(1, 3), st.sampled_from([1, 7, 500]))
def test_a_gradient_leaves_out_no_sample_and_no_output(n: int, o: int, k: int, groups: int, processors: int) -> None:
    seen: list[tuple[Kernel, int, dict[str, Any]]] = []
    x, w, y = (xp.zeros(shape, np.float32) for shape in ((n, groups * k), (groups * o, k), (n, groups * o)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", lambda kernel, blocks, **arguments: seen.append((kernel, blocks, arguments)))
        patch.setattr(gpu, "multiprocessors", lambda: processors)
        gpu._lp_backward(y, x, w, y, 8, groups, (True, True))
    (kernel, blocks, cut), *_ = seen
    assert kernel.structure == "Backward"
    assert cut["splits"] * cut["chunks"] * 64 >= o
    assert cut["shares"] * cut["rows"] >= n
    assert cut["rows"] % cuda.RUN == 0
    assert blocks == -(-k // cuda.LANES) * groups * cut["splits"] * cut["shares"]


# Nothing is read or written beside the arrays.


def families() -> None:
    """Every family of kernels on every tile, with remainders in every dimension."""
    for dtype, (n, o, k) in ((np.float32, (133, 70, 67)), (np.float64, (35, 33, 35)), (np.float32, (1, 1, 1))):
        x, w, g = problem(n, o, k, groups=2, dtype=dtype)
        for tile in cuda.TILES[cuda_type(dtype)]:
            with only(tile):
                ask(gpu.linf_dist, x, w, 2)
                ask(gpu.linf_dist_argmax, x, w, 2)
                ask(gpu.linf_dist_bounds, x, x + 1, w, 2)
                ask(gpu.matmul, x, x.T)
                for p in (2, 24, 20.3, 300):
                    ask(gpu.lp_dist, x, w, p, 2)
                gpu.linf_dist(shifted(x), shifted(w), 2)
        winner = reference.linf_dist_argmax(x, w, 2)[1]
        ask(gpu.linf_dist_backward, g, winner, k, 2)
        y = reference.lp_dist(x, w, 8, 2)
        for p, processors in ((1, 4), (8, 1000), (20.3, 4), (300, 1000)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(gpu, "multiprocessors", lambda count=processors: count)
                for needs in ((True, True), (False, True), (True, False)):
                    ask(gpu.lp_dist_backward, g, x, w, y, p, 2, needs)
        for p in (8, math.inf):
            changed(gpu.lp_decay, w, p, 0.1)
        changed(gpu.adam_step, x, x, x, np.abs(x), 0.1, 0.9, 0.99, 1e-10, 3)
    edges = np.array([[0, 4096, 8192, 8999], [~0, ~4096, ~8192, NO_WINNER]], np.int32)  # of windows
    for dtype in (np.float32, np.float64):
        ask(gpu.linf_dist_backward, np.ones(edges.shape, dtype), edges, 9000)
        ask(gpu.linf_dist_backward, np.ones((1, 1025), dtype), np.zeros((1, 1025), np.int32), 3)


def beyond() -> None:
    """A step on one number more than there are."""
    x = xp.ones(300, np.float32)
    gpu.launch(cuda.step("adam", "Adam", "float"), 2, param=x, grad=x, m=x, v=x, count=301)


@pytest.mark.skipif(not ON_CPU, reason="of the kernels as they run on a CPU")
@pytest.mark.skipif(not os.path.isabs(LIBASAN), reason="needs g++'s AddressSanitizer")
@pytest.mark.parametrize(("function", "fault"), [("families", ""), ("beyond", "heap-buffer-overflow")])
def test_no_kernel_leaves_its_arrays(function: str, fault: str, tmp_path: Path) -> None:
    """As the second case shows, it would be told."""
    program = (
        "import os, sys; sys.modules['cupy'] = None; from standin import cupy_on_cpu; cupy_on_cpu.install(); "
        "del os.environ['LD_PRELOAD']; "  # g++ itself is faster without
        f"from kernels import test_gpu; test_gpu.{function}()"
    )
    settings = {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "LD_PRELOAD": LIBASAN,
        "LINFENGINE_CUDA_ON_CPU_FLAGS": "-fsanitize=address,undefined -fno-sanitize-recover=all -g1",
        "LINFENGINE_KERNELS": str(tmp_path),  # others have no sanitizer in them
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1], env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode == 0) == (not fault), result.stderr
    assert fault in result.stderr
