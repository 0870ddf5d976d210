"""The one door to the benchmarks: `python -m benchmarks --help`."""

from __future__ import annotations

import click

from benchmarks.contention import contention
from benchmarks.cpu.command import cpu
from benchmarks.gpu.command import gpu
from benchmarks.gpu.compile import gpu_compile
from benchmarks.results.command import results
from linfengine.errors import UserError


class Refusal(click.ClickException):
    exit_code = 2


class Door(click.Group):
    """Reports a user error as one sentence, with exit status 2."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (UserError, ImportError) as error:
            raise Refusal(f"{str(error).rstrip('.')}.") from None


@click.group(cls=Door, commands=[cpu, gpu, gpu_compile, results, contention])
def main() -> None:
    """Measure the engine and remake the figures that its documents quote.

    \b
        python -m benchmarks cpu                     kernels, a training step and an epoch on this CPU
        python -m benchmarks cpu kernels --no-peers  one part of that
        python -m benchmarks gpu                     the same on an NVIDIA GPU
        python -m benchmarks gpu-compile             compile the CUDA kernels, with no GPU
        python -m benchmarks results                 train, evaluate and tabulate the small recipes
        python -m benchmarks contention              two trainings at once against one after the other

    Speed is counted in terms per second: B·O·K / seconds for B samples, O outputs and K inputs. A term is one
    |x − w| that is folded into an output. Machines are noisy: compare figures of one run only.
    """


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
