"""Held-out splits: part of the training set, kept apart for choosing settings."""

import numpy as np
from numpy.random import PCG64
from numpy.typing import ArrayLike, NDArray

from .arrays import class_numbers


def split_holdout(labels: ArrayLike, size: int | float, *, seed: int = 0) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Ascending indices `(train, held_out)`: the held-out samples serve to choose settings.

    `size` is the number of samples to hold out, or, if it is a float, their fraction. Each class gives its share,
    rounded up or down such that the sum is exact. The split depends only on `labels`, `size` and `seed`, which is
    not the training seed, and is the same with every version of NumPy. Raises ValueError if `size` is no number or
    leaves one of the parts empty, and TypeError if the labels are not integers.
    """
    _, classes, counts = np.unique(class_numbers(labels), return_inverse=True, return_counts=True)
    n = len(classes)
    if n < 2:
        raise ValueError(f"labels must have at least 2 samples to be split, got {n}")
    if isinstance(size, bool) or not isinstance(size, int | float | np.integer | np.floating):
        raise ValueError(f"size must be a whole number or a fraction, got {size!r}")
    is_fraction = isinstance(size, float | np.floating)
    held = (round(float(size) * n) if 0 < size < 1 else 0) if is_fraction else int(size)
    if not 0 < held < n:
        kind = "fraction" if is_fraction else "number"
        raise ValueError(f"size must hold out between 1 and {n - 1} of {n} samples, got the {kind} {size}")
    quota, remainder = np.divmod(counts * held, n)
    quota[np.argsort(-remainder, kind="stable")[: held - quota.sum()]] += 1
    # NumPy promises to keep the raw words of a bit generator; what Generator makes of them may change.
    order = np.lexsort((PCG64(seed).random_raw(n), classes))
    rank = np.arange(n) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = rank < quota[classes[order]]
    return np.sort(order[~chosen]), np.sort(order[chosen])
