// A vector of T as wide as the build's instruction set, and the few things done to it.
//
// The compiler's vector extensions give + - * / and comparisons; only what they cannot say, or say badly, is
// spelled in intrinsics below.  Everything lives in the namespace LINFENGINE_ISA, so that the copies built for
// different instruction sets never meet at link time.  For the same reason nothing here comes from the standard
// library's templates: the linker would be free to keep the one copy of them that old processors cannot run.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace linfengine {
namespace LINFENGINE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

template <class T>
struct Simd;

template <>
struct Simd<float> {
    typedef float Vec __attribute__((vector_size(kVectorBytes)));
    typedef int32_t Int __attribute__((vector_size(kVectorBytes)));  // same lanes: masks, block numbers, raw bits
    typedef int32_t Lane;
    static constexpr int lanes = kVectorBytes / sizeof(float);
    static constexpr int32_t abs_mask = 0x7fffffff;
};

template <>
struct Simd<double> {
    typedef double Vec __attribute__((vector_size(kVectorBytes)));
    typedef int64_t Int __attribute__((vector_size(kVectorBytes)));
    typedef int64_t Lane;
    static constexpr int lanes = kVectorBytes / sizeof(double);
    static constexpr int64_t abs_mask = 0x7fffffffffffffff;
};

template <>
struct Simd<uint8_t> {
    typedef uint8_t Vec __attribute__((vector_size(kVectorBytes)));
    typedef int8_t Int __attribute__((vector_size(kVectorBytes)));
    typedef int8_t Lane;
    static constexpr int lanes = kVectorBytes;
};

template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
using Int = typename Simd<T>::Int;

#define LINFENGINE_ALWAYS_INLINE __attribute__((always_inline))
#define LINFENGINE_INLINE inline LINFENGINE_ALWAYS_INLINE

// A loop that is always unrolled.  Where the body is one operation on each of several vectors, the processor finds them
// side by side: a chain of dependent operations by itself fills its queue and leaves it waiting.
#define LINFENGINE_EACH(i, n) _Pragma("GCC unroll 8") for (int i = 0; i < (n); ++i)

template <class T>
LINFENGINE_INLINE Vec<T> load(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
}

template <class T>
LINFENGINE_INLINE void store(T* p, Vec<T> v) {
    __builtin_memcpy(p, &v, sizeof v);
}

// The first `count` lanes only; the others read as zero, or are not written.
template <class T>
LINFENGINE_INLINE Vec<T> load_first(const T* p, int64_t count) {
    if (count >= Simd<T>::lanes) return load(p);
    Vec<T> v = {};
    __builtin_memcpy(&v, p, count * sizeof(T));
    return v;
}

template <class T>
LINFENGINE_INLINE void store_first(T* p, Vec<T> v, int64_t count) {
    __builtin_memcpy(p, &v, (count < Simd<T>::lanes ? count : Simd<T>::lanes) * sizeof(T));
}

// An all-lanes copy of s.  (s - 0 is s, -0 included, and compilers know it; a loop over lanes they take literally.)
template <class T>
LINFENGINE_INLINE Vec<T> broadcast(T s) {
    return s - Vec<T>{};
}

#if defined(__AVX512F__)
// Masked instructions read a tail of k without a detour through memory.
template <>
LINFENGINE_INLINE Vec<float> load_first(const float* p, int64_t count) {
    return (Vec<float>)_mm512_maskz_loadu_ps(count >= 16 ? 0xffff : (1u << count) - 1, p);
}
template <>
LINFENGINE_INLINE Vec<double> load_first(const double* p, int64_t count) {
    return (Vec<double>)_mm512_maskz_loadu_pd(count >= 8 ? 0xff : (1u << count) - 1, p);
}
template <>
LINFENGINE_INLINE Vec<uint8_t> load_first(const uint8_t* p, int64_t count) {
    return (Vec<uint8_t>)_mm512_maskz_loadu_epi8(count >= 64 ? ~0ull : (1ull << count) - 1, p);
}
#elif defined(__AVX2__)
template <>
LINFENGINE_INLINE Vec<float> load_first(const float* p, int64_t count) {
    const Int<float> lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (Vec<float>)_mm256_maskload_ps(p, (__m256i)(lane < (int32_t)(count < 8 ? count : 8)));
}
template <>
LINFENGINE_INLINE Vec<double> load_first(const double* p, int64_t count) {
    const Int<double> lane = {0, 1, 2, 3};
    return (Vec<double>)_mm256_maskload_pd(p, (__m256i)(lane < count));
}
#endif

template <class T>
LINFENGINE_INLINE Int<T> bits(Vec<T> v) {
    return (Int<T>)v;
}

