// CUDA C++ on a processor: a launch runs its blocks one after another, each thread of a block a fiber that runs until it meets the others,
// at a barrier or a shuffle. Which thread goes first can be turned round: what only works in one order lacks a barrier.
//
// For tests, and of CUDA no more than kernels/cuda uses. What it puts in the place of the device's own:
//   __syncthreads, __syncthreads_or                       fibers that meet; a thread that never comes is an error
//   __shfl_xor_sync of floats and doubles, __syncwarp     likewise, of one warp
//   threadIdx, blockIdx, blockDim, gridDim                the running fiber's
//   extern __shared__ memory                              one array, filled with NaNs before each block, with a watched end
//   __ldg                                                 a plain load
//   atomicAdd                                             plain: fibers do not interrupt each other
//   sqrt, sqrtf, division, a * b + c                      the processor's: the last digits differ from a GPU's
// No static shared memory, textures, tensor cores, or dynamic parallelism.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ inline
#define __launch_bounds__(...)
#define __shared__

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
template <class T>
inline T __ldg(const T* from) {
    return *from;
}
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct alignas(16) double2 {
    double x, y;
};
inline double2 make_double2(double x, double y) { return {x, y}; }

namespace shim {

struct Size {
    unsigned x, y, z;
    std::size_t all() const { return std::size_t{x} * y * z; }
};

constexpr std::size_t kWarp = 32, kStack = 64 << 10, kSharedLimit = 228 << 10, kWatched = 1024;
constexpr unsigned char kPoison = 0xff, kWatch = 0xa5;

enum class State { running, at_barrier, in_shuffle, done };

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    Size index;
    State state;
    int vote;
    unsigned turned;
    double offered, taken;
};

// One block at a time.
struct Block {
    ucontext_t scheduler;
    std::vector<Fiber> fibers;
    Fiber* current = nullptr;
    Size index, block, grid;
    void (*body)(void*) = nullptr;
    void* argument = nullptr;
    int any = 0;  // of the last barrier's votes

    void wait(State state) {
        current->state = state;
        swapcontext(&current->context, &scheduler);
    }

    // A warp goes on by itself until it meets the others: nothing but a barrier holds it back, on a GPU either.
    void run(bool reverse) {
        const std::size_t count = fibers.size(), warps = (count + kWarp - 1) / kWarp;
        for (std::size_t i = 0; i < count; ++i) start(i);
        std::size_t done = 0;
        while (done < count) {
            bool ran = false;
            for (std::size_t i = 0; i < warps; ++i) {
                const std::size_t first = kWarp * (reverse ? warps - 1 - i : i);
                do {
                    ran = run_warp(first, first + kWarp < count ? first + kWarp : count, reverse, done) || ran;
                } while (shuffle(first));
            }
            ran = pass_barrier(done) || ran;
            if (!ran && done < count) throw std::runtime_error("threads wait for each other in different places");
        }
    }

  private:
    static void enter();

    void start(std::size_t i) {
        Fiber& fiber = fibers[i];
        const unsigned n = static_cast<unsigned>(i);
        fiber.index = {n % block.x, n / block.x % block.y, n / (block.x * block.y)};
        fiber.state = State::running;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &Block::enter, 0);
    }

    bool run_warp(std::size_t first, std::size_t end, bool reverse, std::size_t& done) {
        bool ran = false;
        for (std::size_t i = first; i < end; ++i) {
            Fiber& fiber = fibers[reverse ? first + end - 1 - i : i];
            if (fiber.state != State::running) continue;
            current = &fiber;
            swapcontext(&scheduler, &fiber.context);
            done += fiber.state == State::done;
            ran = true;
        }
        return ran;
    }

    // Whole warps only: that is how kernels/cuda launches.
    bool shuffle(std::size_t first) {
        if (first + kWarp > fibers.size()) return false;
        for (std::size_t lane = 0; lane < kWarp; ++lane) {
            if (fibers[first + lane].state != State::in_shuffle) return false;
        }
        for (std::size_t lane = 0; lane < kWarp; ++lane) {
            Fiber& fiber = fibers[first + lane];
            fiber.taken = fibers[first + (lane ^ fiber.turned)].offered;
        }
        for (std::size_t lane = 0; lane < kWarp; ++lane) fibers[first + lane].state = State::running;
        return true;
    }

    bool pass_barrier(std::size_t done) {
        std::size_t waiting = 0;
        int votes = 0;
        for (const Fiber& fiber : fibers) {
            if (fiber.state != State::at_barrier) continue;
            ++waiting;
            votes |= fiber.vote;
        }
        if (waiting == 0 || waiting + done < fibers.size()) return false;
        if (done > 0) throw std::runtime_error("a barrier that some threads of the block have ended without");
        any = votes;
        for (Fiber& fiber : fibers) fiber.state = State::running;
        return true;
    }
};

