"""What a training step does besides the distances, on every device: Adam, sums over the batch, the matrix product."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from support.devices import CPUS, GPU, Device, on_all, on_each
from support.draws import thorough
from support.problems import equal_bits, problem

import linfengine as le
from linfengine.backends import cpu, reference, to_numpy, use_backend

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
SETTINGS = {"lr": 0.02, "beta1": 0.9, "beta2": 0.99, "eps": 1e-10}


@on_all
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(np.float32, 2e-5, 2e-6), (np.float64, 1e-12, 1e-12)])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (255,), (256,), (257,), (37, 129), (3, 16385)])
def test_an_adam_step_is_its_formula(
    shape: tuple[int, ...], dtype: Any, rtol: float, atol: float, device: Device
) -> None:
    rng = np.random.default_rng(0)
    ours = [np.array(rng.standard_normal(shape), dtype) for _ in range(4)]
    np.abs(ours[3], out=ours[3])
    theirs = [array.astype(np.float64) for array in ours]
    for step in (1, 2, 3):
        ours = device.changed("adam_step", *ours, **SETTINGS, step=step)
        reference.adam_step(theirs[0], theirs[1], theirs[2], theirs[3], **SETTINGS, step=step)
    for got, expected in zip(ours, theirs, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def test_the_reference_is_adams_formula() -> None:
    param, grad, m, v = np.random.default_rng(0).random((4, 50))
    moment, square = 0.9 * m + 0.1 * grad, 0.99 * v + 0.01 * grad**2
    expected = param - 0.02 * (moment / (1 - 0.9**2)) / (np.sqrt(square / (1 - 0.99**2)) + 1e-10)
    reference.adam_step(param, grad, m, v, **SETTINGS, step=2)
    np.testing.assert_allclose(param, expected, rtol=1e-14)
    np.testing.assert_allclose([m, v], [moment, square], rtol=1e-14)


@on_all
def test_an_adam_step_of_nothing(device: Device) -> None:
    empty = np.zeros((0, 3), np.float32)
    assert [each.shape for each in device.changed("adam_step", *[empty] * 4, **SETTINGS, step=1)] == [(0, 3)] * 4


@on_all
@pytest.mark.parametrize(("dtype", "denormal"), [(np.float32, 1e-42), (np.float64, 1e-320)])
def test_moments_may_be_denormal(dtype: Any, denormal: float, device: Device) -> None:
    param, grad = np.linspace(-1, 1, 300).astype(dtype), np.zeros(300, dtype)
    small = np.full(300, denormal, dtype)
    after, _, m, v = device.changed("adam_step", param, grad, small, small, **SETTINGS, step=5)
    assert equal_bits(after, param)
    assert ((0 <= m) & (m <= small) & (0 <= v) & (v <= small)).all()


@on_all
def test_adam_refuses_a_gradient_of_another_shape(device: Device) -> None:
    w = np.zeros((100, 50), np.float32)
    for grad in (np.zeros(1, np.float32), np.zeros((50, 100), np.float32), np.zeros(w.shape)):
        with pytest.raises(ValueError, match="must have one shape and one dtype, got float32"):
            device.changed("adam_step", w, grad, w, w, **SETTINGS, step=1)
    there = device.there(w)
    with pytest.raises(ValueError, match="C-contiguous"):
        device.backend.adam_step(there.T, there.T, there.T, there.T, **SETTINGS, step=1)


@on_all
@dtypes
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (3, 5, 1), (300, 70, 1), (5, 3, 7), (2, 3, 129), (1, 40, 33), (64, 96, 100), (70, 1100, 1)]
)
def test_channel_sums_are_those_of_float64(shape: tuple[int, ...], dtype: Any, device: Device) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    sums = device.channel_sums(x)
    exact = np.array([math.fsum(x[:, c].ravel().tolist()) for c in range(shape[1])])
    size = np.abs(x).sum(axis=(0, 2), dtype=np.float64)
    assert sums.dtype == np.float64
    assert (np.abs(sums - exact) <= 2.0**-53 * (shape[0] * shape[2] - 1) * size).all()


def test_channel_sums_have_the_same_bits_on_every_instruction_set_and_thread_count() -> None:
    x = np.random.default_rng(0).standard_normal((50, 37, 41))
    before = cpu.threads()
    results = set()
    for count in (1, 3):
        cpu.use_threads(count)
        for device in CPUS:
            results.add(device.channel_sums(x).tobytes() + device.channel_sums(x.reshape(-1, 41, 1)).tobytes())
    cpu.use_threads(before)
    assert len(results) == 1


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


@on_all
@dtypes
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1), (7, 10, 27), (13, 70, 300), (17, 31, 65), (5, 6, 2100),
        *map(thorough, [
            (2, 3, 5), (97, 17, 129), (101, 131, 64), (8, 64, 257), (16, 16, 64), (33, 15, 16), (64, 64, 17),
            (65, 63, 4), (127, 129, 6), (128, 65, 128), (129, 1, 130), (2, 3, 701),
        ]),
    ],
)  # fmt: skip
def test_a_matrix_product_is_that_of_float64_to_rounding(
    shape: tuple[int, int, int], dtype: Any, device: Device
) -> None:
    x, w, _ = problem(*shape, dtype=dtype)
    exact = x.astype(np.longdouble) @ w.T.astype(np.longdouble)
    size = np.abs(x).astype(np.longdouble) @ np.abs(w.T).astype(np.longdouble)
    there, across = device.there(x), device.there(w).T  # which need not be contiguous
    with device.chosen():
        z = to_numpy(device.backend.matmul(there, across))
        for one, other in ((there, across), (device.there(x.T.copy()).T, device.backend.xp.ascontiguousarray(across))):
            assert equal_bits(to_numpy(device.backend.matmul(one, other)), z)
    assert z.dtype == dtype
    assert (np.abs(z - exact) <= np.finfo(dtype).eps * (shape[2] + 1) * size).all()


@on_each
def test_forwards_agree_with_scipy(device: Device) -> None:
    x, w, _ = problem(20, 30, 40, dtype=np.float64)
    assert (device.linf_dist(x, w) == cdist(x, w, "chebyshev")).all()
    for p in (1, 2.5, 8, 30):
        np.testing.assert_allclose(device.lp_dist(x, w, p), cdist(x, w, "minkowski", p=p), rtol=1e-12)


KEYS: list[Any] = [
    (np.array([0, 2, 0, 0, 4]),),
    (np.array([1, 1, -1]), np.array([2, 2, 0])),
    (slice(None), np.array([3, 3, 1])),
    (Ellipsis, np.array([[0, 0], [1, 0]])),
    (np.array([[True, False, False, False], *[[False] * 4] * 3, [False, True, True, False]]),),
    (2, slice(1, None)),
    np.array([0, 2, 0]),
    slice(1, 3),
]


@pytest.mark.parametrize("device", [CPUS[-1], GPU], ids=str)
@pytest.mark.parametrize("key", KEYS, ids=str)
def test_what_is_added_adds_up_as_in_numpy(key: Any, device: Device) -> None:
    rng = np.random.default_rng(0)
    total = rng.standard_normal((5, 4)).astype(np.float32)
    parts = rng.standard_normal(total[key].shape).astype(np.float32)
    expected = total.copy()
    np.add.at(expected, key, parts)
    there = tuple(map(device.there, key)) if isinstance(key, tuple) else device.there(key)
    for each in (key, there):
        ours = device.there(total.copy())
        device.backend.add_at(ours, each, device.there(parts))
        assert equal_bits(to_numpy(ours), expected)
