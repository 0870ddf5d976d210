"""The registry of layer kinds: every class that a file may name, and its properties.

The properties hold for the class itself, not for its subclasses, which may compute anything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from .module import Module

Class = TypeVar("Class", bound=type[Module])


@dataclass(frozen=True)
class Kind:
    """The properties of a layer class.

    exact       float32 rounds nothing on a grid: sums, differences, absolute values, maxima (Normalize: with std 1)
    checkable   the independent checker has a rule for it
    prunable    weights that never attain the maximum may be left out
    exportable  exchange formats have the operations it is made of
    """

    layer: type[Module]
    exact: bool = False
    checkable: bool = False
    prunable: bool = False
    exportable: bool = False


KINDS: dict[str, Kind] = {}


def layer_kind(**properties: bool) -> Callable[[Class], Class]:
    """A decorator that registers a layer class with these properties."""

    def register(layer: Class) -> Class:
        KINDS[layer.__name__] = Kind(layer, **properties)
        return layer

    return register


def kind_of(layer: Module) -> Kind:
    """The Kind of a layer's class. A class that is not registered itself, such as a subclass, has no properties."""
    known = KINDS.get(type(layer).__name__)
    return known if known and known.layer is type(layer) else Kind(type(layer))


def described(config: Any) -> Kind:
    """The Kind that a description names. Raises ValueError for an unknown one."""
    name = config.get("layer")
    if not isinstance(name, str) or name not in KINDS:
        raise ValueError(f"unknown layer {name!r}: expected one of {', '.join(sorted(KINDS))}")
    return KINDS[name]


def build(config: dict[str, Any]) -> Module:
    """The layer that `config()` described, with fresh parameters.

    Raises ValueError for an unknown layer or arguments that do not fit.
    """
    kind, name = described(config), config["layer"]
    arguments = {key: value for key, value in config.items() if key != "layer"}
    try:
        return kind.layer.built(arguments)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the description of a {name} layer does not fit: {error}") from None
