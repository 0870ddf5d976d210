"""The results table: recipes trained, evaluated as in the papers, and printed beside the published figures.

\b
    python -m benchmarks.reproduce                          the budget recipes, on this machine
    python -m benchmarks.reproduce cifar-small              one of them
    python -m benchmarks.reproduce z21-mnist-mlp --budget 30
    python -m benchmarks.reproduce --write                  and put all rows there are into README.md
    python -m benchmarks.reproduce --table --write          that alone: nothing is trained or evaluated

Each recipe, a name or a TOML file, is trained into RUNS/RECIPE, unless that run is there already; one that was
interrupted goes on.  Then all test images are evaluated with the p = ∞ net: clean, after PGD with 100 steps, and
certified by the interval method on the box clipped to valid pixels, with the recipe's eps_test.  A plain net is also
made exact and certified again in integers, and the independent checker re-derives some of those claims.  The figures go
to benchmarks/reproduced.json, which keeps the rows that this call does not make anew, and as a LaTeX table to
benchmarks/reproduced.tex.  A run with other settings than its recipe, such as one fitted to a budget, is a row of its
own.
"""

from __future__ import annotations

import json
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import click

from benchmarks import report
from benchmarks.__main__ import cpu_model
from linfengine import __version__, verify
from linfengine.backends import cpu, resolve_device
from linfengine.certify import write_certificate
from linfengine.checkpoint import load_model, save_model
from linfengine.cli.info import gpu_facts
from linfengine.data import load_dataset
from linfengine.errors import UserError
from linfengine.evaluate import evaluate
from linfengine.exact import quantize
from linfengine.files import write_file
from linfengine.recipes import NOTES, load_recipe, make_recipe, recipe_names
from linfengine.train import CHECKPOINT, MODEL, recipe_in, train
from linfengine.train.budget import fit_budget
from linfengine.train.metrics import read_metrics
from linfengine.train.progress import ProgressBar
from linfengine.units import parse_eps

HERE = Path(__file__).parent
JSON_FILE, TEX_FILE, README = HERE / "reproduced.json", HERE / "reproduced.tex", HERE.parent / "README.md"
BUDGET_RECIPES = ("mnist-small", "fashion-small", "cifar-small")
TRAINED = "trained.json"  # where and when a run ended
PGD_STEPS = 100
CHECKED = 200  # samples of the exact certificate that the checker re-derives
BEGIN, END = "<!-- the table of python -m benchmarks.reproduce --write -->\n", "<!-- end of the table -->\n"


@click.command(help=__doc__)
@click.argument("recipes", nargs=-1)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Of the runs.")
@click.option("--budget", type=float, metavar="MINUTES", help="Fit a run that is not begun yet to so many minutes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--table", is_flag=True, help="Only the table of the rows there are.")
@click.option("--write", is_flag=True, help="Put the table into README.md.")
def main(recipes: tuple[str, ...], runs: Path, budget: float | None, device: str, table: bool, write: bool) -> None:
    try:
        rows = rows_made()
        if write:
            around_the_table()  # before the work rather than after it
        for recipe in () if table else recipes or BUDGET_RECIPES:
            run = runs / Path(recipe).name.removesuffix(".toml")
            if run.name in recipe_names() and run.name != recipe:
                raise UserError(f"{recipe}: a recipe that is shipped has this name; give yours another one")
            row = reproduce(recipe, run, budget, resolve_device(device), rows)
            rows[report.label(run.name, row)] = row
            write_file(JSON_FILE, (json.dumps(rows, indent=2) + "\n").encode())
    except (UserError, ImportError) as error:
        click.secho(f"Error: {str(error).rstrip('.')}.", fg="red", err=True)
        raise SystemExit(2) from None
    markdown = report.results(rows)
    print(markdown)
    write_file(TEX_FILE, report.results(rows, latex=True).encode())
    if write:
        before, after = around_the_table()
        write_file(README, f"{before}{BEGIN}{markdown}\n{END}{after}".encode())


