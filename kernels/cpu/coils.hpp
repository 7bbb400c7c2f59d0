// What is done with whole coils of one slice: mixing them into virtual ones, and combining their images.
#pragma once

#include <cstddef>
#include <cstdint>

#include "transform.hpp"

namespace edge {

struct CoilTask {
    const float* samples;          // complex64 (coils, phase_encodes, columns), columns side by side
    std::int64_t coil_stride;      // complex numbers from one coil to the next
    std::int64_t line_stride;      // and from one phase encode to the next
    int coils, phase_encodes, columns;
    const bool* measured;          // (phase_encodes,); other lines count as zero and are not looked at
    const float* matrix;           // complex64 (virtual_coils, coils)
    int virtual_coils;
    float* out;
};

// Line `line` of out complex64 (virtual_coils, phase_encodes, columns). Scratch: coil_scratch floats.
typedef void (*CompressLine)(const CoilTask&, std::size_t line, float* scratch);

// Block `block` of eight columns of out float32 (phase_encodes, columns): root-sum-of-squares of the coil images.
typedef void (*CombineBlock)(const Transform&, const CoilTask&, std::size_t block, float* scratch);

std::size_t coil_scratch(const Transform& transform, int coils);

}  // namespace edge
