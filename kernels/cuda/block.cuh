// What the threads of a block do together on a group of columns: transforms along their lines in shared memory, and sums over lines.
// threadIdx.x is a pair of columns, threadIdx.y shares the lines. An array of the group is (lines, pairs), a float4 an element: the real
// parts of both columns, then the imaginary ones. Every function that says so ends in a barrier.
#pragma once

#include "butterfly.cuh"
#include "pair.cuh"

namespace edge {

struct Pass {
    int radix, length, twiddles, roots;  // where these begin in the tables, in floats
};

// A transform as kernels/cpu/transform.hpp plans it.
struct Lines {
    const Pass* passes;
    const float* tables;
    const int* frequency;  // that each position holds
    int count;             // of passes
    int length;
    float scale;
};

__device__ __forceinline__ int element(int line) { return line * blockDim.x + threadIdx.x; }

// exp(-2 pi i ...) number q - 1 of those that belong to one butterfly.
__device__ __forceinline__ float2 twiddle(const float* first, int q) { return __ldg(reinterpret_cast<const float2*>(first) + q - 1); }

__device__ __forceinline__ ComplexPair pair_of(float4 value) { return {{value.x, value.y}, {value.z, value.w}}; }

__device__ __forceinline__ float4 packed(ComplexPair value) {
    return make_float4(value.re.first, value.re.second, value.im.first, value.im.second);
}

// Access to an array of the group.
struct Shared {
    float4* array;
    __device__ __forceinline__ ComplexPair operator()(int line) const { return pair_of(array[element(line)]); }
    __device__ __forceinline__ void operator()(int line, ComplexPair value) const { array[element(line)] = packed(value); }
};

// The radix-R butterflies of a pass. `load(i)` gives line i, `store(i, z)` takes it; in place, since the lines of a butterfly are its
// thread's. Twiddles follow a forward butterfly and precede an inverse one. Ends in a barrier.
template <int R, int Sign, class Load, class Store>
__device__ __forceinline__ void radix_pass(const Lines& lines, const Pass& pass, Load load, Store store) {
    const int stride = pass.length / R;
    for (int index = threadIdx.y; index < lines.length / R; index += blockDim.y) {
        const int within = index % stride, base = index / stride * pass.length + within;
        const float* w = lines.tables + pass.twiddles + 2 * (R - 1) * within;
        ComplexPair z[R];
#pragma unroll
        for (int q = 0; q < R; ++q) z[q] = load(base + q * stride);
        if (Sign > 0 && stride > 1) {
#pragma unroll
            for (int q = 1; q < R; ++q) z[q] = times(z[q], twiddle(w, q).x, -twiddle(w, q).y);
        }
        butterfly<R, Sign>(z, lines.tables + pass.roots);
        if (Sign < 0 && stride > 1) {
#pragma unroll
            for (int q = 1; q < R; ++q) z[q] = times(z[q], twiddle(w, q).x, twiddle(w, q).y);
        }
#pragma unroll
        for (int q = 0; q < R; ++q) store(base + q * stride, z[q]);
    }
    __syncthreads();
}

// The same for a prime without a butterfly of its own, by the definition. `staged` is an array of the group. Ends in a barrier.
template <int Sign, class Load, class Store>
__device__ __forceinline__ void prime_pass(const Lines& lines, const Pass& pass, float4* staged, Load load, Store store) {
    const int radix = pass.radix, stride = pass.length / radix;
    const float *roots = lines.tables + pass.roots, *twiddles = lines.tables + pass.twiddles;
    const Shared stage{staged};
    for (int line = threadIdx.y; line < lines.length; line += blockDim.y) {
        const int within = line % pass.length, q = within / stride;
        const float* w = twiddles + 2 * (radix - 1) * (within % stride);
        ComplexPair z = load(line);
        if (Sign > 0 && q) z = times(z, twiddle(w, q).x, -twiddle(w, q).y);
        stage(line, z);
    }
    __syncthreads();
    for (int line = threadIdx.y; line < lines.length; line += blockDim.y) {
        const int within = line % pass.length, k = within / stride, first = line - k * stride;
        const float* w = twiddles + 2 * (radix - 1) * (within % stride);
        ComplexPair sum = stage(first);
        for (int q = 1, root = k; q < radix; ++q, root = (root + k) % radix) {
            sum = sum + times(stage(first + q * stride), roots[2 * root], Sign * roots[2 * root + 1]);
        }
        if (Sign < 0 && k) sum = times(sum, twiddle(w, k).x, twiddle(w, k).y);
        store(line, sum);
    }
    __syncthreads();
}

template <int Sign, class Load, class Store>
__device__ __forceinline__ void run_pass(const Lines& lines, int index, float4* staged, Load load, Store store) {
    const Pass pass = lines.passes[index];
    switch (pass.radix) {
        case 2: return radix_pass<2, Sign>(lines, pass, load, store);
        case 3: return radix_pass<3, Sign>(lines, pass, load, store);
        case 4: return radix_pass<4, Sign>(lines, pass, load, store);
        case 5: return radix_pass<5, Sign>(lines, pass, load, store);
        case 7: return radix_pass<7, Sign>(lines, pass, load, store);
        case 8: return radix_pass<8, Sign>(lines, pass, load, store);
        default: return prime_pass<Sign>(lines, pass, staged, load, store);
    }
}

// All passes in place: natural order to `Lines::frequency` order. Not scaled. Ends in a barrier. (Not inlined: code for all radices is long.)
__device__ __noinline__ void forward(const Lines& lines, float4* array, float4* staged) {
    const Shared here{array};
    for (int pass = 0; pass < lines.count; ++pass) run_pass<-1>(lines, pass, staged, here, here);
}

// And back.
__device__ __noinline__ void inverse(const Lines& lines, float4* array, float4* staged) {
    const Shared here{array};
    for (int pass = lines.count - 1; pass >= 0; --pass) run_pass<+1>(lines, pass, staged, here, here);
}

__device__ __forceinline__ Pair from_lane(Pair value, unsigned turned) {
    return {__shfl_xor_sync(0xffffffffu, value.first, turned), __shfl_xor_sync(0xffffffffu, value.second, turned)};
}

// Every column's sum over the lines' threads, for all of them. A block's threads are whole warps, its pairs a power of two up to 32.
// `partial` is shared, (warps, pairs). Ends in a barrier.
__device__ __forceinline__ Pair sum_over_lines(Pair value, Pair* partial) {
    for (unsigned turned = blockDim.x; turned < 32; turned *= 2) value = value + from_lane(value, turned);
    const unsigned thread = threadIdx.y * blockDim.x + threadIdx.x, warps = blockDim.x * blockDim.y / 32;
    if (thread % 32 < blockDim.x) partial[thread / 32 * blockDim.x + threadIdx.x] = value;
    __syncthreads();
    Pair sum = {0.0f, 0.0f};
    for (unsigned warp = 0; warp < warps; ++warp) sum = sum + partial[warp * blockDim.x + threadIdx.x];
    __syncthreads();
    return sum;
}

}  // namespace edge
