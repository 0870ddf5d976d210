#define LINFENGINE_ISA avx2
#include "kernels.cpp"
