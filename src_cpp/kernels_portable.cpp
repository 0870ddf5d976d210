#define LINFENGINE_ISA portable
#include "kernels.cpp"
