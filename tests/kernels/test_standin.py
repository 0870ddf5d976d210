"""The two pieces by which the GPU's code runs on a CPU see the faults that they are there to see."""

import copy
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from standin.cupy_on_cpu import COMPILER, LIBASAN, METHODS, REAL, CompileException, cupy
from support.draws import thorough

pytestmark = pytest.mark.skipif(not COMPILER, reason="kernels run on a CPU where there are Linux and g++")

TRANSPOSE = """
struct Args {
    const float* x;
    float* y;
    int n, m;
};

template <int T>
__device__ void transpose(const Args& a) {
    __shared__ float tile[T][T + 1];
    const int tx = threadIdx.x, ty = threadIdx.y, row = blockIdx.y * T, column = blockIdx.x * T;
    if (row + ty < a.n && column + tx < a.m) tile[ty][tx] = __ldg(a.x + (row + ty) * a.m + column + tx);
    __syncthreads();
    if (column + ty < a.m && row + tx < a.n) a.y[(column + ty) * a.n + row + tx] = tile[tx][ty];
}

extern "C" __global__ void __launch_bounds__(256) entry(const Args a) { transpose<16>(a); }
"""
BARRIER = "__syncthreads();"
ARGS = np.dtype([("x", np.uintp), ("y", np.uintp), ("n", np.int32), ("m", np.int32)], align=True)


def transposed_right(barrier: str = BARRIER, shape: tuple[int, int] = (37, 50)) -> bool:
    """Whether the kernel, with something else for its barrier, transposes an array."""
    n, m = shape
    x = cupy.arange(n * m, dtype=cupy.float32).reshape(n, m)
    y = cupy.empty((m, n), dtype=cupy.float32)
    args = np.array((x.data.ptr, y.data.ptr, n, m), ARGS)
    kernel = cupy.RawKernel(TRANSPOSE.replace(BARRIER, barrier), "entry")
    kernel((-(-m // 16), -(-n // 16)), (16, 16), (args,))
    return bool((y == x.T).all())


def launched(body: str, out: Any, threads: int = 32) -> Any:
    """out, written by a kernel of that body."""
    args = np.array((out.data.ptr,), np.dtype([("out", np.uintp)]))
    code = f'struct Args {{ int* out; }};\nextern "C" __global__ void entry(const Args a) {{\n{body}\n}}'
    cupy.RawKernel(code, "entry")((1,), (threads,), (args,))
    return out


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (37, 50), (50, 3)])
def test_a_kernel_without_fault_works(shape: tuple[int, int]) -> None:
    assert transposed_right(shape=shape)


def test_a_missing_barrier_shows() -> None:
    assert not transposed_right("")


@pytest.mark.parametrize("shape", [(16, 16), (37, 50)])
def test_a_divergent_barrier_is_told(shape: tuple[int, int]) -> None:
    where = r"divergent barrier in block \(0, 0, 0\), thread \(0, 0, 0\) waits at entry:\d+"
    with pytest.raises(RuntimeError, match=where + r", thread \(5, 0, 0\) has returned"):
        transposed_right(f"if (tx == 5) return; {BARRIER}", shape)
    with pytest.raises(RuntimeError, match=where + r", thread \(5, 0, 0\) waits at entry:\d+"):
        transposed_right(f"if (tx == 5) {BARRIER}\nelse\n{BARRIER}", shape)
    assert transposed_right(shape=shape)


def test_votes_and_atomics() -> None:
    body = """
        __shared__ int most;
        most = -7;
        const bool any = __syncthreads_or(threadIdx.x == 3), none = __syncthreads_or(false);
        atomicMax(&most, int(threadIdx.x));
        __syncthreads();
        a.out[threadIdx.x] = any + 2 * none + 4 * most;
    """
    assert launched(body, cupy.empty(32, dtype=cupy.int32)).tolist() == [1 + 4 * 31] * 32


def test_shared_memory_starts_as_garbage() -> None:
    body = "__shared__ int some[32]; some[0] = 1; a.out[threadIdx.x] = some[threadIdx.x];"
    assert (abs(launched(body, cupy.zeros(32, dtype=cupy.int32))[1:]) > 10**6).all()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("__shared__ int much[13000]; much[threadIdx.x] = 1; a.out[0] = much[0];", "a block has 49152 bytes"),
        ("a.out[0] = undeclared;", r"entry:3:\d+: error: .undeclared. was not declared"),
        ("a.out[0] = int64_t(1);", "poisoned"),
    ],
)
def test_what_no_gpu_runs_is_refused(body: str, message: str) -> None:
    with pytest.raises((RuntimeError, CompileException), match=message):
        launched(body, cupy.zeros(1, dtype=cupy.int32), threads=1)


