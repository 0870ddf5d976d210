"""Tensor: what it holds, and the walk back through what was computed."""

import copy
import gc
import math
import pickle
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.op_cases import Array

import linfengine as le
from linfengine import Tensor, no_grad
from linfengine.tensor import is_grad_enabled, only_grad


def leaf(data: Any) -> Tensor:
    return Tensor(data, requires_grad=True)


# what a Tensor holds


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floating_point_arrays_are_kept_as_they_are(dtype: Any) -> None:
    a = np.arange(6, dtype=dtype).reshape(2, 3)[:, ::2]
    assert Tensor(a).data is a
    assert Tensor(Tensor(a)).data is a


@pytest.mark.parametrize(
    "data",
    [
        np.array([0.5, 1], np.float16),
        np.array([True, False]),
        np.array([1, 2], np.uint8),
        np.array([2**24, -(2**24)]),
        np.array([2**63, 2**40 + 2**20], np.uint64),
        [1, 2],
        [0.5, 1],
        (1.5, 2),
        3,
        2.5,
        True,
    ],
)
def test_other_numbers_become_float32(data: Any) -> None:
    x = Tensor(data)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x.data.astype(np.float64), np.asarray(data).astype(np.float64))


def test_a_dtype_can_be_asked_for() -> None:
    assert Tensor([0.1], dtype=np.float64).data == [0.1]
    assert Tensor(np.ones(2), dtype="float32").dtype == np.float32
    assert Tensor(np.float64(0.1)).dtype == np.float64
    assert Tensor([2**24 + 1], dtype=np.float64).data == [2**24 + 1]


def test_big_endian_numbers_become_native() -> None:
    for dtype in (">f4", ">f8"):
        a = np.array([1.5, -2], dtype)
        x = Tensor(a)
        assert x.dtype.isnative
        assert x.dtype.itemsize == a.dtype.itemsize
        np.testing.assert_array_equal(x.data, a)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([1j], TypeError, "float32 or float64 numbers and cannot be made from complex128"),
        ("abc", TypeError, "float32 or float64"),
        (None, TypeError, "cannot be made from object"),
        (np.array([1], np.longdouble), TypeError, "float32 or float64"),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError, "float32 or float64"),
        ([2**70], TypeError, "float32 or float64"),
        ([[1, 2], [3]], ValueError, "numbers in a rectangular arrangement"),
        ([2**24 + 1], TypeError, "int64 array holds integers that float32 cannot"),
        (np.array([-(2**53) - 1]), TypeError, "int64 array holds integers that float32 cannot"),
        (np.array([2**64 - 1], np.uint64), TypeError, "uint64 array holds integers that float32 cannot"),
    ],
)
def test_what_no_tensor_can_hold(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        Tensor(data)
    assert "\n" not in str(caught.value)


def test_a_tensor_has_no_other_dtype() -> None:
    with pytest.raises(TypeError, match="float32 or float64 numbers, not float16"):
        Tensor([1], dtype=np.float16)


def test_attributes() -> None:
    x = Tensor(np.ones((2, 3), np.float32))
    assert (x.shape, x.ndim, x.size, x.dtype, len(x), x.requires_grad, x.grad) == (
        (2, 3), 2, 6, np.float32, 2, False, None,
    )  # fmt: skip
    assert x.numpy() is x.data
    assert np.asarray(x) is x.data
    assert np.array(x) is not x.data
    assert np.asarray(x, np.float64).dtype == np.float64
    assert repr(Tensor([1, 2.5])) == "Tensor([1. , 2.5], dtype=float32)"
    assert repr(leaf([1, 2.5])) == "Tensor([1. , 2.5], dtype=float32, requires_grad=True)"


def test_single_numbers() -> None:
    x = Tensor([[2.5]])
    assert (x.item(), float(x), bool(x), bool(x * 0)) == (2.5, 2.5, True, False)
    with pytest.raises(ValueError, match=r"one number, not shape \(2,\)"):
        Tensor([1, 2]).item()
    for use in (len, list):
        with pytest.raises(TypeError, match="0-d Tensor"):
            use(Tensor(1))


def test_data_can_be_replaced_by_its_like() -> None:
    x = Tensor([1, 2])
    x.data = np.array([3, 4], np.float32)
    np.testing.assert_array_equal(x.data, [3, 4])
    for wrong in (np.ones(3, np.float32), np.ones(2)):
        with pytest.raises(ValueError, match=r"cannot take the place of shape \(2,\) and dtype float32"):
            x.data = wrong


def test_copies_are_leaves() -> None:
    x = leaf([1, 2])
    y = x * 2
    for same in (copy.deepcopy(y), pickle.loads(pickle.dumps(y))):
        same.sum().backward()
        np.testing.assert_array_equal(same.data, y.data)
        np.testing.assert_array_equal(same.grad, [1, 1])
    assert x.grad is None


def test_detach_shares_the_numbers_only() -> None:
    x = leaf([1, 2])
    y = (x * 2).detach()
    assert not y.requires_grad
    assert x.detach().data is x.data
    (x * y).sum().backward()
    np.testing.assert_array_equal(x.grad, y.data)


# gradients


def test_gradients_of_a_shared_input_add_up() -> None:
    """A diamond: x -> (a, b) -> y, with x used by y once more."""
    x = leaf([1, 2, 3])
    a, b = x * 2, x * x
    (a * b + x).sum().backward()  # 2 x^3 + x
    np.testing.assert_array_equal(x.grad, 6 * x.data**2 + 1)


@given(data=st.data())
@draws(50)
def test_gradients_of_any_graph(data: st.DataObject) -> None:
    """A random graph of sums, differences and products of whole numbers against forward-mode derivatives, exactly."""
    tensors, slopes = [leaf([float(i + 1)]) for i in range(3)], [np.eye(3)[i] for i in range(3)]
    for _ in range(data.draw(st.integers(1, 8))):
        i, j = (data.draw(st.integers(0, len(tensors) - 1)) for _ in range(2))
        op = data.draw(st.sampled_from("+-*")) if abs(tensors[i].item()) < 1e3 > abs(tensors[j].item()) else "-"
        x, y = tensors[i], tensors[j]
        tensors.append(x + y if op == "+" else x - y if op == "-" else x * y)
        by_product = slopes[i] * y.item() + slopes[j] * x.item()
        slopes.append(by_product if op == "*" else slopes[i] + slopes[j] * (1 if op == "+" else -1))
    tensors[-1].backward()
    for x, slope in zip(tensors[:3], slopes[-1], strict=True):
        assert (0 if x.grad is None else x.grad) == slope


def test_gradients_accumulate_over_calls() -> None:
    x = leaf([1, 2])
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])
    np.testing.assert_array_equal(first, [2, 2])
    x.zero_grad()
    assert x.grad is None


