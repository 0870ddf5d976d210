"""The GPU backend: CuPy arrays, and the CUDA kernels of `cuda/`, float32 and float64.

At p = infinity the forward and the bounds have the bits of every other backend. At finite p, and in gradients, equal
calls on equal devices give equal bits: no sum depends on the order in which threads happen to run.

Work is queued on the current stream, and the host does not wait for it, with one exception: inputs must be known to be
finite before a distance is returned. A small kernel looks at them first, and the host waits for that one, and so for
what was queued before it, while the distance is being computed. Importing this module raises ImportError, with the
reason, where there is no CuPy or no device.
"""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Array, Backend, Gradients, Needs, check_step, cuda
from .cuda import LANES, RUN, THREADS
from .kernels import KERNELS, forwards
from .orders import GPU_POWERS, GPU_SPARSE, clipped, negligible

try:
    import cupy

    from .cuda import device
    from .cuda.device import describe_fault, description
    from .cuda.launch import ceil, launch, type_of
    from .cuda.look import Look
except ImportError as error:
    raise ImportError(
        f"CuPy cannot be imported ({error}): pip install 'linfengine[cuda12]' or, for a driver of CUDA 13, "
        "'linfengine[cuda13]'"
    ) from None

device.check_device()

__all__ = ["describe_fault", "description", "launch"]

name = "gpu"
xp = cupy

MOST_PARTS = 2**28  # bytes of the parts of a gradient


def _run(name: str, arrays: tuple[Array, ...], groups: int) -> None:
    """A forward of the list: its arrays become fields of Forward by their shapes."""
    arguments = KERNELS[name].arguments
    look = Look(*(array for array, argument in zip(arrays, arguments, strict=True) if not argument.output))
    fields: dict[tuple[str, ...], list[str]] = {
        ("n", "gk"): ["x", "x_upper"],
        ("o", "k"): ["w"],
        ("n", "o"): ["y", "y_upper"],
    }
    named = {
        "winner" if argument.type == "i" else fields[argument.shape].pop(0): array
        for array, argument in zip(arrays, arguments, strict=True)
    }
    _forward(name, groups, **named)
    look.refuse_non_finite()


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(forwards(Backend, _run, xp.empty))


def dead_zone(x: Array, above: Array, below: Array, groups: int = 1) -> Array:
    # max(x - above, below - x, 0) is the lower bound of |z - x| for below <= z <= above
    x, above, below = (a.astype(np.float32) for a in (x, above, below))
    bounds = globals()["linf_dist_bounds"]
    parts = [
        bounds(*(xp.ascontiguousarray(a) for a in (low, high, rows)))[0].T
        for low, high, rows in zip(
            xp.split(below, groups), xp.split(above, groups), xp.split(x, groups, axis=1), strict=True
        )
    ]
    return xp.concatenate(parts, axis=1).astype(np.uint8)


def linf_dist_backward(g: Array, winner: Array, k: int, groups: int = 1, needs: Needs = (True, True)) -> Gradients:
    n, outputs = g.shape
    o = outputs // groups
    return (
        _scattered(g, winner, (n, groups * k), k, step=o, stride=1, count=o, sign=1) if needs[0] else None,
        _scattered(g, winner, (outputs, k), k, step=1, stride=outputs, count=n, sign=-1) if needs[1] else None,
    )


