// A metric is what happens to one term |x - w| and how terms combine.  The loop nest in tile.hpp does the rest.
//
//   Part                          what a lane accumulates over one block of k, kept in registers
//   Total                         what an output needs besides: the sum of parts, thresholds, ...
//   begin(row, col) -> Total      before the first k
//   identity() -> Part            the neutral element
//   step(parts, totals, x, w...)  take in one vector of k: of x[0] (and x[1] for an interval) and of n outputs' w (and
//                                 below). Past the last k all read as 0, so a term of zeros must change nothing.
//   merge(total, part, block)     at the end of a block of kBlock vectors
//   finish(totals, row, col)      join the lanes and write the outputs col, col + 1, ...; returns a Verdict
//   settle(row, col)              where kSettles: once all rows of a tile are finished
//
// kRows x kCols is the register tile; inputs is 2 for metrics that read an interval.
#pragma once

#include "kernels.h"
#include "simd.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr bool kWide = kRegisters == 32;
constexpr int kRowsOfTile = kWide ? 6 : 4;
template <class T>
constexpr int kColsOfTile = kWide && Simd<T>::lanes >= 4 ? 4 : 2;
constexpr int64_t kLongBlock = 128;  // merging costs little, and sums of 128 terms a lane lose little

// y = max_k |x - w|
template <class T>
struct Linf {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = kRowsOfTile, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] = abs_max<T>(part[c], x[0] - w[c]);
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total = maximum<T>(total, part); }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y + row * a.shape.ldy + col, reduce<Largest, T>(total), n);
        return kGood;
    }
};

// y = max_k max(x - above, below - x, 0), of bytes: |x - w| with a dead zone from below to above, which is no less
template <class T>
struct DeadZone {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = 3, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&above)[n],
                                const Vec<T> (&below)[n]) const {
        // One of the two is 0, and an `or` finds more of the processor free than a maximum would.
        LINFENGINE_EACH(c, n)
        part[c] = maximum<T>(part[c], subtract_to_zero(x[0], above[c]) | subtract_to_zero(below[c], x[0]));
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total = maximum<T>(total, part); }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y + row * a.shape.ldy + col, reduce<Largest, T>(total), n);
        return kGood;
    }
};

// y = max_k |x - w|, and where it is attained.  The inner loop is that of Linf; each lane remembers the first block
// that raised its maximum, and the first block of all is searched once at the end: it is short, to make that quick.
template <class T>
struct LinfArgmax {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> value, block;  // numbers that T holds exactly: see MOST_FEATURES in ops/linf_dist.py
    };
    static constexpr int inputs = 1, kRows = kRowsOfTile, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = 8;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return {Vec<T>{}, Vec<T>{}}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] = abs_max<T>(part[c], x[0] - w[c]);
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t block) const {
        total.block = part > total.value ? broadcast((T)block) : total.block;
        total.value = maximum<T>(total.value, part);
    }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        const Vec<T> none = broadcast(T(-1e9));
        Vec<T> values[n], blocks[n];  // blocks and positions are negated: the largest is the first
        for (int c = 0; c < n; ++c) values[c] = total[c].value;
        const Vec<T> y = reduce<Largest, T>(values);
        store_first(a.y + row * a.shape.ldy + col, y, n);
        for (int c = 0; c < n; ++c) blocks[c] = values[c] == broadcast(y[c]) ? -total[c].block : none;
        const Vec<T> block = reduce<Largest, T>(blocks);
        // A NaN among the inputs, which the verdict will tell of, may leave nothing found: stay within the row.
        const int64_t last = (a.shape.k - 1) / (kBlock * Simd<T>::lanes);
        for (int c = 0; c < n; ++c)
            a.winner[row * a.shape.ldy + col + c] = (int32_t)(-block[c] <= T(last) ? (int64_t)-block[c] : last);
        return kGood;
    }
    // Once a whole tile has its values and, in place of the winners, its blocks: the searches do not wait for another.
    template <int rows, int n>
    LINFENGINE_INLINE void settle(int64_t row, int64_t col) const {
        Vec<T> found[rows][n];
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < n; ++c) {
                const int64_t at = (row + r) * a.shape.ldy + col + c;
                found[r][c] = first_equal(row + r, col + c, a.winner[at], broadcast(a.y[at]), broadcast(T(-1e9)));
            }
        for (int r = 0; r < rows; ++r) {
            const Vec<T> position = reduce<Largest, T>(found[r]);
            for (int c = 0; c < n; ++c) {
                int32_t& winner = a.winner[(row + r) * a.shape.ldy + col + c];
                const int64_t in_block = -position[c] < T(kBlock * Simd<T>::lanes) ? (int64_t)-position[c] : 0;
                const int64_t first = int64_t{winner} * kBlock * Simd<T>::lanes + in_block;
                const int64_t k = first < a.shape.k ? first : a.shape.k - 1;
                const T d = a.x[(row + r) * a.shape.ldx + k] - a.w[(col + c) * a.shape.k + k];
                // Without a branch, which would be mispredicted every other time: ~k is k with all bits flipped.
                winner = d == 0 ? kNoWinner : (int32_t)k ^ -(int32_t)(d < 0);
            }
        }
    }
    // In each lane minus the first position within the block where |x - w| = value.
    LINFENGINE_INLINE Vec<T> first_equal(int64_t row, int64_t col, int64_t block, Vec<T> value, Vec<T> found) const {
        constexpr int64_t lanes = Simd<T>::lanes;
        const int64_t k = block * kBlock * lanes, count = a.shape.k - k;
        const T *x = a.x + row * a.shape.ldx + k, *w = a.w + col * a.shape.k + k;
        const auto look = [&](int64_t v, Vec<T> xs, Vec<T> ws) LINFENGINE_ALWAYS_INLINE {
            found = absolute<T>(xs - ws) == value ? negated_lanes<T>(AllLanes<T>{}) - T(v * lanes) : found;
        };
        if (count >= kBlock * lanes) {
#pragma GCC unroll 8
            for (int64_t v = kBlock - 1; v >= 0; --v) look(v, load(x + v * lanes), load(w + v * lanes));
        } else {
            for (int64_t v = (count - 1) / lanes; v >= 0; --v)
                look(v, load_first(x + v * lanes, count - v * lanes), load_first(w + v * lanes, count - v * lanes));
        }
        return found;
    }
};

