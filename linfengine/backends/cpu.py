"""The CPU backend: Cython over the C++ kernels in `src_cpp/`, float32 and float64.

The instruction set is the widest this processor runs unless `LINFENGINE_ISA` pins one (`portable`, `avx2`, `avx512`),
the number of threads that of `linfengine.backends.threads` unless `LINFENGINE_NUM_THREADS` pins it. At p = infinity
every choice gives the same bits; at finite p the thread count never changes a bit and the instruction set only the last
few. Threads sleep when there is nothing to do. A forked child begins with one; `use_threads` gives it more.
"""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from . import Array, Backend, Gradients, Needs, _cpu, check_step
from ._cpu import instruction_set, instruction_sets, threads, use_instruction_set, use_threads
from .kernels import KERNELS, forwards
from .orders import shift_into_range
from .threads import default_threads, register_with_threadpoolctl

__all__ = ["instruction_set", "instruction_sets", "threads", "use_instruction_set", "use_threads"]

name = "cpu"
xp = np


def _run(name: str, arguments: tuple[Any, ...], groups: int = 1) -> bool:
    """Run a kernel of the list. Returns whether the results are accurate; ValueError says which arrays it takes."""
    try:
        return _cpu.run(name, arguments, groups)
    except (TypeError, ValueError, BufferError) as error:
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        found = ", ".join(f"{each.dtype} {each.shape}" for each in arrays)
        takes = KERNELS[name].takes
        raise ValueError(f"{name}: expected C-contiguous {takes}; got {found} ({error})") from None


if TYPE_CHECKING:

    def __getattr__(name: str) -> Any: ...


globals().update(forwards(Backend, _run, np.empty))


def linf_dist_backward(g: Array, winner: Array, k: int, groups: int = 1, needs: Needs = (True, True)) -> Gradients:
    shapes = (len(g), groups * k), (g.shape[1], k)
    grad_x, grad_w = (np.empty(shape, g.dtype) if needed else None for shape, needed in zip(shapes, needs, strict=True))
    _run("linf_dist_backward", (g, winner, k, grad_x, grad_w), groups)
    return grad_x, grad_w


def lp_dist(x: Array, w: Array, p: float, groups: int = 1) -> Array:
    y = np.empty((len(x), len(w)), x.dtype)
    if not _run("lp_dist", (x, w, p, y), groups) and (shift := _shift(x, w)):
        _run("lp_dist", (np.ldexp(x, shift), np.ldexp(w, shift), p, y), groups)
        with np.errstate(over="ignore"):  # the exact distance may lie beyond the largest number
            return np.ldexp(y, -shift)
    return y


def lp_dist_backward(
    g: Array, x: Array, w: Array, y: Array, p: float, groups: int = 1, needs: Needs = (True, True)
) -> Gradients:
    grad_x, grad_w = (np.empty_like(a) if needed else None for a, needed in zip((x, w), needs, strict=True))
    if not _run("lp_dist_backward", (g, x, w, y, p, grad_x, grad_w), groups) and (shift := _shift(x, w)):
        # the gradient does not change when x and w are scaled together
        x, w, y = np.ldexp(x, shift), np.ldexp(w, shift), np.ldexp(y, shift)
        _run("lp_dist_backward", (g, x, w, y, p, grad_x, grad_w), groups)
    return grad_x, grad_w


def matmul(x: Array, y: Array) -> Array:
    z = np.empty((len(x), y.shape[1]), x.dtype)
    _run("matmul", (np.ascontiguousarray(x), np.ascontiguousarray(y.T), z))
    return z


def add_at(total: Array, key: Any, parts: Array) -> None:
    np.add.at(total, key, parts)


def channel_sums(x: Array) -> Array:
    sums = np.empty(x.shape[1])
    _run("channel_sums", (x, sums))
    return sums


def adam_step(
    param: Array, grad: Array, m: Array, v: Array, lr: float, beta1: float, beta2: float, eps: float, step: int
) -> None:
    check_step(param, grad, m, v)
    flat = (array.reshape(-1) for array in (param, grad, m, v))
    _run("adam_step", (*flat, lr, beta1, beta2, eps, step))


def lp_decay(w: Array, p: float, amount: float) -> None:
    _run("lp_decay", (w, p, amount))


def _shift(x: Array, w: Array) -> int:
    """The power of two by which to scale x and w where a distance or its reciprocal might leave the range, else 0.

    ‖s·x − s·w‖_p = s·‖x − w‖_p, and scaling by a power of two rounds only what becomes a denormal.
    """
    largest = max(abs(float(end)) for array in (x, w) for end in (array.min(), array.max()))
    return shift_into_range(math.frexp(largest)[1]) if largest else 0


if isa := os.environ.get("LINFENGINE_ISA"):
    try:
        use_instruction_set(isa)
    except ValueError as error:
        raise ValueError(f"LINFENGINE_ISA: {error}") from None
use_threads(default_threads())
register_with_threadpoolctl(_cpu.__file__)
