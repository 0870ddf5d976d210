"""What all tests share: they run on every backend present, and Hypothesis sets no time limit for one example.

Where there is no GPU the backend "gpu" is present all the same: its host code on a stand-in for CuPy, its kernels
compiled for the CPU.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # the workers share the cores; this holds for NumPy and the engine alike

import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from standin import cupy_on_cpu

from linfengine.backends import available_backends, cpu, use_backend


def gpu_is_present() -> bool:
    try:
        from cupy.cuda import runtime

        return bool(runtime.getDeviceCount())
    except (ImportError, RuntimeError):  # CuPy's errors are RuntimeErrors
        return False


if not gpu_is_present():
    cupy_on_cpu.install()
    # the stand-in's kernels are no GPU's: they must not lie where those do
    os.environ["LINFENGINE_KERNELS"] = os.environ.get("LINFENGINE_KERNELS") or tempfile.mkdtemp(prefix="linfengine-")

# the backend fixture stays the same for all examples of a test, which is what the health check warns about
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.register_profile("quick", untimed, max_examples=10)
settings.register_profile("thorough", untimed, max_examples=100)
settings.load_profile("quick")  # --hypothesis-profile=thorough replaces it

HOST = [name for name in available_backends() if name != "gpu"]


@pytest.fixture(params=HOST)
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend on the CPU, which is the current one during the test."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture(params=available_backends())
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a backend, which is the current one during the test."""
    with use_backend(request.param):
        yield request.param


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Kernels on one thread during a module's tests: small layers gain nothing from more, and have the same bits."""
    before = cpu.threads()
    cpu.use_threads(1)
    yield
    cpu.use_threads(before)
