"""Pictures of results (matplotlib, without a display)."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from .audit import ATTACK, FLOATING_POINT, LIPSCHITZ, RADII, Section
from .backends import Array
from .certify import Certificate
from .errors import UserError
from .files import write_file
from .text import printable
from .train.metrics import MARGIN_EDGES

BLUE, GREY, ORANGE = "#2a6fbb", "#8a8a8a", "#d9822b"
DARK = "#555555"  # small text
# the colours of Okabe and Ito for colour-blind readers, without yellow, which is too faint for a line
RUN_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
RUN_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "svg.hashsalt": "linfengine",  # equal runs give equal files
}
DASHED: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.0, "markerfacecolor": "none"}
DATELESS: dict[str, dict[str, Any]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}


def plot_certified(
    path: str | Path,
    margin: Certificate,
    images: Array,
    classes: Sequence[str],
    points: Sequence[tuple[float, float, float]],
) -> None:
    """Certified accuracy against ε, and a few images with the radius proved for each; a PNG.

    `margin` is a margin certificate of `images` (n, c, h, w), whose radii give the whole curve; `points`
    are (ε, PGD accuracy, interval-certified accuracy).
    """
    radius = np.where(margin.correct, margin.radius, -1.0)
    edge = max([eps for eps, _, _ in points] + [float(np.quantile(radius, 0.99))]) * 1.1
    eps = np.linspace(0, edge, 400)
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 4.4), layout="constrained")
        grid = figure.add_gridspec(1, 2, width_ratios=(1.15, 1))
        left, right = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
        axes = left.subplots()
        axes.plot(eps, 100 * (radius[None, :] > eps[:, None]).mean(axis=1), color=BLUE, label="certified (margin)")
        axes.plot(
            [e for e, _, _ in points], [100 * c for _, _, c in points], "o", color=BLUE, label="certified (interval)"
        )
        axes.plot([e for e, _, _ in points], [100 * a for _, a, _ in points], "v", color=ORANGE, label="withstands PGD")
        axes.axhline(100 * margin.correct.mean(), color=GREY, linestyle=":", label="clean")
        axes.set(
            xlabel="radius ε of the ℓ∞ ball (pixels in [0, 1])", ylabel="test images, %", ylim=(0, 101), xlim=(0, edge)
        )
        axes.legend(frameon=False, loc="lower left")
        _image_grid(right, margin, images, classes)
        content = _drawn(figure, format="png", dpi=140)
    write_file(path, content)


def _image_grid(
    figure: matplotlib.figure.SubFigure, margin: Certificate, images: Array, classes: Sequence[str]
) -> None:
    """Eight images from the smallest to the largest radius."""
    order = np.argsort(np.where(margin.correct, margin.radius, -1), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, 8).astype(int)]
    for axes, i in zip(figure.subplots(2, 4).flat, chosen, strict=True):
        picture = images[i].transpose(1, 2, 0)
        axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray_r", vmin=0, vmax=255)
        predicted = printable(classes[margin.prediction[i]])
        verdict = f"{predicted}, ε = {margin.radius[i]:.3f}" if margin.correct[i] else f"wrong: {predicted}"
        axes.set_title(verdict, fontsize=9, parse_math=False)
        axes.set_axis_off()
    figure.suptitle("prediction, and the radius within which it is proved", fontsize=10)


def _drawn(figure: Figure, **settings: Any) -> bytes:
    """The file of a figure. A character that the font lacks is drawn as a box, without a warning."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, **settings)
    return buffer.getvalue()


