"""Readers answer to the published facts and refuse every fault in one sentence; augmentation keeps its laws."""

import gzip
import hashlib
import io
import lzma
import os
import pickle
import struct
import tarfile
import traceback
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pooch  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from support.draws import draws, thorough

from linfengine import data
from linfengine.data import DATASETS, Dataset, files, load_dataset, random_crop, random_flip, split_holdout, to_pixels
from linfengine.errors import UserError

REAL_DATA = os.environ.get("LINFENGINE_DATA")
PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")


# Tiny data sets in every published form: 20 train images (four a CIFAR file) and 4 test images.


def tiny(channels: int, side: int) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(7)
    images = rng.integers(256, size=(24, channels, side, side), dtype=np.uint8)
    labels = rng.integers(10, size=24)
    return images[:20], labels[:20], images[20:], labels[20:]


def idx_bytes(array: Any) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, ending: str = "") -> None:
    folder.mkdir(parents=True)
    for file, array in zip(IDX_FILES, tiny(1, 28), strict=True):
        (folder / (file + ending)).write_bytes(PACK[ending](idx_bytes(array.squeeze())))


def binary_bytes(images: Any, labels: Any) -> bytes:
    return np.c_[labels.astype(np.uint8), images.reshape(len(images), -1)].tobytes()


def pickle_bytes(images: Any, labels: Any) -> bytes:
    """What cPickle of Python 2 wrote (protocol 2, byte strings, numpy.core): the form of the official files."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text

    def integer(value: int) -> bytes:
        return b"M" + struct.pack("<H", value)

    dtype = b"cnumpy\ndtype\n(" + string(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + string(b"b") + b"tR"
    shape = integer(len(images)) + integer(3072) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + string(images.tobytes()) + b"tb"
    label_list = b"](" + b"".join(integer(int(label)) for label in labels) + b"e"
    items = string(b"batch_label") + string(b"tiny batch") + string(b"labels") + label_list + string(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def write_cifar(folder: Path, encode: Callable[[Any, Any], bytes], ending: str) -> None:
    folder.mkdir(parents=True)
    train_images, train_labels, test_images, test_labels = tiny(3, 32)
    parts = zip(np.split(train_images, 5), np.split(train_labels, 5), strict=True)
    for batch, (images, labels) in zip(BATCHES, [*parts, (test_images, test_labels)], strict=True):
        name = batch + (".bin" if encode is binary_bytes else "") + ending
        (folder / name).write_bytes(PACK[ending](encode(images, labels)))


# Tiny ImageNet with 2 classes, 4 train images each, and 6 test images, each of one colour told by its file name; the
# lists are in another order than the classes and files are to be in.

WNIDS = ("n01443537", "n07720875")
WORDS = "n07720875\tbell pepper\nn01443537\tgoldfish, Carassius auratus\nn00001740\tentity\n"
COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (250, 250, 10), (10, 250, 250), (250, 10, 250)]
TEST_LABELS = [0, 1, 1, 0, 1, 0]  # of val_0, val_1, val_10, val_2, val_3, val_4


def write_jpeg(path: Path, colour: Any, mode: str = "RGB", side: tuple[int, int] = (64, 64)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", side, colour).convert(mode).save(path, "JPEG")


def jpeg_bytes(image: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(file, "JPEG")
    return file.getvalue()


def annotation(file: str, label: int) -> str:
    return f"{file}\t{WNIDS[label]}\t0\t0\t62\t62\n"


def write_tiny_imagenet(folder: Path) -> None:
    for wnid in WNIDS:
        for colour, number in zip(COLOURS, ["0", "1", "10", "2"], strict=False):
            write_jpeg(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", colour)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    files = [f"val_{number}.JPEG" for number in ("0", "1", "10", "2", "3", "4")]
    for file, colour in zip(files, COLOURS, strict=True):
        write_jpeg(folder / "val" / "images" / file, colour)
    lines = [annotation(file, label) for file, label in zip(files, TEST_LABELS, strict=True)]
    (folder / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    (folder / "wnids.txt").write_text("\n".join(reversed(WNIDS)))
    (folder / "words.txt").write_text(WORDS)


def assert_colours(images: Any, colours: Any) -> None:
    """Up to 4 levels, for JPEG rounds colours; any two of `COLOURS` are 240 apart."""
    flat = np.broadcast_to(np.array(colours)[:, :, None, None], (len(colours), 3, 64, 64))
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images.astype(int), flat, rtol=0, atol=4)


def assert_tiny_imagenet(dataset: Dataset) -> None:
    assert dataset.classes == ("goldfish", "bell pepper")
    assert_colours(dataset.train_images, COLOURS[:4] * 2)
    assert_colours(dataset.test_images, COLOURS)
    assert dataset.train_labels.tolist() == [0] * 4 + [1] * 4
    assert dataset.test_labels.tolist() == TEST_LABELS
    assert (dataset.train_labels.dtype, dataset.test_labels.dtype) == (np.int64, np.int64)


def assert_tiny(dataset: Dataset, channels: int, side: int) -> None:
    found = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    for array, expected in zip(found, tiny(channels, side), strict=True):
        np.testing.assert_array_equal(array, expected)
    assert [array.dtype for array in found] == [np.uint8, np.int64, np.uint8, np.int64]


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Tiny sizes in the table, no LINFENGINE_DATA, no network, and an empty cache, whose path this is."""

    def no_network(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError

    for name in ("mnist", "fashion-mnist", "cifar-10"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], sizes=(20, 4)))
    small = replace(DATASETS["tiny-imagenet"], sizes=(8, 6), classes=2)
    monkeypatch.setitem(DATASETS, "tiny-imagenet", small)
    monkeypatch.delenv("LINFENGINE_DATA", raising=False)
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "cache")
    monkeypatch.setattr(pooch, "retrieve", no_network)
    return tmp_path / "cache"


# The data sets themselves