template <class T>
LINFENGINE_INLINE Vec<T> absolute(Vec<T> v) {
    return (Vec<T>)(bits<T>(v) & Simd<T>::abs_mask);
}

template <class T>
LINFENGINE_INLINE Vec<T> maximum(Vec<T> a, Vec<T> b) {
    return a > b ? a : b;
}

// max(a - b, 0) of bytes.
LINFENGINE_INLINE Vec<uint8_t> subtract_to_zero(Vec<uint8_t> a, Vec<uint8_t> b) {
#if defined(__AVX512F__)
    return (Vec<uint8_t>)_mm512_subs_epu8((__m512i)a, (__m512i)b);
#elif defined(__AVX2__)
    return (Vec<uint8_t>)_mm256_subs_epu8((__m256i)a, (__m256i)b);
#elif defined(__SSE2__)
    return (Vec<uint8_t>)_mm_subs_epu8((__m128i)a, (__m128i)b);
#elif defined(__aarch64__)
    return (Vec<uint8_t>)vqsubq_u8((uint8x16_t)a, (uint8x16_t)b);
#else
    return maximum<uint8_t>(a, b) - b;
#endif
}

// max(a, |d|) for a >= 0: the step of the l-inf distance.
template <class T>
LINFENGINE_INLINE Vec<T> abs_max(Vec<T> a, Vec<T> d) {
    return maximum<T>(a, absolute<T>(d));
}

// Whether a >= b in any lane.
template <class T>
LINFENGINE_INLINE bool any_ge(Vec<T> a, Vec<T> b) {
#if defined(__aarch64__)
    return vmaxvq_u32((uint32x4_t)(Int<T>)(a >= b)) != 0;
#else
    const Int<T> mask = a >= b;
    bool any = false;
    for (int i = 0; i < Simd<T>::lanes; ++i) any |= mask[i] != 0;
    return any;
#endif
}

#if defined(__AVX512F__)
// One instruction takes both absolute values and the maximum: operation 11 (absolute maximum), sign 10 (cleared).
template <>
LINFENGINE_INLINE Vec<float> abs_max<float>(Vec<float> a, Vec<float> d) {
    return (Vec<float>)_mm512_range_ps((__m512)a, (__m512)d, 0b1011);
}
template <>
LINFENGINE_INLINE Vec<double> abs_max<double>(Vec<double> a, Vec<double> d) {
    return (Vec<double>)_mm512_range_pd((__m512d)a, (__m512d)d, 0b1011);
}
// The masked forms, with every lane on: gcc 12 warns of an uninitialised value inside the plain ones.
template <>
LINFENGINE_INLINE Vec<float> maximum<float>(Vec<float> a, Vec<float> b) {
    return (Vec<float>)_mm512_maskz_max_ps(0xffff, (__m512)a, (__m512)b);
}
template <>
LINFENGINE_INLINE Vec<double> maximum<double>(Vec<double> a, Vec<double> b) {
    return (Vec<double>)_mm512_maskz_max_pd(0xff, (__m512d)a, (__m512d)b);
}
template <>
LINFENGINE_INLINE bool any_ge<float>(Vec<float> a, Vec<float> b) {
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
}
template <>
LINFENGINE_INLINE bool any_ge<double>(Vec<double> a, Vec<double> b) {
    return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_GE_OQ);
}
#elif defined(__AVX2__)
template <>
LINFENGINE_INLINE Vec<float> maximum<float>(Vec<float> a, Vec<float> b) {
    return (Vec<float>)_mm256_max_ps((__m256)a, (__m256)b);
}
template <>
LINFENGINE_INLINE Vec<double> maximum<double>(Vec<double> a, Vec<double> b) {
    return (Vec<double>)_mm256_max_pd((__m256d)a, (__m256d)b);
}
template <>
LINFENGINE_INLINE bool any_ge<float>(Vec<float> a, Vec<float> b) {
    return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GE_OQ));
}
template <>
LINFENGINE_INLINE bool any_ge<double>(Vec<double> a, Vec<double> b) {
    return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_GE_OQ));
}
#elif defined(__SSE2__)
template <>
LINFENGINE_INLINE Vec<float> maximum<float>(Vec<float> a, Vec<float> b) {
    return (Vec<float>)_mm_max_ps((__m128)a, (__m128)b);
}
template <>
LINFENGINE_INLINE Vec<double> maximum<double>(Vec<double> a, Vec<double> b) {
    return (Vec<double>)_mm_max_pd((__m128d)a, (__m128d)b);
}
template <>
LINFENGINE_INLINE bool any_ge<float>(Vec<float> a, Vec<float> b) {
    return _mm_movemask_ps(_mm_cmpge_ps((__m128)a, (__m128)b));
}
template <>
LINFENGINE_INLINE bool any_ge<double>(Vec<double> a, Vec<double> b) {
    return _mm_movemask_pd(_mm_cmpge_pd((__m128d)a, (__m128d)b));
}
#elif defined(__aarch64__)
template <>
LINFENGINE_INLINE Vec<float> maximum<float>(Vec<float> a, Vec<float> b) {
    return (Vec<float>)vmaxq_f32((float32x4_t)a, (float32x4_t)b);
}
template <>
LINFENGINE_INLINE Vec<double> maximum<double>(Vec<double> a, Vec<double> b) {
    return (Vec<double>)vmaxq_f64((float64x2_t)a, (float64x2_t)b);
}
#endif

