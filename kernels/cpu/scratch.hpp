// Memory for one thread's use in a kernel, aligned for vectors, allocated when a plan is made.
#pragma once

#include <cstddef>
#include <memory>
#include <new>
#include <vector>

namespace edge {

class Scratch {
  public:
    Scratch(int slots, std::size_t floats) {
        for (int slot = 0; slot < slots; ++slot) {
            memory_.emplace_back(static_cast<float*>(::operator new[](floats * sizeof(float), std::align_val_t(kAlignment))));
        }
    }
    float* operator[](int slot) const { return memory_[static_cast<std::size_t>(slot)].get(); }

    static constexpr std::size_t kAlignment = 64;

  private:
    struct Free {
        void operator()(float* memory) const { ::operator delete[](memory, std::align_val_t(kAlignment)); }
    };
    std::vector<std::unique_ptr<float, Free>> memory_;
};

}  // namespace edge
