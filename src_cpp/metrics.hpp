// A metric is what happens to one term |x - w| and how terms combine.  The loop nest in tile.hpp does the rest.
//
//   Part                          what one block of k accumulates, kept in registers
//   Total                         what a whole output needs besides: the sum of parts, thresholds, ...
//   begin(row, col) -> Total      before the first k
//   identity() -> Part            the neutral element
//   step(part, total, x, w)       take in one k: x[0] (and x[1] for an interval) against a vector of outputs
//   merge(total, part, k)         at the end of the block that starts at k
//   finish(total, row, col, n)    write the first n lanes; false if the result cannot be trusted
//
// kRows x kVectors is the register tile, kBlock the k in one block; inputs is 2 for metrics that read an interval.
#pragma once

#include "kernels.h"
#include "simd.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr bool kWide = kRegisters == 32;
constexpr int64_t kLongBlock = 128;  // merging costs 2%, and sums of 128 terms lose little

// y = max_k |x - w|
template <class T>
struct Linf {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = kWide ? 6 : 4, kVectors = kWide ? 4 : 2;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total&, const T* x, Vec<T> w) const {
        part = abs_max<T>(part, x[0] - w);
    }
    void merge(Total& total, const Part& part, int64_t) const { total = maximum<T>(total, part); }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        store_first(a.y + row * a.shape.ldy + col, total, count);
        return true;
    }
};

// y = max_k |x - w| and the lowest k that attains it.  The inner loop is that of Linf; only the first block that
// raised the maximum is remembered, and that block is searched once at the end: it is short, to make that quick.
template <class T>
struct LinfArgmax {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> value;
        Int<T> block;
    };
    static constexpr int inputs = 1, kRows = Linf<T>::kRows, kVectors = Linf<T>::kVectors;
    static constexpr int64_t kBlock = 32;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return {Vec<T>{}, Int<T>{}}; }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total&, const T* x, Vec<T> w) const {
        part = abs_max<T>(part, x[0] - w);
    }
    void merge(Total& total, const Part& part, int64_t k) const {
        const Int<T> raised = part > total.value;
        total.block = (raised & (typename Simd<T>::Lane)k) | (~raised & total.block);
        total.value = maximum<T>(total.value, part);
    }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const;
};

// For lower <= x <= upper: the largest and the smallest value of max_k |x - w|.
template <class T>
struct LinfBounds {
    using Scalar = T;
    struct Part {
        Vec<T> lower, upper;
    };
    using Total = Part;
    static constexpr int inputs = 2, kRows = kWide ? 6 : 2, kVectors = 2;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return identity(); }
    Part identity() const { return {Vec<T>{}, Vec<T>{}}; }
    LINFENGINE_INLINE void step(Part& part, const Total&, const T* x, Vec<T> w) const {
        const Vec<T> above = x[0] - w, below = w - x[1];
        part.upper = abs_max<T>(abs_max<T>(part.upper, above), below);
        part.lower = maximum<T>(maximum<T>(part.lower, above), below);
    }
    void merge(Total& total, const Part& part, int64_t) const {
        total.lower = maximum<T>(total.lower, part.lower);
        total.upper = maximum<T>(total.upper, part.upper);
    }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        store_first(a.y + row * a.shape.ldy + col, total.lower + T(0), count);  // never -0
        store_first(a.y_upper + row * a.shape.ldy + col, total.upper, count);
        return true;
    }
};

// y = sum_k x w: the matrix product of the linear layers, in an order of summation that the shapes alone fix.
template <class T>
struct Dot {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = Linf<T>::kRows, kVectors = Linf<T>::kVectors;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total&, const T* x, Vec<T> w) const { part += x[0] * w; }
    void merge(Total& total, const Part& part, int64_t) const { total += part; }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        store_first(a.y + row * a.shape.ldy + col, total, count);
        return true;
    }
};

// s^(1/P) for s > 0
template <int P, class T>
LINFENGINE_INLINE Vec<T> root(Vec<T> s) {
    if constexpr (P == 1) {
        return s;
    } else if constexpr (P % 2 == 0 && (P & (P - 1)) == 0) {
        return root<P / 2, T>(square_root<T>(s));
    } else {
        return exp2_clamped(log2_positive(s) * T(1.0 / P));
    }
}

// y = (sum_k |x - w|^P)^(1/P) for an even P or 1, powers by multiplication.  The sum is not scaled; where it comes out
// so large or so small that terms may have left the range of T, finish says no and LpScaledPower is used.
template <class T, int P>
struct LpPower {
    static_assert(P == 1 || P % 2 == 0, "an odd power needs |d|");
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = Linf<T>::kRows, kVectors = Linf<T>::kVectors;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total&, const T* x, Vec<T> w) const {
        const Vec<T> d = P == 1 ? absolute<T>(x[0] - w) : x[0] - w;
        part += power<P, T>(d);
    }
    void merge(Total& total, const Part& part, int64_t) const { total += part; }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        store_first(a.y + row * a.shape.ldy + col, root<P, T>(total), count);
        const T smallest = T(a.shape.k) * T(0x1p-100), largest = T(0x1p+120);
        bool trusted = true;
        for (int64_t i = 0; i < count && i < Simd<T>::lanes; ++i)
            trusted &= total[i] >= smallest && total[i] <= largest;
        return trusted;
    }
};

template <class T>
constexpr T kTiny = sizeof(T) == 4 ? T(0x1p-125) : T(0x1p-1021);  // its reciprocal is still finite

