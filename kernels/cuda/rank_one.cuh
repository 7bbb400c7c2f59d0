// Squaring of a small matrix by a warp, in shared memory: kernels/include/hermitian.cuh for a GPU, where a pixel's matrix would not fit
// a thread's registers.
#pragma once

#include "hermitian.cuh"

namespace edge {

__device__ __forceinline__ Complex<float> complex_of(float2 value) { return {value.x, value.y}; }

// Calls `act(i, j)` for the elements of an n x n matrix that are this lane's.
template <class Act>
__device__ __forceinline__ void every_element(int n, Act act) {
    for (int at = threadIdx.x; at < n * n; at += blockDim.x) act(at / n, at % n);
}

// to = (from / trace)², as fromᴴ from: what rounding leaves of a matrix that is not Hermitian would double with every square. `from` is
// whole before; ends in a barrier of the warp.
__device__ __forceinline__ void square_normalised(const float2* from, int n, float2* to) {
    float trace = 0.0f;
    for (int i = 0; i < n; ++i) trace += from[i * n + i].x;
    const float factor = 1.0f / (trace + 1e-37f);
    every_element(n, [&](int i, int j) {
        Complex<float> sum = {};
        for (int k = 0; k < n; ++k) {
            sum = sum + conjugate_times(scaled(complex_of(from[k * n + i]), factor), complex_of(from[k * n + j]));
        }
        sum = scaled(sum, factor);
        to[i * n + j] = make_float2(sum.re, sum.im);
    });
    __syncwarp();
}

// Leaves next to nothing but the largest eigenvalue's part, as the function of the same name does. threadIdx.x is a lane, a row of the
// block a warp. `matrix` is whole before; ends in a barrier of the warp.
__device__ __forceinline__ void make_rank_one(float2* matrix, int n, float2* other) {
    for (int pair = 0; pair < 3; ++pair) {
        square_normalised(matrix, n, other);
        square_normalised(other, n, matrix);
    }
}

}  // namespace edge
