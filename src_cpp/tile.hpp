// The forward loop nest, one for all metrics.  It is a matrix product with (subtract, absolute value, maximum) where
// that has (multiply, add):
//
//   LOOP 4  panels of outputs x chunks of rows   one item of work; dealt to threads by dispatch.cpp
//   LOOP 3  tiles of kRows x (kVectors vectors)  the accumulators, in registers
//   LOOP 2  blocks of k                          parts merge into totals, which keeps sums short
//   LOOP 1  k                                    one vector of weights against one broadcast x
//
// A panel holds the weights of `panel` outputs with k outermost, so that LOOP 1 reads them in order:
//
//            k = 0                 k = 1
//   panel 0  w[0..63, 0]           w[0..63, 1]        ...      (64 = panel; the last one is as narrow as it can be)
//   panel 1  w[64..127, 0]         w[64..127, 1]      ...
#pragma once

#include "metrics.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr int kPanelVectors = kWide ? 4 : 2;

template <class T>
constexpr int64_t kPanel = kPanelVectors * Simd<T>::lanes;

// Vectors in the panel that starts at output `col`.
template <class T>
int64_t panel_vectors(const Shape& shape, int64_t col) {
    const int64_t vectors = (shape.o - col + Simd<T>::lanes - 1) / Simd<T>::lanes;
    return vectors < kPanelVectors ? vectors : kPanelVectors;
}

template <class T>
void pack(const T* w, Shape shape, T* panels, int64_t panel_number) {
    const int64_t col = panel_number * kPanel<T>, width = panel_vectors<T>(shape, col) * Simd<T>::lanes;
    T* out = panels + col * shape.k;
    constexpr int64_t strip = 16;  // one cache line of each of 64 rows at a time
    for (int64_t k0 = 0; k0 < shape.k; k0 += strip) {
        const int64_t k1 = k0 + strip < shape.k ? k0 + strip : shape.k;
        for (int64_t j = 0; j < width; ++j)
            for (int64_t k = k0; k < k1; ++k)
                out[k * width + j] = col + j < shape.o ? w[(col + j) * shape.k + k] : T(0);
    }
}

template <class M, int kRows, int kVectors, class T = typename M::Scalar>
bool tile(const M& metric, int64_t row, int64_t col, const T* panel, int64_t width) {
    const Shape& shape = metric.a.shape;
    const T* inputs[2] = {metric.a.x, metric.a.x_upper};
    const T* x[M::inputs][kRows];
    typename M::Total total[kRows][kVectors];
    for (int r = 0; r < kRows; ++r) {
        for (int i = 0; i < M::inputs; ++i) x[i][r] = inputs[i] + (row + r) * shape.ldx;
        for (int v = 0; v < kVectors; ++v) total[r][v] = metric.begin(row + r, col + v * Simd<T>::lanes);
    }
    for (int64_t k0 = 0; k0 < shape.k; k0 += M::kBlock) {
        const int64_t k1 = k0 + M::kBlock < shape.k ? k0 + M::kBlock : shape.k;
        typename M::Part part[kRows][kVectors];
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v) part[r][v] = metric.identity();
        for (int64_t k = k0; k < k1; ++k) {
            Vec<T> w[kVectors];
#pragma GCC unroll 8
            for (int v = 0; v < kVectors; ++v) w[v] = load(panel + k * width + v * Simd<T>::lanes);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) {
                T xs[M::inputs];
                for (int i = 0; i < M::inputs; ++i) xs[i] = x[i][r][k];
#pragma GCC unroll 8
                for (int v = 0; v < kVectors; ++v) metric.step(part[r][v], total[r][v], xs, w[v]);
            }
        }
        for (int r = 0; r < kRows; ++r)
            for (int v = 0; v < kVectors; ++v) metric.merge(total[r][v], part[r][v], k0);
    }
    bool trusted = true;
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVectors; ++v) {
            const int64_t c = col + v * Simd<T>::lanes;
            trusted &= metric.finish(total[r][v], row + r, c, shape.o - c);
        }
    return trusted;
}

template <class M, int kVectors, class T = typename M::Scalar>
bool rows_of_tiles(const M& metric, int64_t row, int64_t end, int64_t col, const T* panel, int64_t width) {
    bool trusted = true;
    for (; row + M::kRows <= end; row += M::kRows)
        trusted &= tile<M, M::kRows, kVectors>(metric, row, col, panel, width);
    for (; row < end; ++row) trusted &= tile<M, 1, kVectors>(metric, row, col, panel, width);
    return trusted;
}

template <class M, class T = typename M::Scalar>
bool run(const M& metric, int64_t item) {
    const Shape& shape = metric.a.shape;
    const int64_t chunks = (shape.n + kRowChunk - 1) / kRowChunk;
    const int64_t col = item / chunks * kPanel<T>, row = item % chunks * kRowChunk;
    const int64_t end = row + kRowChunk < shape.n ? row + kRowChunk : shape.n;
    const int64_t vectors = panel_vectors<T>(shape, col), width = vectors * Simd<T>::lanes;
    const T* panel = metric.a.panels + col * shape.k;
    bool trusted = true;
    int64_t v = 0;
    for (; v + M::kVectors <= vectors; v += M::kVectors)
        trusted &= rows_of_tiles<M, M::kVectors>(metric, row, end, col + v * Simd<T>::lanes, panel + v * Simd<T>::lanes,
                                                 width);
    for (; v < vectors; ++v)
        trusted &= rows_of_tiles<M, 1>(metric, row, end, col + v * Simd<T>::lanes, panel + v * Simd<T>::lanes, width);
    return trusted;
}

// The lowest k in [k0, end) with |x - w| = value, which is attained there; x and w are rows, read along k.
template <class T>
int64_t first_equal(const T* x, const T* w, T value, int64_t k0, int64_t end) {
    for (int64_t k = k0; k < end; k += Simd<T>::lanes) {
        const Vec<T> d = load_first(x + k, end - k) - load_first(w + k, end - k);
        // Lanes past the end read as |0 - 0| and match only value = 0, which a lane before them matches as well.
        const unsigned found = lanes_ge<T>(absolute<T>(d), broadcast(value));
        if (found) return k + __builtin_ctz(found);
    }
    return k0;
}

template <class T>
bool LinfArgmax<T>::finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
    const Shape& shape = a.shape;
    store_first(a.y + row * shape.ldy + col, total.value, count);
    const int64_t lanes = count < Simd<T>::lanes ? count : Simd<T>::lanes;
    for (int64_t i = 0; i < lanes; ++i) {
        const int64_t k0 = total.block[i], k1 = k0 + kBlock < shape.k ? k0 + kBlock : shape.k;
        a.index[row * shape.ldy + col + i] =
            (int32_t)first_equal(a.x + row * shape.ldx, a.w + (col + i) * shape.k, total.value[i], k0, k1);
    }
    return true;
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