template <class M>
constexpr int kWeights = 1;  // arrays of weights: a.w, and a.below
template <class T>
constexpr int kWeights<DeadZone<T>> = 2;

template <class M, int n, class T = typename M::Scalar>
LINFENGINE_INLINE void step_of(const M& metric, typename M::Part (&part)[n], const typename M::Total (&total)[n],
                               const Vec<T>* x, const Vec<T> (&w)[kWeights<M>][n]) {
    if constexpr (kWeights<M> == 2) {
        metric.step(part, total, x, w[0], w[1]);
    } else {
        metric.step(part, total, x, w[0]);
    }
}

template <class M>
constexpr bool kSettles = false;
template <class T>
constexpr bool kSettles<LinfArgmax<T>> = true;

// For lower <= x <= upper: the largest and the smallest value of max_k |x - w|.
template <class T>
struct LinfBounds {
    using Scalar = T;
    struct Part {
        Vec<T> lower, upper;
    };
    using Total = Part;
    static constexpr int inputs = 2, kRows = kWide ? 3 : 2, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return identity(); }
    Part identity() const { return {Vec<T>{}, Vec<T>{}}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        LINFENGINE_EACH(c, n) {
            const Vec<T> above = x[0] - w[c], below = w[c] - x[1];
            part[c].upper = abs_max<T>(abs_max<T>(part[c].upper, above), below);
            part[c].lower = maximum<T>(maximum<T>(part[c].lower, above), below);
        }
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const {
        total.lower = maximum<T>(total.lower, part.lower);
        total.upper = maximum<T>(total.upper, part.upper);
    }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        Vec<T> lower[n], upper[n];
        for (int c = 0; c < n; ++c) lower[c] = total[c].lower, upper[c] = total[c].upper;
        store_first(a.y + row * a.shape.ldy + col, reduce<Largest, T>(lower) + T(0), n);  // never -0
        store_first(a.y_upper + row * a.shape.ldy + col, reduce<Largest, T>(upper), n);
        return kGood;
    }
};

// y = sum_k x w: the matrix product of the linear layers, in an order of summation that the shapes alone fix.
template <class T>
struct Dot {
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = kRowsOfTile, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] += x[0] * w[c];
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y + row * a.shape.ldy + col, reduce<Sum, T>(total), n);
        return kGood;
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
        return real_power<T>(s, T(1.0 / P));
    }
}

// y = (sum_k |x - w|^P)^(1/P) for an even P or 1, powers by multiplication.  The sum is not scaled; where it comes out
// so large or so small that terms may have left the range of T, the verdict says so and LpScaledPower is used.
template <class T, int P>
struct LpPower {
    static_assert(P == 1 || P % 2 == 0, "an odd power needs |d|");
    using Scalar = T;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int inputs = 1, kRows = kRowsOfTile, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        Vec<T> d[n];
        LINFENGINE_EACH(c, n) d[c] = P == 1 ? absolute<T>(x[0] - w[c]) : x[0] - w[c];
        raise<P, T>(d);
        LINFENGINE_EACH(c, n) part[c] += d[c];
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        const Vec<T> sum = reduce<Sum, T>(total);
        store_first(a.y + row * a.shape.ldy + col, root<P, T>(sum), n);
        const T smallest = T(a.shape.k) * T(0x1p-100), largest = T(0x1p+120);
        bool trusted = true;  // a NaN or an infinity in x or w makes the sum one, and this false
        for (int c = 0; c < n; ++c) trusted &= sum[c] >= smallest && sum[c] <= largest;
        return trusted ? kGood : kOutOfRange;
    }
};

template <class T>
constexpr T kTiny = sizeof(T) == 4 ? T(0x1p-125) : T(0x1p-1021);  // its reciprocal is still finite

