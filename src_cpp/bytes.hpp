// The metric of bytes.
#pragma once

#include "metric.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// y = max_k max(x - above, below - x, 0), of bytes: |x - w| with a dead zone from below to above, which is no less
template <class T>
struct DeadZone : Metric {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int weights = 2, kRows = 3, kCols = kColsOfTile<T>;
    const Forward<T>& a;

    explicit DeadZone(const Forward<T>& a) : a(a) {}

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        // One of the two is 0, and an `or` finds more of the processor free than a maximum would.
        LINFENGINE_EACH(c, n)
        part[c] = maximum<T>(part[c], subtract_to_zero(x[0], w[0][c]) | subtract_to_zero(w[1][c], x[0]));
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total = maximum<T>(total, part); }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y[0] + row * a.shape.ldy + col, reduce<Largest, T>(total), n);
        return kGood;
    }
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
