# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The C++ kernels as Python functions: shapes become pointers, the GIL is released, groups are walked.

Only finiteness is checked here, by the kernels; the operations validate what else users pass.
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t
from libcpp cimport bool
from libcpp.string cimport string
from libcpp.vector cimport vector

ctypedef fused real:
    float
    double


cdef extern from "dispatch.h" namespace "linfengine" nogil:
    cdef cppclass Shape:
        int64_t n, o, k, ldx, ldy

    vector[string] instruction_sets_ "linfengine::instruction_sets"() except +
    void use_instruction_set_ "linfengine::use_instruction_set"(const string&) except +
    string instruction_set_ "linfengine::instruction_set"() except +
    void use_threads_ "linfengine::use_threads"(int) except +
    int threads_ "linfengine::threads"()
    bool has_openmp_ "linfengine::has_openmp"()

    int64_t registers_only_ "linfengine::registers_only"(const string&, int64_t) except +

    unsigned kNotFinite, kOutOfRange
    unsigned linf_forward[T](Shape, const T*, const T*, T*, int32_t*) except +
    unsigned linf_bounds_ "linfengine::linf_bounds"[T](Shape, const T*, const T*, const T*, T*, T*) except +
    void linf_backward_ "linfengine::linf_backward"[T](Shape, const T*, const int32_t*, T*, T*) except +
    void dead_zone_ "linfengine::dead_zone"(Shape, const uint8_t*, const uint8_t*, const uint8_t*, uint8_t*) except +
    void dot_ "linfengine::dot"[T](Shape, const T*, const T*, T*) except +
    unsigned lp_forward_ "linfengine::lp_forward"[T](Shape, const T*, const T*, double, T*) except +
    unsigned lp_backward_ "linfengine::lp_backward"[T](Shape, const T*, const T*, const T*, const T*, double, T*,
                                                       T*) except +
    bool all_finite_ "linfengine::all_finite"[T](const T*, int64_t) except +
    void adam_ "linfengine::adam"[T](T*, const T*, T*, T*, int64_t, double, double, double, double, int64_t) except +
    void lp_decay_ "linfengine::lp_decay"[T](T*, int64_t, int64_t, double, double) except +


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


def has_openmp():
    return has_openmp_()


def registers_only(metric, int64_t rounds):
    """The step of a metric on registers alone, on all threads: how many terms that were."""
    cdef string name = metric.encode()
    cdef int64_t terms
    with nogil:
        terms = registers_only_(name, rounds)
    return terms


cdef Shape group_shape(int64_t n, int64_t o, int64_t k, int64_t groups) noexcept nogil:
    """The shape of one group: its share of the outputs, in rows as long as those of all groups together."""
    cdef Shape shape
    shape.n, shape.o, shape.k, shape.ldx, shape.ldy = n, o // groups, k, groups * k, o
    return shape


cdef bool in_range(unsigned verdict) except *:
    """Whether the results are accurate."""
    if verdict & kNotFinite:
        raise FloatingPointError("x or w holds NaN or infinity")
    return not verdict & kOutOfRange


def linf_dist(const real[:, ::1] x, const real[:, ::1] w, real[:, ::1] y, int32_t[:, ::1] winner, int64_t groups):
    cdef Shape shape = group_shape(x.shape[0], w.shape[0], w.shape[1], groups)
    cdef int32_t* where = NULL
    if winner is not None:
        where = &winner[0, 0]
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= linf_forward(shape, &x[0, q * shape.k], &w[out, 0], &y[0, out], where + out if where else where)
    in_range(verdict)


def dead_zone(const uint8_t[:, ::1] x, const uint8_t[:, ::1] above, const uint8_t[:, ::1] below, uint8_t[:, ::1] y,
              int64_t groups):
    cdef Shape shape = group_shape(x.shape[0], above.shape[0], above.shape[1], groups)
    cdef int64_t q
    with nogil:
        for q in range(groups):
            dead_zone_(shape, &x[0, q * shape.k], &above[q * shape.o, 0], &below[q * shape.o, 0], &y[0, q * shape.o])


def linf_dist_bounds(const real[:, ::1] lower, const real[:, ::1] upper, const real[:, ::1] w,
                     real[:, ::1] y_lower, real[:, ::1] y_upper, int64_t groups):
    cdef Shape shape = group_shape(lower.shape[0], w.shape[0], w.shape[1], groups)
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= linf_bounds_(shape, &lower[0, q * shape.k], &upper[0, q * shape.k], &w[out, 0],
                                    &y_lower[0, out], &y_upper[0, out])
    in_range(verdict)


def linf_dist_backward(const real[:, ::1] g, const int32_t[:, ::1] winner, int64_t k, real[:, ::1] grad_x,
                       real[:, ::1] grad_w, int64_t groups):
    cdef Shape shape = group_shape(g.shape[0], g.shape[1], k, groups)
    cdef real* gx = NULL
    cdef real* gw = NULL
    if grad_x is not None:
        gx = &grad_x[0, 0]
    if grad_w is not None:
        gw = &grad_w[0, 0]
    cdef int64_t q, out
    with nogil:
        for q in range(groups):
            out = q * shape.o
            linf_backward_(shape, &g[0, out], &winner[0, out], gx + q * k if gx else gx, gw + out * k if gw else gw)


def dot(const real[:, ::1] x, const real[:, ::1] w, real[:, ::1] y):
    with nogil:
        dot_(group_shape(x.shape[0], w.shape[0], w.shape[1], 1), &x[0, 0], &w[0, 0], &y[0, 0])


def lp_dist(const real[:, ::1] x, const real[:, ::1] w, double p, real[:, ::1] y, int64_t groups):
    """Whether the distances lie where they are accurate."""
    cdef Shape shape = group_shape(x.shape[0], w.shape[0], w.shape[1], groups)
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= lp_forward_(shape, &x[0, q * shape.k], &w[out, 0], p, &y[0, out])
    return in_range(verdict)


def lp_dist_backward(const real[:, ::1] g, const real[:, ::1] x, const real[:, ::1] w, const real[:, ::1] y, double p,
                     real[:, ::1] grad_x, real[:, ::1] grad_w, int64_t groups):
    """Whether y lies where the gradients are accurate."""
    cdef Shape shape = group_shape(x.shape[0], w.shape[0], w.shape[1], groups)
    cdef real* gx = NULL
    cdef real* gw = NULL
    if grad_x is not None:
        gx = &grad_x[0, 0]
    if grad_w is not None:
        gw = &grad_w[0, 0]
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= lp_backward_(shape, &g[0, out], &x[0, q * shape.k], &w[out, 0], &y[0, out], p,
                                    gx + q * shape.k if gx else gx, gw + out * shape.k if gw else gw)
    return in_range(verdict)


def all_finite(const real[::1] a):
    cdef bool finite
    with nogil:
        finite = all_finite_(&a[0], a.shape[0])
    return finite


def adam_step(real[::1] param, const real[::1] grad, real[::1] m, real[::1] v,
              double lr, double beta1, double beta2, double eps, int64_t step):
    with nogil:
        adam_(&param[0], &grad[0], &m[0], &v[0], param.shape[0], lr, beta1, beta2, eps, step)


def lp_decay(real[:, ::1] w, double p, double amount):
    with nogil:
        lp_decay_(&w[0, 0], w.shape[0], w.shape[1], p, amount)
