"""Readers, one for each published file form. A fault in a file is a UserError "FILE: expected ..., found ..."."""

import gzip
import io
import lzma
import math
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UserError
from .arrays import Contents, Images, Labels
from .splits import split_holdout

if TYPE_CHECKING:
    from .sources import Source


def expect(ok: bool, path: Path, expected: str, found: object) -> None:
    if not ok:
        raise UserError(f"{path}: expected {expected}, found {found}")


def _read_bytes(path: Path) -> bytes:
    """The whole file, unpacked if its name ends in .gz or .xz; unpacking to the end also verifies the checksums."""
    open_file: Any = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    try:
        with open_file(path, "rb") as file:
            return bytes(file.read())
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path}: expected a whole, readable file, found a fault ({error})") from error


def _read_text(path: Path) -> str:
    return _read_bytes(path).decode(errors="replace")


def read_idx(path: Path, ndim: int) -> Images:
    """The uint8 array of an idx file: big-endian 32-bit magic ``0x800 + ndim`` and sizes, then one byte an element."""
    blob = _read_bytes(path)
    header = 4 * (1 + ndim)
    expect(len(blob) >= header, path, f"an idx header of {header} bytes", f"{len(blob)} bytes")
    magic, *shape = np.frombuffer(blob, ">u4", 1 + ndim).tolist()
    expect(magic == 0x800 + ndim, path, f"idx magic {0x800 + ndim}", magic)
    size = header + math.prod(shape)
    expect(len(blob) == size, path, f"{size:,} bytes for shape {tuple(shape)}", f"{len(blob):,}")
    return np.frombuffer(blob, np.uint8, offset=header).reshape(shape)


def read_idx_pair(images: Path, labels: Path) -> tuple[Images, Labels]:
    """Grey images (n, 1, height, width) and labels (n,) of two idx files, as MNIST and Fashion-MNIST publish them."""
    return read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64)


def read_cifar_binary(path: Path) -> tuple[Images, Labels]:
    """Images (n, 3, 32, 32) and labels (n,) of a file of 3,073-byte records: label, red, green and blue plane."""
    blob = _read_bytes(path)
    expect(len(blob) % 3073 == 0, path, "whole records of 3,073 bytes", f"{len(blob):,} bytes")
    records = np.frombuffer(blob, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


class _Inert:
    """Stands in for every NumPy name in a pickle: keeps what it is given and runs none of NumPy's own unpickling."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dict, list, tuple, int, str, bytes and, for an array, an `_Inert`; any other reference is refused."""

    def find_class(self, module: str, name: str) -> type[_Inert]:
        modules = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if module in modules and name in ("ndarray", "dtype", "_reconstruct"):
            return _Inert
        raise pickle.UnpicklingError(f"a reference to {module}.{name} is refused")


def read_cifar_pickle(path: Path) -> tuple[Images, Labels]:
    """Images (n, 3, 32, 32) and labels (n,) of a file of CIFAR-10's "Python version".

    An ordinary pickle may call any function while it is loaded; here there is none it can call.
    """
    blob = _read_bytes(path)
    try:
        batch = _ArrayUnpickler(io.BytesIO(blob), encoding="bytes").load()
        _, shape, dtype, fortran_order, raw = batch[b"data"].state
        labels = np.array(batch[b"labels"])
        if dtype.arguments[0] not in (b"u1", "u1") or fortran_order or labels.dtype.kind != "i":
            raise TypeError("data must be a C-ordered uint8 array and labels a list of int")
        if shape != (len(labels), 3072):
            raise ValueError(f"data has shape {shape} for {len(labels)} labels")
        return np.frombuffer(raw, np.uint8).reshape(-1, 3, 32, 32), labels.astype(np.int64)
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: expected an official CIFAR-10 pickle, found another ({reason})") from error


def read_digits() -> tuple[Images, Labels, Images, Labels]:
    with (resources.files("linfengine") / "_data" / "digits.csv.gz").open("rb") as packed, gzip.open(packed) as file:
        table = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    images = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = table[:, 64].astype(np.int64)
    train, test = split_holdout(labels, 360)
    return images[train], labels[train], images[test], labels[test]


def read_jpegs(paths: list[Path], shape: tuple[int, int, int]) -> Images:
    """Images (n, 3, height, width) of JPEG files, decoded by threads, each to its place; grey and CMYK become RGB.

    A JPEG carries no checksum: damage which the decoder does not notice goes unnoticed. Pixels may differ by a level or
    so between Pillows built with different JPEG libraries.
    """
    from PIL import Image  # late, for few data sets need it

    images = np.empty((len(paths), *shape), np.uint8)
    size = shape[2], shape[1]

    def decode(chunk: slice) -> None:
        for path, pixels in zip(paths[chunk], images[chunk], strict=True):
            try:
                with Image.open(path, formats=["JPEG"]) as image:
                    found = image.size
                    if found == size:  # else it may be too large to decode
                        pixels[:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            except Exception as error:  # a damaged image can raise nearly anything
                raise UserError(f"{path}: expected a whole JPEG, found a fault ({error})") from error
            expect(found == size, path, "{} x {} pixels".format(*size), "{} x {}".format(*found))

    with ThreadPoolExecutor() as pool:  # decoding runs outside the interpreter lock
        list(pool.map(decode, (slice(start, start + 500) for start in range(0, len(paths), 500))))
    return images


def read_tiny_imagenet(source: "Source", wnids: Path, words: Path, annotations: Path) -> Contents:
    """The folder `tiny-imagenet-200`, given its lists; `val` is the test set, for labels of `test` are not published.

    Classes are numbered by sorted WordNet id, as by torchvision's ImageFolder, whatever the order of wnids.txt, and
    called by their first name in words.txt. Train images are in the order of class and file name, test images, which
    mix the classes, of file name.
    """
    ids = sorted(set(_read_text(wnids).split()))
    expect(len(ids) == source.classes, wnids, f"{source.classes} different WordNet ids", len(ids))
    names = {wnid: name for wnid, _, name in (line.partition("\t") for line in _read_text(words).splitlines())}
    nameless = [wnid for wnid in ids if not names.get(wnid)]
    expect(not nameless, words, "a name for each WordNet id of wnids.txt", f"none for {nameless[:3]}")

    train: list[Path] = []
    each = source.sizes[0] // source.classes
    for wnid in ids:
        folder = wnids.parent / "train" / wnid / "images"
        paths = sorted(folder.glob("*.JPEG"))
        expect(len(paths) == each, folder, f"{each} JPEG files", len(paths))
        train += paths

    test: dict[Path, int] = {}
    for line in sorted(_read_text(annotations).splitlines()):
        file, *fields = line.split("\t")
        expect(len(fields) == 5, annotations, "lines of six fields between tabs", f"{line[:80]!r}")
        expect(fields[0] in ids, annotations, "WordNet ids of wnids.txt", f"also {fields[0]!r}")
        test[annotations.parent / "images" / file] = ids.index(fields[0])
    expect(len(test) == source.sizes[1], annotations, f"{source.sizes[1]:,} different files", f"{len(test):,}")

    images = read_jpegs([*train, *test], source.shape)
    labels = np.concatenate([np.repeat(np.arange(source.classes), each), [*test.values()]])
    n = len(train)
    return tuple(names[wnid].split(",")[0] for wnid in ids), images[:n], labels[:n], images[n:], labels[n:]
