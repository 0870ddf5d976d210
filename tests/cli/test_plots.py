"""Pictures of training runs: the axes hold the runs' numbers, and the file is a picture of them."""

import itertools
import math
import os
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from support.draws import thorough

from linfengine import plots
from linfengine.audit import RADII, Section
from linfengine.certify import certify
from linfengine.errors import UserError
from linfengine.layers import linf_net
from linfengine.plots import RUN_COLOURS, infinity_level, plot_audit, plot_certified, plot_runs, run_colours, run_figure
from linfengine.text import printable
from linfengine.train.metrics import MARGIN_EDGES

Run = list[dict[str, Any]]
BINS = len(MARGIN_EDGES) - 1


def a_run(seed: int = 0, epochs: int = 6, first: int = 1, without: tuple[str, ...] = ()) -> Run:
    """Random figures, with p = ∞ in the last two epochs."""
    rng = np.random.default_rng(seed)
    run = [
        {
            "epoch": first + i,
            "p": 8.0 * 2**i if i < epochs - 2 else math.inf,
            **{key: rng.uniform(0.1, 1) for key in ("lr", "loss", "accuracy", "margin", "beyond_2eps")},
            **{key: rng.uniform(0.1, 1) for key in ("held_out_accuracy", "held_out_certified", "seconds")},
            "margin_counts": rng.integers(1, 100, BINS).tolist(),
        }
        for i in range(epochs)
    ]
    return [{key: value for key, value in figures.items() if key not in without} for figures in run]


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_title(loc="left") + axes.get_title() == title)
    return axes


def curve(axes: Axes, name: str, dashed: bool = False) -> tuple[list[float], list[float]]:
    (line,) = (line for line in axes.lines if line.get_label() == name and line.is_dashed() == dashed)
    return list(line.get_xdata()), list(line.get_ydata())  # type: ignore[arg-type]


def ticks(axes: Axes) -> dict[float, str]:
    return {float(tick): axes.yaxis.get_major_formatter()(tick) for tick in axes.get_yticks()}


# The axes hold the numbers.


