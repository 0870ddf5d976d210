// The kernels as Cython sees them: whole operations, by the names of the list, on the chosen instruction set and number
// of threads. Cython checks shapes and types; memory that runs out arrives in Python as MemoryError.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace linfengine {

std::vector<std::string> instruction_sets();  // those this processor can run, widest last
void use_instruction_set(const std::string& name);
std::string instruction_set();

// A kernel of the list that is called by name. An operation returns a Verdict: after kNotFinite and kNoInput the
// outputs mean nothing, after kOutOfRange they may be inaccurate.
struct Operation {
    const char* name;
    const char* signature;
    unsigned (*of_float)(const Operation&, const Call&);  // or of bytes
    unsigned (*of_double)(const Operation&, const Call&);
    int inputs = 0, weights = 0, outputs = 0;  // how many arrays of a forward are x, w and y; its winner follows
};
const std::vector<Operation>& operations();

// Runs it for one group after the other; `advance` has the bytes from one group to the next of each array.
unsigned run(const Operation& operation, bool is_double, Call call, int64_t groups, const int64_t* advance);

}  // namespace linfengine