def test_digits_are_those_of_scikit_learn() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    digits, ours = datasets.load_digits(), load_dataset("digits")
    train, test = split_holdout(digits.target, 360)
    pixels = np.floor(digits.images[:, None] * 255 / 16 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(ours.train_images, pixels[train])
    np.testing.assert_array_equal(ours.train_labels, digits.target[train])
    np.testing.assert_array_equal(ours.test_images, pixels[test])
    np.testing.assert_array_equal(ours.test_labels, digits.target[test])


def test_digits_facts() -> None:
    digits = load_dataset("digits")
    assert digits.train_images.shape == (1437, 1, 8, 8)
    assert digits.test_images.shape == (360, 1, 8, 8)
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (np.uint8, np.int64)
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert np.bincount(digits.test_labels).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    pixels = digits.train_images / 255
    assert (round(pixels.mean(), 4), round(pixels.std(), 4)) == (*digits.mean, digits.std)


def test_repr_tells_what_is_in_a_data_set() -> None:
    described = "Dataset('digits': 1,437 train and 360 test images of 1 x 8 x 8, 10 classes)"
    assert repr(load_dataset("digits")) == described


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"test_labels": np.zeros(360)}, TypeError, "labels must be integers, got float64"),
        (
            {"test_labels": np.zeros(359, int)},
            ValueError,
            "test_images and test_labels must have one length, got 360, 359",
        ),
        ({"train_labels": np.full(1437, 10)}, ValueError, r"train_labels must lie in 0\.\.9, got 10 to 10"),
        ({"train_labels": np.full(1437, -1, np.int8)}, ValueError, r"train_labels must lie in 0\.\.9, got -1 to -1"),
        ({"test_images": np.zeros((360, 1, 8, 8), np.float32)}, TypeError, "test_images must be uint8 .* got float32"),
        (
            {"train_images": np.zeros((1437, 64), np.uint8)},
            ValueError,
            r"train_images must have shape .* got \(1437, 64\)",
        ),
        (
            {"test_images": np.zeros((360, 8, 8, 1), np.uint8)},
            ValueError,
            r"test_images must have shape .* \(360, 8, 8, 1",
        ),
        ({"mean": (0.3, 0.3)}, ValueError, r"mean must be one finite number a channel, got \(0.3, 0.3\)"),
        ({"mean": (float("nan"),)}, ValueError, "mean must be one finite number a channel"),
        ({"std": 0.0}, ValueError, "std must be finite and above 0, got 0.0"),
    ],
)
def test_data_sets_made_by_hand_are_checked(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        replace(load_dataset("digits"), **changes)


def test_data_sets_made_by_hand_have_wide_labels() -> None:
    digits = load_dataset("digits")
    narrow = replace(digits, train_labels=digits.train_labels.astype(np.uint8))
    assert narrow.train_labels.dtype == np.int64
    np.testing.assert_array_equal(narrow.train_labels, digits.train_labels)


def test_digits_split_never_changes() -> None:
    digest = hashlib.sha256(load_dataset("digits").test_images.tobytes()).hexdigest()
    assert digest == "36adb962e227fc90da2ec4dccb85309c9b77f45f5308d52ff39f6d8f32b52656"


@cache
def real(name: str) -> Dataset:
    return load_dataset(name, download=False)


needs_data = pytest.mark.skipif(not REAL_DATA, reason="LINFENGINE_DATA does not name a folder with the data sets")


@needs_data
@pytest.mark.parametrize(
    ("name", "first_labels", "mean", "std", "train_count", "test_count"),
    [
        ("mnist", [5, 0, 4, 1, 9], [0.1307], [0.3081], 5421, 892),
        ("fashion-mnist", [9, 0, 0, 3, 0], [0.2860], [0.3530], 6000, 1000),
        thorough("cifar-10", [6, 9, 9, 4, 1], [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616], 5000, 1000),
    ],
)
def test_published_facts(
    name: str, first_labels: list[int], mean: list[float], std: list[float], train_count: int, test_count: int
) -> None:
    """Shapes, first labels, images of class 5, and the mean and standard deviation of each channel."""
    dataset = real(name)
    assert dataset.train_images.shape == (DATASETS[name].sizes[0], *DATASETS[name].shape)
    assert dataset.test_images.shape == (DATASETS[name].sizes[1], *DATASETS[name].shape)
    assert dataset.train_labels[:5].tolist() == first_labels
    assert np.bincount(dataset.train_labels)[5] == train_count
    assert np.bincount(dataset.test_labels)[5] == test_count
    level = np.arange(256) / 255
    for channel in range(len(mean)):
        share = np.bincount(dataset.train_images[:, channel].ravel(), minlength=256) / dataset.train_images[:, 0].size
        first = float(share @ level)
        assert round(first, 4) == mean[channel] == dataset.mean[channel]
        assert round(float(share @ (level - first) ** 2) ** 0.5, 4) == std[channel]


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_table_has_the_sha256_of_the_published_files(name: str) -> None:
    for file, sha256 in DATASETS[name].sha256.items():
        path = Path(str(REAL_DATA)) / name / file
        if not path.is_file():
            pytest.skip(f"{file} is not there as published")
        assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize("name", DATASETS)
def test_table_is_consistent(name: str) -> None:
    source = DATASETS[name]
    assert len(source.names) == len(set(source.names)) == (0 if name == "tiny-imagenet" else source.classes)
    assert len(source.mean) == source.shape[0]
    assert all(source.sizes[0] % max(len(layout.groups) - 1, 1) == 0 for layout in source.layouts)


# Round trips and the search


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_round_trip(empty_cache: Path, tmp_path: Path, name: str, ending: str) -> None:
    write_idx(tmp_path / name, ending)
    assert_tiny(load_dataset(name, tmp_path), 1, 28)


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("encode", [binary_bytes, pickle_bytes])
def test_cifar_round_trip(empty_cache: Path, tmp_path: Path, encode: Callable[[Any, Any], bytes], ending: str) -> None:
    write_cifar(tmp_path / "cifar-10", encode, ending)
    assert_tiny(load_dataset("cifar-10", tmp_path), 3, 32)


@pytest.mark.parametrize("protocol", [3, 4])
def test_pickles_rewritten_by_python_3_are_read(empty_cache: Path, tmp_path: Path, protocol: int) -> None:
    def encode(images: Any, labels: Any) -> bytes:
        batch = {b"data": images.reshape(len(images), -1), b"labels": labels.tolist()}
        return pickle.dumps(batch, protocol=protocol)

    write_cifar(tmp_path / "cifar-10", encode, "")
    assert_tiny(load_dataset("cifar-10", tmp_path), 3, 32)


def test_hand_made_pickle_is_what_numpy_reads() -> None:
    images, labels, _, _ = tiny(3, 32)
    batch = pickle.loads(pickle_bytes(images, labels).replace(b"numpy.core", b"numpy._core"), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], images.reshape(20, -1))
    assert batch[b"labels"] == labels.tolist()


@pytest.mark.parametrize(
    "folder",
    [".", "cifar-10", "cifar-10-batches-bin", "cifar-10-batches-py", "cifar-10/cifar-10-batches-bin"],
)
def test_cifar_folders(empty_cache: Path, tmp_path: Path, folder: str) -> None:
    write_cifar(tmp_path / "root" / folder, binary_bytes, "")
    assert_tiny(load_dataset("cifar-10", tmp_path / "root"), 3, 32)


@pytest.mark.parametrize("form", ["train-images.idx3-ubyte", "train-images-idx3-ubyte/train-images-idx3-ubyte"])
def test_idx_files_as_kaggle_has_them(empty_cache: Path, tmp_path: Path, form: str) -> None:
    write_idx(tmp_path / "mnist")
    for file in IDX_FILES:
        path = tmp_path / "mnist" / file
        packed = path.rename(tmp_path / "file")
        place = path.parent / (f"{file}/{file}" if "/" in form else file.replace("-idx", ".idx"))
        place.parent.mkdir(exist_ok=True)
        packed.rename(place)
    assert (tmp_path / "mnist" / form).is_file()
    assert_tiny(load_dataset("mnist", tmp_path), 1, 28)


@pytest.mark.parametrize("folder", ["MNIST", "Mnist/RAW", "MNIST/raw", "mnist/raw"])
def test_folders_in_upper_or_lower_case(empty_cache: Path, tmp_path: Path, folder: str) -> None:
    write_idx(tmp_path / "root" / folder)
    assert_tiny(load_dataset("mnist", tmp_path / "root"), 1, 28)
    if "/" not in folder or folder.endswith("raw"):
        assert_tiny(load_dataset("mnist", tmp_path / "root" / folder.split("/")[0]), 1, 28)


def test_folder_of_torchvision_as_the_root(empty_cache: Path, tmp_path: Path) -> None:
    write_idx(tmp_path / "FashionMNIST" / "raw")
    assert_tiny(load_dataset("fashion-mnist", tmp_path / "FashionMNIST"), 1, 28)
    assert_tiny(load_dataset("fashion-mnist", tmp_path), 1, 28)


