"""Data sets, held-out splits, augmentation, minibatches and toy problems.

Images are uint8 (n, channels, height, width) with values 0..255, labels int64 (n,). A pixel p enters a net as p / 255
(`to_pixels`); means, standard deviations and radii are in these units. A new data set is one entry in `DATASETS`.
"""

import gzip
import io
import lzma
import math
import os
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

import numpy as np
from numpy.random import PCG64, Generator
from numpy.typing import ArrayLike, NDArray

from .backends import backend_of
from .errors import UserError
from .ops.shape import windows_of

Array = NDArray[Any]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Floats = NDArray[np.float32]
Scalar = TypeVar("Scalar", bound=np.generic)
Augment = Callable[[Array, Generator], Array]
Contents = tuple[tuple[str, ...], Images, Labels, Images, Labels]  # class names, train set, test set


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set in memory, and the constants which normalise it: ``(p / 255 - mean) / std``.

    There is one ``mean`` a channel but only one ``std``: a standard deviation per channel would turn the l-inf ball of
    the input into a box with unequal sides, and the margin would no longer be a radius.
    """

    name: str
    classes: tuple[str, ...]
    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    mean: tuple[float, ...]
    std: float


# Readers, one a published file form. A fault in a file is a UserError "FILE: expected ..., found ...".


def _expect(ok: bool, path: Path, expected: str, found: object) -> None:
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
    _expect(len(blob) >= header, path, f"an idx header of {header} bytes", f"{len(blob)} bytes")
    magic, *shape = np.frombuffer(blob, ">u4", 1 + ndim).tolist()
    _expect(magic == 0x800 + ndim, path, f"idx magic {0x800 + ndim}", magic)
    size = header + math.prod(shape)
    _expect(len(blob) == size, path, f"{size:,} bytes for shape {tuple(shape)}", f"{len(blob):,}")
    return np.frombuffer(blob, np.uint8, offset=header).reshape(shape)


def read_idx_pair(images: Path, labels: Path) -> tuple[Images, Labels]:
    """Grey images (n, 1, height, width) and labels (n,) of two idx files, as MNIST and Fashion-MNIST publish them."""
    return read_idx(images, 3)[:, None], read_idx(labels, 1).astype(np.int64)


def read_cifar_binary(path: Path) -> tuple[Images, Labels]:
    """Images (n, 3, 32, 32) and labels (n,) of a file of 3,073-byte records: label, red, green and blue plane."""
    blob = _read_bytes(path)
    _expect(len(blob) % 3073 == 0, path, "whole records of 3,073 bytes", f"{len(blob):,} bytes")
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


def _read_digits() -> tuple[Images, Labels, Images, Labels]:
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
            _expect(found == size, path, "{} x {} pixels".format(*size), "{} x {}".format(*found))

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
    _expect(len(ids) == source.classes, wnids, f"{source.classes} different WordNet ids", len(ids))
    names = {wnid: name for wnid, _, name in (line.partition("\t") for line in _read_text(words).splitlines())}
    nameless = [wnid for wnid in ids if not names.get(wnid)]
    _expect(not nameless, words, "a name for each WordNet id of wnids.txt", f"none for {nameless[:3]}")

    train: list[Path] = []
    each = source.sizes[0] // source.classes
    for wnid in ids:
        folder = wnids.parent / "train" / wnid / "images"
        paths = sorted(folder.glob("*.JPEG"))
        _expect(len(paths) == each, folder, f"{each} JPEG files", len(paths))
        train += paths

    test: dict[Path, int] = {}
    for line in sorted(_read_text(annotations).splitlines()):
        file, *fields = line.split("\t")
        _expect(len(fields) == 5, annotations, "lines of six fields between tabs", f"{line[:80]!r}")
        _expect(fields[0] in ids, annotations, "WordNet ids of wnids.txt", f"also {fields[0]!r}")
        test[annotations.parent / "images" / file] = ids.index(fields[0])
    _expect(len(test) == source.sizes[1], annotations, f"{source.sizes[1]:,} different files", f"{len(test):,}")

    images = read_jpegs([*train, *test], source.shape)
    labels = np.concatenate([np.repeat(np.arange(source.classes), each), [*test.values()]])
    n = len(train)
    return tuple(names[wnid].split(",")[0] for wnid in ids), images[:n], labels[:n], images[n:], labels[n:]


class Layout(NamedTuple):
    """One published form: the reader, and the groups of files it takes, one a call; the last group is the test set.

    The reader of a single group is given the `Source` first, and reads and checks the whole data set.
    """

    read: Callable[..., Any]
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    ``classes`` is their number, ``names`` are theirs unless a file tells them; ``shape`` is one image's, ``sizes`` the
    numbers of train and test images; ``folders`` are searched under each root; ``url`` and a key of ``sha256`` make the
    address of a published file. Without layouts, it comes with the package.
    """

    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    mean: tuple[float, ...]
    std: float
    url: str
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)


