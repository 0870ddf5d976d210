// Powers, roots, and the ranges within which they are accurate. The constants are those of orders.h.
#pragma once

#include "kernels.cuh"
#include "orders.h"

template <class T>
constexpr T kTiny = T(0);
template <>
constexpr float kTiny<float> = TINY_FLOAT;  // its reciprocal is still finite
template <>
constexpr double kTiny<double> = TINY_DOUBLE;

template <class T>
__device__ __forceinline__ T reciprocal(T m) {
    return T(1) / (m > kTiny<T> ? m : kTiny<T>);
}

// log2(a b) for the inner loop of orders without a chain; a b = 0 gives minus infinity.
//
// The device's quick logarithm is off by up to 2^-22 near 1, where a power of order p makes p 2^-22 log 2 of it. So
// within 1/16 of 1 it gives way to a cubic in s = a b - 1, of which fma loses nothing: relative error 2.1e-6 for s <=
// 0. The power of either is off by less than 1e-6 of the largest, which is 1, for every p.
__device__ __forceinline__ float log2_of_product(float a, float b) {
    const float s = fma(a, b, -1.0f);
    const float near_1 = s * (1.442698f + s * (-0.72049052f + s * 0.51678079f));
    return fabs(s) < 0x1p-4f ? near_1 : __log2f(a * b);
}
__device__ __forceinline__ double log2_of_product(double a, double b) {
    return log2(a * b);
}

// a^P by squaring; P is known to the compiler, so this is a short chain of multiplications.
template <int P, class T>
__device__ __forceinline__ T power(T a) {
    if constexpr (P == 0) {
        return T(1);
    } else if constexpr (P == 1) {
        return a;
    } else if constexpr (P % 2 == 1) {
        return power<P - 1>(a) * a;
    } else {
        const T half = power<P / 2>(a);
        return half * half;
    }
}

// s^(1/P) for P = 2^i or 3 2^i; square roots last, since each halves the error so far
template <int P, class T>
__device__ __forceinline__ T root(T s) {
    static_assert(P == 1 || P == 3 || P % 2 == 0, "no such root");
    if constexpr (P == 1) {
        return s;
    } else if constexpr (P == 3) {
        return cbrt(s);
    } else {
        return sqrt(root<P / 2>(s));
    }
}
