"""The command line: demo, train, plot, ablate, certify, quantize, verify, audit, info; one file a command.

Exit status: 0 done; 2 wrong input, or a certificate that does not verify, told in one sentence; 3 something certified
was broken; 130 interrupted; 141 standard output was closed.
"""

import click

from .. import __version__
from .ablate import ablate_command
from .audit import audit_command
from .certify import certify_command
from .demo import demo_command
from .info import info_command
from .plot import plot_command
from .program import Program
from .quantize import quantize_command
from .train import train_command
from .verify import verify_command

__all__ = ["main"]


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="linfengine")
def main() -> None:
    """Train ℓ∞-distance nets and prove how robust they are.

    \b
    linfengine demo                        a certified net in under a minute
    linfengine train mnist-small           a real one in half an hour
    linfengine plot runs/mnist-small       its curves
    linfengine ablate mnist-small --drop p_ramp,mean_shift --budget 30
    linfengine certify runs/mnist-small/model.safetensors --eps 0.3
    linfengine quantize runs/mnist-small/model.safetensors --out exact.safetensors
    linfengine certify exact.safetensors --eps 0.3 --certificate proof.jsonl
    linfengine verify proof.jsonl exact.safetensors mnist

    Exit status: 0 done, 2 bad input or a certificate that does not verify, 3 something certified was broken (please
    report it), 130 interrupted, 141 standard output was closed.
    """


for command in (
    demo_command,
    train_command,
    plot_command,
    ablate_command,
    certify_command,
    quantize_command,
    verify_command,
    audit_command,
    info_command,
):
    main.add_command(command)
