"""Two trainings at once against one after the other: `python -m benchmarks.contention`.

Each training is a process of its own, with as many threads as it takes by default. A ratio near 1 says that they share
the processors without loss; threads that spin while they wait make it many times that.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median


def train(folder: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "linfengine", "train", "digits", "--out", str(folder)]
    command += [word for each in settings for word in ("--set", each)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def seconds(count: int, together: bool, settings: list[str]) -> float:
    """How long so many trainings take, at once or one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        begin, running = time.perf_counter(), []
        for number in range(count):
            running.append(train(Path(folder, str(number)), settings))
            if not together:
                running[-1].wait()
        statuses = {process.wait() for process in running}
        if statuses != {0}:
            sys.exit("a training failed.")
        return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    ratios = []
    for _ in range(arguments.repeats):
        apart, together = (seconds(2, at_once, arguments.settings) for at_once in (False, True))
        ratios.append(together / apart)
        load = os.getloadavg()[0]
        print(f"apart {apart:.1f} s, together {together:.1f} s, ratio {ratios[-1]:.2f}, load {load:.1f}", flush=True)
    print(f"median ratio {median(ratios):.2f}")


if __name__ == "__main__":
    main()