// Ratios below this add nothing worth having to a sum of `terms` of their powers: all of them together stay below
// 2^-25 (2^-54) times the exponent, which is as much as rounding the ratios does.  Never 0, of which there is no
// logarithm.
template <class T>
T negligible(int64_t terms, double exponent) {
    const double cut = (sizeof(T) == 4 ? 25 : 54) + ::log2(double(terms) / ::fmax(exponent, 1));
    return exponent > 0 ? T(::fmax(::exp2(-cut / exponent), kTiny<T>)) : kTiny<T>;
}

constexpr double kLargestExponent = 1e30;  // far beyond where the p-norm of float64 numbers is their maximum

// Distances between 2^-60 and 2^100, or 0, leave room for reciprocals, and for terms far smaller before they are
// flushed.
template <class T>
bool in_range(T m) {
    return m == 0 || (m >= T(0x1p-60) && m <= T(0x1p+100));
}

// What the scaled metrics know of an output before they start: y holds m = max_k |x - w|.
template <class T>
T reciprocal(T m) {
    return T(1) / (m > kTiny<T> ? m : kTiny<T>);
}

// How they end: y = m times the root of the sum.  Rounding may put sum and root a hair below 1, and m = 0 leaves the
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
struct LpScaledPower {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, inverse;
    };
    static constexpr int inputs = 1, kRows = kWide ? 4 : 2, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;

    Total begin(int64_t row, int64_t col) const {
        return {Vec<T>{}, broadcast(reciprocal<T>(a.y[row * a.shape.ldy + col]))};
    }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&total)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        Vec<T> r[n];
        LINFENGINE_EACH(c, n) r[c] = (x[0] - w[c]) * total[c].inverse;
        if constexpr (P == 1) LINFENGINE_EACH(c, n) r[c] = absolute<T>(r[c]);
        raise<P, T>(r);
        LINFENGINE_EACH(c, n) part[c] += r[c];
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total.sum += part; }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        return finish_scaled<T, n>(a.y + row * a.shape.ldy + col, root<P, T>(scaled_sum<T>(total)));
    }
};

// The same for any real p >= 1, through logarithm and exponential.
// With `skip`, a vector of nothing but negligible terms is passed over, and at large p nearly all are.
template <class T, bool skip>
struct LpGeneral {
    using Scalar = T;
    using Part = Vec<T>;
    struct Total {
        Vec<T> sum, threshold, inverse;
    };
    static constexpr int inputs = 1, kRows = 2, kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = kLongBlock;
    const Forward<T>& a;
    const T p, relative;

    explicit LpGeneral(const Forward<T>& a)
        : a(a), p(T(::fmin(a.p, kLargestExponent))), relative(negligible<T>(a.shape.k, a.p)) {}

    Total begin(int64_t row, int64_t col) const {
        const T m = a.y[row * a.shape.ldy + col], threshold = m * relative;
        // Where m = 0 the threshold must not let zeros through.
        return {Vec<T>{}, broadcast(threshold > kTiny<T> ? threshold : kTiny<T>), broadcast(reciprocal<T>(m))};
    }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&total)[n], const Vec<T>* x, const Vec<T> (&w)[n]) const {
        Vec<T> d[n];
        LINFENGINE_EACH(c, n) d[c] = absolute<T>(x[0] - w[c]);
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
        return finish_scaled<T, n>(a.y + row * a.shape.ldy + col, real_power<T>(scaled_sum<T>(total), 1 / p));
    }
};

// What a backward needs of a finite p: from d = x - w, 1/y and g of n samples the terms t = g sign(d) (|d|/y)^(p-1),
// added to the gradients of x and subtracted from that of w.
template <class T, int P>
struct LpPowerSlope {
    using Scalar = T;
    static constexpr Mode mode = P == 1 ? Mode::kExact : Mode::kFlush;  // a denormal difference still has a sign
    explicit LpPowerSlope(const Backward<T>&) {}
    template <int n>
    LINFENGINE_INLINE void add(Vec<T> (&d)[n], const T* inverse, const T* g, Vec<T>* grad_x, Vec<T>& grad_w) const {
        Vec<T> low[n];
        LINFENGINE_EACH(r, n) {
            if constexpr (P > 1) d[r] *= inverse[r];
            if constexpr (P == 1) {  // sign(d), zero where d = 0
                const Int<T> sign = bits<T>(d[r]) & ~Simd<T>::abs_mask;
                d[r] = (Vec<T>)((bits<T>(broadcast(T(1))) | sign) & (Int<T>)(d[r] != Vec<T>{}));
            }
            low[r] = d[r] * g[r];
        }
        if constexpr (P == 1) {
            LINFENGINE_EACH(r, n) d[r] = broadcast(T(1));
        } else {
            raise<P - 2, T>(d);
        }
        LINFENGINE_EACH(r, n) {
            grad_x[r] += d[r] * low[r];
            grad_w -= d[r] * low[r];
        }
    }
};

template <class T, bool skip>
struct LpGeneralSlope {
    using Scalar = T;
    static constexpr Mode mode = Mode::kFlush;
    const T exponent, threshold;

    explicit LpGeneralSlope(const Backward<T>& a)
        : exponent(T(::fmin(a.p - 1, kLargestExponent))), threshold(skip ? smallest(a) : kTiny<T>) {}

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

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
