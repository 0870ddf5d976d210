// The forward loop nest, one for all metrics. It is a matrix product with (subtract, absolute value, maximum) where
// that has (multiply, add).
//
//   LOOP 4  tiles of outputs x rows x groups     one block of 16 x 16 threads each
//   LOOP 3  stages of kDepth coordinates k       panels of x and w in shared memory: two, filled and read in turn
//   LOOP 2  coordinates of a stage               kRows numbers of x and kCols of w to registers
//   LOOP 1  kRows x kCols outputs of a thread    the accumulators, in registers
//
//        w panel (kDepth, 16 kCols)
//        +----------------------+
//        |  k  · · wwww · · · · |        a thread's columns and rows lie in runs of one 16-byte load,
//        +----------------------+        16 runs apart, so that neighbours read neighbouring words
//   x    +----------------------+
//   panel|       ....           |
//   · x  |  x ─▶ yyyy           |
//   · x  |  x ─▶ yyyy           |
//   · x  |                      |
//   k    +----------------------+  y tile (16 kRows, 16 kCols)
#include "dot.cuh"
#include "linf.cuh"
#include "lp.cuh"

constexpr int kSide = 16, kThreads = kSide * kSide;

// Where a thread's i-th row (or column) lies in its tile: `thread` is its place among 16.
template <int count, class T>
__device__ __forceinline__ constexpr int place(int thread, int i) {
    constexpr int run = count < kPack<T> ? count : kPack<T>;
    return (i / run * kSide + thread) * run + i % run;
}

template <class M, int kRows, int kCols, class T = typename M::Scalar>
struct Panels {
    static constexpr int kRowsOfTile = kSide * kRows, kColsOfTile = kSide * kCols;
    // The smallest depth at which the narrower panel is one 16-byte load for each thread.
    static constexpr int kDepth = kSide * kPack<T> / (kRows < kCols ? kRows : kCols);
    alignas(16) T x[2][M::inputs][kDepth][kRowsOfTile + kPack<T>];
    alignas(16) T w[2][kDepth][kColsOfTile + kPack<T>];
};

// The tile of one block.
template <class T>
struct Tile {
    int row, col, group;
    __device__ Tile(const Forward<T>& a, int rows, int cols) {
        const int across = (a.n + rows - 1) / rows, down = (a.o + cols - 1) / cols;
        const int block = blockIdx.x;  // those that run together share a panel of w
        row = block % across * rows, col = block / across % down * cols, group = block / across / down;
    }
};

// Rows first .. first + kRowsOfPanel - 1 of a matrix, one stage of coordinates at a time: from global memory to
// registers, and from there, turned over, to a panel.
template <class T, int kRowsOfPanel, int kDepth>
struct Loader {
    static constexpr int kLoadsOfRow = kDepth / kPack<T>, kLoads = kRowsOfPanel * kLoadsOfRow / kThreads;
    const T* source;
    int stride, first, count, k;
    bool aligned;
    Pack<T, kPack<T>> held[kLoads];

    __device__ Loader(const T* source, int stride, int first, int count, int k)
        : source(source), stride(stride), first(first), count(count), k(k) {
        aligned = stride % kPack<T> == 0 && k % kPack<T> == 0 && (unsigned long long)source % 16 == 0;
    }
    __device__ __forceinline__ void fetch(int stage) {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int item = threadIdx.x + i * kThreads, row = first + item / kLoadsOfRow;
            const int begin = stage * kDepth + item % kLoadsOfRow * kPack<T>;
            const T* from = source + (row < count ? row : count - 1) * (long long)stride + begin;
            if (aligned && begin < k) {
                held[i] = *reinterpret_cast<const Pack<T, kPack<T>>*>(from);
            } else {
#pragma unroll
                for (int j = 0; j < kPack<T>; ++j) held[i].v[j] = begin + j < k ? from[j] : T(0);
            }
        }
    }
    template <int kStride>
    __device__ __forceinline__ void put(T (&panel)[kDepth][kStride]) const {
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const int item = threadIdx.x + i * kThreads;
#pragma unroll
            for (int j = 0; j < kPack<T>; ++j)
                panel[item % kLoadsOfRow * kPack<T> + j][item / kLoadsOfRow] = held[i].v[j];
        }
    }
};

