"""What a test tries by default, and what only a thorough run tries: `pytest -m "" --hypothesis-profile=thorough`.

The Hypothesis profiles "quick" and "thorough" are defined in tests/conftest.py, the marker "thorough" in setup.cfg.
"""

from typing import Any

import pytest
from hypothesis import settings

FEWEST = 5


def draws(count: int) -> settings:
    """`count` examples in the profile "thorough", and a tenth of them, but at least 5, in "quick"."""
    return settings(max_examples=max(FEWEST, count * settings().max_examples // 100))


def thorough(*values: Any) -> Any:
    """Values of a parameter that only a thorough run tries."""
    return pytest.param(*values, marks=pytest.mark.thorough)
