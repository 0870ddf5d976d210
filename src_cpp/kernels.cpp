// The kernels of one instruction set.  kernels_portable.cpp, kernels_avx2.cpp and kernels_avx512.cpp name the
// namespace and include this file; setup.py gives each its flags.
#include "kernels.h"

#include "backward.hpp"
#include "metrics.hpp"
#include "simd.hpp"
#include "tile.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

template <class T>
bool linf(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run(Linf<T>{a}, item);
}

template <class T>
bool linf_argmax(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run(LinfArgmax<T>{a}, item);
}

template <class T>
bool linf_bounds(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run(LinfBounds<T>{a}, item);
}

template <class T>
bool dot(const Forward<T>& a, int64_t item) {
    return run(Dot<T>{a}, item);
}

template <class T, int P>
bool lp_power(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kFlush);
    return run(LpPower<T, P>{a}, item);
}

// Null for the orders whose unscaled sums would leave the range of float32 too often to try.
template <class T, int P>
constexpr ForwardItem<T> lp_unscaled() {
    if constexpr (P <= kLargestUnscaled) {
        return lp_power<T, P>;
    } else {
        return nullptr;
    }
}

template <class T, int P>
bool lp_scaled(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kFlush);
    return run(LpScaledPower<T, P>{a}, item);
}

template <class T>
bool lp_general(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kFlush);
    return run(LpGeneral<T>(a), item);
}

template <class T>
T largest(const T* a, int64_t count) {
    // NaN loses every comparison, so it is looked for apart: x - x is zero for finite x and NaN otherwise.
    Vec<T> most = {}, probe = {};
    int64_t i = 0;
    for (; i < count; i += Simd<T>::lanes) {
        const Vec<T> v = load_first(a + i, count - i);
        most = abs_max<T>(most, v);
        probe += v - v;
    }
    T result = 0;
    for (int lane = 0; lane < Simd<T>::lanes; ++lane) {
        if (!(probe[lane] == 0)) return T(__builtin_huge_val());
        if (most[lane] > result) result = most[lane];
    }
    return result;
}

template <class T>
void adam(T* param, const T* grad, T* m, T* v, int64_t count, T rate, T beta1, T beta2, T root_correction, T eps) {
    // rate = lr / (1 - beta1^t) and root_correction = 1 / sqrt(1 - beta2^t) carry the bias corrections.  A weight that
    // gets no gradient any more would fill m and v with denormals.
    const FloatingPointMode mode(Mode::kFlush);
    for (int64_t i = 0; i < count; i += Simd<T>::lanes) {
        const Vec<T> g = load_first(grad + i, count - i);
        const Vec<T> mean = beta1 * load_first(m + i, count - i) + (1 - beta1) * g;
        const Vec<T> square = beta2 * load_first(v + i, count - i) + (1 - beta2) * (g * g);
        const Vec<T> step = rate * mean / (square_root<T>(square) * root_correction + eps);
        store_first(m + i, mean, count - i);
        store_first(v + i, square, count - i);
        store_first(param + i, load_first(param + i, count - i) - step, count - i);
    }
}

// The positions 0, 1, ... in kPowers, as a type.  (std::index_sequence, without the standard library.)
template <int... I>
struct Powers {};
using AllPowers = Powers<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13>;
static_assert(kPowerCount == 14, "AllPowers must name every position");

template <class T, int P>
constexpr BackwardItem<T> lp_power_backward = lp_backward<LpPowerSlope<T, P>>;

template <class T, int... I>
constexpr Kernels<T> make_kernels(Powers<I...>) {
    return {Simd<T>::lanes,
            kPanel<T>,
            kBackwardRows,
            pack<T>,
            linf<T>,
            linf_argmax<T>,
            linf_bounds<T>,
            dot<T>,
            {lp_unscaled<T, kPowers[I]>()...},
            {lp_scaled<T, kPowers[I]>...},
            lp_general<T>,
            linf_backward_x<T>,
            linf_backward_w<T>,
            coefficients<T>,
            {lp_power_backward<T, kPowers[I]>...},
            lp_backward<LpGeneralSlope<T>>,
            largest<T>,
            adam<T>};
}

static const Kernels<float> f32 = make_kernels<float>(AllPowers{});
static const Kernels<double> f64 = make_kernels<double>(AllPowers{});

#define LINFENGINE_TEXT(name) LINFENGINE_TEXT_(name)
#define LINFENGINE_TEXT_(name) #name
extern const InstructionSet instruction_set = {LINFENGINE_TEXT(LINFENGINE_ISA), f32, f64};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
