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


class _Machine:
    """The stack machine on the bytes of a pickle. A fault is a ValueError or an IndexError."""

    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def result(self, most_steps: int) -> Any:
        """The dicts, lists, tuples, ints, strings and `_Call`s that the pickle makes, in at most so many opcodes."""
        for _ in range(most_steps):
            code = self.take(1)
            if code == pickle.STOP:
                return self.stack.pop()
            if not (self.read_value(code) or self.use_memo(code) or self.build_value(code) or self.name_or_call(code)):
                raise ValueError(f"opcode {code!r} is refused")
        raise ValueError(f"there are more than {most_steps:,} opcodes")

    def take(self, size: int) -> bytes:
        if size > len(self.blob) - self.at:
            raise ValueError(f"{size:,} bytes are announced where {len(self.blob) - self.at:,} are left")
        self.at += size
        return self.blob[self.at - size : self.at]

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def line(self) -> str:
        return self.take(self.blob.index(b"\n", self.at) + 1 - self.at)[:-1].decode()

    def popped(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def last(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError("an object is changed that cannot be")
        return self.stack[-1]

    def read_value(self, code: bytes) -> bool:
        """Opcodes that put a value on the stack, or are skipped; False for others."""
        if code in INTEGERS:
            self.stack.append(self.number(INTEGERS[code], signed=code == pickle.BININT))
        elif code in STRINGS:
            self.stack.append(self.take(self.number(STRINGS[code])))
        elif code in TEXTS:
            self.stack.append(self.take(self.number(TEXTS[code])).decode())
        elif code in SKIPPED:
            self.take(SKIPPED[code])
        elif code in CONSTANTS:
            self.stack.append(CONSTANTS[code])
        elif code in EMPTY:
            self.stack.append(EMPTY[code]())
        else:
            return False
        return True

    def use_memo(self, code: bytes) -> bool:
        """Opcodes that store a value in the memo, or take it from there; False for others."""
        if code in PUTS:
            self.memo[self.number(PUTS[code])] = self.stack[-1]
        elif code == pickle.MEMOIZE:
            self.memo[len(self.memo)] = self.stack[-1]
        elif code in GETS:
            self.stack.append(self.memo.get(self.number(GETS[code])))
            if type(self.stack[-1]) not in (bytes, str, _Name):
                raise ValueError("an object that is no string is used twice")
        else:
            return False
        return True

    def build_value(self, code: bytes) -> bool:
        """Opcodes that make tuples, or fill lists and dicts; False for others."""
        if code == pickle.MARK:
            self.marks.append(len(self.stack))
        elif code == pickle.TUPLE:
            self.stack.append(tuple(self.since_mark()))
        elif code in TUPLES:
            self.stack.append(tuple(self.popped(TUPLES[code])))
        elif code in (pickle.APPEND, pickle.APPENDS):
            items = self.since_mark() if code == pickle.APPENDS else self.popped(1)
            self.last(list).extend(items)
        elif code in (pickle.SETITEM, pickle.SETITEMS):
            items = self.since_mark() if code == pickle.SETITEMS else self.popped(2)
            if any(type(key) not in (bytes, str) for key in items[::2]):
                raise ValueError("a key is no string")
            self.last(dict).update(zip(items[::2], items[1::2], strict=True))
        else:
            return False
        return True

    def name_or_call(self, code: bytes) -> bool:
        """Opcodes that name a function of NumPy, call it, or set the state of its result; False for others."""
        if code in (pickle.GLOBAL, pickle.STACK_GLOBAL):
            module, name = (self.line(), self.line()) if code == pickle.GLOBAL else self.popped(2)
            if type(module) is not str or type(name) is not str:
                raise ValueError("a reference to what is no name is refused")
            if (module, name) not in NUMPY:
                raise ValueError(f"a reference to {f'{module}.{name}'[:80]!r} is refused")
            self.stack.append(_Name())
        elif code == pickle.REDUCE:
            function, arguments = self.popped(2)
            if type(function) is not _Name or type(arguments) is not tuple:
                raise ValueError("a call of something else than NumPy is refused")
            self.stack.append(_Call(arguments))
        elif code == pickle.BUILD:
            state = self.stack.pop()
            self.last(_Call).state = state
        else:
            return False
        return True


def read_cifar_pickle(path: Path, shape: tuple[int, ...]) -> tuple[Images, Labels]:
    """Images of `shape` (n, 3, 32, 32) and labels (n,) of a file of CIFAR-10's "Python version"."""
    n = shape[0]
    most = n * (3072 + 256) + 65536  # pixels; label, file name and their opcodes; what comes once
    blob = read_bytes(path, most)
    expect(len(blob) <= most, path, f"at most {most:,} bytes", length(blob, most))
    try:
        batch = _Machine(blob).result(most_steps=8 * n + 1000)
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
