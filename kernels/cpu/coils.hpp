// What is done with whole coils of one slice: mixing them into virtual ones, and combining their images.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "interpolation.cuh"
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

// Adaptive combination: the coils' covariance in every cell of kCell x kCell pixels, its dominant eigenvector as their sensitivities
// there, and the sensitivities of a pixel from the cells around it.
constexpr int kCell = 8;  // as wide as a block of columns

inline int cells_of(int pixels) { return (pixels + kCell - 1) / kCell; }

struct AdaptiveTask {
    CoilTask coils = {};           // its out: complex64 (phase_encodes, columns)
    int reference = 0;             // the coil whose phase the image gets
    float* images = nullptr;       // packed (column_blocks, coils, phase_encodes)
    float* powers = nullptr;       // (column_blocks, coils)
    float* widened = nullptr;      // packed (cells of the phase encodes, column_blocks, coils)
    std::vector<Between> lines, columns;  // of the image, between the cells'
};

typedef void (*AdaptiveKernel)(const Transform&, const AdaptiveTask&, std::size_t index, float* scratch);

#define EDGE_ADAPTIVE_KERNELS(apply)                               \
    apply(image_block)   /* a block: samples -> images, powers */  \
    apply(map_cells)     /* a line of cells: images -> widened */  \
    apply(combine_line)  /* a line: images, widened -> out */

std::size_t adaptive_scratch(const Transform& transform, int coils, int columns);

}  // namespace edge
