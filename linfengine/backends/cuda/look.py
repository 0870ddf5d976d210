"""What the host must know of arrays on the GPU: whether they are finite, and how large their numbers are."""

from __future__ import annotations

import cupy
import numpy as np

from .. import Array
from ..orders import LARGEST_EXPONENT, SMALLEST_EXPONENT, shift_into_range
from . import THREADS, device, step
from .launch import ceil, launch, type_of


class Look:
    """What a look at arrays of one dtype finds, known to the host as soon as that is done, whatever follows."""

    def __init__(self, *arrays: Array) -> None:
        self.info = np.finfo(arrays[0].dtype)
        found = cupy.full(2, -4096, np.int32)
        for array in arrays:
            blocks = min(ceil(array.size, 8 * THREADS), 4 * device.multiprocessors())
            launch(step("survey", type_of(array)), blocks, a=array, count=array.size, exponents=found)
        self.memory = cupy.cuda.alloc_pinned_memory(found.nbytes)
        self.found = np.frombuffer(self.memory, np.int32, 2)
        found.get(out=self.found, blocking=False)
        self.event = cupy.cuda.Event(disable_timing=True)
        self.event.record()

    @property
    def exponents(self) -> tuple[int, int]:
        """Of the largest magnitude and the smallest but 0, as math.frexp counts them; a denormal's is the lowest."""
        self.event.synchronize()
        bias = self.info.maxexp - 2
        return int(self.found[0]) - bias, -int(self.found[1]) - bias

    def refuse_non_finite(self) -> None:
        if self.exponents[0] > self.info.maxexp:
            raise FloatingPointError("x or w holds NaN or infinity")

    @property
    def in_range(self) -> bool:
        """Whether distances leave room for reciprocals; 0 does not count."""
        largest, smallest = self.exponents
        return largest <= LARGEST_EXPONENT and smallest >= SMALLEST_EXPONENT

    @property
    def shift(self) -> int:
        """The power of two by which to scale arrays whose distance or its reciprocal might leave the range, else 0."""
        exponent, smallest = self.exponents
        return 0 if smallest > 2 * self.info.maxexp else shift_into_range(exponent)  # 0 where all numbers are
