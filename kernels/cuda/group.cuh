// A group of neighbouring columns of one slice, which a block does together, and a thread's view of it.
//
// Launch: grid (groups of columns), block (pairs of columns, threads that share the lines): whole warps, at most 256 threads.
// Shared memory: arrays of the group (lines, pairs) of float4, as many as each kernel says, one more (`staged`) where the transform has
// a pass of a prime above 7; then Pair (warps, pairs).
#pragma once

#include "block.cuh"

namespace edge {

struct Geometry {
    Lines lines;  // the phase encodes
    int coils, columns;
    int staging;  // whether there is an array for it in shared memory
};

// Two neighbouring columns of rows of complex numbers, at `at` in theirs; zeros beyond the last. With an even number of columns every row
// begins at a multiple of 16 bytes.
__device__ __forceinline__ ComplexPair load_pair(const float2* at, int column, int columns) {
    if (columns % 2 == 0 && column < columns) {
        const float4 both = *reinterpret_cast<const float4*>(at);
        return {{both.x, both.z}, {both.y, both.w}};
    }
    const float2 none = make_float2(0.0f, 0.0f);
    const float2 first = column < columns ? at[0] : none, second = column + 1 < columns ? at[1] : none;
    return {{first.x, second.x}, {first.y, second.y}};
}
__device__ __forceinline__ void store_pair(float2* at, int column, int columns, ComplexPair value) {
    if (columns % 2 == 0 && column < columns) {
        *reinterpret_cast<float4*>(at) = make_float4(value.re.first, value.im.first, value.re.second, value.im.second);
        return;
    }
    if (column < columns) at[0] = make_float2(value.re.first, value.im.first);
    if (column + 1 < columns) at[1] = make_float2(value.re.second, value.im.second);
}

// Images are complex64 (lines, columns), hybrid arrays complex64 (coils, lines, columns), both centred at n / 2.
struct Group {
    const Geometry& geometry;
    const Lines& lines;
    int size;    // elements of an array
    int column;  // the pair's first

    __device__ __forceinline__ explicit Group(const Geometry& g)
        : geometry(g), lines(g.lines), size(g.lines.length * blockDim.x), column(2 * (blockIdx.x * blockDim.x + threadIdx.x)) {}

    __device__ __forceinline__ long long sample(int coil, int line) const {
        return (static_cast<long long>(coil) * lines.length + line) * geometry.columns + column;
    }
    // Between a centred axis and one whose centre is index 0.
    __device__ __forceinline__ int shifted(int index) const {
        const int moved = index + lines.length / 2;
        return moved < lines.length ? moved : moved - lines.length;
    }
    __device__ __forceinline__ int line_of(int position) const { return shifted(lines.frequency[position]); }

    __device__ __forceinline__ ComplexPair load(const float2* array, long long at) const {
        return load_pair(array + at, column, geometry.columns);
    }
    __device__ __forceinline__ void store(float2* array, long long at, ComplexPair value) const {
        store_pair(array + at, column, geometry.columns, value);
    }
    template <class T>
    __device__ __forceinline__ Pair load_reals(const T* array, long long at, float outside) const {
        return {column < geometry.columns ? static_cast<float>(array[at]) : outside,
                column + 1 < geometry.columns ? static_cast<float>(array[at + 1]) : outside};
    }
    __device__ __forceinline__ void store_reals(float* array, long long at, Pair value) const {
        if (column < geometry.columns) array[at] = value.first;
        if (column + 1 < geometry.columns) array[at + 1] = value.second;
    }
};

// Calls `act(line)` for the lines of this thread; always the same ones.
template <class Act>
__device__ __forceinline__ void every_line(const Group& group, Act act) {
    for (int line = threadIdx.y; line < group.lines.length; line += blockDim.y) act(line);
}

extern __shared__ float4 memory[];

struct Arrays {
    float4* staged;
    float4* arrays;
    int size;
    __device__ __forceinline__ explicit Arrays(const Group& group)
        : staged(memory), arrays(memory + (group.geometry.staging ? group.size : 0)), size(group.size) {}
    __device__ __forceinline__ float4* operator[](int array) const { return arrays + array * size; }
    __device__ __forceinline__ Pair* partial(int count) const { return reinterpret_cast<Pair*>((*this)[count]); }
};

}  // namespace edge
