"""The command line: demo, train, certify, info.

Exit status: 0 done; 2 a mistake of the person at the keyboard, told in one sentence; 3 an attack broke a certified
sample; 130 interrupted.
"""

from __future__ import annotations

import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from . import __version__
from .audit import Evaluation, SoundnessError, evaluate
from .backends import available_backends, get_backend
from .certify import METHODS, certify, check_model, parse_eps, predict
from .checkpoint import check_writable, load_model, write_file
from .data import DATASETS, Dataset, load_dataset, to_pixels
from .errors import UserError
from .layers import LinfDistNet, Module
from .recipes import Recipe, load_recipe, recipe_names
from .train import CHECKPOINT, METRICS, MODEL, Observer, train

SECONDS_BETWEEN_LINES = 10  # of progress, where the output is no terminal
RESULTS = "results.json"  # what the demo writes, and by which it knows a folder of its own
DEMO_EPS = ("1/20", "1/10", "3/20", "1/5")
console = Console()
Command = TypeVar("Command", bound=Callable[..., None])


def speaks_plainly(command: Command) -> Command:
    """Turn what is the user's to mend into one sentence on standard error."""

    @wraps(command)
    def wrapped(*arguments: Any, **settings: Any) -> None:
        try:
            check_environment()
            command(*arguments, **settings)
        except UserError as error:
            stop(2, f"Error: {str(error).rstrip('.')}.")
        except OSError as error:
            if error.filename is None:
                raise
            stop(2, f"Error: {error.filename}: {error.strerror}.")
        except MemoryError:
            stop(2, "Error: this needs more memory than there is: try a smaller width or batch_size.")
        except SoundnessError as error:
            stop(3, f"SOUNDNESS: {error}. Please report this.")
        except KeyboardInterrupt:
            stop(130, "Interrupted.")

    return wrapped  # type: ignore[return-value]


def stop(status: int, sentence: str) -> NoReturn:
    click.secho(sentence, fg="red", err=True)
    raise SystemExit(status) from None


def check_environment() -> None:
    """Raises UserError where LINFENGINE_BACKEND, LINFENGINE_ISA or LINFENGINE_NUM_THREADS ask for what there is not."""
    try:
        get_backend()
        available_backends()
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from None


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where data sets lie (else LINFENGINE_DATA, then the user cache).",
)


class EpsType(click.ParamType):
    """A radius as people write it, kept as an exact fraction."""

    name = "radius"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        try:
            return parse_eps(value)
        except UserError as error:
            self.fail(f"{error}.", param, ctx)


class Program(click.Group):
    """A group of commands whose output never fails for want of a letter: where a terminal has no ε, it shows a ?."""

    def main(self, *arguments: Any, **settings: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*arguments, **settings)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="linfengine")
def main() -> None:
    """Train ℓ∞-distance nets and prove how robust they are.

    \b
    linfengine demo                        a certified net in under a minute
    linfengine train mnist-small           a real one in a quarter of an hour
    linfengine certify runs/mnist-small/model.safetensors --eps 0.3

    Exit status: 0 done, 2 bad input, 3 an attack broke a certified sample (please report it), 130 interrupted.
    """


@main.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder for the results.",
)
@speaks_plainly
def demo(out: Path) -> None:
    """Train on real scans of digits, certify, and show the result, in under a minute.

    Writes model.safetensors, results.json and certified.png into the folder.  The accuracies are those of the 360 test
    images: clean, after a PGD attack of 20 steps, and certified, which no attack whatever can undercut.
    """
    from .plots import plot_certified  # matplotlib takes a while to load

    start = time.perf_counter()
    recipe, dataset = load_recipe("digits"), load_dataset("digits")
    click.echo(
        f"Training an ℓ∞-distance net on {len(dataset.train_labels):,} scans of digits, "
        f"{recipe.depth} layers, {recipe.width} neurons wide:"
    )
    if (out / RESULTS).exists():  # an earlier demo's folder, perhaps with another version's recipe
        for name in (MODEL, CHECKPOINT, METRICS):
            (out / name).unlink(missing_ok=True)
    model = train_watched(recipe, dataset, out, restart=True)
    pixels, labels = to_pixels(dataset.test_images), dataset.test_labels
    evaluations = [evaluate(model, pixels, labels, eps, attack_steps=20) for eps in DEMO_EPS]
    by_margin = certify(model, pixels, labels, 0, method="margin")
    points = [(float(each.certificate.eps), *accuracies(each)[1:]) for each in evaluations]
    plot_certified(out / "certified.png", by_margin, dataset.test_images, dataset.classes, points)
    results = {
        "dataset": "digits",
        "recipe": recipe.to_dict(),
        "version": __version__,
        "seconds": time.perf_counter() - start,
        "results": [each.summary() for each in evaluations],
    }
    write_file(out / RESULTS, json.dumps(results, indent=2).encode())
    console.print(result_table(evaluations, f"{len(labels)} test images, % (95% Clopper-Pearson bounds)"))
    click.echo(f"{out}/ now holds {MODEL}, {RESULTS} and certified.png ({results['seconds']:.0f} s).")
    click.echo(f"Next: linfengine certify {out / MODEL} --eps 1/10 --attack pgd")
    click.echo("or:   linfengine train mnist-small")


