"""Pictures of results (matplotlib, without a display)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .audit import CLAIMS, Section
from .backends import Array
from .certify import Certificate
from .checkpoint import write_file

BLUE, GREY, ORANGE = "#2a6fbb", "#8a8a8a", "#d9822b"


def plot_certified(
    path: str | Path,
    margin: Certificate,
    images: Array,
    classes: Sequence[str],
    points: Sequence[tuple[float, float, float]],
) -> None:
    """Certified accuracy against ε, and a few images with the radius proved for each; a PNG.

    `margin` is a margin certificate of `images` (n, c, h, w), whose radii give the curve at every ε at once; `points`
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
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=140)
    write_file(path, buffer.getvalue())


def _image_grid(
    figure: matplotlib.figure.SubFigure, margin: Certificate, images: Array, classes: Sequence[str]
) -> None:
    """Eight images from the smallest to the largest radius."""
    order = np.argsort(np.where(margin.correct, margin.radius, -1), kind="stable")
    chosen = order[np.linspace(0, len(order) - 1, 8).astype(int)]
    for axes, i in zip(figure.subplots(2, 4).flat, chosen, strict=True):
        picture = images[i].transpose(1, 2, 0)
        axes.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap="gray_r", vmin=0, vmax=255)
        verdict = f"{classes[margin.prediction[i]]}, ε = {margin.radius[i]:.3f}"
        axes.set_title(verdict if margin.correct[i] else f"wrong: {classes[margin.prediction[i]]}", fontsize=9)
        axes.set_axis_off()
    figure.suptitle("prediction, and the radius within which it is proved", fontsize=10)


def plot_audit(path: str | Path, title: str, sections: Sequence[Section]) -> None:
    """How near an audit's attempts came to the Lipschitz bound, to margins, and to radii read off margins; a PNG."""
    figures = {section.name: section.figures for section in sections}
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(14, 4.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        kinds = figures["Lipschitz search"]["by kind"]
        left.barh(list(kinds), [kind["ratio"] for kind in kinds.values()], color=BLUE)
        left.axvline(1, color=ORANGE)
        left.invert_yaxis()
        left.set(xlabel="largest change of a logit / what is proved", xlim=(0, 1.05), title="Lipschitz search")
        attack = figures["attack on what is certified"]
        middle.plot(attack.get("margin", []), attack.get("attacked margin", []), ".", color=BLUE, markersize=3)
        middle.axhline(0, color=ORANGE)
        middle.set(
            xlabel="margin of a certified image", ylabel="smallest found in its ball", title="attack", xlim=(0, None)
        )
        for what, each in figures["floating-point attack"].items():
            shares = [100 * each[claim] / max(each["tried"], 1) for claim in CLAIMS]
            right.plot(CLAIMS, shares, "o--", label=f"{each['tried']} {what}")
        right.set(ylabel="radii beaten, %", ylim=(-1, None), title="floating-point attack on a radius r")
        right.legend(frameon=False)
        figure.suptitle(title, fontsize=10)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=120)
    write_file(path, buffer.getvalue())
