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
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from issuing import (
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
from op_cases import Array

from linfengine import verify as checker
from linfengine.checkpoint import model_content, save_model
from linfengine.exact import ExactNet, quantize
from linfengine.layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConvNet,
    LinfDistDense,
    LinfDistNet,
    MeanShift,
    Module,
    Negate,
    Normalize,
    Sequential,
    Tanh,
)
from linfengine.verify import Disagreement, Net, verify


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
        assert self.refused(tmp_path, net) == f"the model divides by {std}, which no exact net does"


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
    assert "takes no input of shape (20,)" in run(script, *files("colour"), f"mnist{ending}").stderr


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
        ((*files("colour"), "grey.npz"), "takes no input of shape (20,)"),
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