def rows_made() -> dict[str, Any]:
    """The rows of earlier calls.  Raises UserError where their file is damaged."""
    try:
        rows: dict[str, Any] = json.loads(JSON_FILE.read_text(encoding="utf-8")) if JSON_FILE.exists() else {}
        report.results(rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{JSON_FILE} is damaged ({error}): take it from the repository, or delete it") from None
    return rows


def around_the_table() -> tuple[str, str]:
    """What stands in the README before and after the table.  Raises UserError where it has no place for one."""
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{README}: the lines that the table goes between are missing")
    return before, after


def reproduce(name: str, run: Path, budget: float | None, device: str, rows: dict[str, Any]) -> dict[str, Any]:
    """The row of one recipe, trained first where it is not.  Raises UserError for a recipe without an eps_test."""
    recipe = load_recipe(name)
    if not recipe.eps_test:
        raise UserError(f"recipe {name}: eps_test must be the radius to certify at, got 0.0")
    dataset = load_dataset(recipe.dataset)
    begun = recipe_in(run)
    if begun:
        recipe = make_recipe(begun)
    elif budget is not None:
        recipe = fit_budget(recipe, dataset, budget, device)
    if not (run / MODEL).exists():
        print(f"{name}: training")
        with ProgressBar(recipe.epochs) as bar:
            train(recipe, dataset, run, resume=(run / CHECKPOINT).exists(), device=device, observer=bar)
        write_file(run / TRAINED, json.dumps({"machine": machine(device), "date": str(date.today())}).encode())
    print(f"{name}: evaluating")
    model, _ = load_model(run / MODEL)
    model.to(device)
    eps, images, labels = parse_eps(recipe.eps_test), dataset.test_images, dataset.test_labels
    found = evaluate(model, images, labels, eps, attack_steps=PGD_STEPS)
    shipped, own = load_recipe(name).to_dict(), recipe.to_dict()
    changed = [key for key in own if key not in NOTES and own[key] != shipped[key]]
    seconds = sum(figures["seconds"] for figures in read_metrics(run))
    row = found.summary() | {
        "recipe": own | {key: shipped[key] for key in NOTES},
        "changed": changed,
        "pgd_steps": PGD_STEPS,
        "seconds": seconds,
        "trained": trained(run, own, seconds, rows),
        "evaluated": {"machine": machine(device), "date": str(date.today()), "version": __version__},
    }
    if not recipe.head:
        row["exact"] = exactly(run / MODEL, images, labels, str(eps))
    return row


def trained(run: Path, recipe: dict[str, Any], seconds: float, rows: dict[str, Any]) -> dict[str, str] | None:
    """Where and when a run ended, as its folder tells it, or an earlier row of it; None where neither does."""
    try:
        place: dict[str, str] = json.loads((run / TRAINED).read_text(encoding="utf-8"))
        return {key: place[key] for key in ("machine", "date")}
    except (OSError, ValueError, KeyError, TypeError):
        same = (row for row in rows.values() if row["recipe"] == recipe and row["seconds"] == seconds)
        return next((row["trained"] for row in same), None)


def machine(device: str) -> str:
    if device == "cuda":
        return gpu_facts()
    threads = cpu.threads()
    return f"{cpu_model()}, {threads} thread{'s' * (threads > 1)}, {cpu.instruction_set()}"


def exactly(model: Path, images: Any, labels: Any, eps: str) -> dict[str, Any]:
    """Clean and certified accuracy of the exact net, some of whose claims the independent checker has re-derived."""
    exact = quantize(load_model(model)[0])
    found = evaluate(exact, images, labels, eps, method="exact")
    with tempfile.TemporaryDirectory() as folder:
        net, certificate = Path(folder) / "net.safetensors", Path(folder) / "certificate.jsonl"
        save_model(exact, net)
        write_certificate(certificate, found.certificate, net, images, labels)
        verify.verify(certificate, net, images, labels, samples=CHECKED)  # raises where it does not agree
    return {key: found.summary()[key] for key in ("clean", "certified")} | {"re-derived": CHECKED}


if __name__ == "__main__":
    main()
