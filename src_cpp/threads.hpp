// The threads on which the kernels run: one pool for the whole process, made on first use.
//
// A call of parallel_for is a job. It lies on the caller's stack, and the caller works on it from the first item to
// the last. Idle workers join the oldest job that has room for them, and take items until none is left. Nothing waits
// for a worker that has not joined: a job is done when all items are, on whatever threads were there in time.
//
// A worker with nothing to do, and a caller that waits for the last items of others, look again for some microseconds
// and then sleep, so that an idle pool takes no processor from anyone.
//
// At most threads() - 1 workers are at work at a time, however many callers there are. A thread that cannot be made is
// done without. Workers receive no signals. After a fork the child begins with an empty pool and threads() = 1.
#pragma once

#include <cstdint>

namespace linfengine {

// The number of threads of the operations that begin from now on. Throws std::invalid_argument unless it is from 1 to
// 1024.
void use_threads(int count);
int threads();

using ItemBody = void (*)(const void* context, int64_t item, int thread);
void run_items(int64_t items, int team, ItemBody body, const void* context);

// body(item, thread) for every item from 0 on, with 0 <= thread < team. Items in progress at the same time have
// different thread numbers. Which thread does which item is left open. The body must not throw.
template <class Body>
void parallel_for(int64_t items, int team, const Body& body) {
    if (items < 2 || team < 2) {
        for (int64_t item = 0; item < items; ++item) body(item, 0);
    } else {
        const ItemBody call = [](const void* context, int64_t item, int thread) {
            (*static_cast<const Body*>(context))(item, thread);
        };
        run_items(items, team, call, &body);
    }
}

}  // namespace linfengine
