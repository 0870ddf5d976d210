"""ℓ∞-distance nets: train them, bound them, certify them. The public names, from tensors to model files.

Modules that take longer to load are imported by themselves: `linfengine.train`, `linfengine.certify`,
`linfengine.attack`, `linfengine.evaluate`, `linfengine.audit`. So is the checker `linfengine.verify`, which imports
nothing of the engine.
"""

from . import startup  # first, so that Ctrl-C works during the imports below

try:
    from .tensor import Tensor, no_grad, only_grad
except ModuleNotFoundError as error:
    if error.name != f"{__name__}.tensor":
        raise
    startup.refuse_uncompiled(__path__[0])

from ._version import __version__
from .checkpoint import load_model, save_model
from .data import load_dataset
from .domain import Domain
from .errors import UserError
from .exact import ExactNet, quantize
from .interval import Interval
from .layers import (
    CenterCrop,
    Dense,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    conv_net,
    evaluation,
    linf_net,
)
from .losses import cross_entropy, hinge, mixture, robust_cross_entropy
from .ops import OPS
from .ops.elementwise import *
from .ops.linf_dist import *
from .ops.lp_dist import *
from .ops.matmul import *
from .ops.reduce import *
from .ops.shape import *
from .optim import SGD, Adam

__all__ = [
    "Tensor",
    "no_grad",
    "only_grad",
    *OPS,
    "Interval",
    "Domain",
    "Module",
    "Normalize",
    "CenterCrop",
    "Flatten",
    "LinfDistDense",
    "LinfDistConv2d",
    "MeanShift",
    "Negate",
    "Dense",
    "ReLU",
    "Tanh",
    "Sequential",
    "linf_net",
    "conv_net",
    "evaluation",
    "ExactNet",
    "quantize",
    "cross_entropy",
    "hinge",
    "mixture",
    "robust_cross_entropy",
    "SGD",
    "Adam",
    "load_dataset",
    "load_model",
    "save_model",
    "UserError",
    "__version__",
]
