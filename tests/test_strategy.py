"""The training strategy at work: a net that learns in a second, and what it loses without each part.

A part that is silently broken, as good as not there, costs nothing to leave out: these tests fail then.  Where a part
shows only under strain (a deep net, a high learning rate, a strong decay), it is put under it.  What is lost is
counted in held-out samples certified at ε = 0.1; thresholds are at most a third of the least that three seeds lost.
"""

from pathlib import Path

import pytest

from linfengine.ablate import ablate
from linfengine.data import load_dataset
from linfengine.recipes import load_recipe

QUICK = [
    "width=96", "epochs=40", "ramp_start=10", "ramp_end=36", "identity=false", "held_out=300", "eps_test=0.1"
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("settings", "lost"),
    [
        ([], {"p_ramp": 0.09, "p_hold": 0.05, "mean_shift": 0.06, "cross_entropy": 0.2, "eps_margin": 0.015}),
        (["lr=0.2"], {"cosine": 0.01}),
        (["depth=12", "identity=true"], {"identity": 0.14}),
        (["loss=hinge", "weight_decay=0.5"], {"lp_decay": 0.018}),
    ],
    ids=["plain", "high rate", "deep", "strong decay"],
)
def test_every_part_is_worth_something(settings: list[str], lost: dict[str, float], tmp_path: Path) -> None:
    recipe, digits = load_recipe("digits", [*QUICK, *settings]), load_dataset("digits")
    whole, *others = ablate(recipe, digits, lost, tmp_path)
    assert whole["certified"] > 0.6
    gains = {row["part"]: row["gain"] for row in others}
    assert {part: gain for part, gain in gains.items() if gain < lost[part]} == {}
