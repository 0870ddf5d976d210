"""The constants of finite p, read from `orders.h`, which C++ and CUDA include."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

_DEFINED = dict(re.findall(r"^#define (\w+) (.+)$", Path(__file__).with_name("orders.h").read_text(), re.MULTILINE))


def _integers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _DEFINED[name].split(","))


CPU_POWERS = _integers("CPU_POWERS")  # the orders with a fast power: a short chain of multiplications
GPU_POWERS = _integers("GPU_POWERS")
(GPU_SPARSE,) = _integers("GPU_SPARSE")  # from this p on the GPU skips negligible terms
(SMALLEST_EXPONENT,) = _integers("SMALLEST_EXPONENT")  # distances are accurate from 2^SMALLEST_EXPONENT
(LARGEST_EXPONENT,) = _integers("LARGEST_EXPONENT")  # to 2^LARGEST_EXPONENT
LARGEST_ORDER = float(_DEFINED["LARGEST_ORDER"])

_TINY_AND_BITS = {
    np.dtype(dtype): (float.fromhex(_DEFINED[f"TINY_{name}"]), int(_DEFINED[f"NEGLIGIBLE_BITS_{name}"]))
    for dtype, name in ((np.float32, "FLOAT"), (np.float64, "DOUBLE"))
}


def clipped(p: float) -> float:
    """p as the kernels take it: at most LARGEST_ORDER, or infinity."""
    return p if math.isinf(p) else min(p, LARGEST_ORDER)


def negligible(terms: int, exponent: float, dtype: np.dtype[Any]) -> float:
    """The ratio to the largest below which the powers of `terms` ratios add nothing to their sum (power.hpp)."""
    tiny, bits = _TINY_AND_BITS[dtype]
    if exponent <= 0:
        return tiny
    return max(2.0 ** (-(bits + math.log2(terms / max(exponent, 1))) / exponent), tiny)


def shift_into_range(exponent: int) -> int:
    """The power of two by which x and w are scaled so that distances and their reciprocals stay in range, or 0.

    `exponent` is that of the largest magnitude, as math.frexp counts it. Small inputs are brought near 1, large ones
    only as far down as needed, so that small ones among them survive.
    """
    if SMALLEST_EXPONENT <= exponent <= LARGEST_EXPONENT:
        return 0
    return -exponent if exponent < 0 else LARGEST_EXPONENT - exponent
