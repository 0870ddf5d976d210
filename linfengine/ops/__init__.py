"""The ops: the differentiable operations on Tensors, with bounds on Intervals.

`OPS` names all ops. Each has a public function of the same name in this package, and the operators and methods of a
Tensor use this table. To add an op, write one class, and one function under `@op` with its name in `__all__` of the
file. The tests run over the table.
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
