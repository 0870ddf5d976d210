// What the engine asks of an instruction set: one table of plain functions, filled once per build of kernels.cpp.
//
//   x (n, k) row-major with rows ldx apart, w (o, k) row-major, y (n, o) with rows ldy apart; one group at a time.
//
//   linf          y[i,j] = max_k |x[i,k] - w[j,k]|
//   linf_argmax   the same, and winner[i,j] = the lowest k that attains it: k where x > w, ~k where x < w, and
//                 kNoWinner where y = 0
//   linf_bounds   for lower <= x <= upper:  hi = max_k max(|lower - w|, |upper - w|),
//                                           lo = max_k max(lower - w, w - upper, 0)
//   dead_zone     y[i,j] = max_k max(x[i,k] - above[j,k], below[j,k] - x[i,k], 0), of bytes, above >= below
//   dot           y[i,j] = sum_k x[i,k] w[j,k]
//   lp_power      y[i,j] = (sum_k |x[i,k] - w[j,k]|^P)^(1/P) for the P in kPowers, by multiplication
//   lp_scaled     the same, given y = the l-inf distance on entry: no overflow and no underflow
//   lp_general    the same for any real p >= 1, likewise
//   *_backward    grad_x[i,k] = sum_j t,  grad_w[j,k] = -sum_i t,  t = g[i,j] sign(d) (|d| / y[i,j])^(p-1),  d = x - w
//   channel_sums  sums[c] = sum over i and m of x[i,c,m], x (n, channels, m), added up in float64
//   lp_decay      w[j,k] -= amount |w[j]|_p (|w[j,k]| / |w[j]|_p)^(p-1) sign(w[j,k])
//
// Every function does one item of work on one thread; no two items write the same number, and the order of every sum
// is fixed by the shapes alone, so results do not depend on how items are dealt to threads (see dispatch.cpp).
#pragma once

#include <cstdint>

namespace linfengine {

struct Shape {
    int64_t n, o, k;   // samples, outputs, inputs
    int64_t ldx, ldy;  // distance between rows of x and of y
};

template <class T>
struct Forward {
    Shape shape;
    const T* x;  // the input, or the lower end of its interval
    const T* x_upper;
    const T* w;
    T* y;  // the output, or its lower end
    T* y_upper;
    int32_t* winner;
    double p;
    const T* below = nullptr;  // the dead zone's other end, w being the upper one
};

template <class T>
struct Backward {
    Shape shape;
    const T* x;
    const T* w;
    const T* y;
    const T* g;
    const int32_t* winner;  // p = infinity only, and x, w and y are not needed then
    T* coefficients;        // finite p only: (1/y, g) of a run of rows, interleaved (see coefficients)
    int64_t row, rows;      // that run; grad_w is added to from the second on
    T* grad_x;              // rows ldx apart; either gradient may be null: not wanted
    T* grad_w;
    double p;
};

// What an item has to say about its results; those of all items are joined by `or`.
enum Verdict : unsigned {
    kGood = 0,
    kOutOfRange = 1,  // some lie where this kernel is not accurate: use another, or scale x and w
    kNotFinite = 2,   // x or w holds NaN or infinity: there is no result
    kNoInput = 4,     // a winner is no position of an input: there is no result
};

template <class T>
using ForwardItem = unsigned (*)(const Forward<T>&, int64_t item);
template <class T>
using BackwardItem = unsigned (*)(const Backward<T>&, int64_t item, T* scratch);

constexpr int kPowers[] = {1,  2,  4,  8,   12,  16,  24, 32,
                           48, 64, 96, 128, 192, 256, 384};  // with a chain of multiplications
constexpr int kLargestUnscaled = 16;
constexpr int kPowerCount = sizeof kPowers / sizeof kPowers[0];
constexpr double kSparse = 48;  // from this p on most terms are negligible, and looking for those that are not pays

constexpr int32_t kNoWinner = INT32_MIN;
constexpr int64_t kRowChunk = 96;     // rows of x in one item of forward work; a multiple of every tile height
constexpr int64_t kOutputChunk = 16;  // outputs or rows in one item of the p = infinity backward
constexpr int64_t kSumRun = 512;      // channels in one item of channel_sums where they lie side by side
constexpr int64_t kSumLanes = 16;     // sums in which it adds up a channel elsewhere, on every instruction set

// Outputs in one item of forward work: their rows of w stay in the second-level cache.
template <class T>
static constexpr int64_t panel_of(const Shape& shape) {
    constexpr int64_t bytes = 1 << 18, most = 128, least = 16;
    const int64_t outputs = bytes / (shape.k * int64_t(sizeof(T))) / 4 * 4;
    return outputs < least ? least : outputs > most ? most : outputs;
}
static constexpr int64_t chunks_of(const Shape& shape) {
    return (shape.n + kRowChunk - 1) / kRowChunk;
}
template <class T>
struct Kernels {
    int64_t lanes;          // numbers in a vector: coordinates in one item of finite-p backward work
    int64_t backward_rows;  // samples a finite-p backward keeps in registers

    ForwardItem<T> linf, linf_argmax, linf_bounds, dot;
    ForwardItem<T> lp_power[kPowerCount];  // null above kLargestUnscaled
    ForwardItem<T> lp_scaled[kPowerCount], lp_general, lp_sparse;

    BackwardItem<T> linf_backward_x, linf_backward_w;
    BackwardItem<T> coefficients;
    BackwardItem<T> lp_power_backward[kPowerCount], lp_general_backward, lp_sparse_backward;

    bool (*all_finite)(const T* a, int64_t count);
    void (*channel_sums)(const T* x, int64_t n, int64_t channels, int64_t m, int64_t item, double* sums);
    void (*adam)(T* param, const T* grad, T* m, T* v, int64_t count, T rate, T beta1, T beta2, T root_correction,
                 T eps);
    void (*lp_decay)(T* row, int64_t k, T p, T amount);
};

// The step of a metric on registers alone (ceiling.hpp): terms in so many rounds.
struct Ceilings {
    int64_t (*linf)(int64_t rounds);
    int64_t (*linf_bounds)(int64_t rounds);
    int64_t (*dead_zone)(int64_t rounds);
    int64_t (*lp_power_8)(int64_t rounds);
};

struct InstructionSet {
    const char* name;
    const Kernels<float>& f32;
    const Kernels<double>& f64;
    ForwardItem<uint8_t> dead_zone;
    Ceilings ceilings;
};

namespace portable {
extern const InstructionSet instruction_set;
}
namespace avx2 {
extern const InstructionSet instruction_set;
}
namespace avx512 {
extern const InstructionSet instruction_set;
}

}  // namespace linfengine
