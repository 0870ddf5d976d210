"""Gradients against central differences: the check every op, layer and loss of one's own should pass."""

from collections.abc import Callable
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
    """Compare the gradient of F(x) = sum(u * function(x)), u random, with (F(x + h e) - F(x - h e))/(2 h).

    The inputs (Tensors or arrays) are copied to float64 and `function` is called with Tensors of these, so its own
    constants must be float64 as well. They should keep a gap of more than `step` from ties and kinks, where central
    differences are no derivative.

    By default e runs through every entry of every input: two calls of `function` for each. With `along`, e is that many
    random directions through all inputs at once, for functions of many entries: <grad F, e> is then a dot product with
    the gradient that backward() gives.

    Raises ValueError with the worst place if |backward - difference| exceeds atol + rtol * |difference| anywhere.
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
        """The slope of F along a direction; the outputs are subtracted before u sums them up, which loses less."""
        with no_grad():
            ahead, behind = (
                function(*there([x + h * e for x, e in zip(points, directions, strict=True)])).numpy()
                for h in (step, -step)
            )
        return float((u * (ahead - behind)).sum()) / (2 * step)

    checks: list[tuple[str, float, float]] = []  # where, by backward, by difference
    if along is not None:
        for i in range(along):
            directions = [rng.standard_normal(point.shape) for point in points]
            slope = sum(float((g * e).sum()) for g, e in zip(gradients, directions, strict=True))
            checks.append((f"along random direction {i}", slope, difference(directions)))
    else:
        for i, point in enumerate(points):
            for index in np.ndindex(point.shape):
                directions = [np.zeros(other.shape) for other in points]
                directions[i][index] = 1
                checks.append((f"for input {i} at index {index}", float(gradients[i][index]), difference(directions)))

    slopes, differences = (np.array([check[i] for check in checks]) for i in (1, 2))
    excess = np.abs(slopes - differences) - (atol + rtol * np.abs(differences))
    worst = int(np.where(np.isnan(excess), np.inf, excess).argmax())
    if not excess[worst] <= 0:
        where, slope, expected = checks[worst]
        raise ValueError(
            f"the gradient {where} is {slope:.9g} by backward() and {expected:.9g} by central differences."
        )
