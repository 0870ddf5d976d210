"""Finite p on every device: values and gradients keep to the tolerance table, at every order and scale."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.devices import Device, on_all, on_each
from support.draws import thorough
from support.problems import Array, problem
from support.strategies import layers
from support.tolerances import FLUSHED, lp_gradient_tolerance, lp_value_tolerance

from linfengine.backends import reference
from linfengine.backends.orders import CPU_POWERS, GPU_POWERS

SOME = [1.0, 2.0, 8.0, 16.0, 20.3, 64.0, 1000.0]  # of every kind
GENERAL, SPARSE = [1.5, 3.0, 95.5], [96.0, 100.0, 300.0, 1e4, 1e6]
ALL = [*SOME, *map(thorough, sorted({*CPU_POWERS, *GPU_POWERS, *GENERAL, *SPARSE} - {*SOME}))]
some_orders, all_orders = pytest.mark.parametrize("p", SOME), pytest.mark.parametrize("p", ALL)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
few = settings(max_examples=max(1, settings().max_examples // 4))


@on_all
@dtypes
@all_orders
@pytest.mark.parametrize(
    ("shape", "groups"),
    [
        ((7, 10, 27), 2), ((15, 17, 63), 3),
        *(thorough(*each) for each in [
            ((1, 1, 1), 3), ((2, 3, 5), 2), ((13, 70, 300), 2), ((17, 65, 129), 1), ((33, 31, 130), 3),
            ((2, 3, 701), 1), ((129, 65, 19), 1), ((17, 5, 66), 3),
        ]),
    ],
)  # fmt: skip
def test_values_and_gradients(shape: tuple[int, int, int], groups: int, p: float, dtype: Any, device: Device) -> None:
    """Rows and columns beside every tile, chunk (64 outputs, or 32) and run (16 samples) of the GPU."""
    device.check_lp(*problem(*shape, groups=groups, dtype=dtype), p, groups)


@on_each
@some_orders
@pytest.mark.parametrize("scale", [1e-30, 1e12, *map(thorough, [1e-12, 1e-3, 1e3, 1e30])])
def test_every_scale(scale: float, p: float, device: Device) -> None:
    device.check_lp(*problem(7, 20, 50, scale=scale), p)


@on_each
@some_orders
@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e38), (np.float64, 1e-300), (np.float64, 5e307)])
def test_the_ends_of_the_range(dtype: Any, size: float, p: float, device: Device) -> None:
    rng = np.random.default_rng(0)
    x, w, g = ((size * rng.uniform(-0.8, 0.8, shape)).astype(dtype) for shape in ((20, 2), (7, 2), (20, 7)))
    device.check_lp(x, w, (g / size).astype(dtype), p)


@on_each
@some_orders
@pytest.mark.parametrize("huge", [1e17, *map(thorough, [1e6, 1e29])])
def test_a_huge_row_does_not_spoil_the_others(huge: float, p: float, device: Device) -> None:
    """Powers of one row leave the range, and only what is computed with it starts again."""
    x, w, g = problem(140, 70, 20)
    x[3] *= huge
    w[68] *= huge
    y = device.lp_dist(x, w, p)
    expected = reference.lp_dist(x.astype(float), w.astype(float), p)
    np.testing.assert_allclose(y, expected, rtol=lp_value_tolerance(p, x.dtype), atol=0)
    for got, want in zip(
        device.lp_dist_backward(g, x, w, y, p),
        reference.lp_dist_backward(g.astype(float), x.astype(float), w.astype(float), expected, p),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=0, atol=lp_gradient_tolerance(p, x.dtype) * np.abs(want).max())


@on_all
@some_orders
def test_a_small_sample_survives_beside_a_large_one(p: float, device: Device) -> None:
    x = np.array([[1e35], [1e-30]], np.float32)
    np.testing.assert_allclose(device.lp_dist(x, np.zeros((1, 1), np.float32), p), x, rtol=1e-5)


@on_each
@few
@given(layers(), st.sampled_from(SOME), st.integers(-100, 100), st.booleans())
def test_some_orders_at_any_scale(
    device: Device, layer: tuple[Array, Array, int], p: float, exponent: int, coarse: bool
) -> None:
    check_any(device, layer, p, exponent, coarse)


@pytest.mark.thorough
@on_all
@given(layers(), st.just(1.0) | st.floats(1.5, 1e4), st.integers(-100, 100), st.booleans())
def test_any_order_at_any_scale(
    device: Device, layer: tuple[Array, Array, int], p: float, exponent: int, coarse: bool
) -> None:
    check_any(device, layer, p, exponent, coarse)


def check_any(device: Device, layer: tuple[Array, Array, int], p: float, exponent: int, coarse: bool) -> None:
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
        y = device.lp_dist(x, w, p, groups)
        np.testing.assert_allclose(y, expected, rtol=lp_value_tolerance(p, x.dtype), atol=0)
        # one sample and one output: sums over several may cancel, and then no entry is large
        device.check_lp(x[:1, : w.shape[1]], w[:1], g[:1, :1], p)


@on_all
@few
@given(layers(), st.sampled_from([1, 2, 8, 20.3, 64, 300]))
def test_a_distance_lies_between_linf_and_l1(device: Device, layer: tuple[Array, Array, int], p: float) -> None:
    x, w, groups = layer
    y, k = device.lp_dist(x, w, p, groups).astype(float), w.shape[1]
    smallest = reference.linf_dist(x.astype(float), w.astype(float), groups)
    slack = 1 + lp_value_tolerance(p, np.float32) + 1e-6
    assert (smallest <= y * slack + FLUSHED).all()
    assert (y <= smallest * k ** (1 / p) * slack + FLUSHED).all()


@on_all
@dtypes
@all_orders
def test_zero_distance_is_zero_with_zero_gradient(p: float, dtype: Any, device: Device) -> None:
    x, w, g = problem(20, 70, 20, dtype=dtype)
    x[::2] = w[5]
    w[:7] = w[5]
    y = device.lp_dist(x, w, p)
    assert (y[::2, :7] == 0).all()
    assert (y[1::2] > 0).all()
    alone = np.where(y == 0, g, 0)  # a gradient that comes from zero distances alone
    assert alone.any()
    for gradient in device.lp_dist_backward(alone, x, w, y, p):
        assert not gradient.any()


@on_all
@some_orders
@pytest.mark.parametrize("magnitudes", [(1e-44, 1.0), (1e-20, 1e20), (1e-44, 3e38), (1e38, 3e38)])
def test_finite_input_never_makes_nan(magnitudes: tuple[float, float], p: float, device: Device) -> None:
    rng = np.random.default_rng(0)
    scales = rng.choice(np.array(magnitudes, np.float32), (6, 30))
    scales[5] = magnitudes[0]  # of which a row of x and of w hold nothing else
    x = (scales * rng.uniform(-1, 1, (6, 30))).astype(np.float32)
    w = np.concatenate([x[:3], -x[3:]])
    y = device.lp_dist(x, w, p)
    assert not np.isnan(y).any()
    for gradient in device.lp_dist_backward(np.ones_like(y), x, w, y, p):
        assert not np.isnan(gradient).any()


@on_all
@pytest.mark.parametrize("k", [101, 4096])
@pytest.mark.parametrize(("p", "small"), [(1e4, 0.99963), (1e4, 1.0), (300, 0.98), (20.3, 0.58), (1, 1e-9)])
def test_gradients_of_many_equal_terms(p: float, small: float, k: int, device: Device) -> None:
    """The largest gradient is then far below g, and others must keep to the tolerance beside it."""
    x = np.ones((1, k), np.float32)
    x[0, 0] = small
    device.check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


@on_each
@few
@given(
    st.floats(1.5, 95.9) | st.floats(1.5, 200), st.integers(0, 2**32 - 1),
    st.sampled_from([1 / 4, 1 / 16, 1 / 64, 1e-4]), st.sampled_from([5, 60, 2000]),
)  # fmt: skip
def test_terms_near_the_largest(device: Device, p: float, seed: int, spread: float, k: int) -> None:
    """There a gradient is large, and an error of the logarithm counts p times; y may be far above the largest."""
    rng = np.random.default_rng(seed)
    x = (1 - spread * rng.random((1, k))).astype(np.float32)
    device.check_lp(x, np.zeros((1, k), np.float32), np.ones((1, 1), np.float32), p)


@on_each
@some_orders
def test_sums_of_many_terms(p: float, device: Device) -> None:
    """The gradient at p multiplies the relative error of a distance by p - 1, which the root had divided by p."""
    k = 5120
    device.check_lp(*problem(2, 3, k), p)
    x, w = np.full((1, k), 0.1, np.float32), np.zeros((2, k), np.float32)
    device.check_lp(x, w, np.ones((1, 2), np.float32), p)


@on_each
@pytest.mark.parametrize("largest", [1, thorough(2.0**70)])
@pytest.mark.parametrize("p", [1.0, 1.5, 8.0])
def test_terms_too_small_to_matter_do_not_add_up_unseen(p: float, largest: float, device: Device) -> None:
    """Nor beside a sample whose powers leave the range, with which they are scaled."""
    k = 65537
    x = np.full((2, k), 2 ** (-30.1 / p), np.float32)
    x[:, 0] = 1
    x[1] *= largest
    device.check_lp(x, np.zeros((1, k), np.float32), np.ones((2, 1), np.float32), p)


@on_all
@pytest.mark.parametrize("p", [1, 1.5, 8])
def test_denormal_coordinates_are_no_zeros(p: float, device: Device) -> None:
    x, w = np.array([[2.0**-127, -(2.0**-127)]], np.float32), np.zeros((1, 2), np.float32)
    y = device.lp_dist(x, w, p)
    np.testing.assert_allclose(y, 2.0**-127 * 2 ** (1 / p), rtol=2.0**-20)
    gradient = device.lp_dist_backward(np.ones_like(y), x, w, y, p)[0]
    np.testing.assert_allclose(gradient, np.array([[1, -1]]) * 2 ** (1 / p - 1), rtol=2.0**-17)


@on_all
def test_the_distance_of_one_denormal_is_exact(device: Device) -> None:
    x, w = np.zeros((1, 1), np.float32), np.full((1, 1), 2.0**-127, np.float32)
    y = device.lp_dist(x, w, 1)
    assert y.tolist() == [[2.0**-127]]
    assert [each.tolist() for each in device.lp_dist_backward(np.ones_like(y), x, w, y, 1)] == [[[-1]], [[1]]]


@on_all
def test_p_is_1_over_a_wide_range(device: Device) -> None:
    x, w = np.array([[1e30, 1e-9, -1e-9]], np.float32), np.zeros((1, 3), np.float32)
    y = device.lp_dist(x, w, 1)
    assert device.lp_dist_backward(np.ones_like(y), x, w, y, 1)[0].tolist() == [[1, 1, -1]]


@on_all
@dtypes
def test_an_order_beyond_the_range_is_no_special_case(dtype: Any, device: Device) -> None:
    x, w = np.array([[3.0, 1.0]], dtype), np.zeros((1, 2), dtype)
    y = device.lp_dist(x, w, 1e300)
    assert y.tolist() == [[3]]
    assert device.lp_dist_backward(np.ones_like(y), x, w, y, 1e300)[0].tolist() == [[1, 0]]


@on_each
@dtypes
@pytest.mark.parametrize("p", [1, 8, 20.3, math.inf, *map(thorough, [1.5, 2, 100, 300, 1e4])])
def test_lp_decay_is_the_reference_to_rounding(p: float, dtype: Any, device: Device) -> None:
    for rows, k in ((1, 1), (5, 27), (70, 300), (3, 256), (3, 700)):
        _, w, _ = problem(1, rows, k, dtype=dtype)
        w[0] = 0
        w[-1, k // 2] = 0
        expected = w.astype(np.float64)
        (decayed,) = device.changed("lp_decay", w, p, 0.01)
        reference.lp_decay(expected, p, 0.01)
        eps = np.finfo(dtype).eps
        atol = 0 if math.isinf(p) else lp_gradient_tolerance(p, dtype) * np.abs(expected - w).max()
        np.testing.assert_allclose(decayed, expected, rtol=2 * eps, atol=atol)
        assert not decayed[0].any()


@on_all
@dtypes
def test_only_the_first_of_the_largest_decays(dtype: Any, device: Device) -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-3, 4, (40, 700)).astype(dtype)
    w[0, :] = 0
    w[1, 1:] = 0
    (decayed,) = device.changed("lp_decay", w, math.inf, 0.25)
    expected = w.copy()
    reference.lp_decay(expected, math.inf, 0.25)
    np.testing.assert_array_equal(decayed, expected)  # nothing of this is rounded
    first = np.abs(w).argmax(axis=1)
    assert ((decayed != w).sum(axis=1) == w.any(axis=1)).all()
    assert (decayed[np.arange(40), first] == 0.75 * w[np.arange(40), first]).all()


def test_the_orders_of_the_gpu_are_some_of_the_cpus() -> None:
    assert set(GPU_POWERS) <= set(CPU_POWERS)
