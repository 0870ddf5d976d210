"""A file is whole or it is refused: what was saved comes back to the bit, and nothing else comes back at all."""

import hashlib
import json
import math
import os
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from safetensors.numpy import save_file
from support.draws import draws
from support.op_cases import Array

from linfengine._version import __version__
from linfengine.checkpoint import FORMAT, load_model, load_tensors, read_model, save_model, save_tensors
from linfengine.errors import UserError
from linfengine.exact import quantize
from linfengine.layers import (
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    build,
    conv_net,
    linf_net,
)
from linfengine.layers.registry import described

NETS: dict[str, Callable[[], Module]] = {
    "net": lambda: linf_net((1, 2, 2), 3, width=4, depth=3, mean=(0.3,), std=0.7),
    "net in colour": lambda: linf_net((3, 2, 1), 2, width=5, depth=2, mean=(0.1, 0.2, 0.3), std=0.1),
    "net without shifts": lambda: linf_net((1, 2, 2), 3, width=4, depth=2, mean=(0.5,), std=0.25, mean_shift=False),
    "one layer": lambda: LinfDistDense(4, 6, groups=2, bias=True),
    "all layers": lambda: Sequential(
        Normalize((0.5,), 0.25),
        LinfDistConv2d(1, 2, 2, stride=1, padding=1, bias=True),
        MeanShift(2, momentum=0.25),
        Flatten(),
        Sequential(LinfDistDense(18, 4), Negate(), ReLU()),
        Dense(4, 3),
        Tanh(),
    ),
}


def filled(net: Module, seed: int = 0) -> Module:
    """The net with other numbers than those it was made with, running means included."""
    rng = np.random.default_rng(seed)
    for array in net.state().values():
        array[...] = rng.standard_normal(array.shape)
    return net


def complaint(call: Callable[[], object]) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(UserError) as refusal:
        call()
    sentence = str(refusal.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


def assert_same(a: dict[str, Array], b: dict[str, Array]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape, a[name].tobytes()) == (b[name].dtype, b[name].shape, b[name].tobytes())


# What was saved comes back.

TENSORS = st.dictionaries(
    st.text("abc.2é", min_size=1, max_size=8),
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.int64, np.uint8]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    max_size=4,
)
METADATA = st.dictionaries(
    st.text("abcdex", min_size=1, max_size=9), st.text(st.characters(codec="utf-8"), max_size=20)
)


@given(tensors=TENSORS, metadata=METADATA)
@draws(50)
def test_tensors_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Array], metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.safetensors"
    save_tensors(path, tensors, metadata)
    loaded, said = load_tensors(path)
    assert_same(loaded, tensors)
    assert said == {"format": FORMAT, "version": __version__, **metadata}


def test_the_order_of_memory_does_not_matter(tmp_path: Path) -> None:
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_tensors(tmp_path / "a", {"a": a.T, "b": a[:, ::-1]}, {})
    loaded, _ = load_tensors(tmp_path / "a")
    assert_same(loaded, {"a": a.T.copy(), "b": a[:, ::-1].copy()})


def test_equal_content_is_an_equal_file_that_safetensors_reads(tmp_path: Path) -> None:
    """The library writes metadata in an order of its own choice; files can be compared by checksum all the same."""
    tensors = {name: np.full(3, i, np.float32) for i, name in enumerate("dacb")}
    notes = {name: name for name in "wvxzy"}
    contents = []
    for i in range(5):
        save_tensors(tmp_path / str(i), tensors, notes)
        contents.append((tmp_path / str(i)).read_bytes())
    assert len(set(contents)) == 1
    assert (8 + int.from_bytes(contents[0][:8], "little")) % 8 == 0  # tensors are aligned
    assert_same(load_safetensors(contents[0]), tensors)


