#define LINFENGINE_ISA avx512
#include "kernels.cpp"
