// What an operation runs on: the instruction set, the threads, and memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "kernels.h"
#include "threads.hpp"

namespace linfengine {

const InstructionSet& chosen_set();

template <class T>
const Kernels<T>& kernels_of(const InstructionSet& set) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return set.f32;
    } else {
        return set.f64;
    }
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

    explicit Engine(int64_t terms) : set(chosen_set()), threads(terms < kWorthThreads ? 1 : linfengine::threads()) {}
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

}  // namespace linfengine
