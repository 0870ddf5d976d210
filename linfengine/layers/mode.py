"""Evaluation as a property of calls, not of nets: the mode of one thread's calls, and the order p of distances."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_evaluation_order: ContextVar[float | None] = ContextVar("linfengine_evaluation_order", default=None)


def evaluation_order() -> float | None:
    """The order of distance layers in the `evaluation` block of this thread or task; None outside of one."""
    return _evaluation_order.get()


@contextmanager
def evaluation(p: float = math.inf) -> Iterator[None]:
    """A `with` block in which every net is in evaluation, with distance layers at order p, in this thread or task.

    Within the block `training` is False, whatever was set. The nets themselves do not change.
    """
    token = _evaluation_order.set(p)
    try:
        yield
    finally:
        _evaluation_order.reset(token)
