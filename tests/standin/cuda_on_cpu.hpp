// CUDA on a CPU: included ahead of a .cu source, it lets g++ compile the kernel, and `launch` runs it.
//
// The threads of a block are fibers that yield at barriers; blocks run one after the other. Where the device promises
// nothing, a launch draws: the order of the threads between two barriers, and what lies in shared memory when a block
// starts. So a missing barrier and a read of what nobody wrote give wrong results here too.
//
// Its mathematics is as inexact as the CUDA C++ Programming Guide allows, where that is more than the CPU's is, and
// with FLUSH_DENORMALS float32 numbers below 2^-126 count as 0, as they do for NVRTC's --ftz=true.
//
// The source ends with RUN_ON_CPU(kernel) and stands in an anonymous namespace: g++'s AddressSanitizer watches the
// static arrays of a template only where no other file can see them.
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

struct dim3 {
    unsigned x, y, z;
};

namespace cuda_on_cpu {

constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 64 << 10, MAX_SHARED = 48 << 10;

struct Barrier {
    const char* file;  // null: none, the thread has returned
    int line;
};

struct Fiber {
    ucontext_t context;
    dim3 thread;
    Barrier waits_at;
    int vote;
};

struct State {
    ucontext_t scheduler;
    Fiber *fibers, *current;
    bool fibers_stuck, flush;
    dim3 grid, block, block_index, thread_index;
    int any_vote;
    uint64_t random;
    void (*call)();
    void (*kernel)();
    const void* args;
    char message[512];
};

// Out of .bss, where the shared memory is, which every block overwrites.
__attribute__((section(".data"))) static State state;

inline unsigned random_below(unsigned n) {
    state.random = state.random * 6364136223846793005u + 1442695040888963407u;
    return (state.random >> 32) * n >> 32;
}

// The processor's own switch, which is part of a fiber's context.
inline void flush_denormals(bool flush) {
#ifdef __SSE2__
    constexpr unsigned results_and_operands = 0x8040;
    _mm_setcsr(flush ? _mm_getcsr() | results_and_operands : _mm_getcsr() & ~results_and_operands);
#endif
}

// A fiber runs one thread after the other.
inline void run_threads() {
    for (;;) {
        flush_denormals(state.flush);
        state.call();
        state.current->waits_at.file = nullptr;
        swapcontext(&state.current->context, &state.scheduler);
    }
}

// Fibers stay for later launches. Their stacks are one mapping, since a process may have only so many, and there is a
// set of them for each kernel; the lowest word of a stack stays 0 unless it overflows.
inline void make_fibers() {
    if (!state.fibers) {
        state.fibers = static_cast<Fiber*>(calloc(MAX_THREADS, sizeof(Fiber)));
        void* stacks = mmap(nullptr, MAX_THREADS * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stacks == MAP_FAILED) abort();
        for (unsigned i = 0; i < MAX_THREADS; ++i)
            state.fibers[i].context.uc_stack.ss_sp = static_cast<char*>(stacks) + i * STACK;
    }
    for (unsigned i = 0; i < MAX_THREADS; ++i) {
        ucontext_t& context = state.fibers[i].context;
        void* stack = context.uc_stack.ss_sp;
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = STACK;
        makecontext(&context, run_threads, 0);
    }
    state.fibers_stuck = false;
}

inline int wait(int vote, const char* file, int line) {
    state.current->vote = vote;
    state.current->waits_at = {file, line};
    swapcontext(&state.current->context, &state.scheduler);
    return state.any_vote;
}

inline bool same(const Barrier& a, const Barrier& b) {
    if (!a.file || !b.file) return a.file == b.file;
    return a.line == b.line && !strcmp(a.file, b.file);
}

inline const char* divergent(const Fiber& one, const Fiber& other) {
    const dim3& block = state.block_index;
    char* text = state.message;
    const char* end = text + sizeof state.message;
    text += snprintf(text, end - text, "divergent barrier in block (%u, %u, %u)", block.x, block.y, block.z);
    const Fiber* const both[] = {&one, &other};
    for (const Fiber* fiber : both) {
        const dim3& thread = fiber->thread;
        text += snprintf(text, end - text, ", thread (%u, %u, %u) ", thread.x, thread.y, thread.z);
        if (fiber->waits_at.file)
            text += snprintf(text, end - text, "waits at %.100s:%d", fiber->waits_at.file, fiber->waits_at.line);
        else
            text += snprintf(text, end - text, "has returned");
    }
    state.fibers_stuck = true;
    return state.message;
}

extern "C" char __bss_start[] __attribute__((visibility("hidden")));
extern "C" char _end[] __attribute__((visibility("hidden")));

// Garbage of a large magnitude and either sign, which neither a maximum nor a minimum hides.
__attribute__((no_sanitize("address", "undefined"))) inline void spoil_shared_memory() {
    const char garbage = random_below(2) ? '\x7f' : '\xfe';
    for (volatile char* at = __bss_start; at < _end; ++at) *at = garbage;
}

// All threads run to their next barrier, and on where it is the same for all.
inline const char* run_block(unsigned threads) {
    spoil_shared_memory();
    Fiber* order[MAX_THREADS];
    for (unsigned i = 0; i < threads; ++i) order[i] = &state.fibers[i];
    do {
        for (unsigned left = threads; left; --left) {
            Fiber*& drawn = order[random_below(left)];
            state.current = drawn;
            drawn = order[left - 1];
            order[left - 1] = state.current;
            state.thread_index = state.current->thread;
            swapcontext(&state.scheduler, &state.current->context);
        }
        state.any_vote = 0;
        for (unsigned i = 0; i < threads; ++i) {
            if (!same(state.fibers[i].waits_at, state.fibers[0].waits_at))
                return divergent(state.fibers[0], state.fibers[i]);
            if (*static_cast<const volatile uint64_t*>(state.fibers[i].context.uc_stack.ss_sp))
                return "a thread's stack overflowed";
            state.any_vote |= state.fibers[i].vote;
        }
    } while (state.fibers[0].waits_at.file);
    return nullptr;
}

template <class Args>
void call() {
    reinterpret_cast<void (*)(Args)>(state.kernel)(*static_cast<const Args*>(state.args));
}

template <class Args>
constexpr bool of_doubles = false;
template <template <class> class Struct>
constexpr bool of_doubles<Struct<double>> = true;  // a GPU flushes float32 numbers only

// null, or what went wrong
template <class Args>
const char* launch(void (*kernel)(Args), const unsigned* grid, const unsigned* block, const void* args) {
    // The linker adds a few bytes to .bss, the sanitizer padding to every array.
#ifndef __SANITIZE_ADDRESS__
    const size_t shared = _end - __bss_start;
    if (shared > MAX_SHARED + 64) {
        snprintf(state.message, sizeof state.message, "a block has %zu bytes of shared memory, the kernel wants %zu",
                 MAX_SHARED, shared);
        return state.message;
    }
#endif
    alignas(Args) char aligned[sizeof(Args)];
    memcpy(aligned, args, sizeof(Args));
    state.args = aligned;
    state.kernel = reinterpret_cast<void (*)()>(kernel);
    state.call = call<Args>;
#ifdef FLUSH_DENORMALS
    state.flush = !of_doubles<Args>;
#endif
    if (!state.fibers || state.fibers_stuck) make_fibers();
    state.grid = {grid[0], grid[1], grid[2]};
    state.block = {block[0], block[1], block[2]};
    const unsigned threads = block[0] * block[1] * block[2];
    for (unsigned i = 0; i < threads; ++i)
        state.fibers[i].thread = {i % block[0], i / block[0] % block[1], i / block[0] / block[1]};
    dim3& at = state.block_index;
    for (at.z = 0; at.z < grid[2]; ++at.z)
        for (at.y = 0; at.y < grid[1]; ++at.y)
            for (at.x = 0; at.x < grid[0]; ++at.x)
                if (const char* message = run_block(threads)) return message;
    return nullptr;
}

template <class Args>
constexpr size_t size_of_args(void (*)(Args)) {
    return sizeof(Args);
}

}  // namespace cuda_on_cpu

