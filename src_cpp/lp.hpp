// The metrics and slopes of finite p.
#pragma once

#include "metric.hpp"
#include "power.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// y = (sum_k |x - w|^P)^(1/P) for an even P or 1, powers by multiplication. The sum is not scaled; where it comes out
// so large or so small that terms may have left the range of T, the verdict says so and LpScaledPower is used.
template <class T, int P>
struct LpPower : Metric {
    using Scalar = T;
    static constexpr int largest = LARGEST_UNSCALED;  // of the orders
    static constexpr Mode mode = Mode::kFlush;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int kRows = P == kAnyChain ? 2 : kRowsOfTile, kCols = kColsOfTile<T>;
    const Forward<T>& a;
    const int order;

    explicit LpPower(const Forward<T>& a) : a(a), order(P == kAnyChain ? int(a.p) : P) {}

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        Vec<T> d[n];
        LINFENGINE_EACH(c, n) d[c] = x[0] - w[0][c];
        add_power<P, T>(part, d, order);
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        const Vec<T> sum = reduce<Sum, T>(total);
        store_first(a.y[0] + row * a.shape.ldy + col, root<T>(sum, order), n);
        const T smallest = T(a.shape.k) * T(SMALLEST_SUM), largest = T(LARGEST_SUM);
        bool trusted = true;  // a NaN or an infinity in x or w makes the sum one, and this false
        for (int c = 0; c < n; ++c) trusted &= sum[c] >= smallest && sum[c] <= largest;
        return trusted ? kGood : kOutOfRange;
    }
};

// How they end: y = m times the root of the sum. Rounding may put sum and root a hair below 1, and m = 0 leaves the
// sum 0; the exact y is never below m.
template <class T, class Total, int n>
LINFENGINE_INLINE Vec<T> scaled_sum(const Total (&total)[n]) {
    Vec<T> sums[n];
    for (int c = 0; c < n; ++c) sums[c] = total[c].sum;
    return maximum<T>(reduce<Sum, T>(sums), broadcast(T(1)));
}
template <class T, int n>
LINFENGINE_INLINE unsigned finish_scaled(T* y, Vec<T> root_of_sum) {
    const Vec<T> m = load_first(y, n);
    store_first(y, m * maximum<T>(root_of_sum, broadcast(T(1))), n);
    bool trusted = true;
    for (int c = 0; c < n; ++c) trusted &= in_range<T>(m[c]);
    return trusted ? kGood : kOutOfRange;
}

// y = m (sum_k (|x - w| / m)^P)^(1/P): one more multiplication, and no range to leave.
template <class T, int P>
struct LpScaledPower : Metric {
    using Scalar = T;
    static constexpr int largest = INT32_MAX;
    static constexpr Mode mode = Mode::kFlush;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, inverse;
    };
    static constexpr int kRows = kWide && P != kAnyChain ? 4 : 2, kCols = kColsOfTile<T>;
    const Forward<T>& a;
    const int order;

    explicit LpScaledPower(const Forward<T>& a) : a(a), order(P == kAnyChain ? int(a.p) : P) {}

    Total begin(int64_t row, int64_t col) const {
        return {Vec<T>{}, broadcast(reciprocal<T>(a.y[0][row * a.shape.ldy + col]))};
    }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&total)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        Vec<T> r[n];
        LINFENGINE_EACH(c, n) r[c] = (x[0] - w[0][c]) * total[c].inverse;
        add_power<P, T>(part, r, order);
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total.sum += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        return finish_scaled<T, n>(a.y[0] + row * a.shape.ldy + col, root<T>(scaled_sum<T>(total), order));
    }
};

// The same for any real p >= 1, through logarithm and exponential.
// With `skip`, a vector of nothing but negligible terms is passed over, and at large p nearly all are.
template <class T, bool skip>
struct LpOfAnyOrder : Metric {
    using Scalar = T;
    static constexpr Mode mode = Mode::kFlush;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, threshold, inverse;
    };
    static constexpr int kRows = 2, kCols = kColsOfTile<T>;
    const Forward<T>& a;
    const T p, relative;

    explicit LpOfAnyOrder(const Forward<T>& a)
        : a(a), p(T(::fmin(a.p, LARGEST_ORDER))), relative(negligible<T>(a.shape.k, a.p)) {}

    Total begin(int64_t row, int64_t col) const {
        const T m = a.y[0][row * a.shape.ldy + col], threshold = m * relative;
        // Where m = 0 the threshold must not let zeros through.
        return {Vec<T>{}, broadcast(threshold > kTiny<T> ? threshold : kTiny<T>), broadcast(reciprocal<T>(m))};
    }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&total)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        Vec<T> d[n];
        LINFENGINE_EACH(c, n) d[c] = absolute<T>(x[0] - w[0][c]);
        if constexpr (skip) {
            LINFENGINE_EACH(c, n)
            if (__builtin_expect(any_ge<T>(d[c], total[c].threshold), 0)) {
                const Vec<T> t = real_power<T>(d[c] * total[c].inverse, p);
                part[c] += (Vec<T>)(bits<T>(t) & (Int<T>)(d[c] >= total[c].threshold));
            }
        } else {
            LINFENGINE_EACH(c, n) d[c] *= total[c].inverse;
            raise<T>(d, p);
            LINFENGINE_EACH(c, n) part[c] += d[c];
        }
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total.sum += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        return finish_scaled<T, n>(a.y[0] + row * a.shape.ldy + col, real_power<T>(scaled_sum<T>(total), 1 / p));
    }
};

