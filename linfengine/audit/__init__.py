"""The audit: searches that try to break a net's certificates, and the engine that made them."""

from .attacks import attack_radii, random_net
from .referee import Referee
from .run import SECTIONS, audit
from .subject import ATTACK, FLOATING_POINT, LIPSCHITZ, RADII, Section, Subject

__all__ = [
    "ATTACK",
    "FLOATING_POINT",
    "LIPSCHITZ",
    "RADII",
    "SECTIONS",
    "Referee",
    "Section",
    "Subject",
    "attack_radii",
    "audit",
    "random_net",
]