@pytest.mark.parametrize(
    ("title", "key", "dashed", "unit"),
    [
        ("training loss", "loss", False, 1),
        ("accuracy, %", "accuracy", True, 100),
        ("accuracy, %", "held_out_accuracy", False, 100),
        ("certified, %", "beyond_2eps", True, 100),
        ("certified, %", "held_out_certified", False, 100),
        ("learning rate", "lr", False, 1),
        ("mean training margin", "margin", False, 1),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_every_curve_is_its_runs(title: str, key: str, dashed: bool, unit: float, several: bool) -> None:
    runs = {"one": a_run(1, without=("margin_counts",))}
    if several:
        runs["two"] = a_run(2, epochs=4, first=3, without=("margin_counts",))
    figure = run_figure(runs)
    for name, run in runs.items():
        x, y = curve(panel(figure, title), name, dashed)
        assert x == [each["epoch"] for each in run]
        assert y == [unit * each[key] for each in run]


def test_a_curve_has_the_epochs_that_have_the_figure() -> None:
    run = a_run(without=("held_out_certified",))
    for each in run[:3]:
        del each["held_out_accuracy"]
    figure = run_figure({"run": run, "bare": a_run(without=("held_out_accuracy", "held_out_certified"))})
    assert curve(panel(figure, "accuracy, %"), "run")[0] == [4, 5, 6]
    assert [line.is_dashed() for line in panel(figure, "robust in training, %").lines] == [True, True]
    for title, key in (("accuracy, %", ["training", "held-out"]), ("robust in training, %", ["training (no proof)"])):
        legend = panel(figure, title).get_legend()
        assert legend
        assert [text.get_text() for text in legend.get_texts()] == key


def test_infinity_is_a_level_above_all_other_orders() -> None:
    runs = {"one": a_run(), "two": a_run(epochs=12)}
    axes = panel(run_figure(runs), "order p")
    top = infinity_level([each["p"] for run in runs.values() for each in run])
    assert axes.get_yscale() == "log"
    for name, run in runs.items():
        assert curve(axes, name)[1] == [each["p"] if each["p"] < math.inf else top for each in run]
    assert max(each["p"] for run in runs.values() for each in run if each["p"] < math.inf) <= top / 2
    assert axes.get_ylim()[0] < 8
    assert axes.get_ylim()[1] > top
    assert ticks(axes)[top] == "∞"
    assert all(text == f"{tick:g}" and math.log2(tick).is_integer() for tick, text in ticks(axes).items() if tick < top)


@pytest.mark.parametrize(
    ("orders", "expected"),
    [
        ([8.0, 12.0, 32.0], ["8", "16", "32"]),
        ([math.inf, math.inf], ["∞"]),
        ([10.0, 10.0], ["10"]),
        ([10.0, math.inf], ["10", "∞"]),
        ([1.0, 1e5, math.inf], ["1", "8", "64", "512", "4096", "32768", "∞"]),
    ],
)
def test_the_axis_of_p_names_what_is_there(orders: list[float], expected: list[str]) -> None:
    run = [each | {"p": p} for each, p in zip(a_run(epochs=len(orders)), orders, strict=True)]
    assert list(ticks(panel(run_figure({"run": run}), "order p")).values()) == expected


@pytest.mark.parametrize(
    ("losses", "scale"), [([1.0, 0.1, 0.06], "linear"), ([1.0, 0.1, 0.04], "log"), ([1.0, 0.1, 0.0], "linear")]
)
def test_a_loss_that_falls_far_is_drawn_on_a_logarithmic_axis(losses: list[float], scale: str) -> None:
    run = [each | {"loss": loss} for each, loss in zip(a_run(epochs=3), losses, strict=True)]
    assert panel(run_figure({"run": run}), "training loss").get_yscale() == scale


def test_margins_of_one_run_are_a_map_of_its_epochs() -> None:
    """In % of the epoch's samples; an epoch that counted none is left out, however many there are of those."""
    run = a_run(epochs=4)
    run[3]["epoch"] = 10**9
    del run[1]["margin_counts"]
    (mesh,) = panel(run_figure({"run": run}), "training margins / 2ε").collections
    corners = mesh.get_coordinates()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(corners[:, 0, 1], MARGIN_EDGES)
    np.testing.assert_array_equal(corners[0, :, 0], [0.5, 1.5, 2.5, 3.5, 1e9 - 0.5, 1e9 + 0.5])
    shares: Any = np.ma.filled(np.ma.asarray(mesh.get_array()), -1)
    for column, number in ((0, 0), (2, 2), (4, 3)):
        counts = np.array(run[number]["margin_counts"])
        np.testing.assert_allclose(shares[:, column], 100 * counts / counts.sum())
    assert (shares[:, [1, 3]] == -1).all()


def test_margins_of_several_runs_are_those_of_their_last_epochs() -> None:
    runs = {"one": a_run(1), "two": a_run(2, epochs=4), "old": a_run(3, without=("margin_counts",))}
    del runs["two"][3]["margin_counts"]
    steps = panel(run_figure(runs), "training margins / 2ε, last epoch").patches
    assert [each.get_label() for each in steps] == ["one", "two"]
    for each, counts in zip(steps, (runs["one"][5]["margin_counts"], runs["two"][2]["margin_counts"]), strict=True):
        values, edges, _ = each.get_data()  # type: ignore[attr-defined]
        np.testing.assert_array_equal(edges, MARGIN_EDGES)
        np.testing.assert_allclose(values, 100 * np.array(counts) / sum(counts))
    assert panel(run_figure({"one": a_run(1), "two": a_run(2)}), "training margins / 2ε, epoch 6")


# Colours and the legend.


def test_the_legend_names_every_run_in_its_colour() -> None:
    runs = {name: a_run() for name in ("runs/a", "_hidden", "$x_y$ 100%", "$", r"\frac", " ")}
    figure = run_figure(runs)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(runs)
    colours = [to_hex(line.get_color()) for line in legend.get_lines()]
    assert colours == list(RUN_COLOURS[:6])
    for title in ("training loss", "accuracy, %", "certified, %", "order p", "learning rate"):
        for name, colour in zip(runs, colours, strict=True):
            lines = [line for line in panel(figure, title).lines if line.get_label() == name]
            assert lines
            assert {to_hex(line.get_color()) for line in lines} == {colour}


# what red-green blind eyes make of linear RGB (Machado et al. 2009, severity 1)
BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colour_blind_tell_runs_apart(kind: str) -> None:
    """No two colours, nor one and the paper's white, are nearer than a tenth of the way from black to white."""
    linear = np.array([to_rgb(colour) for colour in (*RUN_COLOURS, "white")]) ** 2.2
    seen = np.clip(linear @ np.array(BLINDNESS[kind]).T, 0, 1) ** (1 / 2.2)
    for a, b in itertools.combinations(seen, 2):
        assert np.linalg.norm(a - b) > 0.1 * math.sqrt(3)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 30])
def test_no_two_runs_share_a_colour(n: int) -> None:
    assert len({to_hex(colour) for colour in run_colours(n)}) == n


# The file.


