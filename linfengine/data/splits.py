"""Held-out splits: part of the training set, kept apart for choosing settings."""

import numpy as np
from numpy.random import PCG64
from numpy.typing import ArrayLike, NDArray


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
