"""From a kernel's name to a launch: arguments are checked and packed, compiled kernels are kept."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import cupy
import numpy as np
from cupy.cuda import nvrtc

from . import Kernel, fields, layout
from .compiler import compile_kernel


def launch(kernel: Kernel, blocks: int, **arguments: Any) -> None:
    """Queue a kernel; arrays among the arguments become pointers, None and what is left out become null or 0.

    Raises TypeError for an argument that is not what its field holds: a C-contiguous array of the field's dtype on the
    current GPU, or a number.
    """
    device = cupy.cuda.Device().id
    kinds = fields(kernel.structure, kernel.dtype)
    packed = np.zeros((), layout(kernel.structure, kernel.dtype))
    for field, value in arguments.items():
        if value is not None:
            dtype, pointer = kinds[field]
            if fault := _misfit(value, dtype, device) if pointer else _no_number(value):
                raise TypeError(f"{kernel.body}: {field} must be {fault}.")
            packed[field] = value.data.ptr if pointer else value
    _loaded(kernel, device)((blocks,), (kernel.threads,), (packed,))


def _misfit(value: Any, dtype: np.dtype[Any], device: int) -> str | None:
    """What a value must be to be pointed to, and is not."""
    if not isinstance(value, cupy.ndarray):
        return f"an array on the GPU, not {type(value).__name__}"
    if value.device.id != device:
        return f"on GPU {device}, the current one, not on GPU {value.device.id}: use one GPU"
    if value.dtype != dtype:
        return f"{dtype}, not {value.dtype}"
    return None if value.flags.c_contiguous else "C-contiguous"


def _no_number(value: Any) -> str | None:
    return None if isinstance(value, int | float | np.generic) else f"a number, not {type(value).__name__}"


@cache
def _loaded(kernel: Kernel, device: int) -> Any:
    """A kernel on a device; what is once compiled is kept in a file for later."""
    capability = int(cupy.cuda.Device(device).compute_capability)
    path = _folder() / f"{kernel.digest(capability, nvrtc.getVersion(), cupy.__version__)}.cubin"
    if path.exists():
        try:
            return cupy.RawModule(path=str(path)).get_function("entry")
        except (OSError, cupy.cuda.driver.CUDADriverError):
            pass  # cut off or unreadable: made anew
    binary, _ = compile_kernel(kernel, capability)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(binary)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
    return cupy.RawModule(path=str(path)).get_function("entry")


@cache
def _folder() -> Path:
    """Of compiled kernels: LINFENGINE_KERNELS, else in the user's cache, or in a new folder where that is read-only."""
    import pooch  # type: ignore[import-untyped]  # late, for it loads an HTTP stack

    folder = Path(os.environ.get("LINFENGINE_KERNELS") or Path(pooch.os_cache("linfengine")) / "kernels")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="linfengine-"))
    return folder


def type_of(array: Any) -> str:
    """The dtype by its name in CUDA."""
    return "float" if array.dtype == np.float32 else "double"


def ceil(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
