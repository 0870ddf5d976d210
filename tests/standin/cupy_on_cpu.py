"""A stand-in for CuPy where there is no GPU: NumPy does the arithmetic, and g++ compiles the CUDA kernels.

It is as strict as CuPy about what is on the device. No operation mixes its arrays with NumPy's, nothing comes back to
the host unasked, and what would be a NumPy scalar is an array without axes. Where the real CuPy can be imported, which
takes no GPU, only its names exist here and calls must fit its signatures. In doubt the stand-in refuses.

`install` puts it into the place of the module `cupy`.
"""

import ctypes
import functools
import hashlib
import importlib
import importlib.machinery
import inspect
import math
import operator
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

try:
    REAL: Any = importlib.import_module("cupy")
except ImportError:
    REAL = None

CXX = shlex.split(os.environ.get("CXX") or "g++")
COMPILER = sys.platform == "linux" and shutil.which(CXX[0])
LIBASAN = subprocess.getoutput(shlex.join([*CXX, "-print-file-name=libasan.so"])) if COMPILER else ""
SHIM = Path(__file__).with_name("cuda_on_cpu.hpp")

SCALARS = (bool, int, float, complex, np.generic)
UNSUPPORTED = "Unsupported type {}"
IMPLICIT = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)

# Functions that answer with a number, a tuple or a dtype of the host.
ANSWERS = {
    "broadcast_shapes", "can_cast", "common_type", "iscomplexobj", "isdtype", "isrealobj", "isscalar", "issubdtype",
    "may_share_memory", "min_scalar_type", "ndim", "promote_types", "result_type", "shape", "shares_memory", "size",
}  # fmt: skip
# Functions whose order of equal elements is that of the array, always.
SORTS = {"argsort", "sort"}
# Parameters of functions by which CuPy means its own arrays, and no list.
ARRAY_PARAMETERS = {"a", "array", "arr", "ary", "condition", "m", "x"}

# Methods that are NumPy's, by the parameters that CuPy gives them.
METHODS = {
    "": "nonzero",
    "*axes": "transpose",
    "*shape, order='C', copy=None": "reshape",
    "axis1, axis2": "swapaxes",
    "axis=-1, kind=None": "argsort sort",
    "axis=None": "squeeze",
    "axis=None, dtype=None, out=None": "cumsum",
    "axis=None, dtype=None, out=None, ddof=0, keepdims=False": "std var",
    "axis=None, dtype=None, out=None, keepdims=False": "mean sum",
    "axis=None, dtype=None, out=None, keepdims=None": "prod",
    "axis=None, out=None, dtype=None, keepdims=False": "argmax argmin",
    "axis=None, out=None, keepdims=False": "all any max min",
    "b, out=None": "dot",
    "decimals=0, out=None": "round",
    "dtype, order='K', casting=None, subok=None, copy=True": "astype",
    "dtype=None, type=None": "view",
    "indices, axis=None, out=None": "take",
    "min=None, max=None, out=None": "clip",
    "offset=0, axis1=0, axis2=1": "diagonal",
    "order='C'": "copy flatten ravel",
    "repeats, axis=None": "repeat",
    "value": "fill",
}

UNARY = {"abs": "absolute", "invert": "invert", "neg": "negative", "pos": "positive"}
BINARY = {
    "add": "add", "and": "bitwise_and", "divmod": "divmod", "floordiv": "floor_divide", "lshift": "left_shift",
    "matmul": "matmul", "mod": "remainder", "mul": "multiply", "or": "bitwise_or", "pow": "power",
    "rshift": "right_shift", "sub": "subtract", "truediv": "true_divide", "xor": "bitwise_xor",
}  # fmt: skip
COMPARISONS = {
    "eq": "equal", "ge": "greater_equal", "gt": "greater", "le": "less_equal", "lt": "less", "ne": "not_equal",
}  # fmt: skip


