"""Readers, one for each published file form. A fault in a file is a UserError "FILE: expected ..., found ..."."""

import gzip
import math
import re
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError
from .arrays import Contents, Images, Labels
from .files import expect, length, read_bytes, read_text
from .splits import split_holdout

if TYPE_CHECKING:
    from .sources import Source

WORDS = 1 << 22  # bytes of words.txt at most; the official file, which names all of WordNet, has 2,655,750


def read_idx(path: Path, shape: tuple[int, ...]) -> Images:
    """The uint8 array of `shape` in an idx file: big-endian 32-bit magic `0x800 + ndim` and sizes, then bytes."""
    header = 4 * (1 + len(shape))
    size = header + math.prod(shape)
    blob = read_bytes(path, size)
    expect(len(blob) >= header, path, f"an idx header of {header} bytes", f"{len(blob)} bytes")
    magic, *sizes = np.frombuffer(blob, ">u4", 1 + len(shape)).tolist()
    expect(magic == 0x800 + len(shape), path, f"idx magic {0x800 + len(shape)}", magic)
    expect(tuple(sizes) == shape, path, f"an array of shape {shape}", tuple(sizes))
    expect(len(blob) == size, path, f"{size:,} bytes for shape {shape}", length(blob, size))
    return np.frombuffer(blob, np.uint8, offset=header).reshape(shape)


def read_idx_pair(images: Path, labels: Path, shape: tuple[int, ...]) -> tuple[Images, Labels]:
    """Grey images of `shape` (n, 1, height, width) and labels (n,) of two idx files, as MNIST publishes them."""
    n, _, height, width = shape
    return read_idx(images, (n, height, width))[:, None], read_idx(labels, (n,)).astype(np.int64)


def read_cifar_binary(path: Path, shape: tuple[int, ...]) -> tuple[Images, Labels]:
    """Images of `shape` (n, 3, 32, 32) and labels (n,) of a file of n records of 3,073 bytes.

    A record is the label, then the red, the green and the blue plane.
    """
    size = 3073 * shape[0]
    blob = read_bytes(path, size)
    expect(len(blob) == size, path, f"{size:,} bytes for {shape[0]:,} records of 3,073", length(blob, size))
    records = np.frombuffer(blob, np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(shape), records[:, 0].astype(np.int64)


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
    so between Pillows built with different JPEG libraries. Raises UserError for the first file that is damaged, of
    another size in pixels, or much larger than its pixels.
    """
    from PIL import Image  # late, for few data sets need it

    most = 8 * math.prod(shape) + 65536  # bytes of a file: its pixels many times over, and what cameras add
    images = np.empty((len(paths), *shape), np.uint8)
    size = shape[2], shape[1]

    def decode(chunk: slice) -> None:
        for path, pixels in zip(paths[chunk], images[chunk], strict=True):
            try:
                facts = path.stat()
                if not S_ISREG(facts.st_mode) or facts.st_size > most:
                    raise ValueError(f"no regular file of at most {most:,} bytes")
                with Image.open(path, formats=["JPEG"]) as image:
                    found = image.size
                    if found == size:  # else it may be too large to decode
                        pixels[:] = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            except Exception as error:  # a damaged image can raise nearly anything
                raise UserError(f"{path}: expected a whole JPEG, found a fault ({error})") from None
            expect(found == size, path, "{} x {} pixels".format(*size), "{} x {}".format(*found))

    with ThreadPoolExecutor() as pool:  # decoding runs outside the interpreter lock
        list(pool.map(decode, (slice(start, start + 500) for start in range(0, len(paths), 500))))
    return images


def read_tiny_imagenet(source: "Source", wnids: Path, words: Path, annotations: Path) -> Contents:
    """The folder `tiny-imagenet-200`, given its lists. `val` is the test set, for labels of `test` are not published.

    Classes are numbered in the order of their WordNet ids, as torchvision's ImageFolder does, and have their first name
    in words.txt. Train images are in the order of class and file name, test images in the order of file name. Hidden
    files, such as the `._*.JPEG` of macOS, are ignored. Ids and file names must be plain: none can name a file
    outside the folder.
    """
    ids = sorted(set(read_text(wnids, 256 * source.classes).split()))
    expect(len(ids) == source.classes, wnids, f"{source.classes} different WordNet ids", len(ids))
    wrong = [wnid[:80] for wnid in ids if not re.fullmatch("n[0-9]+", wnid)]
    expect(not wrong, wnids, "WordNet ids such as n01443537", f"also {wrong[:3]}")
    names = {wnid: name for wnid, _, name in (line.partition("\t") for line in read_text(words, WORDS).splitlines())}
    nameless = [wnid for wnid in ids if not names.get(wnid) or not names[wnid].isprintable()]
    expect(not nameless, words, "a printable name for each WordNet id of wnids.txt", f"none for {nameless[:3]}")

    train: list[Path] = []
    each = source.sizes[0] // source.classes
    for wnid in ids:
        folder = wnids.parent / "train" / wnid / "images"
        paths = sorted(path for path in folder.glob("*.JPEG") if not path.name.startswith("."))
        expect(len(paths) == each, folder, f"{each} JPEG files", len(paths))
        train += paths

    test: dict[Path, int] = {}
    for line in sorted(read_text(annotations, 256 * source.sizes[1]).splitlines()):
        file, *fields = line.split("\t")
        expect(len(fields) == 5, annotations, "lines of six fields between tabs", f"{line[:80]!r}")
        expect(fields[0] in ids, annotations, "WordNet ids of wnids.txt", f"also {fields[0][:80]!r}")
        plain = re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.JPEG", file)
        expect(plain is not None, annotations, "plain file names that end in .JPEG", f"also {file[:80]!r}")
        test[annotations.parent / "images" / file] = ids.index(fields[0])
    expect(len(test) == source.sizes[1], annotations, f"{source.sizes[1]:,} different files", f"{len(test):,}")

    images = read_jpegs([*train, *test], source.shape)
    labels = np.concatenate([np.repeat(np.arange(source.classes), each), [*test.values()]])
    n = len(train)
    return tuple(names[wnid].split(",")[0] for wnid in ids), images[:n], labels[:n], images[n:], labels[n:]
