// A metric is what happens to one term |x - w| and how terms combine.  The loop nest in forward.cu does the rest.
//
//   State              what an output accumulates, in registers
//   step(states, x, w) take in one coordinate: of x[0] (and x[1] for an interval) against the outputs' w
//                      Past the last k all read as 0, so a term of zeros must change nothing.
//   close(state, b, k) at the end of stage b, before coordinate k, where kCloses
//   inputs             2 for a metric that reads an interval
//   kUnroll            coordinates of a stage that are written out one after the other
#pragma once

#include "kernels.cuh"

template <class T>
constexpr int kAll = sizeof(T) == 4 ? 64 : 4;

// max_k |x - w|: a subtraction and a maximum, the absolute value being free
template <class T>
struct Linf {
    using Scalar = T;
    using State = T;
    static constexpr int inputs = 1, kUnroll = kAll<T>;
    static constexpr bool kCloses = false;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c] = fmax(s[c], fabs(x[0] - w[c]));
    }
    __device__ void close(State&, int, int) const {}
};

// The same, and the first stage that raised the maximum.
template <class T>
struct LinfArgmax {
    using Scalar = T;
    struct State {
        T most, before;
        int stage;
    };
    static constexpr int inputs = 1, kUnroll = kAll<T>;
    static constexpr bool kCloses = true;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c].most = fmax(s[c].most, fabs(x[0] - w[c]));
    }
    __device__ __forceinline__ void close(State& s, int stage, int) const {
        if (s.most > s.before) s.before = s.most, s.stage = stage;
    }
};

// For lower = x[0] <= x <= upper = x[1]: the largest and the smallest value of max_k |x - w|.
template <class T>
struct LinfBounds {
    using Scalar = T;
    struct State {
        T lower, upper;
    };
    static constexpr int inputs = 2, kUnroll = kAll<T>;
    static constexpr bool kCloses = false;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) {
            const T above = x[0] - w[c], below = w[c] - x[1];
            s[c].upper = fmax(fmax(s[c].upper, fabs(above)), fabs(below));
            s[c].lower = fmax(fmax(s[c].lower, above), below);
        }
    }
    __device__ void close(State&, int, int) const {}
};

// A sum of parts of about kPart terms, and what was lost when they were added: terms too small to be seen beside the
// largest add up to something all the same, and gradients multiply the error of a distance by p - 1.
template <class T>
struct SumOfParts {
    T part, total, lost;
    __device__ T sum() const { return total + (lost + part); }
};
constexpr int kPart = 64;
template <class T>
__device__ __forceinline__ void close_part(SumOfParts<T>& s, int next) {
    if (next % kPart != 0) return;
    const T sum = s.total + s.part, added = sum - s.total;
    s.lost += (s.total - (sum - added)) + (s.part - added);
    s.total = sum;
    s.part = T(0);
}

// sum_k x w
template <class T>
struct Dot {
    using Scalar = T;
    using State = SumOfParts<T>;
    static constexpr int inputs = 1, kUnroll = kAll<T>;
    static constexpr bool kCloses = true;
    template <int n>
    __device__ __forceinline__ void step(State (&s)[n], const T* x, const T (&w)[n]) const {
#pragma unroll
        for (int c = 0; c < n; ++c) s[c].part += x[0] * w[c];
    }
    __device__ __forceinline__ void close(State& s, int, int next) const { close_part(s, next); }
};

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
// a row of outputs at a time.  The rest is rare, and may be exact.
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
