"""The command line: demo, train, plot, ablate, certify, quantize, verify, audit, info.

Exit status: 0 done; 2 a mistake of the person at the keyboard, or a certificate that does not verify, told in one
sentence; 3 something certified was broken; 130 interrupted.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
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
from . import verify as checker
from .ablate import PARTS, ablate
from .ablate import RESULTS as ABLATION
from .audit import SECTIONS, Evaluation, SoundnessError, audit, evaluate
from .backends import NO_GPU, available_backends, describe_fault, get_backend, resolve_device
from .budget import fit_budget, resumed
from .certificate import write_certificate
from .certify import METHODS, Certificate, certify, check_model, check_samples, parse_eps, parse_gray_levels, predict
from .checkpoint import check_writable, load_model, save_model, write_file
from .data import DATASETS, Dataset, load_dataset, split_holdout
from .errors import UserError
from .exact import DEFAULT_FRACTION_BITS, EXACT_LAYERS, MOST_FRACTION_BITS, ExactNet, quantize
from .layers import DistanceNet, Module
from .recipes import PUBLISHED, Recipe, load_recipe, make_recipe, recipe_names
from .runs import EVENTS, METRICS, check_events, read_metrics, write_events
from .train import CHECKPOINT, MODEL, Observer, recipe_in, train

SECONDS_BETWEEN_LINES = 10  # of progress, where the output is no terminal
SECONDS_BETWEEN_EVENTS = 30  # TensorBoard's files are written whole each time
RESULTS = "results.json"  # what the demo writes, and by which it knows a folder of its own
DEMO_EPS = ("1/20", "1/10", "3/20", "1/5")
DEMO_EXACT_EPS = "1/10"
EXACT, CERTIFICATE, DATA = "exact.safetensors", "certificate.jsonl", "test.npz"
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
        except MemoryError as error:
            reason = describe_fault(error) or "this needs more memory than there is: try a smaller width or batch_size"
            stop(2, f"Error: {reason}.")
        except checker.Disagreement as error:
            stop(2, f"Not verified: {str(error).rstrip('.')}.")
        except SoundnessError as error:
            stop(3, f"SOUNDNESS: {error}. Please report this.")
        except KeyboardInterrupt:
            stop(130, "Interrupted.")
        except Exception as error:
            if told := describe_fault(error):
                stop(2, f"Error: {told}.")
            raise

    return wrapped  # type: ignore[return-value]


def stop(status: int, sentence: str) -> NoReturn:
    click.secho(sentence, fg="red", err=True)
    raise SystemExit(status) from None


def check_environment() -> None:
    """Raises UserError where LINFENGINE_BACKEND, LINFENGINE_ISA or LINFENGINE_NUM_THREADS ask for what there is not."""
    try:
        get_backend()
        with suppress(ImportError):  # the environment is looked at where it is compiled
            get_backend("cpu")
    except (ImportError, ValueError) as error:
        raise UserError(str(error)) from None


data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Where data sets lie (else LINFENGINE_DATA, then the user cache).",
)


class RadiusType(click.ParamType):
    """A radius as people write it, kept as an exact fraction."""

    name = "radius"

    def __init__(self, parse: Callable[[str], Fraction]) -> None:
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Fraction:
        try:
            return self.parse(value)
        except UserError as error:
            self.fail(f"{error}.", param, ctx)


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
    linfengine train mnist-small           a real one in half an hour
    linfengine plot runs/mnist-small       its curves
    linfengine ablate mnist-small --drop p_ramp,mean_shift --budget 30
    linfengine certify runs/mnist-small/model.safetensors --eps 0.3
    linfengine quantize runs/mnist-small/model.safetensors --out exact.safetensors
    linfengine certify exact.safetensors --eps 0.3 --certificate proof.jsonl
    linfengine verify proof.jsonl exact.safetensors mnist

    Exit status: 0 done, 2 bad input or a certificate that does not verify, 3 something certified was broken (please
    report it), 130 interrupted.
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
    images: clean, after a PGD attack of 20 steps, and certified, which no attack whatever can undercut.  Then makes an
    exact net of it, exact.safetensors, writes its certificate, certificate.jsonl, and the images, test.npz, and
    verifies that in plain integers.
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
    elif not (out / CHECKPOINT).exists():  # of a training run, which is refused below
        for name in (EXACT, CERTIFICATE, DATA):
            if (out / name).exists():
                raise UserError(f"{out / name} exists, and not from a demo: name another folder with --out")
    with ProgressBar(recipe.epochs) as bar:
        model = train(recipe, dataset, out, restart=True, observer=bar)
    images, labels = dataset.test_images, dataset.test_labels
    evaluations = [evaluate(model, images, labels, eps, attack_steps=20) for eps in DEMO_EPS]
    by_margin = certify(model, images, labels, 0, method="margin")
    points = [(float(each.certificate.eps), *accuracies(each)[1:]) for each in evaluations]
    plot_certified(out / "certified.png", by_margin, images, dataset.classes, points)
    console.print(result_table(evaluations, f"{len(labels)} test images, % (95% Clopper-Pearson bounds)"))
    exact = evaluate(
        quantized(out / MODEL, out / EXACT), images, labels, DEMO_EXACT_EPS, method="exact", attack_steps=20
    )
    write_certificate(out / CERTIFICATE, exact.certificate, out / EXACT, images, labels, dataset="digits", split="test")
    packed = io.BytesIO()
    np.savez_compressed(packed, images=images, labels=labels)
    write_file(out / DATA, packed.getvalue())  # for the checker where there is no engine
    tell_certificate(exact.certificate)
    verify_watched(out / CERTIFICATE, out / EXACT, *checker.read_data(out / DATA))
    results = {
        "dataset": "digits",
        "recipe": recipe.to_dict(),
        "version": __version__,
        "seconds": time.perf_counter() - start,
        "results": [each.summary() for each in [*evaluations, exact]],
    }
    write_file(out / RESULTS, json.dumps(results, indent=2).encode())
    click.echo(f"{out}/ now holds {MODEL}, {EXACT}, {CERTIFICATE}, {DATA}, {RESULTS} and certified.png", nl=False)
    click.echo(f" ({results['seconds']:.0f} s).")
    click.echo(f"Next: linfengine audit {out / EXACT} --eps 1/10")
    click.echo("or:   linfengine train mnist-small")


@main.command("train")
@click.argument("recipe", metavar="RECIPE")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Put a setting over the recipe's; may be repeated."
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on with the interrupted run in the folder.")
@click.option(
    "--budget",
    type=float,
    metavar="MINUTES",
    help="Fit width, epochs and schedule to this machine and so many minutes of training.",
)
@click.option(
    "--keep", type=click.IntRange(min=0), default=0, show_default=True, help="Also keep so many earlier checkpoints."
)
@click.option(
    "--tensorboard", is_flag=True, help="Also write TensorBoard event files, as training goes on, to OUT/events."
)
@device_option
@data_dir_option
@speaks_plainly
def train_command(
    recipe: str,
    settings: tuple[str, ...],
    out: Path | None,
    resume: bool,
    budget: float | None,
    keep: int,
    tensorboard: bool,
    device: str,
    data_dir: Path | None,
) -> None:
    """Train a net by a recipe: one of those listed by `linfengine info`, or a TOML file.

    The folder gets model.safetensors (the result), best.safetensors (the net after the epoch that certified most
    held-out samples, where there are any), checkpoint.safetensors (replaced after every epoch, for --resume) and
    metrics.jsonl (a line an epoch, see `linfengine plot`).  An interrupted run that is resumed on the same device ends
    with the very same bits; on another device it goes on as well.

    The keys of a recipe are described in docs/training.md: --set width=512 --set seed=1 --set held_out=5000.
    """
    chosen = load_recipe(recipe, settings)
    out = out or Path("runs") / Path(recipe).name.removesuffix(".toml")
    start = time.perf_counter()
    dataset, device = load_dataset(chosen.dataset, data_dir), usable_device(device)
    if tensorboard:
        check_events(out / EVENTS)  # now rather than after an epoch
    if budget is not None:
        begun = recipe_in(out)
        if begun and not resume:
            raise UserError(f"{out} already holds a training run: go on with it (--resume) or choose another folder")
        if begun:
            chosen = resumed(chosen, begun)
        elif not resume:
            chosen = fitted(chosen, dataset, budget, device)
    try:
        with ProgressBar(chosen.epochs, out if tensorboard else None) as bar:
            train(chosen, dataset, out, resume=resume, keep=keep, device=device, observer=bar)
    except KeyboardInterrupt:
        if (out / CHECKPOINT).exists():
            stop(
                130,
                f"Interrupted. The last finished epoch is safe in {out / CHECKPOINT}; "
                "the same command with --resume goes on from there.",
            )
        stop(130, "Interrupted before the first epoch was done: there is nothing to resume.")
    click.echo(f"Trained in {time.perf_counter() - start:.0f} s: {out / MODEL}")
    eps = as_written(chosen.eps_test) or "RADIUS"
    click.echo(f"Next: linfengine certify {out / MODEL} --eps {eps}")


def fitted(recipe: Recipe, dataset: Dataset, minutes: float, device: str) -> Recipe:
    with console.status("timing a few steps"):
        result = fit_budget(recipe, dataset, minutes, device)
    click.echo(f"For {minutes:g} min on this machine: {size_of(result)}, {result.epochs} epochs.")
    return result


def size_of(recipe: Recipe) -> str:
    """A net's size in words."""
    body = f"{recipe.channels} channels" if recipe.net == "conv" else f"{recipe.depth} layers, {recipe.width} wide"
    return f"{body}, an MLP of {recipe.head} on top" if recipe.head else body


