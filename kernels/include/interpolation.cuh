// Where the points of a fine axis lie between those of a coarse one.
#pragma once

#include "complex.cuh"

namespace edge {

struct Between {
    int left, right;
    float weight;  // of the right one
};

template <class Real>
EDGE_DEVICE Between between(Real position, int grid) {
    position = position > 0 ? position : Real(0);  // the rim is repeated
    position = position < Real(grid - 1) ? position : Real(grid - 1);
    int left = static_cast<int>(position);
    if (left > grid - 2) left = grid > 1 ? grid - 2 : 0;
    return {left, grid > 1 ? left + 1 : 0, static_cast<float>(position - Real(left))};
}

// Both axes centred at n / 2, over the same field of view.
EDGE_DEVICE Between between_centred(int index, int size, int grid) {
    return between((index - size / 2) * (static_cast<double>(grid) / size) + grid / 2, grid);
}

// A coarse point in the middle of every `cell` fine ones, a power of two: nothing here is rounded.
EDGE_DEVICE Between between_cells(int index, int cell, int cells) {
    return between((static_cast<float>(index) - 0.5f * static_cast<float>(cell - 1)) / static_cast<float>(cell), cells);
}

template <class V>
EDGE_DEVICE Complex<V> interpolated(Complex<V> left, Complex<V> right, float weight) {
    return scaled(left, 1.0f - weight) + scaled(right, weight);
}

constexpr float kLeastLength = 1e-6f;  // by which a pixel of interpolated maps is divided

}  // namespace edge
