#include "dispatch.h"

#include <atomic>
#include <cmath>
#include <cstddef>
#include <memory>
#include <new>
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

const InstructionSet* current_set = runnable().back();

int available_threads() {
#ifdef _OPENMP
    return omp_get_num_procs();
#else
    return 1;
#endif
}

int thread_count = available_threads();

template <class T>
const Kernels<T>& kernels();
template <>
const Kernels<float>& kernels<float>() {
    return current_set->f32;
}
template <>
const Kernels<double>& kernels<double>() {
    return current_set->f64;
}

// Numbers on a cache line's boundary, so that no vector straddles two lines.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t count) : data_(static_cast<T*>(::operator new(count * sizeof(T), alignment))) {}
    ~Buffer() { ::operator delete(data_, alignment); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    T* data() const { return data_; }

  private:
    static constexpr std::align_val_t alignment{64};
    T* data_;
};

int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

// body(item, thread) for every item, on all threads.  Which thread does which item is left open on purpose: an item's
// results depend on nothing but the item.
template <class Body>
void parallel_for(int64_t items, const Body& body) {
#ifdef _OPENMP
#pragma omp parallel for schedule(dynamic) num_threads(thread_count) if (items > 1 && thread_count > 1)
    for (int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
#else
    for (int64_t item = 0; item < items; ++item) body(item, 0);
#endif
}

template <class T>
class Panels {
  public:
    Panels(const Shape& shape, const T* w)
        : buffer_(ceil_div(shape.o, kernels<T>().lanes) * kernels<T>().lanes * shape.k) {
        parallel_for(ceil_div(shape.o, kernels<T>().panel),
                     [&](int64_t panel, int) { kernels<T>().pack(w, shape, buffer_.data(), panel); });
    }
    const T* data() const { return buffer_.data(); }

  private:
    Buffer<T> buffer_;
};

template <class T>
bool forward(ForwardItem<T> kernel, const Forward<T>& problem) {
    const int64_t panels = ceil_div(problem.shape.o, kernels<T>().panel);
    std::atomic<bool> trusted{true};
    parallel_for(panels * ceil_div(problem.shape.n, kRowChunk), [&](int64_t item, int) {
        if (!kernel(problem, item)) trusted.store(false, std::memory_order_relaxed);
    });
    return trusted;
}

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
            current_set = set;
            return;
        }
    std::string known;
    for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
    throw std::invalid_argument("instruction set '" + name + "' is not one this build and processor can run: " + known);
}

std::string instruction_set() {
    return current_set->name;
}

void use_threads(int count) {
    if (count < 1)
        throw std::invalid_argument("the number of threads must be at least 1, got " + std::to_string(count));
    thread_count = count;
}

int threads() {
    return has_openmp() ? thread_count : 1;
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
    const Panels<T> panels(shape, w);
    const Forward<T> problem{shape, x, nullptr, w, panels.data(), y, nullptr, index, 0};
    forward(index ? kernels<T>().linf_argmax : kernels<T>().linf, problem);
}

template <class T>
void linf_bounds(Shape shape, const T* lower, const T* upper, const T* w, T* y_lower, T* y_upper) {
    const Panels<T> panels(shape, w);
    forward(kernels<T>().linf_bounds, {shape, lower, upper, w, panels.data(), y_lower, y_upper, nullptr, 0});
}

template <class T>
void linf_backward(Shape shape, const T* g, const T* x, const T* w, const int32_t* index, T* grad_x, T* grad_w) {
    const Backward<T> problem{shape, x, w, nullptr, g, index, nullptr, grad_x, grad_w, 0};
    if (grad_x)
        parallel_for(ceil_div(shape.n, kOutputChunk),
                     [&](int64_t item, int) { kernels<T>().linf_backward_x(problem, item, nullptr); });
    if (grad_w)
        parallel_for(ceil_div(shape.o, kOutputChunk),
                     [&](int64_t item, int) { kernels<T>().linf_backward_w(problem, item, nullptr); });
}

template <class T>
void dot(Shape shape, const T* x, const T* w, T* y) {
    const Panels<T> panels(shape, w);
    forward(kernels<T>().dot, {shape, x, nullptr, w, panels.data(), y, nullptr, nullptr, 0});
}

template <class T>
void lp_forward(Shape shape, const T* x, const T* w, double p, T* y) {
    const Panels<T> panels(shape, w);
    const Forward<T> problem{shape, x, nullptr, w, panels.data(), y, nullptr, nullptr, p};
    const int i = chain(p);
    constexpr int largest_unscaled = 16;  // beyond, sums leave the range of float32 too often to try
    if (i >= 0 && p <= largest_unscaled && forward(kernels<T>().lp_power[i], problem)) return;
    forward(kernels<T>().linf, problem);
    forward(i >= 0 ? kernels<T>().lp_scaled[i] : kernels<T>().lp_general, problem);
}

template <class T>
void lp_backward(Shape shape, const T* g, const T* x, const T* w, const T* y, double p, T* grad_x, T* grad_w) {
    const int64_t lanes = kernels<T>().lanes, rows = kernels<T>().backward_rows, blocks = ceil_div(shape.n, rows);
    const int64_t scratch_size = 2 * shape.o * lanes;
    const Buffer<T> coefficients(blocks * rows * shape.o * 2), scratch(scratch_size * threads());
    const Backward<T> problem{shape, x, w, y, g, nullptr, coefficients.data(), grad_x, grad_w, p};
    parallel_for(blocks, [&](int64_t block, int) { kernels<T>().coefficients(problem, block, nullptr); });
    const int i = chain(p);
    const BackwardItem<T> kernel = i >= 0 ? kernels<T>().lp_power_backward[i] : kernels<T>().lp_general_backward;
    parallel_for(ceil_div(shape.k, lanes),
                 [&](int64_t item, int thread) { kernel(problem, item, scratch.data() + thread * scratch_size); });
}

template <class T>
T largest(const T* a, int64_t count) {
    return kernels<T>().largest(a, count);
}

template <class T>
void adam(T* param, const T* grad, T* m, T* v, int64_t count, double lr, double beta1, double beta2, double eps,
          int64_t step) {
    const T rate = static_cast<T>(lr / (1 - std::pow(beta1, step)));
    const T root_correction = static_cast<T>(1 / std::sqrt(1 - std::pow(beta2, step)));
    constexpr int64_t chunk = 1 << 14;
    parallel_for(ceil_div(count, chunk), [&](int64_t item, int) {
        const int64_t begin = item * chunk, size = count - begin < chunk ? count - begin : chunk;
        kernels<T>().adam(param + begin, grad + begin, m + begin, v + begin, size, rate, static_cast<T>(beta1),
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