// ---- Reductions across lanes -------------------------------------------------------------------------------------

struct Largest {
    template <class T>
    LINFENGINE_INLINE static Vec<T> join(Vec<T> a, Vec<T> b) {
        return maximum<T>(a, b);
    }
};
struct Sum {
    template <class T>
    LINFENGINE_INLINE static Vec<T> join(Vec<T> a, Vec<T> b) {
        return a + b;
    }
};

template <int... I>
struct Indices {};
template <int N, int... I>
struct CountTo : CountTo<N - 1, N - 1, I...> {};
template <int... I>
struct CountTo<0, I...> {
    using type = Indices<I...>;
};
template <class T>
using AllLanes = typename CountTo<Simd<T>::lanes>::type;

// 0, -1, -2, ...
template <class T, int... I>
LINFENGINE_INLINE Vec<T> negated_lanes(Indices<I...>) {
    return Vec<T>{T(-I)...};
}

// Lane i of the result is lane I_i of a and b laid end to end.
template <class T, int... I>
LINFENGINE_INLINE Vec<T> pick(Vec<T> a, Vec<T> b) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, I...);
#else
    return __builtin_shuffle(a, b, Int<T>{I...});
#endif
}

// From the lower (or upper) halves of 128 bits of a and b, units of `unit` lanes in turn: what unpack instructions do.
template <class T, int unit, bool upper>
constexpr int interleaved(int i) {
    constexpr int group = 16 / (int)sizeof(T) > 2 * unit ? 16 / (int)sizeof(T) : 2 * unit;
    const int position = i % group, number = position / unit;
    return i / group * group + number / 2 * unit + position % unit + (upper ? group / 2 : 0) +
           (number % 2 ? Simd<T>::lanes : 0);
}

// a and b, each folded to half its length; their lanes alternate in units of `unit`.
template <class Op, class T, int unit, int... I>
LINFENGINE_INLINE Vec<T> zip(Vec<T> a, Vec<T> b, Indices<I...>) {
    return Op::template join<T>(pick<T, interleaved<T, unit, false>(I)...>(a, b),
                                pick<T, interleaved<T, unit, true>(I)...>(a, b));
}

// Lanes `period` apart joined into one; afterwards the first `period` lanes are the result.
template <class Op, class T, int period, int step = Simd<T>::lanes / 2, int... I>
LINFENGINE_INLINE Vec<T> fold(Vec<T> v, Indices<I...> all) {
    if constexpr (step < period) {
        return v;
    } else {
        const Vec<T> joined = Op::template join<T>(v, pick<T, (I + step) % Simd<T>::lanes...>(v, v));
        return fold<Op, T, period, step / 2>(joined, all);
    }
}

// Lane c of the result is all lanes of v[c] joined, for the n (1, 2 or 4) vectors of v: four at once cost little more
// than one.
template <class Op, class T, int n>
LINFENGINE_INLINE Vec<T> reduce(const Vec<T> (&v)[n]) {
    constexpr AllLanes<T> all{};
    if constexpr (n == 1) {
        return fold<Op, T, 1>(v[0], all);
    } else if constexpr (n == 2) {
        return fold<Op, T, 2>(zip<Op, T, 1>(v[0], v[1], all), all);
    } else {
        static_assert(n == 4);
        const Vec<T> low = zip<Op, T, 1>(v[0], v[1], all), high = zip<Op, T, 1>(v[2], v[3], all);
        return fold<Op, T, 4>(zip<Op, T, 2>(low, high, all), all);
    }
}

// v^P in place, by squaring; P is known to the compiler, so this is a short chain of multiplications.
template <int P, class T, int n>
LINFENGINE_INLINE void raise(Vec<T> (&v)[n]) {
    if constexpr (P == 0) {
        LINFENGINE_EACH(i, n) v[i] = broadcast(T(1));
    } else if constexpr (P > 1 && P % 2 == 1) {
        Vec<T> once[n];
        LINFENGINE_EACH(i, n) once[i] = v[i];
        raise<P - 1, T>(v);
        LINFENGINE_EACH(i, n) v[i] *= once[i];
    } else if constexpr (P > 1) {
        raise<P / 2, T>(v);
        LINFENGINE_EACH(i, n) v[i] *= v[i];
    }
}

