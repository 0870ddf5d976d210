"""Tables and sentences of results."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from rich.table import Table

from ..certify import Certificate
from ..evaluate import Evaluation
from ..recipes import PUBLISHED
from .output import say

BOUNDS = "% (95% Clopper–Pearson bounds)"  # the contents of the cells of a result table


def radius_text(eps: Fraction, images: bool = True) -> str:
    return f"{eps} = {float(255 * eps):g} gray levels" if images and eps.denominator > 1 else str(eps)


def tell_certificate(certificate: Certificate) -> None:
    say(f"ε = {radius_text(certificate.eps)}. Arithmetic: {certificate.arithmetic}.")
    say(f"Rests on {certificate.rests_on}.")


def accuracies(evaluation: Evaluation) -> tuple[float, float, float]:
    """(clean, attacked, certified) as fractions; attacked is NaN without an attack."""
    attacked = np.nan if evaluation.attacked is None else float(evaluation.attacked.mean())
    return float(evaluation.clean.mean()), attacked, float(evaluation.certified.mean())


def result_table(evaluations: Sequence[Evaluation], published: dict[str, float] | None = None) -> Table:
    """One row for each radius: clean, attacked and certified accuracy in percent, with Clopper–Pearson bounds.

    The last row has the published figures, if there are any.
    """
    table = Table()
    for heading in ("ε", "clean", "attacked", "certified"):
        table.add_column(heading, justify="right")
    for evaluation in evaluations:
        summary = evaluation.summary()
        cells = [
            f"{100 * summary[name]:.2f} ({100 * summary['bounds'][name][0]:.1f}–{100 * summary['bounds'][name][1]:.1f})"
            if name in summary
            else "–"
            for name in ("clean", "attacked", "certified")
        ]
        eps = evaluation.certificate.eps
        table.add_row(f"{eps} = {float(eps):.4g}" if eps.denominator > 1 else str(eps), *cells)
    if published:
        figures = (f"{published[key]:.2f}" if key in published else "–" for key in PUBLISHED)
        table.add_row("published", *figures)
    return table