def test_root_named_after_the_data_set_may_hold_idx_files_itself(empty_cache: Path, tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist")
    assert_tiny(load_dataset("mnist", tmp_path / "mnist"), 1, 28)
    with pytest.raises(UserError, match="fashion-mnist is in no folder"):
        load_dataset("fashion-mnist", tmp_path / "mnist")


@pytest.mark.parametrize("folder", [".", "tiny-imagenet", "tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200"])
def test_tiny_imagenet_round_trip(empty_cache: Path, tmp_path: Path, folder: str) -> None:
    """Labels follow the sorted WordNet ids, images the sorted file names, whatever the order of the lists."""
    write_tiny_imagenet(tmp_path / "root" / folder)
    dataset = load_dataset("tiny-imagenet", tmp_path / "root")
    assert_tiny_imagenet(dataset)
    assert dataset.train_images.base is dataset.test_images.base, "one array holds them all"


def test_tiny_imagenet_lists_may_be_packed(empty_cache: Path, tmp_path: Path) -> None:
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    words = tmp_path / "tiny-imagenet" / "words.txt"
    (words.parent / "words.txt.gz").write_bytes(gzip.compress(words.read_bytes()))
    words.unlink()
    assert_tiny_imagenet(load_dataset("tiny-imagenet", tmp_path))


def test_hidden_files_are_no_images(empty_cache: Path, tmp_path: Path) -> None:
    """macOS leaves a file ._x.JPEG beside x.JPEG wherever it copies one to another file system."""
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    for path in list(tmp_path.rglob("*.JPEG")):
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    assert_tiny_imagenet(load_dataset("tiny-imagenet", tmp_path))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_jpegs_become_rgb(empty_cache: Path, tmp_path: Path, mode: str) -> None:
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    path = tmp_path / "tiny-imagenet" / "train" / WNIDS[1] / "images" / f"{WNIDS[1]}_1.JPEG"
    colour = (90, 90, 90) if mode == "L" else (200, 60, 120)
    write_jpeg(path, colour, mode)
    with Image.open(path) as image:
        assert image.mode == mode
    assert_colours(load_dataset("tiny-imagenet", tmp_path).train_images[4:], [COLOURS[0], colour, *COLOURS[2:4]])


def test_jpegs_keep_rows_columns_and_order(tmp_path: Path) -> None:
    """More files than a thread takes at once, each dark but for one bright corner, which its number tells."""
    paths = []
    for i, corner in enumerate([(0, 0), (0, 24), (8, 0), (8, 24)]):
        pixels = np.zeros((16, 32, 3), np.uint8)
        pixels[corner[0] :, corner[1] :][:8, :8] = 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.JPEG", "JPEG")
        paths.append(tmp_path / f"{i}.JPEG")
    images = data.read_jpegs(paths * 300, (3, 16, 32))
    assert (images.shape, images.dtype) == ((1200, 3, 16, 32), np.uint8)
    for i, (row, column) in enumerate([(3, 3), (3, 28), (11, 3), (11, 28)]):
        bright = images[:, :, row, column] > 200
        np.testing.assert_array_equal(bright.all(axis=1), np.arange(1200) % 4 == i)
        np.testing.assert_array_equal(bright.any(axis=1), np.arange(1200) % 4 == i)


def test_search_order(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """data_dir, LINFENGINE_DATA, cache: the first root that has the data set is read, whatever the others hold."""
    write_idx(empty_cache / "mnist")
    assert_tiny(load_dataset("mnist"), 1, 28)

    monkeypatch.setenv("LINFENGINE_DATA", str(tmp_path / "env"))
    write_idx(tmp_path / "env" / "MNIST" / "raw", ".gz")
    (empty_cache / "mnist" / IDX_FILES[0]).write_bytes(b"")
    assert_tiny(load_dataset("mnist"), 1, 28)

    write_idx(tmp_path / "given" / "mnist")
    (tmp_path / "env" / "MNIST" / "raw" / f"{IDX_FILES[0]}.gz").write_bytes(b"")
    assert_tiny(load_dataset("mnist", str(tmp_path / "given")), 1, 28)


# Faults: one sentence with the file, what was expected, what came, and where to get it


def fault(name: str, root: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_dataset(name, root)
    message = str(caught.value)
    assert "\n" not in message
    assert DATASETS[name].url in message
    assert "LINFENGINE_DATA" in message
    assert "--data-dir" in message
    return message


IMAGES, LABELS = tiny(1, 28)[:2]
CIFAR_IMAGES, CIFAR_LABELS = (part[:4] for part in tiny(3, 32)[:2])


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        (0, idx_bytes(IMAGES[:, 0])[:-1], "expected 15,696 bytes for shape (20, 28, 28), found 15,695"),
        (0, idx_bytes(IMAGES[:, 0]) + b"\0", "expected 15,696 bytes for shape (20, 28, 28), found more"),
        (0, idx_bytes(IMAGES[:19, 0]), "expected an array of shape (20, 28, 28), found (19, 28, 28)"),
        (0, idx_bytes(IMAGES[:, 0, 1:]), "expected an array of shape (20, 28, 28), found (20, 27, 28)"),
        (0, idx_bytes(LABELS), "expected idx magic 2051, found 2049"),
        (0, b"\0\0\x08", "expected an idx header of 16 bytes, found 3 bytes"),
        (0, struct.pack(">4I", 2051, *[2**32 - 1] * 3), f"found {(2**32 - 1,) * 3}"),
        (1, idx_bytes(IMAGES[:, 0]), "expected idx magic 2049, found 2051"),
        (1, idx_bytes(LABELS[:-1]), "expected an array of shape (20,), found (19,)"),
        (1, idx_bytes(np.r_[LABELS[:-1], 10]), "expected labels 0..9, found also [10]"),
        (1, b"", "expected an idx header of 8 bytes, found 0 bytes"),
    ],
)
def test_idx_faults(empty_cache: Path, tmp_path: Path, file: int, content: bytes, expected: str) -> None:
    write_idx(tmp_path / "mnist")
    path = tmp_path / "mnist" / IDX_FILES[file]
    path.write_bytes(content)
    message = fault("mnist", tmp_path)
    assert str(path) in message
    assert expected in message


@pytest.mark.parametrize("ending", [".gz", ".xz"])
@pytest.mark.parametrize("harm", ["truncated", "flipped", "not packed"])
def test_packed_file_faults(empty_cache: Path, tmp_path: Path, ending: str, harm: str) -> None:
    write_idx(tmp_path / "mnist", ending)
    path = tmp_path / "mnist" / (IDX_FILES[0] + ending)
    blob = bytearray(path.read_bytes())
    if harm == "truncated":
        del blob[-5:]
    elif harm == "flipped":
        blob[len(blob) // 2] ^= 1
    else:
        blob = bytearray(idx_bytes(IMAGES[:, 0]))
    path.write_bytes(blob)
    message = fault("mnist", tmp_path)
    assert f"{path}: expected a whole, readable file, found a fault" in message


@pytest.fixture
def peak_memory() -> Iterator[Callable[[], int]]:
    """Tells the most bytes that Python has held at a time since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def squeezed(blob: bytes, ending: str) -> bytes:
    """Packed such that unpacking needs little memory."""
    return lzma.compress(blob, preset=0) if ending == ".xz" else PACK[ending](blob)


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("reader", ["images", "labels", "binary", "pickle", "text"])
def test_no_more_is_unpacked_than_expected(
    tmp_path: Path, reader: str, ending: str, peak_memory: Callable[[], int]
) -> None:
    """The right content and 8 MB of zeros after it."""
    read, blob = {
        "images": (lambda path: data.read_idx(path, (20, 28, 28)), idx_bytes(IMAGES[:, 0])),
        "labels": (lambda path: data.read_idx(path, (20,)), idx_bytes(LABELS)),
        "binary": (lambda path: data.read_cifar_binary(path, (4, 3, 32, 32)), binary_bytes(CIFAR_IMAGES, CIFAR_LABELS)),
        "pickle": (lambda path: data.read_cifar_pickle(path, (4, 3, 32, 32)), pickle_bytes(CIFAR_IMAGES, CIFAR_LABELS)),
        "text": (lambda path: files.read_text(path, 4), b"text"),
    }[reader]
    path, bomb = tmp_path / f"file{ending}", tmp_path / f"bomb{ending}"
    path.write_bytes(squeezed(blob, ending))
    bomb.write_bytes(squeezed(blob + bytes(2**23), ending))
    read(path)
    tracemalloc.reset_peak()
    with pytest.raises(UserError, match="found more$"):
        read(bomb)
    assert peak_memory() < 2**20


@pytest.mark.parametrize(
    ("ending", "blob", "reason"),
    [
        (
            ".xz",
            lzma.compress(b"\0", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 2**28}]),
            "Memory usage limit exceeded",
        ),
        (".xz", lzma.compress(b"\0") * 2, "data after the end of the packed bytes"),
        (".gz", gzip.compress(b"\0", mtime=0) * 2, "data after the end of the packed bytes"),
        (".gz", b"\x1f\x8b\x08\x08" + b"\1" * 10_000, "no end in 4,097 packed bytes"),  # the name in it never ends
    ],
)
def test_packed_files_are_one_stream_in_bounded_memory(tmp_path: Path, ending: str, blob: bytes, reason: str) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(blob)
    with pytest.raises(UserError, match=f"expected a whole, readable file, found a fault .{reason}"):
        files.read_bytes(path, most=1)


@pytest.mark.parametrize("ending", PACK)
@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000])
def test_one_byte_more_than_expected_is_read(tmp_path: Path, size: int, ending: str) -> None:
    path = tmp_path / f"file{ending}"
    path.write_bytes(PACK[ending](bytes(size)))
    assert files.read_bytes(path, most=1000) == bytes(min(size, 1001))


@pytest.mark.parametrize("name", ["mnist", "cifar-10"])
def test_missing_file_is_named(empty_cache: Path, tmp_path: Path, name: str) -> None:
    write_idx(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar-10", binary_bytes, ".xz")
    path = tmp_path / name / {"mnist": IDX_FILES[3], "cifar-10": "test_batch.bin.xz"}[name]
    path.unlink()
    assert f"{str(path).removesuffix('.xz')}: expected this file" in fault(name, tmp_path)


VAL_LIST, VAL_FILE = "val/val_annotations.txt", "val/images/val_3.JPEG"
FOLDER, OTHER_FOLDER = (f"train/{wnid}/images" for wnid in WNIDS)
NO_LIST = "expected this file, plain, .gz or .xz, beside the others, found none"
NO_NAME = "expected a printable name for each WordNet id of wnids.txt, found none for "
NO_JPEG = "expected a whole JPEG, found a fault "
PLAIN_NAMES = "expected plain file names that end in .JPEG, found also "


def rewritten(old: str, new: str) -> Callable[[Path], Any]:
    def harm(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return harm


def sized(width: int, height: int) -> Callable[[Path], Any]:
    return lambda path: write_jpeg(path, 0, side=(width, height))


def replaced_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def claimed(side: int) -> Callable[[Path], Any]:
    """The header of the JPEG tells another size than its data have."""

    def harm(path: Path) -> None:
        blob = path.read_bytes()
        assert blob.count(b"\0\x40\0\x40\3") == 1
        path.write_bytes(blob.replace(b"\0\x40\0\x40\3", struct.pack(">2HB", side, side, 3)))

    return harm


@pytest.mark.parametrize(
    ("file", "harm", "expected"),
    [
        ("wnids.txt", Path.unlink, NO_LIST),
        ("words.txt", Path.unlink, NO_LIST),
        (VAL_LIST, Path.unlink, NO_LIST),
        ("wnids.txt", rewritten(WNIDS[0], ""), "expected 2 different WordNet ids, found 1"),
        ("wnids.txt", rewritten(WNIDS[0], WNIDS[1]), "expected 2 different WordNet ids, found 1"),
        ("wnids.txt", rewritten(WNIDS[0], f"{WNIDS[0]} n00001740"), "expected 2 different WordNet ids, found 3"),
        ("words.txt", rewritten("n0144", "n0145"), NO_NAME + "['n01443537']"),
        ("words.txt", rewritten("\tbell pepper", ""), NO_NAME + "['n07720875']"),
        ("words.txt", lambda path: path.write_bytes(b"\xff\xfe\0\n"), NO_NAME + "['n01443537', 'n07720875']"),
        (FOLDER, lambda path: next(path.iterdir()).unlink(), "expected 4 JPEG files, found 3"),
        (OTHER_FOLDER, lambda path: write_jpeg(path / "5.JPEG", 0), "expected 4 JPEG files, found 5"),
        (OTHER_FOLDER, lambda path: path.rename(path.parent / "no"), "expected 4 JPEG files, found 0"),
        (VAL_LIST, rewritten(annotation("val_3.JPEG", 1), ""), "expected 6 different files, found 5"),
        (VAL_LIST, rewritten("val_3", "val_4"), "expected 6 different files, found 5"),
        ("wnids.txt", rewritten(WNIDS[0], "../../x"), "expected WordNet ids such as n01443537, found also ['../../x']"),
        ("wnids.txt", rewritten(WNIDS[0], "/etc"), "expected WordNet ids such as n01443537, found also ['/etc']"),
        ("wnids.txt", rewritten(WNIDS[0], "n١"), "expected WordNet ids such as n01443537, found also ['n١']"),
        ("wnids.txt", lambda path: path.write_bytes(b" " * 513), "expected at most 512 bytes, found more"),
        ("words.txt", rewritten("bell", "\x1b[31m"), NO_NAME + "['n07720875']"),
        (
            "words.txt",
            lambda path: path.write_bytes(b" " * (2**22 + 1)),
            "expected at most 4,194,304 bytes, found more",
        ),
        (VAL_LIST, lambda path: path.write_bytes(b"\n" * 2000), "expected at most 1,536 bytes, found more"),
        *(
            (VAL_LIST, rewritten("val_3.JPEG", file), f"{PLAIN_NAMES}{file!r}")
            for file in (
                "../../x.JPEG",
                "/x.JPEG",
                "..\\x.JPEG",
                "\0.JPEG",
                ".JPEG",
                "._x.JPEG",
                "x.jpeg",
                "x.JPEG/",
                "",
            )
        ),
        (VAL_LIST, rewritten(WNIDS[1], "n9"), "expected WordNet ids of wnids.txt, found also 'n9'"),
        (
            VAL_LIST,
            rewritten(f"3.JPEG\t{WNIDS[1]}", "3"),
            "expected lines of six fields between tabs, found 'val_3\\t0",
        ),
        (VAL_FILE, Path.unlink, NO_JPEG + "([Errno 2] No such file"),
        (VAL_FILE, lambda path: path.write_bytes(path.read_bytes() + bytes(2**18)), NO_JPEG + "(no regular file of at"),
        (
            VAL_FILE,
            replaced_by_a_pipe,
            NO_JPEG + "(no regular file of at most 163,840 bytes)",
        ),
        (VAL_FILE, claimed(65_500), NO_JPEG + "(Image size (4290250000 pixels) exceeds limit"),
        (VAL_FILE, claimed(8_000), "expected 64 x 64 pixels, found 8000 x 8000"),
        (VAL_FILE, sized(64, 63), "expected 64 x 64 pixels, found 64 x 63"),
        (f"{FOLDER}/{WNIDS[0]}_10.JPEG", sized(32, 64), "expected 64 x 64 pixels, found 32 x 64"),
        (VAL_FILE, lambda path: path.write_bytes(path.read_bytes()[:-20]), NO_JPEG + "(image file is truncated"),
        (VAL_FILE, lambda path: path.write_bytes(b""), NO_JPEG + "(cannot identify image file"),
        (VAL_FILE, lambda path: Image.new("RGB", (64, 64)).save(path, "PNG"), NO_JPEG + "(cannot identify image file"),
    ],
)
def test_tiny_imagenet_faults(
    empty_cache: Path, tmp_path: Path, file: str, harm: Callable[[Path], Any], expected: str
) -> None:
    write_tiny_imagenet(tmp_path / "tiny-imagenet-200")
    path = tmp_path / "tiny-imagenet-200" / file
    harm(path)
    assert f"{path}: {expected}" in fault("tiny-imagenet", tmp_path)


def test_the_first_of_many_faulty_jpegs_is_named(tmp_path: Path) -> None:
    """The first by place, whichever thread is the first to meet one."""
    write_jpeg(tmp_path / "good", 0)
    paths = [tmp_path / "good"] * 400 + [tmp_path / f"missing_{i}" for i in range(2000)]
    with pytest.raises(UserError, match="missing_0: expected a whole JPEG"):
        data.read_jpegs(paths, (3, 64, 64))


def test_missing_folder_and_unknown_name(empty_cache: Path, tmp_path: Path) -> None:
    assert "expected a folder of data sets, found none" in fault("mnist", tmp_path / "nowhere")
    with pytest.raises(
        UserError, match="'svhn' is unknown: expected one of digits, mnist, fashion-mnist, cifar-10, tiny"
    ):
        load_dataset("svhn")
    with pytest.raises(UserError, match="data set None is unknown: expected"):
        load_dataset(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MNIST", "mnist"),
        ("FashionMNIST", "fashion-mnist"),
        ("CIFAR10", "cifar-10"),
        ("Tiny-ImageNet-200", "tiny-imagenet"),
        ("digit", "digits"),
    ],
)
def test_unknown_name_gets_a_hint(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"data set '{name}' is unknown \(did you mean '{meant}'\?\): expected one of"):
        load_dataset(name)


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def test_a_fault_is_one_exception(empty_cache: Path, tmp_path: Path) -> None:
    """Python shows no other traceback before that of the UserError."""
    write_idx(tmp_path / "mnist", ".gz")
    (tmp_path / "mnist" / f"{IDX_FILES[2]}.gz").write_bytes(b"damaged")
    write_cifar(tmp_path / "cifar-10", pickle_bytes, "")
    (tmp_path / "cifar-10" / "test_batch").write_bytes(b"damaged")
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    (tmp_path / "tiny-imagenet" / "val" / "images" / "val_0.JPEG").write_bytes(b"damaged")
    for name in ("mnist", "fashion-mnist", "cifar-10", "tiny-imagenet"):  # fashion-mnist: no network
        with pytest.raises(UserError) as caught:
            load_dataset(name, tmp_path)
        assert printed(caught.value).count("Traceback") == 1


@pytest.mark.parametrize("folder", ["a" * 300, "a\0b", "~nobody-is-called-so"])
def test_names_that_no_folder_can_have(empty_cache: Path, folder: str) -> None:
    assert folder in fault("mnist", Path(folder))


def test_names_that_are_not_utf_8(empty_cache: Path, tmp_path: Path) -> None:
    """They do as folders, and a message with one can be printed once its surrogates are replaced."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\x1b"))
    write_idx(root / "mnist")
    assert_tiny(load_dataset("mnist", root), 1, 28)
    (root / "mnist" / IDX_FILES[0]).write_bytes(b"")
    message = fault("mnist", root)
    assert str(root) in message
    assert message.encode(errors="replace")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            binary_bytes(CIFAR_IMAGES, CIFAR_LABELS)[:-1],
            "expected 12,292 bytes for 4 records of 3,073, found 12,291 bytes",
        ),
        (binary_bytes(CIFAR_IMAGES[:3], CIFAR_LABELS[:3]), "found 9,219 bytes"),
        (binary_bytes(CIFAR_IMAGES, CIFAR_LABELS) + b"\0", "found more"),
        (binary_bytes(CIFAR_IMAGES, np.r_[CIFAR_LABELS[:3], 10]), "expected labels 0..9, found also [10]"),
        (b"", "found 0 bytes"),
    ],
)
def test_cifar_binary_faults(empty_cache: Path, tmp_path: Path, content: bytes, expected: str) -> None:
    write_cifar(tmp_path / "cifar-10", binary_bytes, "")
    path = tmp_path / "cifar-10" / "data_batch_3.bin"
    path.write_bytes(content)
    message = fault("cifar-10", tmp_path)
    assert str(path) in message
    assert expected in message


