"""What is true of the GPU backend alone: how its work is cut up, and that its kernels keep to their arrays.

Where there is no GPU its stand-in takes its place.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standin import cupy_on_cpu
from standin.cupy_on_cpu import LIBASAN
from support.devices import GPU, Tile, only
from support.draws import thorough
from support.problems import Array, equal_bits, problem

from linfengine.backends import NO_WINNER, cuda, gpu, reference, to_numpy
from linfengine.backends.cuda import Kernel, device, look
from linfengine.backends.cuda.launch import launch
from linfengine.backends.cuda.look import Look
from linfengine.backends.orders import GPU_POWERS

xp = gpu.xp
ON_CPU = xp is cupy_on_cpu.cupy

FLOAT_TILES = [(np.float32, tile) for tile in cuda.TILES["float"]]
TILES = [*FLOAT_TILES, *((np.float64, tile) for tile in cuda.TILES["double"])]
ORDERS = [*map(float, GPU_POWERS), 1.5, 3.0, 20.3, 95.5, 96.0, 100.0, 300.0, 1000.0, 1e6]
few = settings(max_examples=max(1, settings().max_examples // 2))


@contextmanager
def launches() -> Iterator[list[tuple[Kernel, int, dict[str, Any]]]]:
    """Within it every launch is remembered."""
    seen = []

    def remember(kernel: Kernel, blocks: int, **arguments: Any) -> None:
        seen.append((kernel, blocks, arguments))
        launch(kernel, blocks, **arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", remember)
        patch.setattr(look, "launch", remember)
        yield seen


def cuda_type(dtype: Any) -> str:
    return "float" if dtype == np.float32 else "double"


def shifted(array: Array) -> Any:
    """The array on the GPU, where it begins one number after an address that wide loads could use."""
    room = xp.empty(array.size + 1, array.dtype)
    room[1:] = xp.asarray(array.ravel())
    return room[1:].reshape(array.shape)


@pytest.mark.parametrize(("dtype", "tile"), [TILES[0], *(thorough(*each) for each in TILES[1:])])
def test_rows_may_begin_anywhere(dtype: Any, tile: Tile) -> None:
    x, w, g = problem(33, 18, 68, groups=2, dtype=dtype)
    winner = reference.linf_dist_argmax(x, w, 2)[1]
    calls: list[tuple[Callable[..., Any], tuple[Any, ...]]] = [
        (gpu.linf_dist, (x, w, 2)), (gpu.linf_dist_argmax, (x, w, 2)), (gpu.linf_dist_bounds, (x, x + 1, w, 2)),
        (gpu.linf_dist_backward, (g, winner, 68, 2)), (gpu.matmul, (x, x.T)),
        *((gpu.lp_dist, (x, w, p, 2)) for p in (2, 24, 20.3, 300)),
        *((gpu.lp_dist_backward, (g, x, w, np.abs(g), p, 2)) for p in (2, 20.3, 300)),
    ]  # fmt: skip
    with only(tile):
        for function, arguments in calls:
            answer = function(*(shifted(each) if isinstance(each, np.ndarray) else each for each in arguments))
            straight = function(*map(GPU.there, arguments))
            for got, expected in zip(several(answer), several(straight), strict=True):
                assert equal_bits(to_numpy(got), to_numpy(expected))


def several(answer: Any) -> tuple[Any, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


@pytest.mark.parametrize("processors", [4, *map(thorough, [1, 132])])
@pytest.mark.parametrize(("n", "o"), [(1500, 3), (3, 1500), (513, 40), (1, 1025)])
def test_linf_backward_of_a_few_rows_of_many_entries(
    n: int, o: int, processors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shared out where there are multiprocessors to spare; sums of whole numbers do not show it."""
    monkeypatch.setattr(device, "multiprocessors", lambda: processors)
    rng = np.random.default_rng(0)
    winner = rng.integers(-3, 3, (n, o)).astype(np.int32)
    winner[rng.random((n, o)) < 0.1] = NO_WINNER
    whole, g = rng.integers(-9, 10, (n, o)).astype(np.float32), rng.standard_normal((n, o)).astype(np.float32)
    with launches() as seen:
        gradients = GPU.linf_dist_backward(whole, winner, 3)
    for got, expected in zip(gradients, reference.linf_dist_backward(whole, winner, 3), strict=True):
        assert equal_bits(got, expected)
    for kernel, blocks, cut in seen:
        if kernel.structure == "Scatter":
            assert blocks // cut["rows"] * cut["share"] >= cut["count"]
    assert any(kernel.structure == "AddParts" for kernel, _, _ in seen) == (8 * processors > min(n, o))
    gradients = GPU.linf_dist_backward(g, winner, 3)
    for got, expected in zip(gradients, reference.linf_dist_backward(g.astype(float), winner, 3), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("processors", [1, 1000, *map(thorough, [3, 30])])
@pytest.mark.parametrize("p", [20.3, *map(thorough, [2.0, 1000.0])])
def test_any_number_of_multiprocessors(processors: int, p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which tile is chosen, and into how many parts a gradient is cut, shows in last bits at finite p alone."""
    monkeypatch.setattr(device, "multiprocessors", lambda: processors)
    x, w, g = problem(70, 260, 40, groups=2)
    with launches() as seen:
        GPU.check_lp(x, w, g, p, 2)
    ((_, _, cut),) = [each for each in seen if each[0].structure == "Backward"]
    assert (cut["splits"] * cut["shares"] > 1) == (processors > 1)
    assert (cut["splits"] > 1 and cut["shares"] > 1) or processors < 1000
    y, winner = GPU.linf_dist_argmax(x, w, 2)
    expected, expected_winner = reference.linf_dist_argmax(x, w, 2)
    assert equal_bits(y, expected)
    assert equal_bits(winner, expected_winner)
    assert equal_bits(GPU.linf_dist(x, w, 2), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 255, 2049, 40_000])
def test_a_look_sees_the_largest_and_the_smallest(size: int, dtype: Any) -> None:
    info = np.finfo(dtype)
    rng = np.random.default_rng(size)
    for exponents in ((0, 1), (-90, 90), (int(info.minexp), int(info.maxexp))):
        a = np.ldexp(rng.uniform(0.5, 1, size), rng.integers(*exponents, size)).astype(dtype)
        a[rng.random(size) < 0.2] *= -1
        a[rng.random(size) < 0.1] = 0
        a[rng.integers(size)] = -1
        magnitudes = np.abs(a[a != 0])
        expected = math.frexp(magnitudes.max())[1], math.frexp(magnitudes.min())[1]
        assert Look(xp.asarray(a)).exponents == expected
        assert Look(xp.asarray(-a), xp.asarray(a[:1])).exponents == expected
    look = Look(xp.zeros(size, dtype))
    assert look.shift == 0
    look.refuse_non_finite()


# Equal calls give equal bits, and every kernel can be launched.


def everything(dtype: Any) -> dict[str, bytes]:
    """The bits of all that the backend computes, on every tile, with remainders in every dimension."""
    found: dict[str, bytes] = {}

    def keep(name: str, answer: Any) -> None:
        for i, array in enumerate(answer if isinstance(answer, tuple | list) else [answer]):
            found[f"{name} {i}"] = array.tobytes()

    x, w, g = problem(35, 66, 37, groups=2, dtype=dtype)
    for tile in cuda.TILES[cuda_type(dtype)]:
        with only(tile):
            keep(f"linf_dist {tile}", GPU.linf_dist(x, w, 2))
            keep(f"linf_dist_argmax {tile}", GPU.linf_dist_argmax(x, w, 2))
            keep(f"linf_dist_bounds {tile}", GPU.linf_dist_bounds(x, x + 1, w, 2))
            keep(f"matmul {tile}", GPU.matmul(x, x.T))
            for p in ORDERS:
                keep(f"lp_dist {p} {tile}", GPU.lp_dist(x, w, p, 2))
    winner = reference.linf_dist_argmax(x, w, 2)[1]
    keep("linf_dist_backward", GPU.linf_dist_backward(g, winner, w.shape[1], 2))
    for p in ORDERS:
        y = np.maximum(reference.linf_dist(x, w, 2), dtype(0.5))
        keep(f"lp_dist_backward {p}", GPU.lp_dist_backward(g, x, w, y, p, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "multiprocessors", lambda: 1000)
        keep("lp_dist_backward in parts", GPU.lp_dist_backward(g, x, w, y, 8, 2))
    keep("lp_dist of small numbers", GPU.lp_dist(x * dtype(1e-30), w * dtype(1e-30), 8, 2))
    for p in (1, 8, 20.3, math.inf):
        keep(f"lp_decay {p}", GPU.changed("lp_decay", w, p, 0.1))
    keep("adam_step", GPU.changed("adam_step", x, x, x, np.abs(x), 0.1, 0.9, 0.99, 1e-10, 3))
    return found


@pytest.mark.thorough
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_calls_give_equal_bits(dtype: Any) -> None:
    with launches() as seen:
        once = everything(dtype)
    assert everything(dtype) == once
    assert {kernel for kernel, _, _ in seen} == {each for each in cuda.ALL if each.dtype == cuda_type(dtype)}


# How the work is cut up.


@few
@given(
    st.integers(1, 500), st.integers(1, 500), st.integers(1, 3), st.sampled_from(cuda.FORWARDS),
    st.sampled_from([np.float32, np.float64]), st.sampled_from([1, 4, 132]),
)  # fmt: skip
def test_tiles_cover_every_output_once(n: int, o: int, groups: int, name: str, dtype: Any, processors: int) -> None:
    seen: list[tuple[Kernel, int]] = []
    x, w = xp.zeros((n, groups), dtype), xp.zeros((groups * o, 1), dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", lambda kernel, blocks, **_: seen.append((kernel, blocks)))
        patch.setattr(device, "multiprocessors", lambda: processors)
        gpu._forward(name, groups, x=x, w=w)
    ((kernel, blocks),) = seen
    fits = {
        -(-n // (16 * rows)) * -(-o // (16 * columns)) * groups
        for rows, columns in cuda.tiles(name, cuda_type(dtype))
        if kernel == cuda.forward(name, cuda_type(dtype), (rows, columns))
    }
    assert fits == {blocks}


def test_few_outputs_take_the_smallest_tile_and_many_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Kernel] = []
    monkeypatch.setattr(gpu, "launch", lambda kernel, blocks, **_: seen.append(kernel))
    monkeypatch.setattr(device, "multiprocessors", lambda: 132)
    for name in cuda.FORWARDS:
        for n, o, which in ((1, 10, -1), (2048, 1024, 0)):
            gpu._forward(name, 1, x=xp.zeros((n, 1), np.float32), w=xp.zeros((o, 1), np.float32))
            assert seen[-1] == cuda.forward(name, "float", cuda.tiles(name, "float")[which])


@few
@given(
    st.integers(1, 60), st.integers(1, 40), st.integers(1, 300), st.integers(0, 2**29), st.integers(0, 2**29),
    st.integers(1, 200),
)  # fmt: skip
def test_parts_cover_chunks_and_runs(
    columns: int, chunks: int, runs: int, size_x: int, size_w: int, processors: int
) -> None:
    splits, shares = gpu._parts(columns, chunks, runs, size_x, size_w, processors)
    assert 1 <= splits <= chunks
    assert 1 <= shares <= runs
    assert splits == 1 or splits * size_x <= gpu.MOST_PARTS
    assert shares == 1 or shares * size_w <= gpu.MOST_PARTS

    def time(splits: int, shares: int) -> int:
        waves = -(-columns * splits * shares // processors)
        return waves * -(-chunks // splits) * -(-runs // shares)

    assert time(splits, shares) <= time(1, 1)
    if time(splits, shares) == time(1, 1) and size_x and size_w:
        assert (splits, shares) == (1, 1)  # parts are made for a reason


@few
@given(st.integers(1, 70), st.integers(1, 200), st.integers(1, 300), st.integers(1, 3), st.sampled_from([1, 7, 500]))
def test_a_gradient_leaves_out_no_sample_and_no_output(n: int, o: int, k: int, groups: int, processors: int) -> None:
    seen: list[tuple[Kernel, int, dict[str, Any]]] = []
    x, w, y = (xp.zeros(shape, np.float32) for shape in ((n, groups * k), (groups * o, k), (n, groups * o)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "launch", lambda kernel, blocks, **arguments: seen.append((kernel, blocks, arguments)))
        patch.setattr(device, "multiprocessors", lambda: processors)
        gpu._lp_backward(y, x, w, y, 8, groups, (True, True))
    (kernel, blocks, cut), *_ = seen
    assert kernel.structure == "Backward"
    assert cut["splits"] * cut["chunks"] * 64 >= o
    assert cut["shares"] * cut["rows"] >= n
    assert cut["rows"] % cuda.RUN == 0
    assert blocks == -(-k // cuda.LANES) * groups * cut["splits"] * cut["shares"]


# Nothing is read or written beside the arrays.


def families() -> None:
    """Every family of kernels on every tile, with remainders in every dimension."""
    for dtype, (n, o, k) in ((np.float32, (133, 70, 67)), (np.float64, (35, 33, 35)), (np.float32, (1, 1, 1))):
        x, w, g = problem(n, o, k, groups=2, dtype=dtype)
        for tile in cuda.TILES[cuda_type(dtype)]:
            with only(tile):
                GPU.linf_dist(x, w, 2)
                GPU.linf_dist_argmax(x, w, 2)
                GPU.linf_dist_bounds(x, x + 1, w, 2)
                GPU.matmul(x, x.T)
                for p in (2, 24, 20.3, 300):
                    GPU.lp_dist(x, w, p, 2)
                gpu.linf_dist(shifted(x), shifted(w), 2)
        winner = reference.linf_dist_argmax(x, w, 2)[1]
        GPU.linf_dist_backward(g, winner, k, 2)
        y = reference.lp_dist(x, w, 8, 2)
        for p, processors in ((1, 4), (8, 1000), (20.3, 4), (300, 1000)):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(device, "multiprocessors", lambda count=processors: count)
                for needs in ((True, True), (False, True), (True, False)):
                    GPU.lp_dist_backward(g, x, w, y, p, 2, needs)
        for p in (8, math.inf):
            GPU.changed("lp_decay", w, p, 0.1)
        GPU.changed("adam_step", x, x, x, np.abs(x), 0.1, 0.9, 0.99, 1e-10, 3)
    edges = np.array([[0, 4096, 8192, 8999], [~0, ~4096, ~8192, NO_WINNER]], np.int32)  # of windows
    for dtype in (np.float32, np.float64):
        GPU.linf_dist_backward(np.ones(edges.shape, dtype), edges, 9000)
        GPU.linf_dist_backward(np.ones((1, 1025), dtype), np.zeros((1, 1025), np.int32), 3)


def beyond() -> None:
    """A step on one number more than there are."""
    x = xp.ones(300, np.float32)
    launch(cuda.step("adam_step", "float"), 2, param=x, grad=x, m=x, v=x, count=301)


@pytest.mark.skipif(not ON_CPU, reason="of the kernels as they run on a CPU")
@pytest.mark.skipif(not os.path.isabs(LIBASAN), reason="needs g++'s AddressSanitizer")
@pytest.mark.parametrize(("function", "fault"), [thorough("families", ""), ("beyond", "heap-buffer-overflow")])
def test_no_kernel_leaves_its_arrays(function: str, fault: str, tmp_path: Path) -> None:
    """As the second case shows, it would be told."""
    program = (
        "import os, sys; sys.modules['cupy'] = None; from standin import cupy_on_cpu; cupy_on_cpu.install(); "
        "del os.environ['LD_PRELOAD']; "  # g++ itself is faster without
        f"from kernels import test_gpu; test_gpu.{function}()"
    )
    settings = {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "LD_PRELOAD": LIBASAN,
        "LINFENGINE_CUDA_ON_CPU_FLAGS": "-fsanitize=address,undefined -fno-sanitize-recover=all -g1",
        "LINFENGINE_KERNELS": str(tmp_path),  # others have no sanitizer in them
    }
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1], env=os.environ | settings, capture_output=True, text=True,
    )  # fmt: skip
    assert (result.returncode == 0) == (not fault), result.stderr
    assert fault in result.stderr
