"""How many threads the kernels run on, and the limits of threadpoolctl.

`default_threads` is the least of the processors that the process may run on, the CPU quota of its container rounded up,
and OMP_NUM_THREADS. LINFENGINE_NUM_THREADS is taken instead of all of these.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from .._version import __version__

MOST = 1024


def default_threads(environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """The number of threads to begin with; `root` is the folder that holds proc and the control groups.

    Raises ValueError where LINFENGINE_NUM_THREADS is not a whole number from 1 to 1024.
    """
    if wanted := environment.get("LINFENGINE_NUM_THREADS"):
        if not (re.fullmatch(r"[0-9]{1,9}", wanted.strip()) and 1 <= int(wanted) <= MOST):
            raise ValueError(f"LINFENGINE_NUM_THREADS must be a whole number from 1 to {MOST}, got {wanted!r}")
        return int(wanted)
    limits = [processors(), MOST]
    if (quota := cpu_quota(root)) is not None:
        limits.append(max(1, math.ceil(quota)))
    # OpenMP: a list with a number for each level of nesting; what does not begin with a positive number is ignored
    if first := re.match(r"\s*\+?([0-9]+)\s*(,|$)", environment.get("OMP_NUM_THREADS", ""), re.ASCII):
        limits += [int(first[1])] if int(first[1]) > 0 else []
    return min(limits)


def processors() -> int:
    """How many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that control groups (version 1 or 2) allow this process; None without a limit.

    A group is limited by its own quota and by those of all groups around it. What cannot be read limits nothing.
    """
    quotas = [quota for folder in _control_groups(root) if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def _control_groups(root: Path) -> Iterator[Path]:
    """The folders of the groups that this process is in and may see, each before the group around it."""
    own: dict[str, str] = {}  # the group's path: of version 2 under "", of version 1 under the controller's name
    for line in _lines(root / "proc/self/cgroup"):  # 4:cpu,cpuacct:PATH
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        own |= dict.fromkeys(controllers.split(","), group)
    for line in _lines(root / "proc/self/mountinfo"):  # 32 31 0:29 TOP PLACE options - KIND source OPTIONS
        mount, _, system = line.partition(" - ")
        fields, (kind, _, options) = mount.split(" "), [*system.split(" "), "", "", ""][:3]
        if kind == "cgroup2" or (kind == "cgroup" and "cpu" in options.split(",")):
            path = own.get("" if kind == "cgroup2" else "cpu")
            if path is None or len(fields) < 5:
                continue
            top, place = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), each) for each in fields[3:5])
            try:
                inside = PurePosixPath(path).relative_to(top)
            except ValueError:  # it lies outside of what is mounted: a container sees its own group at the top
                inside = PurePosixPath()
            for each in (inside, *inside.parents):
                yield root / place.lstrip("/") / each


def _quota_of(folder: Path) -> float | None:
    """Processors' worth of time that one group allows, None where it has no limit."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()  # "150000 100000" or "max 100000"
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(quota) / float(period) if quota != "max" and float(quota) > 0 else None
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def register_with_threadpoolctl(library: str) -> None:
    """Let `threadpoolctl.threadpool_limits` find the compiled module (a file name) and limit its threads.

    The module counts as an OpenMP library, which is what scikit-learn and joblib limit. Where threadpoolctl is not
    installed nothing is done.
    """
    try:
        from threadpoolctl import LibController, register
    except ImportError:
        return

    class Controller(LibController):
        user_api = "openmp"
        internal_api = "linfengine"
        filename_prefixes = (os.path.basename(os.path.realpath(library)).lower(),)
        check_symbols = ("linfengine_threads", "linfengine_use_threads")

        def get_num_threads(self) -> int:
            return int(self.dynlib.linfengine_threads())

        def set_num_threads(self, num_threads: int) -> None:
            self.dynlib.linfengine_use_threads(num_threads)

        def get_version(self) -> str:
            return __version__

    register(Controller)
