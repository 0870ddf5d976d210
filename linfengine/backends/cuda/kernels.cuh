// What the GPU backend asks of its kernels: one structure of arguments each, with the equations.
//
//   x (n, groups k) row-major, w (groups o, k) row-major, y (n, groups o) row-major; here n, o and k are those of one
//   group: output j of group q sees the columns q k .. (q + 1) k - 1 of x.
//
//   forward    Linf         y[i,j] = max_k |x[i,k] - w[j,k]|
//              LinfArgmax   the same, and winner[i,j] = the lowest k that attains it: k where x > w, ~k where x < w,
//                           and kNoWinner where y = 0
//              LinfBounds   for x <= (any point) <= x_upper:  y_upper = max_k max(|x - w|, |x_upper - w|),
//                           y = max_k max(x - w, w - x_upper, 0)
//              Dot          y[i,j] = sum_k x[i,k] w[j,k]
//              LpPower<P>, LpGeneral, LpSparse     y[i,j] = (sum_k |x[i,k] - w[j,k]|^p)^(1/p)
//   backward   lp           grad_x[i,k] = sum_j t,  grad_w[j,k] = -sum_i t,  t = g[i,j] sign(d) (|d| / y[i,j])^(p-1)
//              linf         g[i,j] and its negative go to where the winner says
//   steps      survey, scale, adam, lp_decay
//
// No two blocks write the same number, but for maxima of integers, and every sum has an order that the shapes fix, so
// equal calls give equal bits.
// The p = infinity forward rounds once, as on every other backend, and gives the same bits as they do.
//
// The sources are plain CUDA C++ with no library, no warp-level function and no inline assembly: the tests compile them
// for the CPU as they are.
#pragma once

constexpr int kNoWinner = -2147483647 - 1;

template <class T>
struct Forward {
    const T* x;        // the input, or the lower end of its interval
    const T* x_upper;  // LinfBounds only
    const T* w;
    T* y;  // the output, or its lower end
    T* y_upper;
    int* winner;
    int n, o, k, groups;
    T p;         // LpGeneral and LpSparse only
    T relative;  // LpSparse only: a term below this fraction of the largest adds nothing worth having
};

template <class T>
struct Backward {
    const T* x;
    const T* w;
    const T* y;
    const T* m;  // max_k |x - w| for each y; LpGeneralSlope only
    const T* g;
    T* grad_x;  // (splits, n, groups k): the part of grad_x from each split of the outputs; null where not wanted
    T* grad_w;  // (shares, groups o, k): the part of grad_w from each share of the samples; null where not wanted
    int n, o, k, groups;
    int splits, chunks;  // a group's outputs in `splits` of `chunks` chunks each
    int shares, rows;    // the samples in `shares` of `rows` each, whole runs
    T exponent;          // p - 1; general orders only
    T relative;          // as above, for |d| / y
};

// out[i] = the sum of parts[s, i] over s
template <class T>
struct AddParts {
    const T* parts;
    T* out;
    long long count;
    int splits;
};

// out[s, r, :] = sign times the sum of g over the entries of row r whose winner is that column. A row has `count` of
// them, the first at r step, `stride` apart; share s takes `share` of them.
template <class T>
struct Scatter {
    const T* g;
    const int* winner;
    T* out;
    long long step, stride;
    int count, rows, share, k;
    T sign;
};

// exponents[0] = the largest, exponents[1] = minus the smallest biased exponent of a number that is not 0, over all of
// the array; both start at -4096. That of NaN and infinity is all ones.
template <class T>
struct Survey {
    const T* a;
    long long count;
    int* exponents;
};

// out[i] = a[i] 2^shift; denormals are kept, which CuPy's ldexp flushes
template <class T>
struct Scale {
    const T* a;
    T* out;
    long long count;
    int shift;
};

template <class T>
struct Adam {
    T* param;
    const T* grad;
    T* m;
    T* v;
    long long count;
    T rate, beta1, beta2, root_correction, eps;  // rate = lr/(1 - beta1^t), root_correction = 1/sqrt(1 - beta2^t)
};

// w[j,k] -= amount |w[j]|_p (|w[j,k]| / |w[j]|_p)^(p-1) sign(w[j,k]), a block a row of k numbers
template <class T>
struct LpDecay {
    T* w;
    int k;
    T p, amount;
    T relative;  // below this fraction of the largest a weight does not decay
};

// `length` numbers that lie together, so that they move by one instruction
template <class T, int length>
struct alignas(sizeof(T) * length) Pack {
    T v[length];
};
template <class T>
constexpr int kPack = 16 / int(sizeof(T));  // numbers in the widest load there is
