// What a training step does besides the distances.
#include "power.cuh"

constexpr int kThreads = 256;

__device__ __forceinline__ int biased_exponent(float a) {
    return __float_as_int(a) >> 23 & 0xff;
}
__device__ __forceinline__ int biased_exponent(double a) {
    return __double2hiint(a) >> 20 & 0x7ff;
}

template <class T>
__device__ __forceinline__ void survey(const Survey<T>& a) {
    __shared__ int largest, smallest;
    if (threadIdx.x == 0) largest = smallest = -4096;
    __syncthreads();
    int most = -4096, least = -4096;
    for (long long i = (long long)blockIdx.x * kThreads + threadIdx.x; i < a.count;
         i += (long long)gridDim.x * kThreads) {
        const int exponent = biased_exponent(a.a[i]);
        most = exponent > most ? exponent : most;
        least = a.a[i] != 0 && -exponent > least ? -exponent : least;
    }
    atomicMax(&largest, most);
    atomicMax(&smallest, least);
    __syncthreads();
    if (threadIdx.x == 0) {
        atomicMax(a.exponents, largest);
        atomicMax(a.exponents + 1, smallest);
    }
}

template <class T>
__device__ __forceinline__ void scale(const Scale<T>& a) {
    const long long i = (long long)blockIdx.x * kThreads + threadIdx.x;
    if (i < a.count) a.out[i] = ldexp(a.a[i], a.shift);
}

template <class T>
__device__ __forceinline__ void adam_step(const Adam<T>& a) {
    const long long i = (long long)blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.count) return;
    const T g = a.grad[i];
    const T mean = a.beta1 * a.m[i] + (1 - a.beta1) * g, square = a.beta2 * a.v[i] + (1 - a.beta2) * (g * g);
    a.m[i] = mean;
    a.v[i] = square;
    a.param[i] -= a.rate * mean / (sqrt(square) * a.root_correction + a.eps);
}

// The join of all threads' values, in an order that the number of threads fixes; `shared` has a place for each.
template <class V, class Join>
__device__ __forceinline__ V join_all(V* shared, V own, const Join& join) {
    __syncthreads();
    shared[threadIdx.x] = own;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
    return shared[0];
}

// At p = infinity only the largest entry of a row decays, the first of several.
template <class T>
__device__ __forceinline__ void lp_decay(const LpDecay<T>& a) {
    __shared__ T shared[kThreads];
    __shared__ int places[kThreads];
    T* row = a.w + blockIdx.x * (long long)a.k;
    T most = 0;
    for (int k = threadIdx.x; k < a.k; k += kThreads) most = fmax(most, fabs(row[k]));
    const T m = join_all(shared, most, [](T a, T b) { return fmax(a, b); });
    if (isinf(a.p)) {
        int place = a.k;
        for (int k = a.k - 1 - (int)threadIdx.x; k >= 0; k -= kThreads)
            if (fabs(row[k]) == m) place = k;
        place = join_all(places, place, [](int a, int b) { return a < b ? a : b; });
        if (threadIdx.x == 0 && place < a.k) row[place] -= a.amount * row[place];
        return;
    }
    if (m < kTiny<T>) return;
    // |w|_p = m (sum_k r^p)^(1/p) with r = |w| / m, and |w|_p (|w|/|w|_p)^(p-1) = m (sum_k r^p)^(2/p - 1) r^(p-1).
    const T inverse = reciprocal(m);
    T part = 0;
    for (int k = threadIdx.x; k < a.k; k += kThreads) {
        const T r = fabs(row[k]) * inverse;
        if (r >= a.relative) part += exp2(a.p * log2(r));
    }
    const T sum = join_all(shared, part, [](T a, T b) { return a + b; });
    const T scale = a.amount * m * exp2((2 / a.p - 1) * log2(sum));
    for (int k = threadIdx.x; k < a.k; k += kThreads) {
        const T w = row[k], r = fabs(w) * inverse;
        if (r >= a.relative) row[k] = w - scale * copysign(exp2((a.p - 1) * log2(r)), w);
    }
}
