// A vector of T as wide as the build's instruction set, and the few things done to it.
//
// The compiler's vector extensions give + - * / and comparisons; only what they cannot say, or say badly, is
// spelled in intrinsics below. Everything lives in the namespace LINFENGINE_ISA, so that the copies built for
// different instruction sets never meet at link time. For the same reason nothing here comes from the standard
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

// A loop that is always unrolled. Where the body is one operation on each of several vectors, the processor finds them
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

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
