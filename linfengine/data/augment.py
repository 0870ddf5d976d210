"""From stored images to what a net sees: pixels, random crops and flips, minibatches."""

from collections.abc import Callable, Iterator
from typing import Literal, TypeVar, cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..backends import backend_of
from ..backends.windows import windows_of
from ..domain import Domain
from .arrays import Array, Floats, Images, Labels, class_numbers, whole_number

Scalar = TypeVar("Scalar", bound=np.generic)
Augment = Callable[[Array, Generator], Array]


def to_pixels(images: Images) -> Floats:
    """`p / 255` of uint8 images, correctly rounded to float32, in [0, 1]. Raises TypeError for other images."""
    found = getattr(images, "dtype", type(images).__name__)
    if found != np.uint8:
        raise TypeError(f"images must be uint8 with values 0..255, got {found}")
    return Domain.pixels().numbers(images)


def random_crop(
    images: NDArray[Scalar],
    padding: int,
    rng: Generator,
    mode: Literal["constant", "edge"] = "constant",
    size: int | None = None,
) -> NDArray[Scalar]:
    """Each image (c, h, w) becomes a window of itself padded by `padding` pixels, zeros or edge values.

    The window is `size` x `size`, by default h x w: there are then `(2 * padding + 1)**2` of them. All are
    equally likely. `images` (n, c, h, w), of any dtype, stay as they are. Raises ValueError for another shape,
    a negative padding, an unknown mode, and a size below 1 or above the padded image's smaller side.
    """
    xp = backend_of(images).xp
    if images.ndim != 4:
        raise ValueError(f"images must have shape (n, channels, height, width), got {images.shape}")
    if mode not in ("constant", "edge"):
        raise ValueError(f"mode must be 'constant' or 'edge', got {mode!r}")
    padding = whole_number("padding", padding, 0)
    n, _, height, width = images.shape
    if size is not None:  # the window lies in the padded image
        size = whole_number("size", size, 1, min(height, width) + 2 * padding)
    padded = xp.pad(images, ((0, 0), (0, 0), (padding, padding), (padding, padding)), mode=mode)
    window = (height, width) if size is None else (size, size)
    places = [side + 2 * padding - length + 1 for side, length in zip((height, width), window, strict=True)]
    row, column = xp.asarray(np.stack([rng.integers(count, size=n) for count in places]))
    return cast(NDArray[Scalar], windows_of(padded, window)[xp.arange(n), :, row, column])


def random_flip(images: NDArray[Scalar], rng: Generator) -> NDArray[Scalar]:
    """Each image of (n, c, h, w), of any dtype, is mirrored left to right with probability 1/2; `images` is kept."""
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
    """One epoch of shuffled minibatches `(pixels, labels)`: each sample once, the last batch smaller or dropped.

    `augment(batch, rng)` acts on the images as stored; uint8 images then become pixels (`to_pixels`), others are only
    made float32. Labels of any integer type become int64. Images on a GPU stay there; only random numbers are sent to
    it. `rng` is first used when the first batch is asked for. Raises, at the call, ValueError for unequal lengths or
    a batch_size below 1, and TypeError if the labels are not integers.
    """
    n = len(images)
    labels = class_numbers(labels)
    if len(labels) != n:
        raise ValueError(f"images and labels must have one length, got {n} and {len(labels)}")
    return _batches(images, labels, whole_number("batch_size", batch_size, 1), rng, augment, drop_last)


def _batches(
    images: Array, labels: Labels, batch_size: int, rng: Generator, augment: Augment | None, drop_last: bool
) -> Iterator[tuple[Floats, Labels]]:
    xp = backend_of(images).xp
    n = len(images)
    order = rng.permutation(n)
    for start in range(0, n - n % batch_size if drop_last else n, batch_size):
        chosen = order[start : start + batch_size]
        batch = images[xp.asarray(chosen)]
        if augment is not None:
            batch = augment(batch, rng)
        yield _as_pixels(batch), labels[chosen]


@np.errstate(under="ignore")  # values too small for float32 become 0
def _as_pixels(batch: Array) -> Floats:
    return to_pixels(batch) if batch.dtype == np.uint8 else batch.astype(np.float32, copy=False)