class Evil:
    """A pickle of this creates the file ``crime`` when an ordinary unpickler loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("crime"),)


def dumped(batch: Any, protocol: int = 4) -> bytes:
    return pickle.dumps(batch, protocol=protocol)


FLAT = CIFAR_IMAGES.reshape(4, -1)
GOOD_LABELS = CIFAR_LABELS.tolist()
NO_BATCH = "expected an official CIFAR-10 pickle (a dict with data, a C-ordered uint8 array of rows of 3,072 bytes"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (dumped(Evil()), "is refused"),
        (dumped({b"data": FLAT, b"labels": GOOD_LABELS, b"x": Evil()}), "is refused"),
        (b"cos\nsystem\n(S'touch crime'\ntR.", "a reference to 'os.system' is refused"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "a reference to 'builtins.eval' is refused"),
        (b"cnumpy\nload\n(S'x'\ntR.", "a reference to 'numpy.load' is refused"),
        (b"\x80\x04\x8c\x05numpy\x8c\x09ma.extras\x93.", "a reference to 'numpy.ma.extras' is refused"),
        (dumped({b"data": FLAT}), NO_BATCH),
        (dumped([FLAT, GOOD_LABELS]), NO_BATCH),
        (dumped({b"data": FLAT.astype(np.int8), b"labels": GOOD_LABELS}), NO_BATCH),
        (dumped({b"data": np.full(4, None), b"labels": GOOD_LABELS}), NO_BATCH),
        (dumped({b"data": np.asfortranarray(FLAT), b"labels": GOOD_LABELS}), NO_BATCH),
        (dumped({b"data": FLAT.T.copy(), b"labels": GOOD_LABELS}), NO_BATCH),
        (dumped({b"data": FLAT, b"labels": ["0"] * 4}), NO_BATCH),
        (dumped({b"data": FLAT, b"labels": [True] * 4}), NO_BATCH),
        (dumped({b"data": FLAT, b"labels": [[0], [1, 2]]}), NO_BATCH),
        (dumped({b"data": FLAT, b"labels": [2**70] * 4}), r"(opcode b'\x8a' is refused)"),
        (dumped({b"data": FLAT, b"labels": GOOD_LABELS[:3]}), "expected 4 images and labels, found 4 and 3"),
        (dumped({b"data": FLAT[:3], b"labels": GOOD_LABELS[:3]}), "expected 4 images and labels, found 3 and 3"),
        (dumped({b"data": FLAT, b"labels": [10] * 4}), "expected labels 0..9, found also [10]"),
        (pickle_bytes(CIFAR_IMAGES, CIFAR_LABELS)[:-100], "(12,288 bytes are announced where "),
        (pickle_bytes(CIFAR_IMAGES, CIFAR_LABELS) + bytes(2**17), "expected at most 78,848 bytes, found more"),
        (b"", "(1 bytes are announced where 0 are left)"),
        # what would crash Python, fill the memory or never end, if it were run
        (b"})" + b"\x85" * 70_000 + b"I1\ns.", "(there are more than 1,032 opcodes)"),
        (b"})" + b"\x85" * 1000 + b"K\x01s.", "(a key is no string)"),
        (b")" + b"\x85" * 1000 + b"U\x00\x93.", "(a reference to what is no name is refused)"),
        (b"Nr\xff\xff\xff\x0f.", NO_BATCH),
        (b"]" + b"q\x00]h\x00ah\x00aq\x00" * 60 + b".", "(an object that is no string is used twice)"),
        (b"]\x94](h\x00h\x00e.", "(an object that is no string is used twice)"),
        (b"T\xff\xff\xff\x7f.", "(2,147,483,647 bytes are announced where 1 are left)"),
        (b"T\xff\xff\xff\xff.", "(4,294,967,295 bytes are announced where 1 are left)"),
        (b"X\xff\xff\xff\xff.", "(4,294,967,295 bytes are announced where 1 are left)"),
        (b"B\xff\xff\xff\xff.", "(4,294,967,295 bytes are announced where 1 are left)"),
        (b"\x8b\xff\xff\xff\x7f.", r"(opcode b'\x8b' is refused)"),
        (b"\x8e" + b"\xff" * 8 + b".", r"(opcode b'\x8e' is refused)"),
        (b"\x95" + b"\xff" * 8 + b".", "(its stack is empty)"),
        (b"I" + b"9" * 5000 + b"\n.", "(opcode b'I' is refused)"),
        (b"N" * 5000, "(there are more than 1,032 opcodes)"),
        (b"(" * 1000 + b".", "(its stack is empty)"),
        (b"c\x1b[31m\nx\n.", r"(a reference to '\x1b[31m.x' is refused)"),
        (b"]]b.", "(an object is changed that cannot be)"),
        (b"N)R.", "(a call of something else than NumPy is refused)"),
    ],
)
def test_pickle_faults(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_cifar(tmp_path / "cifar-10", pickle_bytes, "")
    path = tmp_path / "cifar-10" / "data_batch_2"
    path.write_bytes(content)
    message = fault("cifar-10", tmp_path)
    assert str(path) in message
    assert expected in message
    assert not (tmp_path / "crime").exists()


@pytest.mark.parametrize("reader", ["idx", "binary", "pickle", "jpeg"])
@draws(60)
@given(st.data())
def test_damage_gives_an_array_or_a_user_error(tmp_path: Path, reader: str, draw: st.DataObject) -> None:
    """No change of some bytes near the start, nor of the length, ends in any other exception."""
    images, labels = CIFAR_IMAGES[:1], CIFAR_LABELS[:1]
    read, blob = {
        "idx": (lambda path: data.read_idx(path, (1,)), bytearray(idx_bytes(labels))),
        "binary": (lambda path: data.read_cifar_binary(path, (1, 3, 32, 32)), bytearray(binary_bytes(images, labels))),
        "pickle": (lambda path: data.read_cifar_pickle(path, (1, 3, 32, 32)), bytearray(pickle_bytes(images, labels))),
        "jpeg": (lambda path: data.read_jpegs([path], (3, 8, 8)), bytearray(jpeg_bytes(images[0, :, :8, :8]))),
    }[reader]
    for _ in range(draw.draw(st.integers(0, 3))):
        blob[draw.draw(st.integers(0, min(len(blob), 400) - 1))] = draw.draw(st.integers(0, 255))
    del blob[draw.draw(st.integers(0, len(blob))) :]
    path = tmp_path / "file"
    path.write_bytes(blob)
    with suppress(UserError):
        read(path)


# Download


def test_download_fills_the_cache_once(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pooch is asked for each published file by address and SHA-256; what is in the cache is not asked for again."""
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path, processor: Any = None) -> None:
        asked.append((url, known_hash))
        path.mkdir(parents=True, exist_ok=True)
        (path / fname).write_bytes((tmp_path / "web" / fname).read_bytes())

    write_idx(tmp_path / "web", ".gz")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    with pytest.raises(UserError, match="mnist was not found in"):
        load_dataset("mnist", download=False)
    assert_tiny(load_dataset("mnist"), 1, 28)
    source = DATASETS["mnist"]
    assert asked == [(source.url + file, f"sha256:{digest}") for file, digest in source.sha256.items()]
    assert_tiny(load_dataset("mnist", download=False), 1, 28)
    assert_tiny(load_dataset("mnist"), 1, 28)
    assert len(asked) == 4
    (empty_cache / "mnist" / f"{IDX_FILES[2]}.gz").unlink()  # as if the download had been cut short
    assert_tiny(load_dataset("mnist"), 1, 28)


