"""Runs read again: the figures are those that training wrote, damage is told by its line, TensorBoard gets the same."""

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linfengine.data import load_dataset
from linfengine.errors import UserError
from linfengine.recipes import load_recipe
from linfengine.train import Observer, train
from linfengine.train.events import EVENTS, write_events
from linfengine.train.metrics import MARGIN_EDGES, METRICS, read_metrics

BINS = len(MARGIN_EDGES) - 1


def epoch(number: int, **others: Any) -> dict[str, Any]:
    """A line of metrics.jsonl; without a figure where the other value is None."""
    figures = {
        "p": 8.0 * number,
        "lr": 0.03 / number,
        "loss": 0.5 / number,
        "accuracy": 0.7,
        "margin": -0.25,
        "epoch": number,
        "beyond_2eps": 0.5,
        "scale": 1.5,
        "held_out_accuracy": 0.6,
        "held_out_certified": 0.4,
        "margin_counts": [number + i for i in range(BINS)],
        "seconds": 2.0,
    }
    return {key: value for key, value in (figures | others).items() if value is not None}


def write(folder: Path, *lines: dict[str, Any] | str | bytes) -> Path:
    """A run folder with these lines."""
    folder.mkdir(exist_ok=True)
    texts = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    encoded = [text if isinstance(text, bytes) else text.encode() for text in texts]
    (folder / METRICS).write_bytes(b"".join(text + b"\n" for text in encoded))
    return folder


def refusal(call: Callable[..., Any], *arguments: Any) -> str:
    """The one sentence that a call is refused with."""
    with pytest.raises(UserError) as refused:
        call(*arguments)
    sentence = str(refused.value)
    assert "\n" not in sentence
    assert not sentence.endswith(".")
    return sentence


# What training wrote.


class Diary(Observer):
    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def epoch(self, figures: dict[str, Any]) -> None:
        self.lines.append(figures)


def test_a_run_reads_as_training_wrote_it(tmp_path: Path) -> None:
    digits = load_dataset("digits")
    few = replace(digits, train_images=digits.train_images[:120], train_labels=digits.train_labels[:120])
    settings = ["width=16", "depth=2", "epochs=3", "ramp_start=1", "ramp_end=2", "batch_size=32", "held_out=20"]
    diary = Diary()
    train(load_recipe("digits", settings), few, tmp_path / "run", observer=diary)
    epochs = read_metrics(tmp_path / "run")
    assert epochs == diary.lines == read_metrics(tmp_path / "run" / METRICS)
    assert [each["epoch"] for each in epochs] == [1, 2, 3]
    assert [type(each["p"]) for each in epochs] == [float] * 3
    assert epochs[-1]["p"] == math.inf
    for each in epochs:  # the bins are those of MARGIN_EDGES
        counts = np.array(each["margin_counts"])
        assert counts.sum() == 100
        assert abs(counts[MARGIN_EDGES[:-1] >= 0].sum() - 100 * each["accuracy"]) < 1.5  # one may lie on an edge
        assert abs(counts[MARGIN_EDGES[:-1] >= 1].sum() - 100 * each["beyond_2eps"]) < 1.5
    scalars, _ = events(write_events(tmp_path / "run"))
    assert scalars["loss"] == {each["epoch"]: np.float32(each["loss"]) for each in epochs}


def test_what_a_run_need_not_write_may_be_missing(tmp_path: Path) -> None:
    bare = {key: value for key, value in epoch(1).items() if key in ("epoch", "p", "lr", "loss", "accuracy")}
    more = epoch(2, p="inf", eps=0.1, device="cuda", **{"lambda": 0.0})
    assert read_metrics(write(tmp_path, bare, more)) == [bare, more | {"p": math.inf}]


# What is refused.