def test_only_leaves_keep_a_gradient() -> None:
    x = leaf([1, 2])
    y = x * 2
    z = y.sum()
    z.backward()
    assert y.grad is None
    assert z.grad is None
    assert x.grad is not None


def test_backward_from_a_leaf() -> None:
    x, g = leaf([1, 2]), np.array([3, 4], np.float32)
    x.backward(g)
    np.testing.assert_array_equal(x.grad, g)
    assert x.grad is not g


def test_every_leaf_owns_its_gradient() -> None:
    """No two gradients share memory, with each other or with what the caller passed in."""
    x, y, z = leaf(np.ones((2, 3))), leaf(np.ones((2, 3))), leaf(np.ones((3, 2)))
    g = np.ones((2, 3))
    (x + y + z.T).backward(g)
    gradients = [x.grad, y.grad, z.grad, g]
    for i, one in enumerate(gradients):
        assert one is not None
        assert one.flags.c_contiguous
        assert one.flags.writeable
        assert not any(np.shares_memory(one, other) for other in gradients[:i] if other is not None)


def test_a_gradient_has_dtype_and_shape_of_its_tensor() -> None:
    x, scalar = leaf(np.ones((2, 1), np.float32)), leaf(np.float32(3))
    (x * scalar * np.ones((2, 4))).sum().backward()
    for tensor in (x, scalar):
        assert isinstance(tensor.grad, np.ndarray)
        assert (tensor.grad.shape, tensor.grad.dtype) == (tensor.shape, tensor.dtype)


def test_backward_of_several_numbers_needs_a_gradient() -> None:
    x = leaf([[1, 2]])
    with pytest.raises(ValueError, match=r"from shape \(1, 2\) needs a gradient of that shape"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"from shape \(1, 2\) got a gradient of shape \(2,\)"):
        (x * 2).backward([1, 1])
    (x * 2).backward([[1, 10]])
    np.testing.assert_array_equal(x.grad, [[2, 20]])


def test_backward_without_a_graph() -> None:
    with pytest.raises(RuntimeError, match="requires no gradient"):
        (Tensor(1) * 2).backward()


def test_a_graph_is_walked_once() -> None:
    x = leaf([1, 2])
    trunk = x * 2
    loss, other = trunk.sum(), (trunk * trunk).sum()
    loss.backward()
    for again in (loss, other):
        with pytest.raises(RuntimeError, match="already walked this graph"):
            again.backward()
    np.testing.assert_array_equal(x.grad, [2, 2])


def test_memory_is_freed_during_the_walk() -> None:
    """While the gradient of an early op is computed, what the later ops had saved is gone."""
    alive = []

    class Spy(le.ops.Op):
        def forward(self, be: Any, x: Array) -> Array:
            return x.copy()

        def backward(self, be: Any, g: Array) -> tuple[Array, ...]:
            alive.append([reference() is not None for reference in late])
            return (g,)

    x = leaf(np.ones(3))
    y = le.ops.apply(Spy(), x)
    late = []
    for _ in range(3):
        y = y.exp()
        late.append(weakref.ref(y))
    loss = y.sum()
    del y
    assert all(reference() is not None for reference in late)
    loss.backward()
    assert alive == [[False] * 3]


