"""Evaluation belongs to a call, not to a net: the mode of one thread's calls, and the order p of its distances."""

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
    """A `with` block (of this thread or task) in which every net is in evaluation, its distance layers at order p.

    Within it `training` is False, whatever was set; the nets themselves do not change.
    """
    token = _evaluation_order.set(p)
    try:
        yield
    finally:
        _evaluation_order.reset(token)