def test_launches_are_checked() -> None:
    out = cupy.zeros(1, dtype=cupy.int32)
    with pytest.raises(RuntimeError, match="CUDA_ERROR_INVALID_VALUE"):
        launched("", out, threads=1025)
    code = 'struct Args { int n, m; }; extern "C" __global__ void entry(const Args a) {}'
    with pytest.raises(TypeError, match="entry takes 8 bytes of arguments, not 4"):
        cupy.RawKernel(code, "entry")((1,), (1,), (np.array((1,), [("n", np.int32)]),))


def mapped(function: str, x: Any, *options: str) -> Any:
    """function(x), entry by entry, by a kernel."""
    y = cupy.empty_like(cupy.asarray(x))
    type_ = {np.float32: "float", np.float64: "double"}[x.dtype.type]
    code = f"""
        template <class T> struct Args {{ const T* x; T* y; }};
        extern "C" __global__ void entry(const Args<{type_}> a) {{
            const {type_} x = a.x[blockIdx.x];
            a.y[blockIdx.x] = {function};
        }}
    """
    there = cupy.asarray(x)
    args = np.array((there.data.ptr, y.data.ptr), [("x", np.uintp), ("y", np.uintp)])
    cupy.RawKernel(code, "entry", options)((x.size,), (1,), (args,))
    return y.get()


@pytest.mark.parametrize(("dtype", "doubles"), [(np.float32, False), (np.float64, True)])
@pytest.mark.parametrize("name", ["exp2", "log2", "log", "expm1", "cbrt"])
def test_mathematics_is_as_inexact_as_on_a_gpu(name: str, dtype: Any, doubles: bool) -> None:
    """Results are off by as much as may be, in either direction, besides what the CPU's are off by."""
    x = np.random.default_rng(0).uniform(0.01, 20, 2000).astype(dtype)
    exact = getattr(np, name)(x.astype(np.longdouble))
    off = ((mapped(f"{name}(x)", x) - exact) / np.spacing(exact.astype(dtype))).astype(float)
    most = 2 if name == "exp2" and not doubles else 1
    on_cpu = 3 if name == "cbrt" and doubles else 1.0
    assert (np.abs(off) <= most + on_cpu).all()
    assert (np.abs(off) > most - 0.6).mean() > 0.7
    assert 0.3 < (off > 0).mean() < 0.7
    if not name.startswith("log"):
        assert mapped(f"{name}(x)", np.zeros(1, dtype)) == getattr(np, name)(0)


def test_the_quick_logarithm_is_off_by_what_is_documented() -> None:
    x = np.random.default_rng(0).uniform(0.5, 2, 2000).astype(np.float32)
    off = mapped("__log2f(x)", x) - np.log2(x.astype(float))
    np.testing.assert_allclose(np.abs(off), 2.0**-22, rtol=0.3)
    assert 0.4 < (off > 0).mean() < 0.6


