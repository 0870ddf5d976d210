// The metrics of p = infinity.
#pragma once

#include "metric.cuh"

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
    __device__ static void finish(const Forward<T>& a, const State& s, long long at, int, int) { a.y[at] = s; }
};

// The same, and where it is attained: a state remembers the first stage that raised the maximum.
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
    __device__ __forceinline__ static void finish(const Forward<T>& a, const State& s, long long at, int group,
                                                  int depth) {
        const T y = s.most;
        const int row = at / ((long long)a.groups * a.o);
        const T* x = a.x + ((long long)row * a.groups + group) * a.k;
        const T* w = a.w + at % ((long long)a.groups * a.o) * a.k;
        int k = s.stage * depth;  // found at the latest after `depth` steps
        while (k < a.k - 1 && fabs(x[k] - w[k]) != y) ++k;
        a.y[at] = y;
        a.winner[at] = y == 0 ? kNoWinner : x[k] > w[k] ? k : ~k;
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
    __device__ static void finish(const Forward<T>& a, const State& s, long long at, int, int) {
        a.y[at] = s.lower + T(0);  // never -0
        a.y_upper[at] = s.upper;
    }
};
