"""Domain: what one input of a net is. The net itself refuses what it was not made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .backends import Array, backend_of, device_of
from .interval import Interval
from .tensor import Tensor

WHITE = 255  # the largest gray level


@dataclass(frozen=True)
class Domain:
    """Images (n, *shape) of numbers from 0 to `white`; with `fraction_bits`, of multiples of 2^-fraction_bits.

    `shape` is (channels, height, width), or None where the net does not know it. `white` is the number that a white
    pixel is: 1 for pixels in [0, 1], 255 for gray levels. With `window`, images may already be cropped to that size.
    """

    shape: tuple[int, ...] | None
    white: int = 1
    fraction_bits: int | None = None
    window: int = 0

    @property
    def words(self) -> str:
        """What the net takes, for a sentence."""
        kind = "gray levels in [0, 255]" if self.white == WHITE else "pixels in [0, 1]"
        if self.fraction_bits == 0:
            kind = f"whole {kind}"
        elif self.fraction_bits is not None:
            kind += f" that are multiples of 2^-{self.fraction_bits}"
        return f"uint8 images, or float32 {kind}"

    def take(self, x: Any, net: Any) -> Tensor | Interval:
        """x as the net, which is on a `device`, computes on it.

        uint8 gray levels become its numbers, and numbers in lists float32; a box only has to have the shape.  Raises
        ValueError for an input of another shape or with numbers that are none of the domain, TypeError for integers or
        booleans that are not uint8.
        """
        if not hasattr(x, "shape"):
            x = np.asarray(x)
            x = x.astype(np.float32) if x.dtype.kind == "f" else x
        self.check_shape(x)
        if isinstance(x, Interval):
            return x
        if not isinstance(x, Tensor):
            if x.dtype.kind != "f":
                if x.dtype != np.uint8:
                    raise TypeError(f"the net takes {self.words}, got {x.dtype}")
                x = self.numbers(x)
            x = Tensor(x, device=None if device_of(x) == "cuda" else net.device)
        self.check_grid(x.data)
        return x

    def check_shape(self, x: Any) -> None:
        """Raises ValueError unless x is a batch of inputs."""
        if self.shape is not None and tuple(x.shape[1:]) not in (self.shape, (self.shape[0], self.window, self.window)):
            expected = ", ".join(map(str, ("n", *self.shape)))
            raise ValueError(f"the net takes images ({expected}), got shape {tuple(x.shape)}")

    def numbers(self, levels: Array) -> Array:
        """uint8 gray levels as the net's float32 numbers: themselves, or p/255 correctly rounded."""
        numbers = levels.astype(np.float32)
        return numbers if self.white == WHITE else numbers / np.float32(WHITE)

    def check_grid(self, numbers: Array) -> None:
        """Raises ValueError for numbers that are not on the grid, or beyond the gray levels: exactness is proved for no
        others.  A net without a grid is a function on all real numbers.
        """
        if self.fraction_bits is None or not numbers.size:
            return
        self.check_range(numbers)
        steps = numbers * numbers.dtype.type(1 << self.fraction_bits)
        if not bool((steps == backend_of(numbers).xp.rint(steps)).all()):
            hint = ": are these pixels in [0, 1]?" if float(numbers.max()) <= 1 else ""
            raise ValueError(f"the net takes {self.words}, got numbers between these{hint}")

    def check_range(self, numbers: Array) -> None:
        """Raises ValueError for numbers that no image has."""
        low, high = float(numbers.min()), float(numbers.max())
        if not (low >= 0 and high <= self.white):  # false for NaN as well
            raise ValueError(f"the net takes {self.words}, got numbers from {low:g} to {high:g}")
