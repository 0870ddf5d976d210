"""The speed limits of the CPU kernels (ceilings.cpp), compiled for this processor when they are first asked for."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np

from linfengine.backends import Array, cpu

FLAGS = ["-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-ffp-contract=fast"]


@cache
def _library() -> ctypes.CDLL:
    source = Path(__file__).with_name("ceilings.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "ceilings.so")
        compiler = shlex.split(os.environ.get("CXX") or "c++")
        subprocess.run([*compiler, *FLAGS, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))


def _function(name: str) -> ctypes._NamedFuncPointer:
    function = getattr(_library(), name)
    function.restype = ctypes.c_int64
    return function


def registers_only(metric: str, rounds: int) -> int:
    """Run the step of a metric on registers alone, on all threads. Returns the number of terms."""
    function = _function(metric)
    with ThreadPoolExecutor(cpu.threads()) as pool:
        return sum(pool.map(function, [ctypes.c_int64(rounds)] * cpu.threads()))


def read_once(a: Array) -> None:
    """Read a C-contiguous float32 array, its parts on all threads."""
    function, size = _function("read_once"), a.size // cpu.threads()
    parts = [np.ravel(a)[i * size : (i + 1) * size] for i in range(cpu.threads())]
    with ThreadPoolExecutor(cpu.threads()) as pool:
        list(pool.map(lambda part: function(ctypes.c_void_p(part.ctypes.data), ctypes.c_int64(part.size)), parts))