def plot_audit(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """How near an audit came to breaking the Lipschitz bound, the margins, and radii taken from margins; a PNG."""
    figures = {section.name: section.figures for section in sections}
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(14, 4.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        kinds = figures[LIPSCHITZ]["by kind"]
        left.barh(list(kinds), [kind["ratio"] for kind in kinds.values()], color=BLUE)
        left.axvline(1, color=ORANGE)
        left.invert_yaxis()
        left.set(xlabel="largest change of a logit / what is proved", xlim=(0, 1.05), title=LIPSCHITZ)
        attack = figures[ATTACK]
        middle.plot(attack.get("margin", []), attack.get("attacked margin", []), ".", color=BLUE, markersize=3)
        middle.axhline(0, color=ORANGE)
        middle.set(
            xlabel="margin of a certified image", ylabel="smallest found in its ball", title="attack", xlim=(0, None)
        )
        for what, each in figures[FLOATING_POINT].items():
            shares = [100 * each[claim] / max(each["tried"], 1) for claim in RADII]
            right.plot(RADII, shares, "o--", label=f"{each['tried']} {what}")
        right.set(ylabel="radii beaten, %", ylim=(-1, None), title="floating-point attack on a radius r")
        right.legend(frameon=False)
        figure.suptitle(printable(title), fontsize=10, parse_math=False)
        content = _drawn(figure, format="png", dpi=120)
    write_file(path, content)


def plot_runs(path: str | Path, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draw training runs in the same axes: the figure of `run_figure`, as PNG, SVG or PDF by the suffix.

    `runs` maps the name of each run in the legend to its epochs, as `train.metrics.read_metrics` returns them.

    Raises UserError for another suffix, for no runs, for a run without epochs, and as `write_file`.
    """
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in DATELESS:
        raise UserError(f"{path}: expected a picture's name that ends in .png, .svg or .pdf")
    with matplotlib.rc_context(RUN_STYLE):  # ticks are made during drawing
        content = _drawn(run_figure(runs), format=kind, dpi=140, metadata=DATELESS[kind])
    write_file(path, content)


def run_figure(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Loss, accuracy, certified accuracy; p, learning rate, training margins: a colour a run, and one legend.

    Solid lines are held-out samples, certified at eps_test with p = ∞. Dashed lines are training samples, counted if
    their margin exceeds 2ε_train, or the bounds of a head are right, at the current p.
    `plot_runs` draws it in RUN_STYLE.
    Raises UserError for no runs, and for a run without epochs.
    """
    if not runs:
        raise UserError("runs: expected at least one run to draw, got none")
    for name, epochs in runs.items():
        if not epochs:
            raise UserError(f"runs: expected at least one epoch of {name}, got none")
    colours = dict(zip(runs, run_colours(len(runs)), strict=True))
    rows = math.ceil(len(runs) / _columns(runs))
    layout = ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08)
    figure = Figure(figsize=(12, 6.4 + 0.2 * (rows - 1)), layout=layout)
    (loss, accuracy, certified), (order, rate, margins) = figure.subplots(2, 3)

    top = infinity_level([figures["p"] for epochs in runs.values() for figures in epochs])
    widths = np.linspace(2.6, 1.4, len(runs) + 1)[1:]  # runs often share a schedule: each line shows beneath the next
    for (name, epochs), width in zip(runs.items(), widths, strict=True):
        colour = colours[name]
        _curve(loss, name, epochs, "loss", colour)
        _curve(accuracy, name, epochs, "accuracy", colour, dashed=True, unit=100)
        _curve(accuracy, name, epochs, "held_out_accuracy", colour, unit=100)
        _curve(certified, name, epochs, "beyond_2eps", colour, dashed=True, unit=100)
        _curve(certified, name, epochs, "held_out_certified", colour, unit=100)
        _curve(order, name, [{**each, "p": min(each["p"], top)} for each in epochs], "p", colour, linewidth=width)
        _curve(rate, name, epochs, "lr", colour, linewidth=width)
    loss.set_title("training loss")
    losses = np.concatenate([line.get_ydata() for line in loss.lines])
    if 0 < 20 * losses.min() < losses.max():
        loss.set_yscale("log")
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        loss.yaxis.set_minor_locator(NullLocator())
        loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    accuracy.set_title("accuracy, %")
    _key(accuracy, "training", "held-out")
    proved = any("held_out_certified" in figures for epochs in runs.values() for figures in epochs)
    certified.set_title("certified, %" if proved else "robust in training, %")
    _key(certified, "training (no proof)", "held-out")
    order.set_title("order p")
    _order_axis(order, top)
    rate.set_title("learning rate")
    rate.set_ylim(0, None)
    rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    _margins(margins, runs, colours)
    for axes in (loss, accuracy, certified, order, rate, margins):
        if axes is not margins or margins.get_xlabel() == "epoch":
            axes.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
            axes.set_xlabel("epoch")
    _run_legend(figure, colours)
    return figure


def run_colours(n: int) -> list[Any]:
    """n colours that colour-blind readers can distinguish."""
    if n <= len(RUN_COLOURS):
        return list(RUN_COLOURS[:n])
    return list(matplotlib.colormaps["viridis"](np.linspace(0, 0.92, n)))


def infinity_level(orders: Sequence[float]) -> float:
    """Where p = ∞ is drawn on the logarithmic axis of p: above all finite orders, by a sixth of their range or more."""
    finite = [p for p in orders if math.isfinite(p)] or [1.0]
    return max(finite) * max(2.0, (max(finite) / min(finite)) ** (1 / 6))


def _curve(
    axes: Axes,
    name: str,
    epochs: Sequence[Mapping[str, Any]],
    key: str,
    colour: Any,
    *,
    dashed: bool = False,
    unit: float = 1.0,
    **style: Any,
) -> None:
    """Plot one figure against the epoch, if the run has it; a dot for a single epoch."""
    points = [(each["epoch"], unit * each[key]) for each in epochs if key in each]
    if points:
        marker = "." if len(points) == 1 else ""
        style |= DASHED if dashed else {}
        axes.plot(*zip(*points, strict=True), color=colour, label=name, marker=marker, **style)


def _key(axes: Axes, dashed: str, solid: str) -> None:
    """A legend of dashed and solid lines, if there are any, beside the title, where no curve is."""
    kinds = [
        (True, Line2D([], [], color=GREY, label=dashed, **DASHED)),
        (False, Line2D([], [], color=GREY, label=solid)),
    ]
    present = {line.is_dashed() for line in axes.lines}
    lines = [line for kind, line in kinds if kind in present]
    axes.legend(
        handles=lines, loc="lower right", bbox_to_anchor=(1.02, 0.99), ncols=2, frameon=False, fontsize=8,
        handlelength=1.8, columnspacing=1.0, borderaxespad=0.2, labelcolor=DARK,
    )  # fmt: skip


def _order_axis(axes: Axes, top: float) -> None:
    """Ticks at powers of two, and a level for ∞ if a run reaches it."""
    values = np.concatenate([line.get_ydata() for line in axes.lines])
    low, high = values.min(), values[values < top].max(initial=1.0)  # if all are at ∞ there is no power between
    powers = np.arange(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    ticks = [2.0**power for power in powers[:: max(1, math.ceil(len(powers) / 6))]] or [low]
    axes.set_yscale("log", base=2)
    if values.max() == top:
        axes.axhline(top, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        ticks = [*ticks, top] if low < top else [top]
    axes.yaxis.set_major_locator(FixedLocator(ticks))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "∞" if value == top else f"{value:g}"))


def _margins(axes: Axes, runs: Mapping[str, Sequence[Mapping[str, Any]]], colours: Mapping[str, Any]) -> None:
    """Histograms of the training margins: of every epoch of a single run, of the last of several; else the mean."""
    counted = {name: [each for each in epochs if "margin_counts" in each] for name, epochs in runs.items()}
    if not any(counted.values()):
        for name, epochs in runs.items():
            _curve(axes, name, epochs, "margin", colours[name])
        axes.set(title="mean training margin", xlabel="epoch")
    elif len(runs) == 1:
        _margin_map(axes, *counted.values())
    else:
        last = {name: epochs[-1] for name, epochs in counted.items() if epochs}
        for name, each in last.items():
            axes.stairs(_shares(each), MARGIN_EDGES, color=colours[name], linewidth=1.2, label=name)
        for mark in (0, 1):
            axes.axvline(mark, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        numbers = {each["epoch"] for each in last.values()}
        when = f"epoch {numbers.pop()}" if len(numbers) == 1 else "last epoch"
        axes.set(title=f"training margins / 2ε, {when}", xlabel="margin / 2ε", ylabel="samples, %", ylim=(0, None))
        axes.set_xticks(*_margin_ticks())
        if without := [name for name, epochs in counted.items() if not epochs]:
            text = f"no histogram of {len(without)} run{'s' * (len(without) > 1)}"
            axes.text(0.5, 0.98, text, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=DARK)


def _margin_map(axes: Axes, epochs: Sequence[Mapping[str, Any]]) -> None:
    """The histogram of every epoch as a column; an epoch without one stays white."""
    columns = np.unique([each["epoch"] + side for each in epochs for side in (-0.5, 0.5)])
    shares = np.full((len(MARGIN_EDGES) - 1, len(columns) - 1), np.nan)
    for each in epochs:
        shares[:, np.searchsorted(columns, each["epoch"] - 0.5)] = _shares(each)
    brightest = np.nanmax(shares[1:-1]) or 100.0  # the bins at the ends hold all values beyond
    mesh = axes.pcolormesh(columns, MARGIN_EDGES, shares, cmap="Blues", vmin=0, vmax=brightest, rasterized=True)
    for mark in (0, 1):
        axes.axhline(mark, color=ORANGE, linewidth=0.8)
    axes.grid(False)
    axes.set_title("training margins / 2ε", y=1.0)
    axes.set_xlabel("epoch")
    axes.set_yticks(*_margin_ticks())
    scale = axes.inset_axes((0.51, 1.035, 0.2, 0.03))  # beside the title, which must not move
    scale.set_in_layout(False)
    axes.figure.colorbar(mesh, cax=scale, orientation="horizontal", ticks=[]).outline.set_visible(False)
    most = f"{'≥' if np.nanmax(shares) > brightest else ''}{brightest:.2g}% of samples"
    for x, side, text in ((-0.04, "right", "0"), (1.04, "left", most)):
        scale.text(x, 0.5, text, transform=scale.transAxes, ha=side, va="center_baseline", fontsize=8, color=DARK)


def _shares(figures: Mapping[str, Any]) -> Array:
    """The histogram of one epoch in % of its samples."""
    counts = np.array(figures["margin_counts"])
    return 100 * counts / counts.sum()


def _margin_ticks() -> tuple[list[int], list[str]]:
    low, high = int(MARGIN_EDGES[0]), int(MARGIN_EDGES[-1])
    ticks = list(range(low, high + 1))
    names = [f"≤{low}", *map(str, ticks[1:-1]), f"≥{high}"]
    return ticks, [name.replace("-", "−") for name in names]


def _columns(names: Mapping[str, Any]) -> int:
    """How many entries of the legend fit in one row."""
    return min(len(names), max(1, 150 // (max(map(len, names)) + 8)))


def _run_legend(figure: Figure, colours: Mapping[str, Any]) -> None:
    """The legend of the runs. Names are set afterwards: matplotlib would parse formulas and hide some names."""
    lines = [Line2D([], [], color=colour, linewidth=2, label=str(i)) for i, colour in enumerate(colours.values())]
    legend = figure.legend(handles=lines, loc="outside upper left", ncols=_columns(colours), frameon=False)
    for text, name in zip(legend.get_texts(), colours, strict=True):
        text.set(text=printable(name), parse_math=False)
