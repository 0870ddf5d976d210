// The kernels under the address, undefined-behaviour and thread sanitizers: `make sanitize`.
//
// Every operation on every instruction set, at shapes with remainders everywhere, against plain loops. Each array is
// its own allocation of exactly the right size, so that one number read or written too far is seen. Then the pool of
// threads: several callers at once, and a child after a fork.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../../src_cpp/dispatch.h"
#include "../../src_cpp/threads.hpp"

using namespace linfengine;

// The child of a fork starts threads here, which the thread sanitizer refuses unless it is told.
extern "C" const char* __tsan_default_options() {
    return "die_after_fork=0";
}

namespace {

int failures = 0;

void expect(bool ok, const char* what, const Shape& shape) {
    if (ok) return;
    std::printf("%s, %s: wrong at n, o, k = %ld, %ld, %ld\n", instruction_set().c_str(), what, long(shape.n),
                long(shape.o), long(shape.k));
    ++failures;
}

std::mt19937 random_bits(0);

template <class T>
struct Array {
    std::unique_ptr<T[]> numbers;
    int64_t size;
    explicit Array(int64_t size) : numbers(new T[size]), size(size) {}
    T* data() const { return numbers.get(); }
    T& operator[](int64_t i) const { return numbers[i]; }
};

template <class T>
Array<T> drawn(int64_t size) {
    Array<T> array(size);
    for (int64_t i = 0; i < size; ++i)
        array[i] = sizeof(T) == 1 ? T(random_bits()) : T(std::normal_distribution<double>()(random_bits));
    return array;
}

// A kernel of the list, with its arrays and numbers in the order of its signature.
template <class T>
unsigned kernel(const char* name, const Shape& shape, std::vector<const void*> arrays, std::vector<double> numbers = {},
                int64_t entries = 0, int64_t channels = 0, int64_t m = 0) {
    Call call{shape, entries, channels, m, {}, {}};
    for (size_t i = 0; i < arrays.size(); ++i) call.arrays[i] = const_cast<void*>(arrays[i]);
    std::copy(numbers.begin(), numbers.end(), call.numbers);
    const int64_t advance[kMostArrays] = {};
    for (const Operation& each : operations())
        if (name == std::string(each.name)) return run(each, sizeof(T) == sizeof(double), call, 1, advance);
    std::abort();
}

template <class T>
bool close(T a, double b, double tolerance) {
    return std::abs(double(a) - b) <= tolerance * (1 + std::abs(b));
}

template <class T>
void check(const Shape& shape) {
    const int64_t n = shape.n, o = shape.o, k = shape.k;
    const double tolerance = sizeof(T) == 4 ? 1e-3 : 1e-9;
    const Array<T> x = drawn<T>(n * k), w = drawn<T>(o * k), g = drawn<T>(n * o), upper(n * k);
    for (int64_t i = 0; i < n * k; ++i) upper[i] = x[i] + T(0.25);
    Array<T> y(n * o), y_upper(n * o), grad_x(n * k), grad_w(o * k);
    Array<int32_t> winner(n * o);
    const auto d = [&](int64_t i, int64_t j, int64_t c) { return x[i * k + c] - w[j * k + c]; };

    expect(kernel<T>("linf_dist", shape, {x.data(), w.data(), y.data()}) == kGood, "verdict", shape);
    kernel<T>("linf_dist_argmax", shape, {x.data(), w.data(), y_upper.data(), winner.data()});
    bool same = true, found = true;
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < o; ++j) {
            int64_t best = 0;
            for (int64_t c = 1; c < k; ++c)
                if (std::abs(d(i, j, c)) > std::abs(d(i, j, best))) best = c;
            same &= y[i * o + j] == std::abs(d(i, j, best)) && y_upper[i * o + j] == y[i * o + j];
            found &= winner[i * o + j] == (d(i, j, best) > 0 ? best : ~best);
        }
    expect(same, "linf", shape);
    expect(found, "winner", shape);

    kernel<T>("linf_dist_backward", shape, {g.data(), winner.data(), grad_x.data(), grad_w.data()});
    double sum = 0, expected = 0;
    for (int64_t i = 0; i < n * k; ++i) sum += grad_x[i];
    for (int64_t i = 0; i < n * o; ++i) expected += winner[i] >= 0 ? g[i] : -g[i];
    expect(close(sum, expected, tolerance * n), "linf_backward to x", shape);
    for (int64_t i = 0; i < o * k; ++i) sum += grad_w[i];
    expect(close(sum, 0, tolerance * n), "linf_backward to w", shape);

    winner[n * o - 1] = int32_t(k);  // no position of an input: refused, and nothing is written there
    expect(kernel<T>("linf_dist_backward", shape, {g.data(), winner.data(), grad_x.data(), grad_w.data()}) == kNoInput,
           "kNoInput", shape);