@pytest.mark.parametrize("p", [math.inf, 8.0, 1000 / 3])
@pytest.mark.parametrize("name", NETS)
def test_a_net_comes_back_to_the_bit(name: str, p: float, tmp_path: Path) -> None:
    net = filled(NETS[name]())
    net.p = p
    save_model(net, tmp_path / "model", dataset="digits", note='"quoted", ε\n')
    loaded, metadata = load_model(tmp_path / "model")
    assert type(loaded) is type(net)
    assert loaded.config() == net.config()
    assert_same(loaded.state(), net.state())
    assert loaded.p == net.p
    assert not any(module.training for _, module in loaded.modules())
    assert (metadata["dataset"], metadata["note"]) == ("digits", '"quoted", ε\n')
    if not isinstance(net, LinfDistDense):
        x = np.random.default_rng(1).random((5, 3 if "colour" in name else 1, 2, 1 if "colour" in name else 2))
        x = x.astype(np.float32)
        np.testing.assert_array_equal(loaded(x).numpy(), net.eval()(x).numpy())


def test_a_net_whose_only_numbers_are_weights_comes_back(tmp_path: Path) -> None:
    net = Sequential(Flatten(), LinfDistDense(4, 2, seed=0), Negate())
    save_model(net, tmp_path / "model")
    assert_same(load_model(tmp_path / "model")[0].state(), net.state())


def test_nothing_is_shared_with_the_net_that_was_saved(tmp_path: Path) -> None:
    net = filled(NETS["net"]())
    save_model(net, tmp_path / "model")
    before = {name: array.copy() for name, array in net.state().items()}
    filled(net, seed=1)
    assert_same(load_model(tmp_path / "model")[0].state(), before)


# Anything else is refused, in a sentence.


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(filled(linf_net((1, 1, 2), 2, width=2, depth=2, mean=(0.5,), std=0.25)), path, dataset="digits")
    return path


def test_every_truncation_is_refused(whole: Path) -> None:
    content = whole.read_bytes()
    for length in range(len(content)):
        whole.write_bytes(content[:length])
        assert str(whole) in complaint(lambda: load_model(whole))
    whole.write_bytes(content + b"\0")
    assert "whole" in complaint(lambda: load_model(whole))


def test_a_wrong_byte_in_the_header_is_refused_or_does_no_harm(whole: Path) -> None:
    """Whatever becomes of a byte: a UserError, or a net whose numbers are the saved ones (a letter of the version or of
    a data set's name has no more to say, and a digit of the std makes another net with the same weights)."""
    content, tensors = whole.read_bytes(), load_model(whole)[0].state()
    start = 8 + int.from_bytes(content[:8], "little")
    rng = np.random.default_rng(0)
    refused = 0
    for position in range(start):
        for byte in {int(rng.integers(256)), content[position] ^ 1} - {content[position]}:
            whole.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
            try:
                net, _ = load_model(whole)
            except UserError:
                refused += 1
            else:
                assert_same(net.state(), tensors)
    assert refused > start


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "whole safetensors file"),
        (b"PK\x03\x04 a zip file, as torch.save makes them", "whole safetensors file"),
        (b"\xff" * 64, "whole safetensors file"),
        (save_safetensors({"a": np.zeros(2, np.float32)}), f"expected format {FORMAT}, got a file without one"),
        (save_safetensors({}, {"format": "pt"}), f"expected format {FORMAT}, got pt"),
        (save_safetensors({}, {"format": "linfengine-3"}), f"expected format {FORMAT}, got linfengine-3"),
    ],
)
def test_foreign_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    for load in (load_model, load_tensors):
        sentence = complaint(lambda load=load: load(path))  # type: ignore[misc]
        assert message in sentence
        assert str(path) in sentence


def test_a_number_format_that_numpy_lacks(tmp_path: Path) -> None:
    header = {"__metadata__": {"format": FORMAT}, "a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    assert "expected a safetensors file of NumPy's number formats, got 'BF16'" in complaint(
        lambda: load_tensors(tmp_path / "model")
    )


