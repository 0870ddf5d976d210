"""Imports point one way: a room may import the rooms below it, never one beside or above it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import linfengine

PACKAGE = Path(linfengine.__file__).parent
FLOORS = [  # from the ground up; what stands on one line does not know of each other
    {"_version", "errors"},
    {"backends"},
    {"tensor"},
    {"interval"},
    {"ops"},
    {"certify", "data", "gradcheck", "layers", "losses", "optim", "schedules"},
    {"audit", "checkpoint"},
    {"recipes"},
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
    (tmp_path / "ops").mkdir()
    for name, text, rooms in [
        ("layers.py", "from . import data, losses\nfrom .ops import add\nimport numpy", ["data", "losses", "ops"]),
        ("ops/base.py", "from ..tensor import Tensor\nfrom .shape import pad", ["tensor", "ops"]),
        ("cli.py", "def f():\n    import linfengine.train\n    from linfengine import plots", ["train", "plots"]),
        ("tensor.pyx", "cimport cython\ncdef int x\nfrom .backends cimport y  # why\n", ["backends"]),
    ]:
        (tmp_path / name).write_text(text)
        assert list(imported_rooms(tmp_path / name)) == rooms
