"""What is true of the CPU's kernels alone: threads, instruction sets, memory and the processor's mode."""

import math
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from support.devices import on_instruction_set
from support.draws import thorough
from support.problems import equal_bits, problem

from linfengine.backends import cpu


@pytest.fixture(params=[cpu.instruction_sets()[-1], *map(thorough, cpu.instruction_sets()[:-1])], autouse=True)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_instruction_set(request.param):
        yield request.param


@pytest.mark.parametrize("p", [8, 20.3, 64, 300, math.inf])
def test_no_bit_depends_on_the_number_of_threads(p: float) -> None:
    x, w, g = problem(210, 150, 70)  # enough terms to be shared out

    def run() -> list[bytes]:
        if math.isinf(p):
            y, winner = cpu.linf_dist_argmax(x, w)
            gradients = cpu.linf_dist_backward(g, winner, w.shape[1])
        else:
            y = cpu.lp_dist(x, w, p)
            gradients = cpu.lp_dist_backward(g, x, w, y, p)
        return [array.tobytes() for array in (y, *gradients, cpu.matmul(x, w.T))]

    before = cpu.threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            cpu.use_threads(count)
            results.append(run())
    finally:
        cpu.use_threads(before)
    assert all(result == results[0] for result in results)


def test_unknown_instruction_set_and_thread_count_are_refused() -> None:
    with pytest.raises(ValueError, match="instruction set 'sse9' is not one"):
        cpu.use_instruction_set("sse9")
    with pytest.raises(ValueError, match="at least 1"):
        cpu.use_threads(0)


def test_settings_may_change_in_another_thread() -> None:
    """An operation keeps to the instruction set and thread count that it began with."""
    x, w, _ = problem(150, 110, 65)
    expected = cpu.linf_dist(x, w)
    before, stop = (cpu.instruction_set(), cpu.threads()), threading.Event()

    def meddle() -> None:
        while not stop.is_set():
            for isa, count in zip(cpu.instruction_sets(), (1, 3, 2), strict=False):
                cpu.use_instruction_set(isa)
                cpu.use_threads(count)

    meddler = threading.Thread(target=meddle)
    meddler.start()
    try:
        for _ in range(200):
            assert equal_bits(cpu.linf_dist(x, w), expected)
            cpu.lp_dist_backward(expected, x, w, expected, 8)
    finally:
        stop.set()
        meddler.join()
        cpu.use_instruction_set(before[0])
        cpu.use_threads(before[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in KiB, as Linux counts it")
def test_no_operation_takes_more_than_4_mib_for_itself() -> None:
    program = """
import resource
import numpy as np
from linfengine.backends._cpu import run
rng = np.random.default_rng(0)
def problem(n, o, k):
    x, w, g = (rng.standard_normal(shape, np.float32) for shape in ((n, k), (o, k), (n, o)))
    outputs = [np.ones_like(a) for a in (x, w, g, g)]
    return x, w, g, *outputs, np.ones(g.shape, np.int32)
def everything(x, w, g, grad_x, grad_w, y, y_upper, winner):
    run("linf_dist", (x, w, y))
    run("linf_dist_argmax", (x, w, y, winner))
    run("linf_dist_backward", (g, winner, w.shape[1], grad_x, grad_w))
    run("linf_dist_bounds", (x, x, w, y, y_upper))
    for p in (8, 64, 100.5):
        run("lp_dist", (x, w, p, y))
        run("lp_dist_backward", (g, x, w, y, p, grad_x, grad_w))
    run("lp_decay", (w, 8, 0.1))
large = problem(512, 4096, 256)
everything(*problem(256, 256, 64))  # starts the threads
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
everything(*large)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(result.stdout) <= 4096, result.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="sets the mode of x86-64")
def test_linf_keeps_denormals_whatever_mode_the_process_runs_in() -> None:
    """A certificate is refused in such a process, since NumPy's own operations follow the mode."""
    program = """
import ctypes, numpy as np
import linfengine as le
from linfengine.certify import check_model
net = le.linf_net((1, 1, 1), 2, width=2, depth=2, mean=(0,), std=1).eval()
library = ctypes.CDLL("libm.so.6")
mode = (ctypes.c_char * 32)()
library.fegetenv(mode)
mode[29] = mode[29][0] | 0x80  # flush to zero: bit 15 of the MXCSR, which lies at byte 28
mode[28] = mode[28][0] | 0x40  # denormals are zero: bit 6
library.fesetenv(mode)
from linfengine.backends import cpu
x, w = np.full((1, 1), 1e-40, np.float32), np.zeros((1, 1), np.float32)
y = cpu.linf_dist(x, w)
try:
    check_model(net)
except le.UserError as error:
    print(y.tobytes() == x.tobytes(), "denormal" in str(error))
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "True True\n", result.stderr