def _scattered(
    g: Array, winner: Array, shape: tuple[int, int], k: int, *, step: int, stride: int, count: int, sign: int
) -> Array | None:
    rows, size = shape[0] * shape[1] // k, shape[0] * shape[1] * g.itemsize
    # a few rows of many entries, as a convolution has them, are shared out
    shares = min(ceil(8 * device.multiprocessors(), rows), ceil(count, 512), max(1, MOST_PARTS // size))
    parts = _empty_parts(shares, shape, g.dtype)
    launch(
        cuda.step("scatter", type_of(g)), rows * shares,
        g=g, winner=winner, out=parts, step=step, stride=stride, count=count, rows=rows, share=ceil(count, shares),
        k=k, sign=sign,
    )  # fmt: skip
    return _joined(parts, shares)


def lp_dist(x: Array, w: Array, p: float, groups: int = 1) -> Array:
    look = Look(x, w)
    y = _lp_forward(x, w, p, groups)
    look.refuse_non_finite()
    if shift := look.shift:
        return _scaled(_lp_forward(_scaled(x, shift), _scaled(w, shift), p, groups), -shift)
    return y


def lp_dist_backward(
    g: Array, x: Array, w: Array, y: Array, p: float, groups: int = 1, needs: Needs = (True, True)
) -> Gradients:
    look = Look(y)
    gradients = _lp_backward(g, x, w, y, p, groups, needs)
    if not look.in_range and (shift := Look(x, w).shift):
        # the gradient does not change when x and w are scaled together
        x, w, y = _scaled(x, shift), _scaled(w, shift), _scaled(y, shift)
        return _lp_backward(g, x, w, y, p, groups, needs)
    return gradients


def matmul(x: Array, y: Array) -> Array:
    z = xp.empty((len(x), y.shape[1]), x.dtype)
    _forward("matmul", 1, x=xp.ascontiguousarray(x), w=xp.ascontiguousarray(y.T), y=z)
    return z


def add_at(total: Any, key: Any, parts: Any) -> None:
    # CuPy adds by atomic operations, in no fixed order; the host takes its time
    host, key = total.get(), key if isinstance(key, tuple) else (key,)
    np.add.at(host, tuple(part.get() if isinstance(part, cupy.ndarray) else part for part in key), parts.get())
    total.set(host)


def channel_sums(x: Array) -> Array:
    return x.sum(axis=(0, 2), dtype=np.float64)


def adam_step(
    param: Array, grad: Array, m: Array, v: Array, lr: float, beta1: float, beta2: float, eps: float, step: int
) -> None:
    check_step(param, grad, m, v)
    if param.size:
        launch(
            cuda.step("adam_step", type_of(param)), ceil(param.size, THREADS),
            param=param, grad=xp.ascontiguousarray(grad), m=m, v=v, count=param.size, rate=lr / (1 - beta1**step),
            beta1=beta1, beta2=beta2, root_correction=1 / math.sqrt(1 - beta2**step), eps=eps,
        )  # fmt: skip


def lp_decay(w: Array, p: float, amount: float) -> None:
    rows, k = w.shape
    relative = negligible(k, p - 2, w.dtype) if math.isfinite(p) else 0
    launch(cuda.step("lp_decay", type_of(w)), rows, w=w, k=k, p=clipped(p), amount=amount, relative=relative)


def _scaled(a: Array, shift: int) -> Array:
    """a 2^shift."""
    out = xp.empty_like(a)
    launch(cuda.step("scale", type_of(a)), ceil(a.size, THREADS), a=a, out=out, count=a.size, shift=shift)
    return out


def _lp_forward(x: Array, w: Array, p: float, groups: int) -> Array:
    name = f"lp_power<{int(p)}>" if p in GPU_POWERS else "lp_general" if p < GPU_SPARSE else "lp_sparse"
    y = xp.empty((len(x), len(w)), x.dtype)
    _forward(name, groups, x=x, w=w, y=y, p=clipped(p), relative=negligible(w.shape[1], p, w.dtype))
    return y


def _lp_backward(g: Array, x: Array, w: Array, y: Array, p: float, groups: int, needs: Needs) -> Gradients:
    n, (outputs, k) = len(x), w.shape
    o = outputs // groups
    slope = f"LpPowerSlope<{int(p)}>" if p in GPU_POWERS else "LpGeneralSlope" if p < GPU_SPARSE else "LpSparseSlope"
    m = None
    if slope == "LpGeneralSlope":
        m = xp.empty_like(y)
        _forward("linf_dist", groups, x=x, w=w, y=m)
    # The largest entry may be as small as g / k, where all terms are equal.
    relative = negligible(max(n, outputs) * k, p - 1, w.dtype)
    chunks, runs, columns = ceil(o, 256 // w.itemsize), ceil(n, RUN), ceil(k, LANES) * groups
    sizes = x.nbytes if needs[0] else 0, w.nbytes if needs[1] else 0
    splits, shares = _parts(columns, chunks, runs, *sizes, device.multiprocessors())
    parts_x = _empty_parts(splits, x.shape, x.dtype) if needs[0] else None
    parts_w = _empty_parts(shares, w.shape, w.dtype) if needs[1] else None
    launch(
        cuda.lp_backward(slope, type_of(w)), columns * splits * shares,
        x=x, w=w, y=y, m=m, g=g, grad_x=parts_x, grad_w=parts_w, n=n, o=o, k=k, groups=groups, splits=splits,
        chunks=ceil(chunks, splits), shares=shares, rows=ceil(runs, shares) * RUN,
        exponent=clipped(p) - 1, relative=relative,
    )  # fmt: skip
    return _joined(parts_x, splits), _joined(parts_w, shares)


@cache
def _parts(columns: int, chunks: int, runs: int, size_x: int, size_w: int, processors: int) -> tuple[int, int]:
    """(splits, shares) into which chunks of outputs and runs of samples are cut so that no multiprocessor waits long.

    The last wave of blocks should be nearly full; of equals, the fewest parts.
    """

    def time(cut: tuple[int, int]) -> tuple[int, int]:
        splits, shares = cut
        waves = ceil(columns * splits * shares, processors)
        return waves * ceil(chunks, splits) * ceil(runs, shares), splits * size_x + shares * size_w

    most_splits = min(chunks, max(1, MOST_PARTS // max(size_x, 1)))
    most_shares = min(runs, max(1, MOST_PARTS // max(size_w, 1)))
    doublings = [1 << i for i in range(most_shares.bit_length())]
    return min(((splits, shares) for splits in range(1, most_splits + 1) for shares in doublings), key=time)


def _empty_parts(parts: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Room for so many parts of a gradient; one part is the gradient itself."""
    return xp.empty(shape if parts == 1 else (parts, *shape), dtype)


def _joined(gradient: Array | None, parts: int) -> Array | None:
    """The sum of the parts, in their order."""
    if gradient is None or parts == 1:
        return gradient
    whole = xp.empty_like(gradient[0])
    add = cuda.step("add_parts", type_of(whole))
    launch(add, ceil(whole.size, THREADS), parts=gradient, out=whole, count=whole.size, splits=parts)
    return whole


def _forward(name: str, groups: int, *, x: Array, w: Array, **fields: Any) -> None:
    """Launch a forward on the tile that should take the least time; `fields` are further ones of Forward."""
    n, (outputs, k) = len(x), w.shape
    o = outputs // groups

    def blocks(tile: tuple[int, int]) -> int:
        rows, columns = tile
        return ceil(n, 16 * rows) * ceil(o, 16 * columns) * groups

    def time(tile: tuple[int, int]) -> float:
        rows, columns = tile  # instructions of a thread for one coordinate are as 1 : 4.8 : 8.8 by the listing
        return ceil(blocks(tile), device.multiprocessors()) * (rows * columns + 3)

    tile = min(cuda.tiles(name, type_of(x)), key=time)
    launch(cuda.forward(name, type_of(x), tile), blocks(tile), x=x, w=w, n=n, o=o, k=k, groups=groups, **fields)