// One coordinate's numbers for a thread's rows (or columns).
template <class T, int count>
__device__ __forceinline__ void read(T (&out)[count], const T* panel_row, int thread) {
    constexpr int run = count < kPack<T> ? count : kPack<T>;
#pragma unroll
    for (int i = 0; i < count; i += run) {
        const auto pack = *reinterpret_cast<const Pack<T, run>*>(panel_row + place<count, T>(thread, i));
#pragma unroll
        for (int j = 0; j < run; ++j) out[i + j] = pack.v[j];
    }
}

template <class M, int kRows, int kCols, class P, class T = typename M::Scalar>
__device__ __forceinline__ void sweep(const M& metric, const Forward<T>& a, const Tile<T>& tile, P& panels,
                                      typename M::State (&state)[kRows][kCols]) {
    constexpr int kDepth = P::kDepth;
    const int ldx = a.groups * a.k, offset = tile.group * a.k;
    using LoadX = Loader<T, P::kRowsOfTile, kDepth>;
    LoadX x[2] = {LoadX(a.x + offset, ldx, tile.row, a.n, a.k),
                  LoadX((M::inputs == 2 ? a.x_upper : a.x) + offset, ldx, tile.row, a.n, a.k)};
    Loader<T, P::kColsOfTile, kDepth> w(a.w + tile.group * a.o * (long long)a.k, a.k, tile.col, a.o, a.k);
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
    const int stages = (a.k + kDepth - 1) / kDepth;
#pragma unroll
    for (int i = 0; i < M::inputs; ++i) x[i].fetch(0);
    w.fetch(0);
    for (int stage = 0; stage < stages; ++stage) {
        const int half = stage % 2;  // the other one may still be read
#pragma unroll
        for (int i = 0; i < M::inputs; ++i) x[i].put(panels.x[half][i]);
        w.put(panels.w[half]);
        __syncthreads();
        if (stage + 1 < stages) {
#pragma unroll
            for (int i = 0; i < M::inputs; ++i) x[i].fetch(stage + 1);
            w.fetch(stage + 1);
        }
#pragma unroll(M::kUnroll)
        for (int k = 0; k < kDepth; ++k) {
            T xs[M::inputs][kRows], ws[kCols];
#pragma unroll
            for (int i = 0; i < M::inputs; ++i) read(xs[i], panels.x[half][i][k], ty);
            read(ws, panels.w[half][k], tx);
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
                T each[M::inputs];
#pragma unroll
                for (int i = 0; i < M::inputs; ++i) each[i] = xs[i][r];
                metric.step(state[r], each, ws);
            }
        }
        if constexpr (M::kCloses) {
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int c = 0; c < kCols; ++c) metric.close(state[r][c], stage, (stage + 1) * kDepth);
        }
    }
    __syncthreads();  // before the panels are filled for another sweep
}

// body(r, c, at): for each output of this thread that exists, with its place in y.
template <int kRows, int kCols, class T, class Body>
__device__ __forceinline__ void each_output(const Forward<T>& a, const Tile<T>& tile, const Body& body) {
    const int ty = threadIdx.x / kSide, tx = threadIdx.x % kSide;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int c = 0; c < kCols; ++c) {
            const int row = tile.row + place<kRows, T>(ty, r), col = tile.col + place<kCols, T>(tx, c);
            if (row < a.n && col < a.o) body(r, c, ((long long)row * a.groups + tile.group) * a.o + col);
        }
    }
}

// One metric, whose states become the outputs.
template <class M, int kRows, int kCols, class T = typename M::Scalar>
__device__ __forceinline__ void forward(const Forward<T>& a) {
    __shared__ Panels<M, kRows, kCols> panels;
    const Tile<T> tile(a, kSide * kRows, kSide * kCols);
    typename M::State state[kRows][kCols] = {};
    sweep(M{}, a, tile, panels, state);
    each_output<kRows, kCols>(
        a, tile, [&](int r, int c, long long at) { M::finish(a, state[r][c], at, tile.group, panels.kDepth); });
}

