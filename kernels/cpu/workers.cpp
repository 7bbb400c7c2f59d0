#include "workers.hpp"

namespace edge {

Workers::Workers(int threads) {
    for (int i = 1; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

Workers::~Workers() {
    {
        const std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

// Runs one task of the job, if one is left. The lock is held before and after.
bool Workers::take(std::unique_lock<std::mutex>& lock, Job& job, int slot) {
    if (job.next == job.count) return false;
    const std::size_t index = job.next++;
    lock.unlock();
    job.task(index, slot);
    lock.lock();
    if (++job.done == job.count) finished_.notify_all();
    return true;
}

void Workers::enqueue(Job& job) {
    Job** end = &jobs_;
    while (*end) end = &(*end)->behind;
    *end = &job;
}

void Workers::dequeue(const Job& job) {
    for (Job** at = &jobs_; *at; at = &(*at)->behind) {
        if (*at != &job) continue;
        *at = job.behind;
        return;
    }
}

void Workers::run(std::size_t count, Task task) {
    if (threads_.empty() || count < 2) {
        for (std::size_t index = 0; index < count; ++index) task(index, 0);
        return;
    }
    Job job{task, count, 0, 0, 1, nullptr};
    std::unique_lock<std::mutex> lock(mutex_);
    enqueue(job);
    wake_.notify_all();
    while (take(lock, job, 0)) {
    }
    dequeue(job);  // nothing is left to take; others may still be at work on what they took
    finished_.wait(lock, [&job] { return job.done == job.count; });
}

void Workers::work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
        wake_.wait(lock, [this] { return stop_ || jobs_; });
        if (stop_) return;
        Job& job = *jobs_;
        if (job.slots >= threads() || job.next == job.count) {  // its caller is about to take it off the list
            dequeue(job);
            continue;
        }
        const int slot = job.slots++;
        while (take(lock, job, slot)) {
        }
    }
}

}  // namespace edge
