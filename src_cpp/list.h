// The list of kernels, with a macro for each kind of line: define those of the lines that are wanted, and include this.
// Other lines vanish, and afterwards none of the macros is defined.
#ifndef FORWARD
#define FORWARD(name, metric, signature)
#endif
#ifndef BYTES
#define BYTES(name, metric, signature)
#endif
#ifndef STEP
#define STEP(name, kernel, signature)
#endif
#ifndef OPERATION
#define OPERATION(name, signature)
#endif
#ifndef METRIC
#define METRIC(name, metric)
#endif
#ifndef METRICS
#define METRICS(name, metric)
#endif
#ifndef CPU_METRICS
#define CPU_METRICS(name, metric)
#endif
#ifndef SLOPE
#define SLOPE(name, slope)
#endif
#ifndef SLOPES
#define SLOPES(name, slope)
#endif
#ifndef CPU_ITEM
#define CPU_ITEM(name)
#endif
#ifndef CPU_SUMS
#define CPU_SUMS(name)
#endif
#define GPU_ITEM(name, structure, file)

#include "../linfengine/backends/kernels.def"

#undef FORWARD
#undef BYTES
#undef STEP
#undef OPERATION
#undef METRIC
#undef METRICS
#undef CPU_METRICS
#undef SLOPE
#undef SLOPES
#undef CPU_ITEM
#undef CPU_SUMS
#undef GPU_ITEM
