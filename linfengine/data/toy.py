"""Toy problems in the unit square."""

import numpy as np
from numpy.random import Generator

from .arrays import Floats, Labels, whole_number


@np.errstate(under="ignore")  # of a tiny noise
def toy_moons(n: int, rng: Generator, noise: float = 0.02) -> tuple[Floats, Labels]:
    """Two interleaved half circles of radius 0.3 in [0, 1]^2: points (n, 2), labels 0 (arch) and 1 (bowl).

    `noise` is the standard deviation of a Gaussian displacement, in the units of the square. Raises ValueError unless
    it is finite and at least 0.
    """
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be finite and at least 0, got {noise!r}")
    labels = rng.integers(2, size=n)
    angle = np.pi * rng.random(n)
    side = (1 - 2 * labels)[:, None]  # the bowl is the arch turned by 180 degrees about the middle of the square
    arch = np.stack([0.3 * np.cos(angle) - 0.15, 0.3 * np.sin(angle) - 0.075], axis=1)
    points = 0.5 + side * arch + noise * rng.standard_normal((n, 2))
    return points.clip(0, 1).astype(np.float32), labels


def toy_checkerboard(n: int, rng: Generator, cells: int = 4, gap: float = 0.05) -> tuple[Floats, Labels]:
    """A board of `cells` x `cells` in [0, 1]^2: points (n, 2), labels 0 and 1 by `(row + column) mod 2`.

    Points keep `gap / 2` from the lines between cells, so the two classes are `gap` apart in ℓ∞, and a radius of
    `gap / 2` can be certified at every point. Raises ValueError unless a cell is wider than the gap.
    """
    cells = whole_number("cells", cells, 1)
    if not 0 <= gap < 1 / cells:
        raise ValueError(f"gap must be at least 0 and less than a cell's side of 1/{cells}, got {gap!r}")
    cell = rng.integers(cells, size=(n, 2))
    inside = gap / 2 + (1 / cells - gap) * rng.random((n, 2))
    return (cell / cells + inside).astype(np.float32), cell.sum(axis=1) % 2
