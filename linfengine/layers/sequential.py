"""Sequential: a net of layers, one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backends import Array
from ..domain import Domain, domain_from
from ..interval import Interval
from ..ops.base import Result
from ..rounding import LARGEST
from ..tensor import Operand, Tensor
from .module import Input, Module
from .pixels import Normalize
from .registry import build, described, layer_kind

_PIXELS = Domain.pixels()


@layer_kind(exportable=True)
class Sequential(Module):
    """One layer after the other; its Lipschitz constant is the product of theirs.

    `domain` says what the net takes. Without one, a net that begins with Normalize takes images of any size (uint8, or
    float32 pixels in [0, 1]), and any other net takes floating-point arrays. Raises TypeError for a layer that is no
    Module.
    """

    def __init__(self, *layers: Module, domain: Domain | None = None) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} must be a Module, got {type(layer).__name__}")
        self.layers = layers
        self._domain = domain

    @property
    def domain(self) -> Domain | None:
        """What the net takes: as stated, or as its first layer implies."""
        if self._domain is not None or not self.layers:
            return self._domain
        first = self.layers[0]
        return _PIXELS if isinstance(first, Normalize) else getattr(first, "domain", None)

    @property
    def device(self) -> str:
        for layer in self.layers:
            for value in vars(layer).values():
                if isinstance(value, Tensor):
                    return value.device
        return super().device

    def _held(self) -> Iterator[tuple[str, Any]]:
        return ((name.removeprefix("layers."), each) for name, each in super()._held())

    def __call__(self, x: Input) -> Result:
        if (domain := self.domain) is not None:
            x = domain.take(x, self)
        elif not isinstance(x, Operand):
            if getattr(x, "dtype", np.dtype(float)).kind != "f":
                raise TypeError(f"a net that does not begin with Normalize takes floating-point numbers, got {x.dtype}")
            x = Tensor(x, device=self.device)
        for layer in self.layers:
            x = layer(x)
        return x

    def worst_case(self, x: Input, labels: Array, eps: float) -> tuple[Tensor, Tensor | None]:
        """Logits z (n, classes), and the largest z_j − z_label within `eps` (net units), 0 at the label.

        If all layers are 1-Lipschitz at p = ∞, this is z_j − z_label + 2ε, which the losses compute themselves: the
        second result is None. Otherwise the layers from the first linear one on are the head. The features before it
        move by at most ε; centre and radius of that ball are propagated through the head. For training: with gradients,
        and not a certificate.
        """
        first = next((i for i, layer in enumerate(self.layers) if hasattr(layer, "worst_differences")), None)
        if first is None:
            return self(x), None
        *middle, last = self.layers[first:]
        centre = point = Sequential(*self.layers[:first], domain=self._domain)(x)
        radius: Tensor | float = float(eps)
        for layer in middle:
            value = layer(point)
            centre, radius = layer.ball(centre, radius, value if centre is point else layer(centre))
            point = value
        return last(point), last.worst_differences(centre, radius, labels)  # type: ignore[attr-defined]

    def lowest_margins(self, x: Interval, labels: Array) -> Array:
        """As in the last layer: a linear layer bounds the differences of logits instead of the logits."""
        *body, last = self.layers
        if type(last).lowest_margins is Module.lowest_margins:
            return super().lowest_margins(x, labels)
        return last.lowest_margins(Sequential(*body, domain=self._domain)(x), labels)

    def lipschitz(self) -> float:
        return math.prod(layer.lipschitz() for layer in self.layers)

    def rounding(self, magnitude: float) -> tuple[float, float]:
        """Each layer multiplies the error so far by its Lipschitz constant and adds its own."""
        return _rounding(self.layers, 0.0, magnitude)

    def within(self, scale: Array, magnitude: Array) -> tuple[float, float, float]:
        """(L, E, M) as `lipschitz` and `rounding`, where coordinate k moves by scale_k at most and |x_k| ≤ magnitude_k.

        Both are arrays of the shape of one input. Normalize uses every coordinate, the other layers the largest.
        """
        if not (self.layers and type(first := self.layers[0]) is Normalize):  # a subclass may compute anything
            return self.lipschitz() * float(np.max(scale)), *self.rounding(float(np.max(magnitude)))
        lipschitz, error, size = first.within(scale, magnitude)
        others = self.layers[1:]
        return math.prod([lipschitz, *(layer.lipschitz() for layer in others)]), *_rounding(others, error, size)

    def config(self) -> dict[str, Any]:
        domain = {} if self._domain is None else {"domain": self._domain.config()}
        return {"layer": "Sequential", **domain, "layers": [layer.config() for layer in self.layers]}

    @classmethod
    def built(cls, arguments: dict[str, Any]) -> Module:
        domain = arguments.pop("domain", None)
        layers = map(build, arguments.pop("layers"))
        return cls(*layers, domain=None if domain is None else domain_from(domain), **arguments)

    @classmethod
    def numbers_in(cls, config: dict[str, Any]) -> int:
        return sum(described(each).layer.numbers_in(each) for each in config["layers"])

    def __repr__(self) -> str:
        layers = "".join(f"\n{i}: {layer!r}" for i, layer in enumerate(self.layers)).replace("\n", "\n  ")
        return f"{type(self).__name__}({layers}\n)"


def _rounding(layers: Sequence[Module], error: float, magnitude: float) -> tuple[float, float]:
    """(E, M) after these layers, before which it is (error, magnitude)."""
    for layer in layers:
        own, bound = layer.rounding(magnitude + error)
        if not bound <= LARGEST:
            return math.inf, math.inf
        error, magnitude = error * layer.lipschitz() + own, bound
    return error, magnitude