@main.command("plot")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", type=click.Path(path_type=Path), help="A .png, .svg or .pdf.  [default: RUN/curves.png]")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard event files to RUN/events as well.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
@speaks_plainly
def plot_command(runs: tuple[Path, ...], out: Path | None, tensorboard: bool, json_file: Path | None) -> None:
    """Draw the learning curves of training runs, several of them overlaid: their folders, finished or not.

    Loss, accuracy, certified accuracy (of the held-out samples, where the recipe sets some apart: --set held_out=1000),
    p, learning rate, and the margins of the training samples.
    """
    from .plots import plot_runs

    folder = runs[0] if runs[0].is_dir() else runs[0].parent
    out = out or folder / "curves.png"
    check_results([out, *(file for run in runs for file in (run, run / METRICS))], json_file)
    folders = [run if run.is_dir() else run.parent for run in map(Path.resolve, runs)]
    names = [folder.name or str(folder) for folder in folders]
    keys = names if len(set(names)) == len(names) else [str(run) for run in runs]
    figures = {key: read_metrics(run) for key, run in zip(keys, runs, strict=True)}
    plot_runs(out, figures)
    click.echo(f"Drawn: {out}")
    for run in runs if tensorboard else ():
        click.echo(f"Next, with TensorBoard (pip install tensorboard): tensorboard --logdir {write_events(run)}")
    if json_file:
        written = {
            key: [each | {"p": "inf"} if math.isinf(each["p"]) else each for each in figures[key]] for key in keys
        }
        write_file(json_file, json.dumps(written, indent=2).encode())


