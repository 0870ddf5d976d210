"""Certificate files and their checker: what is written verifies, and whatever is false is refused in a sentence."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import binomtest
from support.draws import draws
from support.issuing import (
    BLACK,
    FIRST,
    MAKERS,
    ODD,
    SHAPE,
    Issued,
    Lines,
    at,
    complaint,
    derived,
    filled,
    flipped,
    issue,
    issue_all_kinds,
    kinds,
    labels_of,
    places,
    recounted,
    replaced,
    sealed,
    some_images,
)
from support.op_cases import Array

from linfengine.certify import certify, clopper_pearson, predict, write_certificate
from linfengine.checkpoint import load_model, model_content, save_model
from linfengine.data import to_pixels
from linfengine.errors import UserError
from linfengine.exact import ExactNet, quantize
from linfengine.interval import Interval
from linfengine.layers import Flatten, LinfDistDense, MeanShift, Module, Negate, Normalize, ReLU, Sequential, linf_net
from linfengine.verify import FORMAT, Disagreement, Net, binomial, check_totals, nearest, parsed, verify

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
@draws(150)
def test_what_is_written_verifies(case: tuple[Module, Array, Array, Fraction, str], tmp_path: Path) -> None:
    net, images, labels, eps, method = case
    issued = issue(tmp_path, net, images, labels, eps, method, dataset="none")
    header = issued.verify()
    assert header == issued.lines[0] | {"data_n": len(images), "rederived": len(images)}
    assert (header["format"], header["method"], Fraction(header["eps"])) == (FORMAT, method, eps)
    assert header["certified"]["count"] == sum(line["certified"] for line in issued.lines[1:]) <= header["n"]
    assert header["dataset"] == "none"


def integers(net: Net, numbers: Array) -> list[int]:
    """Numbers that lie on the net's grid, in its steps."""
    steps = [Fraction(number) * 2**net.grain for number in numbers.ravel().tolist()]
    assert all(step.denominator == 1 for step in steps)
    return [int(step) for step in steps]


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
        assert point == integers(derive, x[i])
        assert derive([point], SHAPE) == [integers(derive, logits[i])]
        ends = [integers(derive, end[i]) for end in box]
        assert derive(ends, SHAPE) == [integers(derive, end[i]) for end in (bounds.lower, bounds.upper)]


MAGNITUDES = (0.0, 1e-45, 3e-42, 1e-38, 1e-30, 1e-7, 1.0, 1e8, 1e30)


@given(
    seed=st.integers(0, 2**32),
    magnitudes=st.lists(st.sampled_from(MAGNITUDES), min_size=1, max_size=3),
    mean=st.sampled_from([0.0, 1e-45, 0.4, 1e9]),
    std=st.sampled_from([1e-30, 1e-6, 0.3, 3.0, 1e30, 1e36, 1e38]),
)
@draws(150)
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
@draws(400)
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
@draws(300)
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
    net, images, labels = linf_net((1, 1, 1), 2, width=1, depth=1, mean=(0.0,), std=1.0), BLACK, FIRST
    weight = np.full((2, 1), 3e38, np.float32)
    net.load_state({"2.weight": weight, "2.bias": np.full(2, 3e37, np.float32)})
    issued = issue(tmp_path, net, images, labels)
    assert issued.verify()["certified"]["count"] == 0
    net.load_state({"2.weight": weight, "2.bias": np.full(2, 1e38, np.float32)})
    refused = pytest.raises(UserError, match="may overflow float32, so there is no certificate to write")
    with refused, np.errstate(over="ignore", invalid="ignore"):
        issue(tmp_path, net, images, labels)
    complaint(issued.remodelled(model_content(net)).verify)


# Where float32 may overflow, nothing is proved.


