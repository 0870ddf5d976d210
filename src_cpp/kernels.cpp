// The kernels of one instruction set.  kernels_portable.cpp, kernels_avx2.cpp and kernels_avx512.cpp name the
// namespace and include this file; setup.py gives each its flags.
#include "kernels.h"

#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__
#error "the kernels need IEEE arithmetic: compile them with -fno-fast-math"
#endif

#include "backward.hpp"
#include "ceiling.hpp"
#include "metrics.hpp"
#include "simd.hpp"
#include "tile.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

template <class T>
unsigned linf(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run_checked(Linf<T>{a}, item);
}

template <class T>
unsigned linf_argmax(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run_checked(LinfArgmax<T>{a}, item);
}

template <class T>
unsigned linf_bounds(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run_checked(LinfBounds<T>{a}, item);
}

unsigned dead_zone(const Forward<uint8_t>& a, int64_t item) {
    return run(DeadZone<uint8_t>{a}, item);
}

template <class T>
unsigned dot(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    return run(Dot<T>{a}, item);
}

template <class T, int P>
unsigned lp_power(const Forward<T>& a, int64_t item) {
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
unsigned lp_scaled(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kFlush);
    return run(LpScaledPower<T, P>{a}, item);
}

template <class T, bool skip>
unsigned lp_general(const Forward<T>& a, int64_t item) {
    const FloatingPointMode mode(Mode::kFlush);
    return run(LpGeneral<T, skip>(a), item);
}

template <class T>
bool all_finite(const T* a, int64_t count) {
    return check_finite(a, 1, count, count) == kGood;
}

// One item is a run of channels where m = 1, and else one channel.
template <class T>
void channel_sums(const T* __restrict x, int64_t n, int64_t channels, int64_t m, int64_t item, double* __restrict out) {
    const FloatingPointMode mode(Mode::kExact);
    if (m == 1) {
        const int64_t first = item * kSumRun, count = channels - first < kSumRun ? channels - first : kSumRun;
        for (int64_t c = 0; c < count; ++c) out[first + c] = 0;
        for (int64_t i = 0; i < n; ++i)
            for (int64_t c = 0; c < count; ++c) out[first + c] += x[i * channels + first + c];
        return;
    }
    // Numbers go to kSumLanes sums in turn, as many on every instruction set.
    constexpr int lanes = Simd<double>::lanes, vectors = kSumLanes / lanes;
    typedef T Narrow __attribute__((vector_size(lanes * sizeof(T))));
    Vec<double> sums[vectors] = {};
    const auto add = [&](const T* run) LINFENGINE_ALWAYS_INLINE {
        LINFENGINE_EACH(v, vectors) {
            Narrow narrow;
            __builtin_memcpy(&narrow, run + v * lanes, sizeof narrow);
            sums[v] += __builtin_convertvector(narrow, Vec<double>);
        }
    };
    for (int64_t i = 0; i < n; ++i) {
        const T* run = x + (i * channels + item) * m;
        int64_t k = 0;
        for (; k + kSumLanes <= m; k += kSumLanes) add(run + k);
        if (k < m) {
            T rest[kSumLanes] = {};
            __builtin_memcpy(rest, run + k, (m - k) * sizeof(T));
            add(rest);
        }
    }
    out[item] = 0;
    for (const Vec<double>& part : sums)
        for (int lane = 0; lane < lanes; ++lane) out[item] += part[lane];
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

// One row.  At p = infinity only its largest entry decays, the first of several.
template <class T>
void lp_decay(T* row, int64_t k, T p, T amount) {
    const FloatingPointMode mode(Mode::kExact);
    constexpr int64_t lanes = Simd<T>::lanes;
    Vec<T> most[1] = {};
    for (int64_t i = 0; i < k; i += lanes) most[0] = abs_max<T>(most[0], load_first(row + i, k - i));
    const T m = reduce<Largest, T>(most)[0];
    if (p == T(__builtin_huge_val())) {
        for (int64_t i = 0; i < k; ++i)
            if (row[i] == m || row[i] == -m) {
                row[i] -= amount * row[i];
                break;
            }
        return;
    }
    if (m < kTiny<T>) return;
    // |w|_p = m (sum_k r^p)^(1/p) with r = |w| / m, and |w|_p (|w|/|w|_p)^(p-1) = m (sum_k r^p)^(2/p - 1) r^(p-1).
    // A weight decays by the fraction r^(p-2) of what the largest does; where that is negligible it stays.
    const Vec<T> inverse = broadcast(reciprocal(m)), least = broadcast(negligible<T>(k, p - 2));
    Vec<T> sum[1] = {};
    for (int64_t i = 0; i < k; i += lanes) {
        const Vec<T> r = absolute<T>(load_first(row + i, k - i)) * inverse;
        if (any_ge<T>(r, least)) sum[0] += (Vec<T>)(bits<T>(real_power<T>(r, p)) & (Int<T>)(r >= least));
    }
    const T scale = amount * m * T(::pow(reduce<Sum, T>(sum)[0], 2.0 / p - 1));
    for (int64_t i = 0; i < k; i += lanes) {
        const Vec<T> w = load_first(row + i, k - i), r = absolute<T>(w) * inverse;
        if (!any_ge<T>(r, least)) continue;
        const Int<T> sign = bits<T>(w) & ~Simd<T>::abs_mask;
        const Vec<T> step = (Vec<T>)((bits<T>(real_power<T>(r, p - 1)) | sign) & (Int<T>)(r >= least));
        store_first(row + i, w - scale * step, k - i);
    }
}

template <class T, int P>
constexpr BackwardItem<T> lp_power_backward = lp_backward<LpPowerSlope<T, P>>;

template <class T, int... I>
constexpr Kernels<T> make_kernels(Indices<I...>) {
    return {Simd<T>::lanes,
            kBackwardRows,
            linf<T>,
            linf_argmax<T>,
            linf_bounds<T>,
            dot<T>,
            {lp_unscaled<T, kPowers[I]>()...},
            {lp_scaled<T, kPowers[I]>...},
            lp_general<T, false>,
            lp_general<T, true>,
            linf_backward_x<T>,
            linf_backward_w<T>,
            coefficients<T>,
            {lp_power_backward<T, kPowers[I]>...},
            lp_backward<LpGeneralSlope<T, false>>,
            lp_backward<LpGeneralSlope<T, true>>,
            all_finite<T>,
            channel_sums<T>,
            adam<T>,
            lp_decay<T>};
}

// A type that lists the positions 0, 1, ... in kPowers.  (std::index_sequence, without the standard library.)
using AllPowers = CountTo<kPowerCount>::type;
static const Kernels<float> f32 = make_kernels<float>(AllPowers{});
static const Kernels<double> f64 = make_kernels<double>(AllPowers{});

static const Ceilings ceilings = {registers_only<Linf<float>>, registers_only<LinfBounds<float>>,
                                  registers_only<DeadZone<uint8_t>>, registers_only<LpPower<float, 8>>};

#define LINFENGINE_TEXT(name) LINFENGINE_TEXT_(name)
#define LINFENGINE_TEXT_(name) #name
extern const InstructionSet instruction_set = {LINFENGINE_TEXT(LINFENGINE_ISA), f32, f64, dead_zone, ceilings};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