// A sum of `terms` numbers does not notice those below 2^-cut of the largest.
template <class T>
double cut(int64_t terms) {
    return (sizeof(T) == 4 ? 25 : 54) + ::log2(double(terms));
}

// y = m (sum_k (|x - w| / m)^P)^(1/P), m = max_k |x - w| read from y: one more multiplication, and no range to leave.
template <class T, int P>
struct LpScaledPower {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, inverse, m;
    };
    static constexpr int inputs = 1, kRows = kWide ? 4 : 2, kVectors = Linf<T>::kVectors;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t row, int64_t col) const {
        const Vec<T> m = load_first(a.y + row * a.shape.ldy + col, a.shape.o - col);
        return {Vec<T>{}, T(1) / maximum<T>(m, broadcast(kTiny<T>)), m};
    }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total& total, const T* x, Vec<T> w) const {
        const Vec<T> r = (x[0] - w) * total.inverse;
        part += power<P, T>(P == 1 ? absolute<T>(r) : r);
    }
    void merge(Total& total, const Part& part, int64_t) const { total.sum += part; }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        // Rounding may put the sum a hair below 1, and m = 0 leaves it 0; the exact y is never below m.
        const Vec<T> y = total.m * root<P, T>(maximum<T>(total.sum, broadcast(T(1))));
        store_first(a.y + row * a.shape.ldy + col, y, count);
        return true;
    }
};

// The same for any real p >= 1, through logarithm and exponential.
// A term below m 2^(-cut/p) is less than 2^-cut of the largest one; a vector without a larger one is skipped, and at
// large p nearly all are.  cut is so large that k dropped terms together stay below half the rounding of the sum.
template <class T>
struct LpGeneral {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, threshold, inverse, m;
    };
    static constexpr int inputs = 1, kRows = 2, kVectors = kWide ? 4 : 2;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;
    const T p, relative;  // relative = 2^(-cut/p)

    explicit LpGeneral(const Forward<T>& a) : a(a), p(T(a.p)), relative(T(::exp2(-cut<T>(a.shape.k) / a.p))) {}

    Total begin(int64_t row, int64_t col) const {
        const Vec<T> m = load_first(a.y + row * a.shape.ldy + col, a.shape.o - col);
        // Where m = 0 the threshold must not let zeros through to the logarithm.
        return {Vec<T>{}, maximum<T>(m * relative, broadcast(kTiny<T>)), T(1) / maximum<T>(m, broadcast(kTiny<T>)), m};
    }
    Part identity() const { return Vec<T>{}; }
    LINFENGINE_INLINE void step(Part& part, const Total& total, const T* x, Vec<T> w) const {
        const Vec<T> d = absolute<T>(x[0] - w);
        if (__builtin_expect(any_ge<T>(d, total.threshold), 0)) {
            const Vec<T> t = exp2_clamped(p * log2_positive(maximum<T>(d * total.inverse, broadcast(kTiny<T>))));
            part += (Vec<T>)(bits<T>(t) & (Int<T>)(d >= total.threshold));
        }
    }
    void merge(Total& total, const Part& part, int64_t) const { total.sum += part; }
    bool finish(const Total& total, int64_t row, int64_t col, int64_t count) const {
        const Vec<T> y = total.m * exp2_clamped(log2_positive(maximum<T>(total.sum, broadcast(T(1)))) / p);
        store_first(a.y + row * a.shape.ldy + col, y, count);
        return true;
    }
};

// What a backward needs of a finite p: from d = x - w, 1/y and g the two factors of t = g sign(d) (|d|/y)^(p-1).
template <class T, int P>
struct LpPowerSlope {
    using Scalar = T;
    explicit LpPowerSlope(const Backward<T>&) {}
    LINFENGINE_INLINE void add(Vec<T> d, T inverse, T g, Vec<T>& grad_x, Vec<T>& grad_w) const {
        Vec<T> r = d * inverse;
        if constexpr (P == 1) {  // sign(d), zero where d = 0
            const Int<T> sign = bits<T>(d) & ~Simd<T>::abs_mask;
            const Int<T> nonzero = d != Vec<T>{};
            r = (Vec<T>)((bits<T>(broadcast(T(1))) | sign) & nonzero);
        }
        const Vec<T> high = power<P == 1 ? 0 : P - 2, T>(r), low = r * g;
        grad_x += high * low;
        grad_w -= high * low;
    }
};

template <class T>
struct LpGeneralSlope {
    using Scalar = T;
    const T exponent, threshold;

    explicit LpGeneralSlope(const Backward<T>& a) : exponent(T(a.p - 1)), threshold(smallest(a)) {}

    static T smallest(const Backward<T>& a) {
        const int64_t terms = a.shape.n > a.shape.o ? a.shape.n : a.shape.o;
        return a.p > 1 ? T(::fmax(::exp2(-cut<T>(terms) / (a.p - 1)), kTiny<T>)) : kTiny<T>;
    }
    LINFENGINE_INLINE void add(Vec<T> d, T inverse, T g, Vec<T>& grad_x, Vec<T>& grad_w) const {
        const Vec<T> r = d * inverse, size = absolute<T>(r), limit = broadcast(threshold);
        if (__builtin_expect(any_ge<T>(size, limit), 0)) {
            Vec<T> t = exp2_clamped(exponent * log2_positive(maximum<T>(size, broadcast(kTiny<T>))));
            const Int<T> sign = bits<T>(r) & ~Simd<T>::abs_mask;
            t = (Vec<T>)((bits<T>(t) | sign) & (Int<T>)(size >= limit)) * g;
            grad_x += t;
            grad_w -= t;
        }
    }
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