@main.command("train")
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Put a setting over the recipe's; may be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder.")
@data_dir_option
@speaks_plainly
def train_command(
    recipe: str, settings: tuple[str, ...], out: Path | None, resume: bool, data_dir: Path | None
) -> None:
    """Train a net by a recipe: one of those listed by `linfengine info`, or a TOML file.

    The folder gets model.safetensors (the result), checkpoint.safetensors (replaced after every epoch, for --resume)
    and metrics.jsonl (a line an epoch).  An interrupted run that is resumed ends with the very same bits.

    The keys of a recipe are described in docs/training.md: --set width=512 --set seed=1 --set held_out=5000.
    """
    chosen = load_recipe(recipe, settings)
    out = out or Path("runs") / Path(recipe).name.removesuffix(".toml")
    start = time.perf_counter()
    try:
        train_watched(chosen, load_dataset(chosen.dataset, data_dir), out, resume=resume)
    except KeyboardInterrupt:
        if (out / CHECKPOINT).exists():
            stop(
                130,
                f"Interrupted. The last finished epoch is safe in {out / CHECKPOINT}; "
                "the same command with --resume goes on from there.",
            )
        stop(130, "Interrupted before the first epoch was done: there is nothing to resume.")
    click.echo(f"Trained in {time.perf_counter() - start:.0f} s: {out / MODEL}")
    eps = Fraction(chosen.eps_test).limit_denominator(1000) or "RADIUS"  # 8/255 as people write it
    click.echo(f"Next: linfengine certify {out / MODEL} --eps {eps}")


@main.command("certify")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--dataset", "name", type=click.Choice(list(DATASETS)), help="[default: the one the model was trained on]"
)
@click.option("--eps", type=EpsType(), required=True, help="Radius of the ℓ∞ ball, pixels being in [0, 1]: 0.3, 8/255.")
@click.option(
    "--method", type=click.Choice(METHODS), default="interval", show_default=True, help="How robustness is proved."
)
@click.option("--attack", type=click.Choice(["pgd"]), help="Also attack every sample, for comparison.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the attack.  [default: 20]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result there as JSON.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many test samples.")
@data_dir_option
@speaks_plainly
def certify_command(
    model: Path,
    name: str | None,
    eps: Fraction,
    method: str,
    attack: str | None,
    steps: int | None,
    json_file: Path | None,
    limit: int | None,
    data_dir: Path | None,
) -> None:
    """Prove how much of a test set a model classifies robustly, at one radius.

    \b
    interval  bounds the logits over every image of the ball that is a valid image
    margin    the gap between the two largest logits against 2 x Lipschitz constant x radius
    """
    if steps and not attack:
        raise UserError("--steps is for an attack: add --attack pgd")
    attack_steps = (steps or 20) if attack else 0
    net, metadata = load_model(model)
    name = name or metadata.get("dataset")
    if name not in DATASETS:
        raise UserError(
            f"{model} does not say which data set it is for: name one with --dataset ({', '.join(DATASETS)})"
        )
    dataset = load_dataset(name, data_dir)
    check_model(net)
    check_fit(net, dataset)
    pixels, labels = to_pixels(dataset.test_images[:limit]), dataset.test_labels[:limit]
    if json_file:
        check_writable(json_file)  # before the work rather than after it
    start = time.perf_counter()
    with console.status(
        f"certifying {len(labels):,} images of {name}" + (f", PGD with {attack_steps} steps" if attack else "")
    ):
        result = evaluate(net, pixels, labels, eps, method=method, attack_steps=attack_steps)
    title = f"{name}, {'first ' if limit else ''}{len(labels):,} test images, {method} certificate"
    console.print(result_table([result], f"{title}, % (95% Clopper-Pearson bounds)"))
    if json_file:
        facts = {
            "dataset": name,
            "model": str(model),
            "version": __version__,
            "attack_steps": attack_steps or None,
            "seconds": time.perf_counter() - start,
        }
        write_file(json_file, json.dumps(result.summary() | facts, indent=2).encode())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@speaks_plainly
def info(as_json: bool) -> None:
    """What this installation is: version, instruction sets, threads, GPU or why none, recipes.

    LINFENGINE_ISA pins the instruction set, LINFENGINE_NUM_THREADS the threads, LINFENGINE_BACKEND the backend.
    """
    facts = installation_facts()
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        table.add_row(key, ", ".join(value) if isinstance(value, list) else str(value))
    console.print(table)


