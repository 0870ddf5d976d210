"""The files that the checker reads: whatever an adversary wrote is refused in a sentence, in little memory and time."""

import ast
import gzip
import json
import lzma
import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.draws import draws
from support.issuing import (
    MAKERS,
    ODD,
    SHAPE,
    Issued,
    complaint,
    derived,
    filled,
    flipped,
    issue,
    issue_all_kinds,
    labels_of,
    replaced,
    sealed,
    some_images,
)
from support.op_cases import Array

from linfengine import verify as checker
from linfengine.checkpoint import load_model, model_content, save_model
from linfengine.domain import Domain
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    Sequential,
    Tanh,
    conv_net,
    linf_net,
)
from linfengine.verify import Disagreement, Net, read_data, verify


@pytest.fixture(scope="module", params=["float32", "exact"])
def issued(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return issue_all_kinds(tmp_path_factory.mktemp(request.param), request.param)


# The model.


def described(content: bytes, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> bytes:
    """A model file after a change: of (header, config) it gives another config, and may write into the header."""
    start = 8 + int.from_bytes(content[:8], "little")
    top = json.loads(content[8:start])
    config = change(top, json.loads(top["__metadata__"]["config"]))
    top["__metadata__"]["config"] = json.dumps(config)
    text = json.dumps(top).encode()
    return len(text).to_bytes(8, "little") + text + content[start:]


def on_grid(bits: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda _, config: config | {"domain": config["domain"] | {"fraction_bits": bits}}


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
    content = described(issued.model.read_bytes(), on_grid(bits))
    complaint(issued.remodelled(content).verify)


def test_more_fraction_bits_than_float32_has_room_for_are_refused() -> None:
    """Though all values of this net, at most 255, be below 2^8."""
    net = ExactNet(Flatten(), LinfDistDense(4, 2), domain=Domain.gray_levels(15))
    net.load_state({"1.weight": np.zeros((2, 4), np.float32)})
    content = model_content(net)
    assert Net(content).slack([Fraction(255)]) == (255, 0)
    for bits in (16, 24, 150):
        changed = described(content, on_grid(bits))
        sentence = complaint(lambda changed=changed: Net(changed))  # type: ignore[misc]
        assert sentence == f"the model has {bits} fraction bits, which float32 has no room for"


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
        sentence = complaint(issued.remodelled(content[:-4] + struct.pack("<f", bad)).verify)
        assert "holds values that are not finite" in sentence


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
    expected = f"the model is at p = '{float(p)!r}': only p = inf can be certified"
    assert complaint(issued.remodelled(model_content(net)).verify) == expected


@pytest.mark.parametrize("layer", [Dense(3, 3, seed=0), Tanh(), Sequential(Negate())])
def test_layers_without_a_rule_are_refused(layer: Module, tmp_path: Path) -> None:
    net = Sequential(Normalize((0.4,), 0.3), Flatten(), LinfDistDense(18, 3, seed=0), layer).eval()
    images = some_images(2)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    assert f"this checker has no rule for a '{type(layer).__name__}' layer" in complaint(issued.verify)


@pytest.mark.parametrize(
    "net",
    [
        linf_net(SHAPE, 3, width=5, depth=1, mean=(0.4,), std=0.3, head=4),
        conv_net(SHAPE, 3, channels=1, width=3, mean=(0.4,), std=0.3, crop=2, head=4),
    ],
    ids=["dense", "conv"],
)
def test_a_net_with_a_head_is_refused(net: Sequential, tmp_path: Path) -> None:
    """The rounding of tanh depends on the library, so integers cannot re-derive it. It is not taken for a plain net."""
    images = some_images(2)
    issued = issue(tmp_path, filled(net, 0), images, labels_of(net, images))
    assert complaint(issued.verify) == "this checker has no rule for a 'Dense' layer"
    for head in (0, None, False):
        old = {
            "shape": [2, 3, 3],
            "classes": 3,
            "width": 4,
            "mean": [0.4],
            "std": 0.3,
            "mean_shift": True,
            "head": head,
        }
        old |= {"layer": "LinfDistNet", "depth": 2, "crop": 0}

        def named(header: dict[str, Any], _: Any, old: dict[str, Any] = old) -> dict[str, Any]:
            header["__metadata__"]["format"] = "linfengine-1"
            return old

        content = described(issued.model.read_bytes(), named)
        complaint(issued.remodelled(content).verify)


@pytest.mark.parametrize("name", ["cropped net", "conv, cropped", "cropped conv net"])
def test_odd_crops_are_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    """Of a net that takes a window no other window is as good."""
    net, images = filled(MAKERS[name](), 0), some_images(1)
    issued = issue(tmp_path, net, images, labels_of(net, images))
    place = ("layers", next(i for i, layer in enumerate(net.layers) if isinstance(layer, CenterCrop)), "size")
    for odd in [*ODD, 4, 2.0, -2, 10**30]:
        content = described(issued.model.read_bytes(), lambda _, config, odd=odd: replaced(config, place, odd))  # type: ignore[misc]
        complaint(issued.remodelled(content).verify)


@pytest.mark.parametrize("size", [3, 5])
def test_a_window_that_images_do_not_hold_is_refused(size: int) -> None:
    net = Net(model_content(Sequential(CenterCrop(size), Flatten(), MeanShift(size * size))))
    assert net.shapes((1, size, size + 2))[1] == (1, size, size)
    expected = f"layer 0 of the model, CenterCrop, takes no input of shape (1, {size + 1}, {size - 1})"
    assert complaint(lambda: net.shapes((1, size + 1, size - 1))) == expected


@given(channels=st.integers(1, 3), sides=st.tuples(st.integers(1, 7), st.integers(1, 7)), data=st.data())
def test_the_middle_is_the_middle(channels: int, sides: tuple[int, int], data: st.DataObject) -> None:
    """As many pixels on either side, or one more below and on the right."""
    size = data.draw(st.integers(1, min(sides)))
    pixels = np.arange(channels * math.prod(sides)).reshape(channels, *sides)
    (above, below), (left, right) = (((side - size) // 2, (side - size + 1) // 2) for side in sides)
    expected = pixels[:, above : sides[0] - below, left : sides[1] - right]
    assert checker.middle(size, (channels, *sides)) == expected.ravel().tolist()


def test_a_net_that_turns_its_input_around_is_refused(tmp_path: Path) -> None:
    """Divided by a negative number a net would have a negative Lipschitz constant, and nonsense would be proved."""
    normalize = Normalize((0.5,), 0.25)
    net = Sequential(normalize, Flatten(), LinfDistDense(18, 3, bias=True, seed=0), Negate()).eval()
    images = some_images(4)
    issued = issue(tmp_path, net, images, (labels_of(net, images) + 1) % 3, "1", "margin")
    object.__setattr__(normalize, "_std", np.float32(-0.25))
    issued = issued.remodelled(model_content(net))
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
        net = ExactNet(Flatten(), dense, Negate(), domain=Domain.gray_levels(4))
        assert "the model's values may reach" in self.refused(tmp_path, net)

    def test_ranges_that_are_just_proved(self, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3, bias=True)
        dense.weight.data[...] = -(2.0**20) + 256
        net = ExactNet(Flatten(), dense, Negate(), domain=Domain.gray_levels(4))
        issue(tmp_path, net, self.images, labels_of(net, self.images), "1/20", "exact").verify()

    @pytest.mark.parametrize("number", [2.0**-5, 0.3, 1e-45])
    def test_numbers_off_the_grid(self, number: float, tmp_path: Path) -> None:
        for array in range(2):
            dense = LinfDistDense(18, 3, bias=True)
            dense.weight.data[...] = 0
            list(dense.state().values())[array].reshape(-1)[-1] = number
            sentence = self.refused(tmp_path, ExactNet(Flatten(), dense, Negate(), domain=Domain.gray_levels(4)))
            assert "is no multiple of 2^-4, as all numbers of the model have to be" in sentence

    def test_a_mean_off_the_grid(self, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3)
        dense.weight.data[...] = 0
        net = ExactNet(Normalize((0.3,), 1.0), Flatten(), dense, domain=Domain.gray_levels(4))
        assert "no multiple of 2^-4" in self.refused(tmp_path, net)

    @pytest.mark.parametrize("std", [2.0, 0.5, 255.0])
    def test_a_division(self, std: float, tmp_path: Path) -> None:
        dense = LinfDistDense(18, 3)
        dense.weight.data[...] = 0
        net = ExactNet(Normalize((0.0,), std), Flatten(), dense, domain=Domain.gray_levels(4))
        assert self.refused(tmp_path, net) == f"the model divides by {std}, which no exact net does"


# Model files that an adversary wrote. The net has layers 0 Normalize, 1 Flatten, 2 dense, 3 shift, 4 dense, 5 shift,
# 6 dense with a bias, 7 Negate; or the layers of "conv".

Header = dict[str, Any]


def file_of(header: Header | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def on_numbers() -> Sequential:
    """Its inputs have no upper bound."""
    return linf_net(Domain(SHAPE, 0.0), 3, width=5, depth=2, mean=(0.5,), std=0.25)


def parts(name: str) -> tuple[Header, bytes]:
    """(header, data) of a right model file; of one of format 1, if the name begins with "old"."""
    content = model_content(filled({**MAKERS, "numbers": on_numbers}[name.removeprefix("old ")](), 0))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    if name.startswith("old"):
        header["__metadata__"] |= {"format": "linfengine-1", "config": json.dumps(OLD[name])}
    return header, content[start:]


OLD_NET = {"layer": "LinfDistNet", "shape": [2, 3, 3], "classes": 3, "width": 5, "depth": 3, "crop": 0, "head": 0}
OLD_NET |= {"mean": [0.4, 0.6], "std": 0.3, "mean_shift": True}
OLD: dict[str, dict[str, Any]] = {
    "old net": OLD_NET,
    "old net without shifts": OLD_NET
    | {"classes": 2, "width": 4, "depth": 1, "mean": [0.4], "std": 0.7, "mean_shift": False},
    "old conv net": {key: value for key, value in OLD_NET.items() if key != "depth"}
    | {"layer": "LinfDistConvNet", "channels": 1, "width": 4},
}


def with_config(name: str, place: tuple[Any, ...], value: Any) -> bytes:
    header, data = parts(name)
    config = replaced(json.loads(header["__metadata__"]["config"]), place, value)
    header["__metadata__"]["config"] = json.dumps(config)
    return file_of(header, data)


def with_header(place: tuple[Any, ...], value: Any) -> bytes:
    header, data = parts("net")
    return file_of(replaced(header, place, value), data)


def with_text(old: str, new: str) -> bytes:
    """The first `old` in the text of the header replaced."""
    header, data = parts("net")
    text = json.dumps(header)
    assert old in text
    return file_of(text.replace(old, new, 1).encode(), data)


def with_bytes(change: Callable[[bytes], bytes]) -> bytes:
    return change(model_content(filled(MAKERS["net"](), 0)))


def longer(by: int) -> bytes:
    """The length of the header is said to be so much more."""
    return with_bytes(lambda content: (int.from_bytes(content[:8], "little") + by).to_bytes(8, "little") + content[8:])


def moved(names: list[str], by: int) -> bytes:
    """These arrays said to lie so many bytes further on."""
    header, data = parts("net")
    for name in names:
        header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]
    return file_of(header, data + bytes(max(by, 0)))


ARRAYS = ["2.weight", "3.running_mean", "4.weight", "5.running_mean", "6.weight", "6.bias"]
DENSE = {"layer": "LinfDistDense", "in_features": 18, "out_features": 3, "bias": False, "groups": 1}
CROP, NORMALIZE = {"layer": "CenterCrop", "size": 1}, {"layer": "Normalize", "mean": [0.0, 0.0], "std": 1.0}

# Of the whole file: how it is made, and what is said of it.
WHOLE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no file": (lambda: b"", "the model file of 0 bytes cannot have a header of 0 bytes"),
    "seven bytes": (lambda: bytes(7), "the model file of 7 bytes cannot have a header"),
    "a header beyond the file": (lambda: longer(10**6), "the model file of .* bytes cannot have a header of"),
    "a header of 2^64 bytes": (
        lambda: with_bytes(lambda c: b"\xff" * 8 + c[8:]),
        "cannot have a header of 184467440737",
    ),
    "a header that is too long": (lambda: longer(1), "JSONDecodeError|UnicodeDecodeError"),
    "a header of another kind": (lambda: file_of(b"[]", b""), "does not begin with '{'"),
    "a space before the header": (lambda: file_of(b" {}", b""), "does not begin with '{'"),
    "a byte-order mark": (lambda: file_of(b"\xef\xbb\xbf{}", b""), "does not begin with '{'"),
    "UTF-16": (lambda: file_of("{}".encode("utf-16-le"), b""), "JSONDecodeError"),
    "no UTF-8": (lambda: file_of(b'{"\xff": 1}', b""), "UnicodeDecodeError"),
    "an overlap": (lambda: moved(["6.weight"], -4), "'6.weight' of the model, .* cannot lie in bytes"),
    "a hole": (lambda: moved(ARRAYS, 4), "of the model, of shape .*, cannot lie in bytes 4 to .* after 0 bytes"),
    "trailing bytes": (
        lambda: with_bytes(lambda c: c + b"x"),
        "the model's arrays have 572 bytes, and its file has 573",
    ),
    "a byte missing": (lambda: with_bytes(lambda c: c[:-1]), "the model's arrays have 572 bytes, and its file has 571"),
}

# Of the text of the header of "net": what is replaced, by what, and what is said of it.
TEXT: dict[str, tuple[str, str, str]] = {
    "half a surrogate pair": ('"p": "inf"', r'"p": "inf", "x": "\ud800"', "UnicodeEncodeError"),
    "an array twice": ('"2.weight"', '"4.weight"', "the name '4.weight' stands twice in one object"),
    "a key twice": ('"dtype"', '"dtype": "F32", "dtype"', "the name 'dtype' stands twice"),
    "metadata twice": ('"__metadata__"', '"__metadata__": {}, "__metadata__"', "the name '__metadata__' stands twice"),
    "digits without end": ('"shape": [3]', f'"shape": [{"9" * 10**6}]', "no whole number of at most 20 digits: '9999"),
    "a negative nought": ('"data_offsets": [0,', '"data_offsets": [-0,', "no whole number of at most 20 digits: '-0'"),
    "an unknown array": ('"6.bias"', r'"\u001b[31m"', "the model lacks its array 6.bias"),
    "a further array": (
        '"6.bias"',
        r'"\u001b[31m": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "6.bias"',
        "x1b",
    ),
    "no metadata": ("__metadata__", "metadata", "the model file has no metadata"),
    "a std of 1e400": (r"\"std\": 0.3", r"\"std\": 1e400", "no finite number of at most 40 characters: '1e400'"),
}

# Of a value in the header of "net": its place, what stands there instead, and what is said of it.
ENTRY: dict[str, tuple[tuple[str, ...], Any, str]] = {
    "the same place": (("3.running_mean", "data_offsets"), [0, 20], "cannot lie in bytes"),
    "offsets beyond": (("6.bias", "data_offsets"), [680, 2**63], "cannot lie in bytes"),
    "offsets backwards": (("6.bias", "data_offsets"), [12, 0], "cannot lie in bytes"),
    "negative offsets": (("6.bias", "data_offsets"), [-12, 0], "expected a whole number from 0 on, got -12"),
    "three offsets": (("6.bias", "data_offsets"), [0, 12, 12], r"has the data_offsets \[0, 12, 12\]"),
    "a shape of floats": (("6.bias", "shape"), [3.0], "expected a whole number from 0 on, got 3.0"),
    "a shape of booleans": (("6.bias", "shape"), [True, 3], "expected a whole number from 0 on, got True"),
    "a negative shape": (("2.weight", "shape"), [-5, -18], "expected a whole number from 0 on, got -5"),
    "another shape": (("2.weight", "shape"), [18, 5], "2.weight of the model has the shape"),
    "many axes": (("6.bias", "shape"), [1] * 10**5 + [3], r"'6.bias' of the model has the shape \[1, 1, 1"),
    "no axes": (("6.bias", "shape"), [], "'6.bias' of the model has the shape"),
    "another type": (("6.bias", "dtype"), "I32", "'6.bias' of the model is 'I32', not F32"),
    "an unknown key": (("6.bias", "x"), 1, "'6.bias' of the model has the unknown key 'x'"),
    "metadata of numbers": (("__metadata__", "x"), 1, "metadata that are not text"),
    "another format": (("__metadata__", "format"), "\x1b[2J", r"of format '\\x1b\[2J', not 'linfengine-1' or"),
    "another p": (("__metadata__", "p"), "\x1b[2J", r"at p = '\\x1b\[2J': only"),
    "a config that is none": (("__metadata__", "config"), "[3]", r"this checker has no rule for a \[3\] net"),
}

# Of the description of a net: the net, the place, what stands there instead, and what is said of it.
CONFIG: dict[str, tuple[str, tuple[Any, ...], Any, str]] = {
    "a depth of 10^9": ("old net", ("depth",), 10**9, "the model has 1000000000 layers with weights, and 6 arrays"),
    "a depth of 10^18": ("old net", ("depth",), 10**18, "layers with weights, and 6 arrays"),
    "a depth of floats": ("old net", ("depth",), 3.0, "the depth of the model's LinfDistNet: expected a whole number"),
    "a depth of true": ("old net without shifts", ("depth",), True, "the depth of the model's LinfDistNet: expected a"),
    "a width of 10^9": ("old net", ("width",), 10**9, "2.weight of the model has the shape"),
    "10^9 classes": ("old net", ("classes",), 10**9, "6.weight of the model has the shape"),
    "other classes": ("old net", ("classes",), 4, "6.weight of the model has the shape"),
    "other images": ("old net", ("shape",), [3, 2, 3], r"the model takes images of shape \(3, 2, 3\), and the data"),
    "images without end": ("old net", ("shape",), [10**9] * 3, "2.weight of the model has the shape"),
    "shifts of 1": ("old net", ("mean_shift",), 1, "the mean_shift of the model's LinfDistNet: expected true or"),
    "10^9 shifts": ("old net", ("mean_shift",), 10**9, "the mean_shift of the model's LinfDistNet: expected"),
    "no shifts": ("old net", ("mean_shift",), False, "the model lacks its array 3.weight"),
    "an unknown setting": ("old net", ("seed",), 1, "the model's LinfDistNet has the unknown key 'seed'"),
    "an infinite std": ("old net", ("std",), math.inf, "no finite number of at most 40 characters: 'Infinity'"),
    "a std beyond float32": ("old net", ("std",), 1e39, "overflow float32"),
    "a std that is nought in float32": ("old net", ("std",), 1e-60, "the model divides by 0.0"),
    "a std of true": ("old net", ("std",), True, "the std of the model's LinfDistNet: expected a floating"),
    "three means": ("old net", ("mean",), [0.1] * 3, "layer 0 of the model, Normalize, takes no input of"),
    "channels of 10^9": ("old conv net", ("channels",), 10**9, "1.weight of the model has the shape"),
    "another layer": ("net", ("layer",), "LinfDistNet", "no rule for a 'LinfDistNet' net"),
    "a domain that is none": ("net", ("domain",), [], "the domain of the model's Sequential: expected a JSON object"),
    "an unknown kind of input": ("net", ("domain", "inputs"), "\x1b", r"no rule for inputs that are '\\x1b'"),
    "a window of true": ("net", ("domain", "window"), True, "the window of the model's domain: expected a whole"),
    "an unknown key of the domain": ("net", ("domain", "x"), 1, "the model's domain has the unknown key 'x'"),
    "a list of stds": ("net", ("layers", 0, "std"), [0.3, 0.0], "the model divides by 0.0"),
    "three stds": ("net", ("layers", 0, "std"), [0.3] * 3, "layer 0 of the model, Normalize, takes no input of"),
    "bounds for two": ("numbers", ("domain", "lower"), [0.0, 0.0], "2 bounds or scales for inputs of shape"),
    "a bound of text": (
        "numbers",
        ("domain", "lower"),
        "0",
        "the lower of the model's domain: expected a number or null",
    ),
    "a bound that is no float32": ("numbers", ("domain", "upper"), 0.1, "number 0.1, which is no float32 number"),
    "a scale of 0": ("numbers", ("domain", "scale"), 0.0, "the scale of the model's domain has to be above 0"),
    "a scale of null": ("numbers", ("domain", "scale"), None, "the scale of the model's domain: expected a floating"),
    "a grid without an end": (
        "numbers",
        ("domain", "fraction_bits"),
        4,
        "a domain with a grid has one scale, and both bounds",
    ),
    "a kernel of 10^5": ("conv", ("layers", 1, "kernel_size"), 10**5, "1.weight of the model has the shape"),
    "a padding of 10^9": ("conv", ("layers", 1, "padding"), 10**9, "a padding of 1000000000 is not smaller"),
    "no stride": ("conv", ("layers", 1, "stride"), 0, "the stride of the model's LinfDistConv2d: expected"),
    "a large stride": ("conv", ("layers", 1, "stride"), 10**9, "takes no input of shape"),
    "10^9 groups": ("conv", ("layers", 1, "groups"), 10**9, "cannot be divided into 1000000000 groups"),
    "one group": ("conv", ("layers", 1, "groups"), 1, "1.weight of the model has the shape"),
    "a bias that is not there": ("conv", ("layers", 4, "bias"), False, r"holds \['4.bias'\], which"),
    "other channels": ("conv", ("layers", 2, "channels"), 3, "2.running_mean of the model has the shape"),
    "no Flatten": ("conv", ("layers", 3), {"layer": "Negate"}, "layer 4 of the model, LinfDistDense, takes no input"),
    "a crop after Flatten": ("conv", ("layers", 5), CROP, "layer 5 of the model, CenterCrop, takes no input"),
    "Normalize after Flatten": ("conv", ("layers", 5), NORMALIZE, "layer 5 of the model, Normalize, takes no input"),
    "no logits": ("conv", ("layers",), [{"layer": "Negate"}], "holds "),
    "a net in the net": ("conv", ("layers", 5), {"layer": "Sequential", "layers": []}, "no rule for a 'Sequential' l"),
    "a layer with an escape": ("conv", ("layers", 5), {"layer": "\x1b[31m"}, r"no rule for a '\\x1b\[31m' layer"),
    "a layer that is none": ("conv", ("layers", 5), [[]], r"no rule for a \[\[\]\] layer"),
    "a layer more": ("conv", ("layers", 5), DENSE, "the model lacks its array 5.weight"),
}

FORGED = {name: (make, said) for name, (make, said) in WHOLE.items()}
FORGED |= {name: (partial(with_text, old, new), said) for name, (old, new, said) in TEXT.items()}
FORGED |= {name: (partial(with_header, place, value), said) for name, (place, value, said) in ENTRY.items()}
FORGED |= {name: (partial(with_config, net, place, value), said) for name, (net, place, value, said) in CONFIG.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    """A right certificate, to be sealed anew for another model."""
    net, images = filled(MAKERS["net"](), 0), some_images(2)
    return issue(tmp_path_factory.mktemp("plain"), net, images, labels_of(net, images))


@pytest.mark.parametrize("name", FORGED)
def test_forged_models_are_refused_in_a_sentence(plain: Issued, name: str) -> None:
    """Before memory is asked for that the file does not account for."""
    make, expected = FORGED[name]
    content = make()
    tracemalloc.start()
    try:
        sentence = complaint(plain.remodelled(content).verify)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert re.search(expected, sentence), sentence
    assert peak < 2**20 + 100 * len(content)


@pytest.mark.parametrize("layers", [[], [{"layer": "Negate"}], [{"layer": "Flatten"}]])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 3)])
def test_nets_without_neurons(layers: list[dict[str, Any]], shape: tuple[int, ...]) -> None:
    """Only a flat output of two numbers or more is logits."""
    config = json.dumps({"layer": "Sequential", "layers": layers})
    net = Net(file_of({"__metadata__": {"format": "linfengine-1", "p": "inf", "config": config}}, b""))
    if layers == [{"layer": "Flatten"}] and shape == (2, 3, 3):
        assert net.shapes(shape) == [(2, 3, 3), (18,)]
    else:
        assert "expected two classes or more" in complaint(lambda: net.shapes(shape))


@pytest.mark.parametrize("classes", [1, 2])
def test_a_net_has_two_classes_at_least(classes: int) -> None:
    net = Net(model_content(Sequential(Normalize((0.4,), 0.3), Flatten(), LinfDistDense(4, classes), Negate())))
    if classes == 1:
        assert "expected two classes or more" in complaint(lambda: net.shapes((1, 2, 2)))
    else:
        assert net.shapes((1, 2, 2))[-1] == (2,)


@pytest.mark.parametrize("kernel", [1, 2, 7, 100])
def test_a_large_kernel_takes_memory_in_proportion_to_its_weights(kernel: int) -> None:
    """The patches of all places at once would be of its size to the fourth power."""
    layers = [LinfDistConv2d(1, 2, kernel, padding=kernel // 2, stride=max(kernel // 2, 1)), Flatten(), Negate()]
    content = model_content(Sequential(*layers).eval())
    net = Net(content)
    tracemalloc.start()
    try:
        net([[net.pixel(7)] * 9], (1, 3, 3))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20 + 10 * len(content)


def edits(text: str) -> st.SearchStrategy[str]:
    """A text with a piece of it replaced by another piece, or by something short."""
    place = st.integers(0, len(text))
    short = st.sampled_from([*'01-[],"', "", "{}", "9" * 30, "1e999", "NaN", "true", "null", "\\u001b"])
    piece = st.tuples(place, st.integers(0, 12)).map(lambda p: text[p[0] : sum(p)])
    replacing = st.tuples(place, st.integers(0, 12), short | piece | st.text(max_size=3))
    return replacing.map(lambda r: text[: r[0]] + r[2] + text[r[0] + r[1] :])


@given(data=st.data(), what=st.sampled_from(["header", "config", "certificate"]))
@draws(120)
def test_edited_files_are_refused_or_claim_the_same(
    plain: Issued, issued: Issued, data: st.DataObject, what: str
) -> None:
    """Sealed anew. No other exception is raised, and the engine's loader takes no less than the checker."""
    right = data.draw(st.sampled_from([plain, issued]))
    lines, content = right.lines, right.model.read_bytes()
    if what == "certificate":
        i = data.draw(st.integers(0, len(lines) - 1))
        texts = [json.dumps(line) for line in lines]
        texts[i] = data.draw(edits(texts[i]))
        other = right.rewritten(sealed("".join(f"{text}\n" for text in texts).encode("utf8", "surrogatepass")))
    else:
        start = 8 + int.from_bytes(content[:8], "little")
        text = content[8:start].decode()
        if what == "config":
            header = json.loads(text)
            header["__metadata__"]["config"] = data.draw(edits(header["__metadata__"]["config"]))
            text = json.dumps(header)
        else:
            text = data.draw(edits(text))
        other = right.remodelled(file_of(text.encode("utf8", "surrogatepass"), content[start:]))
    try:
        found = other.verify()
    except Disagreement as refusal:
        sentence = str(refusal)
        assert sentence.isascii()
        assert sentence.isprintable()
        return
    load_model(other.model)
    for key in ("eps", "gray_levels", "n", "classes"):
        assert found[key] == lines[0][key]
    for key in ("clean", "certified"):
        assert found[key]["count"] == lines[0][key]["count"]
        assert np.allclose(found[key]["bounds"], lines[0][key]["bounds"], rtol=0, atol=1e-5)


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
        net = filled(linf_net(shape, 3, width=2, depth=1, mean=(0.4,), std=0.3), 0)
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
    assert done.stderr == ""  # no progress where nobody watches
    one = run(script, *files("grey"), "grey.npz", "--samples", "1")
    assert one.stdout.strip().splitlines() == [
        expected,
        "Only 1 of them were re-derived; of the others, logits and boxes are believed.",
    ]


def test_progress_is_for_a_terminal(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(script)
        patch.setattr(sys, "argv", ["verify.py", *files("grey"), "grey.npz"])
        patch.setattr(sys.stderr, "isatty", lambda: True)
        assert checker.main() == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("Verified: ")
    assert captured.err.endswith("\r3 of 3 samples re-derived\n")


def test_it_tells_how_many_samples_the_data_have(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(script / "grey.npz") as data:
        more = {name: np.concatenate([data[name], data[name]]) for name in ("images", "labels")}
    np.savez_compressed(script / "more.npz", images=more["images"], labels=more["labels"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(script)
        patch.setattr(sys, "argv", ["verify.py", *files("grey"), "more.npz"])
        assert checker.main() == 0
    said = capsys.readouterr().out
    assert said.isascii()
    assert said.strip().splitlines()[1:] == ["The certificate speaks of the first 3 of the 6 samples in the data."]


@pytest.mark.parametrize("samples", ["0", "-1", "x"])
def test_no_samples_are_refused_by_the_script(script: Path, samples: str) -> None:
    done = run(script, *files("grey"), "grey.npz", "--samples", samples)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--samples" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


PACKINGS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("ending", PACKINGS)
def test_it_reads_mnist(script: Path, ending: str) -> None:
    with np.load(script / "grey.npz") as data:
        write_idx(script / f"mnist{ending}", data["images"], data["labels"], ending, PACKINGS[ending])
        right = data["images"], data["labels"]
    if ending == "":  # names in another spelling
        folder = shutil.copytree(script / "mnist", script / "other names")
        for path in sorted(folder.iterdir()):
            path.rename(folder / path.name.replace("-idx", ".idx"))
        for a, b in zip(read_data(folder), right, strict=True):
            assert np.array_equal(a, b)
    done = run(script, *files("grey"), f"mnist{ending}")
    assert (done.returncode, done.stdout[:10]) == (0, "Verified: "), done.stderr
    assert (
        "takes images of shape (3, 32, 32), and the data have (1, 4, 5)"
        in run(script, *files("colour"), f"mnist{ending}").stderr
    )


def test_it_reads_cifar(script: Path) -> None:
    with np.load(script / "colour.npz") as data:
        write_bin(script / "cifar", data["images"], data["labels"])
    done = run(script, *files("colour"), "cifar")
    assert (done.returncode, done.stdout[:10]) == (0, "Verified: "), done.stderr


def said(capsys: pytest.CaptureFixture[str], script: Path, *arguments: str) -> str:
    """What the checker says, run in this process, when it does not verify."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(script)
        patch.setattr(sys, "argv", ["verify.py", *arguments])
        assert checker.main() == 2
    captured = capsys.readouterr()
    assert not captured.out
    (sentence,) = captured.err.strip().splitlines()[-1:]
    assert sentence.isprintable()
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
        (("nothing", grey[1], "grey.npz"), "Not verified: nothing: No such file or directory."),
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
        ((*files("colour"), "grey.npz"), "takes images of shape (3, 32, 32)"),
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
        case "too few labels":
            np.savez(archive, images=images, labels=labels[1:])
        case "labels of floats":
            np.savez(archive, images=images, labels=labels.astype(float))
        case "images of floats":
            np.savez(archive, images=images.astype(np.float32), labels=labels)
        case "pixels in rows":
            np.savez(archive, images=images.reshape(len(images), -1), labels=labels)
        case "labels as images":
            idx("", bytes)
            shutil.copy(path / "t10k-images-idx3-ubyte", path / "t10k-labels-idx1-ubyte")
        case "a pixel more":
            idx("", lambda content: content + b"x")
        case "images without end":
            idx("", lambda content: content[:4] + b"\xff" * 12 + content[16:])
        case "an array without end":
            np.savez(archive, images=images, labels=labels)
            declared = archive.read_bytes().replace(b"(3, 1, 4, 5)", b"(9999999999,", 1)
            archive.write_bytes(declared)
        case "an array larger than its file":
            header = np.lib.format.header_data_from_array_1_0(images) | {"shape": (10**12, 1, 4, 5)}
            with zipfile.ZipFile(archive, "w") as made:
                with made.open("images.npy", "w") as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    file.write(images.tobytes())
                with made.open("labels.npy", "w") as file:
                    np.lib.format.write_array(file, labels)
        case "a member with a password":
            np.savez(archive, images=images, labels=labels)
            content = bytearray(archive.read_bytes())
            for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
                content[content.index(mark) + flags] |= 1
            archive.write_bytes(content)


ARCHIVES = (
    *("no archive", "an empty archive", "half an archive", "another archive", "objects", "too few labels"),
    *(
        "labels of floats",
        "images of floats",
        "pixels in rows",
        "an array without end",
        "an array larger than its file",
    ),
    "a member with a password",
)
FOLDERS = (
    *("no labels", "half the images", "a few bytes", "nothing", "half a record", "labels as images", "a pixel more"),
    "images without end",
)
PACKED = ("half a gzip", "no gzip", "a bad gzip", "half an xz", "no xz")


@pytest.mark.parametrize("name", [*ARCHIVES, *FOLDERS, *PACKED])
def test_broken_data_are_refused_in_a_sentence(script: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(script / "grey.npz") as data:
        broken(script / name, name, data["images"], data["labels"])
    said(capsys, script, *files("grey"), f"{name}.npz" if name in ARCHIVES else name)


def bomb(path: Path, name: str) -> Path:
    """16 MiB of zeros in a small file."""
    pack: dict[str, Callable[[bytes], bytes]] = {
        ".gz": gzip.compress,
        ".xz": partial(lzma.compress, preset=0),
    }  # of a small dictionary
    path.mkdir()
    zeros = np.zeros((16, 1, 1024, 1024), np.uint8)
    if name == "npz":
        np.savez_compressed(path / "x.npz", images=zeros, labels=np.arange(16))
        return path / "x.npz"
    if name.startswith("batch"):
        (path / f"test_batch.bin{name[5:]}").write_bytes(pack[name[5:]](bytes(3073 * 5000)))
    else:
        write_idx(path, zeros, np.arange(16), name, pack[name])
    return path


@pytest.mark.parametrize("name", ["npz", ".gz", ".xz", "batch.gz", "batch.xz"])
def test_little_is_unpacked_of_what_is_too_large(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bomb(tmp_path / "bomb", name)
    assert sum(len(array) for array in read_data(path)) > 0
    monkeypatch.setattr(checker, "MOST_UNPACKED", 2**20)
    tracemalloc.start()
    try:
        assert re.search("unpacks? to .*more than 1048576", complaint(lambda: read_data(path)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 2**20


def test_no_more_is_unpacked_than_an_archive_declares(tmp_path: Path) -> None:
    path = bomb(tmp_path / "bomb", "npz")
    content = bytearray(path.read_bytes())
    size = content.index(b"PK\x01\x02") + 24  # of the images, as the directory says
    content[size : size + 4] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()
    try:
        complaint(lambda: read_data(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_archives_of_another_compression_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as made, made.open("images.npy", "w") as file:
        np.lib.format.write_array(file, some_images(2))
    assert "are compressed in an unusual way" in complaint(lambda: read_data(tmp_path / "x.npz"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("labels", [np.array([0, 1], np.int64), np.array([0, 1], np.uint8), np.array([0, 1], ">i4")])
def test_archives_are_read_as_numpy_reads_them(tmp_path: Path, save: Callable[..., None], labels: Array) -> None:
    """Arrays in column order among them."""
    images = some_images(2)
    for each in (images, np.asfortranarray(images), images[:, :, ::2]):
        save(tmp_path / "x.npz", images=each, labels=labels, more=np.array(["x"]))
        with np.load(tmp_path / "x.npz") as right:
            for name, found in zip(("images", "labels"), read_data(tmp_path / "x.npz"), strict=True):
                assert found.dtype == right[name].dtype
                assert np.array_equal(found, right[name])