inline Block the_block;

inline void Block::enter() {
    the_block.body(the_block.argument);
    the_block.wait(State::done);
}

// Where a kernel's parameters lie in the packed ones, as C lays out a struct.
struct Parameter {
    std::size_t offset, size;
};

template <class... A>
std::vector<Parameter> layout() {
    std::vector<Parameter> parameters;
    std::size_t end = 0;
    const auto add = [&](std::size_t size, std::size_t alignment) {
        end = (end + alignment - 1) / alignment * alignment;
        parameters.push_back({end, size});
        end += size;
    };
    (add(sizeof(A), alignof(A)), ...);
    return parameters;
}

struct Launch {
    Size grid, block;
    std::size_t shared;
    const unsigned char* parameters;
    bool reverse;
};

struct Kernel {
    const char* name;
    std::vector<Parameter> parameters;
    float4* memory;  // the array that stands for shared memory, with room for what is watched
    void (*run)(const Launch&, float4* memory);

    void launch(const Launch& how) const { run(how, memory); }
};

template <class T>
T unpacked(const unsigned char* from) {
    T value;
    std::memcpy(static_cast<void*>(&value), from, sizeof value);
    return value;
}

template <class... A, std::size_t... I>
void run_blocks(void (*kernel)(A...), const Launch& launch, float4* memory, std::index_sequence<I...>) {
    const std::vector<Parameter> where = layout<A...>();
    const std::tuple<A...> arguments{unpacked<A>(launch.parameters + where[I].offset)...};
    struct Call {
        void (*kernel)(A...);
        const std::tuple<A...>& arguments;
    } call{kernel, arguments};
    Block& block = the_block;
    block.block = launch.block;
    block.grid = launch.grid;
    block.fibers.resize(launch.block.all());
    block.body = [](void* argument) {
        const Call& c = *static_cast<Call*>(argument);
        c.kernel(std::get<I>(c.arguments)...);
    };
    block.argument = &call;
    unsigned char* const bytes = reinterpret_cast<unsigned char*>(memory);
    for (std::size_t i = 0; i < launch.grid.all(); ++i) {
        const unsigned n = static_cast<unsigned>(launch.reverse ? launch.grid.all() - 1 - i : i);
        block.index = {n % launch.grid.x, n / launch.grid.x % launch.grid.y, n / (launch.grid.x * launch.grid.y)};
        std::memset(bytes, kPoison, launch.shared);
        std::memset(bytes + launch.shared, kWatch, kWatched);
        block.run(launch.reverse);
        for (std::size_t at = 0; at < kWatched; ++at) {
            if (bytes[launch.shared + at] != kWatch) throw std::runtime_error("a write beyond the shared memory asked for");
        }
    }
}

// One of a table; `Function` is the kernel.
template <auto Function>
struct Of;

template <class... A, void (*Function)(A...)>
struct Of<Function> {
    static void run(const Launch& launch, float4* memory) { run_blocks(Function, launch, memory, std::index_sequence_for<A...>{}); }
    static Kernel named(const char* name, float4* memory) { return {name, layout<A...>(), memory, &Of::run}; }
};

inline void synchronise(int vote) {
    Block& block = the_block;
    block.current->vote = vote;
    block.wait(State::at_barrier);
}

}  // namespace shim

#define threadIdx (shim::the_block.current->index)
#define blockIdx (shim::the_block.index)
#define blockDim (shim::the_block.block)
#define gridDim (shim::the_block.grid)

inline void __syncthreads() { shim::synchronise(0); }

inline int __syncthreads_or(int vote) {
    shim::synchronise(vote != 0);
    return shim::the_block.any;
}

template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, unsigned turned) {
    static_assert(std::is_floating_point_v<T>, "offered as a double");
    if (mask != 0xffffffffu) throw std::runtime_error("a shuffle of some lanes: only whole warps are known here");
    shim::Block& block = shim::the_block;
    block.current->offered = value;
    block.current->turned = turned;
    block.wait(shim::State::in_shuffle);
    return static_cast<T>(block.current->taken);
}

inline void __syncwarp() { __shfl_xor_sync(0xffffffffu, 0.0, 0u); }

template <class T>
inline T atomicAdd(T* to, T value) {
    const T before = *to;
    *to = before + value;
    return before;
}