_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IDX = Layout(read_idx_pair, tuple((f"{s}-images-idx3-ubyte", f"{s}-labels-idx1-ubyte") for s in ("train", "t10k")))
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_CIFAR_BINARY = Layout(read_cifar_binary, tuple((f"{batch}.bin",) for batch in _BATCHES))
_CIFAR_PICKLE = Layout(read_cifar_pickle, tuple((batch,) for batch in _BATCHES))
_TINY_IMAGENET = Layout(read_tiny_imagenet, (("wnids.txt", "words.txt", "val/val_annotations.txt"),))

# Mean and scalar standard deviation are those of the published l-inf-dist recipes; for digits, of the train pixels.
DATASETS = {
    "digits": Source(
        classes=10,
        shape=(1, 8, 8),
        sizes=(1437, 360),
        mean=(0.3053,),
        std=0.3757,
        url="https://archive.ics.uci.edu/dataset/80",
        names=_DIGITS,
    ),
    "mnist": Source(
        classes=10,
        shape=(1, 28, 28),
        sizes=(60_000, 10_000),
        mean=(0.1307,),
        std=0.3081,
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        names=_DIGITS,
        folders=("mnist", "MNIST/raw"),
        layouts=(_IDX,),
        sha256={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": Source(
        classes=10,
        shape=(1, 28, 28),
        sizes=(60_000, 10_000),
        mean=(0.2860,),
        std=0.3520,
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        names=_CLOTHES,
        folders=("fashion-mnist", "FashionMNIST/raw"),
        layouts=(_IDX,),
        sha256={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar-10": Source(
        classes=10,
        shape=(3, 32, 32),
        sizes=(50_000, 10_000),
        mean=(0.4914, 0.4822, 0.4465),
        std=0.2009,
        url="https://www.cs.toronto.edu/~kriz/",
        names=_THINGS,
        folders=tuple(
            top + sub for top in ("cifar-10/", "") for sub in ("", "cifar-10-batches-bin", "cifar-10-batches-py")
        ),
        layouts=(_CIFAR_BINARY, _CIFAR_PICKLE),
        sha256={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "tiny-imagenet": Source(
        classes=200,
        shape=(3, 64, 64),
        sizes=(100_000, 10_000),
        mean=(0.4802, 0.4481, 0.3975),
        std=0.2276,
        url="http://cs231n.stanford.edu/",
        folders=("tiny-imagenet", "tiny-imagenet/tiny-imagenet-200", "tiny-imagenet-200", ""),
        layouts=(_TINY_IMAGENET,),
        sha256={"tiny-imagenet-200.zip": "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"},
    ),
}


def load_dataset(name: str, data_dir: str | Path | None = None, download: bool = True) -> Dataset:
    """Data set ``name`` (a key of `DATASETS`), every file checked.

    ``digits`` comes with the package: 1,797 images of 8 x 8 pixels, 0..16 made ``round(p * 255 / 16)``. The test set
    is the 360 samples that ``split_holdout(labels, 360)`` holds out, the train set the other 1,437: always the same.

    The others are searched in ``data_dir``, the folder named by the environment variable LINFENGINE_DATA, and the
    user's cache; one that is nowhere is downloaded to the cache if ``download`` is true, and its SHA-256 checked. Under
    each root the folder called ``name`` comes first, then those of the official archives and of torchvision. Files may
    lie in the root itself for CIFAR-10 and Tiny ImageNet, whose file names tell what they are; MNIST and Fashion-MNIST
    share theirs, so for these the root must then be called ``name``. Each file but a JPEG may be plain, .gz or .xz.

    Raises UserError, one sentence, if the name is unknown, nothing is found, the download fails, or a file is missing,
    damaged, of the wrong size, or has a label which is no class.
    """
    if name not in DATASETS:
        raise UserError(f"data set {name!r} is unknown: expected one of {', '.join(DATASETS)}")
    source = DATASETS[name]
    if not source.layouts:
        return Dataset(name, source.names, *_read_digits(), source.mean, source.std)
    try:
        contents = _read(source, *_locate(name, source, data_dir, download))
    except UserError as error:
        advice = f"get the files from {source.url} and name their folder by data_dir (--data-dir) or LINFENGINE_DATA"
        raise UserError(f"{error}; {advice}") from error
    return Dataset(name, *contents, source.mean, source.std)


def _locate(name: str, source: Source, data_dir: str | Path | None, download: bool) -> tuple[Layout, dict[str, Path]]:
    """The first set of files in the named roots, in the cache, or on the network."""
    roots = [Path(root).expanduser() for root in (data_dir, os.environ.get("LINFENGINE_DATA")) if root]
    for root in roots:
        _expect(root.is_dir(), root, "a folder of data sets", "none")
        if found := _find(name, source, root):
            return found

    import pooch  # type: ignore[import-untyped]  # late, for it loads an HTTP stack

    cache = Path(pooch.os_cache("linfengine"))
    with suppress(UserError):  # a download cut short has left some files: go on with it
        if found := _find(name, source, cache):
            return found
    for file, sha256 in source.sha256.items() if download else ():
        address = source.url + file
        unpack = {".tar.gz": pooch.Untar, ".zip": pooch.Unzip}.get("".join(Path(file).suffixes))
        processor = unpack and unpack(extract_dir=".")
        try:
            pooch.retrieve(address, f"sha256:{sha256}", file, cache / name, processor=processor)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            reason = "wrong SHA-256" if type(error) is ValueError else type(error).__name__
            raise UserError(f"{name} is in no folder, and {address} could not be downloaded ({reason})") from error
    if found := _find(name, source, cache):
        return found
    raise UserError(f"{name} was not found in {', '.join(map(str, [*roots, cache]))}")


def _find(name: str, source: Source, root: Path) -> tuple[Layout, dict[str, Path]] | None:
    """A layout and the path of each of its files under ``root``; None if there is none, UserError if one is missing."""
    folders = [root / folder for folder in source.folders] + [root] * (root.resolve().name == name)
    for folder in folders:
        for layout in source.layouts:
            files = [file for group in layout.groups for file in group]
            options = [(file, folder / (file + ending)) for ending in (".xz", ".gz", "") for file in files]
            paths = {file: path for file, path in options if path.is_file()}  # the last, the plain file, wins
            missing = [folder / file for file in files if file not in paths]
            if not missing:
                return layout, paths
            if paths:
                raise UserError(f"{missing[0]}: expected this file, plain, .gz or .xz, beside the others, found none")
    return None


def _read(source: Source, layout: Layout, paths: dict[str, Path]) -> Contents:
    """Class names, train images and labels, test images and labels, checked against ``source``."""
    groups = [[paths[file] for file in group] for group in layout.groups]
    if len(groups) == 1:  # one reader of it all
        return cast(Contents, layout.read(source, *groups[0]))
    with ThreadPoolExecutor() as pool:  # unpacking runs outside the interpreter lock
        parts = list(pool.map(lambda group: layout.read(*group), groups))
    train_parts = len(parts) - 1
    counts = [source.sizes[0] // train_parts] * train_parts + [source.sizes[1]]
    for group, (images, labels), count in zip(groups, parts, counts, strict=True):
        shape = (count, *source.shape)
        _expect(images.shape == shape, group[0], f"images of shape {shape}", images.shape)
        _expect(labels.shape == (count,), group[-1], f"{count:,} labels", f"an array of shape {labels.shape}")
        wrong = np.setdiff1d(labels, np.arange(source.classes)).tolist()
        _expect(not wrong, group[-1], f"labels 0..{source.classes - 1}", f"also {wrong[:3]}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    n = source.sizes[0]
    return source.names, images[:n], labels[:n], images[n:], labels[n:]


def to_pixels(images: Images) -> Floats:
    """``p / 255`` of uint8 images, correctly rounded to float32, in [0, 1]."""
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8 with values 0..255, got {images.dtype}")
    return images.astype(np.float32) / np.float32(255)


def split_holdout(labels: ArrayLike, size: int | float, *, seed: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ascending indices ``(train, held_out)``: a fixed part of the training set, kept out for choosing anything.

    ``size`` is a number of samples, or a fraction if it is a float. Each class gives its share, rounded up or down such
    that the sum is exact. The split depends on ``labels``, ``size`` and ``seed`` alone, on no training seed, and is the
    same with every version of NumPy. Raises ValueError unless both parts get a sample.
    """
    _, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    n = len(classes)
    held = round(size * n) if isinstance(size, float) else size
    if not 0 < held < n:
        raise ValueError(f"size must hold out between 1 and {n - 1} of {n} samples, got {size}")
    quota, remainder = np.divmod(counts * held, n)
    quota[np.argsort(-remainder, kind="stable")[: held - quota.sum()]] += 1
    # NumPy promises to keep the raw words of a bit generator; what Generator makes of them may change.
    order = np.lexsort((PCG64(seed).random_raw(n), classes))
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < quota[classes[order]]
    return np.sort(order[~chosen]), np.sort(order[chosen])


def random_crop(
    images: NDArray[Scalar],
    padding: int,
    rng: Generator,
    mode: Literal["constant", "edge"] = "constant",
    size: int | None = None,
) -> NDArray[Scalar]:
    """Each image (c, h, w) becomes a window of itself padded by ``padding`` pixels, zeros or edge values.

    The window is ``size`` x ``size``, by default h x w; all windows, then ``(2 * padding + 1)**2``, are equally likely.
    ``images`` is (n, c, h, w), of any dtype, and is kept. Raises ValueError for a size with no window.
    """
    xp = backend_of(images).xp
    n, _, height, width = images.shape
    padded = xp.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode=mode)
    window = (height, width) if size is None else (size, size)
    places = [side + 2 * padding - length + 1 for side, length in zip((height, width), window, strict=True)]
    if size is not None and (size < 1 or min(places) < 1):
        raise ValueError(
            f"size must be from 1 to {min(places) + size - 1}, the padded image's smaller side, got {size}"
        )
    row, column = xp.asarray(np.stack([rng.integers(count, size=n) for count in places]))
    return cast(NDArray[Scalar], windows_of(padded, window)[xp.arange(n), :, row, column])


def random_flip(images: NDArray[Scalar], rng: Generator) -> NDArray[Scalar]:
    """Each image of (n, c, h, w), of any dtype, is mirrored left to right with probability 1/2; ``images`` is kept."""
    xp = backend_of(images).xp
    mirrored = xp.asarray(np.flatnonzero(rng.integers(2, size=len(images), dtype=bool)))
    flipped = images.copy()
    flipped[mirrored] = images[mirrored, ..., ::-1]
    return flipped


def batches(
    images: Array,
    labels: Labels,
    batch_size: int,
    rng: Generator,
    augment: Augment | None = None,
    drop_last: bool = False,
) -> Iterator[tuple[Floats, Labels]]:
    """One epoch of shuffled minibatches ``(pixels, labels)``: each sample once, the last batch smaller or dropped.

    ``augment(batch, rng)`` acts on the images as stored; uint8 images then become pixels (`to_pixels`), others are only
    made float32. Images on a GPU stay there, and only what chance decided is sent to it. Raises ValueError for unequal
    lengths or an empty batch, when the first batch is asked for.
    """
    xp = backend_of(images).xp
    n = len(images)
    if len(labels) != n:
        raise ValueError(f"images and labels must have one length, got {n} and {len(labels)}")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    order = rng.permutation(n)
    for start in range(0, n - n % batch_size if drop_last else n, batch_size):
        chosen = order[start : start + batch_size]
        batch = images[xp.asarray(chosen)]
        if augment is not None:
            batch = augment(batch, rng)
        yield to_pixels(batch) if batch.dtype == np.uint8 else batch.astype(np.float32, copy=False), labels[chosen]


def toy_moons(n: int, rng: Generator, noise: float = 0.02) -> tuple[Floats, Labels]:
    """Two interleaved half circles of radius 0.3 in [0, 1]^2: points (n, 2), labels 0 (arch) and 1 (bowl).

    ``noise`` is the standard deviation of a Gaussian displacement, in the units of the square.
    """
    labels = rng.integers(2, size=n)
    angle = np.pi * rng.random(n)
    side = (1 - 2 * labels)[:, None]  # the bowl is the arch turned by 180 degrees about the middle of the square
    arch = np.stack([0.3 * np.cos(angle) - 0.15, 0.3 * np.sin(angle) - 0.075], axis=1)
    points = 0.5 + side * arch + noise * rng.standard_normal((n, 2))
    return points.clip(0, 1).astype(np.float32), labels


def toy_checkerboard(n: int, rng: Generator, cells: int = 4, gap: float = 0.05) -> tuple[Floats, Labels]:
    """A board of ``cells`` x ``cells`` in [0, 1]^2: points (n, 2), labels 0 and 1 by ``(row + column) mod 2``.

    Points keep ``gap / 2`` from the lines between cells, so the two classes are ``gap`` apart in l-inf, and a radius of
    ``gap / 2`` can be certified at every point.
    """
    cell = rng.integers(cells, size=(n, 2))
    inside = gap / 2 + (1 / cells - gap) * rng.random((n, 2))
    return (cell / cells + inside).astype(np.float32), cell.sum(axis=1) % 2
