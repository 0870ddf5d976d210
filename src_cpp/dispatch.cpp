#include "dispatch.h"

#include <algorithm>
#include <stdexcept>
#include <string_view>

#include "engine.hpp"

namespace linfengine {
namespace {

std::vector<const InstructionSet*> runnable() {
    std::vector<const InstructionSet*> sets{&portable::instruction_set};
#ifdef LINFENGINE_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&avx2::instruction_set);
#endif
#ifdef LINFENGINE_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        sets.push_back(&avx512::instruction_set);
#endif
    return sets;
}

std::atomic<const InstructionSet*> current_set{runnable().back()};

// The position of p in kPowers, or -1 if no chain of multiplications is compiled in for it.
int chain(double p) {
    for (int i = 0; i < kPowerCount; ++i)
        if (p == kPowers[i]) return i;
    return -1;
}

// How many arrays of a signature are of such a kind.
int count(std::string_view signature, std::string_view kind) {
    int found = 0;
    for (size_t at = 0; (at = signature.find(kind, at)) != signature.npos; ++at) ++found;
    return found;
}

// A call of a forward, in whose signature x, w, y and the winner follow one another.
template <class T>
Forward<T> forward_of(const Operation& operation, const Call& call) {
    Forward<T> problem{};
    problem.shape = call.shape;
    problem.p = call.numbers[0];
    int next = 0;
    for (int i = 0; i < operation.inputs; ++i) problem.x[i] = array<const T>(call, next++);
    for (int i = 0; i < operation.weights; ++i) problem.w[i] = array<const T>(call, next++);
    for (int i = 0; i < operation.outputs; ++i) problem.y[i] = array<T>(call, next++);
    problem.winner = array<int32_t>(call, next);  // null where there is none
    return problem;
}

template <class T, ForwardItem<T> Kernels<T>::* kernel>
unsigned forward(const Operation& operation, const Call& call) {
    const Engine<T> engine(call.shape);
    return engine.forward(engine.kernels().*kernel, forward_of<T>(operation, call));
}

template <ForwardItem<uint8_t> InstructionSet::* kernel>
unsigned forward_of_bytes(const Operation& operation, const Call& call) {
    const Engine<uint8_t> engine(call.shape);
    return engine.forward(engine.set.*kernel, forward_of<uint8_t>(operation, call));
}

// A step on entries, or on rows.
template <class T, StepItem Kernels<T>::* kernel>
unsigned step(const Operation&, const Call& call) {
    const bool rows = call.entries == 0;
    const Engine<T> engine(kTermsPerEntry * (rows ? call.shape.o * call.shape.k : call.entries));
    const StepItem item_of = engine.kernels().*kernel;
    engine.parallel_for(rows ? call.shape.o : ceil_div(call.entries, kStepChunk),
                        [&](int64_t item, int) { item_of(call, item); });
    return kGood;
}

// The operations that choose among parts, under the names of the list.
template <class T>
unsigned lp_dist(const Operation& operation, const Call& call) {
    const Engine<T> engine(call.shape);
    const Kernels<T>& kernels = engine.kernels();
    const Forward<T> problem = forward_of<T>(operation, call);
    const int i = chain(problem.p);
    const ForwardItem<T> unscaled = i >= 0 ? kernels.lp_power[i] : nullptr;
    const ForwardItem<T> scaled = i >= 0                   ? kernels.lp_scaled[i]
                                  : problem.p < CPU_SPARSE ? kernels.lp_general
                                                           : kernels.lp_sparse;
    // NaN and infinity spoil every item of their row or column, and so also those in which linf_dist looks for them.
    return engine.forward(call.shape, [&](int64_t item) -> unsigned {
        if (unscaled && unscaled(problem, item) == kGood) return kGood;
        const unsigned verdict = kernels.linf_dist(problem, item);
        return verdict | scaled(problem, item);
    });
}

template <class T>
unsigned lp_dist_backward(const Operation&, const Call& call) {
    const Shape& shape = call.shape;
    const double p = call.numbers[0];
    const Engine<T> engine(shape);
    const Kernels<T>& kernels = engine.kernels();
    const int64_t lanes = kernels.lanes, rows = kernels.backward_rows, scratch_size = 2 * shape.o * lanes;
    constexpr int64_t bytes = 1 << 21;  // for the coefficients of one run of samples
    const int64_t most = bytes / (2 * shape.o * int64_t(sizeof(T))) / rows * rows;
    const int64_t run = most < rows ? rows : most < shape.n ? most : shape.n;
    const int64_t columns = ceil_div(shape.k, lanes), team = engine.threads < columns ? engine.threads : columns;
    const Buffer<T> coefficients(ceil_div(run, rows) * rows * shape.o * 2), scratch(scratch_size * team);
    const int i = chain(p);
    const BackwardItem<T> kernel = i >= 0           ? kernels.lp_power_backward[i]
                                   : p < CPU_SPARSE ? kernels.lp_general_backward
                                                    : kernels.lp_sparse_backward;
    Backward<T> problem{};
    problem.shape = shape;
    problem.g = array<const T>(call, 0);
    problem.x = array<const T>(call, 1);
    problem.w = array<const T>(call, 2);
    problem.y = array<const T>(call, 3);
    problem.grad_x = array<T>(call, 4);
    problem.grad_w = array<T>(call, 5);
    problem.coefficients = coefficients.data();
    problem.p = p;
    std::atomic<unsigned> verdict{kGood};
    for (int64_t row = 0; row < shape.n; row += run) {
        problem.row = row;
        problem.rows = std::min(run, shape.n - row);
        engine.parallel_for(ceil_div(problem.rows, rows), [&](int64_t block, int) {
            verdict.fetch_or(kernels.coefficients(problem, block, nullptr), std::memory_order_relaxed);
        });
        engine.parallel_for(
            columns, [&](int64_t item, int thread) { kernel(problem, item, scratch.data() + thread * scratch_size); });
    }
    return verdict;
}

template <class T>
unsigned linf_dist_backward(const Operation&, const Call& call) {
    const Shape& shape = call.shape;
    const Engine<T> engine(kTermsPerEntry * (shape.n * shape.o + (shape.n + shape.o) * shape.k / 8));
    Backward<T> problem{};
    problem.shape = shape;
    problem.g = array<const T>(call, 0);
    problem.winner = array<const int32_t>(call, 1);
    problem.grad_x = array<T>(call, 2);
    problem.grad_w = array<T>(call, 3);
    std::atomic<unsigned> verdict{kGood};
    const auto scatter = [&](BackwardItem<T> kernel, int64_t entries) {
        engine.parallel_for(ceil_div(entries, kOutputChunk), [&](int64_t item, int) {
            if (const unsigned each = kernel(problem, item, nullptr)) verdict.fetch_or(each, std::memory_order_relaxed);
        });
    };
    if (problem.grad_x) scatter(engine.kernels().linf_backward_x, shape.n);
    if (problem.grad_w) scatter(engine.kernels().linf_backward_w, shape.o);
    return verdict;
}

template <class T>
unsigned channel_sums(const Operation&, const Call& call) {
    const int64_t n = call.shape.n, channels = call.channels;
    const Engine<T> engine(n * channels * call.m);
    const StepItem kernel = engine.kernels().channel_sums;
    if (call.m > 1) {
        engine.parallel_for(channels, [&](int64_t item, int) { kernel(call, item); });
        return kGood;
    }
    // Blocks of rows, so that memory is read in order; then the sums of the blocks are summed in the same way.
    constexpr int64_t most_parts = 8192, most_blocks = 16, least_rows = 64;
    const int64_t blocks = std::max<int64_t>(1, std::min({n / least_rows, most_blocks, most_parts / channels}));
    const int64_t rows = ceil_div(n, blocks), runs = ceil_div(channels, kSumRun);
    const Buffer<double> parts(blocks * channels);
    engine.parallel_for(blocks * runs, [&](int64_t item, int) {
        const int64_t block = item / runs;
        Call part = call;
        part.shape.n = std::min(rows, n - block * rows);
        part.arrays[0] = array<T>(call, 0) + block * rows * channels;
        part.arrays[1] = parts.data() + block * channels;
        kernel(part, item % runs);
    });
    Call whole = call;
    whole.shape.n = blocks;
    whole.arrays[0] = parts.data();
    for (int64_t item = 0; item < runs; ++item) kernels_of<double>(engine.set).channel_sums(whole, item);
    return kGood;
}

std::vector<Operation> listed() {
    std::vector<Operation> all{
#define FORWARD(name, metric, signature) \
    {#name, signature, forward<float, &Kernels<float>::name>, forward<double, &Kernels<double>::name>},
#define BYTES(name, metric, signature) {#name, signature, forward_of_bytes<&InstructionSet::name>, nullptr},
#define STEP(name, kernel, signature) \
    {#name, signature, step<float, &Kernels<float>::name>, step<double, &Kernels<double>::name>},
#define OPERATION(name, signature) {#name, signature, name<float>, name<double>},
#include "list.h"
    };
    for (Operation& each : all) {
        each.inputs = count(each.signature, "(n,gk)");
        each.weights = count(each.signature, "(o,k)");
        each.outputs = count(each.signature, ":T(n,o)") + count(each.signature, ":B(n,o)");
    }
    return all;
}

}  // namespace

const InstructionSet& chosen_set() {
    return *current_set.load();
}

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const InstructionSet* set : runnable()) names.emplace_back(set->name);
    return names;
}

void use_instruction_set(const std::string& name) {
    for (const InstructionSet* set : runnable())
        if (name == set->name) {
            current_set = set;
            return;
        }
    std::string known;
    for (const std::string& each : instruction_sets()) known += (known.empty() ? "" : ", ") + each;
    throw std::invalid_argument("instruction set '" + name + "' is not one this build and processor can run: " + known);
}

std::string instruction_set() {
    return chosen_set().name;
}

const std::vector<Operation>& operations() {
    static const std::vector<Operation> all = listed();
    return all;
}

unsigned run(const Operation& operation, bool is_double, Call call, int64_t groups, const int64_t* advance) {
    const auto one = is_double ? operation.of_double : operation.of_float;
    unsigned verdict = kGood;
    for (int64_t group = 0; group < groups; ++group) {
        verdict |= one(operation, call);
        for (int i = 0; i < kMostArrays; ++i)
            if (call.arrays[i]) call.arrays[i] = static_cast<char*>(call.arrays[i]) + advance[i];
    }
    return verdict;
}

}  // namespace linfengine
