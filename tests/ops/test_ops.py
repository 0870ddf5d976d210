"""Every op of the table: its value, its gradient, its bounds, and what it refuses."""

import functools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import ANY, CASES, Array, Case
from support.strategies import arrays, boxes, layers, points_in, shapes
from support.tolerances import CENTRAL_DIFFERENCES, FORWARD, GRADIENT

import linfengine as le
from linfengine import Interval, Tensor, ops
from linfengine.backends import to_numpy
from linfengine.gradcheck import gradcheck


def grad(x: Tensor) -> Array:
    assert x.grad is not None
    return to_numpy(x.grad)


every_case = pytest.mark.parametrize("case", CASES, ids=str)
WITH_BOUNDS = [(case, inputs) for case in CASES for inputs in case.interval_inputs()]


def test_every_op_has_a_case() -> None:
    assert {case.op for case in CASES} == set(ops.OPS)


def test_every_op_has_a_function_of_its_name() -> None:
    for name in ops.OPS:
        assert getattr(ops, name).__doc__, name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@every_case
def test_value(backend: str, case: Case, dtype: Any) -> None:
    inputs = [x.astype(dtype) for x in case.sample()]
    value = case.call(*map(Tensor, inputs))
    assert value.dtype == dtype
    expected = np.asarray(case.expected(*[x.astype(np.float64) for x in inputs]))
    assert value.shape == expected.shape
    np.testing.assert_allclose(value.numpy(), expected, **FORWARD[dtype])


@every_case
def test_gradient(backend: str, case: Case) -> None:
    gradcheck(case.call, *case.sample(), **CENTRAL_DIFFERENCES)


@every_case
def test_gradient_in_float32(backend: str, case: Case) -> None:
    gradients = {}
    for dtype in (np.float32, np.float64):
        inputs = [Tensor(x.astype(np.float32).astype(dtype), requires_grad=True) for x in case.sample()]
        value = case.call(*inputs)
        value.backward(np.cos(np.arange(value.size)).reshape(value.shape).astype(dtype))
        gradients[dtype] = [grad(x) for x in inputs]
    for single, double in zip(gradients[np.float32], gradients[np.float64], strict=True):
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, double, **GRADIENT[np.float32])


@every_case
def test_gradient_of_one_input_alone(backend: str, case: Case) -> None:
    """A gradient nobody asked for is not given, and leaves the others as they are."""
    inputs = case.sample()
    together = [Tensor(x, requires_grad=True) for x in inputs]
    case.call(*together).sum().backward()
    for i, expected in enumerate(map(grad, together)):
        alone = [Tensor(x, requires_grad=i == j) for j, x in enumerate(inputs)]
        case.call(*alone).sum().backward()
        assert [x.grad is None for x in alone] == [i != j for j in range(len(alone))]
        np.testing.assert_array_equal(grad(alone[i]), expected)


