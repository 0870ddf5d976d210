"""gradcheck finds wrong gradients, and only these."""

from typing import Any

import numpy as np
import pytest

import linfengine as le
from linfengine import Tensor
from linfengine.gradcheck import gradcheck
from linfengine.ops import Op, apply


class Cube(Op):
    """x^3 with a gradient that may be wrong at one index."""

    def __init__(self, *, wrong: float) -> None:
        self.wrong = wrong

    def forward(self, be: Any, x: Any) -> Any:
        self.x = x
        return x**3

    def backward(self, be: Any, g: Any) -> tuple[Any, ...]:
        slope = 3 * self.x**2
        slope[1, 2] += self.wrong
        return (g * slope,)


X = np.random.default_rng(0).standard_normal((2, 3))


def cube(wrong: float) -> Any:
    return lambda x, y: apply(Cube(wrong=wrong), x) * y


@pytest.mark.parametrize("along", [None, 3])
def test_a_right_gradient_passes(along: int | None) -> None:
    gradcheck(cube(0), X, X + 1, along=along)


def test_a_wrong_gradient_is_found_where_it_is() -> None:
    with pytest.raises(ValueError, match=r"for input 0 at index \(1, 2\) is .* by backward\(\) and .* by central"):
        gradcheck(cube(1e-3), X, X + 1)


@pytest.mark.parametrize("wrong", [1e-3, np.nan, np.inf])
def test_a_wrong_gradient_is_found_along_random_directions(wrong: float) -> None:
    with pytest.raises(ValueError, match="along random direction"):
        gradcheck(cube(wrong), X, X + 1, along=3)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_gradient_that_is_no_number_is_found(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"input 0 at index \(1, 2\) is (nan|inf|-inf)"):
        gradcheck(cube(wrong), X, X + 1)


def test_inputs_are_taken_in_float64_and_left_alone() -> None:
    x = Tensor(X.astype(np.float32))
    gradcheck(le.tanh, x)
    assert x.grad is None
    assert x.dtype == np.float32


def test_an_input_without_influence_has_gradient_zero() -> None:
    gradcheck(lambda x, y: x * 2, X, X)


def test_a_net_with_its_loss(backend: str) -> None:
    rng = np.random.default_rng(0)
    x, w1, w2 = rng.standard_normal((4, 5)), rng.standard_normal((6, 5)), rng.standard_normal((3, 6))

    def loss(x: Tensor, w1: Tensor, w2: Tensor) -> Any:
        hidden = le.lp_dist(x, w1, p=8)
        z = -le.lp_dist(hidden - hidden.mean(axis=0), w2, p=8)
        return -le.log_softmax(z)[np.arange(4), np.array([0, 2, 1, 2])].mean()

    gradcheck(loss, x, w1, w2)
    gradcheck(loss, x, w1, w2, along=2)
