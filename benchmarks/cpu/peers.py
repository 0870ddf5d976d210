"""The same distances in every other library that is installed.

All compute in float32 but SciPy, which computes in float64. They get at most ROWS samples, since most are slow; rates
are per term, so they compare. They have as many threads as the engine, except JAX, which takes every core. Backward is
autograd. At p = 300 the plain formulas overflow or underflow: their rates are those of a wrong result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.cpu.kernels import ORDERS, problem
from benchmarks.cpu.timing import Case
from linfengine.backends import Array, cpu

ROWS = 128


def cases(n: int, o: int, k: int) -> Iterator[Case]:
    x, w, g = problem(min(n, ROWS), o, k)
    terms = len(x) * o * k
    for who, (module, make) in PEERS.items():
        if find_spec(module) is None:
            continue
        for p in (np.inf, *ORDERS):
            name = "∞" if np.isinf(p) else f"{p:g}"
            for passes, call in make(x, w, g, p).items():
                yield Case(f"p = {name} {passes}", who, terms, call)


Calls = dict[str, Callable[[], Any]]


def torch_cdist(x: Array, w: Array, g: Array, p: float) -> Calls:
    import torch

    torch.set_num_threads(cpu.threads())
    xt, wt, gt = map(torch.from_numpy, (x, w, g))
    xr, wr = xt.clone().requires_grad_(), wt.clone().requires_grad_()

    def forward_backward() -> None:
        xr.grad = wr.grad = None
        torch.cdist(xr, wr, p=p).backward(gt)

    return {"forward": partial(torch.cdist, xt, wt, p=p), "forward + backward": forward_backward}


def torch_compile(x: Array, w: Array, g: Array, p: float) -> Calls:
    import torch

    torch.set_num_threads(cpu.threads())

    exponent = int(p) if p < np.inf and p == int(p) else p  # a whole exponent becomes multiplications

    def largest(x: Any, w: Any) -> Any:
        return (x[:, None] - w).abs().amax(-1)

    def norm(x: Any, w: Any) -> Any:
        return ((x[:, None] - w).abs() ** exponent).sum(-1) ** (1 / exponent)

    compiled = torch.compile(largest if np.isinf(p) else norm, dynamic=False)
    return {"forward": partial(compiled, torch.from_numpy(x), torch.from_numpy(w))}


def jax_jit(x: Array, w: Array, g: Array, p: float) -> Calls:
    import jax
    import jax.numpy as jnp

    exponent = int(p) if p < np.inf and p == int(p) else p

    def distance(x: Any, w: Any) -> Any:
        d = jnp.abs(x[:, None] - w)
        return d.max(-1) if np.isinf(p) else (d**exponent).sum(-1) ** (1 / exponent)

    def gradients(x: Any, w: Any, g: Any) -> Any:
        y, pull = jax.vjp(distance, x, w)
        return y, pull(g)

    forward, both = jax.jit(distance), jax.jit(gradients)
    arrays = [jnp.asarray(a) for a in (x, w, g)]
    return {
        "forward": lambda: forward(*arrays[:2]).block_until_ready(),
        "forward + backward": lambda: jax.block_until_ready(both(*arrays)),
    }


def numba_loops(x: Array, w: Array, g: Array, p: float) -> Calls:
    import numba

    numba.set_num_threads(cpu.threads())
    largest = bool(np.isinf(p))

    @numba.njit(parallel=True, fastmath=True)
    def distance(x: Any, w: Any) -> Any:
        y = np.empty((len(x), len(w)), np.float32)
        for i in numba.prange(len(x)):
            for j in range(len(w)):
                total = np.float32(0)
                for k in range(x.shape[1]):
                    d = abs(x[i, k] - w[j, k])
                    if largest:
                        total = max(total, d)
                    else:
                        total += d ** np.float32(p)
                y[i, j] = total if largest else total ** np.float32(1 / p)
        return y

    return {"forward": partial(distance, x, w)}


def scipy_cdist(x: Array, w: Array, g: Array, p: float) -> Calls:
    from scipy.spatial.distance import cdist

    x64, w64 = x.astype(np.float64), w.astype(np.float64)
    if np.isinf(p):
        return {"forward": partial(cdist, x64, w64, "chebyshev")}
    return {"forward": partial(cdist, x64, w64, "minkowski", p=p)}


def sklearn_metric(x: Array, w: Array, g: Array, p: float) -> Calls:
    from sklearn.metrics import DistanceMetric

    settings = {"metric": "chebyshev"} if np.isinf(p) else {"metric": "minkowski", "p": p}
    return {"forward": partial(DistanceMetric.get_metric(dtype=np.float32, **settings).pairwise, x, w)}


def faiss_pairwise(x: Array, w: Array, g: Array, p: float) -> Calls:
    import faiss

    faiss.omp_set_num_threads(cpu.threads())
    if np.isinf(p):
        return {"forward": partial(faiss.pairwise_distances, x, w, faiss.METRIC_Linf)}
    return {"forward": partial(faiss.pairwise_distances, x, w, faiss.METRIC_Lp, p)}


PEERS: dict[str, tuple[str, Callable[[Array, Array, Array, float], Calls]]] = {
    "torch.cdist": ("torch", torch_cdist),
    "torch.compile": ("torch", torch_compile),
    "jax.jit": ("jax", jax_jit),
    "numba": ("numba", numba_loops),
    "scipy": ("scipy", scipy_cdist),
    "scikit-learn": ("sklearn", sklearn_metric),
    "faiss": ("faiss", faiss_pairwise),
}
