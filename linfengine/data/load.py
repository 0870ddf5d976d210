"""`load_dataset` finds a data set, downloads it if need be, and checks every file."""

import os
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..domain import Domain
from ..errors import UserError, did_you_mean
from .arrays import Array, Contents, Labels, class_numbers
from .files import expect
from .readers import read_digits
from .sources import DATASETS, Layout, Source


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """A data set in memory, and the constants of its normalization: `(p / 255 - mean) / std`.

    Images are uint8 (n, channels, height, width); train and test images have the same channels, height and width.
    Labels (n,) are integers from 0 to `len(classes) - 1`; any integer type is accepted and becomes int64. Points and
    tables state a `domain`: their inputs are float32 (n, ...) within its bounds, normalized by `(x - mean) / std`.

    Each channel has its own `mean`, but images have only one `std`: with a standard deviation for each channel the
    ℓ∞ ball of the input would become a box with unequal sides, and the margin would no longer give a radius. If
    the domain has a scale for each column, `std` may have one, too.

    Raises TypeError for images or labels of another type. Raises ValueError for a wrong shape or length, numbers beyond
    the domain, a label that is no class, a `mean` that is not one finite number for each channel, and a `std` that
    is not in (0, inf).
    """

    name: str
    classes: tuple[str, ...]
    train_images: Array
    train_labels: Labels
    test_images: Array
    test_labels: Labels
    mean: tuple[float, ...]
    std: Any  # a number, or one a column
    domain: Domain = field(default_factory=Domain.pixels)

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            images, labels = getattr(self, f"{part}_images"), class_numbers(getattr(self, f"{part}_labels"))
            object.__setattr__(self, f"{part}_labels", labels)
            self._check_inputs(part, images)
            if len(images) != len(labels):
                raise ValueError(
                    f"{part}_images and {part}_labels must have one length, got {len(images)}, {len(labels)}"
                )
            if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
                extent = f"{labels.min()} to {labels.max()}"
                raise ValueError(f"{part}_labels must lie in 0..{len(self.classes) - 1}, got {extent}")
        channels = self.train_images.shape[1]
        alone = () if self.domain.white else (1,)  # one mean for all columns
        if len(self.mean) not in (channels, *alone) or not np.isfinite(self.mean).all():
            raise ValueError(f"mean must be one finite number a channel, got {self.mean}")
        several = isinstance(self.domain.scale, tuple)
        if np.size(self.std) not in ((1, channels) if several else (1,)) or not np.all(
            (np.asarray(self.std) > 0) & np.isfinite(self.std)
        ):
            raise ValueError(f"std must be finite and above 0, got {self.std}")
        if self.domain.white:
            object.__setattr__(self, "domain", Domain.pixels(self.train_images.shape[1:]))

    def _check_inputs(self, part: str, inputs: Any) -> None:
        found = getattr(inputs, "dtype", type(inputs).__name__)
        if self.domain.white:
            if found != np.uint8:
                raise TypeError(f"{part}_images must be uint8 with values 0..255, got {found}")
            if inputs.ndim != 4 or inputs.shape[1:] != self.train_images.shape[1:]:
                expected = "(n, channels, height, width), the same in train and test"
                raise ValueError(f"{part}_images must have shape {expected}, got {inputs.shape}")
            return
        if found != np.float32:
            raise TypeError(f"{part}_images must be {self.domain.words}, got {found}")
        try:
            self.domain.check_shape(inputs)
            if len(inputs):
                self.domain.check_range(inputs)
        except ValueError as error:
            raise ValueError(f"{part}_images: {error}") from None

    def __repr__(self) -> str:
        """Name, sizes, shape of an image and number of classes."""
        train, test = f"{len(self.train_images):,}", f"{len(self.test_images):,}"
        shape, kind = " x ".join(map(str, self.train_images.shape[1:])), "images" if self.domain.white else "inputs"
        return f"Dataset({self.name!r}: {train} train and {test} test {kind} of {shape}, {len(self.classes)} classes)"


