// A metric is what happens to one term |x - w| and how terms combine. The loop nest in forward.hpp does the rest.
//
//   Part                          what a lane accumulates over one block of k, kept in registers
//   Total                         what an output needs besides: the sum of parts, thresholds, ...
//   begin(row, col) -> Total      before the first k
//   identity() -> Part            the neutral element
//   step(parts, totals, x, w...)  take in one vector of k: of x[0] (and x[1] for an interval) and of n outputs' w[0]
//   (and
//                                 w[1] for a dead zone). Past the last k all read as 0, so a term of zeros must change
//                                 nothing.
//   merge(total, part, block)     at the end of a block of kBlock vectors
//   finish(totals, row, col)      join the lanes and write the outputs col, col + 1, ...; returns a Verdict
//   settle(row, col)              where kSettles: once all rows of a tile are finished
//
// kRows x kCols is the register tile.
#pragma once

#include "kernels.h"
#include "lanes.hpp"
#include "mode.hpp"
#include "simd.hpp"

namespace linfengine {
namespace LINFENGINE_ISA {

constexpr bool kWide = kRegisters == 32;
constexpr int kRowsOfTile = kWide ? 6 : 4;
template <class T>
constexpr int kColsOfTile = kWide && Simd<T>::lanes >= 4 ? 4 : 2;

// What a metric is unless it says otherwise.
struct Metric {
    static constexpr int inputs = 1;   // 2 for an interval
    static constexpr int weights = 1;  // 2 for a dead zone
    static constexpr int kRows = kRowsOfTile;
    static constexpr int64_t kBlock = 128;            // merging costs little, and sums of 128 terms a lane lose little
    static constexpr Mode mode = Mode::kExact;        // of the processor
    static constexpr bool kRefusesNonFinite = false;  // whether the items look for NaN and infinity
    static constexpr bool kSettles = false;
};

}  // namespace LINFENGINE_ISA
}  // namespace linfengine
