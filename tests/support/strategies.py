"""Hypothesis strategies: float32 arrays, boxes, and points inside them."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from linfengine import Interval

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def arrays(shape: Shape | st.SearchStrategy[Shape], low: float = -100, high: float = 100) -> st.SearchStrategy[Array]:
    """float32 arrays with entries between low and high, both of which float32 holds."""
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32))


def shapes(max_dims: int = 3, max_side: int = 4) -> st.SearchStrategy[Shape]:
    """Shapes without an empty side, () among them."""
    return hnp.array_shapes(min_dims=0, max_dims=max_dims, min_side=1, max_side=max_side)


@st.composite
def boxes(draw: st.DrawFn, shape: Shape, low: float = -100, high: float = 100) -> Interval:
    """Boxes between low and high; some of their sides have no width."""
    a, b = draw(arrays(shape, low, high)), draw(arrays(shape, low, high))
    return Interval(np.minimum(a, b), np.maximum(a, b))


@st.composite
def points_in(draw: st.DrawFn, box: Interval) -> Array:
    """Points of a box, those on its faces and corners as likely as those inside."""
    box = box.to("cpu")
    t = draw(hnp.arrays(np.float32, box.shape, elements=st.sampled_from([0, 0, 1, 1, 0.5]) | st.floats(0, 1, width=32)))
    return np.clip(box.lower + t * (box.upper - box.lower), box.lower, box.upper).astype(np.float32)


@st.composite
def layers(draw: st.DrawFn, max_groups: int = 3) -> tuple[Array, Array, int]:
    """(x, w, groups) as linf_dist takes them: x (n, groups*k), w (o, k), o divisible by groups."""
    n, k, per_group = (draw(st.integers(1, 5)) for _ in range(3))
    groups = draw(st.integers(1, max_groups))
    return draw(arrays((n, groups * k))), draw(arrays((groups * per_group, k))), groups
