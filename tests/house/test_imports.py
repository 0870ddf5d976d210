"""Imports point one way: a room may import the rooms below it, never one beside or above it; backends come last."""

import ast
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
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


def modules_imported(path: Path) -> Iterator[str]:
    """The files of the package that a file imports, by dotted name, imports inside functions and of types apart."""
    tree = ast.parse(path.read_text())
    package = ["linfengine", *path.relative_to(PACKAGE).parts[:-1]]
    late = {
        id(each) for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.If) for each in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level or id(node) in late:
            continue
        base = package[: len(package) - node.level + 1] + (node.module.split(".") if node.module else [])
        for alias in node.names:
            yield ".".join([*base, alias.name])
            yield ".".join(base)


def test_files_import_each_other_in_no_circle() -> None:
    """Within a room, too. What a folder's __init__ gathers counts as imported by those who import the folder."""
    names = {".".join(["linfengine", *path.relative_to(PACKAGE).with_suffix("").parts]): path for path in FILES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items() if path.suffix == ".py"}
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        own = name if path.name == "__init__.py" else name.rpartition(".")[0]
        graph[name] = {
            other for other in modules_imported(path) if other in names and other not in (name, own, "linfengine")
        }
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError, with the circle


def changes_of_others(path: Path) -> Iterator[str]:
    """Statements at the top of a file that change what it has imported: X[...] = ..., X.y = ..., X.update(...)."""
    tree = ast.parse(path.read_text())
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
        )
        for target in targets:
            if isinstance(target, ast.Subscript | ast.Attribute) and ast.unparse(target.value) in imported:
                yield ast.unparse(node)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield ast.unparse(node)


def test_registration_points_down() -> None:
    """Importing a file changes no other, but for what registers itself below: ops give the Tensor its operators."""
    found = {
        f"{path.relative_to(PACKAGE)}: {line}"
        for path in FILES
        if path.suffix == ".py"
        for line in changes_of_others(path)
    }
    assert found <= ALLOWED, found - ALLOWED


ALLOWED = {
    "ops/__init__.py: register_functions(OPS)",
    "backends/cpu.py: use_threads(default_threads())",  # a backend sets up itself
    "backends/cpu.py: register_with_threadpoolctl(_cpu.__file__)",
    "backends/gpu.py: device.check_device()",
    "backends/cpu.py: globals().update(forwards(Backend, _run, np.empty))",  # the functions that kernels.def lists
    "backends/gpu.py: globals().update(forwards(Backend, _run, xp.empty))",
}


def test_names_of_sections_stand_in_one_file() -> None:
    """A picture finds a section of an audit by a constant, not by its English title."""
    from linfengine.audit import SECTIONS

    for name in SECTIONS:
        holders = [path for path in FILES if f'"{name}"' in path.read_text()]
        assert len(holders) == 1, (name, holders)


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
