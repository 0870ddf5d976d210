"""ExactNet: a net over a grid, whose float32 arithmetic never rounds, from the input to the verdict.

Differences, absolute values, maxima and sums of multiples of 2^-f are multiples of 2^-f, and float32 holds all of them
below 2^(24−f). Derivation: docs/exact.md.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np

from ..backends import Array, to_numpy
from ..domain import Domain
from ..errors import UserError
from ..layers import Input, Module, Normalize, Sequential, kind_of
from ..ops.base import Result
from ..tensor import Tensor
from ..units import WHITE
from .bytes import ByteNet, Made, Part, is_constant

SIGNIFICAND = 24  # bits: float32 holds every integer up to 2^24


class ExactNet(Sequential):
    """A net of exact layers over a domain with a grid; all its numbers are multiples of 2^-fraction_bits.

    `quantize` makes one of a trained net. Over gray levels it takes images (n, c, h, w) as uint8, or as float32 (an
    array, a Tensor or an Interval) of gray levels 0..255 on the grid. The logits (n, classes) are in gray levels, and
    1-Lipschitz in ℓ∞. With `fraction_bits` 0 and dense layers, uint8 images on the CPU run on the byte kernel. On the
    CPU its numbers are kept in read-only memory. Raises UserError for a domain without a grid.
    """

    _training = False
    made_again = ("_bytes",)

    def __init__(self, *layers: Module, domain: Domain) -> None:
        super().__init__(*layers, domain=domain)
        if domain.fraction_bits is None:
            raise UserError("an exact net needs a domain with a grid (fraction_bits), got one without")
        self._bytes: Made | None = None
        self.eval()
        for parameter in self.parameters().values():
            parameter.requires_grad = False
        self._lock()

    # the claims hold for the byte net, too: docs/exact.md proves that it is the same function
    lipschitz, rounding, lowest_margins = Sequential.lipschitz, Sequential.rounding, Sequential.lowest_margins

    @property
    def domain(self) -> Domain:
        assert self._domain is not None
        return self._domain

    @property
    def fraction_bits(self) -> int:
        assert self.domain.fraction_bits is not None
        return self.domain.fraction_bits

    def __call__(self, x: Input) -> Result:
        on_bytes = self.domain.white == WHITE and self.fraction_bits == 0 and self.device == "cpu"
        if on_bytes and isinstance(x, np.ndarray) and x.dtype == np.uint8:
            self.domain.check_shape(x)
            if len(x) and (net := self._byte_net(x.shape[1:])):
                return Tensor(net(x))
        return super().__call__(x)

    def to(self, device: str) -> Module:
        super().to(device)
        self._lock()
        return self

    def _lock(self) -> None:
        """Move the numbers to read-only memory, if they are on the CPU."""
        for holder, name, array in list(self._arrays()):
            if isinstance(array, np.ndarray) and not is_constant(array):
                setattr(holder, name, np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape))

    def _byte_net(self, shape: tuple[int, ...]) -> ByteNet | None:
        """The byte net for images of a shape: the last one made, if all its parts are still the same."""
        made, parts = self._bytes, [Part.of(layer) for layer in self.layers]
        if made and made.shape == shape and len(made.parts) == len(parts) and all(map(Part.same, made.parts, parts)):
            return made.net
        super().__call__(np.zeros((1, *shape), np.uint8))  # the layers refuse what does not fit them
        net = ByteNet.of(parts, shape)
        if all(is_constant(array) for part in parts for array in part.arrays if array is not None):
            self._bytes = Made(shape, parts, net)
        return net

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_bytes": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> ExactNet:
        """New layers over the same arrays, which are read-only."""
        memo |= {id(array): array for _, _, array in self._arrays() if is_constant(array)}
        memo[id(self)] = copied = type(self).__new__(type(self))
        copied.__setstate__(deepcopy(vars(self) | {"_bytes": None}, memo))
        copied._bytes = self._bytes
        return copied

    def train(self, training: bool = True) -> Module:
        if training:
            raise ValueError("an exact net is not trained: train the net it was made from")
        return super().train(False)

    def load_state(self, state: dict[str, Array]) -> None:
        """As `Module.load_state`. Raises UserError, and changes nothing, if the numbers fail `check`."""
        copied = deepcopy(self)
        for holder, name, array in list(copied._arrays()):
            setattr(holder, name, array.copy())
        super(ExactNet, copied).load_state(state)
        copied.check()
        copied._lock()
        for (holder, name, _), (_, _, array) in zip(list(self._arrays()), list(copied._arrays()), strict=True):
            setattr(holder, name, array)

    def check(self) -> None:
        """Prove that nothing is rounded: every number is on the grid, and every result below 2^(24 − fraction_bits).

        Raises UserError, naming the layer or array that fails.
        """
        for name, layer in self.modules():
            if layer is self:
                continue
            if not kind_of(layer).exact:
                raise UserError(f"the net cannot be exact: its {type(layer).__name__} layer {name} may round")
            if isinstance(layer, Normalize) and layer.std != 1:
                raise UserError(f"the net cannot be exact: its Normalize layer {name} divides by {layer.std}, not by 1")
        means = {f"{name}.mean": layer.mean for name, layer in self.modules() if isinstance(layer, Normalize)}
        for name, array in (self.state() | means).items():
            array = to_numpy(array)
            if not np.isfinite(array).all():
                raise UserError(f"the net cannot be exact: {name} holds values that are not finite")
            steps = np.ldexp(array, self.fraction_bits)
            if not (steps == np.rint(steps)).all():
                raise UserError(f"the net cannot be exact: {name} holds numbers that are no multiples of {self.step}")
        largest, limit = self.largest_value, 2.0 ** (SIGNIFICAND - self.fraction_bits)
        if not largest < limit:
            raise UserError(
                f"the net cannot be exact at {self.fraction_bits} fraction bits: its values may reach {largest:.0f} "
                f"{self.domain.unit}, and float32 holds multiples of {self.step} below {limit:.0f} only "
                "(use fewer bits)"
            )

    @property
    def largest_value(self) -> float:
        """A bound on all values of the net, in the units of its inputs."""
        return Sequential.rounding(self, self.domain.largest)[1]

    @property
    def step(self) -> str:
        return f"2^-{self.fraction_bits}"