def test_places_without_a_file(tmp_path: Path) -> None:
    assert "there is no such file" in complaint(lambda: load_model(tmp_path / "none"))
    assert str(tmp_path) in complaint(lambda: load_model(tmp_path))


def remove(tensors: dict[str, Array]) -> None:
    del tensors["2.weight"]


def add(tensors: dict[str, Array]) -> None:
    tensors["7.weight"] = np.zeros(2, np.float32)


def reshape(tensors: dict[str, Array]) -> None:
    tensors["4.bias"] = np.zeros((1, 2), np.float32)


def widen(tensors: dict[str, Array]) -> None:
    tensors["3.running_mean"] = tensors["3.running_mean"].astype(np.float64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove, r"missing ['2.weight']"),
        (add, "extra ['7.weight']"),
        (reshape, "4.bias: expected float32 (2,), got float32 (1, 2)"),
        (widen, "3.running_mean: expected float32 (2,), got float64 (2,)"),
    ],
)
def test_tensors_that_do_not_fit(change: Callable[[dict[str, Array]], None], message: str, whole: Path) -> None:
    tensors, metadata = load_tensors(whole)
    change(tensors)
    save_tensors(whole, tensors, metadata)
    sentence = complaint(lambda: load_model(whole))
    assert "not a model that fits its own description" in sentence
    assert message in sentence


# A description takes no more memory than the file does.


def described_in_format_1(**settings: Any) -> dict[str, Any]:
    """The net of the fixture `whole`, named as files of format 1 name it."""
    sizes = {"shape": [1, 1, 2], "classes": 2, "width": 2, "depth": 2, "crop": 0, "head": 0, "mean_shift": True}
    return {"layer": "LinfDistNet", **sizes, "mean": [0.5], "std": 0.25} | settings


