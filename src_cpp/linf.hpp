// The metrics of p = infinity.
#pragma once

#include "metric.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// y = max_k |x - w|
template <class T>
struct Linf : Metric {
    using Scalar = T;
    static constexpr bool kRefusesNonFinite = true;
    using Part = Vec<T>;
    using Total = Vec<T>;
    static constexpr int kCols = kColsOfTile<T>;
    const Forward<T>& a;

    explicit Linf(const Forward<T>& a) : a(a) {}

    Total begin(int64_t, int64_t) const { return Vec<T>{}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] = abs_max<T>(part[c], x[0] - w[0][c]);
    }
    LINFENGINE_INLINE void merge(Total& total, const Part& part, int64_t) const { total = maximum<T>(total, part); }
    template <int n>
    LINFENGINE_INLINE unsigned finish(const Total (&total)[n], int64_t row, int64_t col) const {
        store_first(a.y[0] + row * a.shape.ldy + col, reduce<Largest, T>(total), n);
        return kGood;
    }
};

// y = max_k |x - w|, and where it is attained. The inner loop is that of Linf; each lane remembers the first block
// that raised its maximum, and the first block of all is searched once at the end: it is short, to make that quick.
template <class T>
struct LinfArgmax : Metric {
    using Scalar = T;
    static constexpr bool kRefusesNonFinite = true;
    using Part = Vec<T>;
    struct Total {
        Vec<T> value, block;  // numbers that T holds exactly: see MOST_FEATURES in ops/linf_dist.py
    };
    static constexpr int kCols = kColsOfTile<T>;
    static constexpr int64_t kBlock = 8;
    const Forward<T>& a;

    explicit LinfArgmax(const Forward<T>& a) : a(a) {}

    Total begin(int64_t, int64_t) const { return {Vec<T>{}, Vec<T>{}}; }
    Part identity() const { return Vec<T>{}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        LINFENGINE_EACH(c, n) part[c] = abs_max<T>(part[c], x[0] - w[0][c]);
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
        store_first(a.y[0] + row * a.shape.ldy + col, y, n);
        for (int c = 0; c < n; ++c) blocks[c] = values[c] == broadcast(y[c]) ? -total[c].block : none;
        const Vec<T> block = reduce<Largest, T>(blocks);
        // A NaN among the inputs, which the verdict will tell of, may leave nothing found: stay within the row.
        const int64_t last = (a.shape.k - 1) / (kBlock * Simd<T>::lanes);
        for (int c = 0; c < n; ++c)
            a.winner[row * a.shape.ldy + col + c] = (int32_t)(-block[c] <= T(last) ? (int64_t)-block[c] : last);
        return kGood;
    }
    static constexpr bool kSettles = true;
    // Once a whole tile has its values and, in place of the winners, its blocks: the searches do not wait for another.
    template <int rows, int n>
    LINFENGINE_INLINE void settle(int64_t row, int64_t col) const {
        Vec<T> found[rows][n];
        for (int r = 0; r < rows; ++r)
            for (int c = 0; c < n; ++c) {
                const int64_t at = (row + r) * a.shape.ldy + col + c;
                found[r][c] = first_equal(row + r, col + c, a.winner[at], broadcast(a.y[0][at]), broadcast(T(-1e9)));
            }
        for (int r = 0; r < rows; ++r) {
            const Vec<T> position = reduce<Largest, T>(found[r]);
            for (int c = 0; c < n; ++c) {
                int32_t& winner = a.winner[(row + r) * a.shape.ldy + col + c];
                const int64_t in_block = -position[c] < T(kBlock * Simd<T>::lanes) ? (int64_t)-position[c] : 0;
                const int64_t first = int64_t{winner} * kBlock * Simd<T>::lanes + in_block;
                const int64_t k = first < a.shape.k ? first : a.shape.k - 1;
                const T d = a.x[0][(row + r) * a.shape.ldx + k] - a.w[0][(col + c) * a.shape.k + k];
                // Without a branch, which would be mispredicted every other time: ~k is k with all bits flipped.
                winner = d == 0 ? kNoWinner : (int32_t)k ^ -(int32_t)(d < 0);
            }
        }
    }
    // In each lane minus the first position within the block where |x - w| = value.
    LINFENGINE_INLINE Vec<T> first_equal(int64_t row, int64_t col, int64_t block, Vec<T> value, Vec<T> found) const {
        constexpr int64_t lanes = Simd<T>::lanes;
        const int64_t k = block * kBlock * lanes, count = a.shape.k - k;
        const T *x = a.x[0] + row * a.shape.ldx + k, *w = a.w[0] + col * a.shape.k + k;
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

// For lower <= x <= upper: the largest and the smallest value of max_k |x - w|.
template <class T>
struct LinfBounds : Metric {
    using Scalar = T;
    static constexpr bool kRefusesNonFinite = true;
    struct Part {
        Vec<T> lower, upper;
    };
    using Total = Part;
    static constexpr int inputs = 2, kRows = kWide ? 3 : 2, kCols = kColsOfTile<T>;
    const Forward<T>& a;

    explicit LinfBounds(const Forward<T>& a) : a(a) {}

    Total begin(int64_t, int64_t) const { return identity(); }
    Part identity() const { return {Vec<T>{}, Vec<T>{}}; }
    template <int n>
    LINFENGINE_INLINE void step(Part (&part)[n], const Total (&)[n], const Vec<T>* x, Vec<T> (*w)[n]) const {
        LINFENGINE_EACH(c, n) {
            const Vec<T> above = x[0] - w[0][c], below = w[0][c] - x[1];
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
        store_first(a.y[0] + row * a.shape.ldy + col, reduce<Largest, T>(lower) + T(0), n);  // never -0
        store_first(a.y[1] + row * a.shape.ldy + col, reduce<Largest, T>(upper), n);
        return kGood;
    }
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
