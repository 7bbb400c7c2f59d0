// A few threads that sleep until there is work. Shared by plans; several callers may use it at once.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <vector>

namespace edge {

// A view of a callable (index, slot) that outlives it; nothing is allocated.
class Task {
  public:
    template <class Callable>
    Task(const Callable& callable)  // NOLINT: lambdas are handed on as they are
        : callable_(&callable), call_([](const void* what, std::size_t index, int slot) {
              (*static_cast<const Callable*>(what))(index, slot);
          }) {}
    void operator()(std::size_t index, int slot) const { call_(callable_, index, slot); }

  private:
    const void* callable_;
    void (*call_)(const void*, std::size_t, int);
};

class Workers {
  public:
    explicit Workers(int threads);  // the caller of `run` counts as one
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    int threads() const { return static_cast<int>(threads_.size()) + 1; }

    // Calls task(index, slot) for every index below `count`, and returns when all are done. Slots are below `threads()` and never
    // used by two calls of one run at the same time. Tasks do not throw.
    void run(std::size_t count, Task task);

  private:
    struct Job {  // lies on its caller's stack
        Task task;
        std::size_t count, next, done;
        int slots;
        Job* behind;
    };

    void work();
    void enqueue(Job& job);
    void dequeue(const Job& job);  // if it is there
    bool take(std::unique_lock<std::mutex>& lock, Job& job, int slot);

    std::mutex mutex_;
    std::condition_variable wake_, finished_;
    Job* jobs_ = nullptr;  // those with tasks left, the oldest first
    bool stop_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace edge