def test_denormals_are_flushed_where_the_compiler_is_told() -> None:
    small = np.array([1e-40, -1e-45, 2.0**-126, 1e-20], np.float32)
    for function, kept in (("x", small), ("x * 0.5f", small / 2), ("x * x", small * small)):
        assert (mapped(function, small) == kept).all()
    flushed = np.where(np.abs(small) < 2.0**-126, 0, small)
    assert (mapped("x + 0.0f", small, "--ftz=true") == flushed).all()
    assert (mapped("x * 0.5f", small, "--ftz=true") == [0, 0, 0, small[3] / 2]).all()
    double = np.array([1e-310, 1e-320])
    assert (mapped("x * 0.5", double, "--ftz=true") == double / 2).all()
    assert small[0] * np.float32(0.5) > 0  # here, after the kernel


@pytest.mark.skipif(not os.path.isabs(LIBASAN), reason="needs g++'s AddressSanitizer")
@pytest.mark.parametrize(
    ("fault", "shape", "message"),
    [
        ("", (37, 50), "True"),
        ("a.y[0] = a.x[a.n * a.m];", (2, 3), "heap-buffer-overflow"),
        thorough("a.y[a.n * a.m] = 0;", (37, 50), "heap-buffer-overflow"),
        thorough("a.y[0] = tile[0][T + 1 + tx];", (37, 50), r"index \d+ out of bounds for type 'float \[17\]'"),
        thorough("a.y[0] = (&tile[0][0])[T * (T + 1) + tx];", (37, 50), "with insufficient space for an object"),
        thorough("for (float* t = tile[0]; t <= tile[T]; ++t) *t += 1;", (37, 50), "global-buffer-overflow"),
    ],
)
def test_sanitizers_see_inside(fault: str, shape: tuple[int, int], message: str) -> None:
    call = f"transposed_right({BARRIER + fault!r}, {shape})"
    program = f"import sys; sys.modules['cupy'] = None; import kernels.test_standin as here; print(here.{call})"
    settings = {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "LD_PRELOAD": LIBASAN,
        "LINFENGINE_CUDA_ON_CPU_FLAGS": "-fsanitize=address,undefined -fno-sanitize-recover=all -g",
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1], env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert re.search(message, result.stdout + result.stderr)
    assert (result.returncode == 0) == (not fault)


# The stand-in for CuPy.


def host() -> Any:
    return np.arange(6, dtype=np.float32).reshape(2, 3)


def device() -> Any:
    return cupy.asarray(host())


MIXTURES: list[Callable[[Any], Any]] = [
    lambda a: a + host(),
    lambda a: host() + a,
    lambda a: a == host(),
    lambda a: a @ host().T,
    lambda a: a.__iadd__(host()),
    lambda a: a.__setitem__(0, host()[0]),
    lambda a: a.dot(host().T),
    lambda a: np.add(a, host()),
    lambda a: np.concatenate([a, host()]),
    lambda a: cupy.concatenate([a, host()]),
    lambda a: cupy.maximum(a, host()),
    lambda a: cupy.where(a > 0, a, host()),
    lambda a: cupy.add.at(a, 0, host()[0]),
]


