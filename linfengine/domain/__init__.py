"""Domains: the shape, bounds, scale and grid of one input of a net. Nets check their inputs against them."""

from .box import MOST_FRACTION_BITS, Box, Shape, check_fraction_bits
from .domain import Domain, domain_from, domain_of

__all__ = ["MOST_FRACTION_BITS", "Box", "Domain", "Shape", "check_fraction_bits", "domain_from", "domain_of"]
