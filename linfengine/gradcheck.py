"""Compare gradients with central differences: a test for every op, layer and loss."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .backends import Array, device_of, to_numpy
from .tensor import Tensor, as_array, no_grad


def gradcheck(
    function: Callable[..., Any],
    *inputs: object,
    step: float = 1e-6,
    rtol: float = 1e-5,
    atol: float = 1e-7,
    along: int | None = None,
    seed: int = 0,
) -> None:
    """Compare the gradient of F(x) = sum(u * function(x)), u random, with (F(x + h e) − F(x − h e))/(2 h).

    The inputs (Tensors or arrays) are copied to float64 and `function` is called with Tensors of these, so its own
    constants must be float64 as well. They should keep a distance of more than `step` from ties and kinks, where
    central differences do not approximate a derivative.

    By default e runs through every entry of every input, with two calls of `function` for each. For functions of many
    entries, `along` is a number of random directions e through all inputs at once: <grad F, e> is then a dot product
    with the gradient that backward() gives.

    Raises ValueError naming the worst place if |backward − difference| exceeds atol + rtol * |difference| anywhere.
    """
    rng = np.random.default_rng(seed)
    arrays = [as_array(x) for x in inputs]
    points = [np.array(to_numpy(array), np.float64) for array in arrays]

    def there(values: list[Array], requires_grad: bool = False) -> list[Tensor]:
        """Tensors on the devices where the inputs are."""
        return [
            Tensor(value, requires_grad, device=device_of(array)) for value, array in zip(values, arrays, strict=True)
        ]

    tensors = there([point.copy() for point in points], requires_grad=True)
    output = function(*tensors)
    u = rng.standard_normal(output.shape)
    output.backward(u)
    gradients = [np.zeros(t.shape) if t.grad is None else to_numpy(t.grad) for t in tensors]

    def difference(directions: list[Array]) -> float:
        """The slope of F along a direction. The outputs are subtracted before the sum with u, which rounds less."""
        with no_grad():
            ahead, behind = (
                function(*there([x + h * e for x, e in zip(points, directions, strict=True)])).numpy()
                for h in (step, -step)
            )
        return float((u * (ahead - behind)).sum()) / (2 * step)

    _compare(_directions(points, along, rng), gradients, difference, rtol, atol)


def _directions(points: list[Array], along: int | None, rng: np.random.Generator) -> Iterator[tuple[str, list[Array]]]:
    """Directions through all inputs at once, each with its name: random ones, or every entry alone."""
    if along is not None:
        for i in range(along):
            yield f"along random direction {i}", [rng.standard_normal(point.shape) for point in points]
        return
    for i, point in enumerate(points):
        for index in np.ndindex(point.shape):
            directions = [np.zeros(other.shape) for other in points]
            directions[i][index] = 1
            yield f"for input {i} at index {index}", directions


def _compare(
    directions: Iterator[tuple[str, list[Array]]],
    gradients: list[Array],
    difference: Callable[[list[Array]], float],
    rtol: float,
    atol: float,
) -> None:
    """Raises ValueError with the worst direction if a slope differs from the central difference along it."""
    checks = []  # where, by backward, by difference
    for where, each in directions:
        slope = sum(float((g[e != 0] * e[e != 0]).sum()) for g, e in zip(gradients, each, strict=True))
        checks.append((where, slope, difference(each)))
    slopes, differences = (np.array([check[i] for check in checks]) for i in (1, 2))
    excess = np.abs(slopes - differences) - (atol + rtol * np.abs(differences))
    worst = int(np.where(np.isnan(excess), np.inf, excess).argmax())
    if not excess[worst] <= 0:
        where, slope, expected = checks[worst]
        raise ValueError(
            f"the gradient {where} is {slope:.9g} by backward() and {expected:.9g} by central differences."
        )
