"""CIFAR-10's "Python version", read without running it.

A pickle is a program for a stack machine that may call any function. This machine knows only the opcodes that the
official files and their copies by Python 3 (protocols 2 to 4) use. It calls nothing: where a pickle calls NumPy, it
only stores the arguments. Only strings and names may be used twice, so the result is no larger than the file.
"""

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .arrays import Images, Labels
from .files import expect, length, read_bytes

INTEGERS = {pickle.BININT: 4, pickle.BININT1: 1, pickle.BININT2: 2}  # bytes of the integer; only that of 4 has a sign
STRINGS = {
    pickle.BINSTRING: 4,
    pickle.SHORT_BINSTRING: 1,
    pickle.BINBYTES: 4,
    pickle.SHORT_BINBYTES: 1,
}  # of the length
TEXTS = {pickle.BINUNICODE: 4, pickle.SHORT_BINUNICODE: 1}
PUTS = {pickle.BINPUT: 1, pickle.LONG_BINPUT: 4}  # bytes of the place in the memo
GETS = {pickle.BINGET: 1, pickle.LONG_BINGET: 4}
SKIPPED = {pickle.PROTO: 1, pickle.FRAME: 8}
CONSTANTS = {pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}
EMPTY = {pickle.EMPTY_DICT: dict, pickle.EMPTY_LIST: list, pickle.EMPTY_TUPLE: tuple}
TUPLES = {pickle.TUPLE1: 1, pickle.TUPLE2: 2, pickle.TUPLE3: 3}
NUMPY = {
    (module, name)
    for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
    for name in ("ndarray", "dtype", "_reconstruct")
}


class _Name:
    """Any of NumPy's names in a pickle."""


@dataclass(eq=False)
class _Call:
    """A call of NumPy that is not made: its arguments, and the state that the pickle sets on its result."""

    arguments: tuple[Any, ...]
    state: Any = None


def _parse(blob: bytes, most_steps: int) -> Any:
    """The dicts, lists, tuples, ints, strings and `_Call`s of a pickle. A fault is a ValueError or an IndexError."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        if size > len(blob) - at:
            raise ValueError(f"{size:,} bytes are announced where {len(blob) - at:,} are left")
        at += size
        return blob[at - size : at]

    def number(width: int, signed: bool = False) -> int:
        return int.from_bytes(take(width), "little", signed=signed)

    def line() -> str:
        return take(blob.index(b"\n", at) + 1 - at)[:-1].decode()

    def popped(count: int) -> list[Any]:
        items = stack[-count:]
        del stack[-count:]
        return items

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def last(kind: type) -> Any:
        if type(stack[-1]) is not kind:
            raise ValueError("an object is changed that cannot be")
        return stack[-1]

    for _ in range(most_steps):
        code = take(1)
        if code in INTEGERS:
            stack.append(number(INTEGERS[code], signed=code == pickle.BININT))
        elif code in STRINGS:
            stack.append(take(number(STRINGS[code])))
        elif code in TEXTS:
            stack.append(take(number(TEXTS[code])).decode())
        elif code in PUTS:
            memo[number(PUTS[code])] = stack[-1]
        elif code == pickle.MEMOIZE:
            memo[len(memo)] = stack[-1]
        elif code in GETS:
            stack.append(memo.get(number(GETS[code])))
            if type(stack[-1]) not in (bytes, str, _Name):
                raise ValueError("an object that is no string is used twice")
        elif code in SKIPPED:
            take(SKIPPED[code])
        elif code in CONSTANTS:
            stack.append(CONSTANTS[code])
        elif code in EMPTY:
            stack.append(EMPTY[code]())
        elif code == pickle.MARK:
            marks.append(len(stack))
        elif code == pickle.TUPLE:
            stack.append(tuple(since_mark()))
        elif code in TUPLES:
            stack.append(tuple(popped(TUPLES[code])))
        elif code in (pickle.APPEND, pickle.APPENDS):
            items = since_mark() if code == pickle.APPENDS else popped(1)
            last(list).extend(items)
        elif code in (pickle.SETITEM, pickle.SETITEMS):
            items = since_mark() if code == pickle.SETITEMS else popped(2)
            if any(type(key) not in (bytes, str) for key in items[::2]):
                raise ValueError("a key is no string")
            last(dict).update(zip(items[::2], items[1::2], strict=True))
        elif code in (pickle.GLOBAL, pickle.STACK_GLOBAL):
            module, name = (line(), line()) if code == pickle.GLOBAL else popped(2)
            if type(module) is not str or type(name) is not str:
                raise ValueError("a reference to what is no name is refused")
            if (module, name) not in NUMPY:
                raise ValueError(f"a reference to {f'{module}.{name}'[:80]!r} is refused")
            stack.append(_Name())
        elif code == pickle.REDUCE:
            function, arguments = popped(2)
            if type(function) is not _Name or type(arguments) is not tuple:
                raise ValueError("a call of something else than NumPy is refused")
            stack.append(_Call(arguments))
        elif code == pickle.BUILD:
            state = stack.pop()
            last(_Call).state = state
        elif code == pickle.STOP:
            return stack.pop()
        else:
            raise ValueError(f"opcode {code!r} is refused")
    raise ValueError(f"there are more than {most_steps:,} opcodes")


def read_cifar_pickle(path: Path, shape: tuple[int, ...]) -> tuple[Images, Labels]:
    """Images of ``shape`` (n, 3, 32, 32) and labels (n,) of a file of CIFAR-10's "Python version"."""
    n = shape[0]
    most = n * (3072 + 256) + 65536  # pixels; label, file name and their opcodes; what comes once
    blob = read_bytes(path, most)
    expect(len(blob) <= most, path, f"at most {most:,} bytes", length(blob, most))
    try:
        batch = _parse(blob, most_steps=8 * n + 1000)
    except (ValueError, IndexError) as error:
        reason = "its stack is empty" if isinstance(error, IndexError) else str(error)
        raise UserError(f"{path}: expected an official CIFAR-10 pickle, found another ({reason})") from None
    match batch:
        case {
            b"data": _Call(state=(_, (int(rows), 3072), _Call(arguments=(b"u1" | "u1", *_)), False, bytes(raw))),
            b"labels": list(labels),
        } if all(type(label) is int for label in labels):
            expect(rows == len(labels) == n, path, f"{n:,} images and labels", f"{rows:,} and {len(labels):,}")
            expect(len(raw) == 3072 * n, path, f"{3072 * n:,} bytes of pixels", f"{len(raw):,}")
            return np.frombuffer(raw, np.uint8).reshape(shape), np.array(labels, np.int64)
    form = "a dict with data, a C-ordered uint8 array of rows of 3,072 bytes, and labels, a list of int"
    raise UserError(f"{path}: expected an official CIFAR-10 pickle ({form}), found another")
