"""The cost of a certificate beside the forward of the same net on the same images."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cpu.timing import Case
from linfengine import verify
from linfengine.certify import certify, margins, predict, write_certificate
from linfengine.checkpoint import load_model, save_model
from linfengine.data import load_dataset, to_pixels
from linfengine.exact import quantize

FORWARD = "float32 forward"
SAMPLES = 100  # the checker re-derives so many


def cases(model: Path, eps: str) -> Iterator[Case]:
    """All test images of the model's data set, from the net's input to the verdicts."""
    net, metadata = load_model(model)
    dataset = load_dataset(metadata["dataset"])
    images, labels = dataset.test_images, dataset.test_labels
    pixels, exact, in_bytes = to_pixels(images), quantize(net), quantize(net, 0)
    terms = len(images) * sum(array.size for array in net.state().values() if array.ndim == 2)
    calls: dict[str, Callable[[], object]] = {
        FORWARD: partial(predict, net, pixels),
        "naive margin": lambda: margins(predict(net, pixels), labels),
        "margin": partial(certify, net, pixels, labels, eps, method="margin"),
        "interval": partial(certify, net, pixels, labels, eps, method="interval"),
        "exact": partial(certify, exact, images, labels, eps, method="exact"),
        "exact, fraction_bits 0": partial(certify, in_bytes, images, labels, eps, method="exact"),
    }
    for who, call in calls.items():
        yield Case(f"ε = {eps}", who, terms, call)


def checker(model: Path, eps: str) -> dict[str, Any]:
    """Seconds in which the independent checker re-derives SAMPLES samples of the exact and of the float32 net."""
    net, metadata = load_model(model)
    dataset = load_dataset(metadata["dataset"])
    images, labels = dataset.test_images, dataset.test_labels
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        file, lines = Path(folder) / "net", Path(folder) / "certificate"
        for form, each in (("exact", quantize(net)), ("float32", net)):
            save_model(each, file)
            write_certificate(lines, certify(each, images, labels, eps), file, images, labels)
            start = time.perf_counter()
            verify.verify(lines, file, images, labels, samples=SAMPLES)
            seconds[form] = time.perf_counter() - start
    return seconds
