"""Certificate files and their checker: what is written verifies, and whatever is false is refused in a sentence."""

import ast
import gzip
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from op_cases import Array
from scipy.stats import binomtest

from linfengine import verify as checker
from linfengine.certificate import write_certificate
from linfengine.certify import certify, clopper_pearson, predict
from linfengine.checkpoint import load_model, model_content, save_model
from linfengine.data import to_pixels
from linfengine.errors import UserError
from linfengine.exact import ExactNet, quantize
from linfengine.interval import Interval
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistConvNet,
    LinfDistDense,
    LinfDistNet,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
)
from linfengine.verify import FORMAT, Disagreement, Net, binomial, check_totals, nearest, verify

Lines = list[dict[str, Any]]

# Nets, and certificates of them.

MAKERS: dict[str, Callable[[], Sequential]] = {
    "net": lambda: LinfDistNet((2, 3, 3), 3, width=5, depth=3, mean=(0.4, 0.6), std=0.3),
    "net without shifts": lambda: LinfDistNet((2, 3, 3), 2, width=4, depth=1, mean=(0.4,), std=0.7, mean_shift=False),
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
    "cropped net": lambda: LinfDistNet((2, 3, 3), 3, width=5, depth=2, mean=(0.4, 0.6), std=0.3, crop=2),
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
    "conv net": lambda: LinfDistConvNet((2, 3, 3), 3, channels=1, width=4, mean=(0.4, 0.6), std=0.3),
    "cropped conv net": lambda: LinfDistConvNet(
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
    """The sentence that is reported."""
    with pytest.raises(Disagreement) as refusal:
        call()
    sentence = str(refusal.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


def labels_of(net: Module, images: Array) -> Array:
    return predict(net, images if isinstance(net, ExactNet) else to_pixels(images)).argmax(axis=1)


# What is written verifies.


@st.composite
def cases(draw: st.DrawFn) -> tuple[Module, Array, Array, Fraction, str]:
    """(net, images, labels, eps, method): nets of every kind, some labels wrong, eps often at the border of a claim."""
    name, bits = draw(st.sampled_from(sorted(MAKERS))), draw(st.sampled_from([None, None, 0, 4, 8]))
    seed = draw(st.integers(0, 2**32))
    net: Module = filled(MAKERS[name](), seed, draw(st.sampled_from([0.3, 1.0, 3.0])))
    net = net if bits is None else quantize(net, bits)
    images = some_images(draw(st.integers(1, 3)), seed)
    labels = labels_of(net, images)
    if draw(st.booleans()):
        labels[-1] = 1 - labels[-1] % 2
    pixels = images if isinstance(net, ExactNet) else to_pixels(images)
    proved = certify(net, pixels, labels, 0, method="margin")
    if proved.steps is None:
        near = Fraction(float(proved.radius[0])) * draw(
            st.sampled_from([Fraction(n, 100) for n in (99, 100, 101, 120)])
        )
    else:
        near = Fraction(max(int(proved.steps[0]) + draw(st.integers(-1, 2)), 0), 255 << net.fraction_bits)  # type: ignore[attr-defined]
    usual = [Fraction(0), Fraction(8, 255), Fraction(1, 20), Fraction(3, 10), Fraction(1), draw(st.fractions(0, 1))]
    eps = min(draw(st.sampled_from([*usual, near, near, near])), Fraction(1))
    return net, images, labels, eps, draw(st.sampled_from(["margin", "interval"] + ["exact"] * (bits is not None)))


@given(case=cases())
@settings(max_examples=150)
def test_what_is_written_verifies(case: tuple[Module, Array, Array, Fraction, str], tmp_path: Path) -> None:
    net, images, labels, eps, method = case
    issued = issue(tmp_path, net, images, labels, eps, method, dataset="none")
    header = issued.verify()
    assert header == issued.lines[0]
    assert (header["format"], header["method"], Fraction(header["eps"])) == (FORMAT, method, eps)
    assert header["certified"]["count"] == sum(line["certified"] for line in issued.lines[1:]) <= header["n"]
    assert header["dataset"] == "none"


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("bits", [None, 0, 4, 8])
def test_logits_and_bounds_are_derived_to_the_last_bit(name: str, bits: int | None) -> None:
    float_net = filled(MAKERS[name](), 0)
    net: Any = float_net if bits is None else quantize(float_net, bits)
    derive, images = Net(model_content(net)), some_images(5)
    x = to_pixels(images) if bits is None else images.astype(np.float32)
    reach = np.float32(0.05 if bits is None else 13)
    ball = Interval(np.maximum(x - reach, 0), np.minimum(x + reach, x.max()))
    logits, bounds, box = net(x).numpy(), net(ball), (ball.lower, ball.upper)
    for i in range(len(images)):
        point = [derive.pixel(level) for level in images[i].ravel().tolist()]
        assert point == derive.integers(x[i].ravel().tolist())
        assert derive([point], SHAPE) == [derive.integers(logits[i].tolist())]
        ends = [derive.integers(end[i].ravel().tolist()) for end in box]
        assert derive(ends, SHAPE) == [derive.integers(end[i].tolist()) for end in (bounds.lower, bounds.upper)]


MAGNITUDES = (0.0, 1e-45, 3e-42, 1e-38, 1e-30, 1e-7, 1.0, 1e8, 1e30)


@given(
    seed=st.integers(0, 2**32),
    magnitudes=st.lists(st.sampled_from(MAGNITUDES), min_size=1, max_size=3),
    mean=st.sampled_from([0.0, 1e-45, 0.4, 1e9]),
    std=st.sampled_from([1e-30, 1e-6, 0.3, 3.0, 1e30, 1e36, 1e38]),
)
@settings(max_examples=150)
def test_numbers_of_all_magnitudes_are_derived_to_the_last_bit(
    seed: int, magnitudes: list[float], mean: float, std: float, tmp_path: Path
) -> None:
    """Pixels divided by 1e38 are denormal, others beside them 1e30: every rounding there is, is the checker's, too."""
    assume(mean / std < 1e30)
    rng = np.random.default_rng(seed)
    net = Sequential(
        Normalize((mean,), std), Flatten(), LinfDistDense(9, 4), MeanShift(4), LinfDistDense(4, 3, bias=True), Negate()
    )
    for array in net.state().values():
        array[...] = rng.choice(np.array(magnitudes), array.shape) * rng.uniform(-1, 1, array.shape)
    images = some_images(2, seed, (1, 3, 3))
    issued = issue(tmp_path, net, images, labels_of(net, images), "1/20")
    issued.verify()
    logits, derive = predict(net, to_pixels(images)), Net(issued.model.read_bytes())
    for image, z in zip(images, logits, strict=True):
        derived = derive([[derive.pixel(level) for level in image.ravel().tolist()]], (1, 3, 3))
        assert derived == [[int(Fraction(float(number)) * 2**149) for number in z]]


LARGEST = 2**277 - 2**253  # of float32, in units of 2^-149


@st.composite
def quotients(draw: st.DrawFn) -> tuple[int, int]:
    """(numerator, denominator), many of them ties or next to one."""
    denominator = draw(st.sampled_from([1, 2, 255, 2**149]) | st.integers(1, 2**160))
    halves = draw(st.integers(0, 2**25)) << draw(st.integers(0, 250))  # twice a float32 number, or between two
    numerator = draw(st.integers(0, 2**270) | st.just(halves * denominator // 2)) + draw(st.integers(-1, 1))
    return draw(st.sampled_from([-1, 1])) * numerator, denominator


@given(quotient=quotients())
@settings(max_examples=400)
def test_nearest_is_the_nearest_float32(quotient: tuple[int, int]) -> None:
    """None of the float32 numbers around it is nearer, and of two as near it is the one with the even significand."""
    exact = Fraction(*quotient) / 2**149
    assume(abs(exact) * 2**149 <= LARGEST)
    guess = np.float32(float(exact))
    around = [np.nextafter(guess, np.float32(-math.inf)), guess, np.nextafter(guess, np.float32(math.inf))]
    finite = [each for each in around if np.isfinite(each)]
    expected = min(finite, key=lambda each: (abs(Fraction(float(each)) - exact), int(each.view(np.uint32)) & 1))
    assert nearest(*quotient) == Fraction(float(expected)) * 2**149


@given(significand=st.integers(-(2**53), 2**53), shift=st.integers(0, 223))
@settings(max_examples=300)
def test_nearest_rounds_as_numpy_does(significand: int, shift: int) -> None:
    number = math.ldexp(significand, shift - 149)  # a float64 number, without rounding
    assert nearest(significand << shift) == Fraction(float(np.float32(number))) * 2**149


def test_nearest_refuses_what_overflows() -> None:
    half = 2**252
    assert nearest(LARGEST + half - 1) == LARGEST
    assert nearest(1 - LARGEST - half) == -LARGEST
    for beyond in (LARGEST + half, -LARGEST - half, 2**300):
        assert "overflow float32" in complaint(lambda beyond=beyond: nearest(beyond))  # type: ignore[misc]


def test_a_net_that_may_overflow_has_no_certificate(tmp_path: Path) -> None:
    """Neither is one written nor, where one was written by another hand, verified."""
    net, images, labels = LinfDistNet((1, 1, 1), 2, width=1, depth=1, mean=(0.0,), std=1.0), BLACK, FIRST
    weight = np.full((2, 1), 3e38, np.float32)
    net.load_state({"2.weight": weight, "2.bias": np.full(2, 3e37, np.float32)})
    issued = issue(tmp_path, net, images, labels)
    assert issued.verify()["certified"]["count"] == 0
    net.load_state({"2.weight": weight, "2.bias": np.full(2, 1e38, np.float32)})
    refused = pytest.raises(UserError, match="may overflow float32, so there is no certificate to write")
    with refused, np.errstate(over="ignore", invalid="ignore"):
        issue(tmp_path, net, images, labels)
    complaint(issued.remodelled(model_content(net)).verify)


# What a certificate file is.


def test_a_file_is_what_the_certificate_says(tmp_path: Path) -> None:
    net = quantize(filled(MAKERS["net"](), 0), 4)
    images = some_images(4)
    labels = labels_of(net, images)
    issued = issue(tmp_path, net, images, labels, "1/20", "exact", dataset="digits", split="test")
    verdict, (header, *samples) = certify(net, images, labels, "1/20", method="exact"), issued.lines
    assert header["model"] == hashlib.sha256(issued.model.read_bytes()).hexdigest()
    assert (header["n"], header["classes"], header["fraction_bits"]) == (4, 3, 4)
    assert (header["eps"], header["gray_levels"]) == ("1/20", "51/4")
    assert (header["dataset"], header["split"]) == ("digits", "test")
    assert header["threshold"] == verdict.threshold * 16 == 2 * 51 * 16 // 4
    assert header["certified"]["bounds"] == list(clopper_pearson(header["certified"]["count"], 4))
    assert verdict.steps is not None
    for i, line in enumerate(samples):
        assert line["pixels"] == hashlib.sha256(images[i].tobytes()).hexdigest()
        assert line["logits"] == (verdict.logits[i] * 16).tolist()
        assert all(type(number) is int for number in (*line["logits"], line["margin"], line["radius"]))
        assert (line["index"], line["label"], line["prediction"]) == (i, labels[i], verdict.prediction[i])
        assert (line["margin"], line["radius"]) == (verdict.margin[i] * 16, verdict.steps[i])
        assert line["certified"] is bool(verdict.certified[i])
    before = issued.certificate.read_bytes()
    assert issue(tmp_path, net, images, labels, "1/20", "exact", dataset="digits", split="test").verify()
    assert issued.certificate.read_bytes() == before


def test_only_the_images_that_were_certified_are_written(tmp_path: Path) -> None:
    net, images = filled(MAKERS["net"](), 0), some_images(4)
    labels = labels_of(net, images)
    issued, verdict = issue(tmp_path, net, images, labels), certify(net, to_pixels(images), labels, "1/20")
    for bad in ((to_pixels(images), labels), (images[:3], labels), (images, labels[:3]), (images[:3], labels[:3])):
        with pytest.raises(ValueError, match="expected the 4 uint8 images that were certified"):
            write_certificate(tmp_path / "other", verdict, issued.model, *bad)
    assert not (tmp_path / "other").exists()


# Tampering. Of these certificates each has a sample that is proved by its margin, one by the box alone, one that is
# right and not proved, and one that is wrong.

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


@pytest.fixture(scope="module", params=["float32", "exact"])
def issued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Issued:
    folder = tmp_path_factory.mktemp(request.param)
    for seed in range(200):
        net: Module = filled(LinfDistNet((2, 3, 3), 3, width=6, depth=2, mean=(0.4, 0.6), std=0.3), seed)
        net = net if request.param == "float32" else quantize(net, 4)
        images = some_images(10, seed)
        labels = labels_of(net, images)
        labels[-1] = (labels[-1] + 1) % 3
        found = issue(folder, net, images, labels, "1/20", "interval" if request.param == "float32" else "exact")
        if set(kinds(found.lines)) == set(KINDS):
            return found
    raise AssertionError("there is no such certificate among these")


def test_the_certificates_that_are_tampered_with_verify(issued: Issued) -> None:
    assert issued.verify() == issued.lines[0]
    assert issued.rewritten(sealed(issued.lines)).verify() == issued.lines[0]
    assert issued.remodelled(issued.model.read_bytes()).verify() == issued.lines[0]


def flipped(content: bytes, bit: int) -> bytes:
    i = bit // 8 % len(content)
    return content[:i] + bytes([content[i] ^ 1 << bit % 8]) + content[i + 1 :]


@given(what=st.sampled_from(["certificate", "model", "images", "labels"]), bit=st.integers(0, 2**24))
@settings(max_examples=200)
def test_no_bit_can_be_flipped(issued: Issued, what: str, bit: int) -> None:
    certificate, model, images, labels = issued.certificate, issued.model, issued.images, issued.labels
    if what == "certificate":
        certificate = issued.rewritten(flipped(certificate.read_bytes(), bit)).certificate
    elif what == "model":
        model = model.with_name("flipped.safetensors")
        model.write_bytes(flipped(issued.model.read_bytes(), bit))
    elif what == "images":
        images = np.frombuffer(flipped(images.tobytes(), bit), np.uint8).reshape(images.shape)
    else:
        labels = np.frombuffer(flipped(labels.tobytes(), bit), labels.dtype)
    sentence = complaint(lambda: verify(certificate, model, images, labels))
    expected = {"certificate": "not the SHA-256 of all above it", "model": "model: the certificate says"}
    expected |= {"images": ", pixels: the certificate says", "labels": ", label: the certificate says"}
    assert expected[what] in sentence


def test_no_bit_of_the_header_can_be_flipped_in_the_model(issued: Issued) -> None:
    content = issued.model.read_bytes()
    model = issued.model.with_name("flipped.safetensors")
    for byte in range(int.from_bytes(content[:8], "little") + 8):
        model.write_bytes(flipped(content, 8 * byte + byte % 8))
        assert "model: " in complaint(lambda: verify(issued.certificate, model, issued.images, issued.labels))


@given(bit=st.integers(0, 2**24))
@settings(max_examples=100)
def test_another_model_verifies_only_where_it_computes_the_same(issued: Issued, bit: int) -> None:
    """One bit of its tensors flipped, and the digest and the seal as they should be for that model."""
    content = issued.model.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    other = issued.remodelled(content[:start] + flipped(content[start:], bit))
    try:
        other.verify()
    except Disagreement:
        return
    net, _ = load_model(other.model)
    grid = 2.0**net.fraction_bits if isinstance(net, ExactNet) else 1
    logits = predict(net, issued.images if isinstance(net, ExactNet) else to_pixels(issued.images)) * grid
    assert logits.tolist() == [line["logits"] for line in issued.lines[1:]]


def test_a_file_that_is_cut_is_refused(issued: Issued) -> None:
    content = issued.certificate.read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]
    middles = [(a + b) // 2 for a, b in zip(ends, ends[1:], strict=False)]
    for end in sorted({*ends[:-1], *middles, len(content) - 1, 1, 2}):
        assert "cut short or edited" in complaint(issued.rewritten(content[:end]).verify)
        if end != ends[-2]:
            complaint(issued.rewritten(sealed(content[:end])).verify)
    for more in (b"\n", b" ", lines[-1], b"{}\n"):
        assert "cut short or edited" in complaint(issued.rewritten(content + more).verify)
    for nothing in (b"", b"\n", b"\n\n", sealed(b""), sealed(b"\n"), b"\x00", b"\xff\xfe"):
        complaint(issued.rewritten(nothing).verify)


def orders(lines: list[bytes]) -> list[list[bytes]]:
    header, *samples = lines
    return [
        [header, *samples[::-1]],
        [header, samples[1], samples[0], *samples[2:]],
        [*samples, header],
        [samples[0], header, *samples[1:]],
        [header, *samples[1:]],
        [header, *samples[:-1]],
        [header, *samples[:3], *samples[4:]],
        [header, samples[0], *samples],
        [header, *samples, samples[-1]],
        [header, header, *samples],
        [header, *samples, b"\n"],
        [header, b"\n", *samples],
        samples,
        [header],
    ]


def test_lines_stay_where_they_are(issued: Issued) -> None:
    *lines, seal = issued.certificate.read_bytes().splitlines(keepends=True)
    for other in orders(lines):
        assert "cut short or edited" in complaint(issued.rewritten(b"".join([*other, seal])).verify)
        complaint(issued.rewritten(sealed(b"".join(other))).verify)
        header, *samples = other
        if len(samples) != len(lines) - 1 and header == lines[0] and b"\n" not in other:
            rewritten = json.dumps(json.loads(header) | {"n": len(samples)}).encode() + b"\n"
            complaint(issued.rewritten(sealed(b"".join([rewritten, *samples]))).verify)


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
    radius = 0 if top["fraction_bits"] is None else min(max((margin - 1) // 2, 0), 255 << top["fraction_bits"])
    line |= {"prediction": z.index(max(z)), "margin": margin, "radius": radius, "certified": margin > top["threshold"]}
    recounted(lines)


def raised(lines: Lines, i: int) -> None:
    """The logit of the label made the largest, from which all else follows as it should."""
    line = lines[1 + i]
    line["logits"][line["label"]] = max(line["logits"]) + 1000  # exact in float64, too
    derived(lines, i)


def lowered(lines: Lines, i: int) -> None:
    line = lines[1 + i]
    line["logits"][line["label"]] = min(line["logits"]) - 1000
    derived(lines, i)


def claimed(lines: Lines, i: int) -> None:
    """A claim that the box is said to prove, from which all else follows as it should."""
    top, line = lines[0], lines[1 + i]
    if top["fraction_bits"] is not None:
        line["radius"] = max(line["radius"], math.floor(255 * Fraction(top["eps"]) * 2 ** top["fraction_bits"]))
    line["certified"] = True
    recounted(lines)


def step(number: float) -> float:
    """One step of an exact net, or next to nothing."""
    return 1 if isinstance(number, int) else 1e-6


def farther(top: dict[str, Any]) -> dict[str, Any]:
    """Twice eps, with the threshold that belongs to it."""
    twice = 2 * top["threshold"] if top["fraction_bits"] is None else 2 * 255 * 16 // 10
    return {"eps": "1/10", "gray_levels": "51/2", "threshold": twice}


def radius_of(eps: str) -> Callable[[Any], dict[str, Any]]:
    return lambda top: {"eps": eps, "gray_levels": str(255 * Fraction(eps))}


# Of the header, or of the first sample of a kind: what is put in its place, and how the complaint begins.
EDITS: dict[str, tuple[str, Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "format": ("header", lambda top: {"format": "linfengine-certificate-2"}, "format: .*certificate-2, and .*-1 was"),
    "model": ("header", lambda top: {"model": "0" * 64}, "model: "),
    "method": ("header", lambda top: {"method": "margin"}, "sample {box} is said to be certified"),
    "unknown method": ("header", lambda top: {"method": "guess"}, "method 'guess' does not fit"),
    "fraction bits": ("header", lambda top: {"fraction_bits": (top["fraction_bits"] or 0) + 1}, "fraction_bits: "),
    "arithmetic": ("header", lambda top: {"fraction_bits": None if top["fraction_bits"] else 4}, "fraction_bits: "),
    "eps": ("header", lambda top: {"eps": "1/10"}, "gray_levels: "),
    "gray levels": ("header", lambda top: {"gray_levels": "12"}, "gray_levels: "),
    "eps and gray levels": ("header", radius_of("1/10"), "threshold: "),
    "eps and all with it": ("header", farther, "sample [0-9]+"),
    "eps of no ball": ("header", radius_of("-1/20"), "eps: -1/20 is no radius"),
    "eps beyond all pixels": ("header", radius_of("21/20"), "eps: 21/20 is no radius"),
    "threshold": ("header", lambda top: {"threshold": top["threshold"] - step(top["threshold"])}, "threshold: "),
    "no threshold": ("header", lambda top: {"threshold": 0}, "threshold: "),
    "n": ("header", lambda top: {"n": top["n"] + 1}, "n: "),
    "classes": ("header", lambda top: {"classes": top["classes"] + 1}, "sample 0, number of logits: "),
    "confidence": ("header", lambda top: {"confidence": 0.9}, "clean: .*Clopper-Pearson"),
    "clean": ("header", lambda top: {"clean": top["clean"] | {"count": top["clean"]["count"] + 1}}, "clean: "),
    "certified": ("header", lambda top: {"certified": top["certified"] | {"count": 10}}, "certified: "),
    "of": ("header", lambda top: {"certified": top["certified"] | {"of": 9}}, "certified"),
    "lower bound": (
        "header",
        lambda top: {
            "clean": top["clean"] | {"bounds": [top["clean"]["bounds"][0] * 1.001, top["clean"]["bounds"][1]]}
        },
        "clean: .*Clopper-Pearson",
    ),
    "no bounds": ("header", lambda top: {"clean": top["clean"] | {"bounds": [0, 1]}}, "clean: .*Clopper-Pearson"),
    "index": ("margin", lambda line: {"index": line["index"] + 1}, "the order of samples: "),
    "pixels": ("open", lambda line: {"pixels": "0" * 64}, "sample {open}, pixels: "),
    "label": ("wrong", lambda line: {"label": line["prediction"]}, "sample {wrong}, label: "),
    "prediction": ("wrong", lambda line: {"prediction": line["label"]}, "sample {wrong}, prediction: "),
    "margin": ("open", lambda line: {"margin": line["margin"] + 1}, "sample {open}, margin: "),
    "smaller margin": ("margin", lambda line: {"margin": line["margin"] - 1}, "sample {margin}, margin: "),
    "logit": ("open", lambda line: {"logits": [z + 1 / 2**j for j, z in enumerate(line["logits"])]}, "sample {open}, "),
    "logit less": ("open", lambda line: {"logits": line["logits"][:-1]}, "sample {open}, number of logits"),
    "logit more": ("open", lambda line: {"logits": [*line["logits"], -1e9]}, "sample {open}, number of logits"),
    "radius": ("open", lambda line: {"radius": line["radius"] + 1}, "sample {open}, radius: "),
    "radius by margin": (
        "margin",
        lambda line: {"radius": line["radius"] + step(line["radius"])},
        "sample {margin}, radius: ",
    ),
    "radius by the box": (
        "box",
        lambda line: {"radius": line["radius"] + step(line["radius"])},
        "sample {box}, radius: ",
    ),
    "radius of what is wrong": ("wrong", lambda line: {"radius": 1}, "sample {wrong}, radius: "),
    "negative radius": ("open", lambda line: {"radius": -1}, "sample {open}, radius: "),
    "certified though wrong": ("wrong", lambda line: {"certified": True}, "sample {wrong} is said to be certified"),
    "certified though open": ("open", lambda line: {"certified": True}, "sample {open}, "),
    "not certified": ("margin", lambda line: {"certified": False}, "sample {margin}, certified: "),
}


def refused_and_named(issued: Issued, lines: Lines, expected: str) -> None:
    """Sealed as it was, the seal is broken; sealed anew, the content is."""
    assert lines != issued.lines
    content, seal = sealed(lines), issued.certificate.read_bytes().splitlines(keepends=True)[-1]
    assert "cut short or edited" in complaint(issued.rewritten(content[: -len(seal)] + seal).verify)
    sentence = complaint(issued.rewritten(content).verify)
    assert re.match(expected.format(**kinds(issued.lines)), sentence), sentence


@pytest.mark.parametrize("name", EDITS)
def test_what_is_false_is_refused_and_named(issued: Issued, name: str) -> None:
    (kind, change, expected), lines = EDITS[name], issued.lines
    line = lines[0 if kind == "header" else 1 + kinds(lines)[kind]]
    line |= change(line)
    refused_and_named(issued, lines, expected)


@pytest.mark.parametrize(
    ("kind", "change"),
    [("open", raised), ("margin", raised), ("wrong", raised), ("margin", lowered), ("box", lowered), ("open", claimed)],
)
def test_what_is_false_all_through_is_refused_and_named(
    issued: Issued, kind: str, change: Callable[[Lines, int], None]
) -> None:
    """Nothing in the file contradicts it, only the net does."""
    lines = issued.lines
    change(lines, kinds(lines)[kind])
    found = "certified by the box: " if change is claimed else "logit [0-2]: "
    refused_and_named(issued, lines, f"sample {{{kind}}}, {found}")


def test_only_an_exact_net_has_an_exact_certificate(issued: Issued) -> None:
    top, *samples = issued.lines
    for method in ("interval", "exact"):
        other = issued.rewritten(sealed([top | {"method": method}, *samples]))
        if method == "exact" and top["fraction_bits"] is None:
            assert complaint(other.verify) == "method 'exact' does not fit the model"
        else:
            other.verify()


def test_what_the_box_proves_of_an_exact_net_cannot_be_denied(issued: Issued) -> None:
    """Of a float32 net it may be: then less is claimed than could be."""
    lines = issued.lines
    i, (top, *samples) = kinds(lines)["box"], lines
    line = samples[i]
    exact = top["fraction_bits"] is not None
    line |= {"certified": False, "radius": (line["margin"] - 1) // 2 if exact else 0}
    recounted(lines)
    denied = issued.rewritten(sealed(lines))
    if exact:
        assert f"sample {i}, certified by the box: " in complaint(denied.verify)
    else:
        assert denied.verify()["certified"]["count"] == issued.lines[0]["certified"]["count"] - 1


# Whatever stands in a file.

ODD: list[Any] = [None, True, False, -1, 0, 1, 0.5, 10**400, math.nan, math.inf, -math.inf]
ODD += ["", "x", "1/0", "nan", "inf", "-1/20", "9" * 5000, [], [0], [[]], {}, {"x": 0}]


def places(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [prefix, *(place for key, each in inner for place in places(each, (*prefix, key)))]


def replaced(value: Any, place: tuple[Any, ...], by: Any) -> Any:
    if not place:
        return by
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], by)
    return copy


def at(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


WORDS = ("linfengine", "arithmetic", "rests_on")  # for people
HEADER: list[tuple[Any, ...]] = [("format",), ("model",), ("method",), ("fraction_bits",), ("eps",), ("gray_levels",)]
HEADER += [("threshold",), ("n",), ("classes",), ("confidence",), ("clean",), ("certified",)]
COUNT: list[tuple[Any, ...]] = [("count",), ("of",), ("bounds",), ("bounds", 0)]
HEADER += [(name, *more) for name in ("clean", "certified") for more in COUNT]
SAMPLE: list[tuple[Any, ...]] = [("index",), ("pixels",), ("label",), ("prediction",), ("logits",), ("logits", 0)]
SAMPLE += [("margin",), ("radius",), ("certified",)]


def claims_less(place: tuple[Any, ...], odd: Any, original: Any) -> bool:
    """Whether that is true as well, of a float32 net."""
    number = isinstance(odd, int | float)
    return number and (
        (place == (0, "threshold") and odd > original) or (place == (1, "radius") and 0 <= odd < original)
    )


@pytest.mark.parametrize(
    "place", [(0,), (1,), *((0, *place) for place in HEADER), *((1, *place) for place in SAMPLE)], ids=str
)
def test_odd_values_are_refused_in_a_sentence(issued: Issued, place: tuple[Any, ...]) -> None:
    """Nothing but what is true will do, and nothing is missing."""
    lines = issued.lines
    original, exact = at(lines, place), lines[0]["fraction_bits"] is not None
    for odd in ODD:
        if odd != original and (exact or not claims_less(place, odd, original)):
            complaint(issued.rewritten(sealed(replaced(lines, place, odd))).verify)
    if isinstance(place[-1], str):
        del at(lines, place[:-1])[place[-1]]
        complaint(issued.rewritten(sealed(lines)).verify)


def test_every_value_has_been_replaced_by_odd_ones(issued: Issued) -> None:
    first, second = (
        {tuple(0 if isinstance(key, int) else key for key in place) for place in places(line)} - {()}
        for line in issued.lines[:2]
    )
    assert first == {*HEADER, *((word,) for word in (*WORDS, "dataset", "split"))}
    assert second == set(SAMPLE)


@pytest.mark.parametrize("deep", [b"[" * 200_000, b'{"format":' * 200_000, b"[" * 90_000 + b"]" * 90_000])
def test_deep_nesting_is_refused_in_a_sentence(issued: Issued, deep: bytes) -> None:
    body = b"".join(issued.certificate.read_bytes().splitlines(keepends=True)[1:-1])
    complaint(issued.rewritten(sealed(deep + b"\n" + body)).verify)
    complaint(issued.remodelled(len(deep).to_bytes(8, "little") + deep).verify)


def test_text_that_is_none_is_refused_in_a_sentence(issued: Issued) -> None:
    body = issued.certificate.read_bytes().rsplit(b"\n", 2)[0]
    for bad in (b"\xff", b'{"format": "\xc3"}', b"{", b"nul", b"'", b"{}", b"[]", b"3", b'"linfengine-certificate-1"'):
        complaint(issued.rewritten(sealed(bad + b"\n" + body + b"\n")).verify)
        complaint(issued.rewritten(sealed(body + b"\n" + bad + b"\n")).verify)
        complaint(issued.rewritten(sealed(bad + b"\n")).verify)


# The model.


def described(content: bytes, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> bytes:
    """A model file after a change: of (header, config) it gives another config, and may write into the header."""
    start = 8 + int.from_bytes(content[:8], "little")
    top = json.loads(content[8:start])
    config = change(top, json.loads(top["__metadata__"]["config"]))
    top["__metadata__"]["config"] = json.dumps(config)
    text = json.dumps(top).encode()
    return len(text).to_bytes(8, "little") + text + content[start:]


CONV_KEYS: list[tuple[Any, ...]] = [("layers", 0, "mean"), ("layers", 0, "mean", 0), ("layers", 0, "std")]
CONV_KEYS += [("layers", 1, key) for key in ("layer", "kernel_size", "stride", "padding", "bias", "groups")]
CONV_KEYS += [("layers", 0), ("layers", 1), ("layers",), ("layer",), ()]
SMALL = [odd for odd in ODD if not (isinstance(odd, int) and odd > 1)] + [
    -0.25,
    1e30,
]  # what is large, is worked through


@pytest.mark.parametrize("place", CONV_KEYS, ids=str)
def test_odd_descriptions_of_a_model_are_refused_in_a_sentence(place: tuple[Any, ...], tmp_path: Path) -> None:
    """Some are as good as the right one, as anything is where no bias is stored."""
    images = some_images(1)
    net: Any = filled(MAKERS["conv, padded and strided"](), 0)
    net.layers[1].weight.data[...] *= 30  # so that its padding matters
    issued = issue(tmp_path, net, images, labels_of(net, images))
    refused = 0
    for odd in SMALL:
        content = described(issued.model.read_bytes(), lambda _, config, odd=odd: replaced(config, place, odd))  # type: ignore[misc]
        try:
            issued.remodelled(content).verify()
        except Disagreement:
            refused += 1
    assert refused >= (len(SMALL) // 2 if place[-1:] not in (("bias",), ("groups",)) else 1)


@pytest.mark.parametrize("bits", [-1, 0, 3, 5, 4.5, 10**30, True, None, "4", math.nan])
def test_another_grid_is_another_model(bits: Any, tmp_path: Path) -> None:
    net, images = quantize(filled(MAKERS["net"](), 0), 4), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    content = described(issued.model.read_bytes(), lambda _, config: config | {"fraction_bits": bits})
    complaint(issued.remodelled(content).verify)


@pytest.mark.parametrize("odd", [None, "x", "F16", "F64", [], [1], [-1], [0, 0], [0, 4], [8, 0], {}, 0.5, -1])
@pytest.mark.parametrize("key", ["dtype", "shape", "data_offsets"])
def test_odd_tensors_are_refused_in_a_sentence(key: str, odd: Any, tmp_path: Path) -> None:
    net, images = filled(MAKERS["net"](), 0), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images))

    def change(top: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
        top["2.weight"][key] = odd
        return config

    complaint(issued.remodelled(described(issued.model.read_bytes(), change)).verify)


@pytest.mark.parametrize("name", ["2.weight", "3.running_mean", "6.bias", "__metadata__"])
def test_a_model_that_lacks_something_is_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    net, images = filled(MAKERS["net"](), 0), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    content = issued.model.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    top = json.loads(content[8:start])
    del top[name]
    text = json.dumps(top).encode()
    complaint(issued.remodelled(len(text).to_bytes(8, "little") + text + content[start:]).verify)
    for cut in (0, 7, 8, 100, start, len(content) - 1):
        complaint(issued.remodelled(content[:cut]).verify)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_model_that_is_not_finite_is_refused(bad: float, tmp_path: Path) -> None:
    for bits in (None, 4):
        float_net, images = filled(MAKERS["net"](), 0), some_images(1)
        net: Module = float_net if bits is None else quantize(float_net, bits)
        issued = issue(tmp_path, net, images, labels_of(net, images))
        content = issued.model.read_bytes()
        complaint(issued.remodelled(content[:-4] + struct.pack("<f", bad)).verify)


def test_a_certificate_is_of_one_model(tmp_path: Path) -> None:
    """The same net with another comment is another file, and the certificate names a file."""
    net, images = filled(MAKERS["net"](), 0), some_images(2)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    other = tmp_path / "other.safetensors"
    for model in (filled(MAKERS["net"](), 1), filled(MAKERS["conv"](), 0), quantize(net, 4)):
        save_model(model, other)
        assert complaint(lambda: verify(issued.certificate, other, images, issued.labels)).startswith("model: ")
        complaint(issued.remodelled(other.read_bytes()).verify)
    save_model(net, other, recipe="digits")
    assert complaint(lambda: verify(issued.certificate, other, images, issued.labels)).startswith("model: ")
    issued.remodelled(other.read_bytes()).verify()


@pytest.mark.parametrize("p", [1, 8, 1000])
def test_a_net_at_a_finite_p_is_refused(p: float, tmp_path: Path) -> None:
    net, images = filled(MAKERS["net"](), 0), some_images(2)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    net.p = p
    expected = f"the model is at p = {float(p)!r}: only p = inf can be certified"
    assert complaint(issued.remodelled(model_content(net)).verify) == expected


@pytest.mark.parametrize("layer", [Dense(3, 3, seed=0), Tanh(), Sequential(Negate())])
def test_layers_without_a_rule_are_refused(layer: Module, tmp_path: Path) -> None:
    net = Sequential(Normalize((0.4,), 0.3), Flatten(), LinfDistDense(18, 3, seed=0), layer).eval()
    images = some_images(2)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    assert f"this checker has no rule for a {type(layer).__name__}" in complaint(issued.verify)


@pytest.mark.parametrize(
    "net",
    [
        LinfDistNet(SHAPE, 3, width=5, depth=1, mean=(0.4,), std=0.3, head=4),
        LinfDistConvNet(SHAPE, 3, channels=1, width=3, mean=(0.4,), std=0.3, crop=2, head=4),
    ],
    ids=lambda net: type(net).__name__,
)
def test_a_net_with_a_head_is_refused(net: Sequential, tmp_path: Path) -> None:
    """Its tanh rounds as the library pleases: no integers re-derive it.  Nor is it taken for the net without."""
    images = some_images(2)
    issued = issue(tmp_path, filled(net, 0), images, labels_of(net, images))
    assert complaint(issued.verify) == f"this checker has no rule for a {type(net).__name__} with a head"
    for head in (0, None, False):
        content = described(issued.model.read_bytes(), lambda _, config, head=head: config | {"head": head})  # type: ignore[misc]
        complaint(issued.remodelled(content).verify)


@pytest.mark.parametrize("name", ["cropped net", "conv, cropped", "cropped conv net"])
def test_odd_crops_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    """Of a net that takes a window no other window is as good."""
    net, images = filled(MAKERS[name](), 0), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    place: tuple[Any, ...] = ("layers", 3, "size") if isinstance(net.config().get("layers"), list) else ("crop",)
    for odd in [*ODD, 4, 2.0, -2, 10**30]:
        content = described(issued.model.read_bytes(), lambda _, config, odd=odd: replaced(config, place, odd))  # type: ignore[misc]
        complaint(issued.remodelled(content).verify)


def test_a_window_that_images_do_not_hold_is_refused() -> None:
    assert complaint(lambda: checker.middle(3, (1, 5, 2))) == "a window of 3 x 3 does not fit images of 5 x 2"
    assert "does not fit" in complaint(lambda: checker.middle(0, (1, 5, 2)))


@given(channels=st.integers(1, 3), sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), data=st.data())
def test_the_middle_is_the_middle(channels: int, sides: tuple[int, int], data: st.DataObject) -> None:
    """As many pixels on either side, or one more below and on the right."""
    size = data.draw(st.integers(1, min(sides)))
    pixels = np.arange(channels * math.prod(sides)).reshape(channels, *sides)
    (above, below), (left, right) = (((side - size) // 2, (side - size + 1) // 2) for side in sides)
    expected = pixels[:, above : sides[0] - below, left : sides[1] - right]
    places, shape = checker.middle(size, (channels, *sides))
    assert shape == expected.shape
    assert places == expected.ravel().tolist()


def test_a_net_that_turns_its_input_around_is_refused(tmp_path: Path) -> None:
    """Divided by a negative number a net would have a negative Lipschitz constant, and nonsense would be proved."""
    normalize = Normalize((0.5,), 0.25)
    net = Sequential(normalize, Flatten(), LinfDistDense(18, 3, bias=True, seed=0), Negate()).eval()
    normalize.std = np.float32(-0.25)
    images = some_images(4)
    issued = issue(tmp_path, net, images, (labels_of(net, images) + 1) % 3, "1", "margin")
    lines = issued.lines
    complaint(issued.verify)
    lines[0]["threshold"] = -7.5  # more than 2 L eps + 4 E, if L were -4
    for i, line in enumerate(lines[1:]):
        try:  # the checker's own logits, if it has any
            derive = Net(issued.model.read_bytes())
            (logits,) = derive([[derive.pixel(level) for level in images[i].ravel().tolist()]], SHAPE)
            line["logits"] = [float(Fraction(z, 2**149)) for z in logits]
        except Disagreement:
            pass
        derived(lines, i)
    assert lines[0]["certified"]["count"] > lines[0]["clean"]["count"] == 0
    complaint(issued.rewritten(sealed(lines)).verify)


class TestExactNetsThatAreNone:
    """What the library never writes, its own proof being switched off: the checker makes its own."""

    images = some_images(2)

    def refused(self, tmp_path: Path, net: ExactNet) -> str:
        issued = issue(tmp_path, net, self.images, labels_of(net, self.images), "1/20", "exact")
        return complaint(issued.verify)

    @pytest.fixture(autouse=True)
    def unchecked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ExactNet, "check", lambda net: None)

    @pytest.mark.parametrize("weight", [2.0**20, -(2.0**20) + 255, 2.0**30])
    def test_ranges_that_are_not_proved(self, weight: float, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3, bias=True)
        dense.weight.data[...] = weight
        net = ExactNet(Flatten(), dense, Negate(), fraction_bits=4)
        assert "the model's values may reach" in self.refused(tmp_path, net)

    def test_ranges_that_are_just_proved(self, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3, bias=True)
        dense.weight.data[...] = -(2.0**20) + 256
        net = ExactNet(Flatten(), dense, Negate(), fraction_bits=4)
        issue(tmp_path, net, self.images, labels_of(net, self.images), "1/20", "exact").verify()

    @pytest.mark.parametrize("number", [2.0**-5, 0.3, 1e-45])
    def test_numbers_off_the_grid(self, number: float, tmp_path: Path) -> None:
        for array in range(2):
            dense = LinfDistDense(18, 3, bias=True)
            dense.weight.data[...] = 0
            list(dense.state().values())[array].reshape(-1)[-1] = number
            sentence = self.refused(tmp_path, ExactNet(Flatten(), dense, Negate(), fraction_bits=4))
            assert "is no multiple of 2^-4, as all numbers of the model have to be" in sentence

    def test_a_mean_off_the_grid(self, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3)
        dense.weight.data[...] = 0
        net = ExactNet(Normalize((0.3,), 1.0), Flatten(), dense, fraction_bits=4)
        assert "no multiple of 2^-4" in self.refused(tmp_path, net)

    @pytest.mark.parametrize("std", [2.0, 0.5, 255.0])
    def test_a_division(self, std: float, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3)
        dense.weight.data[...] = 0
        net = ExactNet(Normalize((0.0,), std), Flatten(), dense, fraction_bits=4)
        assert self.refused(tmp_path, net) == f"the model divides by {Fraction(std)}, which no exact net does"


# The data.


def test_a_certificate_is_of_these_samples(issued: Issued) -> None:
    certificate, model, images, labels = issued.certificate, issued.model, issued.images, issued.labels
    more = np.concatenate([images, images[:1]]), np.concatenate([labels, labels[:1]])
    verify(certificate, model, *more)  # it is of the first of them
    for other, message in [
        ((images[::-1], labels[::-1]), "sample 0, pixels: "),
        ((np.roll(images, 1, axis=3), labels), "sample 0, pixels: "),
        ((images[1:], labels[1:]), "sample 0, pixels: "),
        ((images[:5], labels[:5]), "sample 5 is not in the data, which have 5"),
        ((images[:0], labels[:0]), "sample 0 is not in the data, which have 0"),
        ((images, (labels + 1) % 3), "sample 0, label: "),
        ((images, labels[:5]), "the data are not uint8 images"),
        ((to_pixels(images), labels), "the data are not uint8 images"),
        ((images.reshape(10, 18), labels), "the data are not uint8 images"),
        ((images[..., :1], labels), "sample 0, pixels: "),
    ]:
        assert complaint(lambda other=other: verify(certificate, model, *other)).startswith(message)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["net", "groups", "conv"])
@pytest.mark.parametrize("bits", [None, 4])
def test_images_of_another_size_are_refused(name: str, bits: int | None, tmp_path: Path) -> None:
    """Though the first of their pixels, all that the net looks at, be those of the images that it is for."""
    net: Any = filled(MAKERS[name](), 0)
    net, images = net if bits is None else quantize(net, bits), some_images(2)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    for more in ((2, 3, 4), (2, 4, 3), (3, 3, 3), (2, 3, 2), (1, 3, 3)):
        other = np.resize(images.reshape(2, -1), (2, math.prod(more))).reshape(2, *more)
        other.reshape(2, -1)[:, :18] = images.reshape(2, -1)[:, : math.prod(more)]
        lines = issued.lines
        for line, image in zip(lines[1:], other, strict=True):
            line["pixels"] = hashlib.sha256(image.tobytes()).hexdigest()
        false = issued.rewritten(sealed(lines))
        complaint(lambda false=false, other=other: verify(false.certificate, false.model, other, issued.labels))  # type: ignore[misc]


# The box.


@pytest.fixture(params=[None, 0, 8])
def apart(request: pytest.FixtureRequest) -> Module:
    """-|x| against -|x| - 0.4: at a black pixel a margin of 0.4, and beyond 0.2 the ball is all the box's to prove."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.zeros((2, 1), np.float32), "2.bias": np.array([0, 0.4], np.float32)})
    net.eval()
    return net if request.param is None else quantize(net, request.param)


@pytest.mark.parametrize("eps", ["1/5", "1/4", "39/100"])
def test_what_the_box_alone_proves_verifies(apart: Module, eps: str, tmp_path: Path) -> None:
    issued = issue(tmp_path, apart, BLACK, FIRST, eps, "interval")
    (top, line), exact = issued.lines, isinstance(apart, ExactNet)
    assert line["certified"] is True
    assert line["margin"] <= top["threshold"]
    assert line["radius"] == (math.floor(255 * Fraction(eps) * 2 ** top["fraction_bits"]) if exact else line["radius"])
    assert 0 <= Fraction(eps) - Fraction(line["radius"]) / (255 * 2 ** top["fraction_bits"] if exact else 1) < 1 / 255
    issued.verify()
    issued.rewritten(sealed([top | {"method": "interval"}, line])).verify()
    sentence = complaint(issued.rewritten(sealed([top | {"method": "margin"}, line])).verify)
    assert sentence.startswith("sample 0 is said to be certified, and its margin")


@pytest.mark.parametrize("eps", ["2/5", "41/100", "1"])
def test_what_the_box_does_not_prove_is_not_claimed(apart: Module, eps: str, tmp_path: Path) -> None:
    issued = issue(tmp_path, apart, BLACK, FIRST, eps, "interval")
    lines = issued.lines
    assert lines[1]["certified"] is False
    issued.verify()
    claimed(lines, 0)
    assert complaint(issued.rewritten(sealed(lines)).verify).startswith("sample 0, certified by the box: ")


def test_between_two_steps_the_box_reaches_outward(tmp_path: Path) -> None:
    """A ball of 0.5 gray levels holds real images that the grid of whole levels lacks: its box is one level wide."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.array([[1], [0]], np.float32), "2.bias": np.array([0, 0], np.float32)})
    for level, eps, certified in [(128, "1/510", False), (129, "1/510", True), (129, "3/510", False)]:
        exact, image = quantize(net.eval(), 0), np.full((1, 1, 1, 1), level, np.uint8)
        issued = issue(tmp_path, exact, image, FIRST, eps, "exact")
        assert issued.lines[1]["certified"] is certified
        issued.verify()


# Some of the samples.


@pytest.mark.parametrize("n", [1, 3, 10, 1000])
def test_some_samples_are_derived_and_nobody_foresees_which(issued: Issued, n: int) -> None:
    """A false logit is found where it is derived: each time with 10 of 10, once in a while with fewer."""
    told: list[tuple[int, int]] = []
    issued.verify(samples=n, progress=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, min(n, 10)) for i in range(min(n, 10))]
    lines = issued.lines
    (lowered if lines[1]["certified"] else raised)(lines, 0)
    false, found = issued.rewritten(sealed(lines)), 0
    assert "sample 0, logit " in complaint(false.verify)
    for _ in range(60):
        try:
            false.verify(samples=n)
        except Disagreement as error:  # noqa: PERF203
            assert "sample 0, logit " in str(error)  # noqa: PT017 (it may or may not be derived)
            found += 1
    assert found == 60 if n >= 10 else 0 < found < 60  # that it fails by chance: less than 1 in 500 for n = 1


def test_no_name_stands_twice(issued: Issued) -> None:
    """Python would take the last, another reader the first."""
    head, first, *others, _ = issued.certificate.read_bytes().splitlines(keepends=True)
    twice = first.replace(b'{"index"', b'{"certified": true, "index"')
    assert "a name stands twice" in complaint(issued.rewritten(sealed(head + twice + b"".join(others))).verify)


@pytest.mark.parametrize("n", [0, -1, -10])
def test_no_samples_are_not_some(issued: Issued, n: int) -> None:
    """Verified would mean nothing if nothing was derived."""
    with pytest.raises((Disagreement, ValueError)):
        issued.verify(samples=n)


# Totals.


@given(n=st.integers(1, 3000), part=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.95, 0.999]))
@settings(max_examples=100)
def test_the_bounds_are_those_of_clopper_and_pearson(n: int, part: float, confidence: float) -> None:
    count, tail = round(part * n), (1 - confidence) / 2
    lower, upper = clopper_pearson(count, n, confidence)
    for k, p, of, side in [(count, lower, range(count, n + 1), "greater"), (count, upper, range(count + 1), "less")]:
        if 0 < p < 1:
            assert math.isclose(binomial(n, of, p), binomtest(k, n, p, alternative=side).pvalue, rel_tol=1e-8)
            assert math.isclose(binomial(n, of, p), tail, rel_tol=1e-8)

    def check(*bounds: float) -> None:
        top = {"n": n, "confidence": confidence, "clean": {"count": count, "of": n, "bounds": list(bounds)}}
        check_totals(top, {"clean": count})

    check(lower, upper)
    for bounds in [
        (lower * (1 - 1e-3) or 1e-9, upper),
        (lower, 1 - (1 - upper) * (1 - 1e-3) if upper < 1 else 1 - 1e-9),
    ]:
        assert f"Clopper-Pearson bounds of {count} in {n}" in complaint(lambda bounds=bounds: check(*bounds))  # type: ignore[misc]


@pytest.mark.parametrize(("count", "n"), [(0, 1), (1, 1), (0, 100), (100, 100), (3, 10), (9876, 10_000)])
def test_all_none_and_some(count: int, n: int) -> None:
    interval = binomtest(count, n).proportion_ci(0.95, method="exact")
    top = {"n": n, "confidence": 0.95, "clean": {"count": count, "of": n, "bounds": [interval.low, interval.high]}}
    check_totals(top, {"clean": count})
    for bad in ([0.0, 1.0], [-0.1, interval.high], [interval.low, 1.1], [interval.high, interval.low], [0.5, 0.5]):
        top["clean"] = {"count": count, "of": n, "bounds": bad}
        complaint(lambda: check_totals(top, {"clean": count}))


# The checker stands alone.


def test_it_imports_the_standard_library_and_numpy() -> None:
    tree = ast.parse(Path(checker.__file__).read_text("utf8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not any(node.level for node in froms)
    modules = {name.partition(".")[0] for name in names | {cast(str, node.module) for node in froms}}
    assert modules - set(sys.stdlib_module_names) == {"numpy"}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checker alone in a folder, with certificates of MNIST-like and CIFAR-like data there."""
    folder = tmp_path_factory.mktemp("alone")
    shutil.copy(checker.__file__, folder / "verify.py")
    for name, shape, bits in (("grey", (1, 4, 5), None), ("colour", (3, 32, 32), 4)):
        net = filled(LinfDistNet(shape, 3, width=2, depth=1, mean=(0.4,), std=0.3), 0)
        exact: Module = net if bits is None else quantize(net, bits)
        (folder / name).mkdir()
        images = some_images(3, 0, shape)
        labels = labels_of(exact, images)
        issue(folder / name, exact, images, labels, "1/1000")
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
    return folder


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command = [sys.executable, "verify.py", *arguments]
    return subprocess.run(command, cwd=script, env=environment, capture_output=True, text=True)


def write_idx(folder: Path, images: Array, labels: Array, ending: str, pack: Callable[[bytes], bytes]) -> None:
    folder.mkdir(exist_ok=True)
    n, _, rows, columns = images.shape
    content = struct.pack(">4I", 0x803, n, rows, columns) + images.tobytes()
    (folder / f"t10k-images-idx3-ubyte{ending}").write_bytes(pack(content))
    content = struct.pack(">2I", 0x801, n) + labels.astype(np.uint8).tobytes()
    (folder / f"t10k-labels-idx1-ubyte{ending}").write_bytes(pack(content))


def write_bin(folder: Path, images: Array, labels: Array) -> None:
    folder.mkdir(exist_ok=True)
    records = np.concatenate([labels.astype(np.uint8)[:, None], images.reshape(len(images), -1)], axis=1)
    (folder / "test_batch.bin").write_bytes(records.tobytes())


def files(name: str) -> tuple[str, str]:
    return f"{name}/certificate.jsonl", f"{name}/model.safetensors"


def test_it_runs_alone(script: Path) -> None:
    done = run(script, *files("grey"), "grey.npz")
    assert done.returncode == 0, done.stderr
    header = json.loads((script / "grey/certificate.jsonl").read_text("utf8").splitlines()[0])
    expected = f"Verified: {header['certified']['count']} of 3 samples certified at eps = 1/1000."
    assert done.stdout.strip() == expected
    assert "3 of 3 samples re-derived" in done.stderr
    assert "1 of 1 samples re-derived" in run(script, *files("grey"), "grey.npz", "--samples", "1").stderr


PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKINGS)
def test_it_reads_mnist(script: Path, ending: str) -> None:
    with np.load(script / "grey.npz") as data:
        write_idx(script / f"mnist{ending}", data["images"], data["labels"], ending, PACKINGS[ending])
    done = run(script, *files("grey"), f"mnist{ending}")
    assert (done.returncode, done.stdout[:10]) == (0, "\nVerified:"), done.stderr
    assert "sample 0, pixels" in run(script, *files("colour"), f"mnist{ending}").stderr


def test_it_reads_cifar(script: Path) -> None:
    with np.load(script / "colour.npz") as data:
        write_bin(script / "cifar", data["images"], data["labels"])
    done = run(script, *files("colour"), "cifar")
    assert (done.returncode, done.stdout[:10]) == (0, "\nVerified:"), done.stderr


def said(capsys: pytest.CaptureFixture[str], script: Path, *arguments: str) -> str:
    """What the checker says, run in this process, when it does not verify."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(script)
        patch.setattr(sys, "argv", ["verify.py", *arguments])
        assert checker.main() == 2
    captured = capsys.readouterr()
    assert not captured.out
    (sentence,) = captured.err.strip().splitlines()[-1:]
    assert re.fullmatch(r"Not verified: .*[^.]\.", sentence), sentence
    return sentence


def test_what_is_not_verified_is_told_in_a_sentence(script: Path) -> None:
    """By the script itself, with exit status 2."""
    (script / "tampered").write_bytes((script / "grey/certificate.jsonl").read_bytes().replace(b"true", b"True", 1))
    (script / "empty").mkdir(exist_ok=True)
    grey = files("grey")
    for arguments, expected in [
        (("tampered", grey[1], "grey.npz"), "cut short or edited"),
        ((*grey, "empty"), "expected an .npz file, or a folder"),
        (("nothing", grey[1], "grey.npz"), "No such file or directory: 'nothing'"),
    ]:
        done = run(script, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr
        (sentence,) = done.stderr.strip().splitlines()
        assert sentence.startswith("Not verified: ")
        assert expected in sentence


def test_other_files_are_refused_in_a_sentence(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = files("grey")
    for arguments, expected in [
        ((grey[0], "nothing", "grey.npz"), "No such file"),
        ((*grey, "nothing"), "expected an .npz file, or a folder"),
        ((*grey, "nothing.npz"), "No such file"),
        ((*grey, "verify.py"), "expected an .npz file, or a folder"),
        (("grey", grey[1], "grey.npz"), "Is a directory"),
        ((grey[1], grey[1], "grey.npz"), "cut short or edited"),
        ((grey[0], grey[0], "grey.npz"), "model: "),
        ((*files("colour"), "grey.npz"), "sample 0, pixels: "),
        ((grey[0], files("colour")[1], "grey.npz"), "model: "),
    ]:
        assert expected in said(capsys, script, *arguments)


def broken(path: Path, name: str, images: Array, labels: Array) -> None:
    """Data that are none, at path with ".npz" or in a folder there."""
    archive = path.with_suffix(".npz")

    def idx(ending: str, pack: Callable[[bytes], bytes]) -> None:
        write_idx(path, images, labels, ending, pack)

    match name:
        case "no archive":
            archive.write_bytes(b"hello")
        case "an empty archive":
            archive.write_bytes(b"")
        case "half an archive":
            np.savez(archive, images=images, labels=labels)
            archive.write_bytes(archive.read_bytes()[:200])
        case "another archive":
            np.savez(archive, x=images, y=labels)
        case "objects":
            np.savez(archive, images=np.array([images, None], object), labels=labels)
        case "no labels":
            idx("", bytes)
            (path / "t10k-labels-idx1-ubyte").unlink()
        case "half the images":
            idx("", lambda content: content[:-7])
        case "a few bytes":
            idx("", lambda content: content[:3])
        case "nothing":
            idx("", lambda content: b"")
        case "half a gzip":
            idx(".gz", lambda content: gzip.compress(content)[:-9])
        case "no gzip":
            idx(".gz", bytes)
        case "a bad gzip":
            idx(".gz", lambda content: flipped(gzip.compress(content), 8 * len(gzip.compress(content)) - 50))
        case "half an xz":
            idx(".xz", lambda content: lzma.compress(content)[:-9])
        case "no xz":
            idx(".xz", bytes)
        case "half a record":
            path.mkdir()
            (path / "test_batch.bin").write_bytes(bytes(5000))


ARCHIVES = ("no archive", "an empty archive", "half an archive", "another archive", "objects")
FOLDERS = ("no labels", "half the images", "a few bytes", "nothing", "half a record")
PACKED = ("half a gzip", "no gzip", "a bad gzip", "half an xz", "no xz")


@pytest.mark.parametrize("name", [*ARCHIVES, *FOLDERS, *PACKED])
def test_broken_data_are_refused_in_a_sentence(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(script / "grey.npz") as data:
        broken(script / name, name, data["images"], data["labels"])
    said(capsys, script, *files("grey"), f"{name}.npz" if name in ARCHIVES else name)
