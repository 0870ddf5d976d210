// The kernels as Cython sees them: whole operations, on the chosen instruction set and number of threads.
// Shapes and types are checked in Python; memory that runs out arrives there as MemoryError.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace linfengine {

std::vector<std::string> instruction_sets();  // those this processor can run, widest last
void use_instruction_set(const std::string& name);
std::string instruction_set();

// Runs the step of a metric ("linf", "linf_bounds", "dead_zone", "lp_power_8") on registers alone, on all threads;
// returns the number of terms.
int64_t registers_only(const std::string& metric, int64_t rounds);

// Formulas and the meaning of each array: kernels.h.  winner, grad_x and grad_w may be null.  Where a Verdict comes
// back: after kNotFinite and kNoInput the outputs mean nothing, after kOutOfRange they may be inaccurate.
template <class T>
unsigned linf_forward(Shape shape, const T* x, const T* w, T* y, int32_t* winner);
template <class T>
unsigned linf_bounds(Shape shape, const T* lower, const T* upper, const T* w, T* y_lower, T* y_upper);
template <class T>
unsigned linf_backward(Shape shape, const T* g, const int32_t* winner, T* grad_x, T* grad_w);
void dead_zone(Shape shape, const uint8_t* x, const uint8_t* above, const uint8_t* below, uint8_t* y);
template <class T>
void dot(Shape shape, const T* x, const T* w, T* y);
template <class T>
unsigned lp_forward(Shape shape, const T* x, const T* w, double p, T* y);
template <class T>
unsigned lp_backward(Shape shape, const T* g, const T* x, const T* w, const T* y, double p, T* grad_x, T* grad_w);
template <class T>
bool all_finite(const T* a, int64_t count);
template <class T>
void channel_sums(const T* x, int64_t n, int64_t channels, int64_t m, double* sums);
template <class T>
void adam(T* param, const T* grad, T* m, T* v, int64_t count, double lr, double beta1, double beta2, double eps,
          int64_t step);
template <class T>
void lp_decay(T* w, int64_t rows, int64_t k, double p, double amount);

}  // namespace linfengine