@pytest.mark.parametrize("runs", [thorough(1), thorough(3), 9])
def test_a_picture_is_written(runs: int, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    plot_runs(tmp_path / "runs.png", {f"a run whose name is rather long, {i}": a_run(i) for i in range(runs)})
    picture = imread(tmp_path / "runs.png")
    rows = math.ceil(runs / 3)  # of the legend
    assert picture.shape[:2] == (round(140 * (6.4 + 0.2 * (rows - 1))), 140 * 12)
    assert (picture[0] == 1).all()  # nothing is cut off
    assert (picture[-1] == 1).all()
    for colour in map(to_rgb, run_colours(runs)):
        assert (abs(picture[:, :, :3] - colour).max(axis=2) < 0.01).any()
    assert dict(matplotlib.rcParams) == before
    assert os.listdir(tmp_path) == ["runs.png"]


@pytest.mark.parametrize(
    ("suffix", "magic"), [thorough("png", b"\x89PNG\r\n"), thorough("SVG", b"<?xml"), ("pdf", b"%PDF")]
)
def test_equal_runs_give_equal_pictures(suffix: str, magic: bytes, tmp_path: Path) -> None:
    for name in ("a", "b"):
        plot_runs(tmp_path / f"{name}.{suffix}", {"run": a_run(7)})
    content = (tmp_path / f"a.{suffix}").read_bytes()
    assert content.startswith(magic)
    assert content == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize(
    "runs",
    [
        thorough({"one epoch": a_run(epochs=1)}),
        thorough({"one epoch": a_run(epochs=1), "$ _": a_run()}),
        {"bare": [{"epoch": 3, "p": math.inf, "lr": 0.0, "loss": 0.0, "accuracy": 0.0}]},
        {"ends": [a_run(epochs=1)[0] | {"margin_counts": [1] + [0] * (BINS - 2) + [1]}]},
        thorough({"far": [each | {"loss": 10.0 ** -each["epoch"]} for each in a_run(epochs=12)]}),
        thorough({str(i): a_run(i, epochs=3) for i in range(40)}),
    ],
    ids=lambda runs: f"{len(runs)} {next(iter(runs))}",
)
def test_odd_runs_are_drawn_without_a_warning(runs: dict[str, Run], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_runs(tmp_path / "runs.png", runs)
    assert imread(tmp_path / "runs.png").std() > 0


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, runs, message in [
        ("runs.png", {}, "^runs: expected at least one run to draw, got none$"),
        ("runs.png", {"a": a_run(), "b": []}, "^runs: expected at least one epoch of b, got none$"),
        ("runs.gif", {"a": a_run()}, r"runs.gif: expected a picture's name that ends in .png, .svg or .pdf$"),
        ("runs", {"a": a_run()}, "runs: expected a picture's name that ends in"),
        ("file/runs.png", {"a": a_run()}, "runs.png: cannot be written"),
    ]:
        with pytest.raises(UserError, match=message):
            plot_runs(tmp_path / name, runs)
    assert os.listdir(tmp_path) == ["file"]


# Text from outside.

ODD = "$\\frac$ {x_y} \n\x1b[1m \udcff 東京 🙂"


def texts(figure: Figure) -> set[str]:
    """All that is written in a figure."""
    return {text.get_text() for text in figure.findobj(Text)}


def test_text_from_outside_is_drawn_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of runs, classes and files: no formula, no new line, no warning for a letter that the font lacks."""
    drawn = Mock(wraps=plots._drawn)
    monkeypatch.setattr(plots, "_drawn", drawn)
    sections = [
        Section("Lipschitz search", True, "", {"by kind": {"pairs": {"ratio": 0.5}}}),
        Section("attack on what is certified", True, "", {}),
        Section("floating-point attack", True, "", {"nets": {"tried": 1} | dict.fromkeys(RADII, 0)}),
    ]
    net = linf_net((1, 4, 4), 2, width=4, depth=2, mean=(0.5,), std=0.25).eval()
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 4, 4), np.uint8)
    proof = certify(net, images, np.zeros(8, np.int64), 0, method="margin")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_runs(tmp_path / "runs.svg", {ODD: a_run(), f"{ODD} 2": a_run()})
        plot_audit(tmp_path / "audit.png", ODD, sections)
        plot_certified(tmp_path / "certified.png", proof, images, [ODD, ODD], [(0.1, 0.5, 0.25)])
    for call in drawn.call_args_list:
        assert any(printable(ODD) in text for text in texts(call.args[0]))
        assert not any("\x1b" in text for text in texts(call.args[0]))
    assert len(list(tmp_path.iterdir())) == drawn.call_count == 3