def installation_facts() -> dict[str, Any]:
    facts: dict[str, Any] = {
        "linfengine": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "numpy": np.__version__,
        "backends": available_backends(),
        "backend in use": get_backend().name,
    }
    if "cpu" in facts["backends"]:
        from .backends import cpu

        facts |= {
            "instruction sets": list(cpu.instruction_sets()),
            "instruction set in use": cpu.instruction_set(),
            "threads": cpu.threads(),
            "processors": os.cpu_count(),
            "OpenMP": "yes" if cpu.has_openmp() else "no: built without, so kernels run on one thread",
        }
    return facts | {"gpu": "none: this version computes on the CPU only", "recipes": recipe_names()}


def check_fit(net: Module, dataset: Dataset) -> None:
    """Raises UserError where the model takes images of another shape, or has another number of classes."""
    shape, classes = dataset.test_images.shape[1:], len(dataset.classes)
    if isinstance(net, LinfDistNet):
        if (net.shape, net.classes) != (shape, classes):
            raise UserError(
                f"the model takes images of shape {net.shape} in {net.classes} classes; "
                f"{dataset.name} has {shape} in {classes}"
            )
        return
    try:  # a net of any layers says what it takes only by taking it
        logits = predict(net, to_pixels(dataset.test_images[:1]))
    except ValueError as error:
        raise UserError(f"the model does not take the images of {dataset.name}: {error}") from None
    if logits.shape != (1, classes):
        raise UserError(
            f"the model gives an image logits of shape {logits.shape}; {dataset.name} has {classes} classes"
        )


def accuracies(evaluation: Evaluation) -> tuple[float, float, float]:
    """(clean, attacked, certified) as fractions; attacked is NaN without an attack."""
    attacked = np.nan if evaluation.attacked is None else float(evaluation.attacked.mean())
    return float(evaluation.clean.mean()), attacked, float(evaluation.certified.mean())


def result_table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """A row a radius: clean, attacked and certified accuracy in percent, each with its Clopper–Pearson bounds."""
    table = Table(title=title, title_justify="left")
    for heading in ("ε", "clean", "attacked", "certified"):
        table.add_column(heading, justify="right")
    for evaluation in evaluations:
        summary = evaluation.summary()
        cells = [
            f"{100 * summary[name]:.2f} ({100 * summary['bounds'][name][0]:.1f}–{100 * summary['bounds'][name][1]:.1f})"
            if name in summary
            else "–"
            for name in ("clean", "attacked", "certified")
        ]
        eps = evaluation.certificate.eps
        table.add_row(f"{eps} = {float(eps):.4g}" if eps.denominator > 1 else str(eps), *cells)
    return table


def train_watched(
    recipe: Recipe, dataset: Dataset, out: Path, *, resume: bool = False, restart: bool = False
) -> LinfDistNet:
    with ProgressBar(recipe.epochs) as bar:
        return train(recipe, dataset, out, resume=resume, restart=restart, observer=bar)


class ProgressBar(Observer, AbstractContextManager["ProgressBar"]):
    """A bar for the epochs and one for the steps of the epoch, the figures on a line below.

    Where the output is no terminal, a line now and then takes their place.
    """

    def __init__(self, epochs: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.epochs = self.progress.add_task("epochs", total=epochs)
        self.steps = self.progress.add_task("steps", total=None)
        self.figures = Text()
        self.live = Live(Group(self.progress, self.figures), console=console) if console.is_terminal else None
        self.told = -math.inf  # when the last line was printed

    def __enter__(self) -> ProgressBar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        self.progress.update(self.steps, completed=done, total=steps)
        self.figures.plain = describe(figures)

    def epoch(self, figures: dict[str, Any]) -> None:
        self.progress.update(self.epochs, completed=figures["epoch"])
        done = figures["epoch"] == self.progress.tasks[0].total
        if not self.live and (done or time.monotonic() - self.told > SECONDS_BETWEEN_LINES):
            click.echo(f"epoch {figures['epoch']}: {describe(figures)}")
            self.told = time.monotonic()


def describe(figures: dict[str, Any]) -> str:
    text = (
        f"p {figures['p']:.4g}  lr {figures['lr']:.2g}  loss {figures['loss']:.4f}  "
        f"train accuracy {100 * figures['accuracy']:.1f}%  margin {figures['margin']:.2f}"
    )
    if "held_out_certified" in figures:
        clean, certified = 100 * figures["held_out_accuracy"], 100 * figures["held_out_certified"]
        text += f"  held out {clean:.1f}%, certified {certified:.1f}%"
    return text
