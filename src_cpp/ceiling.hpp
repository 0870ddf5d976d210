// The speed limit of a metric: its step on registers alone.  Nothing is loaded, nothing waits; what a kernel does not
// reach of this it loses to memory, to the ends of its loops and to the joining of lanes.
#pragma once

#include "metrics.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// The compiler must take v to be changed here.
template <class V>
LINFENGINE_INLINE void opaque(V& v) {
#if defined(__AVX512F__)
    asm volatile("" : "+v"(v));
#elif defined(__x86_64__)
    asm volatile("" : "+x"(v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(v));
#else
    asm volatile("" : "+m"(v));
#endif
}

// Returns the number of terms in `rounds` rounds.
template <class M, class T = typename M::Scalar>
int64_t registers_only(int64_t rounds) {
    static const Forward<T> nothing{};
    const M metric{nothing};
    typename M::Part part[M::kRows][M::kCols];
    typename M::Total total[M::kCols];
    Vec<T> x[M::inputs], w[kWeights<M>][M::kCols];
    for (auto& each : x) each = broadcast(T(2));
    LINFENGINE_EACH(c, M::kCols) {
        for (auto& each : w) each[c] = broadcast(T(c));
        total[c] = typename M::Total{};
    }
    LINFENGINE_EACH(r, M::kRows)
    LINFENGINE_EACH(c, M::kCols) part[r][c] = metric.identity();
    for (int64_t round = 0; round < rounds; ++round) {
        for (auto& each : w) LINFENGINE_EACH(c, M::kCols) opaque(each[c]);
        LINFENGINE_EACH(r, M::kRows) {
            LINFENGINE_EACH(i, M::inputs) opaque(x[i]);
            step_of(metric, part[r], total, x, w);
        }
    }
    LINFENGINE_EACH(r, M::kRows)
    LINFENGINE_EACH(c, M::kCols) asm volatile("" : : "m"(part[r][c]));
    return rounds * M::kRows * M::kCols * Simd<T>::lanes;
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