#define RUN_ON_CPU(kernel)                                                                      \
    extern "C" const size_t args_size = cuda_on_cpu::size_of_args(kernel);                      \
    extern "C" const char* run(const unsigned* grid, const unsigned* block, const void* args) { \
        return cuda_on_cpu::launch(kernel, grid, block, args);                                  \
    }

// What CUDA C++ has.  <math.h> brings its mathematics, overloaded for float and double.

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

static const dim3 &gridDim = cuda_on_cpu::state.grid, &blockDim = cuda_on_cpu::state.block;
static const dim3 &blockIdx = cuda_on_cpu::state.block_index, &threadIdx = cuda_on_cpu::state.thread_index;

// A barrier is known by its place in the source: compilers may copy the call.
inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    cuda_on_cpu::wait(0, file, line);
}
inline int __syncthreads_or(int vote, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return cuda_on_cpu::wait(vote != 0, file, line);
}

#define ATOMIC(name, T, result)          \
    inline T name(T* address, T value) { \
        const T old = *address;          \
        *address = result;               \
        return old;                      \
    }
ATOMIC(atomicMax, int, old > value ? old : value)
ATOMIC(atomicMax, unsigned, old > value ? old : value)
ATOMIC(atomicMin, int, old < value ? old : value)
ATOMIC(atomicMin, unsigned, old < value ? old : value)
ATOMIC(atomicOr, int, old | value)
ATOMIC(atomicOr, unsigned, old | value)
#undef ATOMIC

