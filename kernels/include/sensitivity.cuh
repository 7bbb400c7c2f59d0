// What estimates of coil sensitivities have in common wherever they run: sizes, and when a power iteration ends.
#pragma once

#include "pivots.cuh"

namespace edge {

struct SensitivityGeometry {
    int coils;
    int acs_lines, acs_columns;
    int kernel_lines, kernel_columns;  // at most those of the ACS
    int grid_lines, grid_columns;      // on which maps are computed; at most those of the image
    int phase_encodes, columns;

    EDGE_DEVICE int kernel() const { return kernel_lines * kernel_columns; }
    EDGE_DEVICE int unknowns() const { return coils * kernel(); }
    EDGE_DEVICE int padded() const { return (unknowns() + kPanel - 1) / kPanel * kPanel; }  // rows and columns of matrices
    EDGE_DEVICE int windows_along() const { return acs_columns - kernel_columns + 1; }
    EDGE_DEVICE int windows() const { return (acs_lines - kernel_lines + 1) * windows_along(); }
    EDGE_DEVICE int pairs() const { return coils * (coils + 1) / 2; }  // of coils, i <= j
    EDGE_DEVICE int lag_lines() const { return 2 * kernel_lines - 1; }
    EDGE_DEVICE int lag_columns() const { return 2 * kernel_columns - 1; }
};

// The largest eigenvalue of gram², by power iteration from a vector without symmetry. It is approached from below, with the square of the
// lead that it has over the next one; where they are so close that the steps run out, either serves as a measure of the signal. With gram
// itself it would take twice the steps. Lengths are shares of the trace, so that none overflows, whatever the units of the samples.
struct PowerIteration {
    static constexpr int kMostSteps = 300;
    static constexpr double kPrecision = 1e-9;  // relative; the projection moves by no more than a quarter of it

    double largest = 0;
    int step = 0;

    EDGE_DEVICE static Complex<double> start(int i) {
        const double turns = 0.6180339887498949 * i * i;
        const double turn = turns - static_cast<double>(static_cast<long long>(turns));
        return {1.0 - 2.0 * turn, turn};
    }

    // Whether another step is due; `length` is that of the start, then of the matrix over its trace times a unit vector.
    EDGE_DEVICE bool goes_on(double length) {
        const bool settled = step > 1 && length - largest <= kPrecision * length;
        if (step) largest = length;
        return length > 0 && !settled && step++ < kMostSteps;
    }

    // What is added to gram² where singular values count half at this share of the largest; 0 without any signal.
    EDGE_DEVICE double floor(double trace, double threshold) const {
        const double square = threshold * threshold, floor = largest * trace * square * square;
        return floor > 0 ? floor : 0.0;
    }
};

}  // namespace edge
