# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The C++ kernels by the names of the list: arrays become pointers, the GIL is released.

`run` checks every array against the kernel's signature, so that nothing is read or written outside of one.
"""

from cpython.buffer cimport PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t
from libcpp cimport bool
from libcpp.string cimport string
from libcpp.vector cimport vector

from .kernels import KERNELS


cdef extern from "threads.hpp" namespace "linfengine" nogil:
    void use_threads_ "linfengine::use_threads"(int) except +
    int threads_ "linfengine::threads"()


cdef extern from "dispatch.h" namespace "linfengine" nogil:
    vector[string] instruction_sets_ "linfengine::instruction_sets"() except +
    void use_instruction_set_ "linfengine::use_instruction_set"(const string&) except +
    string instruction_set_ "linfengine::instruction_set"() except +

    cdef cppclass Shape:
        int64_t n, o, k, ldx, ldy

    cdef cppclass Call:
        Shape shape
        int64_t entries, channels, m
        void** arrays
        double* numbers

    cdef cppclass Operation:
        const char* name
        const char* signature

    int kMostArrays, kMostNumbers
    unsigned kNotFinite, kOutOfRange, kNoInput
    const vector[Operation]& operations() except +
    unsigned run_ "linfengine::run"(const Operation&, bool, Call, int64_t, const int64_t*) except +


def instruction_sets():
    return tuple(name.decode() for name in instruction_sets_())


def use_instruction_set(name):
    use_instruction_set_(name.encode())


def instruction_set():
    return instruction_set_().decode()


def use_threads(int count):
    use_threads_(count)


def threads():
    return threads_()


cdef enum:
    MOST = 16  # arguments of a kernel
    N, O, K, GK, E, C, M, SIDES  # what a shape of the list is made of

SIDE = {"n": N, "o": O, "k": K, "gk": GK, "e": E, "c": C, "m": M}


cdef struct Argument:
    char type  # as in the list, or 0: a number
    bint written, optional
    int dimensions
    int shape[3]  # the sides of an array; K for the number k


cdef class Kernel:
    """A kernel of the compiled list, with the arguments of its signature."""

    cdef const Operation* operation
    cdef Argument arguments[MOST]
    cdef int count
    cdef bint in_place

    def __init__(self, line):
        self.count = len(line.arguments)
        self.in_place = line.kind == "STEP"
        if self.count > MOST:
            raise ImportError(f"{line.name} has more than {MOST} arguments")
        for i, each in enumerate(line.arguments):
            self.arguments[i].type = ord(each.type) if each.shape else 0
            self.arguments[i].written = each.written
            self.arguments[i].optional = each.optional
            self.arguments[i].dimensions = len(each.shape)
            for axis, side in enumerate(each.shape or [each.name]):
                self.arguments[i].shape[axis] = SIDE.get(side, SIDES)


cdef dict compiled():
    """The kernels of the compiled list, which must be that of the file."""
    cdef dict kernels = {}
    cdef Kernel kernel
    cdef const vector[Operation]* all = &operations()
    for i in range(all.size()):
        name = all.at(i).name.decode()
        line = KERNELS.get(name)
        if line is None or line.signature != all.at(i).signature.decode():
            raise ImportError(f"kernels.def has changed since the kernels were compiled ({name}): build them again")
        kernel = Kernel(line)
        kernel.operation = &all.at(i)
        kernels[name] = kernel
    if len(kernels) != len(KERNELS):
        raise ImportError("kernels.def has changed since the kernels were compiled: build them again")
    return kernels


cdef dict COMPILED = compiled()


cdef class Binding:
    """The arrays of one call, held until it is done, and what their shapes say."""

    cdef Py_buffer views[8]
    cdef int held
    cdef int64_t sizes[SIDES]
    cdef Call call
    cdef int64_t advance[8]
    cdef char real  # 'f' or 'd', what T stands for

    def __cinit__(self):
        self.held = 0
        self.real = 0
        for i in range(SIDES):
            self.sizes[i] = -1

    def __dealloc__(self):
        for i in range(self.held):
            PyBuffer_Release(&self.views[i])

    cdef int bind(self, int side, int64_t size) except -1:
        if self.sizes[side] < 0:
            self.sizes[side] = size
        elif self.sizes[side] != size:
            raise ValueError("the shapes do not agree")
        return 0

    cdef int take(self, Argument* argument, int place, object array) except -1:
        """Check one array, and hold it."""
        cdef Py_buffer* view = &self.views[self.held]
        if array is None:
            if not argument.optional:
                raise TypeError("an array is missing")
            self.call.arrays[place] = NULL
            return 0
        PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (PyBUF_WRITABLE if argument.written else 0))
        self.held += 1
        cdef char type = view.format[0] if view.format[0] and not view.format[1] else 0
        if argument.type == b"T":
            if type != b"f" and type != b"d" or self.real and type != self.real:
                raise TypeError("the dtypes do not agree")
            self.real = type
        elif type != argument.type:
            raise TypeError("the dtypes do not agree")
        if view.ndim != argument.dimensions:
            raise ValueError("the shapes do not agree")
        for axis in range(view.ndim):
            self.bind(argument.shape[axis], view.shape[axis])
        self.call.arrays[place] = view.buf
        return 0

    cdef bint is_empty(self):
        for i in range(SIDES):
            if self.sizes[i] == 0:
                return True
        return False

    cdef int fill(self, int64_t groups) except -1:
        """The shape of one group: its share of the outputs, in rows as long as those of all groups together."""
        cdef int64_t n = self.sizes[N], o = self.sizes[O], k = self.sizes[K]
        cdef int64_t columns = self.sizes[GK]
        if groups < 1 or o >= 0 and o % groups or columns >= 0 and (columns % groups or columns // groups != k):
            raise ValueError(f"the shapes do not agree with {groups} groups")
        self.call.shape.n, self.call.shape.o, self.call.shape.k = n, o // groups, k
        self.call.shape.ldx, self.call.shape.ldy = groups * k, o
        self.call.entries = max(self.sizes[E], 0)
        self.call.channels, self.call.m = self.sizes[C], self.sizes[M]
        return 0

    cdef void step(self, Argument* argument, int place):
        """How far the array's next group is."""
        cdef int64_t entries = 0
        if self.call.arrays[place] == NULL:
            return
        if argument.dimensions == 2 and argument.shape[1] == GK:
            entries = self.call.shape.k
        elif argument.dimensions == 2 and argument.shape[1] == O:
            entries = self.call.shape.o
        elif argument.dimensions == 2 and argument.shape[0] == O:
            entries = self.call.shape.o * self.call.shape.k
        self.advance[place] = entries * (8 if argument.type == b"T" and self.real == b"d" else
                                         1 if argument.type == b"B" else 4)