def leaves(value: Any) -> Iterator[Any]:
    """The values in nested lists, tuples and dictionaries."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            yield from leaves(each)
    else:
        yield value


def fit(name: str, signature: inspect.Signature, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments by the names of the parameters; raises TypeError where they do not fit."""
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def to_host(value: Any) -> Any:
    """What NumPy gets to see of an argument, which must hold no array of the host."""
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(UNSUPPORTED.format(type(value)))
    if isinstance(value, dict):
        return {key: to_host(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_host(each) for each in value)
    return value


def owner(host: Any) -> Any:
    """Whose memory it is."""
    while getattr(host, "base", None) is not None:
        host = host.base
    return host


def to_device(result: Any, *arguments: Any) -> Any:
    """A result of NumPy as CuPy would return it: an argument itself, a view of one, or memory of exactly its size."""
    if isinstance(result, (list, tuple)):
        each = [to_device(one, *arguments) for one in result]
        return type(result)(*each) if hasattr(result, "_fields") else type(result)(each)
    if not isinstance(result, (*SCALARS, np.ndarray)):
        return result
    host = np.asarray(result)
    for argument in leaves(arguments):
        if isinstance(argument, ndarray):
            if argument._host is host:
                return argument
            if owner(argument._host) is owner(host):
                return _wrap(host, argument if argument.base is None else argument.base)
    return _wrap(host if host.base is None else host.copy(order="K"))


def compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs), on the host and silent about overflow and the like, as a GPU is."""
    out = kwargs.get("out")
    if isinstance(out, ndarray):
        for argument in leaves(args):
            refuse_overlap(argument, out)
    with np.errstate(all="ignore"):
        return to_device(function(*to_host(args), **to_host(kwargs)), args, kwargs)


def refuse_overlap(source: Any, target: "ndarray") -> None:
    """A GPU reads and writes in no order, so that what it writes may be shared elementwise or not at all."""
    if isinstance(source, ndarray) and np.shares_memory(source._host, target._host):
        layouts = [(each.data.ptr, each.shape, each.strides) for each in (source, target)]
        if layouts[0] != layouts[1]:
            raise ValueError("a GPU would read and write these overlapping arrays in no particular order")


def _wrap(host: np.ndarray, base: "ndarray | None" = None) -> "ndarray":
    if host.dtype.kind not in "biufc" or host.itemsize > 16 or host.dtype == np.longdouble:
        raise ValueError(f"Unsupported dtype {host.dtype}")
    array = object.__new__(ndarray)
    array._host, array.base = host, base
    return array


def spoil(host: np.ndarray) -> None:
    """Fill with large numbers what nobody has written yet, or nobody owns any more."""
    host.ravel("K").view(np.uint8)[...] = 1 if host.dtype == bool else 0x7F


class Copy:
    """A copy to the host that has been queued: it arrives when the host waits for it."""

    queue: "list[Copy]" = []

    def __init__(self, out: np.ndarray, host: np.ndarray) -> None:
        self._out, self._host = out, host.copy()
        spoil(out)
        self.queue.append(self)

    @classmethod
    def arrive(cls, copies: "Sequence[Copy] | None" = None) -> None:
        """Finish those copies, or all."""
        for each in [each for each in cls.queue if copies is None or each in copies]:
            each._out[...] = each._host
            cls.queue.remove(each)


class ndarray:
    """`cupy.ndarray`, in the memory of a NumPy array."""

    __slots__ = ("__weakref__", "_host", "base")
    __hash__ = None  # type: ignore[assignment]
    __array_priority__ = 100

    _host: np.ndarray
    base: "ndarray | None"
    dtype: np.dtype
    itemsize: int
    nbytes: int
    ndim: int
    size: int
    strides: tuple[int, ...]

    def __init__(self, shape: Any, dtype: Any = float, *, order: Any = "C") -> None:
        self._host, self.base = np.empty(shape, dtype, order or "C"), None
        spoil(self._host)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._host.shape

    @shape.setter
    def shape(self, shape: Any) -> None:
        self._host = self._host.view()
        self._host.shape = shape

    @property
    def T(self) -> "ndarray":
        return self if self.ndim < 2 else to_device(self._host.T, self)

    @property
    def flags(self) -> SimpleNamespace:
        flags = self._host.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=self.base is None
        )

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self._host.ctypes.data, device=self.device, device_id=0)

    @property
    def device(self) -> "Device":
        return Device(0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "stream": 1,
            "version": 3,
            "strides": None if self.flags.c_contiguous else self.strides,
            "data": (self.data.ptr if self.size else 0, False),
        }

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True) -> np.ndarray:
        if blocking or out is None:
            Copy.arrive()
        if out is None:
            return self._host.copy(order=order)  # type: ignore[arg-type]
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.dtype != self.dtype:
            raise TypeError(f"{out.dtype} array cannot be obtained from {self.dtype} array")
        if out.shape != self.shape:
            raise ValueError(f"Shape mismatch. Expected shape: {self.shape}, actual shape: {out.shape}")
        if not (out.flags.c_contiguous or out.flags.f_contiguous):
            raise RuntimeError("`out` cannot be specified when copying to non-contiguous ndarray")
        if blocking:
            out[...] = self._host
        else:
            Copy(out, self._host)
        return out

    def set(self, arr: Any, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        self._host[...] = arr

    def item(self) -> Any:
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def __getitem__(self, index: Any) -> "ndarray":
        entries, advanced = _index(index)
        part = to_device(self._host[entries], self)
        return part.copy() if advanced and part.base is not None else part

    def __setitem__(self, index: Any, value: Any) -> None:
        everything = index is Ellipsis or (isinstance(index, slice) and index == slice(None))
        if isinstance(value, np.ndarray) and everything:
            if (value.dtype, value.shape) != (self.dtype, self.shape):
                raise ValueError("copying a numpy.ndarray by empty slice assignment takes the same shape and dtype")
            self.set(value)
            return
        entries, advanced = _index(index)
        if advanced and isinstance(value, list):
            value = asarray(value, self.dtype)
        if not isinstance(value, (ndarray, *SCALARS)):
            raise TypeError(UNSUPPORTED.format(type(value)))
        if not advanced:
            refuse_overlap(value, to_device(self._host[entries], self))
        with np.errstate(all="ignore"):
            self._host[entries] = to_host(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator["ndarray"]:
        return (self[i] for i in range(len(self)))

    def __del__(self) -> None:
        if getattr(self, "base", self) is None:
            spoil(self._host)  # whoever kept a pointer alone shall notice

    def __reduce__(self) -> Any:
        return array, (self._host.copy(),)

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(IMPLICIT)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        function = getattr(cupy, ufunc.__name__, None)
        if method != "__call__" or function is None:
            return NotImplemented
        if "out" in kwargs:
            (kwargs["out"],) = kwargs["out"]
        if not all(isinstance(each, (ndarray, np.ndarray, *SCALARS)) for each in (*inputs, kwargs.get("out", 0))):
            return NotImplemented
        return function(*inputs, **kwargs)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        try:
            module = functools.reduce(getattr, func.__module__.split(".")[1:], cupy)
            function = getattr(module, func.__name__)
        except AttributeError:
            return NotImplemented
        if function is func or not all(each in (ndarray, np.ndarray) for each in types):
            return NotImplemented
        return function(*args, **kwargs)


def _index(index: Any) -> tuple[tuple[Any, ...], bool]:
    """An index that makes NumPy return arrays only, and whether it is an advanced one, which copies."""

    def entry(each: Any) -> Any:
        if isinstance(each, (list, tuple, np.ndarray)):
            host = asarray(each).get()
            return host if host.size or isinstance(each, np.ndarray) else host.astype(int)
        return to_host(each)

    entries = tuple(entry(each) for each in (index if isinstance(index, tuple) else (index,)))
    advanced = any(isinstance(each, (bool, np.bool_, np.ndarray)) for each in entries)
    return entries if any(each is Ellipsis for each in entries) else (*entries, Ellipsis), advanced


def _forward(name: str) -> Callable[..., Any]:
    return lambda self, *args, **kwargs: getattr(self.get(), name)(*args, **kwargs)


def _method(name: str, parameters: str) -> Callable[..., Any]:
    signature: inspect.Signature = inspect.signature(eval(f"lambda self, {parameters}: None"))

    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        fit(f"ndarray.{name}", signature, self, *args, **kwargs)
        if name in SORTS:
            kwargs["kind"] = "stable"
        return compute(getattr(np.ndarray, name), self, *args, **kwargs)

    return method


def _operator(ufunc: str, *, reflected: bool = False, in_place: bool = False) -> Callable[..., Any]:
    def operator(self: ndarray, *other: Any) -> Any:
        if any(getattr(each, "__array_ufunc__", ufunc) is None for each in other):
            return NotImplemented  # the other class wants these operators for itself
        operands = (*other, self) if reflected else (self, *other)
        return getattr(cupy, ufunc)(*operands, **({"out": self} if in_place else {}))

    return operator


for _name in ("dtype", "itemsize", "nbytes", "ndim", "size", "strides"):
    setattr(ndarray, _name, property(operator.attrgetter(f"_host.{_name}")))
for _name in ("bool", "complex", "float", "format", "int", "repr", "str"):
    setattr(ndarray, f"__{_name}__", _forward(f"__{_name}__"))
for _name in ("tobytes", "tolist"):
    setattr(ndarray, _name, _forward(_name))
for _parameters, _names in METHODS.items():
    for _name in _names.split():
        setattr(ndarray, _name, _method(_name, _parameters))
for _name, _ufunc in (UNARY | BINARY | COMPARISONS).items():
    setattr(ndarray, f"__{_name}__", _operator(_ufunc))
for _name, _ufunc in BINARY.items():
    setattr(ndarray, f"__r{_name}__", _operator(_ufunc, reflected=True))
    if _name not in ("divmod", "matmul"):
        setattr(ndarray, f"__i{_name}__", _operator(_ufunc, in_place=True))


def array(
    obj: Any, dtype: Any = None, copy: bool = True, order: str = "K", subok: bool = False, ndmin: int = 0, *,
    blocking: bool = False,
) -> ndarray:  # fmt: skip
    """An array of the device, from one of the device or the host, a number, or a list of such."""
    if isinstance(obj, ndarray):
        host = np.array(obj._host, dtype, copy=copy or None, order=order or "K", ndmin=ndmin)  # type: ignore[call-overload]
        return to_device(host, obj)
    inner = list(leaves(obj))
    if any(isinstance(each, ndarray) for each in inner):
        if not all(isinstance(each, ndarray) and each.shape == inner[0].shape for each in inner):
            raise TypeError(IMPLICIT)
        obj = to_host(obj)
    if order in (None, "A", "K"):
        order = "F" if isinstance(obj, np.ndarray) and obj.flags.fnc else "C"
    return _wrap(np.array(obj, dtype, order=order, ndmin=ndmin))  # type: ignore[call-overload]


def asarray(a: Any, dtype: Any = None, order: Any = None, *, copy: Any = None, blocking: bool = False) -> ndarray:
    return array(a, dtype, bool(copy), order)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, False, "C", ndmin=1)


def asfortranarray(a: Any, dtype: Any = None) -> ndarray:
    return array(a, dtype, False, "F", ndmin=1)


def asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    return asarray(a).get(stream, order, out, blocking)


def get_array_module(*args: Any) -> ModuleType:
    return cupy if any(isinstance(each, ndarray) for each in args) else np


def flushed(value: Any) -> Any:
    """CuPy compiles its kernels so that a denormal float32 number counts as 0 and comes out as 0."""
    if not isinstance(value, ndarray) or value.dtype != np.float32:
        return value
    denormal = (np.abs(value._host) < np.finfo(np.float32).smallest_normal) & (value._host != 0)
    return _wrap(np.where(denormal, np.copysign(np.float32(0), value._host), value._host)) if denormal.any() else value


class Ufunc:
    """A function of CuPy that works element by element, with what CuPy has of its methods."""

    REDUCTIONS = ("add", "multiply")
    SCATTERS = ("add", "bitwise_and", "bitwise_or", "bitwise_xor", "maximum", "minimum", "subtract")

    def __init__(self, host: np.ufunc) -> None:
        self.__name__ = host.__name__
        self._host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        unknown = {name: value for name, value in kwargs.items() if name not in ("casting", "dtype", "out")}
        if unknown:
            raise TypeError(f"Wrong arguments {unknown}")
        for each in args:
            if not isinstance(each, (ndarray, *SCALARS)):
                raise TypeError(UNSUPPORTED.format(type(each)))
        if self.__name__ in ("nextafter", "signbit"):  # which look at bits
            return compute(self._host, *args, **kwargs)
        result = compute(self._host, *map(flushed, args), **kwargs)
        whole = flushed(result)
        if whole is not result:
            result._host[...] = whole._host
        return result

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        if self.__name__ not in self.SCATTERS:
            raise NotImplementedError(f"`cupy_{self.__name__}.at` is not supported yet")
        if a.dtype.char not in "iefdILQ":
            raise TypeError(f"scatter_{self.__name__} does not support {a.dtype}")
        entries, _ = _index(indices)
        with np.errstate(all="ignore"):
            self._host.at(a._host, entries, to_host(b))

    def reduce(self, array: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if self.__name__ not in self.REDUCTIONS:
            raise NotImplementedError(f"`cupy_{self.__name__}.reduce` is not supported yet")
        return compute(self._host.reduce, array, axis, dtype, out=out, keepdims=keepdims)


def _function(name: str, host: Callable[..., Any], real: Any) -> Callable[..., Any]:
    try:
        signature = real and inspect.signature(real)
    except ValueError:  # compiled ones have none
        signature = None

    def function(*args: Any, **kwargs: Any) -> Any:
        if signature:
            for parameter, value in fit(name, signature, *args, **kwargs).items():
                scalar = parameter != "x" and isinstance(value, SCALARS)  # where(condition, x, y) takes them
                if parameter in ARRAY_PARAMETERS and (scalar or isinstance(value, (list, tuple, np.ndarray))):
                    raise TypeError(UNSUPPORTED.format(type(value)))
        if name in SORTS:
            kwargs["kind"] = "stable"
        result = compute(host, *args, **kwargs)
        if name in ("empty", "empty_like"):
            spoil(result._host)
        return result

    def answer(*args: Any, **kwargs: Any) -> Any:
        return host(*to_host(args), **to_host(kwargs))

    return answer if name in ANSWERS else function


class Namespace(ModuleType):
    """A module of CuPy, whose functions are those of a module of NumPy."""

    def __init__(self, name: str, host: Any, real: Any, **own: Any) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        self.__dict__.update(own, _host=host, _real=real)

    def __getattr__(self, name: str) -> Any:
        host, real = (getattr(module, name, self) for module in (self._host, self._real or self._host))
        if name.startswith("_") or self in (host, real) or isinstance(host, ModuleType):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if isinstance(host, np.ufunc):
            value: Any = Ufunc(host)
            if host.signature:  # matmul, say, takes arrays and further settings
                value = _function(name, host, real.__call__ if self._real else None)
        elif host is real and (self._real or isinstance(host, type) or not callable(host)):
            value = host  # types and constants
        elif callable(host) and not isinstance(host, type):
            value = _function(name, host, real if self._real else None)
        else:
            raise AttributeError(f"the stand-in has no {self.__name__}.{name}")
        setattr(self, name, value)
        return value


# The device.

MULTIPROCESSORS = 4  # few, so that small shapes meet the choices that depend on it
MEMORY = 8 << 30


class CUDARuntimeError(RuntimeError):
    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"CUDA error {status}")


class CUDADriverError(RuntimeError): ...


class OutOfMemoryError(MemoryError):
    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class CompileException(Exception):
    def __init__(self, msg: str, source: str, name: str, options: Sequence[str], backend: str = "nvrtc") -> None:
        super().__init__(msg)
        self.source, self.name, self.options, self.backend = source, name, options, backend

    def get_message(self) -> str:
        return str(self)


class Device:
    compute_capability = "90"
    attributes = {"MultiProcessorCount": MULTIPROCESSORS, "WarpSize": 32, "MaxThreadsPerBlock": 1024}
    mem_info = (MEMORY, MEMORY)

    def __init__(self, device: int = 0) -> None:
        if int(device) != 0:
            raise CUDARuntimeError(101)  # cudaErrorInvalidDevice
        self.id = 0

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    __hash__ = None  # type: ignore[assignment]

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def use(self) -> "Device":
        return self

    def synchronize(self) -> None:
        Copy.arrive()


class Event:
    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._time = math.nan
        self._copies: list[Copy] = []

    def record(self, stream: Any = None) -> None:
        self._time = time.perf_counter()
        self._copies = list(Copy.queue)

    def synchronize(self) -> None:
        Copy.arrive(self._copies)

    @property
    def done(self) -> bool:
        self.synchronize()
        return True


class Stream:
    null: "Stream"
    ptr = 0
    done = True

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False) -> None: ...

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def use(self) -> "Stream":
        return self

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None: ...

    def synchronize(self) -> None:
        Copy.arrive()


Stream.null = Stream()


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    return (end_event._time - start_event._time) * 1000


def alloc_pinned_memory(size: int) -> bytearray:
    return bytearray(math.ceil(size / 512) * 512)  # as CuPy's pool rounds it


def get_device_properties(device: int) -> dict[str, Any]:
    return {
        "name": b"CuPy on a CPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": MULTIPROCESSORS,
        "totalGlobalMem": MEMORY,
        "sharedMemPerBlock": 48 << 10,
        "maxThreadsPerBlock": 1024,
        "warpSize": 32,
    }


class Pool:
    def free_all_blocks(self, stream: Any = None) -> None: ...

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0


_pools = Pool(), Pool()


# The kernels.


class RawKernel:
    """One kernel, compiled by g++ when it is first called, and kept for later processes."""

    def __init__(self, code: str, name: str, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        self.code, self.name, self.options, self.backend = code, name, options, backend

    def compile(self) -> None:
        self.library()

    def library(self) -> SimpleNamespace:
        return _library(self.code, self.name, self.options)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        library = self.library()
        sizes = [[max(1, operator.index(n)) for n in (*each, 1, 1)[:3]] for each in (grid, block)]
        limits = [2**31 - 1, 65535, 65535, 1024, 1024, 64]
        if any(n > most for n, most in zip(sum(sizes, []), limits, strict=True)) or math.prod(sizes[1]) > 1024:
            raise CUDADriverError(f"CUDA_ERROR_INVALID_VALUE: invalid argument (grid {grid}, block {block})")
        (struct,) = args
        if not isinstance(struct, np.ndarray) or struct.size != 1 or struct.dtype.names is None:
            raise TypeError("a kernel takes one NumPy array that holds one struct")
        if struct.nbytes != library.size:
            raise TypeError(f"{self.name} takes {library.size} bytes of arguments, not {struct.nbytes}")
        message = library.run(*((ctypes.c_uint * 3)(*each) for each in sizes), struct.ctypes.data)
        if message:
            raise RuntimeError(f"{self.name}: {message.decode()}")


class RawModule:
    """A file that the stand-in's NVRTC has made."""

    def __init__(self, *, path: str) -> None:
        self._library = _loaded(path)

    def get_function(self, name: str) -> RawKernel:
        kernel = RawKernel("", name)
        kernel.library = lambda: self._library  # type: ignore[method-assign]
        return kernel


