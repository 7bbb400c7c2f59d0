// Coil maps on a coarse grid, seen from the pixels of an image.
#pragma once

#include <vector>

#include "interpolation.cuh"
#include "vector.hpp"

namespace edge {
namespace EDGE_ISA {

// A line of maps, complex (coils, grid_columns), interpolated to the columns of the image: packed (column_blocks, coils).
inline void widen(const float* maps, int coils, int grid_columns, const std::vector<Between>& columns, float* to) {
    for (std::size_t first = 0; first < columns.size(); first += kLanes) {
        for (int coil = 0; coil < coils; ++coil, to += 2 * kLanes) {
            const float* map = maps + 2 * static_cast<std::ptrdiff_t>(coil) * grid_columns;
            for (int lane = 0; lane < kLanes; ++lane) {
                const Between& at = columns[first + static_cast<std::size_t>(lane)];
                const Complex<float> left{map[2 * at.left], map[2 * at.left + 1]}, right{map[2 * at.right], map[2 * at.right + 1]};
                const Complex<float> value = interpolated(left, right, at.weight);
                to[lane] = value.re;
                to[kLanes + lane] = value.im;
            }
        }
    }
}

// Eight pixels of all coils between two widened lines, and 1 / the length of each.
inline void pixels_between(const float* above, const float* below, float weight, int coils, ComplexVector* pixels, float* factors) {
    Vector power = {};
    for (int coil = 0; coil < coils; ++coil) {
        pixels[coil] = interpolated(load_packed(above + 2 * kLanes * coil), load_packed(below + 2 * kLanes * coil), weight);
        power = power + squared_magnitude(pixels[coil]);
    }
    store(factors, power);
    for (int lane = 0; lane < kLanes; ++lane) {
        const float length = __builtin_sqrtf(factors[lane]);
        factors[lane] = 1.0f / (length > kLeastLength ? length : kLeastLength);
    }
}

}  // namespace EDGE_ISA
}  // namespace edge
