"""The GPU that CuPy sees: whether it can be used, what it is, and what its errors mean."""

from __future__ import annotations

import os
from functools import cache

import cupy
from cupy.cuda import nvrtc, runtime

from .compiler import CompileError


def check_device() -> None:
    """Raises ImportError, with what is missing, unless CuPy can use a device whose float32 products are whole."""
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        driver, built_for = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            reason = "there is no NVIDIA driver"
        elif driver < built_for:
            older = "'linfengine[cuda12]' or " if driver // 1000 == 12 else ""
            reason = (
                f"the driver is of CUDA {_version(driver)} and CuPy is built for CUDA {_version(built_for)}: install "
                f"{older}a newer driver"
            )
        else:
            reason = str(error)
        raise ImportError(f"CuPy {cupy.__version__} is installed, but {reason}") from None
    if count == 0:
        raise ImportError(f"CuPy {cupy.__version__} is installed, but there is no NVIDIA device")
    if os.environ.get("CUPY_TF32", "0") != "0":
        raise ImportError("CUPY_TF32 asks for products of 10 bits, which no bound here allows for: unset it")
    try:
        oldest = min(nvrtc.getSupportedArchs())
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"CuPy {cupy.__version__} is installed, but not NVIDIA's run-time compiler ({error}): pip install "
            "'linfengine[cuda12]' or 'linfengine[cuda13]' brings it"
        ) from None
    if (capability := int(cupy.cuda.Device().compute_capability)) < oldest:
        raise ImportError(
            f"the GPU's compute capability {capability / 10} is older than {oldest / 10}, the oldest here"
        )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def description() -> str:
    """The current device, in words."""
    number = cupy.cuda.Device().id
    device = runtime.getDeviceProperties(number)
    return (
        f"{device['name'].decode()} (number {number}), compute capability {device['major']}.{device['minor']}, "
        f"{device['multiProcessorCount']} multiprocessors, {device['totalGlobalMem'] / 2**30:.0f} GiB, "
        f"CuPy {cupy.__version__}, CUDA {_version(runtime.runtimeGetVersion())}"
    )


def describe_fault(error: BaseException) -> str | None:
    """See `linfengine.backends.describe_fault`."""
    cuda_errors = runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError
    exhausted = isinstance(error, cuda_errors) and "out of memory" in str(error).lower()
    if isinstance(error, cupy.cuda.memory.OutOfMemoryError) or exhausted:
        free, total = (size / 2**30 for size in cupy.cuda.Device().mem_info)
        return (
            f"the GPU is out of memory, with {free:.2f} of {total:.2f} GiB free ({str(error).rstrip('.')}): "
            "try a smaller batch_size or width, or end what else runs on it"
        )
    if isinstance(error, CompileError | cupy.cuda.compiler.CompileException):
        return f"a kernel does not compile for this GPU:\n{error}"
    if isinstance(error, cuda_errors):
        return (
            f"the GPU failed ({error}), and this process cannot use it any more; files that were finished are whole, "
            "and an interrupted training run goes on with --resume"
        )
    return None


@cache
def _multiprocessors_of(device: int) -> int:
    return int(runtime.getDeviceProperties(device)["multiProcessorCount"])


def multiprocessors() -> int:
    """Of the current device."""
    return _multiprocessors_of(cupy.cuda.Device().id)
