// The metric of the matrix product.
#pragma once

#include "metric.cuh"

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
    __device__ static void finish(const Forward<T>& a, const State& s, long long at, int, int) { a.y[at] = s.sum(); }
};
