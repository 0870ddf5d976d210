"""Imports point one way: a room may import the rooms below it, never one beside or above it; backends come last."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import linfengine
from linfengine.backends import Backend, available_backends, get_backend, set_backend, use_backend

PACKAGE = Path(linfengine.__file__).parent
FLOORS = [  # from the ground up; what stands on one line does not know of each other
    {"_version", "errors", "startup", "text", "verify"},
    {"backends", "files", "units"},
    {"numbers", "rounding"},
    {"tensor"},
    {"interval"},
    {"domain"},
    {"ops"},
    {"data", "gradcheck", "layers", "losses", "optim", "schedules"},
    {"exact", "format1"},
    {"checkpoint"},
    {"certify", "recipes"},
    {"attack"},
    {"evaluate"},
    {"audit"},
    {"train"},
    {"plots"},
    {"cli"},
    {"__init__", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyx", ".pyi"))


def room_of(path: Path) -> str:
    """The module, or the folder, directly in the package."""
    return path.relative_to(PACKAGE).parts[0].split(".")[0]


def import_lines(path: Path) -> Iterator[ast.Import | ast.ImportFrom]:
    text = path.read_text()
    if path.suffix == ".pyx":  # only these lines are sure to be Python
        lines = re.findall(r"^\s*((?:from\s+\S+\s+)?c?import\s+.*?)\s*(?:#.*)?$", text, re.MULTILINE)
        text = "\n".join(line.replace("cimport", "import").removesuffix("(") for line in lines)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imported_rooms(path: Path) -> Iterator[str]:
    package = ["linfengine", *path.relative_to(PACKAGE).parts[:-1]]
    for node in import_lines(path):
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        else:
            base = package[: len(package) - node.level + 1] if node.level else []
            module = base + (node.module.split(".") if node.module else [])
            modules = [[*module, alias.name] for alias in node.names]
        yield from (parts[1] for parts in modules if parts[0] == "linfengine" and len(parts) > 1)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in FLOOR, f"say in FLOORS where {room} stands"
    for other in imported_rooms(path):
        if other in FLOOR and other != room:
            assert FLOOR[other] < FLOOR[room], f"{room} must not import {other}"


def test_the_rule_reads_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    for folder in ("ops", "cli"):
        (tmp_path / folder).mkdir()
    for name, text, rooms in [
        ("layers.py", "from . import data, losses\nfrom .ops import add\nimport numpy", ["data", "losses", "ops"]),
        ("ops/base.py", "from ..tensor import Tensor\nfrom .shape import pad", ["tensor", "ops"]),
        ("cli/train.py", "def f():\n    import linfengine.train\n    from linfengine import plots", ["train", "plots"]),
        ("tensor.pyx", "cimport cython\ncdef int x\nfrom .backends cimport y  # why\n", ["backends"]),
    ]:
        (tmp_path / name).write_text(text)
        assert list(imported_rooms(tmp_path / name)) == rooms


def run(program: str, **environment: str) -> str:
    """What a Python of its own prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True).stdout


def test_a_backend_is_imported_when_asked_for() -> None:
    """Nothing compiled but Tensor is needed by someone who uses the NumPy backend."""
    program = (
        "import sys, linfengine as le; le.linf_dist([[0.]], [[1.]]); print([m for m in sys.modules if '_cpu' in m])"
    )
    assert run(program, LINFENGINE_BACKEND="reference").strip() == "[]"


def test_a_missing_compiled_module_is_told_in_a_sentence() -> None:
    forget = "import sys; sys.modules['linfengine.{}'] = None\ntry: {}\nexcept ImportError as error: print(error)"
    backend = run(forget.format("backends._cpu", "from linfengine.backends import get_backend; get_backend('cpu')"))
    assert backend.startswith("the 'cpu' backend is not compiled: build it with 'pip install -e .'")
    assert run(forget.format("tensor", "import linfengine")).count("pip install -e .") == 1


def test_a_backend_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for use in (get_backend, set_backend):
        with pytest.raises(ValueError, match="no backend 'gpu9': choose one of reference, cpu"):
            use("gpu9")
    monkeypatch.setattr("linfengine.backends._default", "cuda")
    with pytest.raises(ValueError, match="no backend 'cuda'"):
        linfengine.linf_dist([[0.0]], [[1.0]])


def test_the_innermost_block_chooses_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("linfengine.backends._default", "none")
    set_backend("reference")
    assert get_backend().name == "reference"
    for name in available_backends():
        with use_backend(name) as outer:
            assert get_backend() is outer
            with use_backend("reference"):
                assert get_backend().name == "reference"
            assert get_backend().name == name


@pytest.mark.parametrize("name", available_backends())
def test_every_backend_fills_the_interface(name: str) -> None:
    backend = get_backend(name)
    assert backend.name == name
    for function, described in inspect.getmembers(Backend, inspect.isfunction):
        if not function.startswith("_"):
            expected = list(inspect.signature(described).parameters.values())[1:]  # without self
            actual = inspect.signature(getattr(backend, function)).parameters.values()
            assert [(p.name, p.default) for p in actual] == [(p.name, p.default) for p in expected]
