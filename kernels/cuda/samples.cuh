// Samples of all coils of one slice in hybrid space, as they were assembled: columns side by side, coils and lines apart by any number of
// them.
#pragma once

#include "group.cuh"

namespace edge {

struct Samples {
    const float2* array;
    const unsigned char* measured;  // (lines,); other lines hold anything
    long long coil_stride, line_stride;
    int wide;  // whether pairs of columns lie at multiples of 16 bytes
};

__device__ __forceinline__ ComplexPair load(const Samples& samples, int coil, int line, int column, int columns) {
    const float2* const at = samples.array + coil * samples.coil_stride + line * samples.line_stride + column;
    if (samples.wide && column < columns) {
        const float4 both = __ldg(reinterpret_cast<const float4*>(at));
        return {{both.x, both.z}, {both.y, both.w}};
    }
    const float2 none = make_float2(0.0f, 0.0f);
    const float2 first = column < columns ? __ldg(at) : none, second = column + 1 < columns ? __ldg(at + 1) : none;
    return {{first.x, second.x}, {first.y, second.y}};
}

// One coil's image of the group in an array of shared memory, its centre at index 0; what was not measured counts as zero. Ends in a
// barrier.
__device__ __forceinline__ void coil_image(const Group& group, const Samples& samples, int coil, float4* array, float4* staged) {
    const Lines& lines = group.lines;
    const Shared work{array};
    every_line(group, [&](int position) {
        const int line = group.line_of(position);
        const ComplexPair none = {{0.0f, 0.0f}, {0.0f, 0.0f}};
        const ComplexPair sample = samples.measured[line] ? load(samples, coil, line, group.column, group.geometry.columns) : none;
        work(position, scaled(sample, lines.scale));
    });
    __syncthreads();
    inverse(lines, array, staged);
}

}  // namespace edge
