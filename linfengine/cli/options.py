"""Options of several commands, and checks of their values."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import click

from ..backends import resolve_device
from ..data import DATASETS
from ..errors import UserError
from ..files import check_writable
from ..units import parse_eps, parse_gray_levels
from .output import STANDARD_OUTPUT

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where data sets lie (else LINFENGINE_DATA, then the user cache).",
)


class ResultType(click.Path):
    """A file or folder for results; standard output (-) is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) in ("", "-"):
            self.fail(f"expected the name of a file or folder, got {str(value)!r}.", param, ctx)
        return super().convert(value, param, ctx)


class RadiusType(click.ParamType):
    """A radius as people write it, kept as an exact fraction."""

    name = "radius"

    def __init__(self, parse: Callable[[str], Fraction]) -> None:
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        try:
            return self.parse(value)
        except UserError as error:
            self.fail(f"{str(error).partition(': ')[2]}.", param, ctx)  # click names the option


eps_option = click.option(
    "--eps", type=RadiusType(parse_eps), help="Radius of the ℓ∞ ball, pixels being in [0, 1]: 0.3, 8/255."
)
gray_levels_option = click.option(
    "--gray-levels",
    type=RadiusType(parse_gray_levels),
    help="The same in gray levels, 0 to 255: 76.5.",
)
dataset_option = click.option(
    "--dataset", "name", type=click.Choice(list(DATASETS)), help="[default: the one the model was trained on]"
)
epochs_option = click.option(
    "--epochs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Train for so many epochs, the whole schedule stretched alike.  [default: the recipe's]",
)
device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to compute; auto is cuda where a GPU can be used.",
)


def usable_device(name: str) -> str:
    """Raises UserError, with the reason, for a GPU that cannot be used."""
    try:
        return resolve_device(name)
    except ImportError as error:
        raise UserError(str(error)) from None


def one_length(epochs: int | None, budget: float | None) -> None:
    """Raises UserError if both options set the length of the training."""
    if epochs is not None and budget is not None:
        raise UserError("--epochs and --budget both set the number of epochs: give one of them")


def one_radius(eps: Fraction | None, gray_levels: Fraction | None, recipe: dict[str, Any] | None = None) -> Fraction:
    """The radius from --eps or --gray-levels, else that of the recipe. Raises UserError for both or none."""
    if eps is not None and gray_levels is not None:
        raise UserError("--eps and --gray-levels name the same radius: give one of them")
    if eps is None and gray_levels is None and recipe and recipe.get("eps_test"):
        return parse_eps(recipe["eps_test"])
    found = gray_levels if eps is None else eps
    if found is None:
        raise UserError("a radius is needed: --eps 0.3 with pixels in [0, 1], or --gray-levels 76.5 of 255")
    return found


def check_results(given: Sequence[Path], json_file: Path | None = None, certificate: Path | None = None) -> None:
    """Raises UserError if a result cannot be written, or would overwrite a file that is no such result.

    An existing file must be empty or hold the same kind of result: one JSON object, or a certificate. Devices, pipes
    and standard output are always written to.
    """
    taken = {os.path.realpath(path) for path in given}
    for file, kind, is_such in (
        (certificate, "certificate", is_certificate),
        (json_file, "JSON object", is_json_object),
    ):
        if file is None or file == STANDARD_OUTPUT or (file.exists() and not file.is_file() and not file.is_dir()):
            continue
        if os.path.realpath(file) in taken:
            raise UserError(f"{file}: the result would be written over another file of this command: name another")
        taken.add(os.path.realpath(file))
        check_writable(file)
        if file.exists() and (content := file.read_bytes()) and not is_such(content):
            raise UserError(f"{file}: it exists and is no {kind}, so it is not written over: name another")


def is_json_object(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except (ValueError, RecursionError):
        return False


def is_certificate(content: bytes) -> bool:
    """Whether the first line is the header of a certificate, also of another version or a truncated one."""
    header, _, _ = content.partition(b"\n")
    return is_json_object(header) and str(json.loads(header).get("format")).startswith("linfengine-certificate-")
