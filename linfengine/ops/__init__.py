"""The ops: what Tensors and Intervals are computed with.

`OPS` names every op there is. Each has a public function of the same name in here, and the operators and methods of a
Tensor find theirs through this table. To add an op, write one class and one function under `@op`, with its name in
`__all__` of the file; the tests walk the same table.
"""

from ..tensor import register_functions
from .base import OPS, Op, apply, unbroadcast
from .elementwise import *
from .linf_dist import *
from .lp_dist import *
from .matmul import *
from .reduce import *
from .shape import *

register_functions(OPS)

__all__ = ["OPS", "Op", "apply", "unbroadcast", *OPS]