def run(str name, tuple arguments, int64_t groups=1):
    """Run a kernel of the list, with the arguments of its signature. Returns whether the results are accurate.

    Raises ValueError or TypeError for arrays that the signature does not allow, FloatingPointError for NaN and infinity.
    """
    cdef Kernel kernel = COMPILED[name]
    cdef Binding binding = Binding()
    cdef int arrays = 0, numbers = 0
    if len(arguments) != kernel.count:
        raise TypeError(f"{kernel.count} arguments are expected")
    for i in range(kernel.count):
        if kernel.arguments[i].type:
            binding.take(&kernel.arguments[i], arrays, arguments[i])
            arrays += 1
        else:
            binding.call.numbers[numbers] = arguments[i]
            if kernel.arguments[i].shape[0] == K:
                binding.bind(K, arguments[i])
            numbers += 1
    if binding.is_empty():
        if kernel.in_place:
            return True
        raise ValueError("an array is empty")
    binding.fill(groups)
    arrays = 0
    for i in range(kernel.count):
        if kernel.arguments[i].type:
            binding.step(&kernel.arguments[i], arrays)
            arrays += 1
    cdef unsigned verdict
    with nogil:
        verdict = run_(kernel.operation[0], binding.real == b"d", binding.call, groups, binding.advance)
    if verdict & kNotFinite:
        raise FloatingPointError("x or w holds NaN or infinity")
    if verdict & kNoInput:
        raise ValueError(f"a winner is not k or ~k with 0 <= k < {binding.call.shape.k}")
    return not verdict & kOutOfRange