def test_downloaded_archive_is_unpacked(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(url: str, known_hash: str, fname: str, path: Path, processor: Any = None) -> None:
        path.mkdir(parents=True)
        with tarfile.open(path / fname, "w:gz") as archive:
            archive.add(tmp_path / "web", "cifar-10-batches-bin")
        processor(str(path / fname), "download", None)

    write_cifar(tmp_path / "web", binary_bytes, "")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert_tiny(load_dataset("cifar-10"), 3, 32)


def test_downloaded_zip_is_unpacked(empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def retrieve(url: str, known_hash: str, fname: str, path: Path, processor: Any = None) -> None:
        assert url == "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
        path.mkdir(parents=True)
        with zipfile.ZipFile(path / fname, "w") as archive:
            for file in sorted((tmp_path / "web").rglob("*")):
                archive.write(file, file.relative_to(tmp_path / "web"))
        processor(str(path / fname), "download", None)

    write_tiny_imagenet(tmp_path / "web" / "tiny-imagenet-200")
    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert_tiny_imagenet(load_dataset("tiny-imagenet"))
    assert_tiny_imagenet(load_dataset("tiny-imagenet", download=False))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("Max retries\nexceeded"), "ConnectionError"),
        (ValueError("SHA256 hash of\ndownloaded file"), "wrong SHA-256"),
        (tarfile.ReadError("bad"), "ReadError"),
        (zipfile.BadZipFile("bad"), "BadZipFile"),
    ],
)
def test_failed_download(empty_cache: Path, tmp_path: Path, monkeypatch: Any, error: Exception, reason: str) -> None:
    def retrieve(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    message = fault("cifar-10", tmp_path)
    assert f"cifar-10-binary.tar.gz could not be downloaded ({reason})" in message


# Pixels, splits, augmentation, minibatches


def test_to_pixels_is_correctly_rounded() -> None:
    levels = np.arange(256, dtype=np.uint8)
    pixels = to_pixels(levels)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, (np.arange(256) / np.longdouble(255)).astype(np.float32))
    with pytest.raises(TypeError, match="must be uint8"):
        to_pixels(pixels)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="images must be uint8 with values 0..255, got list"):
        to_pixels([0, 1])  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=200), st.data(), st.integers(0, 2**32))
