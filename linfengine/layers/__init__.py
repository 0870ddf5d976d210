"""Layers, and the nets made of them.

A layer is called with a Tensor and gives a Tensor; called with an Interval it gives bounds, and no layer has to know
which. Distance layers use their p in training and always p = ∞ in evaluation. A net's first layer, Normalize, brings
its inputs to net units, so that every radius can be stated in the units of the input.

A net may be called by many threads at once: `evaluation()` puts the calls of one thread in evaluation and changes
nothing of the net.
"""

from .distance import DistanceLayer, LinfDistConv2d, LinfDistDense
from .linear import Dense
from .mode import evaluation
from .module import CLAIMS, Input, Module, overridden
from .nets import conv_net, linf_net
from .pixels import CenterCrop, Flatten, Normalize
from .pointwise import MeanShift, Negate, ReLU, Tanh
from .registry import KINDS, Kind, build, kind_of, layer_kind
from .sequential import Sequential

__all__ = [
    "CLAIMS",
    "KINDS",
    "CenterCrop",
    "Dense",
    "DistanceLayer",
    "Flatten",
    "Input",
    "Kind",
    "LinfDistConv2d",
    "LinfDistDense",
    "MeanShift",
    "Module",
    "Negate",
    "Normalize",
    "ReLU",
    "Sequential",
    "Tanh",
    "build",
    "conv_net",
    "evaluation",
    "kind_of",
    "layer_kind",
    "linf_net",
    "overridden",
]
