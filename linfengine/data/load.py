"""`load_dataset` finds a data set, downloads it if need be, and checks every file."""

import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from ..errors import UserError
from .arrays import Contents, Images, Labels
from .readers import expect, read_digits
from .sources import DATASETS, Layout, Source


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
        return Dataset(name, source.names, *read_digits(), source.mean, source.std)
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
        expect(images.shape == shape, group[0], f"images of shape {shape}", images.shape)
        expect(labels.shape == (count,), group[-1], f"{count:,} labels", f"an array of shape {labels.shape}")
        wrong = np.setdiff1d(labels, np.arange(source.classes)).tolist()
        expect(not wrong, group[-1], f"labels 0..{source.classes - 1}", f"also {wrong[:3]}")
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    n = source.sizes[0]
    return source.names, images[:n], labels[:n], images[n:], labels[n:]
