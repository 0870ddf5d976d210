"""The training strategy at work: a net that learns in seconds, and what it loses without each part.

A part that is silently broken, as good as not there, costs nothing to leave out: these tests fail then.  Where a part
shows only under strain (a deep net, a high learning rate, a strong decay), it is put under it.  What is lost is
counted in held-out samples certified at ε = 0.1; the thresholds are about a third of what was measured.
"""

from pathlib import Path

import pytest

from linfengine.ablate import ablate
from linfengine.data import load_dataset
from linfengine.recipes import load_recipe

QUICK = [
    "width=96", "epochs=40", "ramp_start=10", "ramp_end=36", "identity=false", "held_out=300", "eps_test=0.1"
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "seeds", "lost"),
    [
        ([], 2, {"p_ramp": 0.25, "p_hold": 0.08, "mean_shift": 0.1, "cross_entropy": 0.25, "eps_margin": 0.015}),
        (["lr=0.2"], 2, {"cosine": 0.025}),
        (["depth=12", "identity=true"], 1, {"identity": 0.15}),
        (["loss=hinge", "weight_decay=0.5"], 2, {"lp_decay": 0.02}),
    ],
    ids=["plain", "high rate", "deep", "strong decay"],
)
def test_every_part_is_worth_something(settings: list[str], seeds: int, lost: dict[str, float], tmp_path: Path) -> None:
    recipe, digits = load_recipe("digits", [*QUICK, *settings]), load_dataset("digits")
    whole, *others = ablate(recipe, digits, lost, tmp_path, seeds=seeds)
    assert whole["certified"] > 0.65
    gains = {row["part"]: row["gain"] for row in others}
    assert {part: gain for part, gain in gains.items() if gain < lost[part]} == {}
