// A metric is what happens to one term |x - w| and how terms combine. The loop nest in forward.cu does the rest.
//
//   State              what an output accumulates, in registers
//   step(states, x, w) take in one coordinate: of x[0] (and x[1] for an interval) against the outputs' w
//                      Past the last k all read as 0, so a term of zeros must change nothing.
//   close(state, b, k) at the end of stage b, before coordinate k, where kCloses
//   finish(a, state, at, group, depth)   write output `at`, after stages of `depth` coordinates
//   inputs             2 for a metric that reads an interval
//   kUnroll            coordinates of a stage that are written out one after the other
#pragma once

#include "kernels.cuh"
#include "power.cuh"

template <class T>
constexpr int kAll = sizeof(T) == 4 ? 64 : 4;

// A sum of parts of about kPart terms, and what was lost when they were added: terms too small to be seen beside the
// largest add up to something all the same, and gradients multiply the error of a distance by p - 1.
template <class T>
struct SumOfParts {
    T part, total, lost;
    __device__ T sum() const { return total + (lost + part); }
};
constexpr int kPart = 64;
template <class T>
__device__ __forceinline__ void close_part(SumOfParts<T>& s, int next) {
    if (next % kPart != 0) return;
    const T sum = s.total + s.part, added = sum - s.total;
    s.lost += (s.total - (sum - added)) + (s.part - added);
    s.total = sum;
    s.part = T(0);
}