def load_dataset(name: str, data_dir: str | Path | None = None, download: bool = True) -> Dataset:
    """The data set called `name`, a key of `DATASETS`. Every file is checked.

    `digits` comes with the package: 1,797 images of 8 x 8 pixels, whose values 0..16 become `round(p * 255 / 16)`.
    The test set is the 360 samples that `split_holdout(labels, 360)` holds out, the train set the other 1,437.

    The other data sets are searched in `data_dir`, then in the folder that the environment variable LINFENGINE_DATA
    names, then in the user's cache. If none of them has it and `download` is true, the data set is downloaded to the
    cache and its SHA-256 is checked.

    Each of these roots may hold a folder called `name` or one of the folders that the official archives and
    torchvision make; upper and lower case do not matter. The files of CIFAR-10 and Tiny ImageNet may also lie in the
    root itself. MNIST and Fashion-MNIST use the same file names, so their files may lie in the root only if it has the
    name of such a folder. A file may be plain, .gz or .xz, except JPEGs. Kaggle's forms are accepted, too:
    `train-images.idx3-ubyte`, and a folder around each file.

    Raises UserError, one sentence, if the name is unknown, nothing is found, the download fails, or a file is missing,
    damaged, of the wrong size, or has a label that is no class.
    """
    if not isinstance(name, str) or name not in DATASETS:
        hint = did_you_mean(str(name), DATASETS)
        raise UserError(f"data set {name!r} is unknown{hint}: expected one of {', '.join(DATASETS)}")
    source = DATASETS[name]
    if not source.layouts:
        return Dataset(name, source.names, *read_digits(), source.mean, source.std)
    try:
        contents = _read(source, *_locate(name, source, data_dir, download))
    except (UserError, OSError) as error:
        advice = f"get the files from {source.url} and name their folder by data_dir (--data-dir) or LINFENGINE_DATA"
        raise UserError(f"{error}; {advice}") from None
    return Dataset(name, *contents, source.mean, source.std)


def _locate(name: str, source: Source, data_dir: str | Path | None, download: bool) -> tuple[Layout, dict[str, Path]]:
    """The first set of files in the named roots, in the cache, or on the network."""
    roots = [Path(os.path.expanduser(root)) for root in (data_dir, os.environ.get("LINFENGINE_DATA")) if root]
    for root in roots:
        expect(root.is_dir(), root, "a folder of data sets", "none")
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
        processor = unpack and unpack(extract_dir=".")  # runs once the SHA-256 is right: the names in it are known
        try:
            pooch.retrieve(address, f"sha256:{sha256}", file, cache / name, processor=processor)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            reason = "wrong SHA-256" if type(error) is ValueError else type(error).__name__
            raise UserError(f"{name} is in no folder, and {address} could not be downloaded ({reason})") from None
    if found := _find(name, source, cache):
        return found
    raise UserError(f"{name} was not found in {', '.join(map(str, [*roots, cache]))}")


def _find(name: str, source: Source, root: Path) -> tuple[Layout, dict[str, Path]] | None:
    """A layout and the path of each of its files under `root`; None if there is none, UserError if one is missing."""
    for folder in _folders(name, source, root):
        for layout in source.layouts:
            files = [file for group in layout.groups for file in group]
            found = {file: path for file in files if (path := _file(folder, file))}
            missing = [folder / file for file in files if file not in found]
            if not missing:
                return layout, found
            if found:
                raise UserError(f"{missing[0]}: expected this file, plain, .gz or .xz, beside the others, found none")
    return None


def _folders(name: str, source: Source, root: Path) -> Iterator[Path]:
    """The folders under `root` that may hold the files, and the root itself if it has the name of such a folder."""
    names = {name}
    for wanted in source.folders:
        parts = Path(wanted).parts
        names.update(part.casefold() for part in parts[:1])
        folders = [root]
        for part in parts:
            folders = [child for folder in folders for child in _children(folder, part)]
        yield from folders
    if root.resolve().name.casefold() in names:
        yield from (root, root / "raw")


def _children(folder: Path, name: str) -> list[Path]:
    """The entry `name` of `folder`; if there is none, the entries that differ from it only in case."""
    if (folder / name).exists() or not folder.is_dir():
        return [folder / name]
    return sorted(child for child in folder.iterdir() if child.name.casefold() == name.casefold())


def _file(folder: Path, file: str) -> Path | None:
    """The path of `file`, plain or packed, under its published name or in one of Kaggle's two forms."""
    for form in (file, file.replace("-idx", ".idx"), f"{file}/{Path(file).name}"):
        for ending in ("", ".gz", ".xz"):
            path = folder / (form + ending)
            if path.is_file():
                return path
    return None


def _read(source: Source, layout: Layout, paths: dict[str, Path]) -> Contents:
    """Class names, train images and labels, test images and labels, checked against `source`."""
    groups = [[paths[file] for file in group] for group in layout.groups]
    if len(groups) == 1:  # one reader of it all
        return cast(Contents, layout.read(source, *groups[0]))
    train_parts = len(groups) - 1
    counts = [source.sizes[0] // train_parts] * train_parts + [source.sizes[1]]
    with ThreadPoolExecutor() as pool:  # unpacking runs outside the interpreter lock
        parts = list(pool.map(lambda group, count: layout.read(*group, (count, *source.shape)), groups, counts))
    for group, (_, labels) in zip(groups, parts, strict=True):
        wrong = np.setdiff1d(labels, np.arange(source.classes)).tolist()
        expect(not wrong, group[-1], f"labels 0..{source.classes - 1}", f"also {wrong[:3]}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    n = source.sizes[0]
    return source.names, images[:n], labels[:n], images[n:], labels[n:]
