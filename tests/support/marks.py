"""Parameters that only a thorough run takes: `*map(thorough, [...])`."""

from functools import partial

import pytest

thorough = partial(pytest.param, marks=pytest.mark.thorough)
