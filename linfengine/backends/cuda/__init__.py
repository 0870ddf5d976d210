"""The CUDA kernels by name: what each is compiled from, and the layout of its arguments. Needs no CUDA and no CuPy.

A kernel is one instance of a function template in a .cu file, and `Kernel.source` adds the lines that make it callable.
The names come from the list of kernels, `kernels.def`. `ALL` has every instance the GPU backend can ask for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ..kernels import LINES, Line
from ..orders import GPU_POWERS

FOLDER = Path(__file__).parent
SHARED = FOLDER.parent  # holds orders.h

# Outputs of a thread, of which a block has 16 x 16: rows of x, rows of w. The largest first.
TILES = {"float": ((8, 4), (4, 4), (1, 1)), "double": ((2, 2),)}
THREADS = 256
LANES = 128  # columns, one a thread, in a block of the finite-p backward,
RUN = 16  # which has so many samples in registers
WARP = 32  # threads in a block of the p = infinity backward: each looks at all entries, so that few are best

FIELDS = {  # the structures of kernels.cuh; T is the numbers' own type, T* a pointer to such, i4* one to int32
    "Forward": "x:T* x_upper:T* w:T* y:T* y_upper:T* winner:i4* n:i4 o:i4 k:i4 groups:i4 p:T relative:T",
    "Backward": "x:T* w:T* y:T* m:T* g:T* grad_x:T* grad_w:T* n:i4 o:i4 k:i4 groups:i4 splits:i4 chunks:i4 shares:i4 "
    "rows:i4 exponent:T relative:T",
    "AddParts": "parts:T* out:T* count:i8 splits:i4",
    "Scatter": "g:T* winner:i4* out:T* step:i8 stride:i8 count:i4 rows:i4 share:i4 k:i4 sign:T",
    "Survey": "a:T* count:i8 exponents:i4*",
    "Scale": "a:T* out:T* count:i8 shift:i4",
    "Adam": "param:T* grad:T* m:T* v:T* count:i8 rate:T beta1:T beta2:T root_correction:T eps:T",
    "LpDecay": "w:T* k:i4 p:T amount:T relative:T",
}


@cache
def fields(structure: str, dtype: str) -> dict[str, tuple[np.dtype[Any], bool]]:
    """The fields of a structure: each with its type, or with that of what it points to, and whether it is a pointer."""
    own = {"float": "f4", "double": "f8"}[dtype]
    described = (field.split(":") for field in FIELDS[structure].split())
    return {name: (np.dtype(kind.rstrip("*").replace("T", own)), kind.endswith("*")) for name, kind in described}


@cache
def layout(structure: str, dtype: str) -> np.dtype[np.void]:
    """The structure as NumPy packs it, with the padding that C++ gives it."""
    kinds = fields(structure, dtype)
    return np.dtype([(name, np.uint64 if pointer else kind) for name, (kind, pointer) in kinds.items()], align=True)


@dataclass(frozen=True)
class Kernel:
    """One instance: the function `body` of `file`, called with a `structure` of `dtype` ("float" or "double").

    `blocks` of `threads` have to find room on a multiprocessor together. With `flush`, denormal results become zero.
    """

    file: str
    body: str
    structure: str
    dtype: str
    threads: int
    blocks: int
    flush: bool = False
    folder: Path = FOLDER

    @property
    def source(self) -> str:
        arguments = f"{self.structure}<{self.dtype}>"
        return (
            f'#include "{self.file}"\n'
            f'static_assert(sizeof({arguments}) == {layout(self.structure, self.dtype).itemsize}, "see FIELDS");\n'
            f'extern "C" __global__ void __launch_bounds__({self.threads}, {self.blocks}) '
            f"entry(const {arguments} a) {{ {self.body}(a); }}\n"
        )

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where its sources lie."""
        return (FOLDER, SHARED) if self.folder == FOLDER else (FOLDER, SHARED, self.folder)

    @property
    def options(self) -> tuple[str, ...]:
        """For NVRTC."""
        return "-std=c++17", *(f"-I{folder}" for folder in self.folders), f"--ftz={str(self.flush).lower()}"

    def digest(self, *further: object) -> str:
        """Names what this kernel is compiled to: of all the sources, the options, and what else it may depend on."""
        options = [option for option in self.options if not option.startswith("-I")]
        parts = [repr((self.source, options, further)).encode()]
        for folder in self.folders:
            parts += [path.read_bytes() for path in sorted((*folder.glob("*.cu*"), *folder.glob("*.h")))]
        return hashlib.sha256(b"".join(parts)).hexdigest()


def _named(*kinds: str) -> dict[str, Line]:
    return {line.name: line for line in LINES if line.kind in kinds}


def _by_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"{name}<{p}>" for name in names for p in GPU_POWERS)


METRICS = _named("FORWARD")
STEPS = {name: (line.code, line.file or "steps.cu") for name, line in _named("STEP", "GPU_ITEM").items()}
FORWARDS = (*METRICS, *_named("METRIC"), *_by_order(_named("METRICS")))
SLOPES = (*(line.code for line in _named("SLOPE").values()), *_by_order(x.code for x in _named("SLOPES").values()))


def forward(name: str, dtype: str, tile: tuple[int, int]) -> Kernel:
    """`name` is one of FORWARDS, with its order in angle brackets if it has one: "lp_power<8>"."""
    base, _, order = name.rstrip(">").partition("<")
    rows, columns = tile
    if base in METRICS:
        body = f"forward<{METRICS[base].code}<{dtype}>, {rows}, {columns}>"
    else:
        body = f"{base}<{order + ', ' if order else ''}{dtype}, {rows}, {columns}>"
    many_registers = dtype == "double" or base == "lp_general" or order in ("1", "2", "4")
    return Kernel("forward.cu", body, "Forward", dtype, THREADS, 1 if many_registers else 2, base not in METRICS)


def tiles(name: str, dtype: str) -> tuple[tuple[int, int], ...]:
    """Those for which a forward's accumulators find room in the registers."""
    return TILES[dtype] if name == "linf_dist" or dtype == "double" else TILES[dtype][1:]


def lp_backward(slope: str, dtype: str) -> Kernel:
    """`slope` is one of SLOPES: "LpPowerSlope<8>", "LpGeneralSlope" or "LpSparseSlope"."""
    base, _, order = slope.rstrip(">").partition("<")
    body = f"lp_dist_backward<{base}<{dtype}{', ' + order if order else ''}>>"
    return Kernel("backward.cu", body, "Backward", dtype, LANES, 3 if dtype == "float" else 1, order != "1")


def step(name: str, dtype: str) -> Kernel:
    """`name` is one of STEPS."""
    structure, file = STEPS[name]
    threads, blocks = (WARP, 1) if name == "scatter" else (THREADS, 2)
    return Kernel(file, f"{name}<{dtype}>", structure, dtype, threads, blocks, name == "adam_step")


def _all() -> Iterator[Kernel]:
    for dtype in ("float", "double"):
        yield from (forward(name, dtype, tile) for name in FORWARDS for tile in tiles(name, dtype))
        yield from (lp_backward(slope, dtype) for slope in SLOPES)
        yield from (step(name, dtype) for name in STEPS)


ALL = tuple(_all())
