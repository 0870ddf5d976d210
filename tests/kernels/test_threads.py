"""The threads of the kernels: how many, that they sleep, and what lives beside them: forks, pools, signals, limits."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linfengine.backends import cpu
from linfengine.backends import threads as counting
from linfengine.backends.threads import cpu_quota, default_threads

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = cpu.threads()
    yield
    cpu.use_threads(before)


# ---- how many ------------------------------------------------------------------------------------------------------


def machine(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """A folder that looks like the root of a system: /proc/self and the files of control groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


VERSION_2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
VERSION_1 = "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


@pytest.mark.parametrize(
    ("own", "outer", "expected"),
    [
        ("max 100000", "max 100000", None),
        ("150000 100000", "max 100000", 1.5),
        ("max 100000", "50000 100000", 0.5),
        ("300000 100000", "400000 200000", 2.0),
        ("nonsense", "100000 50000", 2.0),
        ("100000 0", "max 100000", None),
    ],
)
def test_a_group_is_limited_by_its_quota_and_those_around_it(
    tmp_path: Path, own: str, outer: str, expected: float | None
) -> None:
    files = {"sys/fs/cgroup/a/cpu.max": outer, "sys/fs/cgroup/a/b/cpu.max": own}
    assert cpu_quota(machine(tmp_path, "0::/a/b\n", VERSION_2, files)) == expected


def test_quotas_of_version_1(tmp_path: Path) -> None:
    folder = "sys/fs/cgroup/cpu,cpuacct/job"
    files = {f"{folder}/cpu.cfs_quota_us": "250000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    files |= {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "1\n",
    }
    groups = "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"
    assert cpu_quota(machine(tmp_path, groups, VERSION_1 + VERSION_2, files)) == 2.5


def test_a_container_that_sees_its_own_group_at_the_top(tmp_path: Path) -> None:
    mounts = VERSION_1.replace("0:30 /", "0:30 /docker/abc")
    folder = "sys/fs/cgroup/cpu,cpuacct"
    files = {f"{folder}/cpu.cfs_quota_us": "100000", f"{folder}/cpu.cfs_period_us": "100000"}
    for number, path in enumerate(["/docker/abc", "/elsewhere"]):
        root = machine(tmp_path / str(number), f"4:cpu,cpuacct:{path}\n", mounts, files)
        assert cpu_quota(root) == 1


def test_no_control_groups_and_broken_ones_limit_nothing(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(machine(tmp_path, "x\n::\n0::/\n", "\na - b\n" + VERSION_2, {})) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [("3", 3), ("2,4,8", 2), (" 3 ", 3), ("+3", 3), ("", 6), ("0", 6), ("-1", 6), ("x", 6), ("3x", 6), ("99", 6)],
)
def test_the_least_of_processors_quota_and_omp_num_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: int
) -> None:
    monkeypatch.setattr(counting, "processors", lambda: 8)
    root = machine(tmp_path, "0::/\n", VERSION_2, {"sys/fs/cgroup/cpu.max": "550000 100000"})
    assert default_threads({"OMP_NUM_THREADS": value}, root) == expected
    assert default_threads({"OMP_NUM_THREADS": value, "LINFENGINE_NUM_THREADS": "12"}, root) == 12


def test_a_small_quota_leaves_one_thread(tmp_path: Path) -> None:
    assert default_threads({}, machine(tmp_path, "0::/\n", VERSION_2, {"sys/fs/cgroup/cpu.max": "5000 100000"})) == 1


@pytest.mark.parametrize("value", ["0", "1025", "two", "2.0", "-1", "৪"])
def test_a_number_of_threads_that_is_none(value: str) -> None:
    with pytest.raises(ValueError, match="LINFENGINE_NUM_THREADS must be a whole number from 1 to 1024, got"):
        default_threads({"LINFENGINE_NUM_THREADS": value})


@LINUX
def test_affinity_is_the_default() -> None:
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    program += "from linfengine.backends import cpu; print(cpu.threads())"
    assert python(program) == "1"


# ---- what runs beside them -----------------------------------------------------------------------------------------

LARGE = np.random.default_rng(0).standard_normal((300, 400), np.float32)  # enough terms to be shared out
SHARED = """
import numpy as np
from linfengine.backends import cpu
x = np.random.default_rng(0).standard_normal((300, 400), np.float32)
def compute(count=0):
    if count:
        cpu.use_threads(count)
    y = cpu.lp_dist(x, x[:290], 8)
    return cpu.linf_dist(x, x[:290]).tobytes() + cpu.lp_dist_backward(y, x, x[:290], y, 8)[0].tobytes()
"""


