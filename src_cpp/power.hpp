// Powers, roots, and the ranges within which they are accurate. The constants are those of orders.h.
#pragma once

#include "kernels.h"
#include "simd.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// v^P in place, by squaring; P is known to the compiler, so this is a short chain of multiplications.
template <int P, class T, int n>
LINFENGINE_INLINE void raise(Vec<T> (&v)[n]) {
    if constexpr (P == 0) {
        LINFENGINE_EACH(i, n) v[i] = broadcast(T(1));
    } else if constexpr (P > 1 && P % 2 == 1) {
        Vec<T> once[n];
        LINFENGINE_EACH(i, n) once[i] = v[i];
        raise<P - 1, T>(v);
        LINFENGINE_EACH(i, n) v[i] *= once[i];
    } else if constexpr (P > 1) {
        raise<P / 2, T>(v);
        LINFENGINE_EACH(i, n) v[i] *= v[i];
    }
}

// The same for a P >= 1 that only the program knows, by the same multiplications.
template <class T, int n>
LINFENGINE_INLINE void raise_by_chain(Vec<T> (&v)[n], int power) {
    Vec<T> once[n];
    LINFENGINE_EACH(i, n) once[i] = v[i];
    for (int bit = (1 << (31 - __builtin_clz(power))) >> 1; bit; bit >>= 1) {
        LINFENGINE_EACH(i, n) v[i] *= v[i];
        if (power & bit) LINFENGINE_EACH(i, n) v[i] *= once[i];
    }
}

// sum += |d|^P for an even P or 1. Where P is kAnyChain, `order` is the power, an even number.
constexpr int kAnyChain = 0;
template <int P, class T, int n>
LINFENGINE_INLINE void add_power(Vec<T> (&sum)[n], Vec<T> (&d)[n], int order) {
    static_assert(P == 1 || P % 2 == 0, "an odd power needs |d|");
    if constexpr (P == 1) {
        LINFENGINE_EACH(i, n) sum[i] += absolute<T>(d[i]);
    } else if constexpr (P != kAnyChain) {
        raise<P, T>(d);
        LINFENGINE_EACH(i, n) sum[i] += d[i];
    } else {
        raise_by_chain<T>(d, order / 2);
        LINFENGINE_EACH(i, n) sum[i] += d[i] * d[i];
    }
}

// Double precision is for checking gradients, not for speed: the C library.
template <class V>
__attribute__((noinline)) V power_of_c(V a, double p) {
    double lanes[sizeof(V) / sizeof(double)];
    __builtin_memcpy(lanes, &a, sizeof a);
    for (double& lane : lanes) lane = ::pow(lane, p);
    __builtin_memcpy(&a, lanes, sizeof a);
    return a;
}

// a^p = 2^(p log2 a), in place, for a >= 0 not denormal and a^p <= 2^127; results below 2^-126, and 0^p, come out as
// 2^-126, so that no denormal is ever made.
//
// log2: a = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), log2(1 + f) = f P(f) with the minimax polynomial P of degree 8
// (relative error 2.6e-8); f P(f) keeps the relative error as a nears 1.
// exp2: z = n + f, |f| <= 1/2, a minimax polynomial for 2^f (relative error 1.9e-9), n added to the exponent.
template <class T, int n>
LINFENGINE_INLINE void raise(Vec<T> (&a)[n], T p) {
    if constexpr (sizeof(T) == 8) {
        for (auto& each : a) each = power_of_c(each, p);
    } else {
        const Vec<T> magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
        Int<T> e[n];
        Vec<T> f[n], f2[n], q[n], z[n], t[n];
        LINFENGINE_EACH(i, n) e[i] = (bits<T>(a[i]) - 0x3f3504f3) & (int32_t)0xff800000;  // 2^23 e, from sqrt(1/2) on
        LINFENGINE_EACH(i, n) f[i] = (Vec<T>)(bits<T>(a[i]) - e[i]) - 1.0f;
        LINFENGINE_EACH(i, n) f2[i] = f[i] * f[i];
        LINFENGINE_EACH(i, n) q[i] = 0.21571561694145203f - 0.2072698026895523f * f[i] + 0.1258370727300644f * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (0.28791624307632446f - 0.23894481360912323f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (0.48091062903404236f - 0.3607036769390106f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (1.4426950216293335f - 0.7213473320007324f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) z[i] = __builtin_convertvector(e[i], Vec<T>) * (p * 0x1p-23f) + q[i] * (f[i] * p);
        LINFENGINE_EACH(i, n) z[i] = maximum<T>(z[i], broadcast(-126.0f));
        LINFENGINE_EACH(i, n) e[i] = bits<T>(z[i] + magic);
        LINFENGINE_EACH(i, n) f[i] = z[i] - ((Vec<T>)e[i] - magic);
        LINFENGINE_EACH(i, n) f2[i] = f[i] * f[i];
        LINFENGINE_EACH(i, n)
        t[i] = 0.009618489071726799f + 0.0013399930903688073f * f[i] + 0.0001534581242594868f * f2[i];
        LINFENGINE_EACH(i, n) t[i] = (0.24022646248340607f + 0.05550328642129898f * f[i]) + t[i] * f2[i];
        LINFENGINE_EACH(i, n) t[i] = (1.0f + 0.6931471824645996f * f[i]) + t[i] * f2[i];
        LINFENGINE_EACH(i, n) a[i] = (Vec<T>)(bits<T>(t[i]) + (e[i] << 23));
    }
}

template <class T>
LINFENGINE_INLINE Vec<T> real_power(Vec<T> a, T p) {
    Vec<T> one[1] = {a};
    raise<T>(one, p);
    return one[0];
}

// s^(1/order) for s > 0
template <class T>
LINFENGINE_INLINE Vec<T> root(Vec<T> s, int order) {
    if (order & (order - 1)) return real_power<T>(s, T(1.0 / order));
    for (; order > 1; order /= 2) s = square_root<T>(s);
    return s;
}

template <class T>
constexpr T kTiny = sizeof(T) == 4 ? T(TINY_FLOAT) : T(TINY_DOUBLE);  // its reciprocal is still finite

// Ratios below this are negligible in a sum of `terms` of their powers: all of them together stay below 2^-25 (2^-54)
// times the exponent, which is as much as rounding the ratios does. Never 0, of which there is no logarithm.
template <class T>
T negligible(int64_t terms, double exponent) {
    const double cut =
        (sizeof(T) == 4 ? NEGLIGIBLE_BITS_FLOAT : NEGLIGIBLE_BITS_DOUBLE) + ::log2(double(terms) / ::fmax(exponent, 1));
    return exponent > 0 ? T(::fmax(::exp2(-cut / exponent), kTiny<T>)) : kTiny<T>;
}

constexpr double power_of_2(int exponent) {
    return exponent < 0 ? power_of_2(exponent + 1) / 2 : exponent > 0 ? 2 * power_of_2(exponent - 1) : 1;
}

// Whether a distance leaves room for its reciprocal, and for terms far smaller before they are flushed.
template <class T>
bool in_range(T m) {
    constexpr T smallest = T(power_of_2(SMALLEST_EXPONENT)), largest = T(power_of_2(LARGEST_EXPONENT));
    return m == 0 || (m >= smallest && m <= largest);
}

// What the scaled metrics know of an output before they start: y holds m = max_k |x - w|.
template <class T>
T reciprocal(T m) {
    return T(1) / (m > kTiny<T> ? m : kTiny<T>);
}

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