// a^p = 2^(p log2 a), in place, for a >= 0 not denormal and a^p <= 2^127; results below 2^-126, and 0^p, come out as
// 2^-126, so that no denormal is ever made.
//
// log2: a = 2^e (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), log2(1 + f) = f P(f) with the minimax polynomial P of degree 8
// (relative error 2.6e-8); f P(f) keeps the relative error as a nears 1.
// exp2: z = n + f, |f| <= 1/2, a minimax polynomial for 2^f (relative error 1.9e-9), n added to the exponent.
template <class T, int n>
LINFENGINE_INLINE void raise(Vec<T> (&a)[n], T p) {
    if constexpr (sizeof(T) == 8) {  // double precision is for checking gradients, not for speed: the C library
        for (auto& each : a) {
            T lanes[Simd<T>::lanes];
            store(lanes, each);
            for (T& lane : lanes) lane = ::pow(lane, p);
            each = load(lanes);
        }
    } else {
        const Vec<T> magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
        Int<T> e[n];
        Vec<T> f[n], f2[n], q[n], z[n], t[n];
        LINFENGINE_EACH(i, n) e[i] = (bits<T>(a[i]) - 0x3f3504f3) & (int32_t)0xff800000;  // 2^23 e, from sqrt(1/2) on
        LINFENGINE_EACH(i, n) f[i] = (Vec<T>)(bits<T>(a[i]) - e[i]) - 1.0f;
        LINFENGINE_EACH(i, n) f2[i] = f[i] * f[i];
        LINFENGINE_EACH(i, n) q[i] = 0.21571561694145203f - 0.2072698026895523f * f[i] + 0.1258370727300644f * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (0.28791624307632446f - 0.23894481360912323f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (0.48091062903404236f - 0.3607036769390106f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) q[i] = (1.4426950216293335f - 0.7213473320007324f * f[i]) + q[i] * f2[i];
        LINFENGINE_EACH(i, n) z[i] = __builtin_convertvector(e[i], Vec<T>) * (p * 0x1p-23f) + q[i] * (f[i] * p);
        LINFENGINE_EACH(i, n) z[i] = maximum<T>(z[i], broadcast(-126.0f));
        LINFENGINE_EACH(i, n) e[i] = bits<T>(z[i] + magic);
        LINFENGINE_EACH(i, n) f[i] = z[i] - ((Vec<T>)e[i] - magic);
        LINFENGINE_EACH(i, n) f2[i] = f[i] * f[i];
        LINFENGINE_EACH(i, n)
        t[i] = 0.009618489071726799f + 0.0013399930903688073f * f[i] + 0.0001534581242594868f * f2[i];
        LINFENGINE_EACH(i, n) t[i] = (0.24022646248340607f + 0.05550328642129898f * f[i]) + t[i] * f2[i];
        LINFENGINE_EACH(i, n) t[i] = (1.0f + 0.6931471824645996f * f[i]) + t[i] * f2[i];
        LINFENGINE_EACH(i, n) a[i] = (Vec<T>)(bits<T>(t[i]) + (e[i] << 23));
    }
}

template <class T>
LINFENGINE_INLINE Vec<T> real_power(Vec<T> a, T p) {
    Vec<T> one[1] = {a};
    raise<T>(one, p);
    return one[0];
}

template <class T>
LINFENGINE_INLINE Vec<T> square_root(Vec<T> v) {
    for (int i = 0; i < Simd<T>::lanes; ++i) v[i] = __builtin_sqrt(v[i]);
    return v;
}
#if defined(__AVX512F__)
template <>
LINFENGINE_INLINE Vec<float> square_root<float>(Vec<float> v) {
    return (Vec<float>)_mm512_maskz_sqrt_ps(0xffff, (__m512)v);
}
#elif defined(__AVX2__)
template <>
LINFENGINE_INLINE Vec<float> square_root<float>(Vec<float> v) {
    return (Vec<float>)_mm256_sqrt_ps((__m256)v);
}
#endif

// The floating-point mode of this thread while one of these lives; the caller's comes back afterwards, with the
// exceptions raised meanwhile added: an inexact result shows in the thread's flags, and an exact net raises none.
//
// kExact is the processor's default, whatever the caller runs in: round to nearest, denormals kept.  The p = infinity
// kernels and the interval bounds use it, so that their bits depend on nothing else.  kFlush makes denormal results
// zero.  The finite-p kernels use that: terms so small never matter, and making them costs a hundred cycles each.
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
