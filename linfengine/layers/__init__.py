"""Layers, and the nets made of them.

A layer maps a Tensor to a Tensor, and an Interval to bounds, with the same code. Distance layers use their p in
training and p = ∞ in evaluation. The first layer of a net, Normalize, maps its inputs to net units, so that a radius
can be stated in the units of the input.

Many threads may call a net at once: `evaluation()` puts the calls of one thread in evaluation and does not change the
net.
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
