"""The matrix product, for the linear layers that may follow the distance layers."""

import numpy as np

from ..backends import Array, Backend
from ..interval import Interval
from ..rounding import sum_slack
from .base import Bounds, Like, Op, Result, apply, op, unbroadcast

__all__ = ["matmul"]


class Matmul(Op):
    """x @ y; the gradients are g @ y^T and x^T @ g."""

    def forward(self, be: Backend, x: Array, y: Array) -> Array:
        if x.ndim == 0 or y.ndim == 0 or x.shape[-1] != y.shape[-2 if y.ndim > 1 else 0]:
            raise ValueError(f"matmul: x (..., n, k) and y (..., k, m) must share k, but have {x.shape} and {y.shape}.")
        self.x, self.y = x, y
        return _product(be, x, y)

    def backward(self, be: Backend, g: Array) -> tuple[Array | None, ...]:
        x = self.x[None, :] if self.x.ndim == 1 else self.x  # a vector counts as one row on the left,
        y = self.y[:, None] if self.y.ndim == 1 else self.y  # as one column on the right
        batch = g.shape[: max(x.ndim, y.ndim) - 2]
        g = g.reshape(*batch, x.shape[-2], y.shape[-1])
        grad_x = grad_y = None
        if self.needs[0]:
            grad_x = unbroadcast(_product(be, g, y.swapaxes(-1, -2)), x.shape).reshape(self.x.shape)
        if self.needs[1]:
            grad_y = unbroadcast(_product(be, x.swapaxes(-1, -2), g), y.shape).reshape(self.y.shape)
        return grad_x, grad_y

    def bounds(self, be: Backend, x: Interval | Array, y: Interval | Array) -> Bounds:
        if isinstance(x, Interval) and isinstance(y, Interval):
            raise TypeError("matmul: there are bounds where one of the two is an Interval, not both.")
        middles = [z.centre if isinstance(z, Interval) else z for z in (x, y)]
        # elementwise kernels of a GPU treat denormals as 0, its products do not
        sizes = [be.xp.maximum(be.xp.abs(middle), np.finfo(middle.dtype).smallest_normal) for middle in middles]
        radii = [z.radius if isinstance(z, Interval) else size for z, size in zip((x, y), sizes, strict=True)]
        centre, reach = self.forward(be, *middles), self.forward(be, *radii)
        slack = reach + sum_slack(x.shape[-1], self.forward(be, *sizes) + reach)
        return centre - slack, centre + slack


def _product(be: Backend, x: Array, y: Array) -> Array:
    """x @ y: of matrices by the backend, whose sums do not depend on the number of threads; otherwise by NumPy."""
    if x.ndim == y.ndim == 2 and x.dtype == y.dtype and x.size and y.size:
        return be.matmul(x, y)
    return be.xp.matmul(x, y)


@op
def matmul(x: Like, y: Like) -> Result:
    """sum_k x[..., n, k] y[..., k, m], with vectors and leading axes as in NumPy; also x @ y.

    Bounds, with one of the two an Interval of centre c and radius r: c @ y ∓ r @ |y|, widened by the possible rounding
    of these sums in any order (`sum_slack`). Raises ValueError for shapes that do not fit, TypeError for two Intervals.
    """
    return apply(Matmul(), x, y)
