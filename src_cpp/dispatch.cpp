#include "dispatch.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>

#include "threads.hpp"

namespace linfengine {
namespace {

std::vector<const InstructionSet*> runnable() {
    std::vector<const InstructionSet*> sets{&portable::instruction_set};
#ifdef LINFENGINE_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2::instruction_set);
#endif
#ifdef LINFENGINE_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        sets.push_back(&avx512::instruction_set);
#endif
    return sets;
}

std::atomic<const InstructionSet*> chosen_set{runnable().back()};

template <class T>
const Kernels<T>& kernels_of(const InstructionSet& set);
template <>
const Kernels<float>& kernels_of(const InstructionSet& set) {
    return set.f32;
}
template <>
const Kernels<double>& kernels_of(const InstructionSet& set) {
    return set.f64;
}

// An operation of fewer terms runs on one thread: waking another would take longer.
#ifdef LINFENGINE_WORTH_THREADS
constexpr int64_t kWorthThreads = LINFENGINE_WORTH_THREADS;  // the sanitizers look at small shapes
#else
constexpr int64_t kWorthThreads = int64_t{1} << 19;
#endif
constexpr int64_t kTermsPerEntry = 16;  // a scattered or elementwise entry is as much work as so many terms

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// Numbers on a cache line's boundary, so that no vector straddles two lines.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t count) : memory_(new char[count * sizeof(T) + kLine]) {}
    T* data() const {
        const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
        return reinterpret_cast<T*>(memory_.get() + (kLine - address % kLine));
    }

  private:
    static constexpr std::uintptr_t kLine = 64;
    std::unique_ptr<char[]> memory_;
};

// The settings as one operation found them; another thread may change them before it is done.
template <class T>
struct Engine {
    const InstructionSet& set;
    const int threads;

    explicit Engine(int64_t terms)
        : set(*chosen_set.load()), threads(terms < kWorthThreads ? 1 : linfengine::threads()) {}
    explicit Engine(const Shape& shape) : Engine(shape.n * shape.o * shape.k) {}
    const Kernels<T>& kernels() const { return kernels_of<T>(set); }

    // body(item, thread) for every item; an item's results depend on nothing but the item.
    template <class Body>
    void parallel_for(int64_t items, const Body& body) const {
        linfengine::parallel_for(items, threads, body);
    }

    // What the items of a forward have to say together; item(number) does one.
    template <class Item>
    unsigned forward(const Shape& shape, const Item& item) const {
        std::atomic<unsigned> verdict{kGood};
        parallel_for(ceil_div(shape.o, panel_of<T>(shape)) * chunks_of(shape), [&](int64_t number, int) {
            if (const unsigned each = item(number)) verdict.fetch_or(each, std::memory_order_relaxed);
        });
        return verdict;
    }
    unsigned forward(ForwardItem<T> kernel, const Forward<T>& problem) const {
        return forward(problem.shape, [&](int64_t number) { return kernel(problem, number); });
    }
};

// The position of p in kPowers, or -1 if no chain of multiplications is compiled in for it.
int chain(double p) {
    for (int i = 0; i < kPowerCount; ++i)
        if (p == kPowers[i]) return i;
    return -1;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet* set : runnable()) names.emplace_back(set->name);
    return names;
}

void use_instruction_set(const std::string& name) {
    for (const InstructionSet* set : runnable())
        if (name == set->name) {
            chosen_set = set;
            return;
        }
    std::string known;
    for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
    throw std::invalid_argument("instruction set '" + name + "' is not one this build and processor can run: " + known);
}

std::string instruction_set() {
    return chosen_set.load()->name;
}

int64_t registers_only(const std::string& metric, int64_t rounds) {
    const Engine<float> engine(INT64_MAX);
    const Ceilings& ceilings = engine.set.ceilings;
    const auto loop = metric == "linf"          ? ceilings.linf
                      : metric == "linf_bounds" ? ceilings.linf_bounds
                      : metric == "dead_zone"   ? ceilings.dead_zone
                      : metric == "lp_power_8"  ? ceilings.lp_power_8
                                                : throw std::invalid_argument("no metric is called '" + metric + "'");
    std::atomic<int64_t> terms{0};
    engine.parallel_for(engine.threads, [&](int64_t, int) { terms += loop(rounds); });
    return terms;
}

