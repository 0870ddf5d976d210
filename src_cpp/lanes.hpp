// Reductions across the lanes of vectors.
#pragma once

#include "simd.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

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

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
