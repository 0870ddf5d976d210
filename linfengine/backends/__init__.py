"""The rooms where the arithmetic of the distance neurons happens: one short interface, one module per backend.

A backend is a module with exactly the names of `Backend` below, working on arrays and knowing nothing of a Tensor.
Code above asks `get_backend()` (or `backend_of(*arrays)`) and never which one it got. Backends are imported when they
are first asked for, so the pure NumPy one works where nothing has been compiled.

The current backend is, in this order: the innermost `use_backend` block, the last `set_backend`, the environment
variable LINFENGINE_BACKEND, and otherwise "cpu". It decides where new Tensors are made, and what computes on NumPy
arrays; arrays on a GPU are computed on by "gpu" whichever is the current one.
"""

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

Needs: TypeAlias = tuple[bool, bool]  # whether the gradients of x and of w are wanted
Gradients: TypeAlias = tuple[Any, Any]  # the arrays for x and for w, None where not wanted

NAMES = ("reference", "cpu", "gpu")
DEVICES = ("cpu", "cuda")  # where arrays are

NO_GPU = "the GPU cannot be used: "  # an ImportError begins, and goes on with the reason

NO_WINNER = -(2**31)  # see Backend.linf_dist_argmax


class Backend(Protocol):
    """What every backend module offers.

    x is (n, groups*k), w is (o, k) with o divisible by groups; output o of group q sees columns q*k:(q+1)*k of x.
    Arrays are float32 or float64, all of one dtype, C-contiguous and not empty: the caller has checked that. "cpu"
    looks again, and raises ValueError rather than read or write outside of an array. The distances raise
    FloatingPointError when x or w holds NaN or infinity.
    """

    @property
    def name(self) -> str:
        """The backend's name, as `get_backend` takes it."""

    @property
    def xp(self) -> Any:
        """The array module whose functions work on this backend's arrays: numpy or cupy."""

    def linf_dist(self, x: Array, w: Array, groups: int = 1) -> Array:
        """y[n, o] = max_k |x[n, k] - w[o, k]|, exact up to the one rounding of x - w."""

    def dead_zone(self, x: Array, above: Array, below: Array, groups: int = 1) -> Array:
        """y[n, o] = max_k max(x[n, k] - above[o, k], below[o, k] - x[n, k], 0), uint8, where above >= below.

        The distance of bytes, |x - w| at above = below = w; see `linfengine.exact` for what the dead zone is good for.
        """

    def linf_dist_argmax(self, x: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
        """The same y, and as int32 where it is reached, at the lowest k (0..k-1, within the group) of several:

        winner[n, o] = k where x > w there, ~k where x < w, and NO_WINNER where y = 0.
        """

    def linf_dist_backward(
        self, g: Array, winner: Array, k: int, groups: int = 1, needs: Needs = (True, True)
    ) -> Gradients:
        """(grad_x, grad_w): g[n, o]*sign(x - w) goes to the winning column of x, its negative to that of w[o]."""

    def linf_dist_bounds(self, lower: Array, upper: Array, w: Array, groups: int = 1) -> tuple[Array, Array]:
        """For lower <= x <= upper: (max_k max(lower - w, w - upper, 0), max_k max(|lower - w|, |upper - w|))."""

    def lp_dist(self, x: Array, w: Array, p: float, groups: int = 1) -> Array:
        """y[n, o] = (sum_k |x[n, k] - w[o, k]|^p)^(1/p) for a finite p >= 1; no power overflows."""

    def lp_dist_backward(
        self, g: Array, x: Array, w: Array, y: Array, p: float, groups: int = 1, needs: Needs = (True, True)
    ) -> Gradients:
        """(grad_x, grad_w): sign(d)*(|d|/y)^(p-1)*g with d = x - w, and its negative; nothing where y is 0."""

    def matmul(self, x: Array, y: Array) -> Array:
        """z[n, m] = sum_k x[n, k] y[k, m]; x and y need not be contiguous. "cpu" and "gpu" sum in an order fixed by
        the shapes."""

    def add_at(self, total: Array, key: Any, parts: Array) -> None:
        """total[key] += parts, one after the other where the key names an entry more than once."""

    def channel_sums(self, x: Array) -> Array:
        """sums[c] = sum over i and m of x[i, c, m], added up in float64 and returned so.

        Off by less than 2^-53 n m times the sum of the magnitudes: rounded to float32, right to the last place or its
        neighbour unless the terms cancel. "cpu" sums in an order fixed by the shape.
        """

    def adam_step(
        self,
        param: Array,
        grad: Array,
        m: Array,
        v: Array,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        step: int,
    ) -> None:
        """One Adam step (counted from 1) that writes into param, m and v:

        m = beta1*m + (1-beta1)*grad;  v = beta2*v + (1-beta2)*grad^2;
        param -= lr * (m/(1-beta1^step)) / (sqrt(v/(1-beta2^step)) + eps).
        """

    def lp_decay(self, w: Array, p: float, amount: float) -> None:
        """In place, for every row of w (o, k):  w_k -= amount*|w|_p*(|w_k|/|w|_p)^(p-1)*sign(w_k);  p in [1, inf].

        At p = inf only the largest |w_k| of a row decays, the first of several. A row of zeros stays.
        """


_default = os.environ.get("LINFENGINE_BACKEND") or "cpu"
_override: ContextVar[str | None] = ContextVar("linfengine_backend", default=None)


@functools.cache
def _load(name: str) -> Backend:
    if name not in NAMES:
        raise ValueError(f"there is no backend {name!r}: choose one of {', '.join(NAMES)}.")
    try:
        return cast(Backend, importlib.import_module(f"{__name__}.{name}"))
    except ImportError as error:
        if name == "gpu":
            raise ImportError(f"{NO_GPU}{error}") from None
        if not (error.name or "").startswith(__name__):
            raise
        raise ImportError(
            f"the {name!r} backend is not compiled: build it with 'pip install -e .' in the source folder, "
            "or choose the NumPy one with LINFENGINE_BACKEND=reference."
        ) from error


def get_backend(name: str | None = None) -> Backend:
    """The backend of that name, or the current one.

    Raises ValueError for a name that is none, ImportError when its compiled part, CuPy or a device is missing.
    """
    return _load(name or _override.get() or _default)


def set_backend(name: str) -> None:
    """Make a backend the current one of the whole process. Raises as `get_backend`."""
    global _default
    _load(name)
    _default = name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[Backend]:
    """A `with` block (of this thread or task) inside which a backend is the current one. Raises as `get_backend`."""
    backend = _load(name)
    token = _override.set(name)
    try:
        yield backend
    finally:
        _override.reset(token)


def available_backends() -> list[str]:
    """The names of the backends that work here: compiled ones where they have been built, "gpu" where there is one."""

    def works(name: str) -> bool:
        try:
            return _load(name).name == name
        except ImportError:
            return False

    return [name for name in NAMES if works(name)]


def backend_of(*arrays: Any) -> Backend:
    """The backend for these arrays: "gpu" for those on a GPU, for NumPy's the current one, or "cpu" if that is "gpu".

    Raises TypeError for arrays on different devices.
    """
    for array in arrays:
        if type(array) is not np.ndarray:
            break
    else:
        name = _override.get() or _default
        return _load("cpu" if name == "gpu" and arrays else name)
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for array in arrays:
        shapes.setdefault(device_of(array), []).append(array.shape)
    if len(shapes) > 1:
        where = " and ".join(f"{', '.join(map(str, each))} on {device}" for device, each in shapes.items())
        raise TypeError(f"arrays on different devices do not mix, move them with .to('cuda') or .to('cpu'): {where}.")
    return _load("gpu") if "cuda" in shapes else backend_of(np.empty(0))


def check_step(param: Array, grad: Array, m: Array, v: Array) -> None:
    """Raises ValueError unless an optimizer's arrays agree in shape and dtype and can be changed in place."""
    kinds = {(each.shape, each.dtype) for each in (param, grad, m, v)}
    if len(kinds) > 1:
        found = ", ".join(f"{each.dtype} {each.shape}" for each in (param, grad, m, v))
        raise ValueError(f"param, grad, m and v must have one shape and one dtype, got {found}")
    if not all(each.flags.c_contiguous for each in (param, m, v)):
        raise ValueError("param, m and v must be C-contiguous, to be changed in place")


def device_of(array: Any) -> str:
    """Where an array is: "cuda" for one on a GPU, else "cpu"."""
    return "cuda" if type(array) is not np.ndarray and hasattr(type(array), "__cuda_array_interface__") else "cpu"


def default_device() -> str:
    """Where a Tensor is made of numbers that are nowhere yet: on the current backend's device."""
    return "cuda" if (_override.get() or _default) == "gpu" else "cpu"


def resolve_device(name: str) -> str:
    """The device of that name, "cpu" or "cuda"; "auto" is "cuda" where a GPU can be used.

    Raises ValueError for another name, ImportError, with the reason, for "cuda" where no GPU can be used.
    """
    if name not in (*DEVICES, "auto"):
        raise ValueError(f"there is no device {name!r}: choose one of {', '.join(DEVICES)} or auto.")
    if name == "auto":
        return "cuda" if "gpu" in available_backends() else "cpu"
    if name == "cuda":
        _load("gpu")
    return name


def to_device(array: Any, device: str) -> Any:
    """The array itself if it is on that device ("cpu" or "cuda"), else a copy there. Raises as `resolve_device`."""
    if device_of(array) == device:
        return array
    if resolve_device(device) == "cuda":
        return _load("gpu").xp.asarray(array)
    return array.get()


def to_numpy(array: Any) -> Array:
    """The array itself if it is NumPy's, else a copy on the CPU."""
    return cast(Array, to_device(array, "cpu"))


def describe_fault(error: BaseException) -> str | None:
    """What to do about an error of the GPU, in a sentence without its full stop; None for any other error."""
    gpu = sys.modules.get(f"{__name__}.gpu")
    return gpu.describe_fault(error) if gpu else None