IMAGES = {"mean": (0.5,), "std": 0.25}
SIZES: dict[str, Callable[[], Module]] = NETS | {
    "head": lambda: linf_net((1, 5, 4), 3, width=6, depth=2, head=5, **IMAGES),  # type: ignore[arg-type]
    "one layer and a crop": lambda: linf_net((3, 5, 4), 3, width=6, depth=1, crop=2, **IMAGES),  # type: ignore[arg-type]
    "head on one layer": lambda: linf_net((1, 5, 4), 3, width=6, depth=1, head=5, **IMAGES),  # type: ignore[arg-type]
    "conv": lambda: conv_net((3, 5, 4), 3, channels=2, width=6, **IMAGES),  # type: ignore[arg-type]
    "conv with a head": lambda: conv_net((1, 8, 7), 3, channels=2, width=6, crop=5, head=4, **IMAGES),  # type: ignore[arg-type]
    "exact": lambda: quantize(filled(linf_net((1, 2, 2), 3, width=4, depth=3, **IMAGES)), 0),  # type: ignore[arg-type]
    "channels in groups": lambda: LinfDistConv2d(4, 6, 3, groups=2),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_size_of_a_description_is_that_of_its_weights(name: str) -> None:
    net = SIZES[name]()
    weights = [array.size for key, array in net.state().items() if key.rpartition(".")[2] == "weight"]
    means = [array.size for key, array in net.state().items() if key.endswith("running_mean")]
    assert described(net.config()).layer.numbers_in(net.config()) == sum(weights) + sum(means)


def test_what_a_description_asks_for_is_not_built(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these would take gigabytes, or for ever; the sentence is there before the first layer is."""

    def built(config: Any) -> Any:
        raise AssertionError(f"{config} was built")

    monkeypatch.setattr("linfengine.checkpoint.build", built)
    tensors, metadata = load_tensors(whole)
    size, net = 10**9, described_in_format_1()
    metadata |= {"format": "linfengine-1"}
    conv = {key: value for key, value in net.items() if key != "depth"} | {"layer": "LinfDistConvNet", "channels": 2}
    layers: list[dict[str, Any]] = [
        {"layer": "Dense", "in_features": 2, "out_features": size},
        {"layer": "LinfDistDense", "in_features": size, "out_features": size, "groups": size},
        {"layer": "LinfDistConv2d", "in_channels": 1, "out_channels": 1, "kernel_size": 10**5},
        {"layer": "MeanShift", "channels": size},
        {"layer": "LinfDistDense", "in_features": "2" * 9, "out_features": size},
        {"layer": "LinfDistDense", "in_features": -size, "out_features": -size},
    ]
    nested: dict[str, Any] = layers[0]
    for _ in range(100):
        nested = {"layer": "Sequential", "layers": [nested]}
    for config in (
        *(net | {key: size} for key in ("depth", "width", "classes", "head", "crop")),
        net | {"shape": [1, size, size]},
        net | {"width": "2"},
        net | {"depth": 10**400},
        *(conv | change for change in ({"channels": size}, {"width": size}, {"shape": [size, 1, 1]})),
        *layers,
        {"layer": "Sequential", "layers": layers},
        {"layer": "ExactNet", "layers": [layers[1]], "fraction_bits": 8},
        nested,
    ):
        save_tensors(whole, tensors, metadata | {"config": json.dumps(config)})
        assert "not a model that fits its own description" in complaint(lambda: load_model(whole))


def test_a_description_has_no_more_layers_than_the_file_has_tensors(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though one large tensor make up for the numbers of many narrow layers."""

    def built(config: Any) -> Any:
        raise AssertionError(f"{config} was built")

    tensors, metadata = load_tensors(whole)
    config = described_in_format_1() | {"width": 1, "depth": 10**4}
    metadata |= {"format": "linfengine-1"}
    large = tensors | {"large": np.zeros(10**5, np.float32)}
    save_tensors(tmp_path / "model", large, metadata | {"config": json.dumps(config)})
    monkeypatch.setattr("linfengine.checkpoint.build", built)
    with pytest.raises(UserError, match="depth 1e\\+04 is more than the .* tensors in the file"):
        load_model(tmp_path / "model")


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    """37 kB that describe a net of 10^9 layers, and one of two layers that are 9000 wide."""
    tensors = linf_net((1, 8, 8), 10, width=64, depth=3, mean=(0.5,), std=0.25).state()
    for change in ({"depth": 10**9}, {"width": 9000}):
        config = described_in_format_1(shape=[1, 8, 8], classes=10, width=64, depth=3) | change
        save_tensors(tmp_path / "model", tensors, {"format": "linfengine-1", "config": json.dumps(config), "p": "inf"})
        tracemalloc.start()
        assert "fits its own description" in complaint(lambda: load_model(tmp_path / "model"))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20


def test_a_mean_for_every_channel_or_one(tmp_path: Path) -> None:
    for channels, means, fits in ((1, 2, False), (3, 2, False), (3, 1, True), (3, 3, True)):
        net = linf_net((channels, 2, 2), 3, width=4, depth=2, mean=(0.5,), std=0.25)
        config = described_in_format_1(shape=[channels, 2, 2], classes=3, width=4, depth=2, mean=[0.5] * means)
        metadata = {"format": "linfengine-1", "config": json.dumps(config), "p": "inf"}
        save_tensors(tmp_path / "model", net.state(), metadata)
        if fits:
            load_model(tmp_path / "model")
        else:
            said = f"expected a mean for each of {channels} channels, got 2"
            assert said in complaint(lambda: load_model(tmp_path / "model"))


def test_a_model_comes_with_the_hash_of_what_was_read(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is opened once: what is put in its place meanwhile is not what was loaded."""
    content = whole.read_bytes()

    def replaced(config: dict[str, Any]) -> Module:
        whole.write_bytes(b"another file")
        return build(config)

    monkeypatch.setattr("linfengine.checkpoint.build", replaced)
    loaded = read_model(whole)
    assert loaded.sha256 == hashlib.sha256(content).hexdigest()
    whole.write_bytes(content)
    monkeypatch.undo()
    net, metadata = load_model(whole)
    assert metadata == loaded.metadata
    assert_same(net.state(), loaded.net.state())


def test_a_name_that_stands_twice(whole: Path) -> None:
    content = whole.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = content[8:start].rstrip()
    name = json.dumps("2.weight") + ": " + json.dumps(json.loads(header)["2.weight"], sort_keys=True)
    assert name.encode() in header
    for twice in (
        header.replace(name.encode(), f"{name}, {name}".encode()),
        header.replace(b'"dataset": "digits"', b'"dataset": "mnist", "dataset": "digits"'),
    ):
        assert twice != header
        whole.write_bytes(len(twice).to_bytes(8, "little") + twice + content[start:])
        assert "stands there twice" in complaint(lambda: load_model(whole))
    whole.write_bytes(content)
    tensors, metadata = load_tensors(whole)
    config = metadata["config"].replace('"std": 0.25', '"std": 0.25, "std": 0.25')
    assert config != metadata["config"]
    save_tensors(whole, tensors, metadata | {"config": config})
    assert "'std' stands there twice" in complaint(lambda: load_model(whole))


@pytest.mark.skipif(sys.platform == "win32", reason="no devices and pipes")
def test_devices_folders_and_pipes(whole: Path, tmp_path: Path) -> None:
    assert "this is a device" in complaint(lambda: load_model("/dev/zero"))
    assert "this is a folder" in complaint(lambda: load_model(tmp_path))
    pipe, content = tmp_path / "pipe", whole.read_bytes()
    os.mkfifo(pipe)
    thread = threading.Thread(target=pipe.write_bytes, args=[content])
    thread.start()
    assert read_model(pipe).sha256 == hashlib.sha256(content).hexdigest()
    thread.join()


CONFIG = linf_net((1, 1, 2), 2, width=2, depth=2, mean=(0.5,), std=0.25).config()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", "{"),
        ("config", "[]"),
        ("config", "3"),
        ("config", json.dumps({"layer": "LinfDistNet"})),
        ("config", json.dumps({"layer": "Banana"})),
        ("config", json.dumps({"layer": "Sequential"})),
        ("config", json.dumps({"layer": "Sequential", "layers": ["Flatten"]})),
        *(
            ("config", json.dumps(CONFIG | change))
            for change in (
                {"depth": 0},
                {"depth": 3},
                {"width": 3},
                {"width": -1},
                {"width": 1.5},
                {"width": "2"},
                {"width": 10**15},  # of which there is not enough memory
                {"shape": [1, 1, 10**30]},
                {"shape": 2},
                {"std": 0},
                {"std": math.nan},
                {"mean": [math.inf]},
                {"colour": "red"},
            )
        ),
        ("p", "infinite"),
        ("p", "nan"),
        ("p", "0.5"),
    ],
)
def test_a_description_that_describes_no_net(key: str, value: str, whole: Path) -> None:
    tensors, metadata = load_tensors(whole)
    save_tensors(whole, tensors, metadata | {key: value})
    assert "not a model that fits its own description" in complaint(lambda: load_model(whole))


def test_a_file_that_is_no_model_says_what_is_missing(whole: Path) -> None:
    tensors, metadata = load_tensors(whole)
    for key, message in (("config", "without a net's description"), ("p", "fits its own description")):
        save_tensors(whole, tensors, {name: text for name, text in metadata.items() if name != key})
        assert message in complaint(lambda: load_model(whole))


def test_a_file_of_another_program_in_the_way_is_never_read_as_a_model(tmp_path: Path) -> None:
    save_file(
        {"2.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model", {"config": json.dumps(CONFIG), "p": "inf"}
    )
    assert "expected format" in complaint(lambda: load_model(tmp_path / "model"))
