"""p = ∞ on every device: values, winners, bounds, gradients and bytes have the bits of the slow and obvious backend."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.devices import Device, on_all, on_each
from support.draws import thorough
from support.problems import Array, equal_bits, problem
from support.strategies import layers

from linfengine.backends import NO_WINNER, reference

Shape = tuple[int, int, int]

# Remainders in every dimension: on the CPU of the register tile, the vector, the panel, the block of k and the chunk of
# rows; on the GPU of every tile (16, 32, 64, 128) and the depths of its stages.
SHAPES = [(1, 1, 1), (2, 3, 5), (7, 10, 27), (13, 70, 300), (97, 17, 129), (5, 6, 2100), (17, 31, 65)]
MORE_SHAPES = [
    (101, 131, 64), (8, 64, 257), (16, 16, 64), (15, 17, 63), (33, 15, 16), (63, 32, 15), (64, 64, 17), (65, 63, 4),
    (127, 129, 6), (128, 65, 128), (129, 1, 130), (2, 3, 701),
]  # fmt: skip
shapes = pytest.mark.parametrize("shape", [*SHAPES, *map(thorough, MORE_SHAPES)], ids=str)
groups = pytest.mark.parametrize("groups", [1, 3])
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
few = settings(max_examples=max(1, settings().max_examples // 4))


def assert_same(got: tuple[Array, ...], expected: tuple[Array, ...]) -> None:
    for ours, theirs in zip(got, expected, strict=True):
        assert equal_bits(ours, theirs)


@on_all
@dtypes
@groups
@shapes
def test_the_forward_is_the_reference_bit_for_bit(shape: Shape, groups: int, dtype: Any, device: Device) -> None:
    x, w, _ = problem(*shape, groups=groups, dtype=dtype)
    expected = reference.linf_dist_argmax(x, w, groups)
    assert equal_bits(device.linf_dist(x, w, groups), expected[0])
    assert_same(device.linf_dist_argmax(x, w, groups), expected)
    ends = x - np.abs(x) / 8, x + np.abs(x) / 8
    assert_same(device.linf_dist_bounds(*ends, w, groups), reference.linf_dist_bounds(*ends, w, groups))


@on_all
@few
@given(layers(), st.booleans(), st.sampled_from([np.float32, np.float64]))
def test_small_hard_cases(device: Device, layer: tuple[Array, Array, int], coarse: bool, dtype: Any) -> None:
    x, w, groups = layer
    x, w = x.astype(dtype), w.astype(dtype)
    if coarse:  # many ties
        x, w = np.round(x / 50), np.round(w / 50)
    ends = x, x + np.abs(x)
    assert_same(device.linf_dist_argmax(x, w, groups), reference.linf_dist_argmax(x, w, groups))
    assert_same(device.linf_dist_bounds(*ends, w, groups), reference.linf_dist_bounds(*ends, w, groups))


@on_all
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        *((np.float32, scale) for scale in (1e-44, 1e-38, 1e30, 3e37)),
        *((np.float64, scale) for scale in (1e-320, 1e300)),
    ],
)
def test_denormals_and_large_numbers_are_kept(dtype: Any, scale: float, device: Device) -> None:
    x, w, g = problem(9, 40, 33, dtype=dtype, scale=scale)
    expected = reference.linf_dist_argmax(x, w)
    assert_same(device.linf_dist_argmax(x, w), expected)
    assert equal_bits(device.linf_dist(x, w), expected[0])
    assert expected[0].any()
    assert_same(device.linf_dist_bounds(x, x, w), reference.linf_dist_bounds(x, x, w))
    g, winner = (scale * g).astype(dtype), expected[1]
    assert_same(device.linf_dist_backward(g, winner, 33), reference.linf_dist_backward(g, winner, 33))


@on_all
def test_a_difference_beyond_the_largest_number_is_infinite(device: Device) -> None:
    x, w = np.array([[3e38, 1]], np.float32), np.array([[-3e38, 1], [3e38, 2]], np.float32)
    y, winner = device.linf_dist_argmax(x, w)
    assert y.tolist() == [[math.inf, 1]]
    assert winner.tolist() == [[0, ~1]]


@on_all
def test_the_lowest_index_wins_ties(device: Device) -> None:
    x, w = np.zeros((5, 400), np.float32), np.zeros((70, 400), np.float32)
    x[:, [3, 130, 399]] = 2
    w[1, 2] = -2
    _, winner = device.linf_dist_argmax(x, w)
    assert (winner[:, 0] == 3).all()
    assert (winner[:, 1] == 2).all()
    assert equal_bits(device.linf_dist_argmax(-x, -w)[1], ~winner)  # the same places, seen from the other side
    assert (device.linf_dist_argmax(np.zeros_like(x), w)[1][:, 0] == NO_WINNER).all()


@on_all
@few
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_the_lowest_index_wins_ties_between_blocks_lanes_and_stages(device: Device, seed: int, dtype: Any) -> None:
    """Small whole numbers in long rows: nearly every maximum is attained many times."""
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 700 if device.name.startswith("cpu") else 300))
    x, w = (rng.integers(-2, 3, (rows, k)).astype(dtype) for rows in (7, 9))
    assert equal_bits(device.linf_dist_argmax(x, w)[1], reference.linf_dist_argmax(x, w)[1])


@on_all
@dtypes
def test_a_last_place_decides_who_wins(dtype: Any, device: Device) -> None:
    x, w = np.ones((40, 90), dtype), np.zeros((3, 90), dtype)
    most = np.random.default_rng(0).integers(90, size=40)
    x[np.arange(40), most] = np.nextafter(dtype(1), dtype(2))
    assert (device.linf_dist_argmax(x, w)[1] == most[:, None]).all()


@on_all
def test_bounds_never_hold_a_negative_zero(device: Device) -> None:
    zero = np.zeros((3, 5), np.float32)
    for lower, upper in ((-zero, zero), (zero, zero), (-zero, -zero)):
        for w in (zero, -zero):
            for bound in device.linf_dist_bounds(lower, upper, w):
                assert equal_bits(bound, zero[:, :3])


@on_all
@groups
@shapes
def test_bytes_are_exact(shape: Shape, groups: int, device: Device) -> None:
    n, o, k = shape
    rng = np.random.default_rng([n, o, k])
    for top in (3, 256):
        x = rng.integers(0, top, (n, groups * k)).astype(np.uint8)
        below, above = np.sort(rng.integers(0, top, (2, groups * o, k)), axis=0).astype(np.uint8)
        terms = x.reshape(n, groups, 1, k).astype(int)
        parts = (terms - above.reshape(1, groups, o, k), below.reshape(1, groups, o, k) - terms)
        whole = np.maximum(*parts).max(axis=3).clip(0).reshape(n, groups * o).astype(np.uint8)
        assert equal_bits(device.dead_zone(x, above, below, groups), whole)
        assert equal_bits(reference.dead_zone(x, above, below, groups), whole)
        assert equal_bits(device.dead_zone(x, below, below, groups), reference.dead_zone(x, below, below, groups))


@on_each
@dtypes
@groups
@shapes
def test_the_backward_adds_in_the_references_order(shape: Shape, groups: int, dtype: Any, device: Device) -> None:
    x, w, g = problem(*shape, groups=groups, dtype=dtype)
    winner, k = reference.linf_dist_argmax(x, w, groups)[1], w.shape[1]
    expected = reference.linf_dist_backward(g, winner, k, groups)
    assert_same(device.linf_dist_backward(g, winner, k, groups), expected)


@on_each
@dtypes
@pytest.mark.parametrize("k", [4097, 8192, *map(thorough, [2049, 4095, 4096, 8191, 8193, 9000])])
def test_the_backward_of_many_columns(k: int, dtype: Any, device: Device) -> None:
    """More than the GPU's window holds."""
    rng = np.random.default_rng(k)
    g = rng.standard_normal((5, 6)).astype(dtype)
    for winner in (
        rng.integers(-k, k, (5, 6)), rng.choice([0, ~0, k - 1, ~(k - 1), NO_WINNER], (5, 6)), np.full((5, 6), NO_WINNER)
    ):  # fmt: skip
        winner = winner.astype(np.int32)
        expected = reference.linf_dist_backward(g, winner, k, 2)
        assert_same(device.linf_dist_backward(g, winner, k, 2), expected)


@on_all
@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)])
def test_a_gradient_that_is_not_wanted_is_not_made(needs: tuple[bool, bool], device: Device) -> None:
    x, w, g = problem(33, 70, 140, groups=2)
    y, winner = reference.linf_dist_argmax(x, w, 2)
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("linf_dist_backward", (g, winner, w.shape[1], 2)),
        *(("lp_dist_backward", (g, x, w, y, p, 2)) for p in (8, 20.3, 300)),
    ]
    for name, arguments in calls:
        both = getattr(device, name)(*arguments)
        for gradient, array, needed in zip(getattr(device, name)(*arguments, needs), both, needs, strict=True):
            assert equal_bits(gradient, array) if needed else gradient is None
