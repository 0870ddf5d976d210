"""l-infinity distance nets: train them, bound them, certify them. The names below, in the order of the story."""

try:
    from .tensor import Tensor, no_grad
except ModuleNotFoundError as error:
    if error.name != f"{__name__}.tensor":
        raise
    raise ImportError("linfengine is not compiled: run 'pip install -e .' in its source folder.") from error

from ._version import __version__
from .interval import Interval
from .ops import (
    abs,
    add,
    clip,
    concatenate,
    div,
    exp,
    getitem,
    linf_dist,
    log,
    log_softmax,
    logsumexp,
    lp_dist,
    matmul,
    max,
    maximum,
    mean,
    min,
    minimum,
    mul,
    neg,
    pad,
    power,
    relu,
    reshape,
    stack,
    sub,
    sum,
    tanh,
    transpose,
    unfold,
)

__all__ = [
    "Tensor",
    "no_grad",
    "linf_dist",
    "lp_dist",
    "add",
    "sub",
    "mul",
    "div",
    "neg",
    "power",
    "matmul",
    "exp",
    "log",
    "tanh",
    "relu",
    "abs",
    "maximum",
    "minimum",
    "clip",
    "sum",
    "mean",
    "max",
    "min",
    "logsumexp",
    "log_softmax",
    "reshape",
    "transpose",
    "getitem",
    "concatenate",
    "stack",
    "pad",
    "unfold",
    "Interval",
    "__version__",
]