// The scaled metrics start from m = max_k |x - w|, which y holds meanwhile.
template <class M, int kRows, int kCols, class Panels, class Start, class T = typename M::Scalar>
__device__ __forceinline__ void sum_scaled(const M& metric, const Forward<T>& a, const Tile<T>& tile, Panels& panels,
                                           typename M::State (&state)[kRows][kCols], const Start& start) {
    T m[kRows][kCols] = {};
    sweep(Linf<T>{}, a, tile, panels, m);
    each_output<kRows, kCols>(a, tile, [&](int r, int c, long long at) { a.y[at] = m[r][c]; });
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int c = 0; c < kCols; ++c) state[r][c] = {{}, start(m[r][c])};
    sweep(metric, a, tile, panels, state);
}

// y = m (sum_k (|x - w| / m)^p)^(1/p). Rounding may put the sum a hair below 1, and m = 0 leaves it 0; the exact y is
// never below m.
template <int P, class T>
__device__ __forceinline__ T finish_scaled(T m, T sum) {
    return m * fmax(root<P>(fmax(sum, T(1))), T(1));
}

// The same for any real p. A gradient multiplies the relative error of y by p, so the root, which is near 1 for a
// large p, is not computed itself, but what it is above 1.
template <class T>
__device__ __forceinline__ T finish_scaled(T m, T sum, T p) {
    return fma(m, expm1(log(fmax(sum, T(1))) / p), m);
}

// Up to LARGEST_UNSCALED the sum is not scaled; a block in which one comes out so large or so small that terms may have
// left the range of T starts again.
template <int P, class T, int kRows, int kCols>
__device__ __forceinline__ void lp_power(const Forward<T>& a) {
    using M = LpScaledPower<T, P>;
    __shared__ Panels<M, kRows, kCols> panels;
    const Tile<T> tile(a, kSide * kRows, kSide * kCols);
    if constexpr (P <= LARGEST_UNSCALED) {
        SumOfParts<T> sum[kRows][kCols] = {};
        sweep(LpPower<T, P>{}, a, tile, panels, sum);
        const T smallest = T(a.k) * T(SMALLEST_SUM), largest = T(LARGEST_SUM);
        bool trusted = true;
        each_output<kRows, kCols>(a, tile, [&](int r, int c, long long at) {
            trusted &= sum[r][c].sum() >= smallest && sum[r][c].sum() <= largest;
            a.y[at] = root<P>(sum[r][c].sum());
        });
        if (!__syncthreads_or(!trusted)) return;
    }
    typename M::State state[kRows][kCols];
    sum_scaled(M{}, a, tile, panels, state, [](T m) { return reciprocal(m); });
    each_output<kRows, kCols>(
        a, tile, [&](int r, int c, long long at) { a.y[at] = finish_scaled<P>(a.y[at], state[r][c].sum.sum()); });
}

template <class T, int kRows, int kCols>
__device__ __forceinline__ void lp_general(const Forward<T>& a) {
    using M = LpGeneral<T>;
    __shared__ Panels<M, kRows, kCols> panels;
    const Tile<T> tile(a, kSide * kRows, kSide * kCols);
    typename M::State state[kRows][kCols];
    sum_scaled(M{a.p}, a, tile, panels, state, [](T m) { return reciprocal(m); });
    each_output<kRows, kCols>(
        a, tile, [&](int r, int c, long long at) { a.y[at] = finish_scaled(a.y[at], state[r][c].sum.sum(), a.p); });
}

template <class T, int kRows, int kCols>
__device__ __forceinline__ void lp_sparse(const Forward<T>& a) {
    using M = LpSparse<T>;
    __shared__ Panels<M, kRows, kCols> panels;
    const Tile<T> tile(a, kSide * kRows, kSide * kCols);
    typename M::State state[kRows][kCols];
    // Where m = 0 the threshold must not let zeros through.
    sum_scaled(M{a.p, a.relative}, a, tile, panels, state, [&](T m) { return fmax(m * a.relative, kTiny<T>); });
    each_output<kRows, kCols>(
        a, tile, [&](int r, int c, long long at) { a.y[at] = finish_scaled(a.y[at], state[r][c].sum.sum(), a.p); });
}