def test_holdout_is_a_stratified_partition(labels: list[int], draw: st.DataObject, seed: int) -> None:
    n = len(labels)
    size = draw.draw(st.integers(1, n - 1))
    train, held_out = split_holdout(labels, size, seed=seed)
    assert sorted([*train, *held_out]) == list(range(n))
    assert len(held_out) == size
    assert (np.diff(train) > 0).all()
    assert (np.diff(held_out) > 0).all()
    classes = np.array(labels)
    for label in set(labels):
        share = (classes == label).sum() * size / n
        assert np.floor(share) <= (classes[held_out] == label).sum() <= np.ceil(share)


def test_holdout_is_fixed() -> None:
    labels = np.arange(40) % 4
    _, held_out = split_holdout(labels, 0.2)
    assert held_out.tolist() == [2, 3, 11, 13, 18, 20, 21, 32]
    np.random.default_rng(5).random(3)
    np.testing.assert_array_equal(split_holdout(labels, 8)[1], held_out)
    assert split_holdout(labels, 8, seed=1)[1].tolist() != held_out.tolist()


INFINITE = float("inf")


@pytest.mark.parametrize(
    "size", [0, 40, -1, 0.0, 1.0, 0.001, -0.5, 5.0, INFINITE, -INFINITE, float("nan"), np.float32(2)]
)
def test_holdout_needs_two_parts(size: float) -> None:
    kind = "number" if isinstance(size, int) else "fraction"
    with pytest.raises(ValueError, match=f"size must hold out between 1 and 39 of 40 samples, got the {kind} {size}"):
        split_holdout(np.arange(40) % 4, size)


