// The metric of the matrix product.
#pragma once

#include "metric.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// y = sum_k x w: the matrix product of the linear layers, in an order of summation that the shapes alone fix.
template <class T>
struct Dot : Metric {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int kCols = kColsOfTile<T>;
    const Forward<T>& a;

    explicit Dot(const Forward<T>& a) : a(a) {}

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] += x[0] * w[0][c];
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y[0] + row * a.shape.ldy + col, reduce<Sum, T>(total), n);
        return kGood;
    }
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
