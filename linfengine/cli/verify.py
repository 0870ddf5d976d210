"""linfengine verify"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import verify as checker
from ..data import DATASETS, load_dataset
from .options import check_results, data_dir_option
from .output import console, json_option, say, write_json
from .program import Command
from .tables import radius_text


@click.command("verify", cls=Command)
@click.argument("certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="CERTIFICATE")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL")
@click.argument("data", metavar="DATA")
@click.option("--samples", type=click.IntRange(min=1), help="Re-derive so many, drawn at random.  [default: all]")
@json_option("the verdict")
@data_dir_option
def verify_command(
    certificate: Path, model: Path, data: str, samples: int | None, json_file: Path | None, data_dir: Path | None
) -> None:
    """Re-derive a certificate file with the independent checker, in unlimited integers.

    DATA is the name of a data set, an .npz file with images and labels, or a folder with official test files. The
    checker is one file that uses nothing of the engine, linfengine/verify.py, and runs alone: python verify.py
    CERTIFICATE MODEL DATA. Exit status 2 and the first disagreement if there is one.
    """
    check_results([certificate, model, Path(data)], json_file)
    if data in DATASETS:
        dataset = load_dataset(data, data_dir)
        images, labels = dataset.test_images, dataset.test_labels
    else:
        images, labels = checker.read_data(data)
    header = verify_watched(certificate, model, images, labels, samples)
    write_json(json_file, {"verified": True, "samples": samples} | header)
    tell_verified(header)


def verify_watched(
    certificate: Path, model: Path, images: Any, labels: Any, samples: int | None = None
) -> dict[str, Any]:
    """The header of a certificate that the checker has re-derived, with a bar."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("re-derived in integers", total=None)

        def tell(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        return checker.verify(certificate, model, images, labels, samples, tell)


def tell_verified(header: dict[str, Any]) -> None:
    certified = header["certified"]["count"]
    eps = radius_text(Fraction(header["eps"]), images=header["gray_levels"] is not None)
    say(
        f"Verified: {certified:,} of {header['n']:,} samples certified at ε = {eps}, "
        f"{header['rederived']:,} of the {header['n']:,} re-derived."
    )
    if header["n"] < header["data_n"]:
        say(f"The certificate speaks of the first {header['n']:,} of the {header['data_n']:,} samples in the data.")
