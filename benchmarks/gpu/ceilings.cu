// The speed limit of a metric on a GPU: its step on registers alone. Nothing is loaded, nothing waits.
#include "linf.cuh"
#include "lp.cuh"

template <class M, class T = typename M::Scalar>
__device__ __forceinline__ void registers_only(const M& metric, const Forward<T>& a) {
    constexpr int rows = 8, cols = 4;
    typename M::State state[rows][cols] = {};
    T x[rows][1], w[cols];
    for (int r = 0; r < rows; ++r) x[r][0] = a.x[r];
    for (int c = 0; c < cols; ++c) w[c] = a.w[c];
    for (int round = 0; round < a.n; ++round) {
#ifdef __CUDA_ARCH__
#pragma unroll
        for (int c = 0; c < cols; ++c) asm volatile("" : "+f"(w[c]));  // to the compiler, a new number each round
#endif
#pragma unroll
        for (int r = 0; r < rows; ++r) metric.step(state[r], x[r], w);
    }
    T all = 0;
    for (int r = 0; r < rows; ++r)
        for (int c = 0; c < cols; ++c) all += *reinterpret_cast<const T*>(&state[r][c]);
    if (all == T(-1)) a.y[0] = all;  // never true, which the compiler cannot know
}

__device__ __forceinline__ void linf(const Forward<float>& a) {
    registers_only(Linf<float>{}, a);
}
__device__ __forceinline__ void lp_power_8(const Forward<float>& a) {
    registers_only(LpPower<float, 8>{}, a);
}
__device__ __forceinline__ void lp_general(const Forward<float>& a) {
    registers_only(LpGeneral<float>{a.p}, a);
}
