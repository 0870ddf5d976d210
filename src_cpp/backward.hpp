// Gradients.
//
// Finite p.  One item is one vector of coordinates k, for all samples and all outputs: it owns those columns of both
// gradients, so no two items write the same number, and each term t is computed once and used twice.
//
//   LOOP 3  vectors of k            one item of work
//   LOOP 2  blocks of samples       x and grad_x of the block stay in registers
//   LOOP 1  outputs                 w and grad_w stream through a packed copy of this column, one vector an output
//
// p = infinity.  A gradient goes to one coordinate, known from the forward: B O terms instead of B O K.  Items are
// blocks of samples for grad_x and blocks of outputs for grad_w.
#pragma once

#include "metrics.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr int kBackwardRows = kWide ? 8 : 4;

// For a block of samples: coefficients[(block o + j) 2 rows + r] = 1 / y[r,j], and g[r,j] `rows` numbers further on,
// so that LOOP 1 reads them in order.  Where y = 0 the gradient is zero.
template <class T>
void coefficients(const Backward<T>& a, int64_t block, T*) {
    const Shape& shape = a.shape;
    T* out = a.coefficients + block * shape.o * 2 * kBackwardRows;
    for (int r = 0; r < kBackwardRows; ++r) {
        const int64_t row = block * kBackwardRows + r;
        for (int64_t j = 0; j < shape.o; ++j) {
            const T y = row < shape.n ? a.y[row * shape.ldy + j] : T(0);
            const T g = row < shape.n ? a.g[row * shape.ldy + j] : T(0);
            out[j * 2 * kBackwardRows + r] = y > 0 ? T(1) / (y > kTiny<T> ? y : kTiny<T>) : T(0);
            out[j * 2 * kBackwardRows + kBackwardRows + r] = y > 0 ? g : T(0);
        }
    }
}

// scratch: 2 o lanes numbers.
template <class S, class T = typename S::Scalar>
void lp_backward(const Backward<T>& a, int64_t item, T* scratch) {
    const FloatingPointMode mode(Mode::kFlush);
    const S slope(a);
    const Shape& shape = a.shape;
    constexpr int64_t lanes = Simd<T>::lanes;
    const int64_t k = item * lanes, count = shape.k - k;
    T *w = scratch, *grad_w = scratch + shape.o * lanes;
    for (int64_t j = 0; j < shape.o; ++j) {
        store(w + j * lanes, load_first(a.w + j * shape.k + k, count));
        store(grad_w + j * lanes, Vec<T>{});
    }
    for (int64_t row = 0; row < shape.n; row += kBackwardRows) {
        const int64_t rows = shape.n - row < kBackwardRows ? shape.n - row : kBackwardRows;
        Vec<T> x[kBackwardRows], grad_x[kBackwardRows];
        for (int r = 0; r < kBackwardRows; ++r) {
            x[r] = load_first(a.x + (row + (r < rows ? r : 0)) * shape.ldx + k, count);
            grad_x[r] = Vec<T>{};
        }
        const T* c = a.coefficients + row * shape.o * 2;
        for (int64_t j = 0; j < shape.o; ++j, c += 2 * kBackwardRows) {
            const Vec<T> wj = load(w + j * lanes);
            Vec<T> gj = load(grad_w + j * lanes);
#pragma GCC unroll 8
            for (int r = 0; r < kBackwardRows; ++r) slope.add(x[r] - wj, c[r], c[kBackwardRows + r], grad_x[r], gj);
            store(grad_w + j * lanes, gj);
        }
        if (a.grad_x)
            for (int64_t r = 0; r < rows; ++r) store_first(a.grad_x + (row + r) * shape.ldx + k, grad_x[r], count);
    }
    if (!a.grad_w) return;
    for (int64_t j = 0; j < shape.o; ++j) store_first(a.grad_w + j * shape.k + k, load(grad_w + j * lanes), count);
}

template <class T>
LINFENGINE_INLINE T signed_like(T g, T d) {
    return d > 0 ? g : d < 0 ? -g : T(0);
}

template <class T>
void linf_backward_x(const Backward<T>& a, int64_t item, T*) {
    const Shape& shape = a.shape;
    const int64_t end = (item + 1) * kOutputChunk < shape.n ? (item + 1) * kOutputChunk : shape.n;
    for (int64_t row = item * kOutputChunk; row < end; ++row) {
        const T* x = a.x + row * shape.ldx;
        T* grad = a.grad_x + row * shape.ldx;
        for (int64_t k = 0; k < shape.k; ++k) grad[k] = T(0);
        for (int64_t j = 0; j < shape.o; ++j) {
            const int64_t k = a.index[row * shape.ldy + j];
            grad[k] += signed_like(a.g[row * shape.ldy + j], x[k] - a.w[j * shape.k + k]);
        }
    }
}

template <class T>
void linf_backward_w(const Backward<T>& a, int64_t item, T*) {
    const Shape& shape = a.shape;
    const int64_t begin = item * kOutputChunk;
    const int64_t end = begin + kOutputChunk < shape.o ? begin + kOutputChunk : shape.o;
    for (int64_t i = begin * shape.k; i < end * shape.k; ++i) a.grad_w[i] = T(0);
    for (int64_t row = 0; row < shape.n; ++row)
        for (int64_t j = begin; j < end; ++j) {
            const int64_t k = a.index[row * shape.ldy + j];
            a.grad_w[j * shape.k + k] -=
                signed_like(a.g[row * shape.ldy + j], a.x[row * shape.ldx + k] - a.w[j * shape.k + k]);
        }
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
