// The speed limits of the kernels: the step of a metric on registers alone, and reading memory once. A kernel that is
// slower loses the difference to memory, to the ends of its loops and to the joining of lanes.
#define LINFENGINE_ISA ceilings
#include "../../src_cpp/bytes.hpp"
#include "../../src_cpp/forward.hpp"
#include "../../src_cpp/linf.hpp"
#include "../../src_cpp/lp.hpp"

namespace linfengine {
namespace ceilings {

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
    const M metric(nothing);
    typename M::Part part[M::kRows][M::kCols];
    typename M::Total total[M::kCols];
    Vec<T> x[M::inputs], w[M::weights][M::kCols];
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
            metric.step(part[r], total, x, w);
        }
    }
    LINFENGINE_EACH(r, M::kRows)
    LINFENGINE_EACH(c, M::kCols) asm volatile("" : : "m"(part[r][c]));
    return rounds * M::kRows * M::kCols * Simd<T>::lanes;
}

}  // namespace ceilings
}  // namespace linfengine

using namespace linfengine::ceilings;

extern "C" int64_t linf(int64_t rounds) {
    return registers_only<Linf<float>>(rounds);
}
extern "C" int64_t linf_bounds(int64_t rounds) {
    return registers_only<LinfBounds<float>>(rounds);
}
extern "C" int64_t dead_zone(int64_t rounds) {
    return registers_only<DeadZone<uint8_t>>(rounds);
}
extern "C" int64_t lp_power_8(int64_t rounds) {
    return registers_only<LpPower<float, 8>>(rounds);
}
extern "C" int64_t read_once(const float* a, int64_t count) {
    return check_finite(a, 1, count, count);
}
