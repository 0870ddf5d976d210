"""Tables in Markdown and LaTeX, and records in JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from linfengine.files import write_file

LATEX = str.maketrans({
    "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "ε": r"$\varepsilon$", "×": r"$\times$", "–": "--",
})  # fmt: skip


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table. The first column is aligned left, the others right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def latex(header: list[str], rows: list[list[str]]) -> str:
    """The same table as a LaTeX tabular. It needs the package booktabs."""
    first, *body = (" & ".join(map(latex_text, line)) + r" \\" for line in (header, *rows))
    columns = "l" + "r" * (len(header) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", first, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}", ""])


def latex_text(text: str) -> str:
    return text.translate(LATEX)


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write a record as a file of JSON."""
    write_file(path, json_text(record).encode())


def json_text(record: dict[str, Any]) -> str:
    """A record as JSON, with each innermost list or object on one line."""
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", _on_one_line, json.dumps(record, indent=1, ensure_ascii=False)) + "\n"


def _on_one_line(found: re.Match[str]) -> str:
    return re.sub(r"\n *", "", re.sub(r",\n *", ", ", found[0]))