template <class T>
unsigned linf_forward(Shape shape, const T* x, const T* w, T* y, int32_t* winner) {
    const Engine<T> engine(shape);
    return engine.forward(winner ? engine.kernels().linf_argmax : engine.kernels().linf,
                          {shape, x, nullptr, w, y, nullptr, winner, 0});
}

template <class T>
unsigned linf_bounds(Shape shape, const T* lower, const T* upper, const T* w, T* y_lower, T* y_upper) {
    const Engine<T> engine(shape);
    return engine.forward(engine.kernels().linf_bounds, {shape, lower, upper, w, y_lower, y_upper, nullptr, 0});
}

void dead_zone(Shape shape, const uint8_t* x, const uint8_t* above, const uint8_t* below, uint8_t* y) {
    const Engine<uint8_t> engine(shape);
    engine.forward(engine.set.dead_zone, {shape, x, nullptr, above, y, nullptr, nullptr, 0, below});
}

template <class T>
unsigned linf_backward(Shape shape, const T* g, const int32_t* winner, T* grad_x, T* grad_w) {
    const Engine<T> engine(kTermsPerEntry * (shape.n * shape.o + (shape.n + shape.o) * shape.k / 8));
    const Kernels<T>& kernels = engine.kernels();
    const Backward<T> problem{shape, nullptr, nullptr, nullptr, g, winner, nullptr, 0, 0, grad_x, grad_w, 0};
    std::atomic<unsigned> verdict{kGood};
    const auto run = [&](BackwardItem<T> kernel, int64_t entries) {
        engine.parallel_for(ceil_div(entries, kOutputChunk), [&](int64_t item, int) {
            if (const unsigned each = kernel(problem, item, nullptr)) verdict.fetch_or(each, std::memory_order_relaxed);
        });
    };
    if (grad_x) run(kernels.linf_backward_x, shape.n);
    if (grad_w) run(kernels.linf_backward_w, shape.o);
    return verdict;
}

template <class T>
void dot(Shape shape, const T* x, const T* w, T* y) {
    const Engine<T> engine(shape);
    engine.forward(engine.kernels().dot, {shape, x, nullptr, w, y, nullptr, nullptr, 0});
}

template <class T>
unsigned lp_forward(Shape shape, const T* x, const T* w, double p, T* y) {
    const Engine<T> engine(shape);
    const Kernels<T>& kernels = engine.kernels();
    const Forward<T> problem{shape, x, nullptr, w, y, nullptr, nullptr, p};
    const int i = chain(p);
    const ForwardItem<T> unscaled = i >= 0 ? kernels.lp_power[i] : nullptr;
    const ForwardItem<T> scaled = i >= 0 ? kernels.lp_scaled[i] : p < kSparse ? kernels.lp_general : kernels.lp_sparse;
    // NaN and infinity spoil every item of their row or column, and so also those in which kernels.linf looks for them.
    return engine.forward(shape, [&](int64_t item) -> unsigned {
        if (unscaled && unscaled(problem, item) == kGood) return kGood;
        const unsigned verdict = kernels.linf(problem, item);
        return verdict | scaled(problem, item);
    });
}

template <class T>
unsigned lp_backward(Shape shape, const T* g, const T* x, const T* w, const T* y, double p, T* grad_x, T* grad_w) {
    const Engine<T> engine(shape);
    const Kernels<T>& kernels = engine.kernels();
    const int64_t lanes = kernels.lanes, rows = kernels.backward_rows, scratch_size = 2 * shape.o * lanes;
    constexpr int64_t bytes = 1 << 21;  // for the coefficients of one run of samples
    const int64_t most = bytes / (2 * shape.o * int64_t(sizeof(T))) / rows * rows;
    const int64_t run = most < rows ? rows : most < shape.n ? most : shape.n;
    const int64_t columns = ceil_div(shape.k, lanes), team = engine.threads < columns ? engine.threads : columns;
    const Buffer<T> coefficients(ceil_div(run, rows) * rows * shape.o * 2), scratch(scratch_size * team);
    const int i = chain(p);
    const BackwardItem<T> kernel = i >= 0        ? kernels.lp_power_backward[i]
                                   : p < kSparse ? kernels.lp_general_backward
                                                 : kernels.lp_sparse_backward;
    std::atomic<unsigned> verdict{kGood};
    for (int64_t row = 0; row < shape.n; row += run) {
        const int64_t size = shape.n - row < run ? shape.n - row : run;
        const Backward<T> problem{shape, x, w, y, g, nullptr, coefficients.data(), row, size, grad_x, grad_w, p};
        engine.parallel_for(ceil_div(size, rows), [&](int64_t block, int) {
            verdict.fetch_or(kernels.coefficients(problem, block, nullptr), std::memory_order_relaxed);
        });
        engine.parallel_for(
            columns, [&](int64_t item, int thread) { kernel(problem, item, scratch.data() + thread * scratch_size); });
    }
    return verdict;
}

