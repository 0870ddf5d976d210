"""Two trainings at once against one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import click


def train(folder: Path, settings: tuple[str, ...]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "linfengine", "train", "digits", "--out", str(folder)]
    command += [word for each in settings for word in ("--set", each)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def seconds(count: int, together: bool, settings: tuple[str, ...]) -> float:
    """The time that so many trainings take, at once or one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        begin, running = time.perf_counter(), []
        for number in range(count):
            running.append(train(Path(folder, str(number)), settings))
            if not together:
                running[-1].wait()
        statuses = {process.wait() for process in running}
        if statuses != {0}:
            raise click.ClickException("a training failed.")
        return time.perf_counter() - begin


@click.command
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe 'digits'.")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Ratios to take.")
def contention(settings: tuple[str, ...], repeats: int) -> None:
    """Time two trainings at once against one after the other.

    Each training is a process of its own, with as many threads as it takes by default. A ratio near 1 says that they
    share the processors without loss. Threads that spin while they wait make it many times that.

    \b
        python -m benchmarks contention --set epochs=60 --set ramp_start=12 --set ramp_end=54
    """
    ratios = []
    for _ in range(repeats):
        apart, together = (seconds(2, at_once, settings) for at_once in (False, True))
        ratios.append(together / apart)
        load = os.getloadavg()[0]
        print(f"apart {apart:.1f} s, together {together:.1f} s, ratio {ratios[-1]:.2f}, load {load:.1f}", flush=True)
    print(f"median ratio {median(ratios):.2f}")
