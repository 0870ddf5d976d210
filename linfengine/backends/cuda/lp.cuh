// The metrics and slopes of finite p.
#pragma once

#include "metric.cuh"

// |d|^P for an even P or 1
template <int P, class T>
__device__ __forceinline__ T size_power(T d) {
    static_assert(P == 1 || P % 2 == 0, "an odd power needs |d|");
    return P == 1 ? fabs(d) : power<P>(d);
}

// sum_k |x - w|^P, by multiplication
template <class T, int P>
struct LpPower {
    using Scalar = T;
    using State = SumOfParts<T>;
    static constexpr int inputs = 1, kUnroll = kAll<T>;
    static constexpr bool kCloses = true;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c].part += size_power<P>(x[0] - w[c]);
    }
    __device__ __forceinline__ void close(State& s, int, int next) const { close_part(s, next); }
};

// What the scaled metrics accumulate; `scale` = 1/m with m = max_k |x - w|.
template <class T>
struct ScaledSum {
    SumOfParts<T> sum;
    T scale;
};

// sum_k (|x - w| / m)^P: one more multiplication, and no range to leave
template <class T, int P>
struct LpScaledPower {
    using Scalar = T;
    using State = ScaledSum<T>;
    static constexpr int inputs = 1, kUnroll = kAll<T>;
    static constexpr bool kCloses = true;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c].sum.part += size_power<P>((x[0] - w[c]) * s[c].scale);
    }
    __device__ __forceinline__ void close(State& s, int, int next) const { close_part(s.sum, next); }
};

// The same for any real p, through logarithm and exponential.
template <class T>
struct LpGeneral {
    using Scalar = T;
    using State = ScaledSum<T>;
    static constexpr int inputs = 1, kUnroll = 2;
    static constexpr bool kCloses = true;
    T p;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c].sum.part += exp2(p * log2_of_product(fabs(x[0] - w[c]), s[c].scale));
    }
    __device__ __forceinline__ void close(State& s, int, int next) const { close_part(s.sum, next); }
};

// The same where p is so large that most terms are negligible: those below `scale` = m `relative` are passed over,
// a row of outputs at a time. The rest is rare, and may be exact.
template <class T>
struct LpSparse {
    using Scalar = T;
    using State = ScaledSum<T>;
    static constexpr int inputs = 1, kUnroll = 1;
    static constexpr bool kCloses = false;
    T p, relative;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
        bool any = false;
#pragma unroll
        for (int c = 0; c < n; ++c) any |= fabs(x[0] - w[c]) >= s[c].scale;
        if (any) {
#pragma unroll
            for (int c = 0; c < n; ++c) {
                const T d = fabs(x[0] - w[c]);
                if (d >= s[c].scale) s[c].sum.part += exp2(p * log2(d / s[c].scale * relative));
            }
        }
    }
    __device__ void close(State&, int, int) const {}
};

// From d = x - w, 1/y and g:  t = g sign(d) (|d| / y)^(P-1), by multiplication
template <class T, int P>
struct LpPowerSlope {
    using Scalar = T;
    static constexpr bool kByMaximum = false;
    static constexpr int kUnroll = 2;
    __device__ explicit LpPowerSlope(const Backward<T>&) {}
    __device__ __forceinline__ void add(const T (&d)[4], const T* inverse, const T* g, T* grad_x, T& grad_w) const {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            if constexpr (P == 1) {
                const T t = d[r] > 0 ? g[r] : d[r] < 0 ? -g[r] : T(0);
                grad_x[r] += t;
                grad_w -= t;
            } else {
                const T ratio = d[r] * inverse[r], low = ratio * g[r], high = power<P - 2>(ratio);
                grad_x[r] += high * low;
                grad_w -= high * low;
            }
        }
    }
};

// The same for any real p, through logarithm and exponential. The quick logarithm wants a largest ratio of 1, and with
// many equal terms that of |d| to y is far below. So the ratio is that to m = max |d|, and g takes (m / y)^(p-1)
// along.
template <class T>
struct LpGeneralSlope {
    using Scalar = T;
    static constexpr bool kByMaximum = true;
    static constexpr int kUnroll = sizeof(T) == 4 ? 2 : 1;
    const T exponent;
    __device__ explicit LpGeneralSlope(const Backward<T>& a) : exponent(a.exponent) {}
    __device__ __forceinline__ void add(const T (&d)[4], const T* inverse, const T* g, T* grad_x, T& grad_w) const {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const T t = copysign(exp2(exponent * log2_of_product(fabs(d[r]), inverse[r])), d[r]) * g[r];
            grad_x[r] += t;
            grad_w -= t;
        }
    }
};

// The same where p is so large that most terms are negligible.
template <class T>
struct LpSparseSlope {
    using Scalar = T;
    static constexpr bool kByMaximum = false;
    static constexpr int kUnroll = 1;
    const T exponent, relative;
    __device__ explicit LpSparseSlope(const Backward<T>& a) : exponent(a.exponent), relative(a.relative) {}
    __device__ __forceinline__ void add(const T (&d)[4], const T* inverse, const T* g, T* grad_x, T& grad_w) const {
        bool any = false;
#pragma unroll
        for (int r = 0; r < 4; ++r) any |= fabs(d[r]) * inverse[r] >= relative;
        if (any) {
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const T ratio = fabs(d[r]) * inverse[r];
                const T t = ratio >= relative ? copysign(exp2(exponent * log2(ratio)), d[r]) * g[r] : T(0);
                grad_x[r] += t;
                grad_w -= t;
            }
        }
    }
};
