"""Exact nets: ℓ∞-dist nets that float32 evaluates without any rounding, from the input to the verdict."""

from ..domain import MOST_FRACTION_BITS
from .net import ExactNet
from .quantize import DEFAULT_FRACTION_BITS, quantize

__all__ = ["DEFAULT_FRACTION_BITS", "MOST_FRACTION_BITS", "ExactNet", "quantize"]
