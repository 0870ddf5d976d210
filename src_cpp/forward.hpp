// The forward loop nest, one for all metrics. It is a matrix product with (subtract, absolute value, maximum) where
// that has (multiply, add), in the form of inner products: a lane is a coordinate k, so that the rows of x and of w are
// read as they lie in memory, and nothing is packed.
//
//   LOOP 4  panels of outputs x chunks of rows   one item of work; dealt to threads by dispatch.cpp
//   LOOP 3  tiles of kRows rows x kCols outputs  the accumulators, in registers
//   LOOP 2  blocks of k                          parts merge into totals, which keeps sums short
//   LOOP 1  vectors of k                         kRows vectors of x against kCols vectors of w
#pragma once

#include "metric.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

template <class M, int kRows, int kCols, class T = typename M::Scalar>
unsigned tile(const M& metric, int64_t row, int64_t col) {
    constexpr int64_t lanes = Simd<T>::lanes, block_length = M::kBlock * lanes;
    const Shape& shape = metric.a.shape;
    const T *x[M::inputs][kRows], *w[M::weights][kCols];
    typename M::Total total[kRows][kCols];
    for (int i = 0; i < M::weights; ++i)
        for (int c = 0; c < kCols; ++c) w[i][c] = metric.a.w[i] + (col + c) * shape.k;
    for (int r = 0; r < kRows; ++r) {
        for (int i = 0; i < M::inputs; ++i) x[i][r] = metric.a.x[i] + (row + r) * shape.ldx;
        for (int c = 0; c < kCols; ++c) total[r][c] = metric.begin(row + r, col + c);
    }
    for (int64_t block = 0; block * block_length < shape.k; ++block) {
        const int64_t begin = block * block_length;
        const int64_t end = begin + block_length < shape.k ? begin + block_length : shape.k;
        typename M::Part part[kRows][kCols];
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kCols; ++c) part[r][c] = metric.identity();
        const auto step = [&](auto&& read, int64_t k) LINFENGINE_ALWAYS_INLINE {
            Vec<T> ws[M::weights][kCols];
            for (int i = 0; i < M::weights; ++i) LINFENGINE_EACH(c, kCols) ws[i][c] = read(w[i][c] + k);
            LINFENGINE_EACH(r, kRows) {
                Vec<T> xs[M::inputs];
                for (int i = 0; i < M::inputs; ++i) xs[i] = read(x[i][r] + k);
                metric.step(part[r], total[r], xs, ws);
            }
        };
        int64_t k = begin;
        for (; k + lanes <= end; k += lanes) step([](const T* p) LINFENGINE_ALWAYS_INLINE { return load(p); }, k);
        if (k < end) step([&](const T* p) LINFENGINE_ALWAYS_INLINE { return load_first(p, end - k); }, k);
        for (int r = 0; r < kRows; ++r)
            for (int c = 0; c < kCols; ++c) metric.merge(total[r][c], part[r][c], block);
    }
    unsigned verdict = kGood;
    for (int r = 0; r < kRows; ++r) verdict |= metric.finish(total[r], row + r, col);
    if constexpr (M::kSettles) metric.template settle<kRows, kCols>(row, col);
    return verdict;
}

template <class M, int kRows>
unsigned row_of_tiles(const M& metric, int64_t row, int64_t col, int64_t end) {
    unsigned verdict = kGood;
    for (; col + M::kCols <= end; col += M::kCols) verdict |= tile<M, kRows, M::kCols>(metric, row, col);
    for (; col < end; ++col) verdict |= tile<M, kRows, 1>(metric, row, col);
    return verdict;
}

// What an item of work covers: the rows and the outputs of its tiles.
struct Block {
    int64_t row, rows_end, col, cols_end;
    Block(const Shape& shape, int64_t item, int64_t outputs)
        : row(item % chunks_of(shape) * kRowChunk),
          rows_end(row + kRowChunk < shape.n ? row + kRowChunk : shape.n),
          col(item / chunks_of(shape) * outputs),
          cols_end(col + outputs < shape.o ? col + outputs : shape.o) {}
};

// Rows to take next where so many are left: eight and nine are better begun with four than with six.
template <class M>
int64_t rows_at_once(int64_t left) {
    if (left >= M::kRows && !(M::kRows == 6 && (left == 8 || left == 9))) return M::kRows;
    return M::kRows == 6 && left >= 4 ? 4 : 1;
}

template <class M>
unsigned run(const M& metric, int64_t item) {
    const Block block(metric.a.shape, item, panel_of<typename M::Scalar>(metric.a.shape));
    unsigned verdict = kGood;
    for (int64_t row = block.row, rows; row < block.rows_end; row += rows) {
        rows = rows_at_once<M>(block.rows_end - row);
        if (rows == M::kRows)
            verdict |= row_of_tiles<M, M::kRows>(metric, row, block.col, block.cols_end);
        else if (M::kRows == 6 && rows == 4)
            verdict |= row_of_tiles<M, M::kRows == 6 ? 4 : 1>(metric, row, block.col, block.cols_end);
        else
            verdict |= row_of_tiles<M, 1>(metric, row, block.col, block.cols_end);
    }
    return verdict;
}

// Hardware maxima drop NaN, so NaN and infinity are looked for apart: between them, the items of an operation see each
// row of x and of w once, when it has just been read and is still in the cache.
template <class T>
unsigned check_finite(const T* rows, int64_t count, int64_t distance, int64_t k) {
    Int<T> most = {};  // as integers, the magnitudes of infinity and NaN are above all finite ones
    const auto look = [&](Vec<T> v) LINFENGINE_ALWAYS_INLINE {
        const Int<T> size = bits<T>(v) & Simd<T>::abs_mask;
        most = size > most ? size : most;
    };
    for (int64_t row = 0; row < count; ++row) {
        const T* at = rows + row * distance;
        int64_t i = 0;
        for (; i + Simd<T>::lanes <= k; i += Simd<T>::lanes) look(load(at + i));
        if (i < k) look(load_first(at + i, k - i));
    }
    const Int<T> infinity = bits<T>(broadcast(T(__builtin_huge_val())));
    for (int lane = 0; lane < Simd<T>::lanes; ++lane)
        if (most[lane] >= infinity[lane]) return kNotFinite;
    return kGood;
}

// One item of a forward.
template <class M, class T = typename M::Scalar>
unsigned forward(const Forward<T>& problem, int64_t item) {
    const FloatingPointMode mode(M::mode);
    unsigned verdict = run(M(problem), item);
    if constexpr (M::kRefusesNonFinite) {
        const Shape& shape = problem.shape;
        const Block block(shape, item, panel_of<T>(shape));
        if (block.row == 0)
            verdict |= check_finite(problem.w[0] + block.col * shape.k, block.cols_end - block.col, shape.k, shape.k);
        if (block.col == 0)
            for (int i = 0; i < M::inputs; ++i)
                verdict |=
                    check_finite(problem.x[i] + block.row * shape.ldx, block.rows_end - block.row, shape.ldx, shape.k);
    }
    return verdict;
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
