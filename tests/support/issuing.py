"""Nets of every kind that the checker knows, certificates of them, and ways to change a certificate or a model."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.op_cases import Array

from linfengine.certify import certify, clopper_pearson, predict, write_certificate
from linfengine.checkpoint import save_model
from linfengine.data import to_pixels
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    CenterCrop,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    conv_net,
    linf_net,
)
from linfengine.verify import Disagreement, verify

Lines = list[dict[str, Any]]

MAKERS: dict[str, Callable[[], Sequential]] = {
    "net": lambda: linf_net((2, 3, 3), 3, width=5, depth=3, mean=(0.4, 0.6), std=0.3),
    "net without shifts": lambda: linf_net((2, 3, 3), 2, width=4, depth=1, mean=(0.4,), std=0.7, mean_shift=False),
    "groups": lambda: Sequential(
        Normalize((0.2,), 0.25),
        Flatten(),
        LinfDistDense(18, 6, groups=3, bias=True),
        MeanShift(6),
        ReLU(),
        LinfDistDense(6, 4, groups=2),
        Negate(),
        LinfDistDense(4, 3, bias=True),
        Negate(),
    ),
    "conv": lambda: Sequential(
        Normalize((0.3, 0.55), 0.25),
        LinfDistConv2d(2, 4, 2, groups=2, bias=True),
        MeanShift(4),
        Flatten(),
        LinfDistDense(16, 3, bias=True),
        Negate(),
    ),
    "conv, padded and strided": lambda: Sequential(
        Normalize((0.3, 0.55), 0.4),
        LinfDistConv2d(2, 3, 3, padding=1, stride=2),
        MeanShift(3),
        ReLU(),
        LinfDistConv2d(3, 2, 2, padding=1),
        Flatten(),
        LinfDistDense(18, 3),
        Negate(),
    ),
    "cropped net": lambda: linf_net((2, 3, 3), 3, width=5, depth=2, mean=(0.4, 0.6), std=0.3, crop=2),
    "conv, cropped": lambda: Sequential(
        Normalize((0.3, 0.55), 0.25),
        LinfDistConv2d(2, 3, 2, padding=1),
        MeanShift(3),
        CenterCrop(3),
        LinfDistConv2d(3, 2, 2),
        CenterCrop(1),
        Flatten(),
        LinfDistDense(2, 3, bias=True),
        Negate(),
    ),
    "conv net": lambda: conv_net((2, 3, 3), 3, channels=1, width=4, mean=(0.4, 0.6), std=0.3),
    "cropped conv net": lambda: conv_net(
        (2, 3, 3), 2, channels=1, width=3, mean=(0.4,), std=0.3, crop=2, mean_shift=False
    ),
}
SHAPE = (2, 3, 3)


def filled(net: Sequential, seed: int, scale: float = 1.0) -> Sequential:
    rng = np.random.default_rng(seed)
    for array in net.state().values():
        array[...] = scale * rng.standard_normal(array.shape)
    net.eval()
    return net


def some_images(n: int, seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Array:
    """Half their pixels are black or white: there the box is smaller than the ball."""
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 256, (n, *shape))
    return np.where(rng.random(levels.shape) < 0.5, levels, levels // 128 * 255).astype(np.uint8)


BLACK, FIRST = np.zeros((1, 1, 1, 1), np.uint8), np.array([0])  # one black pixel, and the first class


@dataclass(frozen=True)
class Issued:
    """A certificate with what it is about."""

    certificate: Path
    model: Path
    images: Array
    labels: Array

    def verify(self, **options: Any) -> dict[str, Any]:
        return verify(self.certificate, self.model, self.images, self.labels, **options)

    @property
    def lines(self) -> Lines:
        """The header and the samples, the seal left out."""
        return [json.loads(line) for line in self.certificate.read_text("utf8").splitlines()[:-1]]

    def rewritten(self, content: bytes) -> "Issued":
        """The same with another certificate file, beside this one."""
        path = self.certificate.with_name("rewritten.jsonl")
        path.write_bytes(content)
        return Issued(path, self.model, self.images, self.labels)

    def remodelled(self, content: bytes) -> "Issued":
        """The same with another model file, whose digest stands in a certificate sealed anew."""
        path = self.model.with_name("remodelled.safetensors")
        path.write_bytes(content)
        header, *samples = self.lines
        certificate = self.rewritten(sealed([header | {"model": hashlib.sha256(content).hexdigest()}, *samples]))
        return Issued(certificate.certificate, path, self.images, self.labels)


def issue(
    folder: Path, net: Module, images: Array, labels: Array, eps: Any = "1/20", method: str = "interval", **header: Any
) -> Issued:
    model, path = folder / "model.safetensors", folder / "certificate.jsonl"
    save_model(net, model)
    pixels = images if isinstance(net, ExactNet) else to_pixels(images)
    write_certificate(path, certify(net, pixels, labels, eps, method=method), model, images, labels, **header)
    return Issued(path, model, images, labels)


def sealed(lines: Lines | bytes) -> bytes:
    body = lines if isinstance(lines, bytes) else "".join(json.dumps(line) + "\n" for line in lines).encode()
    return body + json.dumps({"sha256": hashlib.sha256(body).hexdigest()}).encode() + b"\n"


def complaint(call: Callable[[], object]) -> str:
    """The sentence that is reported: short, and without control characters, whatever stands in the files."""
    with pytest.raises(Disagreement) as refusal:
        call()
    sentence = str(refusal.value)
    assert 0 < len(sentence) < 400
    assert sentence.isascii()
    assert sentence.isprintable()
    return sentence


def labels_of(net: Module, images: Array) -> Array:
    return predict(net, images if isinstance(net, ExactNet) else to_pixels(images)).argmax(axis=1)


# Samples proved by their margin, by the box alone, right and not proved, and wrong.

KINDS = ("margin", "box", "open", "wrong")


def kinds(lines: Lines) -> dict[str, int]:
    """The first sample of each kind."""
    header, *samples = lines
    found: dict[str, int] = {}
    for i, line in enumerate(samples):
        if line["certified"]:
            kind = "margin" if line["margin"] > header["threshold"] else "box"
        else:
            kind = "open" if line["margin"] > 0 else "wrong"
        found.setdefault(kind, i)
    return found


def issue_all_kinds(folder: Path, form: str) -> Issued:
    """A certificate of a "float32" or an "exact" net with samples of all kinds."""
    for seed in range(200):
        net: Module = filled(linf_net((2, 3, 3), 3, width=6, depth=2, mean=(0.4, 0.6), std=0.3), seed)
        net = net if form == "float32" else quantize(net, 4)
        images = some_images(10, seed)
        labels = labels_of(net, images)
        labels[-1] = (labels[-1] + 1) % 3
        found = issue(folder, net, images, labels, "1/20", "interval" if form == "float32" else "exact")
        if set(kinds(found.lines)) == set(KINDS):
            return found
    raise AssertionError("there is no such certificate among these")


def flipped(content: bytes, bit: int) -> bytes:
    i = bit // 8 % len(content)
    return content[:i] + bytes([content[i] ^ 1 << bit % 8]) + content[i + 1 :]


ODD: list[Any] = [None, True, False, -1, 0, 1, 0.5, 10**400, math.nan, math.inf, -math.inf]
ODD += ["", "x", "1/0", "nan", "inf", "-1/20", "9" * 5000, [], [0], [[]], {}, {"x": 0}]
ODD += ["\x1b[31m\x07\n\u202e", "\u09ea/255", {"\x1b]0;": ["\x9b"]}, "\ud800"]


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(place for key, each in inner for place in places(each, (*prefix, key)))]


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    if not place:
        return by
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], by) if len(place) > 1 else by
    return copy


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def recounted(lines: Lines) -> None:
    """The totals as the samples have them."""
    n = len(lines) - 1
    counts = {
        "clean": sum(line["prediction"] == line["label"] for line in lines[1:]),
        "certified": sum(line["certified"] for line in lines[1:]),
    }
    for name, found in counts.items():
        lines[0][name] = {"count": found, "of": n, "bounds": list(clopper_pearson(found, n))}


def derived(lines: Lines, i: int) -> None:
    """Prediction, margin, verdict and radius of sample i, and the totals, as its logits have them."""
    top, line = lines[0], lines[1 + i]
    z, y = line["logits"], line["label"]
    margin = z[y] - max(z[:y] + z[y + 1 :])
    radius = 0.0 if top["fraction_bits"] is None else min(max((margin - 1) // 2, 0), 255 << top["fraction_bits"])
    line |= {"prediction": z.index(max(z)), "margin": margin, "radius": radius, "certified": margin > top["threshold"]}
    recounted(lines)