LAYOUTS = {
    "transposed": lambda x: np.asfortranarray(x),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@every_case
def test_memory_layout_does_not_matter(backend: str, case: Case, layout: str) -> None:
    plain = [x.astype(np.float32) for x in case.sample()]
    awkward = [LAYOUTS[layout](x) for x in plain]
    results = []
    for inputs in (plain, awkward):
        tensors = [Tensor(x, requires_grad=True) for x in inputs]
        value = case.call(*tensors)
        value.backward(np.ones(value.shape, np.float32))
        results.append([value.numpy(), *map(grad, tensors)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    for before, after in zip(plain, awkward, strict=True):
        np.testing.assert_array_equal(before, after, "an op wrote into its input")


@every_case
def test_repeated_memory(backend: str, case: Case) -> None:
    """Inputs all of whose entries are one number in memory (stride 0), as a broadcast makes them."""
    tight = [np.full(shape, np.float32(0.75)) for shape in case.shapes]
    loose = [np.broadcast_to(np.float32(0.75), shape) for shape in case.shapes]
    np.testing.assert_array_equal(case.call(*map(Tensor, tight)).numpy(), case.call(*map(Tensor, loose)).numpy())


@pytest.mark.parametrize(("case", "inputs"), WITH_BOUNDS, ids=[f"{case}-{inputs}" for case, inputs in WITH_BOUNDS])
@draws(25)
@given(data=st.data())
def test_bounds_enclose_the_computed_values(case: Case, inputs: tuple[int, ...], data: st.DataObject) -> None:
    """What the float32 program gives for points of the boxes lies within the bounds, its rounding included."""
    operands: list[Any] = []
    points = []
    for i, shape in enumerate(case.shapes):
        low, high = (-100, 100) if case.domain(i) == ANY else (2**-10, 100)
        if i in inputs:
            box = data.draw(boxes(shape, low, high))
            operands.append(box)
            points.append(data.draw(points_in(box)))
        else:
            operands.append(data.draw(arrays(shape, low, high)))
            points.append(operands[-1])
    with np.errstate(all="ignore"):
        bounds = case.call(*operands)
        value = case.call(*map(Tensor, points))
    assert isinstance(bounds, Interval)
    assert bounds.shape == value.shape
    assert bounds.dtype == value.dtype
    assert (bounds.lower <= value.numpy()).all()
    assert (value.numpy() <= bounds.upper).all()


# distances


@given(layer=layers(), data=st.data())
@draws(50)
def test_linf_dist_is_the_plain_formula_to_the_bit(
    backend: str, layer: tuple[Array, Array, int], data: st.DataObject
) -> None:
    x, w, groups = layer
    per_group, k = len(w) // groups, w.shape[1]
    y = le.linf_dist(x, w, groups=groups)
    for o in range(len(w)):
        columns = slice(o // per_group * k, (o // per_group + 1) * k)
        np.testing.assert_array_equal(y.numpy()[:, o], np.abs(x[:, columns] - w[o]).max(axis=1))


@given(layer=layers(max_groups=1), data=st.data())
@draws(50)
def test_linf_dist_is_1_lipschitz(backend: str, layer: tuple[Array, Array, int], data: st.DataObject) -> None:
    """Up to the one rounding of either distance."""
    x, w, _ = layer
    other = data.draw(arrays(x.shape))
    y, y_other = le.linf_dist(x, w).numpy().astype(np.float64), le.linf_dist(other, w).numpy().astype(np.float64)
    moved = np.abs(x.astype(np.float64) - other).max(axis=1, keepdims=True)
    assert (np.abs(y - y_other) <= moved + 2**-24 * (y + y_other)).all()


def test_the_lowest_index_wins_a_tie(backend: str) -> None:
    x = Tensor(np.array([[0, 3, -3, 3], [2, 2, 2, 2]], np.float32), requires_grad=True)
    w = Tensor(np.zeros((1, 4), np.float32), requires_grad=True)
    le.linf_dist(x, w).sum().backward()
    np.testing.assert_array_equal(grad(x), [[0, 1, 0, 0], [1, 0, 0, 0]])
    np.testing.assert_array_equal(grad(w), [[-1, -1, 0, 0]])


def test_no_gradient_at_distance_zero(backend: str) -> None:
    for p in (1, 8, math.inf):
        x, w = (Tensor(np.ones((2, 3)), requires_grad=True) for _ in range(2))
        y = le.lp_dist(x, w, p=p)
        y.sum().backward()
        np.testing.assert_array_equal(y.numpy(), 0)
        np.testing.assert_array_equal(grad(x), 0)
        np.testing.assert_array_equal(grad(w), 0)


def test_lp_dist_tends_to_linf_dist(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((6, 5)), rng.standard_normal((4, 5))
    largest = le.linf_dist(x, w).numpy()
    for p in (8, 100, 1e4, 1e300):
        y = le.lp_dist(x, w, p=p).numpy()
        assert (largest * (1 - 1e-12) <= y).all()
        assert (y <= largest * 5 ** (1 / p) * (1 + 1e-12)).all()
    np.testing.assert_array_equal(le.lp_dist(x, w, p=math.inf).numpy(), largest)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_lp_dist_neither_overflows_nor_vanishes(backend: str, scale: float) -> None:
    x = Tensor(np.array([[3, 4]], np.float32) * np.float32(scale), requires_grad=True)
    y = le.lp_dist(x, np.zeros((1, 2), np.float32), p=2)
    y.backward()
    np.testing.assert_allclose(y.numpy(), [[5 * scale]], rtol=1e-6)
    np.testing.assert_allclose(grad(x), np.array([[0.6, 0.8]]), rtol=1e-6)


@pytest.mark.parametrize("distance", [le.linf_dist, functools.partial(le.lp_dist, p=8)])
def test_distances_refuse_what_they_cannot_compute(backend: str, distance: Any) -> None:
    x, w = np.zeros((2, 4), np.float32), np.zeros((3, 4), np.float32)
    for bad_x, bad_w, groups, error, message in [
        (x, w[0], 1, ValueError, r"x must be .* and w \(outputs, features\), not \(2, 4\) and \(4,\)"),
        (x[0, 0], w, 1, ValueError, r"not \(\) and \(3, 4\)"),
        (x.astype(np.float64), w, 1, TypeError, "one dtype, not float64 and float32"),
        (x[:, :3], w, 1, ValueError, "x has 3 features where w has 4 "),
        (x, w, 3, ValueError, "x has 4 features where w has 4 times 3 groups"),
        (x, w, 2, ValueError, "3 outputs cannot be divided into 2 groups"),
        (x, w, 0, ValueError, "groups must be a whole number from 1 on, not 0"),
        (x, w, 1.5, ValueError, "groups must be a whole number from 1 on, not 1.5"),
        (x[:0], w, 1, ValueError, r"nothing to compute, x has shape \(0, 4\)"),
        (x[:, :0], w[:, :0], 1, ValueError, "nothing to compute"),
        (np.where(np.eye(2, 4) > 0, np.nan, x), w, 1, ValueError, r"x holds 2 non-finite numbers.* index \(0, 0\)"),
        (x, np.where(np.eye(3, 4) > 0, np.inf, w), 1, ValueError, "w holds 3 non-finite numbers"),
    ]:
        with pytest.raises(error, match=message):
            distance(bad_x.astype(bad_x.dtype), bad_w.astype(np.float32), groups=groups)


def test_a_bad_entry_is_named_where_the_caller_has_it(backend: str) -> None:
    x = np.zeros((2, 3, 4), np.float32)
    x[1, 2, 3] = -np.inf
    with pytest.raises(ValueError, match=r"x holds 1 non-finite numbers, the first at index \(1, 2, 3\)"):
        le.linf_dist(x, np.zeros((1, 4), np.float32))


@pytest.mark.parametrize("p", [0.5, -1, math.nan, -math.inf])
def test_lp_dist_needs_p_of_at_least_1(p: float) -> None:
    with pytest.raises(ValueError, match="p must be at least 1"):
        le.lp_dist(np.zeros((1, 1)), np.zeros((1, 1)), p=p)


# ties and kinks: one place gets the gradient


def gradients(call: Any, *inputs: Any) -> list[Any]:
    tensors = [Tensor(x, requires_grad=True) for x in inputs]
    call(*tensors).sum().backward()
    return [x.grad for x in tensors]


def test_at_a_tie_the_gradient_goes_to_one_place() -> None:
    x = [[1, 5, 5], [2, 2, 0]]
    np.testing.assert_array_equal(gradients(lambda x: x.max(axis=1), x)[0], [[0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(gradients(lambda x: x.max(), x)[0], [[0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(gradients(lambda x: x.min(axis=0), x)[0], [[1, 0, 0], [0, 1, 1]])
    for choose in (le.maximum, le.minimum):
        first, second = gradients(choose, [1.0, 2.0], [1.0, 2.0])
        np.testing.assert_array_equal(first, [1, 1])
        np.testing.assert_array_equal(second, [0, 0])


def test_at_a_kink_the_gradient_is_zero() -> None:
    assert gradients(le.relu, 0.0) == [0]
    assert gradients(le.abs, 0.0) == [0]
    np.testing.assert_array_equal(gradients(lambda x: x.clip(0, 1), [-1.0, 0.0, 0.5, 1.0, 2.0])[0], [0, 0, 1, 0, 0])


def test_power_at_zero() -> None:
    np.testing.assert_array_equal(gradients(lambda x: x**2, [0.0, 1.0])[0], [0, 2])
    np.testing.assert_array_equal(gradients(lambda x: x**0, [0.0, 1.0])[0], [0, 0])
    np.testing.assert_array_equal(gradients(le.power, [0.0], [2.0]), [[0], [0]])


# dtypes


def test_dtypes_meet_as_in_numpy() -> None:
    single, double = Tensor(np.ones(2, np.float32), requires_grad=True), Tensor(np.ones(2), requires_grad=True)
    product = single * double
    assert product.dtype == np.float64
    product.sum().backward()
    assert (grad(single).dtype, grad(double).dtype) == (np.float32, np.float64)
    assert (single * np.float64(2)).dtype == np.float64


def test_python_numbers_take_the_dtype_they_meet() -> None:
    for dtype in (np.float32, np.float64):
        x = Tensor(np.ones(2, dtype))
        for value in (x + 1, 2.5 * x, x / 3, 1 - x, x**0.5, 2**x, le.maximum(x, 0), x.clip(0.1, 0.9), x.mean()):
            assert value.dtype == dtype
    assert le.add(1, 2.5).dtype == np.float32


def test_arrays_of_numpy_take_part_on_either_side() -> None:
    a, x = np.ones((2, 2), np.float32), Tensor(np.full((2, 2), 3, np.float32))
    for value, expected in ((a - x, -2), (x - a, 2), (a @ x, 6), (a / x, np.float32(1) / 3), (np.float32(2) * x, 6)):
        assert isinstance(value, Tensor)
        np.testing.assert_array_equal(value.numpy(), np.full((2, 2), expected, np.float32))
    with pytest.raises(TypeError, match="does not support ufuncs"):
        np.exp(x)


# broadcasting


@given(shape=shapes(), data=st.data())
@draws(50)
def test_unbroadcast_is_the_transpose_of_broadcast(shape: tuple[int, ...], data: st.DataObject) -> None:
    """<broadcast(x), g> = <x, unbroadcast(g)>, exactly for whole numbers."""
    added = data.draw(shapes(max_dims=2))
    wide = added + tuple(data.draw(st.integers(1, 3)) if size == 1 else size for size in shape)
    rng = np.random.default_rng(0)
    x, g = rng.integers(-9, 9, shape).astype(float), rng.integers(-9, 9, wide).astype(float)
    back = ops.unbroadcast(g, shape)
    assert back.shape == shape
    assert (np.broadcast_to(x, wide) * g).sum() == (x * back).sum()


# large numbers


def test_logarithms_of_sums_do_not_overflow() -> None:
    x = Tensor(np.array([[1e4, 1e4], [-1e4, -1e4], [3e38, -3e38]], np.float32), requires_grad=True)
    expected = np.array([1e4 + math.log(2), -1e4 + math.log(2), 3e38])
    with np.errstate(over="ignore"):  # of the difference, whose exponential is 0 anyway
        np.testing.assert_allclose(le.logsumexp(x).numpy(), expected, rtol=1e-6)
        y = le.log_softmax(x)
    np.testing.assert_allclose(y.numpy()[:2], -math.log(2), rtol=1e-6)
    y[:2, 0].sum().backward()
    np.testing.assert_allclose(grad(x), np.array([[0.5, -0.5], [0.5, -0.5], [0, 0]]))


def test_logsumexp_of_infinities() -> None:
    with np.errstate(divide="ignore"):
        y = le.logsumexp(np.array([[-np.inf, 0], [np.inf, 0], [-np.inf, -np.inf]]))
    np.testing.assert_array_equal(y.numpy(), [0, np.inf, -np.inf])


def test_softmax_cross_entropy_by_hand() -> None:
    z, labels = Tensor(np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 3.0]]), requires_grad=True), np.array([1, 0])
    loss = -le.log_softmax(z)[np.arange(2), labels].mean()
    loss.backward()
    softmax = np.exp(z.numpy()) / np.exp(z.numpy()).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(loss.item(), -np.log(softmax[[0, 1], labels]).mean())
    np.testing.assert_allclose(grad(z), (softmax - np.eye(3)[labels]) / 2)


# methods and functions are the same thing


def test_every_method_is_its_function() -> None:
    x = Tensor(np.linspace(0.5, 2, 6).reshape(2, 3))
    for name in ("exp", "log", "tanh", "relu", "abs", "sum", "mean", "max", "min", "transpose"):
        np.testing.assert_array_equal(getattr(x, name)().numpy(), getattr(ops, name)(x).numpy())
    np.testing.assert_array_equal(x.reshape(3, 2).numpy(), x.reshape((3, 2)).numpy())
    np.testing.assert_array_equal(x.transpose(1, 0).numpy(), x.transpose((1, 0)).numpy())
    np.testing.assert_array_equal((-x).numpy(), ops.neg(x).numpy())
    np.testing.assert_array_equal([row.numpy() for row in x], x.numpy())


# what is refused

X = Tensor(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: X + np.ones(4), ValueError, r"could not be broadcast.*\(2,3\) \(4,\)"),
        (lambda: X + "a", TypeError, "float32 or float64"),
        (lambda: X @ X, ValueError, r"must share k, but have \(2, 3\) and \(2, 3\)"),
        (lambda: X @ 2, ValueError, r"must share k"),
        (lambda: X.sum(axis=2), ValueError, "axis 2 is out of bounds"),
        (lambda: X.max(axis=-3), ValueError, "axis -3 is out of bounds"),
        (lambda: le.log_softmax(X, axis=5), ValueError, "axis 5 is out of bounds"),
        (lambda: X[:0].max(axis=0), ValueError, r"max: there is nothing to reduce along axis 0 of shape \(0, 3\)"),
        (lambda: X[:0].mean(), ValueError, "mean: there is nothing to reduce"),
        (lambda: X.reshape(4, 2), ValueError, "cannot reshape array of size 6"),
        (lambda: X.transpose(0, 0), ValueError, "repeated axis"),
        (lambda: X[2], IndexError, "index 2 is out of bounds"),
        (lambda: X[0.5], IndexError, "only integers, slices"),
        (lambda: le.concatenate([X, X[0]]), ValueError, "same number of dimensions"),
        (lambda: le.concatenate([X, X], axis=2), ValueError, "axis 2 is out of bounds"),
        (lambda: le.stack([X, X[:1]]), ValueError, "same shape"),
        (lambda: X.clip(1, 0), ValueError, "low must not be above high"),
        (lambda: X.clip(math.nan, 0), ValueError, "low must not be above high"),
        (lambda: le.pad(X, ((1, 1),)), ValueError, "each axis of .* needs a pair of widths"),
        (lambda: le.pad(X, ((1, -1), (0, 0))), ValueError, "0 or more"),
        (lambda: le.pad(X, 1), ValueError, "pair of whole numbers"),  # type: ignore[arg-type]
        (lambda: le.unfold(X, 2), ValueError, r"x must be \(n, channels, height, width\), not \(2, 3\)"),
        (lambda: le.unfold(np.ones((1, 1, 2, 2)), 3), ValueError, "a window of 3 x 3 does not fit an image of 2 x 2"),
        (lambda: le.unfold(np.ones((1, 1, 2, 2)), 0), ValueError, "must be 1 or more"),
        (lambda: le.unfold(np.ones((1, 1, 2, 2)), 1.5), ValueError, "whole number or a pair"),  # type: ignore[arg-type]
    ],
)
def test_errors_say_what_is_wrong(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key", [((0, 0), (1, 1)), ((0, 0),), ([0, 0], 1), (range(2), [1, 1]), np.array([0, 0]), 1, ...]
)
def test_an_entry_taken_twice_gets_both_gradients(backend: str, key: Any) -> None:
    x = le.Tensor(np.ones((2, 2)), requires_grad=True)
    le.getitem(x, key).sum().backward()
    expected = np.zeros((2, 2))
    np.add.at(expected, key, 1)
    np.testing.assert_array_equal(grad(x), expected)
