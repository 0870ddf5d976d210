#include "threads.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>

namespace linfengine {
namespace {

constexpr int kMostThreads = 1024;
// How long a thread looks for work before it sleeps: at first without a pause, for the next operation of a net often
// comes at once; then so that any other thread that wants the processor gets it.
constexpr std::chrono::microseconds kKeen{50}, kPatient{500};

std::atomic<int> chosen_threads{1};

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Looks until ready() or until the patience ends; returns whether it was ready.
template <class Ready>
bool spin(const Ready& ready) {
    const auto begin = std::chrono::steady_clock::now();
    do
        for (int i = 0; i < 16; ++i) {
            if (ready()) return true;
            pause();
        }
    while (std::chrono::steady_clock::now() < begin + kKeen);
    do {
        if (ready()) return true;
        sched_yield();
    } while (std::chrono::steady_clock::now() < begin + kPatient);
    return false;
}

// The pool's mutex is held so briefly that sleeping until it is free takes longer than looking again.
void take(std::unique_lock<std::mutex>& lock) {
    if (!spin([&] { return lock.try_lock(); })) lock.lock();
}

struct Job {
    const int64_t items;
    const ItemBody body;
    const void* const context;
    const int team;
    std::atomic<int64_t> next{0};
    std::atomic<int> helpers{0};  // workers on this job now; changes under the pool's mutex
    int joined = 1;               // thread numbers given, 0 being the caller's; under the mutex, like `later`
    Job* later = nullptr;

    void work(int thread) {
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) body(context, item, thread);
    }
    bool has_room() const { return joined < team && next.load(std::memory_order_relaxed) < items; }
};

class Pool {
  public:
    void run(Job& job) {
        std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
        take(lock);
        Job** end = &oldest_;
        while (*end) end = &(*end)->later;
        *end = &job;
        arrivals_.fetch_add(1, std::memory_order_relaxed);
        call_helpers();
        lock.unlock();

        job.work(0);

        take(lock);
        Job** place = &oldest_;
        while (*place != &job) place = &(*place)->later;
        *place = job.later;  // nobody joins any more
        lock.unlock();
        if (spin([&] { return job.helpers.load(std::memory_order_acquire) == 0; })) return;
        lock.lock();
        finished_.wait(lock, [&] { return job.helpers.load(std::memory_order_acquire) == 0; });
    }

  private:
    // Starts the workers that are missing, and wakes two sleepers at most: each helper that joins a job wakes two more,
    // so that no thread wakes many one by one.
    void call_helpers() {
        int wanted = 0, most = 0;
        for (const Job* job = oldest_; job; job = job->later)
            if (job->has_room()) {
                wanted += job->team - job->joined;
                most = std::max(most, job->team - 1);
            }
        wanted = std::min(wanted, most - busy_);
        while (workers_ < most && idle_ + asleep_ < wanted && start_worker()) {
        }
        for (int i = 0; i < std::min({wanted - idle_, asleep_, 2}); ++i) wake_.notify_one();
    }

    bool start_worker() {
        sigset_t blocked, before;
        sigfillset(&blocked);
        for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigdelset(&blocked, own);  // its own faults
        pthread_sigmask(SIG_SETMASK, &blocked, &before);
        pthread_t thread;
        const bool started = pthread_create(&thread, nullptr, &Pool::worker, this) == 0;
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        if (started) {
            pthread_detach(thread);
            ++workers_, ++idle_;
        }
        return started;
    }

    static void* worker(void* pool) {
        static_cast<Pool*>(pool)->serve();
        return nullptr;
    }

    void serve() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            Job& job = next_job(lock);
            const int thread = job.joined++;
            job.helpers.fetch_add(1, std::memory_order_relaxed);
            --idle_, ++busy_;
            call_helpers();
            lock.unlock();

            job.work(thread);

            take(lock);
            ++idle_, --busy_;
            if (job.helpers.fetch_sub(1, std::memory_order_release) == 1) finished_.notify_all();
        }
    }

    Job& next_job(std::unique_lock<std::mutex>& lock) {
        Job* job = oldest_with_room();
        if (!job) {
            const unsigned seen = arrivals_.load(std::memory_order_relaxed);
            lock.unlock();
            spin([&] { return arrivals_.load(std::memory_order_relaxed) != seen; });
            take(lock);
        }
        while (!(job = oldest_with_room())) {
            --idle_, ++asleep_;
            wake_.wait(lock);
            ++idle_, --asleep_;
        }
        return *job;
    }

    Job* oldest_with_room() const {
        Job* job = oldest_;
        while (job && !(job->has_room() && busy_ < job->team - 1)) job = job->later;
        return job;
    }

    std::mutex mutex_;  // guards all that follows
    std::condition_variable wake_, finished_;
    Job* oldest_ = nullptr;
    std::atomic<unsigned> arrivals_{0};  // of jobs; looked at without the mutex
    int workers_ = 0;                    // each is counted in one of these:
    int idle_ = 0, asleep_ = 0, busy_ = 0;
};

// Never destroyed: workers sleep in it when the process ends. A forked child, in which it may have been left half
// changed, begins with another in the same place.
alignas(Pool) unsigned char memory[sizeof(Pool)];

Pool* make_pool() {
    pthread_atfork(nullptr, nullptr, [] {
        new (memory) Pool;
        chosen_threads = 1;
    });
    return new (memory) Pool;
}

Pool* const pool = make_pool();

}  // namespace

void use_threads(int count) {
    if (count < 1 || count > kMostThreads)
        throw std::invalid_argument("the number of threads must be at least 1 and at most " +
                                    std::to_string(kMostThreads) + ", got " + std::to_string(count));
    chosen_threads = count;
}

int threads() {
    return chosen_threads;
}

void run_items(int64_t items, int team, ItemBody body, const void* context) {
    Job job{items, body, context, static_cast<int>(std::min<int64_t>(items, team))};
    pool->run(job);
}

}  // namespace linfengine

// For threadpoolctl, which finds them by name.
#define LINFENGINE_EXPORT extern "C" __attribute__((visibility("default")))

LINFENGINE_EXPORT int linfengine_threads() {
    return linfengine::threads();
}

LINFENGINE_EXPORT void linfengine_use_threads(int count) {
    linfengine::use_threads(std::clamp(count, 1, linfengine::kMostThreads));
}
