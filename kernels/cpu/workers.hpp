// A few threads that sleep until there is work. Shared by plans; several callers may use it at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <list>
#include <mutex>
#include <thread>
#include <vector>

namespace edge {

class Workers {
  public:
    explicit Workers(int threads);  // the caller of `run` counts as one
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int threads() const { return static_cast<int>(threads_.size()) + 1; }

    // Calls task(index, slot) for every index below `count`, and returns when all are done. Slots are below `threads()` and never
    // used by two calls of one run at the same time. Tasks do not throw.
    void run(std::size_t count, const std::function<void(std::size_t, int)>& task);

  private:
    struct Job {
        const std::function<void(std::size_t, int)>* task;
        std::size_t count, next, done;
        int slots;
    };

    void work();
    bool take(std::unique_lock<std::mutex>& lock, Job& job, int slot);

    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    std::list<Job*> jobs_;
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace edge