@pytest.mark.parametrize("size", [True, "8", None, [8], np.bool_(True), 8j])
def test_holdout_needs_a_number(size: Any) -> None:
    with pytest.raises(ValueError, match="size must be a whole number or a fraction, got "):
        split_holdout(np.arange(40) % 4, size)


def test_holdout_of_any_number_type() -> None:
    labels = (np.arange(40) % 4).astype(np.uint8)
    expected = split_holdout(np.arange(40) % 4, 8)
    for size in (8, np.int64(8), np.uint8(8), 0.2, np.float32(0.2), np.float64(0.2)):
        for found, indices in zip(split_holdout(labels, size), expected, strict=True):  # type: ignore[arg-type]
            np.testing.assert_array_equal(found, indices)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([], ValueError, "labels must have at least 2 samples to be split, got 0"),
        ([3], ValueError, "labels must have at least 2 samples to be split, got 1"),
        ([[0, 1]], ValueError, r"labels must have shape \(n,\), got \(1, 2\)"),
        ([0.0, 1.0], TypeError, "labels must be integers, got float64"),
        (["a", "b"], TypeError, "labels must be integers, got <U1"),
    ],
)
def test_holdout_needs_labels(labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        split_holdout(labels, 1)


def image_batch(n: int, channels: int, height: int, width: int, dtype: str) -> Any:
    return np.arange(n * channels * height * width).reshape(n, channels, height, width).astype(dtype) + 1


sides = st.integers(1, 6)
dtypes = st.sampled_from(["uint8", "float32"])
seeds = st.integers(0, 2**32)


@given(st.integers(0, 5), st.integers(1, 3), sides, sides, st.integers(0, 4), seeds, dtypes, st.booleans(), st.data())
def test_crops_are_windows_of_the_padded_image(
    n: int, channels: int, height: int, width: int, padding: int, seed: int, dtype: str, edge: bool, draw: st.DataObject
) -> None:
    images = image_batch(n, channels, height, width, dtype)
    kept = images.copy()
    mode: Any = "edge" if edge else "constant"
    size = draw.draw(st.none() | st.integers(1, min(height, width) + 2 * padding))
    window = (height, width) if size is None else (size, size)
    crops = random_crop(images, padding, np.random.default_rng(seed), mode, size=size)
    assert (crops.shape, crops.dtype) == ((n, channels, *window), images.dtype)
    np.testing.assert_array_equal(images, kept)
    for image, crop in zip(images, crops, strict=True):
        padded = np.stack([np.pad(channel, padding, mode=mode) for channel in image])
        windows = sliding_window_view(padded, window, axis=(1, 2))
        assert (windows == crop[:, None, None]).all(axis=(0, 3, 4)).any()
    again = random_crop(images, padding, np.random.default_rng(seed), mode, size=size)
    np.testing.assert_array_equal(crops, again)


@given(st.integers(0, 9), sides, sides, st.integers(0, 4), seeds)
def test_crops_without_a_size_are_drawn_as_ever(n: int, height: int, width: int, padding: int, seed: int) -> None:
    """Rows, then columns, all in one draw: a run that is repeated sees the same crops, and the same chance after it."""
    images = image_batch(n, 1, height, width, "float32")
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed)
    rows, columns = other.integers(2 * padding + 1, size=(2, n))
    padded = np.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = [padded[i, :, r : r + height, c : c + width] for i, (r, c) in enumerate(zip(rows, columns, strict=True))]
    np.testing.assert_array_equal(random_crop(images, padding, rng), np.reshape(windows, images.shape))
    assert rng.bit_generator.state == other.bit_generator.state


@pytest.mark.parametrize("size", [-1, 0, 7, 2.0, True])
def test_crops_need_a_window(size: int) -> None:
    with pytest.raises(ValueError, match=f"size must be a whole number from 1 to 6, got {size}"):
        random_crop(image_batch(2, 1, 4, 5, "uint8"), 1, np.random.default_rng(0), size=size)


@pytest.mark.parametrize("padding", [-1, 1.0, True, "1"])
def test_crops_need_a_padding(padding: Any) -> None:
    with pytest.raises(ValueError, match=f"padding must be a whole number of at least 0, got {padding!r}"):
        random_crop(image_batch(2, 1, 4, 5, "uint8"), padding, np.random.default_rng(0))


def test_crops_need_images_and_a_mode() -> None:
    images, rng = image_batch(2, 1, 4, 5, "uint8"), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"images must have shape \(n, channels, height, width\), got \(1, 4, 5\)"):
        random_crop(images[0], 1, rng)
    with pytest.raises(ValueError, match="mode must be 'constant' or 'edge', got 'reflect'"):
        random_crop(images, 1, rng, mode="reflect")  # type: ignore[arg-type]


@given(st.integers(0, 5), st.integers(1, 3), sides, sides, seeds, dtypes)
def test_flips_are_images_or_their_mirrors(
    n: int, channels: int, height: int, width: int, seed: int, dtype: str
) -> None:
    images = image_batch(n, channels, height, width, dtype)
    kept = images.copy()
    flips = random_flip(images, np.random.default_rng(seed))
    assert flips.dtype == images.dtype
    np.testing.assert_array_equal(images, kept)
    for image, flip in zip(images, flips, strict=True):
        assert (flip == image).all() or (flip == image[..., ::-1]).all()
    np.testing.assert_array_equal(flips, random_flip(images, np.random.default_rng(seed)))


