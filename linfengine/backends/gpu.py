"""The GPU backend: CuPy arrays, and the CUDA kernels of `cuda/`, float32 and float64.

At p = infinity the forward and the bounds have the bits of every other backend. At finite p, and in gradients, equal
calls on equal devices give equal bits: no sum depends on the order in which threads happen to run.

Work is queued on the current stream, and the host does not wait for it. Only NaN and infinity have to be known of
before a distance is believed: a small kernel looks for them first, and the host waits for that one, and so for what was
queued before it, while the distance is being computed. Importing this raises ImportError, with the reason, where there
is no CuPy or no device.
"""

from __future__ import annotations

import math
import os
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from . import Array, Gradients, Needs, check_step, cuda
from .cuda import LANES, POWERS, RUN, SPARSE, THREADS, Kernel

try:
    import cupy
    from cupy.cuda import nvrtc, runtime

    from .cuda.compiler import CompileError, compile_kernel
except ImportError as error:
    raise ImportError(
        f"CuPy cannot be imported ({error}): pip install 'linfengine[cuda12]' or, for a driver of CUDA 13, "
        "'linfengine[cuda13]'"
    ) from None

name = "gpu"
xp = cupy


def _check_device() -> None:
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


_check_device()


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


def linf_dist(x: Array, w: Array, groups: int = 1) -> Array:
    look = _Look(x, w)
    y = _forward("linf_dist", x, w, groups)
    look.refuse_non_finite()
    return y


def dead_zone(x: Array, above: Array, below: Array, groups: int = 1) -> Array:
    # max(x - above, below - x, 0) is the lower bound of |z - x| for below <= z <= above
    x, above, below = (a.astype(np.float32) for a in (x, above, below))
    parts = [
        linf_dist_bounds(*(xp.ascontiguousarray(a) for a in (low, high, rows)))[0].T
        for low, high, rows in zip(
            xp.split(below, groups), xp.split(above, groups), xp.split(x, groups, axis=1), strict=True
        )
    ]
    return xp.concatenate(parts, axis=1).astype(np.uint8)


