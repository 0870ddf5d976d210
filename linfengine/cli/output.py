"""The output of the commands: text, tables and JSON.

All output passes through this file, so that control characters and markup from files and arguments are escaped. Text
goes to standard output; with `--json -` it goes to standard error instead.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import write_file
from ..text import printable

STANDARD_OUTPUT = Path("-")
NAMES_OF_IT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


class Screen(Console):
    """A console on which strings are text, in tables too: no markup, no escape sequences."""

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str("\n".join(map(printable, text.split("\n"))), **settings)

    def on_broken_pipe(self) -> None:
        raise  # like every other output that fails; rich would end the process


console = Screen(markup=False, emoji=False, highlight=False)  # if its `stderr` is true, text goes to standard error


def say(line: str) -> None:
    """One line of text."""
    click.echo(printable(line), err=console.stderr)


def suggest(*words: object, before: str = "Next: ") -> None:
    """Suggest the next command, quoted for a shell."""
    say(before + shlex.join(map(str, words)))


def show(table: Table) -> None:
    """Show a table in the width of the terminal. Print a title before it with `say`."""
    console.print(table)


def warn(line: str, colour: str) -> None:
    """One line on standard error, in colour if the terminal has colours and NO_COLOR is not set."""
    plain = bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    click.secho(printable(line), fg=colour, err=True, color=False if plain else None)


class JsonType(click.Path):
    """A file for JSON; `-` is standard output, which then holds nothing else."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if str(value) in NAMES_OF_IT:
            return STANDARD_OUTPUT
        return super().convert(value, param, ctx)


def json_option(what: str, *, bare: bool = False) -> Any:
    """The option --json FILE; with `bare`, FILE may be left out, which means standard output."""
    settings: dict[str, Any] = {"is_flag": False, "flag_value": "-"} if bare else {}
    return click.option(
        "--json",
        "json_file",
        type=JsonType(),
        metavar="FILE",
        help=f"Write {what} there as JSON; - for standard output, words then go to standard error."
        + "  [without FILE: -]" * bare,
        **settings,
    )


def write_json(file: Path | None, facts: dict[str, Any]) -> None:
    """Write the facts to the file of `--json`, if there is one."""
    if file is None:
        return
    content = json.dumps(facts, indent=2) + "\n"
    if file == STANDARD_OUTPUT:
        click.echo(content, nl=False)
    else:
        write_file(file, content.encode())