@pytest.mark.parametrize("mixture", MIXTURES)
def test_host_and_device_do_not_mix(mixture: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy\.ndarray'>"):
        mixture(device())


def test_nothing_comes_back_unasked() -> None:
    a = device()
    for conversion in (np.asarray, np.array, np.ascontiguousarray, lambda a: host().__setitem__(0, a[0])):
        with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
            conversion(a)
    with pytest.raises(TypeError):
        range(a[0, 1])
    assert (type(a.get()), type(cupy.asnumpy(a)), type(a[1, 2].item())) == (np.ndarray, np.ndarray, float)
    out = np.empty((2, 3), np.float32)
    assert a.get(out=out) is out
    assert (out == host()).all()


def test_numbers_stay_on_the_device() -> None:
    a = device()
    for number in (a.sum(), a.max(), a[1, 2], a.argmax(), cupy.mean(a), cupy.array_equal(a, a), np.sum(a)):
        assert isinstance(number, cupy.ndarray)
        assert number.shape == ()
    assert (float(a[1, 2]), int(a.argmax()), bool((a >= 0).all())) == (5.0, 5, True)
    assert (np.float32(2) * a + 1 - np.float64(0)).dtype == np.float64
    assert (cupy.ndim(a), cupy.shape(a), cupy.result_type(a, np.float64)) == (2, (2, 3), np.float64)


def test_indices() -> None:
    a = device()
    mask = host() > 2
    for index in (0, -1, (1, 2), (slice(None), None), [1, 0], (..., [2, 0]), mask, host()[:, 0] > 1, [], (0, slice(2))):
        b, c = device(), host()
        assert (b[index].get() == c[index]).all()
        b[index] = c[index] = 7
        assert (b.get() == c).all()
    assert (a[cupy.asarray(mask)].get() == host()[mask]).all()
    a[:] = host() + 1
    a[0] = a[1]
    assert (a.get() == host()[1] + 1).all()
    cupy.add.at(a, (cupy.asarray([0, 0]), 1), 1)
    assert a[0, 1].item() == 7


def test_views_and_copies() -> None:
    a = device()
    for view in (a[0], a[0, 1], a.T, a.reshape(3, 2), a.ravel(), cupy.broadcast_to(a, (2, 2, 3)), a[0].reshape(3, 1)):
        assert view.base is a
    windows = cupy.lib.stride_tricks.sliding_window_view(a, 2, axis=1)
    assert (windows.base is a, windows.shape) == (True, (2, 2, 2))
    for new in (a.copy(), a + 0, a[[0]], a[a > 0], cupy.array(a), cupy.argsort(a), copy.deepcopy(a)):
        assert new.base is None
    assert cupy.asarray(a) is a
    b = a
    b += 1
    assert b is a
    assert cupy.add(a, 1, out=a) is a
    with pytest.raises(ValueError, match="no particular order"):
        a[0, 1:] = a[0, :-1]
    with pytest.raises(ValueError, match="no particular order"):
        a += a[0]


def test_new_and_abandoned_memory_is_garbage() -> None:
    for order in "CF":
        assert (cupy.empty((300, 7), dtype=cupy.float32, order=order) > 1e38).all()
    a = device()
    memory = a._host
    del a
    assert (memory > 1e38).all()


@pytest.mark.skipif(REAL is None, reason="needs CuPy, though no GPU")
def test_the_names_and_signatures_are_those_of_cupy() -> None:
    a = device()
    for module, name in ((cupy, "errstate"), (cupy, "char"), (cupy.linalg, "multi_dot")):
        assert not hasattr(module, name)
    misfits: list[Callable[[], Any]] = [
        lambda: cupy.max(a, initial=0),
        lambda: cupy.add(a, a, where=a > 0),
        lambda: cupy.sum([1, 2]),
        lambda: a.sum(initial=0),
        lambda: np.sum(a, initial=0),
    ]
    for call in misfits:
        with pytest.raises(TypeError):
            call()
    for parameters, methods in METHODS.items():
        for method in methods.split():
            signature = f"{method}({', '.join(filter(None, ['self', parameters]))})"
            documented = getattr(REAL.ndarray, method).__doc__
            assert signature in re.sub(r"\b(int|Py_ssize_t|_ndarray_base) ", "", documented)


def test_the_device() -> None:
    cuda = cupy.cuda
    assert cuda.runtime.getDeviceProperties(cuda.Device().id)["multiProcessorCount"] == 4
    start, end = cuda.Event(), cuda.Event()
    start.record()
    end.record()
    end.synchronize()
    assert cuda.get_elapsed_time(start, end) >= 0
    pinned = np.frombuffer(cuda.alloc_pinned_memory(24), np.float32, 6).reshape(2, 3)
    device().get(out=pinned, blocking=False)
    start.synchronize()
    assert (pinned != host()).all()
    end.record()
    end.synchronize()
    assert (pinned == host()).all()