    kernel<T>("linf_dist_bounds", shape, {x.data(), upper.data(), w.data(), y.data(), y_upper.data()});
    same = true;
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < o; ++j) {
            T low = 0, high = 0;
            for (int64_t c = 0; c < k; ++c) {
                const T above = x[i * k + c] - w[j * k + c], below = w[j * k + c] - upper[i * k + c];
                low = std::fmax(low, std::fmax(above, below));
                high = std::fmax(high, std::fmax(std::abs(above), std::abs(below)));
            }
            same &= y[i * o + j] == low && y_upper[i * o + j] == high;
        }
    expect(same, "linf_bounds", shape);

    for (const double p : {1.0, 8.0, 12.0, 20.3, 64.0, 300.0}) {
        kernel<T>("lp_dist", shape, {x.data(), w.data(), y.data()}, {p});
        kernel<T>("lp_dist_backward", shape, {g.data(), x.data(), w.data(), y.data(), grad_x.data(), grad_w.data()},
                  {p});
        bool value = true, gradient = true;
        double to_x = 0, to_w = 0;  // what is added to the one is taken from the other
        for (int64_t i = 0; i < n * k; ++i) to_x += grad_x[i];
        for (int64_t i = 0; i < o * k; ++i) to_w += grad_w[i];
        expect(close(to_x, -to_w, tolerance * n * o), "lp_backward to w", shape);
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < o; ++j) {
                double m = 0, s = 0;
                for (int64_t c = 0; c < k; ++c) m = std::fmax(m, std::abs(d(i, j, c)));
                for (int64_t c = 0; c < k; ++c) s += std::pow(std::abs(d(i, j, c)) / m, p);
                value &= close(y[i * o + j], m * std::pow(s, 1 / p), tolerance);
            }
        for (int64_t c = 0; c < k; ++c) {
            double slope = 0;
            for (int64_t j = 0; j < o; ++j)
                slope += g[j] * std::copysign(std::pow(std::abs(d(0, j, c)) / y[j], p - 1), d(0, j, c));
            gradient &= close(grad_x[c], slope, 10 * tolerance);
        }
        expect(value, "lp_forward", shape);
        expect(gradient, "lp_backward", shape);
    }

    kernel<T>("matmul", shape, {x.data(), w.data(), y.data()});
    expected = 0;
    for (int64_t c = 0; c < k; ++c) expected += double(x[c]) * w[c];
    expect(close(y[0], expected, tolerance), "dot", shape);

    Array<double> sums(k);
    kernel<T>("channel_sums", shape, {x.data(), sums.data()}, {}, 0, k, 1);
    expected = 0;
    for (int64_t i = 0; i < n; ++i) expected += x[i * k + k - 1];
    expect(close(sums[k - 1], expected, 1e-12), "channel_sums of columns", shape);
    Array<double> all(1);
    kernel<T>("channel_sums", shape, {x.data(), all.data()}, {}, 0, 1, k);
    expected = 0;
    for (int64_t i = 0; i < n * k; ++i) expected += x[i];
    expect(close(all[0], expected, 1e-12), "channel_sums of all", shape);

    const T before = w[0];
    kernel<T>("lp_decay", shape, {w.data()}, {8, 0.1});
    kernel<T>("lp_decay", shape, {w.data()}, {INFINITY, 0.1});
    expect(std::abs(w[0]) <= std::abs(before), "lp_decay", shape);
    const Array<T> m = drawn<T>(o * k), v(o * k);
    for (int64_t i = 0; i < o * k; ++i) v[i] = 1;
    kernel<T>("adam_step", shape, {w.data(), grad_w.data(), m.data(), v.data()}, {0.1, 0.9, 0.99, 1e-8, 1}, o * k);
    expect(std::all_of(w.data(), w.data() + o * k, [](T each) { return std::isfinite(each); }), "adam", shape);
    x[n * k - 1] = std::numeric_limits<T>::quiet_NaN();
    expect(kernel<T>("linf_dist", shape, {x.data(), w.data(), y.data()}) & kNotFinite, "NaN", shape);
    expect(kernel<T>("linf_dist_argmax", shape, {x.data(), w.data(), y.data(), winner.data()}) & kNotFinite,
           "NaN, winner", shape);
    for (int64_t i = 0; i < k; ++i) w[i] = x[n * k - 1];
    kernel<T>("linf_dist_argmax", shape, {x.data(), w.data(), y.data(), winner.data()});
    kernel<T>("lp_decay", shape, {w.data()}, {INFINITY, 0.1});
}

