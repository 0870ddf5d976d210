"""The kernels of ceilings.cu, each under the name of the forward whose limit it is."""

from __future__ import annotations

from pathlib import Path

from linfengine.backends import cuda
from linfengine.backends.cuda import Kernel

FOLDER = Path(__file__).parent
CEILINGS = {
    what: Kernel("ceilings.cu", body, "Forward", "float", cuda.THREADS, blocks, body.startswith("lp_"), FOLDER)
    for what, body, blocks in (
        ("p = ∞ forward", "linf", 2),
        ("p = 8 forward", "lp_power_8", 2),
        ("p = 20.3 forward", "lp_general", 1),
    )
}
