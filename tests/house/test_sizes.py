"""A file is one idea and a function one task: both are short."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "linfengine"
MOST_OF_A_FILE, MOST_OF_A_FUNCTION = 400, 60
LONG_FILES = ["verify.py"]  # the checker is one file on purpose
SOURCES = sorted(path for suffix in ("py", "pyi", "pyx", "pxd", "cu", "cuh") for path in PACKAGE.glob(f"**/*.{suffix}"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a Python or Cython file, and its number of lines."""
    text = path.read_text()
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1
        return
    # Cython: a function ends before the next line that is not indented more than its own
    for start in re.finditer(r"^( *)c?p?def (?!class )[^\n]*?(\w+)\(", text, re.MULTILINE):
        body = text[start.start() :]
        end = re.search(rf"\n(?= {{0,{len(start[1])}}}[^\s)#])", body)
        yield start[2], len(body[: end.start() if end else None].rstrip().splitlines())


@pytest.mark.parametrize("path", [path for path in SOURCES if path.name not in LONG_FILES], ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= MOST_OF_A_FILE


@pytest.mark.parametrize("path", [path for path in SOURCES if path.suffix in (".py", ".pyx")], ids=name_of)
def test_a_function_is_short(path: Path) -> None:
    assert [(name, lines) for name, lines in functions(path) if lines > MOST_OF_A_FUNCTION] == []


def test_functions_are_found_with_their_lines(tmp_path: Path) -> None:
    """In both languages, nested ones and methods too."""
    source = "class A:\n    def one(self,\n            x):\n        return 1\n\n\n"
    source += "def two():\n    def three():\n\n        pass\n    pass\n"
    for suffix in (".py", ".pyx"):
        (tmp_path / f"a{suffix}").write_text(source)
        assert sorted(functions(tmp_path / f"a{suffix}")) == [("one", 3), ("three", 3), ("two", 5)]
    (tmp_path / "c.pyx").write_text(
        "cdef inline double f(double x) noexcept nogil:\n    return x\n\ncpdef g():\n    pass\n"
    )
    assert list(functions(tmp_path / "c.pyx")) == [("f", 2), ("g", 2)]