template <class T>
inline T __ldg(const T* address) {
    return *address;
}

#define EXTREMES(T)           \
    inline T max(T a, T b) {  \
        return a > b ? a : b; \
    }                         \
    inline T min(T a, T b) {  \
        return a < b ? a : b; \
    }
EXTREMES(int)
EXTREMES(unsigned)
EXTREMES(long long)
#undef EXTREMES
inline float max(float a, float b) {
    return fmaxf(a, b);
}
inline float min(float a, float b) {
    return fminf(a, b);
}
inline double max(double a, double b) {
    return fmax(a, b);
}
inline double min(double a, double b) {
    return fmin(a, b);
}

namespace cuda_on_cpu {

template <int size>
struct Same {
    using Int = int;
};
template <>
struct Same<8> {
    using Int = long long;
};

template <class To, class From>
inline To bits(From value) {
    static_assert(sizeof(To) == sizeof(From), "");
    To result;
    memcpy(&result, &value, sizeof result);
    return result;
}

// The result, off by so many units in the last place, towards 0 or away from it as the argument's bits have it.
template <class T>
inline T off_by(int ulps, T argument, T result) {
    using Bits = typename Same<sizeof(T)>::Int;
    if (!isfinite(result) || result == 0 || argument == 0) return result;
    const uint64_t hash = uint64_t(bits<Bits>(argument)) * 0x9e3779b97f4a7c15u;
    return bits<T>(bits<Bits>(result) + (hash >> 63 ? ulps : -ulps));
}

}  // namespace cuda_on_cpu

inline int __float_as_int(float value) {
    return cuda_on_cpu::bits<int>(value);
}
inline float __int_as_float(int value) {
    return cuda_on_cpu::bits<float>(value);
}
inline long long __double_as_longlong(double value) {
    return cuda_on_cpu::bits<long long>(value);
}
inline double __longlong_as_double(long long value) {
    return cuda_on_cpu::bits<double>(value);
}
inline int __double2hiint(double value) {
    return int(__double_as_longlong(value) >> 32);
}

// Units in the last place by which float and double results may be off. These hide the CPU's functions from a kernel,
// which stands in the anonymous namespace.
namespace {
#define INEXACT(name, ulps, ulps_double)                       \
    inline float name(float x) {                               \
        return cuda_on_cpu::off_by(ulps, x, ::name(x));        \
    }                                                          \
    inline double name(double x) {                             \
        return cuda_on_cpu::off_by(ulps_double, x, ::name(x)); \
    }
INEXACT(exp2, 2, 1)
INEXACT(log2, 1, 1)
INEXACT(log, 1, 1)
INEXACT(expm1, 1, 1)
INEXACT(cbrt, 1, 1)
#undef INEXACT

// Off by 2^-22 between 1/2 and 2, elsewhere by 2 units in the last place.
inline float inexact_log2(float x) {
    const float exact = ::log2(x);
    if (!(x >= 0.5f && x <= 2.0f)) return cuda_on_cpu::off_by(2, x, exact);
    return exact + copysign(0x1p-22f, cuda_on_cpu::off_by(1, x, 1.0f) - 1);
}
}  // namespace
#define __log2f inexact_log2  // a macro, since glibc declares the name

// What the headers above bring and NVRTC lacks.
#pragma GCC poison std int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t
#pragma GCC poison INFINITY NAN FLT_MAX FLT_MIN FLT_EPSILON DBL_MAX DBL_MIN DBL_EPSILON INT_MAX INT_MIN UINT_MAX