def python(program: str, seconds: float = 60) -> str:
    """What a Python of its own prints; a hang or a failure is an error."""
    environment = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_idle_threads_sleep() -> None:
    """Between two calls, as in a training of a small net: processor time while the caller sleeps."""
    cpu.use_threads(2)
    idle = slept = 0.0
    for _ in range(40):
        cpu.linf_dist(LARGE, LARGE)
        used, began = time.process_time(), time.perf_counter()
        time.sleep(0.005)
        idle, slept = idle + time.process_time() - used, slept + time.perf_counter() - began
    assert idle < 0.15 * slept


@LINUX
def test_many_callers_share_few_workers_that_get_no_signals() -> None:
    program = """
    import os, signal, threading, time
    from concurrent.futures import ThreadPoolExecutor
    def tasks():
        return set(os.listdir("/proc/self/task"))
    cpu.use_threads(1)
    expected, before = compute(), tasks()
    cpu.use_threads(3)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: compute(), range(40))) == {expected}
    end = time.monotonic() + 10
    while len(workers := tasks() - before) > 2 and time.monotonic() < end:
        time.sleep(0.01)  # the callers' threads have ended, and the system still lists them
    print(len(workers))
    for task in workers:
        [blocked] = [line.split()[1] for line in open(f"/proc/self/task/{task}/status") if line.startswith("SigBlk")]
        assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
    """
    assert python(SHARED + textwrap.dedent(program)) in ("1", "2")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_begins_with_one_thread_and_may_have_more() -> None:
    program = """
    import os, signal, threading
    expected = compute(2)
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            compute()
    caller = threading.Thread(target=busy)  # forks happen while the pool works
    caller.start()
    for _ in range(10):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            ok = cpu.threads() == 1 and compute() == expected and compute(2) == expected and cpu.threads() == 2
            os._exit(7 if ok else 8)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    stop.set()
    caller.join()
    assert compute() == expected and cpu.threads() == 2
    """
    python(SHARED + textwrap.dedent(program))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_multiprocessing(method: str, tmp_path: Path) -> None:
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    program = f"""
    import multiprocessing
    if __name__ == "__main__":
        expected = compute(2)
        with multiprocessing.get_context("{method}").Pool(2) as pool:
            assert pool.map(compute, [0, 2, 3, 2]) == [expected] * 4
    """
    script = tmp_path / "program.py"
    script.write_text(SHARED + textwrap.dedent(program))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, script], check=True, timeout=120, env=environment)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_joblib(backend: str) -> None:
    pytest.importorskip("joblib")
    program = f"""
    import joblib
    expected = compute(2)
    x, y = x[:200], x[:290]
    def distances(x, y):
        from linfengine.backends import cpu
        return cpu.linf_dist(x, y).tobytes()
    calls = joblib.Parallel(n_jobs=2, backend="{backend}")(joblib.delayed(distances)(x, y) for _ in range(4))
    assert set(calls) == {{distances(x, y)}}
    """
    python(SHARED + textwrap.dedent(program), 120)


@LINUX
def test_a_thread_that_cannot_be_made_is_done_without() -> None:
    program = """
    import resource
    expected = compute(1)
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    y = np.empty((300, 290), np.float32)
    cpu.use_threads(4)
    from linfengine.backends import _cpu
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 20), resource.RLIM_INFINITY))  # a stack takes more
    _cpu.run("linf_dist", (x, x[:290], y))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert y.tobytes() == expected[:y.nbytes]
    """
    python(SHARED + textwrap.dedent(program))


def test_a_process_ends_with_sleeping_and_with_working_threads() -> None:
    program = """
    import threading
    def busy():
        while True:
            compute()
    compute(3)
    threading.Thread(target=busy, daemon=True).start()
    compute()
    print("end")
    """
    assert python(SHARED + textwrap.dedent(program)) == "end"


@LINUX
def test_the_mode_of_the_thread_that_makes_the_workers_changes_no_bit() -> None:
    """A new thread inherits rounding and flushing; every item sets its own."""
    program = """
    import ctypes, ctypes.util
    x[0, :8] *= np.float32(1e-38)
    expected = compute(1)
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    upward, nearest = {"x86_64": (0x800, 0), "aarch64": (0x400000, 0)}.get(__import__("platform").machine(), (0, 0))
    assert libm.fesetround(upward) == 0
    cpu.use_threads(3)
    results = [compute() for _ in range(5)]
    libm.fesetround(nearest)
    assert results == [expected] * 5 and compute() == expected
    """
    python(SHARED + textwrap.dedent(program))


def test_limits_of_threadpoolctl_are_kept_and_taken_back() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    cpu.use_threads(3)
    for settings in ({}, {"user_api": "openmp"}):
        with threadpoolctl.threadpool_limits(1, **settings):
            assert cpu.threads() == 1
        assert cpu.threads() == 3
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert cpu.threads() == 3
    [ours] = [each for each in threadpoolctl.threadpool_info() if each["internal_api"] == "linfengine"]
    assert ours["num_threads"] == 3