void check_dead_zone(const Shape& shape) {
    const Array<uint8_t> x = drawn<uint8_t>(shape.n * shape.k), below = drawn<uint8_t>(shape.o * shape.k);
    Array<uint8_t> above = drawn<uint8_t>(shape.o * shape.k);
    for (int64_t i = 0; i < above.size; ++i) above[i] = std::max(above[i], below[i]);
    Array<uint8_t> y(shape.n * shape.o);
    kernel<uint8_t>("dead_zone", shape, {x.data(), above.data(), below.data(), y.data()});
    bool same = true;
    for (int64_t i = 0; i < shape.n; ++i)
        for (int64_t j = 0; j < shape.o; ++j) {
            int largest = 0;
            for (int64_t c = 0; c < shape.k; ++c)
                largest = std::max({largest, int(x[i * shape.k + c]) - int(above[j * shape.k + c]),
                                    int(below[j * shape.k + c]) - int(x[i * shape.k + c])});
            same &= y[i * shape.o + j] == largest;
        }
    expect(same, "dead_zone", shape);
}

// Two groups side by side in rows twice as long give what each gives by itself.
void check_groups(const Shape& one) {
    const int64_t n = one.n, o = one.o, k = one.k;
    const Shape wide{n, o, k, 2 * k, 2 * o};
    const Array<float> x = drawn<float>(n * 2 * k), w = drawn<float>(2 * o * k), g = drawn<float>(n * 2 * o);
    Array<float> y(n * 2 * o), grad_x(n * 2 * k), grad_w(2 * o * k);
    Array<float> part_x(n * k), part_y(n * o), part_g(n * o), part_grad_x(n * k), part_grad_w(o * k);
    bool same = true;
    for (int64_t q = 0; q < 2; ++q) {
        kernel<float>("lp_dist", wide, {&x[q * k], &w[q * o * k], &y[q * o]}, {8});
        kernel<float>("lp_dist_backward", wide,
                      {&g[q * o], &x[q * k], &w[q * o * k], &y[q * o], &grad_x[q * k], &grad_w[q * o * k]}, {8});
        for (int64_t i = 0; i < n; ++i) {
            std::copy_n(&x[i * 2 * k + q * k], k, &part_x[i * k]);
            std::copy_n(&g[i * 2 * o + q * o], o, &part_g[i * o]);
        }
        kernel<float>("lp_dist", one, {part_x.data(), &w[q * o * k], part_y.data()}, {8});
        kernel<float>(
            "lp_dist_backward", one,
            {part_g.data(), part_x.data(), &w[q * o * k], part_y.data(), part_grad_x.data(), part_grad_w.data()}, {8});
        for (int64_t i = 0; i < n; ++i) {
            same &= std::equal(&part_y[i * o], &part_y[i * o] + o, &y[i * 2 * o + q * o]);
            same &= std::equal(&part_grad_x[i * k], &part_grad_x[i * k] + k, &grad_x[i * 2 * k + q * k]);
        }
        same &= std::equal(part_grad_w.data(), part_grad_w.data() + o * k, &grad_w[q * o * k]);
    }
    expect(same, "groups", one);
}

// One caller after another, several at once, and a child of several callers' process: each item is done exactly once.
bool every_item_once(int64_t items, int team) {
    std::vector<std::atomic<int>> done(items);
    std::vector<std::atomic<int>> seat(team);
    std::atomic<bool> alone{true};
    parallel_for(items, team, [&](int64_t item, int thread) {
        if (seat[thread].fetch_add(1) != 0) alone = false;
        done[item].fetch_add(1);
        seat[thread].fetch_sub(1);
    });
    return alone && std::all_of(done.begin(), done.end(), [](const auto& times) { return times == 1; });
}

void check_threads() {
    const Shape none{};
    use_threads(4);
    std::atomic<bool> ok{true};
    const auto call = [&] {
        for (int64_t round = 0; round < 300; ++round)
            if (!every_item_once(1 + round % 37, 1 + int(round % 5))) ok = false;
    };
    call();
    std::vector<std::thread> callers;
    for (int i = 0; i < 4; ++i) callers.emplace_back(call);
    for (std::thread& caller : callers) caller.join();
    expect(ok, "several callers", none);

    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        const bool one = threads() == 1;
        use_threads(3);
        call();
        _exit(one && ok ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    expect(status == 0, "a child after a fork", none);
    call();
    expect(ok, "after a fork", none);
}

}  // namespace

int main() {
    check_threads();
    const int64_t shapes[][3] = {{1, 1, 1}, {2, 3, 5}, {7, 10, 27}, {8, 64, 257}, {13, 9, 300}, {101, 131, 64}};
    for (const std::string& set : instruction_sets()) {
        use_instruction_set(set);
        for (const int count : {1, 3}) {
            use_threads(count);
            for (const auto& [n, o, k] : shapes) {
                const Shape shape{n, o, k, k, o};
                check_groups(shape);
                check<float>(shape);
                check<double>(shape);
                check_dead_zone(shape);
            }
        }
        std::printf("%s: done\n", set.c_str());
    }
    return failures > 0;
}