def test_no_margin_proves_what_may_overflow(tmp_path: Path) -> None:
    """Of a black pixel the margin is that of eps = 0.36, but a pixel of 0.86 divided by this std is infinite."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.zeros((2, 1), np.float32), "2.bias": np.array([0, 3.4e38], np.float32)})
    issued = issue(tmp_path, net.eval(), BLACK, FIRST, "9/25", "margin")
    top, line = issued.lines
    net.layers[0].std = np.float32(2.5e-39)  # type: ignore[attr-defined]
    assert 2 * 0.36 / 2.5e-39 < line["margin"] == float(np.float32(3.4e38))
    lines = [top | {"threshold": 2.9e38}, line | {"certified": True, "radius": 0.36}]
    recounted(lines)
    sentence = complaint(issued.rewritten(sealed(lines)).remodelled(model_content(net)).verify)
    assert re.fullmatch(r"the model's values may reach .*e\+38, and float32 may overflow there", sentence)


@given(
    seed=st.integers(0, 2**32),
    scale=st.sampled_from([1.0, 1e30, 1e37, 1e38, 3e38]),
    std=st.sampled_from([1e-45, 2.5e-39, 6e-39, 1e-30, 0.3, 1e30]),
    mean=st.sampled_from([0.0, 0.4, 1e8, 3.4e38]),
)
@draws(150)
def test_the_checker_refuses_where_the_engine_does(seed: int, scale: float, std: float, mean: float) -> None:
    """The same values are bounded, in fractions here, and the engine's threshold is no lower."""
    rng = np.random.default_rng(seed)
    net = Sequential(
        Normalize((mean,), std), Flatten(), LinfDistDense(4, 3, bias=True), MeanShift(3), ReLU(), Negate()
    ).eval()
    for array in net.state().values():
        array[...] = (scale * rng.uniform(-1, 1, array.shape)).astype(np.float32)
    error, size = net.rounding(2.0)
    try:
        lipschitz, slack = Net(model_content(net)).slack([Fraction(2)])
    except Disagreement as refusal:
        assert "float32 may overflow there" in str(refusal)  # noqa: PT017 (it may or may not be refused)
        assert size >= 3.4e38
        return
    assert size <= 3.41e38
    assert math.isclose(lipschitz, net.lipschitz(), rel_tol=1e-12)
    assert math.isclose(slack, error, rel_tol=1e-9)


def test_an_error_is_divided_with_its_value() -> None:
    """A shift by 1000 rounds, and a division by 0.01 after that makes it a hundred times as much."""
    net = Sequential(MeanShift(1), Normalize((0.4,), 0.01), Flatten(), LinfDistDense(4, 2, seed=0), Negate()).eval()
    net.state()["0.running_mean"][:] = 1000
    lipschitz, error = Net(model_content(net)).slack([Fraction(2)])
    assert error > 2.0**-24 * 1000 * 100
    assert math.isclose(error, net.rounding(2.0)[0], rel_tol=1e-9)
    assert math.isclose(lipschitz, 100, rel_tol=1e-6)


@pytest.mark.parametrize("std", [0.3, 0.7, 3.0])
def test_what_is_shortened_is_rounded_up(std: float) -> None:
    net = Sequential(Normalize((0.4,), std), Flatten(), LinfDistDense(4, 2, seed=0), Negate()).eval()
    lipschitz, _ = Net(model_content(net)).slack([Fraction(2)])
    assert 0 < lipschitz * Fraction(float(np.float32(std))) - 1 < Fraction(1, 2**290)


def test_many_layers_take_little_time_to_bound() -> None:
    """Fractions that are not rounded grow with every layer, and the time for them with the cube of their number."""
    layers: list[Module] = [each for _ in range(400) for each in (MeanShift(2), ReLU(), Negate())]
    net = Net(model_content(Sequential(Flatten(), LinfDistDense(4, 2), *layers).eval()))
    _, error = net.slack([Fraction(2)])
    assert error.denominator <= 2**300


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


def test_only_the_labels_that_were_certified_are_written(tmp_path: Path) -> None:
    net, images = filled(MAKERS["net"](), 0), some_images(3)
    labels = labels_of(net, images)
    save_model(net, tmp_path / "net.safetensors")
    proof = certify(net, to_pixels(images), labels, "1/20")
    other = labels.copy()
    other[-1] = (labels[-1] + 1) % 3
    assert (proof.prediction[-1] == labels[-1]) != (proof.prediction[-1] == other[-1])
    with pytest.raises(ValueError, match="expected the labels that were certified, got others"):
        write_certificate(tmp_path / "certificate", proof, tmp_path / "net.safetensors", images, other)
    assert not (tmp_path / "certificate").exists()


def test_a_certificate_is_written_only_for_the_file_that_holds_the_net(tmp_path: Path) -> None:
    """A file replaced after the net was loaded, and a net changed after it was saved."""
    net, other, images = filled(MAKERS["net"](), 0), filled(MAKERS["net"](), 1), some_images(4)
    labels, model, path = labels_of(net, images), tmp_path / "model.safetensors", tmp_path / "certificate.jsonl"
    verdict = certify(net, images, labels, "1/20")
    save_model(other, model)
    with pytest.raises(UserError, match="does not hold the net that was certified"):
        write_certificate(path, verdict, model, images, labels)
    assert not path.exists()
    save_model(net, model, dataset="digits")
    write_certificate(path, verdict, model, images, labels)
    verify(path, model, images, labels)


