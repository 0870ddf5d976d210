"""lp_dist: the ℓp-distance neuron, a smooth approximation of the ℓ∞ one for training."""

import math

from ..backends import Array, Backend
from ..interval import Interval
from .base import Bounds, Like, Op, Result, apply, op
from .linf_dist import LinfDist, check_groups, prepare, refusing_non_finite

__all__ = ["lp_dist"]


class LpDist(Op):
    """y[..., o] = (sum_k |x[..., k] − w[o, k]|^p)^(1/p); dy/dx_k = sign(d_k)(|d_k|/y)^(p-1) = −dy/dw_k, d = x − w."""

    def __init__(self, *, p: float, groups: int = 1) -> None:
        self.p = float(p)
        if not 1 <= self.p < math.inf:
            raise ValueError(f"lp_dist: p must be at least 1, not {p!r}.")
        self.groups = check_groups("lp_dist", groups)

    def forward(self, be: Backend, x: Array, w: Array) -> Array:
        self.x_shape = x.shape
        rows, weights = prepare(be, "lp_dist", x, w, self.groups)
        with refusing_non_finite("lp_dist", x=x, w=w):
            y = be.lp_dist(rows, weights, self.p, self.groups)
        if any(self.needs):
            self.x, self.w, self.y = rows, weights, y
        return y.reshape(*self.x_shape[:-1], len(w))

    def backward(self, be: Backend, g: Array) -> tuple[Array | None, ...]:
        g = be.xp.ascontiguousarray(g.reshape(-1, len(self.w)))
        needs = self.needs[0], self.needs[1]
        grad_x, grad_w = be.lp_dist_backward(g, self.x, self.w, self.y, self.p, self.groups, needs)
        return None if grad_x is None else grad_x.reshape(self.x_shape), grad_w

    def bounds(self, be: Backend, *operands: Interval | Array) -> Bounds:
        raise ValueError(f"lp_dist has no interval bounds at p = {self.p:g}: a finite p is not 1-Lipschitz in ℓ∞.")


@op
def lp_dist(x: Like, w: Like, *, p: float, groups: int = 1) -> Result:
    """y[..., o] = (sum_k |x[..., k] − w[o, k]|^p)^(1/p)

    Shapes, groups and errors as in `linf_dist`, to which it is equal at p = ∞. At y = 0 the gradient is 0. Evaluated as
    m (sum (|d_k|/m)^p)^(1/p) with m = max |d_k|, so that no power overflows.

    Bounds exist only at p = ∞: at a finite p the neuron is not 1-Lipschitz in the ℓ∞ norm, and an Interval x
    raises ValueError, as does p < 1 or NaN.

    Source: as for `linf_dist`; training raises p from 8 to infinity.
    """
    return apply(LinfDist(groups=groups) if p == math.inf else LpDist(p=p, groups=groups), x, w)
