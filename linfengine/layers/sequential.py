"""Sequential: one layer after the other, which is what every net here is."""

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

    `domain` says what the net takes. A net that begins with Normalize and states none takes images of any size: uint8,
    or float32 pixels in [0, 1]; another takes floating-point numbers. Raises TypeError for a layer that is no Module.
    """

    def __init__(self, *layers: Module, domain: Domain | None = None) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} must be a Module, got {type(layer).__name__}")
        self.layers = layers
        self._domain = domain

    @property
    def domain(self) -> Domain | None:
        """What the net takes: stated, or known by its first layer."""
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
        """Logits z (n, classes), and how large z_j − z_label may get within `eps` (net units), 0 at the label.

        Where all layers are 1-Lipschitz at p = ∞ it is z_j − z_label + 2ε, as the losses know, and None is
        returned. The features before a head, the layers from the first linear one on, lie within ε of where they are;
        that ball's centre and radius go through the head. For training: with gradients, and no certificate.
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
        """As its last layer has it: linear layers bound the differences of logits, not the logits apart."""
        *body, last = self.layers
        if type(last).lowest_margins is Module.lowest_margins:
            return super().lowest_margins(x, labels)
        return last.lowest_margins(Sequential(*body, domain=self._domain)(x), labels)

    def lipschitz(self) -> float:
        return math.prod(layer.lipschitz() for layer in self.layers)

    def rounding(self, magnitude: float) -> tuple[float, float]:
        """A layer's error is added to the earlier ones, which its Lipschitz constant carries on."""
        return _rounding(self.layers, 0.0, magnitude)

    def within(self, scale: Array, magnitude: Array) -> tuple[float, float, float]:
        """(L, E, M) as `lipschitz` and `rounding`, where coordinate k moves by scale_k at most and |x_k| ≤ magnitude_k.

        Both are arrays of the shape of one input. Normalize looks at every coordinate, other layers at the largest.
        """
        if not (self.layers and isinstance(first := self.layers[0], Normalize)):
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