class NVRTCError(RuntimeError): ...


class Program:
    """What the stand-in's NVRTC makes of a source: one kernel, whose machine code is a library of this machine's."""

    def __init__(self, code: str, name: str, headers: Sequence[str], include_names: Sequence[str]) -> None:
        self.code, self.log, self.binary = code, "", b""

    def compile(self, options: tuple[str, ...]) -> None:
        try:
            self.binary = _compiled(self.code, "entry", options).read_bytes()
        except CompileException as error:
            self.log = str(error)
            raise NVRTCError("NVRTC_ERROR_COMPILATION (6)") from None


@functools.cache
def _folder() -> Path:
    """Of compiled kernels, in the checkout; a new folder where that is read-only."""
    folder = SHIM.parents[2] / "build" / "standin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="linfengine-standin-"))
    return folder


def _compiled(code: str, name: str, options: tuple[str, ...]) -> Path:
    options = tuple(
        "-DFLUSH_DENORMALS" if each == "--ftz=true" else each
        for each in options
        if each.startswith(("-I", "-D")) or each == "--ftz=true"
    )
    command = [*CXX, *["-x", "c++", "-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-include"], str(SHIM), *options]
    command += os.environ.get("LINFENGINE_CUDA_ON_CPU_FLAGS", "").split()
    source = f'namespace {{\n#line 1 "{name}"\n{code}\n}}\nRUN_ON_CPU({name})\n'
    included = [SHIM]
    for option in options:
        if option.startswith("-I"):
            included += sorted(path for path in Path(option[2:]).iterdir() if path.suffix in (".cu", ".cuh", ".h"))
    key = hashlib.sha256(repr((command, source, [path.read_bytes() for path in included])).encode()).hexdigest()
    folder = _folder()
    path = folder / f"{key}.so"
    if not path.exists():
        # A folder of its own to work in: it has no files that an #include could find by chance.
        with tempfile.TemporaryDirectory(dir=folder) as work:
            command += ["-o", "kernel.so", "-"]
            result = subprocess.run(command, cwd=work, input=source, capture_output=True, text=True)
            if result.returncode:
                raise CompileException(result.stderr, code, name, options, "g++")
            os.replace(f"{work}/kernel.so", path)
    return path


