"""The command `results`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from benchmarks.output import write_record
from benchmarks.results import table as tables
from benchmarks.results.rows import make_row
from linfengine.backends import resolve_device
from linfengine.errors import UserError
from linfengine.files import write_file
from linfengine.recipes import recipe_names

FOLDER = Path(__file__).parents[1]
JSON_FILE, TEX_FILE, PAGE = FOLDER / "reproduced.json", FOLDER / "reproduced.tex", FOLDER.parent / "docs/results.md"
BUDGET_RECIPES = ("mnist-small", "fashion-small", "cifar-small")
BEGIN, END = "<!-- the table of python -m benchmarks results --write -->\n", "<!-- end of the table -->\n"


@click.command
@click.argument("recipes", nargs=-1)
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="The folder of the runs."
)
@click.option("--budget", type=float, metavar="MINUTES", help="Fit a run that is not begun yet to so many minutes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--table", is_flag=True, help="Only print the table: train and evaluate nothing.")
@click.option("--write", is_flag=True, help="Put the table into docs/results.md.")
def results(recipes: tuple[str, ...], runs: Path, budget: float | None, device: str, table: bool, write: bool) -> None:
    """Train, evaluate and tabulate recipes.

    \b
        python -m benchmarks results                        the small recipes, on this machine
        python -m benchmarks results cifar-small            one of them
        python -m benchmarks results z21-mnist-mlp --budget 30
        python -m benchmarks results --write                and put all rows into docs/results.md
        python -m benchmarks results --table --write        only that: nothing is trained or evaluated

    RECIPES are names or TOML files. Each is trained into RUNS/RECIPE. A finished run is taken as it is, and an
    interrupted one goes on. A run with other settings than its recipe, such as one fitted to a budget, gets a row of
    its own. The table shows them beside the published figures.

    The evaluation is that of the papers: all test images with the p = ∞ net, clean, after PGD with 100 steps, and
    certified by the interval method on the box of valid pixels at the recipe's eps_test. A net without a head is also
    made exact and certified again in integers, and the independent checker re-derives some of those claims.

    The figures go to benchmarks/reproduced.json, which keeps the rows of earlier calls, and as a LaTeX table to
    benchmarks/reproduced.tex.
    """
    rows = rows_made()
    if write:
        around_the_table()  # a page without a place for the table is refused before the work
    for recipe in () if table else recipes or BUDGET_RECIPES:
        run = runs / Path(recipe).name.removesuffix(".toml")
        if run.name in recipe_names() and run.name != recipe:
            raise UserError(f"{recipe}: a recipe that is shipped has this name; give yours another one")
        row = make_row(recipe, run, budget, resolve_device(device), rows)
        rows[tables.label(run.name, row)] = row
        write_record(JSON_FILE, rows)
    markdown = tables.results(rows)
    print(markdown)
    write_file(TEX_FILE, tables.results(rows, latex=True).encode())
    if write:
        before, after = around_the_table()
        write_file(PAGE, f"{before}{BEGIN}{markdown}\n{END}{after}".encode())


def rows_made() -> dict[str, Any]:
    """The rows of earlier calls. Raises UserError where their file is damaged."""
    try:
        rows: dict[str, Any] = json.loads(JSON_FILE.read_text(encoding="utf-8")) if JSON_FILE.exists() else {}
        tables.results(rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{JSON_FILE} is damaged ({error}): take it from the repository, or delete it") from None
    return rows


def around_the_table() -> tuple[str, str]:
    """The text of docs/results.md before and after the table. Raises UserError where it has no place for one."""
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{PAGE}: the lines that the table goes between are missing")
    return before, after