# Tampering.


@pytest.fixture(scope="module", params=["float32", "exact"])
def issued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue_all_kinds(tmp_path_factory.mktemp(request.param), request.param)


def test_the_certificates_that_are_tampered_with_verify(issued: Issued) -> None:
    header = issued.lines[0] | {"data_n": 10, "rederived": 10}
    assert issued.verify() == header
    assert issued.rewritten(sealed(issued.lines)).verify() == header
    assert issued.remodelled(issued.model.read_bytes()).verify() == header


@given(what=st.sampled_from(["certificate", "model", "images", "labels"]), bit=st.integers(0, 2**24))
@draws(200)
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
@draws(100)
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
    "format": ("header", lambda top: {"format": "linfengine-certificate-2"}, "format: .*certificate-2', and .*-1' was"),
    "model": ("header", lambda top: {"model": "0" * 64}, "model: "),
    "method": ("header", lambda top: {"method": "margin"}, "sample {box} is said to be certified"),
    "unknown method": ("header", lambda top: {"method": "guess"}, "method 'guess' does not fit"),
    "fraction bits": ("header", lambda top: {"fraction_bits": (top["fraction_bits"] or 0) + 1}, "fraction_bits: "),
    "arithmetic": ("header", lambda top: {"fraction_bits": None if top["fraction_bits"] else 4}, "fraction_bits: "),
    "eps": ("header", lambda top: {"eps": "1/10"}, "gray_levels: "),
    "gray levels": ("header", lambda top: {"gray_levels": "12"}, "gray_levels: "),
    "eps and gray levels": ("header", radius_of("1/10"), "threshold: "),
    "eps and all with it": ("header", farther, "sample [0-9]+"),
    "eps of no ball": ("header", radius_of("-1/20"), "eps: '-1/20' is no radius"),
    "eps beyond all pixels": ("header", radius_of("21/20"), "eps: 21/20 is no radius"),
    "threshold": ("header", lambda top: {"threshold": top["threshold"] - step(top["threshold"])}, "threshold: "),
    "no threshold": ("header", lambda top: {"threshold": 0}, "threshold: "),
    "n": ("header", lambda top: {"n": top["n"] + 1}, "n: "),
    "eps in other digits": (
        "header",
        lambda top: {"eps": "\u09ea/255"},
        r"eps: '\\u09ea/255' is no radius",
    ),
    "eps not in lowest terms": ("header", lambda top: {"eps": "2/40"}, "eps: the certificate says '2/40', and '1/20'"),
    "eps of many digits": ("header", lambda top: {"eps": f"1/2{'0' * 70}"}, "eps: '1/2000.* is no radius"),
    "gray levels in other digits": ("header", lambda top: {"gray_levels": "\u0665\u0661/4"}, "gray_levels: "),
    "another word": ("header", lambda top: {"verified": True}, "the header has the unknown key 'verified'"),
    "words that are none": ("header", lambda top: {"dataset": [1]}, "the header: linfengine, .* text or null"),
    "another total": ("header", lambda top: {"clean": top["clean"] | {"x": 1}}, "clean has the unknown key 'x'"),
    "another claim": ("open", lambda line: {"proved": True}, "sample {open} has the unknown key 'proved'"),
    "logits as text": ("open", lambda line: {"logits": [*map(str, line["logits"])]}, "sample {open}: its logits"),
    "classes": ("header", lambda top: {"classes": top["classes"] + 1}, "classes: "),
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
    "no bounds": ("header", lambda top: {"clean": top["clean"] | {"bounds": [0.0, 1.0]}}, "clean: .*Clopper-Pearson"),
    "index": ("margin", lambda line: {"index": line["index"] + 1}, "the order of samples: "),
    "pixels": ("open", lambda line: {"pixels": "0" * 64}, "sample {open}, pixels: "),
    "label": ("wrong", lambda line: {"label": line["prediction"]}, "sample {wrong}, label: "),
    "prediction": ("wrong", lambda line: {"prediction": line["label"]}, "sample {wrong}, prediction: "),
    "margin": ("open", lambda line: {"margin": line["margin"] + 1}, "sample {open}, margin: "),
    "smaller margin": ("margin", lambda line: {"margin": line["margin"] - 1}, "sample {margin}, margin: "),
    "logit": (
        "open",
        lambda line: {"logits": [z + j + 1 for j, z in enumerate(line["logits"])]},
        "sample {open}, ",
    ),
    "logit less": ("open", lambda line: {"logits": line["logits"][:-1]}, "sample {open}, number of logits"),
    "logit more": (
        "open",
        lambda line: {"logits": [*line["logits"], min(line["logits"])]},
        "sample {open}, number of logits",
    ),
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
    "certified though open": (
        "open",
        lambda line: {"certified": True},
        "sample {open}, ",
    ),
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
    line |= {"certified": False, "radius": (line["margin"] - 1) // 2 if exact else 0.0}
    recounted(lines)
    denied = issued.rewritten(sealed(lines))
    if exact:
        assert f"sample {i}, certified by the box: " in complaint(denied.verify)
    else:
        assert denied.verify()["certified"]["count"] == issued.lines[0]["certified"]["count"] - 1


# Whatever stands in a file.

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


def test_an_equal_value_of_another_type_is_refused(issued: Issued) -> None:
    """Python takes 1, 1.0 and true for equal, and other readers of the file do not."""
    tried = 0
    for i, line in enumerate(issued.lines[:2]):
        for place in places(line):
            value = at(line, place) if place else None
            if type(value) not in (bool, int, float):
                continue
            for other in (bool, int, float):
                if other is type(value) or other(value) != value:  # type: ignore[arg-type]
                    continue
                lines = issued.lines
                lines[i] = replaced(line, place, other(value))
                complaint(issued.rewritten(sealed(lines)).verify)
                tried += 1
    assert tried > 10


@pytest.mark.parametrize("confidence", [-0.5, 0.0, 1.0, 1.5])
def test_a_confidence_that_is_none_is_refused(issued: Issued, confidence: float) -> None:
    """Though the bounds be those of such a number."""
    lines = issued.lines
    top = lines[0]
    top["confidence"] = confidence
    for name in ("clean", "certified"):
        bounds = clopper_pearson(top[name]["count"], top["n"], confidence)
        top[name]["bounds"] = [number if math.isfinite(number) else 0.5 for number in bounds]
    assert complaint(issued.rewritten(sealed(lines)).verify).startswith(f"confidence: {confidence} is none")


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


# The data.


def test_a_certificate_is_of_these_samples(issued: Issued) -> None:
    certificate, model, images, labels = issued.certificate, issued.model, issued.images, issued.labels
    more = np.concatenate([images, images[:1]]), np.concatenate([labels, labels[:1]])
    verify(certificate, model, *more)  # it is of the first of them
    for other, message in [
        ((images[::-1], labels[::-1]), "sample 0, pixels: "),
        ((np.roll(images, 1, axis=3), labels), "sample 0, pixels: "),
        ((images[1:], labels[1:]), "the certificate speaks of 10 samples, and the data have 9"),
        ((images[:5], labels[:5]), "the certificate speaks of 10 samples, and the data have 5"),
        ((images[:0], labels[:0]), "the certificate speaks of 10 samples, and the data have 0"),
        ((images, (labels + 1) % 3), "sample 0, label: "),
        ((images, labels[:5]), "the data are not uint8 images"),
        ((images, labels.astype(float)), "the data are not uint8 images .* with an integer label each"),
        ((images, labels[:, None]), "the data are not uint8 images"),
        ((images, labels == 0), "the data are not uint8 images"),
        ((None, labels), "the data are not uint8 images"),
        ((to_pixels(images), labels), "the data are not uint8 images"),
        ((images.reshape(10, 18), labels), "the data are not uint8 images"),
        ((images[..., :1], labels), "the model takes images of|layer 1 of the model, LinfDistDense, takes no input"),
    ]:
        assert re.match(message, complaint(lambda other=other: verify(certificate, model, *other)))  # type: ignore[misc]


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


def test_a_label_is_a_class_of_the_model(issued: Issued) -> None:
    classes = issued.lines[0]["classes"]
    for label in (classes, -1, 2**40):
        lines, labels = issued.lines, issued.labels.astype(np.int64)
        lines[1]["label"] = labels[0] = label
        false = issued.rewritten(sealed(lines))
        sentence = complaint(partial(verify, false.certificate, false.model, issued.images, labels))
        assert sentence == f"sample 0: its label {label} is no class of the model's"


@pytest.mark.parametrize("bits", [None, 4])
def test_images_of_as_many_pixels_in_another_shape_are_refused(bits: int | None, tmp_path: Path) -> None:
    """Flattened they are the same, byte by byte: only the shape in the description tells them apart."""
    net: Any = filled(linf_net((1, 2, 3), 2, width=3, depth=2, mean=(0.4,), std=0.3), 0)
    net, images = net if bits is None else quantize(net, bits), some_images(2, shape=(1, 2, 3))
    issued = issue(tmp_path, net, images, labels_of(net, images))
    issued.verify()
    other = images.reshape(2, 1, 3, 2)
    sentence = complaint(lambda: verify(issued.certificate, issued.model, other, issued.labels))
    assert sentence == "the model takes images of shape (1, 2, 3), and the data have (1, 3, 2)"


def test_a_part_of_the_samples_is_told_to_be_a_part(issued: Issued) -> None:
    """Sealed anew, the first samples alone are a certificate, too, and say how many there are of."""
    lines = issued.lines[:4]
    lines[0]["n"] = 3
    recounted(lines)
    header = issued.rewritten(sealed(lines)).verify()
    assert (header["n"], header["data_n"], header["rederived"]) == (3, 3 + 7, 3)
    assert issued.verify(samples=2) == issued.lines[0] | {"data_n": 10, "rederived": 2}


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


@pytest.mark.parametrize("bits", [None, 0, 8])
@pytest.mark.parametrize(("level", "weight"), [(0, 0.25), (255, 0.75)])
def test_the_box_ends_at_black_and_at_white(level: int, weight: float, bits: int | None, tmp_path: Path) -> None:
    """-|x - w| against -|x - w| - 0.27: over pixels within 0.3 a distance is from 0 to 0.25, and else up to 0.55."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.full((2, 1), weight, np.float32), "2.bias": np.array([0, 0.27], np.float32)})
    given = net.eval() if bits is None else quantize(net, bits)
    issued = issue(tmp_path, given, np.full((1, 1, 1, 1), level, np.uint8), FIRST, "3/10", "interval")
    assert issued.lines[1]["certified"] is True
    assert issued.lines[1]["margin"] <= issued.lines[0]["threshold"]
    issued.verify()


def test_no_radius_is_larger_than_all_of_an_image(tmp_path: Path) -> None:
    """A margin of 4 would prove 1.5, but what float32 makes of numbers beyond 2 is bounded nowhere."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.zeros((2, 1), np.float32), "2.bias": np.array([0, 4], np.float32)})
    issued = issue(tmp_path, net.eval(), BLACK, FIRST, "1", "margin")
    top, line = issued.lines
    assert (line["margin"], line["radius"], line["certified"]) == (4, 1, True)
    sentence = complaint(issued.rewritten(sealed([top, line | {"radius": 1.5}])).verify)
    assert sentence.startswith("sample 0, radius: 1.5 is not proved by a margin of 4")


def test_between_two_steps_the_box_reaches_outward(tmp_path: Path) -> None:
    """A ball of 0.5 gray levels holds real images that the grid of whole levels lacks: its box is one level wide."""
    net = Sequential(Normalize((0.0,), 1.0), Flatten(), LinfDistDense(1, 2, bias=True), Negate())
    net.load_state({"2.weight": np.array([[1], [0]], np.float32), "2.bias": np.array([0, 0], np.float32)})
    for level, eps, certified in [(128, "1/510", False), (129, "1/510", True), (129, "3/510", False)]:
        exact, image = quantize(net.eval(), 0), np.full((1, 1, 1, 1), level, np.uint8)
        issued = issue(tmp_path, exact, image, FIRST, eps, "exact")
        assert issued.lines[1]["certified"] is certified
        issued.verify()


def test_every_radius_that_is_certified_can_be_verified(tmp_path: Path) -> None:
    """The engine takes 60 digits, and the checker reads 70."""
    net, images = filled(MAKERS["net"](), 0), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images), Fraction(1, 10**59))
    assert len(issued.lines[0]["eps"]) == 2 + 60
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
    assert "the name 'certified' stands twice" in complaint(
        issued.rewritten(sealed(head + twice + b"".join(others))).verify
    )


@pytest.mark.parametrize("text", ["-0", "1" * 21, "1e400", "-1e400", "NaN", "Infinity", "-Infinity", f"0.{'1' * 40}"])
def test_numbers_are_finite_short_and_written_in_one_way(text: str) -> None:
    assert complaint(lambda: parsed(f"[{text}]")).startswith("no ")
    assert parsed("[0, -0.0, 12345678901234567890]") == [0, 0, 12345678901234567890]


@pytest.mark.parametrize("n", [0, -1, -10, True, 1.0, "1"])
def test_no_samples_are_not_some(issued: Issued, n: Any) -> None:
    """Verified would mean nothing if nothing was derived."""
    with pytest.raises(ValueError, match="samples: expected a whole number from 1 on, or None for all, got"):
        issued.verify(samples=n)


# Totals.


@given(n=st.integers(1, 3000), part=st.floats(0, 1), confidence=st.sampled_from([0.5, 0.95, 0.999]))
@draws(100)
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
