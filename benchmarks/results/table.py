"""The rows of the results table in Markdown and LaTeX."""

from __future__ import annotations

from typing import Any

from benchmarks import output
from linfengine.recipes import PUBLISHED
from linfengine.train.budget import FITTED

UNRECORDED = {"machine": "a machine that was not recorded", "date": "–"}


def label(name: str, row: dict[str, Any]) -> str:
    """The name of a row: the recipe's name, and how the run differs from it."""
    if not row["changed"]:
        return name
    fitted = set(row["changed"]) <= set(FITTED)
    return f"{name}, fitted to a budget" if fitted else f"{name} with other {', '.join(row['changed'])}"


def results(rows: dict[str, Any], *, latex: bool = False) -> str:
    """The rows beside the published figures, in Markdown or in LaTeX, with where and when the runs were trained."""
    steps = ", ".join(sorted({str(row["pgd_steps"]) for row in rows.values()}))
    header = ["recipe", "ε", "net", "epochs", "minutes", "clean", f"PGD-{steps}", "certified", "exact", "published"]
    lines = [_line(name, row) for name, row in rows.items()]
    where: dict[str, list[str]] = {}
    for name, row in rows.items():
        place = row["trained"] or UNRECORDED
        where.setdefault(f"{place['machine']}, {place['date']}", []).append(name)
    notes = [f"{', '.join(names)}: trained on {place}." for place, names in where.items()]
    if latex:
        return "".join(f"% {output.latex_text(note)}\n" for note in notes) + output.latex(header, lines)
    return output.markdown(header, lines) + "\n\n" + "\n".join(notes)


def _line(name: str, row: dict[str, Any]) -> list[str]:
    recipe, bounds = row["recipe"], row["bounds"]["certified"]
    size = f"{recipe['depth']} × {recipe['width']}" if recipe["net"] == "dense" else f"conv {recipe['channels']}"
    published = [f"{recipe['published'][key]:.2f}" if key in recipe["published"] else "–" for key in PUBLISHED]
    return [
        name,
        row["eps"],
        size + (f" + {recipe['head']}" if recipe["head"] else ""),
        str(recipe["epochs"]),
        f"{row['seconds'] / 60:.0f}",
        f"{100 * row['clean']:.2f}",
        f"{100 * row['attacked']:.2f}",
        f"{100 * row['certified']:.2f} ({100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})",
        f"{100 * row['exact']['certified']:.2f}" if "exact" in row else "–",
        " / ".join(published),
    ]