def test_runs_that_are_not_there(tmp_path: Path) -> None:
    said = refusal(read_metrics, tmp_path / "none")
    assert said == f"{tmp_path / 'none'}: expected the folder of a training run, and there is nothing of that name"
    said = refusal(read_metrics, tmp_path)
    assert said == f"{tmp_path}: expected the folder of a training run with an epoch done, and it holds no {METRICS}"
    said = refusal(read_metrics, write(tmp_path))
    assert said == f"{tmp_path / METRICS}: expected at least one epoch, and the run has finished none yet"


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"epoch": 2, "p": 8.', "expected JSON ("),
        ("", "expected JSON (Expecting value at character 1)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff"),
        ("[" * 100_000, ""),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("{}", "expected a figure named epoch"),
        (epoch(2, loss=None), "expected a figure named loss"),
        (epoch(2, p=None), "expected a figure named p"),
        (epoch(1), "expected an epoch from 2 to 1000000000, got 1"),
        (epoch(2, epoch=2.0), "expected an epoch from 2 to 1000000000, got 2.0"),
        (epoch(2, epoch=True), "expected an epoch from 2 to 1000000000, got True"),
        (epoch(2, epoch=10**30), "expected an epoch from 2"),
        (epoch(2, p="Infinity"), "expected a p of at least 1, or 'inf', got 'Infinity'"),
        (epoch(2, p=0.5), "expected a p of at least 1, or 'inf', got 0.5"),
        (epoch(2, p=math.inf), "expected finite numbers, got Infinity"),
        (epoch(2, loss=math.nan), "expected finite numbers, got NaN"),
        (json.dumps(epoch(2)).replace("16.0", "1e999"), "expected a p of at least 1, or 'inf', got inf"),
        (epoch(2, loss="small"), "expected a number for loss, got 'small'"),
        (epoch(2, lr=True), "expected a number for lr, got True"),
        (epoch(2, held_out_certified=[0.5]), "expected a number for held_out_certified, got [0.5]"),
        (epoch(2, seconds=10**400), "expected a number for seconds, got 1000"),
        (epoch(2, margin_counts=[1] * (BINS + 1)), f"expected margin_counts to be {BINS} counts that are not all 0"),
        (epoch(2, margin_counts=[0] * BINS), f"expected margin_counts to be {BINS} counts"),
        (epoch(2, margin_counts=[-1] + [1] * (BINS - 1)), f"expected margin_counts to be {BINS} counts"),
        (epoch(2, margin_counts=[0.5] * BINS), f"expected margin_counts to be {BINS} counts"),
        (epoch(2, margin_counts=[10**30] * BINS), f"expected margin_counts to be {BINS} counts"),
        (epoch(2, margin_counts="many"), f"expected margin_counts to be {BINS} counts"),
    ],
)
def test_a_damaged_line_is_told_by_its_number(line: dict[str, Any] | str | bytes, fault: str, tmp_path: Path) -> None:
    said = refusal(read_metrics, write(tmp_path, epoch(1), line, epoch(3)))
    assert said.startswith(f"{tmp_path / METRICS}: line 2 is damaged: {fault}")


def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / METRICS).mkdir()
    assert refusal(read_metrics, tmp_path) == f"{tmp_path}: cannot be read (Is a directory)"
    long = tmp_path / ("long" * 100)
    assert refusal(read_metrics, long) == f"{long}: cannot be read (File name too long)"


# TensorBoard.


def messages(path: Path) -> Iterator[bytes]:
    """The records of an event file: length (8 bytes), checksum (4), that many bytes, checksum (4)."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        assert len(content) >= length + 16
        yield content[12 : 12 + length]
        content = content[length + 16 :]


def events(folder: Path) -> tuple[dict[str, dict[int, float]], dict[int, Any]]:
    """(scalars by name and step, histograms by step) of the one event file in a folder."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = folder.iterdir()
    scalars: dict[str, dict[int, float]] = {}
    histograms = {}
    for message in messages(path):
        event = Event.FromString(message)
        for value in event.summary.value:
            if value.HasField("histo"):
                assert value.tag == "margin_counts"
                histograms[event.step] = value.histo
            else:
                scalars.setdefault(value.tag, {})[event.step] = value.simple_value
    return scalars, histograms


def test_events_hold_the_runs_numbers(tmp_path: Path) -> None:
    lines = [epoch(1), epoch(2, scale=None), epoch(3, margin_counts=None, device="cpu"), epoch(5, p="inf")]
    scalars, histograms = events(write_events(write(tmp_path, *lines)))
    expected: dict[str, dict[int, Any]] = {}
    for line in lines:
        for key, value in line.items():
            if key not in ("epoch", "margin_counts") and not isinstance(value, str):
                expected.setdefault(key, {})[line["epoch"]] = np.float32(value)
    assert scalars == expected
    assert list(scalars["p"]) == [1, 2, 3]  # infinity is no point of a curve
    assert list(histograms) == [1, 2, 5]
    for line in lines:
        if "margin_counts" in line:
            histogram = histograms[line["epoch"]]
            assert list(histogram.bucket) == line["margin_counts"]
            assert list(histogram.bucket_limit) == list(MARGIN_EDGES[1:])
            assert histogram.num == sum(line["margin_counts"])


