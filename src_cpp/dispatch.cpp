#include "dispatch.h"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#endif

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

int available_threads() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

std::atomic<const InstructionSet*> chosen_set{runnable().back()};
std::atomic<int> chosen_threads{available_threads()};

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

// The settings as one operation found them; another thread may change them before it is done.  An operation of few
// terms runs on one thread: waking the others would take longer.
template <class T>
struct Engine {
    static constexpr int64_t kWorthThreads = int64_t{1} << 20;
    const Kernels<T>& kernels;
    const int threads;

    explicit Engine(int64_t terms)
        : kernels(kernels_of<T>(*chosen_set.load())), threads(terms < kWorthThreads ? 1 : linfengine::threads()) {}
    explicit Engine(const Shape& shape) : Engine(shape.n * shape.o * shape.k) {}

    // body(item, thread) for every item, on all threads.  Which thread does which item is left open on purpose: an
    // item's results depend on nothing but the item.
    template <class Body>
    void parallel_for(int64_t items, const Body& body) const {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (items > 1 && threads > 1)
        for (int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
#else
        for (int64_t item = 0; item < items; ++item) body(item, 0);
#endif
    }

    Buffer<T> pack(const Shape& shape, const T* w) const {
        Buffer<T> panels(ceil_div(shape.o, kernels.lanes) * kernels.lanes * shape.k);
        parallel_for(ceil_div(shape.o, kernels.panel),
                     [&](int64_t panel, int) { kernels.pack(w, shape, panels.data(), panel); });
        return panels;
    }

    // Whether every item's result can be trusted.
    bool forward(ForwardItem<T> kernel, const Forward<T>& problem) const {
        const int64_t panels = ceil_div(problem.shape.o, kernels.panel);
        std::atomic<bool> trusted{true};
        parallel_for(panels * ceil_div(problem.shape.n, kRowChunk), [&](int64_t item, int) {
            if (!kernel(problem, item)) trusted.store(false, std::memory_order_relaxed);
        });
        return trusted;
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

void use_threads(int count) {
    constexpr int most = 1024;
    if (count < 1 || count > most)
        throw std::invalid_argument("the number of threads must be at least 1 and at most " + std::to_string(most) +
                                    ", got " + std::to_string(count));
    chosen_threads = count;
}

int threads() {
    return has_openmp() ? chosen_threads.load() : 1;
}

bool has_openmp() {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
}

template <class T>
void linf_forward(Shape shape, const T* x, const T* w, T* y, int32_t* index) {
    const Engine<T> engine(shape);
    const Buffer<T> panels = engine.pack(shape, w);
    engine.forward(index ? engine.kernels.linf_argmax : engine.kernels.linf,
                   {shape, x, nullptr, w, panels.data(), y, nullptr, index, 0});
}

template <class T>
void linf_bounds(Shape shape, const T* lower, const T* upper, const T* w, T* y_lower, T* y_upper) {
    const Engine<T> engine(shape);
    const Buffer<T> panels = engine.pack(shape, w);
    engine.forward(engine.kernels.linf_bounds, {shape, lower, upper, w, panels.data(), y_lower, y_upper, nullptr, 0});
}

template <class T>
void linf_backward(Shape shape, const T* g, const T* x, const T* w, const int32_t* index, T* grad_x, T* grad_w) {
    const Engine<T> engine(shape);
    const Backward<T> problem{shape, x, w, nullptr, g, index, nullptr, grad_x, grad_w, 0};
    if (grad_x)
        engine.parallel_for(ceil_div(shape.n, kOutputChunk),
                            [&](int64_t item, int) { engine.kernels.linf_backward_x(problem, item, nullptr); });
    if (grad_w)
        engine.parallel_for(ceil_div(shape.o, kOutputChunk),
                            [&](int64_t item, int) { engine.kernels.linf_backward_w(problem, item, nullptr); });
}

template <class T>
void dot(Shape shape, const T* x, const T* w, T* y) {
    const Engine<T> engine(shape);
    const Buffer<T> panels = engine.pack(shape, w);
    engine.forward(engine.kernels.dot, {shape, x, nullptr, w, panels.data(), y, nullptr, nullptr, 0});
}

template <class T>
void lp_forward(Shape shape, const T* x, const T* w, double p, T* y) {
    const Engine<T> engine(shape);
    const Buffer<T> panels = engine.pack(shape, w);
    const Forward<T> problem{shape, x, nullptr, w, panels.data(), y, nullptr, nullptr, p};
    const int i = chain(p);
    const ForwardItem<T> unscaled = i >= 0 ? engine.kernels.lp_power[i] : nullptr;
    if (unscaled && engine.forward(unscaled, problem)) return;
    engine.forward(engine.kernels.linf, problem);
    engine.forward(i >= 0 ? engine.kernels.lp_scaled[i] : engine.kernels.lp_general, problem);
}

template <class T>
void lp_backward(Shape shape, const T* g, const T* x, const T* w, const T* y, double p, T* grad_x, T* grad_w) {
    const Engine<T> engine(shape);
    const int64_t lanes = engine.kernels.lanes, rows = engine.kernels.backward_rows, blocks = ceil_div(shape.n, rows);
    const int64_t scratch_size = 2 * shape.o * lanes;
    const Buffer<T> coefficients(blocks * rows * shape.o * 2), scratch(scratch_size * engine.threads);
    const Backward<T> problem{shape, x, w, y, g, nullptr, coefficients.data(), grad_x, grad_w, p};
    engine.parallel_for(blocks, [&](int64_t block, int) { engine.kernels.coefficients(problem, block, nullptr); });
    const int i = chain(p);
    const BackwardItem<T> kernel = i >= 0 ? engine.kernels.lp_power_backward[i] : engine.kernels.lp_general_backward;
    engine.parallel_for(ceil_div(shape.k, lanes), [&](int64_t item, int thread) {
        kernel(problem, item, scratch.data() + thread * scratch_size);
    });
}

template <class T>
T largest(const T* a, int64_t count) {
    return Engine<T>(count).kernels.largest(a, count);
}

template <class T>
void adam(T* param, const T* grad, T* m, T* v, int64_t count, double lr, double beta1, double beta2, double eps,
          int64_t step) {
    const Engine<T> engine(16 * count);  // as much work as so many terms
    const T rate = static_cast<T>(lr / (1 - std::pow(beta1, step)));
    const T root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, step)));
    constexpr int64_t chunk = 1 << 14;
    engine.parallel_for(ceil_div(count, chunk), [&](int64_t item, int) {
        const int64_t begin = item * chunk, size = count - begin < chunk ? count - begin : chunk;
        engine.kernels.adam(param + begin, grad + begin, m + begin, v + begin, size, rate, static_cast<T>(beta1),
                            static_cast<T>(beta2), root_correction, static_cast<T>(eps));
    });
}

#define LINFENGINE_INSTANTIATE(T)                                                             \
    template void linf_forward(Shape, const T*, const T*, T*, int32_t*);                      \
    template void linf_bounds(Shape, const T*, const T*, const T*, T*, T*);                   \
    template void linf_backward(Shape, const T*, const T*, const T*, const int32_t*, T*, T*); \
    template void dot(Shape, const T*, const T*, T*);                                         \
    template void lp_forward(Shape, const T*, const T*, double, T*);                          \
    template void lp_backward(Shape, const T*, const T*, const T*, const T*, double, T*, T*); \
    template T largest(const T*, int64_t);                                                    \
    template void adam(T*, const T*, T*, T*, int64_t, double, double, double, double, int64_t);

LINFENGINE_INSTANTIATE(float)
LINFENGINE_INSTANTIATE(double)

}  // namespace linfengine