def test_all_windows_and_both_sides_occur_equally_often() -> None:
    """Over 9,000 samples counts are within five standard deviations: 150 for 9 windows, 157 for 8, 240 for 2 sides."""
    images = np.zeros((9000, 1, 3, 3), np.uint8)
    images[:, 0, 1, 1] = 1
    crops = random_crop(images, 1, np.random.default_rng(0))
    assert np.abs(crops.sum(axis=0) - 1000.0).max() < 150
    places = image_batch(1, 1, 3, 5, "uint8").repeat(9000, axis=0)  # 2 x 4 windows of 2 x 2, known by their first entry
    first = np.bincount(random_crop(places, 0, np.random.default_rng(0), size=2)[:, 0, 0, 0], minlength=10)
    assert np.flatnonzero(first).tolist() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert np.abs(first[first > 0] - 1125.0).max() < 157
    images[:, 0, 1] = [1, 0, 0]
    flips = random_flip(images, np.random.default_rng(0))
    assert abs(flips[:, 0, 1, 2].sum() - 4500.0) < 240


@given(st.integers(0, 30), st.integers(1, 12), seeds, st.booleans())
def test_batches_are_one_epoch(n: int, batch_size: int, seed: int, drop_last: bool) -> None:
    images = np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1)
    labels = np.arange(n) * 2
    seen = list(data.batches(images, labels, batch_size, np.random.default_rng(seed), drop_last=drop_last))
    full, rest = divmod(n, batch_size)
    assert [len(y) for _, y in seen] == [batch_size] * full + [rest] * (rest > 0 and not drop_last)
    for x, y in seen:
        np.testing.assert_array_equal(x, to_pixels(images[y // 2]))
        assert x.dtype == np.float32
    order = [int(label) for _, y in seen for label in y]
    assert len(set(order)) == len(order)
    again = data.batches(images, labels, batch_size, np.random.default_rng(seed), drop_last=drop_last)
    assert [int(label) for _, y in again for label in y] == order


def test_batches_augment_and_keep_points() -> None:
    images, labels = np.full((6, 1, 2, 2), 51, np.uint8), np.arange(6)
    bright = list(data.batches(images, labels, 4, np.random.default_rng(0), lambda x, rng: x * np.uint8(5)))
    assert all((x == 1).all() for x, _ in bright)
    points, labels = data.toy_moons(10, np.random.default_rng(0))
    for x, y in data.batches(points, labels, 4, np.random.default_rng(0)):
        assert x.dtype == np.float32
        chosen = [int(np.flatnonzero((points == point).all(axis=1))[0]) for point in x]
        np.testing.assert_array_equal(labels[chosen], y)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2", None])
def test_batches_refuse_a_batch_size_at_the_call(size: Any) -> None:
    images, labels = np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of at least 1, got {size!r}"):
        data.batches(images, labels, size, np.random.default_rng(0))


def test_batches_refuse_labels_that_are_none() -> None:
    images, rng = np.zeros((3, 1, 2, 2), np.uint8), np.random.default_rng(0)
    for labels, error, message in [
        (np.zeros(2, int), ValueError, "images and labels must have one length, got 3 and 2"),
        (np.zeros((3, 1), int), ValueError, r"labels must have shape \(n,\), got \(3, 1\)"),
        (np.zeros(3), TypeError, "labels must be integers, got float64"),
        (np.zeros(3, bool), TypeError, "labels must be integers, got bool"),
        (["a", "b", "c"], TypeError, "labels must be integers, got <U1"),
    ]:
        with pytest.raises(error, match=message):
            data.batches(images, labels, 1, rng)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32"])
def test_batches_widen_labels(dtype: str) -> None:
    """So that no sum or difference of labels wraps."""
    labels = np.array([3, 127, 0]).astype(dtype)
    ((_, found),) = data.batches(np.zeros((3, 1), np.uint8), labels, 3, np.random.default_rng(0))
    assert found.dtype == np.int64
    assert sorted(found.tolist()) == [0, 3, 127]


# Toy problems


@pytest.mark.parametrize("toy", [data.toy_moons, data.toy_checkerboard])
def test_toys_are_seeded_points_of_the_unit_square(toy: Callable[..., tuple[Any, Any]]) -> None:
    points, labels = toy(500, np.random.default_rng(3))
    assert (points.shape, points.dtype, labels.shape, labels.dtype) == ((500, 2), np.float32, (500,), np.int64)
    assert 0 <= points.min() <= points.max() <= 1
    assert 150 < labels.sum() < 350
    again = toy(500, np.random.default_rng(3))
    np.testing.assert_array_equal(points, again[0])
    np.testing.assert_array_equal(labels, again[1])


def l_inf_gap(points: Any, labels: Any) -> float:
    """The ℓ∞ distance between the two classes."""
    zeros, ones = points[labels == 0], points[labels == 1]
    return float(np.abs(zeros[:, None] - ones).max(axis=2).min())


def test_toy_classes_are_apart() -> None:
    assert l_inf_gap(*data.toy_checkerboard(2000, np.random.default_rng(0))) >= 0.05 - 1e-6
    assert l_inf_gap(*data.toy_checkerboard(2000, np.random.default_rng(0), cells=2, gap=0.2)) >= 0.2 - 1e-6
    assert l_inf_gap(*data.toy_moons(2000, np.random.default_rng(0), noise=0)) > 0.1


@pytest.mark.parametrize("noise", [-0.1, INFINITE, float("nan")])
def test_moons_need_a_noise(noise: float) -> None:
    with pytest.raises(ValueError, match=f"noise must be finite and at least 0, got {noise}"):
        data.toy_moons(5, np.random.default_rng(0), noise=noise)


@pytest.mark.parametrize(
    ("cells", "gap", "message"),
    [
        (0, 0.05, "cells must be a whole number of at least 1, got 0"),
        (2.0, 0.05, "cells must be a whole number of at least 1, got 2.0"),
        (4, 0.25, "gap must be at least 0 and less than a cell's side of 1/4, got 0.25"),
        (4, -0.1, "gap must be at least 0 and less than a cell's side of 1/4, got -0.1"),
        (4, float("nan"), "gap must be at least 0 and less than a cell's side of 1/4, got nan"),
    ],
)
def test_checkerboards_need_room_in_a_cell(cells: Any, gap: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.toy_checkerboard(5, np.random.default_rng(0), cells, gap)


def test_strict_floating_point_changes_nothing(empty_cache: Path, tmp_path: Path) -> None:
    """A caller may have NumPy raise at every underflow."""
    write_idx(tmp_path / "mnist")
    write_cifar(tmp_path / "cifar-10", pickle_bytes, ".xz")
    write_tiny_imagenet(tmp_path / "tiny-imagenet")
    with np.errstate(all="raise"):
        assert_tiny(load_dataset("mnist", tmp_path), 1, 28)
        assert_tiny(load_dataset("cifar-10", tmp_path), 3, 32)
        assert_tiny_imagenet(load_dataset("tiny-imagenet", tmp_path))
        digits, rng = load_dataset("digits"), np.random.default_rng(0)
        split_holdout(digits.train_labels, 0.1)
        augmented = random_flip(random_crop(digits.train_images, 2, rng, "edge"), rng)
        assert len(list(data.batches(augmented, digits.train_labels, 500, rng))) == 3
        ((tiny_pixels, _),) = data.batches(np.full((4, 2), 1e-300), np.arange(4), 4, rng)
        assert (tiny_pixels == 0).all()
        data.toy_moons(20, rng, noise=1e-323)
        data.toy_checkerboard(20, rng)