template <class T>
using LpGeneral = LpOfAnyOrder<T, false>;
template <class T>
using LpSparse = LpOfAnyOrder<T, true>;

// What a backward needs of a finite p: from d = x - w, 1/y and g of n samples the terms t = g sign(d) (|d|/y)^(p-1),
// added to the gradients of x and subtracted from that of w.
template <class T, int P>
struct LpPowerSlope {
    using Scalar = T;
    static constexpr Mode mode = P == 1 ? Mode::kExact : Mode::kFlush;  // a denormal difference still has a sign
    const int order;

    explicit LpPowerSlope(const Backward<T>& a) : order(P == kAnyChain ? int(a.p) : P) {}
    template <int n>
    LINFENGINE_INLINE void add(Vec<T> (&d)[n], const T* inverse, const T* g, Vec<T>* grad_x, Vec<T>& grad_w) const {
        Vec<T> low[n];
        if constexpr (P == 1) {
            LINFENGINE_EACH(r, n) {  // sign(d), zero where d = 0
                const Int<T> sign = bits<T>(d[r]) & ~Simd<T>::abs_mask;
                d[r] = (Vec<T>)((bits<T>(broadcast(T(1))) | sign) & (Int<T>)(d[r] != Vec<T>{}));
                low[r] = d[r] * g[r];
                d[r] = broadcast(T(1));
            }
        } else {
            LINFENGINE_EACH(r, n) {
                d[r] *= inverse[r];
                low[r] = d[r] * g[r];
            }
            if constexpr (P == kAnyChain) {
                raise_by_chain<T>(d, order - 2);
            } else {
                raise<P - 2, T>(d);
            }
        }
        LINFENGINE_EACH(r, n) {
            grad_x[r] += d[r] * low[r];
            grad_w -= d[r] * low[r];
        }
    }
};

// The same for any real p >= 1. With `skip`, a vector of nothing but negligible terms is passed over.
template <class T, bool skip>
struct SlopeOfAnyOrder {
    using Scalar = T;
    static constexpr Mode mode = Mode::kFlush;
    const T exponent, threshold;

    explicit SlopeOfAnyOrder(const Backward<T>& a)
        : exponent(T(::fmin(a.p - 1, LARGEST_ORDER))), threshold(skip ? smallest(a) : kTiny<T>) {}

    // The largest entry may be as small as g / k, where all terms are equal.
    static T smallest(const Backward<T>& a) {
        return negligible<T>((a.shape.n > a.shape.o ? a.shape.n : a.shape.o) * a.shape.k, a.p - 1);
    }

    template <int n>
    LINFENGINE_INLINE void add(Vec<T> (&d)[n], const T* inverse, const T* g, Vec<T>* grad_x, Vec<T>& grad_w) const {
        if constexpr (skip && n > 1) {
            LINFENGINE_EACH(r, n) {
                Vec<T> one[1] = {d[r]};
                add(one, inverse + r, g + r, grad_x + r, grad_w);
            }
        } else {
            const Vec<T> limit = broadcast(threshold);
            Vec<T> t[n];
            LINFENGINE_EACH(r, n) {
                d[r] *= inverse[r];
                t[r] = absolute<T>(d[r]);
            }
            if (skip && __builtin_expect(!any_ge<T>(t[0], limit), 1)) return;
            Int<T> keep[n];
            LINFENGINE_EACH(r, n) keep[r] = t[r] >= limit;
            raise<T>(t, exponent);
            LINFENGINE_EACH(r, n) {
                const Int<T> sign = bits<T>(d[r]) & ~Simd<T>::abs_mask;
                t[r] = (Vec<T>)((bits<T>(t[r]) | sign) & keep[r]) * g[r];
                grad_x[r] += t[r];
                grad_w -= t[r];
            }
        }
    }
};

template <class T>
using LpGeneralSlope = SlopeOfAnyOrder<T, false>;
template <class T>
using LpSparseSlope = SlopeOfAnyOrder<T, true>;

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