PARTS_IN_WORDS = "\b\nThe parts, and what takes their place:\n" + "\n".join(
    f"{name:<15} {part.instead}" for name, part in PARTS.items()
)


@main.command("ablate", epilog=PARTS_IN_WORDS)
@click.argument("recipe", metavar="RECIPE")
@click.option("--drop", required=True, metavar="PART,...", help="Parts to leave out, one at a time; all for every one.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Put a setting over the recipe's; may be repeated."
)
@click.option(
    "--budget", type=float, metavar="MINUTES", help="For all the runs together.  [default: the recipe's epochs]"
)
@click.option("--seeds", type=int, default=1, show_default=True, help="Runs of each variant, to average over.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the runs.  [default: runs/RECIPE-ablation]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the table there as JSON.")
@device_option
@data_dir_option
@speaks_plainly
def ablate_command(
    recipe: str,
    drop: str,
    settings: tuple[str, ...],
    budget: float | None,
    seeds: int,
    out: Path | None,
    json_file: Path | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """What each part of the training strategy is worth: train the recipe whole, and once without each part.

    Judged on held-out training samples, certified at the recipe's eps_test; the test set is not touched.  The same
    command goes on with an interrupted ablation.
    """
    chosen = load_recipe(recipe, settings)
    out = out or Path("runs") / f"{Path(recipe).name.removesuffix('.toml')}-ablation"
    check_results([out / ABLATION], json_file)
    names = [name.strip() for name in drop.split(",") if name.strip()]
    dataset, device = load_dataset(chosen.dataset, data_dir), usable_device(device)
    try:
        with ProgressBar() as bar:
            rows = ablate(chosen, dataset, names, out, minutes=budget, seeds=seeds, device=device, begin=bar.begin)
    except KeyboardInterrupt:
        if not (out / ABLATION).exists():
            stop(130, "Interrupted before the first run began.")
        stop(130, f"Interrupted. What was trained is safe in {out}; the same command goes on from there.")
    facts = json.loads((out / ABLATION).read_text(encoding="utf-8"))
    own = make_recipe(facts["recipe"])
    table = Table(
        title=f"{recipe}: {size_of(own)}, {own.epochs} epochs\n{own.held_out:,} held-out samples at "
        f"ε = {as_written(own.eps_test)}, %" + (f", means of {seeds} seeds" if seeds > 1 else ""),
        title_justify="left",
    )
    for heading in ("without", "instead", "clean", "certified", *["least–most"] * (seeds > 1), "lost", "s"):
        left = heading in ("without", "instead")
        table.add_column(heading, justify="left" if left else "right", no_wrap=heading != "instead")
    for row in rows:
        clean, certified, gain = (f"{100 * row[key]:.2f}" for key in ("clean", "certified", "gain"))
        spread = [f"{100 * min(row['by_seed']):.2f}–{100 * max(row['by_seed']):.2f}"] * (seeds > 1)
        diverged = f" ({row['diverged']} of {seeds} diverged)" if row["diverged"] else ""
        table.add_row(
            row["part"] or "–", row["instead"] + diverged, clean, certified, *spread, gain, f"{row['seconds']:.0f}"
        )
    console.print(table)
    click.echo(f"The runs are in {out}/.")
    if json_file:
        write_file(json_file, json.dumps({"name": recipe, "seeds": seeds, **facts}, indent=2).encode())


@main.command("certify")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@dataset_option
@eps_option
@gray_levels_option
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How robustness is proved.  [default: exact for an exact net, interval for others]",
)
@click.option("--attack", type=click.Choice(["pgd"]), help="Also attack every sample, for comparison.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of the attack.  [default: 20]")
@click.option("--restarts", type=click.IntRange(min=1), help="Starts of the attack.  [default: 1]")
@click.option("--targeted", is_flag=True, help="Attack towards every other class, too.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    help="Write the claims on every sample there, for `linfengine verify`.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the result there as JSON.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first so many test samples.")
@device_option
@data_dir_option
@speaks_plainly
def certify_command(
    model: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    method: str | None,
    attack: str | None,
    steps: int | None,
    restarts: int | None,
    targeted: bool,
    certificate: Path | None,
    json_file: Path | None,
    limit: int | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Prove how much of a test set a model classifies robustly, at one radius.

    \b
    margin    the gap between the two largest logits against 2 x Lipschitz constant x radius, rounding paid for
    interval  that; where it is too small, bounds on the logits over every valid image of the ball
    exact     the same for an exact net (see quantize), in integers: nothing is rounded
    """
    if (steps or restarts or targeted) and not attack:
        raise UserError("--steps, --restarts and --targeted are for an attack: add --attack pgd")
    eps = one_radius(eps, gray_levels)
    attack_steps = (steps or 20) if attack else 0
    net, dataset, metadata = load_with_data(model, name, data_dir)
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    check_results([model], certificate, json_file)
    if certificate:
        check_verifiable(net)
    method = method or ("exact" if isinstance(net, ExactNet) else "interval")
    recipe = recipe_of(model, metadata)
    theirs = metadata.get("dataset") == dataset.name and as_written(recipe.get("eps_test", 0)) == eps and not limit
    published = recipe.get("published") if theirs else None
    net.to(usable_device(device))
    start = time.perf_counter()
    what = f"certifying {len(labels):,} images of {dataset.name}"
    with console.status(what + (f", PGD with {attack_steps} steps" if attack else "")):
        result = evaluate(
            net, images, labels, eps,
            method=method, attack_steps=attack_steps, restarts=restarts or 1, targeted=targeted,
        )  # fmt: skip
    title = f"{dataset.name}, {'first ' if limit else ''}{len(labels):,} test images, {method} certificate"
    console.print(result_table([result], f"{title}, % (95% Clopper-Pearson bounds)", published))
    if published:
        with suppress(UserError):  # a recipe of another version
            own = make_recipe(recipe)
            click.echo(f"This net: {size_of(own)}, {own.epochs} epochs.")
        if recipe.get("source"):
            click.echo(f"Published: {str(recipe['source']).rstrip('.')}.")
    tell_certificate(result.certificate)
    if certificate:
        write_certificate(certificate, result.certificate, model, images, labels, dataset=dataset.name, split="test")
        click.echo(f"Next: linfengine verify {certificate} {model} {dataset.name}")
    if json_file:
        facts = {
            "dataset": dataset.name,
            "model": str(model),
            "version": __version__,
            "device": net.device,
            "attack_steps": attack_steps or None,
            "attack_restarts": (restarts or 1) if attack else None,
            "attack_targeted": targeted if attack else None,
            "published": published,
            "seconds": time.perf_counter() - start,
        }
        write_file(json_file, json.dumps(result.summary() | facts, indent=2).encode())


@main.command("quantize")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@click.option(
    "--fraction-bits",
    type=click.IntRange(0, MOST_FRACTION_BITS),
    default=DEFAULT_FRACTION_BITS,
    show_default=True,
    metavar="F",
    help="Numbers become multiples of 2^-F gray levels; with 0 the net runs on bytes.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File of the exact net.")
@dataset_option
@eps_option
@gray_levels_option
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the comparison there as JSON.")
@data_dir_option
@speaks_plainly
def quantize_command(
    model: Path,
    fraction_bits: int,
    out: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    json_file: Path | None,
    data_dir: Path | None,
) -> None:
    """Make an exact net of a trained one: in gray levels, on a grid, evaluated without any rounding.

    The exact net is a model of its own, with the same logits on every machine, whose certificates are comparisons of
    integers.  Shows what rounding its numbers did to the accuracies, at the radius of its recipe or the one named, on
    training images that were held out if there are any, else on the test images.
    """
    check_results([model], json_file)
    check_exact_place(model, out, json_file)
    net, dataset, metadata = load_with_data(model, name, data_dir)
    recipe = recipe_of(model, metadata)
    eps = one_radius(eps, gray_levels, recipe)
    exact = quantized(model, out, fraction_bits)
    images, labels, which = dataset.test_images, dataset.test_labels, "test"
    if held_out := recipe.get("held_out"):
        try:
            _, chosen = split_holdout(dataset.train_labels, held_out)
        except ValueError as error:
            raise UserError(f"{model}: the recipe in it cannot be read ({error})") from None
        images, labels, which = dataset.train_images[chosen], dataset.train_labels[chosen], "held-out"
    table = Table()
    for heading in ("net", "clean, %", "certified, %"):
        table.add_column(heading, justify="left" if heading == "net" else "right")
    results = {}
    for form, each in (("float32", net), (f"exact, {fraction_bits} fraction bits", exact)):
        results[form] = evaluate(each, images, labels, eps).summary()
        table.add_row(form, *(f"{100 * results[form][key]:.2f}" for key in ("clean", "certified")))
    console.print(f"{dataset.name}, {len(labels):,} {which} images, ε = {radius_text(eps)}", table, sep="\n")
    largest = exact.rounding(float(exact.white))[1]
    click.echo(f"Proved: no value exceeds {largest:.0f} gray levels, so float32 holds all multiples of {exact.step}.")
    click.echo(f"Next: linfengine certify {out} --eps {eps} --certificate {out.with_suffix('.jsonl')}")
    if json_file:
        facts = {"dataset": dataset.name, "images": which, "fraction_bits": fraction_bits, "largest value": largest}
        write_file(json_file, json.dumps(facts | {"results": results}, indent=2).encode())


@main.command("verify")
@click.argument("certificate", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="CERTIFICATE")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="MODEL")
@click.argument("data", metavar="DATA")
@click.option("--samples", type=click.IntRange(min=1), help="Re-derive so many, drawn at random.  [default: all]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the verdict there as JSON.")
@data_dir_option
@speaks_plainly
def verify_command(
    certificate: Path, model: Path, data: str, samples: int | None, json_file: Path | None, data_dir: Path | None
) -> None:
    """Re-derive a certificate file with the independent checker, in unlimited integers.

    DATA is the name of a data set, an .npz file with images and labels, or a folder with official test files.  The
    checker is one file that uses nothing of the engine, linfengine/verify.py, and runs alone: python verify.py
    CERTIFICATE MODEL DATA.  Exit status 2 and the first disagreement if there is one.
    """
    check_results([certificate, model, Path(data)], json_file)
    if data in DATASETS:
        dataset = load_dataset(data, data_dir)
        images, labels = dataset.test_images, dataset.test_labels
    else:
        images, labels = checker.read_data(data)
    header = verify_watched(certificate, model, images, labels, samples)
    if json_file:
        write_file(json_file, json.dumps({"verified": True, "samples": samples} | header, indent=2).encode())


@main.command("audit")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL")
@dataset_option
@eps_option
@gray_levels_option
@click.option("--limit", type=click.IntRange(min=1), default=500, show_default=True, help="The first so many samples.")
@click.option("--effort", type=click.IntRange(min=1), default=1, show_default=True, help="Times as many attempts.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random attempts.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the report.  [default: MODEL-audit]")
@device_option
@data_dir_option
@speaks_plainly
def audit_command(
    model: Path,
    name: str | None,
    eps: Fraction | None,
    gray_levels: Fraction | None,
    limit: int,
    effort: int,
    seed: int,
    out: Path | None,
    device: str,
    data_dir: Path | None,
) -> None:
    """Try to break a model's certificates, and the engine that made them.

    Searches for pairs of images that contradict the Lipschitz constant; attacks every certified sample, also in the
    last place; compares backends, instruction sets and threads bit for bit; checks gradients, and certificates against
    exact arithmetic.  Writes audit.txt, audit.json and audit.png into the folder.  Exit status 3 if anything broke.
    """
    from .plots import plot_audit

    net, dataset, metadata = load_with_data(model, name, data_dir)
    eps = one_radius(eps, gray_levels, recipe_of(model, metadata))
    out = out or model.with_name(f"{model.stem}-audit")
    check_writable(out / "audit.txt")
    net.to(usable_device(device))
    images, labels = dataset.test_images[:limit], dataset.test_labels[:limit]
    start = time.perf_counter()
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console) as progress:
        task = progress.add_task("", total=len(SECTIONS))

        def begin(section: str) -> None:
            progress.update(task, description=section, completed=list(SECTIONS).index(section))

        sections = audit(net, images, labels, eps, effort=effort, seed=seed, progress=begin)
        progress.update(task, description="done", completed=len(SECTIONS))
    title = f"Audit of {model} on {len(labels):,} test images of {dataset.name} at ε = {radius_text(eps)}"
    lines = [title, *(f"{'holds ' if each.sound else 'BROKEN'}  {each.name}: {each.text}." for each in sections)]
    for line in lines:
        click.echo(line)
    facts = {
        "model": str(model), "dataset": dataset.name, "n": len(labels), "eps": str(eps), "seed": seed, "effort": effort,
        "version": __version__, "device": net.device, "seconds": time.perf_counter() - start,
        "sections": [vars(each) for each in sections],
    }  # fmt: skip
    write_file(out / "audit.txt", ("\n".join(lines) + "\n").encode())
    write_file(out / "audit.json", json.dumps(facts, indent=2).encode())
    plot_audit(out / "audit.png", title, sections)
    click.echo(f"{out}/ now holds audit.txt, audit.json and audit.png ({facts['seconds']:.0f} s).")
    for each in sections:
        if not each.sound:
            raise SoundnessError(f"{each.name}: {each.text}")


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
    return facts | {"gpu": gpu_facts(), "recipes": recipe_names()}


def gpu_facts() -> str:
    """The GPU in words, or why there is none to use."""
    try:
        get_backend("gpu")
    except ImportError as error:
        return "none: " + str(error).removeprefix(NO_GPU)
    from .backends import gpu

    return gpu.description()


def load_with_data(model: Path, name: str | None, data_dir: Path | None) -> tuple[Module, Dataset, dict[str, str]]:
    """A model that can be certified, its data set or the one named, and the model file's metadata."""
    net, metadata = load_model(model)
    name = name or metadata.get("dataset")
    if name not in DATASETS:
        raise UserError(
            f"{model} does not say which data set it is for: name one with --dataset ({', '.join(DATASETS)})"
        )
    dataset = load_dataset(name, data_dir)
    check_model(net)
    check_fit(net, dataset)
    return net, dataset, metadata


def check_results(given: Sequence[Path], *results: Path | None) -> None:
    """Raises UserError where JSON could not be written, or would be written over something that is not JSON.

    To be known before the work rather than after it.
    """
    taken = {path.resolve() for path in given}
    for file in filter(None, results):
        if file.resolve() in taken:
            raise UserError(f"{file}: the result would be written over another file of this command, name another")
        taken.add(file.resolve())
        check_writable(file)
        if file.exists() and file.read_bytes()[:1] not in (b"", b"{"):
            raise UserError(f"{file}: it exists and is no JSON, so it is not written over, name another")


def check_exact_place(model: Path, out: Path, json_file: Path | None) -> None:
    """Raises UserError where the exact net could not be written, or would be written over anything but an exact net."""
    if out.resolve() in {path.resolve() for path in (model, json_file) if path}:
        raise UserError(f"{out}: the exact net would be written over another file of this command, name another")
    check_writable(out)
    if out.exists() and not isinstance(load_model(out)[0], ExactNet):
        raise UserError(f"{out}: it exists and is no exact net, so it is not written over, name another")


def check_verifiable(net: Module) -> None:
    """Raises UserError where the checker has no rules for the net, and its certificate file could not be verified."""
    for name, layer in net.modules():
        if name and not isinstance(layer, EXACT_LAYERS):
            raise UserError(
                f"no certificate file can be written for this net: `linfengine verify` has no rule for its "
                f"{type(layer).__name__} layer {name}"
            )


def check_fit(net: Module, dataset: Dataset) -> None:
    """Raises UserError where the model takes images of another shape, or has another number of classes."""
    shape, classes = dataset.test_images.shape[1:], len(dataset.classes)
    if isinstance(net, DistanceNet):
        if (net.shape, net.classes) != (shape, classes):
            raise UserError(
                f"the model takes images of shape {net.shape} in {net.classes} classes; "
                f"{dataset.name} has {shape} in {classes}"
            )
        return
    try:  # a net of any layers says what it takes only by taking it
        logits = predict(net, check_samples(net, dataset.test_images[:1], dataset.test_labels[:1])[0])
    except ValueError as error:
        raise UserError(f"the model does not take the images of {dataset.name}: {error}") from None
    if logits.shape != (1, classes):
        raise UserError(
            f"the model gives an image logits of shape {logits.shape}; {dataset.name} has {classes} classes"
        )


def one_radius(eps: Fraction | None, gray_levels: Fraction | None, recipe: dict[str, Any] | None = None) -> Fraction:
    """The radius named in one unit or the other, or that of a recipe."""
    if eps is not None and gray_levels is not None:
        raise UserError("--eps and --gray-levels name the same radius: give one of them")
    if eps is None and gray_levels is None and recipe and recipe.get("eps_test"):
        return as_written(recipe["eps_test"])
    found = gray_levels if eps is None else eps
    if found is None:
        raise UserError("a radius is needed: --eps 0.3 with pixels in [0, 1], or --gray-levels 76.5 of 255")
    return found


def as_written(eps: float) -> Fraction:
    """A recipe's radius as people write it: 8/255 if it is that to five decimal places, else the decimal number."""
    gray = Fraction(round(255 * eps), 255)
    return parse_eps(gray if abs(gray - Fraction(eps)) < Fraction(1, 10**5) else eps)


def recipe_of(model: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The recipe that a model file names, as far as it is one.  Raises UserError for metadata that are none."""
    try:
        recipe = json.loads(metadata.get("recipe", "{}"))
        if recipe.get("eps_test"):
            as_written(recipe["eps_test"])
        published = recipe.get("published", {})
        if not (isinstance(published, dict) and all(type(value) in (int, float) for value in published.values())):
            raise ValueError("published holds no figures")
        if type(recipe.get("held_out", 0)) not in (int, float) or recipe.get("held_out", 0) < 0:
            raise ValueError("held_out is no number of samples")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{model}: the recipe in it cannot be read ({error})") from None
    return recipe


def radius_text(eps: Fraction) -> str:
    return f"{eps} = {float(255 * eps):g} gray levels" if eps.denominator > 1 else str(eps)


def tell_certificate(certificate: Certificate) -> None:
    click.echo(f"ε = {radius_text(certificate.eps)}. Arithmetic: {certificate.arithmetic}.")
    click.echo(f"Rests on {certificate.rests_on}.")


def quantized(model: Path, out: Path, fraction_bits: int = DEFAULT_FRACTION_BITS) -> ExactNet:
    """The exact net of a model's file, saved with its metadata."""
    net, metadata = load_model(model)
    exact = quantize(net, fraction_bits)
    kept = {key: metadata[key] for key in ("dataset", "recipe") if key in metadata}
    save_model(exact, out, **kept, quantized_from=hashlib.sha256(model.read_bytes()).hexdigest())
    return exact


def verify_watched(
    certificate: Path, model: Path, images: Any, labels: Any, samples: int | None = None
) -> dict[str, Any]:
    """The header of a certificate that the checker has re-derived, with a bar and a sentence."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("re-derived in integers", total=None)

        def tell(done: int, of: int) -> None:
            progress.update(task, completed=done, total=of)

        header = checker.verify(certificate, model, images, labels, samples, tell)
    certified = header["certified"]["count"]
    click.echo(
        f"Verified: {certified:,} of {header['n']:,} samples certified at ε = {radius_text(Fraction(header['eps']))}, "
        f"{header['n'] if samples is None else min(samples, header['n']):,} of the {header['n']:,} re-derived."
    )
    return header


def accuracies(evaluation: Evaluation) -> tuple[float, float, float]:
    """(clean, attacked, certified) as fractions; attacked is NaN without an attack."""
    attacked = np.nan if evaluation.attacked is None else float(evaluation.attacked.mean())
    return float(evaluation.clean.mean()), attacked, float(evaluation.certified.mean())


def result_table(evaluations: Sequence[Evaluation], title: str, published: dict[str, float] | None = None) -> Table:
    """A row a radius: clean, attacked and certified accuracy in percent, each with its Clopper–Pearson bounds.

    Below, the published figures, where there are any.
    """
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
    if published:
        figures = (f"{published[key]:.2f}" if key in published else "–" for key in PUBLISHED)
        table.add_row("published", *figures)
    return table


class ProgressBar(Observer, AbstractContextManager["ProgressBar"]):
    """A bar for the epochs and one for the steps of the epoch, the figures on a line below.

    Where the output is no terminal, a line now and then takes their place.  With `events`, the folder of the run, its
    TensorBoard files are written now and then, and at the end; where they cannot be, the run goes on without them.
    """

    def __init__(self, epochs: int | None = None, events: Path | None = None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            speed_estimate_period=math.inf,  # an epoch may take longer than the half minute that rich looks back
        )
        self.epochs = self.progress.add_task("epochs", total=epochs)
        self.steps = self.progress.add_task("steps", total=None)
        self.figures = Text()
        self.live = Live(Group(self.progress, self.figures), console=console) if console.is_terminal else None
        self.told = self.shown = -math.inf  # when the last line was printed, and the last events were written
        self.events = events
        self.held_out: dict[str, float] = {}

    def begin(self, name: str, recipe: Recipe, number: int, of: int) -> ProgressBar:
        """The next of several runs."""
        name = f"{name} ({number} of {of})"
        self.progress.reset(self.epochs, description=f"{name}: epochs", total=recipe.epochs)
        self.held_out = {}
        tell = self.live.console.print if self.live else click.echo
        tell(f"{name}: {size_of(recipe)}, {recipe.epochs} epochs")
        return self

    def __enter__(self) -> ProgressBar:
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live:
            self.live.stop()
        if self.shown > -math.inf:  # an epoch was done: it is this run's folder
            self._write_events()

    def step(self, epoch: int, done: int, steps: int, figures: dict[str, float]) -> None:
        if done == 1:
            self.progress.reset(self.steps, total=steps)
        self.progress.update(self.steps, completed=done)
        self.figures.plain = describe(figures | self.held_out)

    def epoch(self, figures: dict[str, Any]) -> None:
        self.progress.update(self.epochs, completed=figures["epoch"])
        self.held_out = {key: value for key, value in figures.items() if key.startswith("held_out")}
        done = figures["epoch"] == self.progress.tasks[0].total
        if not self.live and (done or time.monotonic() - self.told > SECONDS_BETWEEN_LINES):
            left = self.progress.tasks[0].time_remaining
            told = f"epoch {figures['epoch']}: {describe(figures)}"
            if not done and left is not None:
                told += f"  {left / 60:.0f} min left" if left >= 90 else f"  {left:.0f} s left"
            click.echo(told)
            self.told = time.monotonic()
        if time.monotonic() - self.shown > SECONDS_BETWEEN_EVENTS:
            self.shown = time.monotonic()
            self._write_events()

    def _write_events(self) -> None:
        if self.events:
            try:
                write_events(self.events)
            except UserError as error:
                click.secho(f"No more TensorBoard files of this run: {error}.", fg="yellow", err=True)
                self.events = None


def describe(figures: dict[str, Any]) -> str:
    text = (
        f"p {figures['p']:.4g}  lr {figures['lr']:.2g}  loss {figures['loss']:.4f}  "
        f"train accuracy {100 * figures['accuracy']:.1f}%  margin {figures['margin']:.2f}"
    )
    if "held_out_certified" in figures:
        clean, certified = 100 * figures["held_out_accuracy"], 100 * figures["held_out_certified"]
        text += f"  held out {clean:.1f}%, certified {certified:.1f}%"
    return text
