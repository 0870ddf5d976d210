"""Find the Modules and Tensors among the attributes of a Module, and refuse those that are hidden."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType

import numpy as np

from ..backends import device_of
from ..domain import Domain
from ..tensor import Operand, Tensor


class Holder:
    """The base of Module, so that this file need not import it."""


@cache
def part_of_class(kind: type) -> str | None:
    """The name of a Module or Tensor that is an attribute of the class itself, if there is one."""
    attributes = (item for each in kind.__mro__ for item in vars(each).items())
    return next((name for name, value in attributes if isinstance(value, Holder | Operand)), None)


_PLAIN = (str, bytes, bool, int, float, type(None), np.generic, Domain)


def found(name: str, value: object, owner: Holder) -> Iterator[tuple[str, Holder | Tensor]]:
    """The Modules and Tensors in an attribute's value, each with its name."""
    if isinstance(value, Holder | Tensor):
        yield name, value
        return
    if isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            if not isinstance(each, _PLAIN):
                yield from found(f"{name}.{key}", each, owner)
        keys = [key for key in value if not isinstance(key, _PLAIN)] if isinstance(value, dict) else []
        value = keys + [*vars(value).values()] if hasattr(value, "__dict__") else keys
        if not value:
            return
    if not isinstance(value, _PLAIN) and not _is_numbers(value) and _hides(value):
        raise TypeError(
            f"{type(owner).__name__}: the attribute {name} hides a Module, a Tensor or an array: keep it as an "
            "attribute of its own, or in a list, tuple or dict"
        )


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind != "O" or device_of(value) == "cuda"


def _hides(value: object) -> bool:
    """Whether a Module, Tensor or float array can be reached from an object: attributes, elements, closure."""
    seen: set[int] = set()
    left: list[object] = [value]
    while left:
        each = left.pop()
        if isinstance(each, Holder | Operand) or (_is_numbers(each) and each.dtype.kind == "f"):  # type: ignore[attr-defined]
            return True
        if _is_numbers(each) or id(each) in seen or isinstance(each, (*_PLAIN, type, ModuleType)):
            continue
        seen.add(id(each))
        if isinstance(each, FunctionType):  # only the globals that it names
            named = [each.__globals__.get(name) for name in each.__code__.co_names]
            left += [each.__closure__, each.__defaults__, each.__kwdefaults__, each.__dict__, named]
        elif isinstance(each, np.ndarray):
            left += list(each.flat)
        elif isinstance(each, weakref.ref):
            left.append(each())
        else:
            left += gc.get_referents(each)
    return False
