# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False
"""The C++ kernels as Python functions: shapes become pointers, the GIL is released, groups are walked.

The first line of a docstring names the arrays that a function takes. It raises ValueError or TypeError for others, and
nothing is read or written outside of an array; `linfengine.backends.cpu` makes a sentence of that.
"""

import numpy as np

from libc.stdint cimport int32_t, int64_t, uint8_t
from libcpp cimport bool
from libcpp.string cimport string
from libcpp.vector cimport vector

ctypedef fused real:
    float
    double


cdef extern from "threads.hpp" namespace "linfengine" nogil:
    void use_threads_ "linfengine::use_threads"(int) except +
    int threads_ "linfengine::threads"()


cdef extern from "dispatch.h" namespace "linfengine" nogil:
    cdef cppclass Shape:
        int64_t n, o, k, ldx, ldy

    vector[string] instruction_sets_ "linfengine::instruction_sets"() except +
    void use_instruction_set_ "linfengine::use_instruction_set"(const string&) except +
    string instruction_set_ "linfengine::instruction_set"() except +

    int64_t registers_only_ "linfengine::registers_only"(const string&, int64_t) except +

    unsigned kNotFinite, kOutOfRange, kNoInput
    unsigned linf_forward[T](Shape, const T*, const T*, T*, int32_t*) except +
    unsigned linf_bounds_ "linfengine::linf_bounds"[T](Shape, const T*, const T*, const T*, T*, T*) except +
    unsigned linf_backward_ "linfengine::linf_backward"[T](Shape, const T*, const int32_t*, T*, T*) except +
    void dead_zone_ "linfengine::dead_zone"(Shape, const uint8_t*, const uint8_t*, const uint8_t*, uint8_t*) except +
    void dot_ "linfengine::dot"[T](Shape, const T*, const T*, T*) except +
    unsigned lp_forward_ "linfengine::lp_forward"[T](Shape, const T*, const T*, double, T*) except +
    unsigned lp_backward_ "linfengine::lp_backward"[T](Shape, const T*, const T*, const T*, const T*, double, T*,
                                                       T*) except +
    bool all_finite_ "linfengine::all_finite"[T](const T*, int64_t) except +
    void channel_sums_ "linfengine::channel_sums"[T](const T*, int64_t, int64_t, int64_t, double*) except +
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


def registers_only(metric, int64_t rounds):
    """The step of a metric on registers alone, on all threads: how many terms that were."""
    cdef string name = metric.encode()
    cdef int64_t terms
    with nogil:
        terms = registers_only_(name, rounds)
    return terms


cdef int require(bool fits) except -1:
    if not fits:
        raise ValueError("the shapes do not agree")


cdef Shape group_shape(int64_t n, int64_t columns, int64_t o, int64_t k, int64_t groups) except *:
    """The shape of one group: its share of the outputs, in rows as long as those of all groups together."""
    if min(n, o, k) < 1:
        raise ValueError("an array is empty")
    if groups < 1 or o % groups or columns % groups or columns // groups != k:
        raise ValueError(f"the shapes do not agree with {groups} groups")
    cdef Shape shape
    shape.n, shape.o, shape.k, shape.ldx, shape.ldy = n, o // groups, k, columns, o
    return shape


cdef bool in_range(unsigned verdict) except *:
    """Whether the results are accurate."""
    if verdict & kNotFinite:
        raise FloatingPointError("x or w holds NaN or infinity")
    return not verdict & kOutOfRange


def linf_dist(const real[:, ::1] x not None, const real[:, ::1] w not None, real[:, ::1] y not None,
              int32_t[:, ::1] winner, int64_t groups):
    """x (n, groups*k), w (o, k), y (n, o) of float32 or float64, winner (n, o) of int32 or None"""
    cdef Shape shape = group_shape(x.shape[0], x.shape[1], w.shape[0], w.shape[1], groups)
    require(y.shape[0] == x.shape[0] and y.shape[1] == w.shape[0])
    cdef int32_t* where = NULL
    if winner is not None:
        require(winner.shape[0] == x.shape[0] and winner.shape[1] == w.shape[0])
        where = &winner[0, 0]
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= linf_forward(shape, &x[0, q * shape.k], &w[out, 0], &y[0, out], where + out if where else where)
    in_range(verdict)


def dead_zone(const uint8_t[:, ::1] x not None, const uint8_t[:, ::1] above not None,
              const uint8_t[:, ::1] below not None, uint8_t[:, ::1] y not None, int64_t groups):
    """x (n, groups*k), above and below (o, k), y (n, o), all of uint8"""
    cdef Shape shape = group_shape(x.shape[0], x.shape[1], above.shape[0], above.shape[1], groups)
    require(below.shape[0] == above.shape[0] and below.shape[1] == above.shape[1])
    require(y.shape[0] == x.shape[0] and y.shape[1] == above.shape[0])
    cdef int64_t q
    with nogil:
        for q in range(groups):
            dead_zone_(shape, &x[0, q * shape.k], &above[q * shape.o, 0], &below[q * shape.o, 0], &y[0, q * shape.o])


def linf_dist_bounds(const real[:, ::1] lower not None, const real[:, ::1] upper not None,
                     const real[:, ::1] w not None, real[:, ::1] y_lower not None, real[:, ::1] y_upper not None,
                     int64_t groups):
    """lower and upper (n, groups*k), w (o, k), y_lower and y_upper (n, o), all of float32 or all of float64"""
    cdef Shape shape = group_shape(lower.shape[0], lower.shape[1], w.shape[0], w.shape[1], groups)
    require(upper.shape[0] == lower.shape[0] and upper.shape[1] == lower.shape[1])
    require(y_lower.shape[0] == lower.shape[0] and y_lower.shape[1] == w.shape[0])
    require(y_upper.shape[0] == lower.shape[0] and y_upper.shape[1] == w.shape[0])
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= linf_bounds_(shape, &lower[0, q * shape.k], &upper[0, q * shape.k], &w[out, 0],
                                    &y_lower[0, out], &y_upper[0, out])
    in_range(verdict)


