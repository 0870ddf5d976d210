// Gradients.
//
// Finite p. A thread owns a column k of both gradients, so that every term t is computed once and used twice: added
// to grad_x and subtracted from grad_w.
//
//   LOOP 4  kLanes columns x splits of the outputs x shares of the samples x groups   one block each
//   LOOP 3  chunks of kChunk outputs     grad_w of the chunk in shared memory, a column a thread
//   LOOP 2  runs of kRun samples         x and grad_x of the run in registers
//   LOOP 1  outputs of the chunk         1/y (or 1/m) and g of the run in shared memory, the same for all threads;
//                                        w is read as it lies, side by side
//
// A split of the outputs gives one part of grad_x, a share of the samples one of grad_w; add_parts joins them.
//
// p = infinity. A gradient goes to one column, known from the forward: n o terms instead of n o k. A block, of one
// warp, has one row of grad_x or of grad_w, or a share of its entries; every thread of it has those columns that are
// its own number modulo kWarp, looks at all entries in their order and adds up its own.
#include "lp.cuh"

constexpr int kLanes = 128, kRun = 16;
template <class T>
constexpr int kChunk = 256 / int(sizeof(T));  // outputs whose grad_w fits in 32 KB

template <class Slope, class T = typename Slope::Scalar>
__device__ __forceinline__ void lp_dist_backward(const Backward<T>& a) {
    struct alignas(16) Coefficients {
        T inverse[kRun], g[kRun];
    };
    __shared__ Coefficients coefficients[kChunk<T>];
    __shared__ T sums[kChunk<T>][kLanes];
    const Slope slope(a);
    const int across = (a.k + kLanes - 1) / kLanes, lane = threadIdx.x;
    const int split = blockIdx.x / across % a.splits, share = blockIdx.x / across / a.splits % a.shares;
    const int group = blockIdx.x / across / a.splits / a.shares;
    const int begin = share * a.rows, end = a.n - begin < a.rows ? a.n : begin + a.rows;
    const int column = blockIdx.x % across * kLanes + lane;
    const bool mine = column < a.k;
    const int k = mine ? column : a.k - 1;
    const long long ldx = (long long)a.groups * a.k, ldy = (long long)a.groups * a.o;
    const T* x = a.x + group * a.k + k;
    const T* w = a.w + group * a.o * (long long)a.k + k;
    T* grad_x = a.grad_x ? a.grad_x + split * a.n * ldx + group * a.k + k : nullptr;
    T* grad_w = a.grad_w ? a.grad_w + ((long long)share * a.groups + group) * a.o * a.k + k : nullptr;

    for (int chunk = 0; chunk < a.chunks; ++chunk) {
        const int first = (split * a.chunks + chunk) * kChunk<T>;
        const int outputs = a.o - first < kChunk<T> ? a.o - first : kChunk<T>;  // may be none, even below 0
        for (int j = 0; j < outputs; ++j) sums[j][lane] = T(0);
        for (int row = begin; row < end; row += kRun) {
            __syncthreads();  // the coefficients may still be read
            for (int i = lane; i < outputs * kRun; i += kLanes) {
                const int j = i % outputs, r = i / outputs;  // neighbours read neighbouring outputs
                const long long at = (row + r) * ldy + group * a.o + first + j;
                const T y = row + r < end ? a.y[at] : T(0);
                T inverse = T(0), g = T(0);  // where y = 0 the gradient is zero
                if (y > 0) {
                    inverse = reciprocal(Slope::kByMaximum ? a.m[at] : y), g = a.g[at];
                    if constexpr (Slope::kByMaximum) g *= exp2(a.exponent * log2(a.m[at] / y));
                }
                coefficients[j].inverse[r] = inverse;
                coefficients[j].g[r] = g;
            }
            __syncthreads();
            T xs[kRun], sum[kRun];
#pragma unroll
            for (int r = 0; r < kRun; ++r) {
                const bool there = row + r < end;
                xs[r] = x[(there ? row + r : row) * ldx];
                sum[r] = chunk > 0 && there && grad_x ? grad_x[(row + r) * ldx] : T(0);
            }
            const T* weight = w + first * (long long)a.k;
#pragma unroll(Slope::kUnroll)
            for (int j = 0; j < outputs; ++j, weight += a.k) {
                const Coefficients c = coefficients[j];
                T own = sums[j][lane];
#pragma unroll
                for (int r = 0; r < kRun; r += 4) {
                    const T d[4] = {xs[r] - *weight, xs[r + 1] - *weight, xs[r + 2] - *weight, xs[r + 3] - *weight};
                    slope.add(d, c.inverse + r, c.g + r, sum + r, own);
                }
                sums[j][lane] = own;
            }
            if (grad_x && mine) {
#pragma unroll
                for (int r = 0; r < kRun; ++r)
                    if (row + r < end) grad_x[(row + r) * ldx] = sum[r];
            }
        }
        if (grad_w && mine)
            for (int j = 0; j < outputs; ++j) grad_w[(first + j) * (long long)a.k] = sums[j][lane];
    }
}

constexpr int kThreads = 256;

template <class T>
__device__ __forceinline__ void add_parts(const AddParts<T>& a) {
    const long long i = (long long)blockIdx.x * kThreads + threadIdx.x;
    if (i >= a.count) return;
    T sum = a.parts[i];
    for (int s = 1; s < a.splits; ++s) sum += a.parts[s * a.count + i];
    a.out[i] = sum;
}

constexpr int kWarp = 32;

template <class T>
__device__ __forceinline__ void scatter(const Scatter<T>& a) {
    constexpr int kWindow = 32768 / int(sizeof(T));  // columns at a time
    __shared__ T sums[kWindow];
    __shared__ T gs[kWarp];
    __shared__ int winners[kWarp];
    const int thread = threadIdx.x, row = blockIdx.x % a.rows, share = blockIdx.x / a.rows;
    const int begin = share * a.share, end = a.count - begin < a.share ? a.count : begin + a.share;
    T* out = a.out + blockIdx.x * (long long)a.k;
    for (int window = 0; window < a.k; window += kWindow) {
        for (int k = thread; k < kWindow && window + k < a.k; k += kWarp) sums[k] = T(0);
        for (int first = begin; first < end; first += kWarp) {
            __syncthreads();  // the entries may still be read
            gs[thread] = T(0);
            winners[thread] = kNoWinner;
            if (first + thread < end) {
                const long long at = row * a.step + (first + thread) * a.stride;
                gs[thread] = a.sign * a.g[at];
                winners[thread] = a.winner[at];
            }
            __syncthreads();
#pragma unroll 8
            for (int i = 0; i < kWarp; ++i) {
                const int winner = winners[i], k = (winner < 0 ? ~winner : winner) - window;
                if (k % kWarp == thread && k >= 0 && k < kWindow && winner != kNoWinner)
                    sums[k] += winner < 0 ? -gs[i] : gs[i];
            }
        }
        for (int k = thread; k < kWindow && window + k < a.k; k += kWarp) out[window + k] = sums[k];
    }
}
