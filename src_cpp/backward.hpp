// Gradients.
//
// Finite p. One item is one vector of coordinates k, for all outputs and a run of samples: it owns those columns of
// both gradients, so no two items write the same number, and each term t is computed once and used twice. Runs are so
// short that what is kept for them stays small, and follow one another.
//
//   LOOP 4  runs of samples         dispatch.cpp
//   LOOP 3  vectors of k            one item of work
//   LOOP 2  blocks of samples       x and grad_x of the block stay in registers
//   LOOP 1  outputs                 w and grad_w stream through a packed copy of this column, one vector an output
//
// p = infinity. A gradient goes to one coordinate, known from the forward: B O terms instead of B O K. Items are
// blocks of samples for grad_x and blocks of outputs for grad_w.
#pragma once

#include "metric.hpp"
#include "power.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr int kBackwardRows = kWide ? 8 : 4;

// For a block of samples of the run: coefficients[(block o + j) 2 rows + r] = 1 / y[r,j], and g[r,j] `rows` numbers
// further on, so that LOOP 1 reads them in order. Where y = 0 the gradient is zero.
template <class T>
unsigned coefficients(const Backward<T>& a, int64_t block, T*) {
    const FloatingPointMode mode(Mode::kFlush);
    const Shape& shape = a.shape;
    T* out = a.coefficients + block * shape.o * 2 * kBackwardRows;
    bool trusted = true;
    for (int r = 0; r < kBackwardRows; ++r) {
        const int64_t row = a.row + block * kBackwardRows + r;
        for (int64_t j = 0; j < shape.o; ++j) {
            const T y = row < a.row + a.rows ? a.y[row * shape.ldy + j] : T(0);
            const T g = row < a.row + a.rows ? a.g[row * shape.ldy + j] : T(0);
            trusted &= in_range(y);
            out[j * 2 * kBackwardRows + r] = y > 0 ? reciprocal(y) : T(0);
            out[j * 2 * kBackwardRows + kBackwardRows + r] = y > 0 ? g : T(0);
        }
    }
    return trusted ? kGood : kOutOfRange;
}

// scratch: 2 o lanes numbers.
template <class S, class T = typename S::Scalar>
unsigned lp_backward(const Backward<T>& a, int64_t item, T* scratch) {
    const FloatingPointMode mode(S::mode);
    const S slope(a);
    const Shape& shape = a.shape;
    constexpr int64_t lanes = Simd<T>::lanes;
    const int64_t k = item * lanes, count = shape.k - k;
    const bool first = a.row == 0 || !a.grad_w;
    T *w = scratch, *grad_w = scratch + shape.o * lanes;
    for (int64_t j = 0; j < shape.o; ++j) {
        store(w + j * lanes, load_first(a.w + j * shape.k + k, count));
        store(grad_w + j * lanes, first ? Vec<T>{} : load_first(a.grad_w + j * shape.k + k, count));
    }
    for (int64_t row = 0; row < a.rows; row += kBackwardRows) {
        const int64_t rows = a.rows - row < kBackwardRows ? a.rows - row : kBackwardRows;
        Vec<T> x[kBackwardRows], grad_x[kBackwardRows];
        for (int r = 0; r < kBackwardRows; ++r) {
            x[r] = load_first(a.x + (a.row + row + (r < rows ? r : 0)) * shape.ldx + k, count);
            grad_x[r] = Vec<T>{};
        }
        const T* c = a.coefficients + row * shape.o * 2;
        for (int64_t j = 0; j < shape.o; ++j, c += 2 * kBackwardRows) {
            const Vec<T> wj = load(w + j * lanes);
            Vec<T> gj = load(grad_w + j * lanes);
            LINFENGINE_EACH(group, kBackwardRows / 4) {
                Vec<T> d[4];
                LINFENGINE_EACH(r, 4) d[r] = x[4 * group + r] - wj;
                slope.add(d, c + 4 * group, c + kBackwardRows + 4 * group, grad_x + 4 * group, gj);
            }
            store(grad_w + j * lanes, gj);
        }
        if (a.grad_x)
            for (int64_t r = 0; r < rows; ++r)
                store_first(a.grad_x + (a.row + row + r) * shape.ldx + k, grad_x[r], count);
    }
    if (a.grad_w)
        for (int64_t j = 0; j < shape.o; ++j) store_first(a.grad_w + j * shape.k + k, load(grad_w + j * lanes), count);
    return kGood;
}

// winner = k, ~k or kNoWinner: what of g goes to x[k], and k itself.
template <class T>
LINFENGINE_INLINE T signed_by(int32_t winner, T g) {
    return winner >= 0 ? g : winner == kNoWinner ? T(0) : -g;
}
LINFENGINE_INLINE int64_t position(int32_t winner) {
    return winner >= 0 ? winner : winner == kNoWinner ? 0 : ~winner;
}

template <class T>
unsigned linf_backward_x(const Backward<T>& a, int64_t item, T*) {
    const FloatingPointMode mode(Mode::kExact);
    const Shape& shape = a.shape;
    const int64_t end = (item + 1) * kOutputChunk < shape.n ? (item + 1) * kOutputChunk : shape.n;
    for (int64_t row = item * kOutputChunk; row < end; ++row) {
        T* grad = a.grad_x + row * shape.ldx;
        for (int64_t k = 0; k < shape.k; ++k) grad[k] = T(0);
        for (int64_t j = 0; j < shape.o; ++j) {
            const int32_t winner = a.winner[row * shape.ldy + j];
            if (position(winner) >= shape.k) return kNoInput;
            grad[position(winner)] += signed_by(winner, a.g[row * shape.ldy + j]);
        }
    }
    return kGood;
}

template <class T>
unsigned linf_backward_w(const Backward<T>& a, int64_t item, T*) {
    const FloatingPointMode mode(Mode::kExact);
    const Shape& shape = a.shape;
    const int64_t begin = item * kOutputChunk;
    const int64_t end = begin + kOutputChunk < shape.o ? begin + kOutputChunk : shape.o;
    for (int64_t i = begin * shape.k; i < end * shape.k; ++i) a.grad_w[i] = T(0);
    for (int64_t row = 0; row < shape.n; ++row)
        for (int64_t j = begin; j < end; ++j) {
            const int32_t winner = a.winner[row * shape.ldy + j];
            if (position(winner) >= shape.k) return kNoInput;
            a.grad_w[j * shape.k + position(winner)] -= signed_by(winner, a.g[row * shape.ldy + j]);
        }
    return kGood;
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