template <class T>
bool all_finite(const T* a, int64_t count) {
    const Engine<T> engine(count);
    constexpr int64_t chunk = 1 << 14;
    std::atomic<bool> finite{true};
    engine.parallel_for(ceil_div(count, chunk), [&](int64_t item, int) {
        const int64_t begin = item * chunk, size = count - begin < chunk ? count - begin : chunk;
        if (!engine.kernels().all_finite(a + begin, size)) finite.store(false, std::memory_order_relaxed);
    });
    return finite;
}

template <class T>
void channel_sums(const T* x, int64_t n, int64_t channels, int64_t m, double* sums) {
    const Engine<T> engine(n * channels * m);
    const auto kernel = engine.kernels().channel_sums;
    if (m > 1) return engine.parallel_for(channels, [&](int64_t item, int) { kernel(x, n, channels, m, item, sums); });
    // Blocks of rows, so that memory is read in order; then the sums of the blocks are summed in the same way.
    constexpr int64_t most_parts = 8192, most_blocks = 16, least_rows = 64;
    const int64_t blocks = std::max<int64_t>(1, std::min({n / least_rows, most_blocks, most_parts / channels}));
    const int64_t rows = ceil_div(n, blocks), runs = ceil_div(channels, kSumRun);
    const Buffer<double> parts(blocks * channels);
    engine.parallel_for(blocks * runs, [&](int64_t item, int) {
        const int64_t block = item / runs, count = std::min(rows, n - block * rows);
        kernel(x + block * rows * channels, count, channels, 1, item % runs, parts.data() + block * channels);
    });
    for (int64_t run = 0; run < runs; ++run)
        kernels_of<double>(engine.set).channel_sums(parts.data(), blocks, channels, 1, run, sums);
}

template <class T>
void lp_decay(T* w, int64_t rows, int64_t k, double p, double amount) {
    const Engine<T> engine(kTermsPerEntry * rows * k);
    engine.parallel_for(rows, [&](int64_t row, int) {
        engine.kernels().lp_decay(w + row * k, k, static_cast<T>(p), static_cast<T>(amount));
    });
}

template <class T>
void adam(T* param, const T* grad, T* m, T* v, int64_t count, double lr, double beta1, double beta2, double eps,
          int64_t step) {
    const Engine<T> engine(kTermsPerEntry * count);
    const T rate = static_cast<T>(lr / (1 - std::pow(beta1, step)));
    const T root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, step)));
    constexpr int64_t chunk = 1 << 14;
    engine.parallel_for(ceil_div(count, chunk), [&](int64_t item, int) {
        const int64_t begin = item * chunk, size = count - begin < chunk ? count - begin : chunk;
        engine.kernels().adam(param + begin, grad + begin, m + begin, v + begin, size, rate, static_cast<T>(beta1),
                              static_cast<T>(beta2), root_correction, static_cast<T>(eps));
    });
}

#define LINFENGINE_INSTANTIATE(T)                                                                 \
    template unsigned linf_forward(Shape, const T*, const T*, T*, int32_t*);                      \
    template unsigned linf_bounds(Shape, const T*, const T*, const T*, T*, T*);                   \
    template unsigned linf_backward(Shape, const T*, const int32_t*, T*, T*);                     \
    template void dot(Shape, const T*, const T*, T*);                                             \
    template unsigned lp_forward(Shape, const T*, const T*, double, T*);                          \
    template unsigned lp_backward(Shape, const T*, const T*, const T*, const T*, double, T*, T*); \
    template bool all_finite(const T*, int64_t);                                                  \
    template void channel_sums(const T*, int64_t, int64_t, int64_t, double*);                     \
    template void adam(T*, const T*, T*, T*, int64_t, double, double, double, double, int64_t);   \
    template void lp_decay(T*, int64_t, int64_t, double, double);

LINFENGINE_INSTANTIATE(float)
LINFENGINE_INSTANTIATE(double)

}  // namespace linfengine
