// What a training step does besides the distances: sums over the batch, Adam and the decay of weights.
#pragma once

#include "kernels.h"
#include "lanes.hpp"
#include "mode.hpp"
#include "power.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// One item is a run of channels where m = 1, and else one channel.
template <class T>
void channel_sums(const Call& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    const int64_t n = a.shape.n, channels = a.channels, m = a.m;
    const T* __restrict x = array<T>(a, 0);
    double* __restrict out = array<double>(a, 1);
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

// kStepChunk entries. rate = lr / (1 - beta1^t) and root_correction = 1 / sqrt(1 - beta2^t) carry the bias corrections.
// A weight that gets no gradient any more would fill m and v with denormals.
template <class T>
void Adam(const Call& a, int64_t item) {
    const double lr = a.numbers[0], t = a.numbers[4];
    const T beta1 = T(a.numbers[1]), beta2 = T(a.numbers[2]), eps = T(a.numbers[3]);
    const T rate = T(lr / (1 - ::pow(a.numbers[1], t)));
    const T root_correction = T(1 / ::sqrt(1 - ::pow(a.numbers[2], t)));
    const FloatingPointMode mode(Mode::kFlush);
    T *param = array<T>(a, 0), *m = array<T>(a, 2), *v = array<T>(a, 3);
    const T* grad = array<T>(a, 1);
    const int64_t begin = item * kStepChunk, end = begin + kStepChunk < a.entries ? begin + kStepChunk : a.entries;
    for (int64_t i = begin; i < end; i += Simd<T>::lanes) {
        const int64_t left = end - i;
        const Vec<T> g = load_first(grad + i, left);
        const Vec<T> mean = beta1 * load_first(m + i, left) + (1 - beta1) * g;
        const Vec<T> square = beta2 * load_first(v + i, left) + (1 - beta2) * (g * g);
        const Vec<T> step = rate * mean / (square_root<T>(square) * root_correction + eps);
        store_first(m + i, mean, left);
        store_first(v + i, square, left);
        store_first(param + i, load_first(param + i, left) - step, left);
    }
}

// One row. At p = infinity only its largest entry decays, the first of several.
template <class T>
void LpDecay(const Call& a, int64_t item) {
    const FloatingPointMode mode(Mode::kExact);
    const int64_t k = a.shape.k;
    T* row = array<T>(a, 0) + item * k;
    const T p = T(a.numbers[0]), amount = T(a.numbers[1]);
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

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
