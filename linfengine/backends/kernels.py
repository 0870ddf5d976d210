"""The list of kernels, `kernels.def`, as Python reads it; C++ includes the same file."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

LIST = Path(__file__).with_name("kernels.def")
TYPES = {"B": np.dtype(np.uint8), "i": np.dtype(np.int32), "d": np.dtype(np.float64)}  # T is a call's own


@dataclass(frozen=True)
class Argument:
    """One argument of a kernel: an array, or a number where `shape` is empty."""

    name: str
    type: str = ""
    shape: tuple[str, ...] = ()
    output: bool = False
    written: bool = False
    optional: bool = False

    def __str__(self) -> str:
        text = f"{self.name} ({', '.join(self.shape).replace('gk', 'groups*k')}{',' * (len(self.shape) == 1)})"
        text += f" of {TYPES[self.type]}" if self.type in TYPES else ""
        return text + " or None" * self.optional


@dataclass(frozen=True)
class Line:
    """One line of the list: `code` is the metric, slope or structure; parts have no signature, few have a file."""

    kind: str
    name: str
    code: str
    signature: str = ""
    file: str = ""

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        inputs, _, outputs = self.signature.partition(">")
        return (*_arguments(inputs, output=False), *_arguments(outputs, output=True))

    @property
    def takes(self) -> str:
        """The arrays that a call takes, in words."""
        arrays = [each for each in self.arguments if each.shape]
        own = ", all of float32 or all of float64" if any(each.type == "T" for each in arrays) else ""
        return ", ".join(map(str, arrays)) + own


def _arguments(text: str, *, output: bool) -> Iterable[Argument]:
    for token in text.split():
        name, type_, shape, mark = re.fullmatch(r"(\w+)(?::(\w)\((.*)\))?([!?]?)", token).groups()  # type: ignore[union-attr]
        array = (type_, tuple(shape.split(","))) if shape else ("", ())
        yield Argument(name, *array, output, output or mark == "!", mark == "?")


def read(text: str) -> tuple[Line, ...]:
    """The lines of a list."""
    lines = []
    for kind, inner in re.findall(r"^([A-Z_]+)\((.*)\)$", text, re.MULTILINE):
        names = re.findall(r"\w+", inner.partition('"')[0])
        quoted = {"file" if kind == "GPU_ITEM" else "signature": text for text in re.findall(r'"(.*)"', inner)}
        lines.append(Line(kind, names[0], names[1] if len(names) > 1 else "", **quoted))
    return tuple(lines)


LINES = read(LIST.read_text())
KERNELS = {line.name: line for line in LINES if line.kind in ("FORWARD", "BYTES", "STEP", "OPERATION")}


def forwards(interface: type, run: Callable[..., object], empty: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """A backend's functions for the kernels that are one metric: they make the outputs, and run the kernel.

    run(name, arrays, groups) computes the outputs, which `empty(shape, dtype)` has made and which end the arrays.
    """

    def function(kernel: Line) -> Callable[..., Any]:
        name, arguments = kernel.name, kernel.arguments
        count = sum(not each.output for each in arguments)
        weight = [each.shape for each in arguments].index(("o", "k"))
        types = [TYPES.get(each.type) for each in arguments if each.output]

        described = getattr(interface, name)
        signature = inspect.signature(described)
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])  # without self

        def forward(*given: Any, **named: Any) -> Any:
            if named or not count <= len(given) <= count + 1:
                given = signature.bind(*given, **named).args
            inputs, groups = given[:count], given[count] if len(given) > count else 1
            shape = len(inputs[0]), len(inputs[weight])
            outputs = tuple([empty(shape, type_ or inputs[0].dtype) for type_ in types])
            run(name, inputs + outputs, groups)
            return outputs[0] if len(outputs) == 1 else outputs

        forward.__name__ = forward.__qualname__ = name
        forward.__doc__ = described.__doc__
        forward.__signature__ = signature  # type: ignore[attr-defined]
        return forward

    return {kernel.name: function(kernel) for kernel in KERNELS.values() if kernel.kind in ("FORWARD", "BYTES")}
