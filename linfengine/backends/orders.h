// Constants of finite p, for C++, CUDA and Python (backends/orders.py), which reads the lines that begin with #define.
#pragma once

// The orders with a fast power: a short chain of multiplications.
#define CPU_POWERS 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384
#define GPU_POWERS 1, 2, 4, 8, 12, 16, 24, 32, 48, 64

// From this p on most terms are negligible, and it pays to look for those that are not.
#define CPU_SPARSE 48
#define GPU_SPARSE 96

// Up to this p the sum of powers is not scaled by the largest term. The sum is trusted from k SMALLEST_SUM to
// LARGEST_SUM.
#define LARGEST_UNSCALED 16
#define SMALLEST_SUM 0x1p-100
#define LARGEST_SUM 0x1p+120

// Distances are accurate, and leave room for their reciprocals, from 2^SMALLEST_EXPONENT to 2^LARGEST_EXPONENT.
#define SMALLEST_EXPONENT -60
#define LARGEST_EXPONENT 100

// The smallest number whose reciprocal is finite.
#define TINY_FLOAT 0x1p-125
#define TINY_DOUBLE 0x1p-1021

// Terms are negligible where all of them together are below 2^-bits of a sum.
#define NEGLIGIBLE_BITS_FLOAT 25
#define NEGLIGIBLE_BITS_DOUBLE 54

// A larger p is taken for this one: the p-norm of float64 numbers is their maximum long before.
#define LARGEST_ORDER 1e30
