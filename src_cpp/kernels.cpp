// The kernels of one instruction set. kernels_portable.cpp, kernels_avx2.cpp and kernels_avx512.cpp name the namespace
// and include this file; setup.py gives each its flags.
#include "kernels.h"

#if defined(__FAST_MATH__) || __FINITE_MATH_ONLY__
#error "the kernels need IEEE arithmetic: compile them with -fno-fast-math"
#endif

#include "backward.hpp"
#include "bytes.hpp"
#include "dot.hpp"
#include "forward.hpp"
#include "linf.hpp"
#include "lp.hpp"
#include "steps.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

// In double precision, which is for checking gradients, one kernel serves all orders with a chain from 4 on.
template <class T, int P>
constexpr int kChain = sizeof(T) == 4 || P < 4 ? P : kAnyChain;

// Null for the orders whose unscaled sums would leave the range of float32 too often to try.
template <template <class, int> class M, class T, int P>
constexpr ForwardItem<T> forward_of_order() {
    if constexpr (P > M<T, P>::largest) {
        return nullptr;
    } else {
        return forward<M<T, kChain<T, P>>>;
    }
}

template <class T, int... I>
constexpr Kernels<T> kernels(Indices<I...>) {
    Kernels<T> all{};
    all.lanes = Simd<T>::lanes;
    all.backward_rows = kBackwardRows;
#define FORWARD(name, metric, signature) all.name = forward<metric<T>>;
#define METRIC(name, metric) all.name = forward<metric<T>>;
#define METRICS(name, metric) ((all.name[I] = forward_of_order<metric, T, kPowers[I]>()), ...);
#define CPU_METRICS METRICS
#define SLOPE(name, slope) all.name = lp_backward<slope<T>>;
#define SLOPES(name, slope) ((all.name[I] = lp_backward<slope<T, kChain<T, kPowers[I]>>>), ...);
#define CPU_ITEM(name) all.name = name<T>;
#define CPU_SUMS(name) all.name = name<T>;
#define STEP(name, kernel, signature) all.name = kernel<T>;
#include "list.h"
    return all;
}

#define LINFENGINE_TEXT(name) LINFENGINE_TEXT_(name)
#define LINFENGINE_TEXT_(name) #name

// Indices lists the positions in kPowers. (std::index_sequence, without the standard library.)
extern const InstructionSet instruction_set = {
    LINFENGINE_TEXT(LINFENGINE_ISA),
    kernels<float>(CountTo<kPowerCount>::type{}),
    kernels<double>(CountTo<kPowerCount>::type{}),
#define BYTES(name, metric, signature) forward<metric<uint8_t>>,
#include "list.h"
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
