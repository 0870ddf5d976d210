"""What the tests of the kernels run on: every instruction set of the CPU, and the GPU on every tile.

Where there is no GPU its stand-in takes its place (tests/standin).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
from support import problems
from support.draws import thorough
from support.problems import Array

from linfengine.backends import cpu, cuda, gpu, to_numpy

Tile = tuple[int, int]


@contextmanager
def on_instruction_set(name: str) -> Iterator[None]:
    before = cpu.instruction_set()
    cpu.use_instruction_set(name)
    try:
        yield
    finally:
        cpu.use_instruction_set(before)


@contextmanager
def only(tile: Tile) -> Iterator[None]:
    """Within it the forwards of the GPU run on that tile, where they can."""
    tiles = cuda.tiles
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "tiles", lambda *about: [each for each in tiles(*about) if each == tile] or tiles(*about))
        yield


@dataclass(frozen=True)
class Device:
    """One configuration of a backend. Its functions are attributes: they take NumPy's arrays and answer with such."""

    name: str
    backend: Any
    chosen: Callable[[], AbstractContextManager[None]]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return partial(self._ask, getattr(self.backend, name))

    def _ask(self, function: Callable[..., Any], *arguments: Any, **settings: Any) -> Any:
        with self.chosen():
            answer = function(*map(self.there, arguments), **settings)
        if isinstance(answer, tuple):
            return tuple(None if each is None else to_numpy(each) for each in answer)
        return to_numpy(answer)

    def changed(self, name: str, *arguments: Any, **settings: Any) -> list[Array]:
        """The arrays among the arguments, after a function of the backend has written into copies of them."""
        there = [self.there(each.copy()) if isinstance(each, np.ndarray) else each for each in arguments]
        with self.chosen():
            getattr(self.backend, name)(*there, **settings)
        return [to_numpy(each) for each in there if isinstance(each, self.backend.xp.ndarray)]

    def there(self, value: Any) -> Any:
        """An array where the backend computes; anything else as it is."""
        return self.backend.xp.asarray(value) if isinstance(value, np.ndarray) else value

    def check_lp(self, x: Array, w: Array, g: Array, p: float, groups: int = 1) -> None:
        """Value and gradients against the reference in float64."""
        problems.check_lp(self.lp_dist, self.lp_dist_backward, x, w, g, p, groups)

    def __str__(self) -> str:
        return self.name


CPUS = [Device(f"cpu, {isa}", cpu, partial(on_instruction_set, isa)) for isa in cpu.instruction_sets()]
GPU = Device("gpu", gpu, partial(only, (0, 0)))  # the tile that it chooses itself
GPUS = [Device(f"gpu, {r} x {c}", gpu, partial(only, (r, c))) for r, c in cuda.TILES["float"]]

DEVICES = [*CPUS, GPU, *map(thorough, GPUS)]
EACH = [CPUS[-1], GPU, *map(thorough, [*CPUS[:-1], *GPUS])]  # one of each kind, and thoroughly all

on_all = pytest.mark.parametrize("device", DEVICES, ids=str)
on_each = pytest.mark.parametrize("device", EACH, ids=str)