@pytest.mark.parametrize(("first", "last"), [(0, BINS - 1), (0, 0), (BINS - 1, BINS - 1), (7, 30)])
def test_a_histogram_ends_where_its_samples_do(first: int, last: int, tmp_path: Path) -> None:
    """Its moments are those of samples in the middle of their bins."""
    counts = np.zeros(BINS, int)
    counts[[first, last]] = 3, 2
    _, histograms = events(write_events(write(tmp_path, epoch(1, margin_counts=counts.tolist()))))
    samples = np.repeat((MARGIN_EDGES[:-1] + MARGIN_EDGES[1:]) / 2, counts)
    histogram = histograms[1]
    assert (histogram.min, histogram.max) == (MARGIN_EDGES[first], MARGIN_EDGES[last + 1])
    assert (histogram.num, histogram.sum, histogram.sum_squares) == (len(samples), samples.sum(), (samples**2).sum())


def test_events_are_as_far_apart_as_epochs_were(tmp_path: Path) -> None:
    from tensorboardX.proto.event_pb2 import Event

    write(tmp_path, epoch(1, seconds=10.0), epoch(2, seconds=20.0), epoch(3, seconds=5.0))
    os.utime(tmp_path / METRICS, (1_700_000_000,) * 2)
    (path,) = write_events(tmp_path).iterdir()
    times = {event.step: event.wall_time for event in map(Event.FromString, messages(path)) if event.step}
    assert times == {1: 1_699_999_975, 2: 1_699_999_995, 3: 1_700_000_000}


def test_events_are_replaced_as_a_whole(tmp_path: Path) -> None:
    run = write(tmp_path / "run", epoch(1), epoch(2), epoch(3))
    assert write_events(run) == run / EVENTS
    (run / EVENTS / "events.out.tfevents.1.elsewhere").touch()
    write(run, epoch(1), epoch(2, loss=0.125))
    write_events(run)
    scalars, _ = events(run / EVENTS)
    assert scalars["loss"] == {1: 0.5, 2: 0.125}
    assert sorted(os.listdir(run)) == [EVENTS, METRICS]


def test_events_go_where_they_are_told_to(tmp_path: Path) -> None:
    run = write(tmp_path / "run", epoch(1))
    assert write_events(run / METRICS, tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(run) == [METRICS]
    assert events(tmp_path / "a" / "b")[0]["accuracy"] == {1: np.float32(0.7)}
    assert os.listdir(tmp_path / "a") == ["b"]


@pytest.mark.skipif(sys.platform == "win32", reason="no links")
def test_events_follow_a_link_and_no_other(tmp_path: Path) -> None:
    run, victim = write(tmp_path / "run", epoch(1)), tmp_path / "victim"
    victim.mkdir()
    (victim / "mine").touch()
    (run / ".events.part").symlink_to(victim)  # a name that could be foreseen
    (run / EVENTS).symlink_to("../elsewhere")
    write_events(run)
    assert os.listdir(victim) == ["mine"]
    assert events(tmp_path / "elsewhere")[0]["accuracy"] == {1: np.float32(0.7)}
    (run / "circle").symlink_to("circle")
    said = refusal(write_events, run, run / "circle")
    assert said.startswith(f"{run / 'circle'}: cannot be written (")


def test_nothing_but_events_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", epoch(1))
    (tmp_path / "file").touch()
    monkeypatch.chdir(run)
    for place in (run, Path("."), tmp_path / "file", tmp_path):
        said = refusal(write_events, run, place)
        assert said == f"{place}: expected a folder of event files, to be replaced, or a name that is free"
    said = refusal(write_events, run, tmp_path / "file" / "events")
    assert said == f"{tmp_path / 'file' / 'events'}: cannot be written (Not a directory)"
    assert sorted(os.listdir(tmp_path)) == ["file", "run"]
    assert os.listdir(run) == [METRICS]


def test_an_interruption_leaves_the_events_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write(tmp_path / "run", epoch(1))
    write_events(run)
    write(run, epoch(1), epoch(2))

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("linfengine.train.events._histogram", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_events(run)
    assert sorted(os.listdir(run)) == [EVENTS, METRICS]
    assert list(events(run / EVENTS)[0]["loss"]) == [1]


def test_a_missing_library_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    said = refusal(write_events, write(tmp_path, epoch(1)))
    assert said == "TensorBoard's files need tensorboardX: pip install linfengine[tensorboard]"
    assert os.listdir(tmp_path) == [METRICS]


def test_runs_are_refused_alike_for_both(tmp_path: Path) -> None:
    for run in (tmp_path / "none", tmp_path, write(tmp_path / "empty"), write(tmp_path / "damaged", "{")):
        assert refusal(write_events, run) == refusal(read_metrics, run)
    assert not any((folder / EVENTS).exists() for folder in tmp_path.iterdir())