@functools.cache
def _library(code: str, name: str, options: tuple[str, ...]) -> SimpleNamespace:
    return _loaded(str(_compiled(code, name, options)))


def _loaded(path: str) -> SimpleNamespace:
    library = ctypes.PyDLL(path)
    library.run.argtypes = [ctypes.c_void_p] * 3
    library.run.restype = ctypes.c_char_p
    return SimpleNamespace(run=library.run, size=ctypes.c_size_t.in_dll(library, "args_size").value)


# The modules.


def _real(path: str) -> Any:
    return functools.reduce(lambda module, name: getattr(module, name), path.split("."), REAL) if REAL else None


def _module(name: str, **own: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(own)
    return module


_stride_tricks = Namespace("cupy.lib.stride_tricks", np.lib.stride_tricks, _real("lib.stride_tricks"))
_compiler = _module("cupy.cuda.compiler", CompileException=CompileException)
_nvrtc = _module(
    "cupy.cuda.nvrtc",
    NVRTCError=NVRTCError,
    compileProgram=Program.compile,
    createProgram=Program,
    destroyProgram=lambda program: None,
    getCUBIN=lambda program: program.binary[:-1],  # as CuPy does
    getProgramLog=lambda program: program.log,
    getSupportedArchs=lambda: [75, 80, 86, 89, 90, 100, 120],
    getVersion=lambda: (13, 0),
)
_driver = _module("cupy.cuda.driver", CUDADriverError=CUDADriverError)
_memory = _module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
_runtime = _module(
    "cupy.cuda.runtime",
    CUDARuntimeError=CUDARuntimeError,
    deviceSynchronize=Copy.arrive,
    driverGetVersion=lambda: 13000,
    getDevice=lambda: 0,
    getDeviceCount=lambda: 1,
    getDeviceProperties=get_device_properties,
    runtimeGetVersion=lambda: 13000,
)
_cuda = _module(
    "cupy.cuda",
    Device=Device,
    Event=Event,
    Stream=Stream,
    alloc_pinned_memory=alloc_pinned_memory,
    compiler=_compiler,
    driver=_driver,
    get_current_stream=lambda device_id=-1: Stream.null,
    get_elapsed_time=get_elapsed_time,
    is_available=lambda: True,
    memory=_memory,
    nvrtc=_nvrtc,
    runtime=_runtime,
)

cupy: Any = Namespace(
    "cupy",
    np,
    REAL,
    RawKernel=RawKernel,
    RawModule=RawModule,
    __version__="14.0 (on a CPU)",
    array=array,
    asanyarray=asarray,
    asarray=asarray,
    ascontiguousarray=ascontiguousarray,
    asfortranarray=asfortranarray,
    asnumpy=asnumpy,
    cuda=_cuda,
    get_array_module=get_array_module,
    get_default_memory_pool=lambda: _pools[0],
    get_default_pinned_memory_pool=lambda: _pools[1],
    is_available=lambda: True,
    lib=_module("cupy.lib", stride_tricks=_stride_tricks),
    linalg=Namespace("cupy.linalg", np.linalg, _real("linalg")),
    ndarray=ndarray,
    random=Namespace("cupy.random", np.random, _real("random")),
)


def install() -> Any:
    """Let `import cupy` find the stand-in, which is returned."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("cupy", "cupyx")]:
        del sys.modules[name]
    modules = [
        cupy,
        cupy.lib,
        _stride_tricks,
        cupy.linalg,
        cupy.random,
        _cuda,
        _compiler,
        _driver,
        _memory,
        _nvrtc,
        _runtime,
    ]
    sys.modules.update((module.__name__, module) for module in modules)
    return cupy