def linf_dist_argmax(x: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
    look = _Look(x, w)
    winner = xp.empty((len(x), len(w)), np.int32)
    y = _forward("linf_dist_argmax", x, w, groups, winner=winner)
    look.refuse_non_finite()
    return y, winner


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
    shares = min(_ceil(8 * multiprocessors(), rows), _ceil(count, 512), max(1, MOST_PARTS // size))
    parts = _empty_parts(shares, shape, g.dtype)
    launch(
        cuda.scatter(_type(g)), rows * shares,
        g=g, winner=winner, out=parts, step=step, stride=stride, count=count, rows=rows, share=_ceil(count, shares),
        k=k, sign=sign,
    )  # fmt: skip
    return _joined(parts, shares)


def linf_dist_bounds(lower: Array, upper: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
    look = _Look(lower, upper, w)
    y_upper = xp.empty((len(lower), len(w)), w.dtype)
    y_lower = _forward("linf_dist_bounds", lower, w, groups, x_upper=upper, y_upper=y_upper)
    look.refuse_non_finite()
    return y_lower, y_upper


def lp_dist(x: Array, w: Array, p: float, groups: int = 1) -> Array:
    look = _Look(x, w)
    y = _lp_forward(x, w, p, groups)
    look.refuse_non_finite()
    if shift := look.shift:
        return _scaled(_lp_forward(_scaled(x, shift), _scaled(w, shift), p, groups), -shift)
    return y


def lp_dist_backward(
    g: Array, x: Array, w: Array, y: Array, p: float, groups: int = 1, needs: Needs = (True, True)
) -> Gradients:
    look = _Look(y)
    gradients = _lp_backward(g, x, w, y, p, groups, needs)
    if not look.in_range and (shift := _Look(x, w).shift):
        # the gradient does not change when x and w are scaled together
        x, w, y = _scaled(x, shift), _scaled(w, shift), _scaled(y, shift)
        return _lp_backward(g, x, w, y, p, groups, needs)
    return gradients


def matmul(x: Array, y: Array) -> Array:
    return _forward("dot", xp.ascontiguousarray(x), xp.ascontiguousarray(y.T), 1)


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
            cuda.step("adam", "Adam", _type(param)), _ceil(param.size, THREADS),
            param=param, grad=xp.ascontiguousarray(grad), m=m, v=v, count=param.size, rate=lr / (1 - beta1**step),
            beta1=beta1, beta2=beta2, root_correction=1 / math.sqrt(1 - beta2**step), eps=eps,
        )  # fmt: skip


def lp_decay(w: Array, p: float, amount: float) -> None:
    rows, k = w.shape
    relative = _negligible(k, p - 2, w.dtype) if math.isfinite(p) else 0
    launch(
        cuda.step("lp_decay", "LpDecay", _type(w)), rows, w=w, k=k, p=_order(p), amount=amount, relative=relative
    )  # fmt: skip


class _Look:
    """What a look at arrays of one dtype finds, known to the host as soon as that is done, whatever follows."""

    def __init__(self, *arrays: Array) -> None:
        self.info = np.finfo(arrays[0].dtype)
        found = xp.full(2, -4096, np.int32)
        for array in arrays:
            blocks = min(_ceil(array.size, 8 * THREADS), 4 * multiprocessors())
            launch(
                cuda.step("survey", "Survey", _type(array)), blocks, a=array, count=array.size, exponents=found
            )  # fmt: skip
        self.memory = cupy.cuda.alloc_pinned_memory(found.nbytes)
        self.found = np.frombuffer(self.memory, np.int32, 2)
        found.get(out=self.found, blocking=False)
        self.event = cupy.cuda.Event(disable_timing=True)
        self.event.record()

    @property
    def exponents(self) -> tuple[int, int]:
        """Of the largest magnitude and the smallest but 0, as math.frexp counts them; a denormal's is the lowest."""
        self.event.synchronize()
        bias = self.info.maxexp - 2
        return int(self.found[0]) - bias, -int(self.found[1]) - bias

    def refuse_non_finite(self) -> None:
        if self.exponents[0] > self.info.maxexp:
            raise FloatingPointError("x or w holds NaN or infinity")

    @property
    def in_range(self) -> bool:
        """Whether distances leave room for reciprocals; 0 does not count."""
        largest, smallest = self.exponents
        return largest <= 100 and smallest >= -60

    @property
    def shift(self) -> int:
        """The power of two by which to scale arrays whose distance, or its reciprocal, might leave the range; else 0.

        As on the CPU: small inputs are brought near 1, large ones only as far down as needed, so that small ones among
        them survive.
        """
        exponent, smallest = self.exponents
        if -60 <= exponent <= 100 or smallest > 2 * self.info.maxexp:  # all are 0
            return 0
        return -exponent if exponent < 0 else 100 - exponent


def _scaled(a: Array, shift: int) -> Array:
    """a 2^shift."""
    out = xp.empty_like(a)
    launch(cuda.step("scale", "Scale", _type(a)), _ceil(a.size, THREADS), a=a, out=out, count=a.size, shift=shift)
    return out


def _lp_forward(x: Array, w: Array, p: float, groups: int) -> Array:
    name = f"lp_power<{int(p)}>" if p in POWERS else "lp_general" if p < SPARSE else "lp_sparse"
    return _forward(name, x, w, groups, p=_order(p), relative=_negligible(w.shape[1], p, w.dtype))


def _lp_backward(g: Array, x: Array, w: Array, y: Array, p: float, groups: int, needs: Needs) -> Gradients:
    n, (outputs, k) = len(x), w.shape
    o = outputs // groups
    slope = f"LpPowerSlope<{int(p)}>" if p in POWERS else "LpGeneralSlope" if p < SPARSE else "LpSparseSlope"
    m = _forward("linf_dist", x, w, groups) if slope == "LpGeneralSlope" else None
    # The largest entry may be as small as g / k, where all terms are equal.
    relative = _negligible(max(n, outputs) * k, p - 1, w.dtype)
    chunks, runs, columns = _ceil(o, 256 // w.itemsize), _ceil(n, RUN), _ceil(k, LANES) * groups
    sizes = x.nbytes if needs[0] else 0, w.nbytes if needs[1] else 0
    splits, shares = _parts(columns, chunks, runs, *sizes, multiprocessors())
    parts_x = _empty_parts(splits, x.shape, x.dtype) if needs[0] else None
    parts_w = _empty_parts(shares, w.shape, w.dtype) if needs[1] else None
    launch(
        cuda.lp_backward(slope, _type(w)), columns * splits * shares,
        x=x, w=w, y=y, m=m, g=g, grad_x=parts_x, grad_w=parts_w, n=n, o=o, k=k, groups=groups, splits=splits,
        chunks=_ceil(chunks, splits), shares=shares, rows=_ceil(runs, shares) * RUN,
        exponent=_order(p) - 1, relative=relative,
    )  # fmt: skip
    return _joined(parts_x, splits), _joined(parts_w, shares)


MOST_PARTS = 2**28  # bytes of the parts of a gradient


@cache
def _parts(columns: int, chunks: int, runs: int, size_x: int, size_w: int, processors: int) -> tuple[int, int]:
    """(splits, shares) into which chunks of outputs and runs of samples are cut so that no multiprocessor waits long.

    The last wave of blocks should be nearly full; of equals, the fewest parts.
    """

    def time(cut: tuple[int, int]) -> tuple[int, int]:
        splits, shares = cut
        waves = _ceil(columns * splits * shares, processors)
        return waves * _ceil(chunks, splits) * _ceil(runs, shares), splits * size_x + shares * size_w

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
    add = cuda.step("add_parts", "AddParts", _type(whole), "backward.cu")
    launch(add, _ceil(whole.size, THREADS), parts=gradient, out=whole, count=whole.size, splits=parts)
    return whole


def _forward(name: str, x: Array, w: Array, groups: int, **arguments: Any) -> Array:
    """Launch a forward on the tile that should take the least time; `arguments` are further fields of Forward."""
    n, (outputs, k) = len(x), w.shape
    o = outputs // groups
    y = xp.empty((n, outputs), x.dtype)

    def blocks(tile: tuple[int, int]) -> int:
        rows, columns = tile
        return _ceil(n, 16 * rows) * _ceil(o, 16 * columns) * groups

    def time(tile: tuple[int, int]) -> float:
        rows, columns = tile  # instructions of a thread for one coordinate are as 1 : 4.8 : 8.8 by the listing
        return _ceil(blocks(tile), multiprocessors()) * (rows * columns + 3)

    tile = min(cuda.tiles(name, _type(x)), key=time)
    kernel = cuda.forward(name, _type(x), tile)
    launch(kernel, blocks(tile), x=x, w=w, y=y, n=n, o=o, k=k, groups=groups, **arguments)
    return y


def launch(kernel: Kernel, blocks: int, **arguments: Any) -> None:
    """Queue a kernel; arrays among the arguments become pointers, None and what is left out become null or 0.

    Raises TypeError for an argument that is not what its field holds: a C-contiguous array of the field's dtype on the
    current GPU, or a number.
    """
    device = cupy.cuda.Device().id
    fields = cuda.fields(kernel.structure, kernel.dtype)
    packed = np.zeros((), cuda.layout(kernel.structure, kernel.dtype))
    for field, value in arguments.items():
        if value is not None:
            dtype, pointer = fields[field]
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


@cache
def _multiprocessors_of(device: int) -> int:
    return int(runtime.getDeviceProperties(device)["multiProcessorCount"])


def multiprocessors() -> int:
    """Of the current device."""
    return _multiprocessors_of(cupy.cuda.Device().id)


def _type(array: Array) -> str:
    return "float" if array.dtype == np.float32 else "double"


def _order(p: float) -> float:
    """p as the kernels take it: far beyond 1e30, the p-norm of float64 numbers is their maximum."""
    return p if math.isinf(p) else min(p, 1e30)


def _negligible(terms: int, exponent: float, dtype: np.dtype[Any]) -> float:
    """The ratio below which powers add nothing worth having to a sum of so many, as in src_cpp/metrics.hpp."""
    tiny, bits = (2.0**-125, 25) if dtype == np.float32 else (2.0**-1021, 54)
    if exponent <= 0:
        return tiny
    return max(2.0 ** (-(bits + math.log2(terms / max(exponent, 1))) / exponent), tiny)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)
