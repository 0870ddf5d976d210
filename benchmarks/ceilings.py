"""The kernels of ceilings.cu, a metric's step on registers alone, under the names that the benchmark gives its rows."""

from __future__ import annotations

from pathlib import Path

from linfengine.backends import cuda
from linfengine.backends.cuda import Kernel

FOLDER = Path(__file__).parent
CEILINGS = {
    what: Kernel("ceilings.cu", body, "Forward", "float", cuda.THREADS, 2, body.startswith("lp_"), FOLDER)
    for what, body in {
        "p = ∞ forward": "linf",
        "p = 8 forward": "lp_power_8",
        "p = 20.3 forward": "lp_general",
    }.items()
}
