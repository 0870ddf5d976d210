// What the engine asks of an instruction set: a table of plain functions, filled once per build of kernels.cpp. Its
// members follow from the list of kernels.
//
//   x (n, k) row-major with rows ldx apart, w (o, k) row-major, y (n, o) with rows ldy apart; one group at a time.
//
//   linf_dist           y[i,j] = max_k |x[i,k] - w[j,k]|
//   linf_dist_argmax    the same, and winner[i,j] = the lowest k that attains it: k where x > w, ~k where x < w, and
//                       kNoWinner where y = 0
//   linf_dist_bounds    for x[0] <= x <= x[1]:  y[1] = max_k max(|x[0] - w|, |x[1] - w|),
//                                               y[0] = max_k max(x[0] - w, w - x[1], 0)
//   dead_zone           y[i,j] = max_k max(x[i,k] - w[0][j,k], w[1][j,k] - x[i,k], 0), of bytes, w[0] >= w[1]
//   matmul              y[i,j] = sum_k x[i,k] w[j,k]
//   lp_power            y[i,j] = (sum_k |x[i,k] - w[j,k]|^P)^(1/P) for the P in kPowers, by multiplication
//   lp_scaled           the same, given y = the l-inf distance on entry: no overflow and no underflow
//   lp_general          the same for any real p >= 1, likewise
//   lp_sparse           the same where p is so large that most terms are negligible, likewise
//   *_backward          grad_x[i,k] = sum_j t,  grad_w[j,k] = -sum_i t,  t = g[i,j] sign(d) (|d| / y[i,j])^(p-1),
//                       d = x - w
//   channel_sums        sums[c] = sum over i and m of x[i,c,m], x (n, channels, m), added up in float64
//   lp_decay            w[j,k] -= amount |w[j]|_p (|w[j,k]| / |w[j]|_p)^(p-1) sign(w[j,k])
//
// Every function does one item of work on one thread. No two items write the same number, and the shapes alone fix the
// order of every sum. So results do not depend on how items are dealt to threads (see engine.hpp).
#pragma once

#include <cstdint>

#include "../linfengine/backends/orders.h"

namespace linfengine {

struct Shape {
    int64_t n, o, k;   // samples, outputs, inputs
    int64_t ldx, ldy;  // distance between rows of x and of y
};

constexpr int kMostArrays = 8, kMostNumbers = 8;

// The arguments of a kernel of the list: arrays and numbers, each in the order of its signature.
struct Call {
    Shape shape;                   // of one group
    int64_t entries, channels, m;  // e, c and m of the signature
    void* arrays[kMostArrays];     // null where not wanted
    double numbers[kMostNumbers];
};

// The i-th array of a call.
template <class T>
static inline __attribute__((always_inline)) T* array(const Call& call, int i) {
    return static_cast<T*>(call.arrays[i]);
}

template <class T>
struct Forward {
    Shape shape;
    const T* x[2];  // the input, or the ends of its interval: lower, upper
    const T* w[2];  // the weights, or the ends of their dead zone: upper, lower
    T* y[2];        // the output, or its bounds: lower, upper
    int32_t* winner;
    double p;
};

template <class T>
struct Backward {
    Shape shape;
    const T* x;
    const T* w;
    const T* y;
    const T* g;
    const int32_t* winner;  // p = infinity only, which needs no x, w and y
    T* coefficients;        // finite p only: (1/y, g) of a run of rows, interleaved (see coefficients)
    int64_t row, rows;      // that run; grad_w is added to from the second on
    T* grad_x;              // rows ldx apart; either gradient may be null: not wanted
    T* grad_w;
    double p;
};

// What an item says about its results; the verdicts of all items are joined by `or`.
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
using StepItem = void (*)(const Call&, int64_t item);

constexpr int kPowers[] = {CPU_POWERS};  // the orders with a chain of multiplications
constexpr int kPowerCount = sizeof kPowers / sizeof kPowers[0];

constexpr int32_t kNoWinner = INT32_MIN;
constexpr int64_t kRowChunk = 96;        // rows of x in one item of forward work; a multiple of every tile height
constexpr int64_t kOutputChunk = 16;     // outputs or rows in one item of the p = infinity backward
constexpr int64_t kStepChunk = 1 << 14;  // entries in one item of a step
constexpr int64_t kSumRun = 512;         // channels in one item of channel_sums where they lie side by side
constexpr int64_t kSumLanes = 16;        // sums in which it adds up a channel elsewhere, on every instruction set

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

#define FORWARD(name, metric, signature) ForwardItem<T> name;
#define METRIC(name, metric) ForwardItem<T> name;
#define METRICS(name, metric) ForwardItem<T> name[kPowerCount];
#define CPU_METRICS METRICS
#define SLOPE(name, slope) BackwardItem<T> name;
#define SLOPES(name, slope) BackwardItem<T> name[kPowerCount];
#define CPU_ITEM(name) BackwardItem<T> name;
#define CPU_SUMS(name) StepItem name;
#define STEP(name, kernel, signature) StepItem name;
#include "list.h"
};

struct InstructionSet {
    const char* name;
    Kernels<float> f32;
    Kernels<double> f64;
#define BYTES(name, metric, signature) ForwardItem<uint8_t> name;
#include "list.h"
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
