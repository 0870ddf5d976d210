// The floating-point mode in which a kernel runs.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace linfengine {
namespace LINFENGINE_ISA {

// The floating-point mode of this thread while one of these lives; the caller's comes back afterwards, with the
// exceptions raised meanwhile added: an inexact result shows in the thread's flags, and an exact net raises none.
//
// kExact is the processor's default, whatever the caller runs in: round to nearest, denormals kept. The p = infinity
// kernels and the interval bounds use it, so that their bits depend on nothing else.  kFlush makes denormal results
// zero. The finite-p kernels use that: terms so small never matter, and making them costs a hundred cycles each.
enum class Mode { kExact, kFlush };

class FloatingPointMode {
  public:
#if defined(__x86_64__)
    explicit FloatingPointMode(Mode mode) : saved_(_mm_getcsr()) { _mm_setcsr(mode == Mode::kFlush ? 0x9f80 : 0x1f80); }
    ~FloatingPointMode() { _mm_setcsr(saved_ | (_mm_getcsr() & 0x3f)); }  // what was raised meanwhile stays raised

  private:
    unsigned saved_;
#elif defined(__aarch64__)
    explicit FloatingPointMode(Mode mode) {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(mode == Mode::kFlush ? uint64_t{1} << 24 : uint64_t{0}));
    }
    ~FloatingPointMode() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

  private:
    uint64_t saved_;
#else
    explicit FloatingPointMode(Mode) {}
#endif
  public:
    FloatingPointMode(const FloatingPointMode&) = delete;
    FloatingPointMode& operator=(const FloatingPointMode&) = delete;
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