def linf_dist_backward(const real[:, ::1] g not None, const int32_t[:, ::1] winner not None, int64_t k,
                       real[:, ::1] grad_x, real[:, ::1] grad_w, int64_t groups):
    """g (n, o), winner (n, o) of int32, grad_x (n, groups*k) or None, grad_w (o, k) or None"""
    cdef Shape shape = group_shape(g.shape[0], groups * k, g.shape[1], k, groups)
    require(winner.shape[0] == g.shape[0] and winner.shape[1] == g.shape[1])
    cdef real* gx = NULL
    cdef real* gw = NULL
    if grad_x is not None:
        require(grad_x.shape[0] == shape.n and grad_x.shape[1] == shape.ldx)
        gx = &grad_x[0, 0]
    if grad_w is not None:
        require(grad_w.shape[0] == shape.ldy and grad_w.shape[1] == k)
        gw = &grad_w[0, 0]
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= linf_backward_(shape, &g[0, out], &winner[0, out], gx + q * k if gx else gx,
                                      gw + out * k if gw else gw)
    if verdict & kNoInput:
        raise ValueError(f"a winner is not k or ~k with 0 <= k < {k}")


def dot(const real[:, ::1] x not None, const real[:, ::1] w not None, real[:, ::1] y not None):
    """x (n, k), w (o, k), y (n, o), all of float32 or all of float64"""
    cdef Shape shape = group_shape(x.shape[0], x.shape[1], w.shape[0], w.shape[1], 1)
    require(y.shape[0] == x.shape[0] and y.shape[1] == w.shape[0])
    with nogil:
        dot_(shape, &x[0, 0], &w[0, 0], &y[0, 0])


def lp_dist(const real[:, ::1] x not None, const real[:, ::1] w not None, double p, real[:, ::1] y not None,
            int64_t groups):
    """x (n, groups*k), w (o, k), y (n, o), all of float32 or all of float64

    Returns whether the distances lie where they are accurate.
    """
    cdef Shape shape = group_shape(x.shape[0], x.shape[1], w.shape[0], w.shape[1], groups)
    require(y.shape[0] == x.shape[0] and y.shape[1] == w.shape[0])
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= lp_forward_(shape, &x[0, q * shape.k], &w[out, 0], p, &y[0, out])
    return in_range(verdict)


def lp_dist_backward(const real[:, ::1] g not None, const real[:, ::1] x not None, const real[:, ::1] w not None,
                     const real[:, ::1] y not None, double p, real[:, ::1] grad_x, real[:, ::1] grad_w, int64_t groups):
    """g (n, o), x (n, groups*k), w (o, k), y (n, o), grad_x like x or None, grad_w like w or None, all of one dtype

    Returns whether y lies where the gradients are accurate.
    """
    cdef Shape shape = group_shape(x.shape[0], x.shape[1], w.shape[0], w.shape[1], groups)
    require(g.shape[0] == x.shape[0] and g.shape[1] == w.shape[0])
    require(y.shape[0] == x.shape[0] and y.shape[1] == w.shape[0])
    cdef real* gx = NULL
    cdef real* gw = NULL
    if grad_x is not None:
        require(grad_x.shape[0] == x.shape[0] and grad_x.shape[1] == x.shape[1])
        gx = &grad_x[0, 0]
    if grad_w is not None:
        require(grad_w.shape[0] == w.shape[0] and grad_w.shape[1] == w.shape[1])
        gw = &grad_w[0, 0]
    cdef int64_t q, out
    cdef unsigned verdict = 0
    with nogil:
        for q in range(groups):
            out = q * shape.o
            verdict |= lp_backward_(shape, &g[0, out], &x[0, q * shape.k], &w[out, 0], &y[0, out], p,
                                    gx + q * shape.k if gx else gx, gw + out * shape.k if gw else gw)
    return in_range(verdict)


def all_finite(const real[::1] a not None):
    """a (count,) of float32 or float64"""
    cdef bool finite = True
    if a.shape[0]:
        with nogil:
            finite = all_finite_(&a[0], a.shape[0])
    return finite


def channel_sums(const real[:, :, ::1] x not None, double[::1] sums not None):
    """x (n, channels, m) of float32 or float64, sums (channels,) of float64"""
    require(sums.shape[0] == x.shape[1])
    if min(x.shape[0], x.shape[1], x.shape[2]) < 1:
        raise ValueError("an array is empty")
    with nogil:
        channel_sums_(&x[0, 0, 0], x.shape[0], x.shape[1], x.shape[2], &sums[0])


def adam_step(real[::1] param not None, const real[::1] grad not None, real[::1] m not None, real[::1] v not None,
              double lr, double beta1, double beta2, double eps, int64_t step):
    """param, grad, m and v (count,), all of float32 or all of float64"""
    require(grad.shape[0] == param.shape[0] and m.shape[0] == param.shape[0] and v.shape[0] == param.shape[0])
    if param.shape[0]:
        with nogil:
            adam_(&param[0], &grad[0], &m[0], &v[0], param.shape[0], lr, beta1, beta2, eps, step)


def lp_decay(real[:, ::1] w not None, double p, double amount):
    """w (o, k) of float32 or float64"""
    if w.shape[0] and w.shape[1]:
        with nogil:
            lp_decay_(&w[0, 0], w.shape[0], w.shape[1], p, amount)