LONG = 100_000


def test_a_long_chain() -> None:
    x = y = leaf(1.0)
    for _ in range(LONG):
        y = y + 1
    y.backward()
    assert x.grad == 1


def test_a_long_chain_is_dropped_without_backward() -> None:
    x = y = leaf(1.0)
    for _ in range(LONG):
        y = y + x
    middle = weakref.ref(y)
    del y
    gc.collect()
    assert middle() is None


# no_grad


def test_no_grad_records_nothing() -> None:
    x = leaf([1, 2])
    with no_grad():
        assert not is_grad_enabled()
        y = x * 2
        with no_grad():
            pass
        assert not is_grad_enabled()
    assert is_grad_enabled()
    assert not y.requires_grad


def test_no_grad_decorates_functions() -> None:
    @no_grad()
    def double(x: Tensor, depth: int) -> Tensor:
        return double(x, depth - 1) if depth else x * 2

    x = leaf([1, 2])
    assert not double(x, 3).requires_grad
    assert (x * 2).requires_grad


def test_no_grad_ends_with_an_error() -> None:
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert is_grad_enabled()


def test_no_grad_is_of_one_thread() -> None:
    seen = []
    with no_grad():
        thread = threading.Thread(target=lambda: seen.append(is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_what_needs_no_gradient_is_not_kept() -> None:
    """An input without requires_grad is not held by the graph, nor is anything held under no_grad."""

    class Held(Tensor):
        pass

    x, constant = leaf([1, 2]), Held([3, 4])
    reference = weakref.ref(constant)
    y = x + constant
    del constant
    assert reference() is None
    assert y.requires_grad


def test_only_grad_asks_for_the_gradients_of_its_leaves_alone() -> None:
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    w.grad = np.array([7, 7], np.float32)
    before = w * 1  # made outside: a constant in the block, and still whole after it
    with only_grad(x):
        y = (x * w + before * x).sum()
        assert not (w * 2).requires_grad
        assert is_grad_enabled()
        with no_grad():
            assert not (x * w).requires_grad
        y.backward()
    np.testing.assert_array_equal(x.grad, [6, 8])
    np.testing.assert_array_equal(w.grad, [7, 7])
    before.sum().backward()
    np.testing.assert_array_equal(w.grad, [8, 8])
    assert (w * 2).requires_grad


def test_only_grad_ends_with_an_error_and_is_of_one_thread() -> None:
    w, seen = leaf([1.0]), []
    with pytest.raises(KeyError), only_grad(leaf([2.0])):
        raise KeyError
    with only_grad(leaf([2.0])):
        thread = threading.Thread(target=lambda: seen.append((w * 2).requires_grad))
        thread.start()
        thread.join()
        assert not (w * 2).requires_grad
    assert seen == [True]
    assert (w * 2).requires_grad


@pytest.mark.parametrize(
    "cut",
    [
        np.asarray,
        np.linalg.norm,
        lambda x: np.dot(x, x),
        lambda x: np.where(True, x, 0),
        lambda x: np.concatenate([x, x]),
        lambda x: Tensor([x[0]]),
        lambda x: Tensor([x[0], 1.0]),
        lambda x: float(x.sum()),
        lambda x: np.float32(x.sum()),
        lambda x: math.sqrt(x.sum()),
    ],
)
def test_nothing_cuts_the_graph_without_a_word(cut: Callable[[Tensor], object]) -> None:
    x = leaf([3.0, 4.0])
    with pytest.raises(TypeError, match=r"requires a gradient and .*: use the functions of linfengine, or call"):
        cut(x)
    cut(x.detach())
    with no_grad():
        cut(x)
    assert (x.numpy() == [3, 4]).all()
    assert x.sum().item() == 7


@pytest.mark.parametrize("grad", [np.zeros(1, np.float32), np.zeros(2), [0.0, 0.0], np.zeros((2, 1), np.float32), 1.0])
def test_a_gradient_has_the_shape_and_dtype_of_its_tensor(grad: object) -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(ValueError, match=r"grad: expected None or an array of shape \(2,\) and dtype float32 on cpu"):
        x.grad = grad  # type: ignore[assignment]
    x.grad = np.ones(2, np.float32)
    x.grad = None


def test_only_grad_takes_leaves_that_ask_for_a_gradient() -> None:
    x = leaf([1.0])
    for wrong in (x * 2, Tensor([1.0])):
        with pytest.raises(ValueError, match="takes leaves that require a gradient"), only_grad(wrong):
            pass


def test_two_blocks_of_one_leaf_are_one() -> None:
    x = leaf([2.0])
    with only_grad(x):
        y = x * x
    with only_grad(x):
        (y + x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5])
