// Coil sensitivities from the ACS, in stages; what each stands for is told in edge_runtime/modalities/mri/coils.py.
#pragma once

#include <cstddef>
#include <vector>

#include "interpolation.cuh"
#include "panels.hpp"
#include "sensitivity.cuh"

namespace edge {

EDGE_DEVICE int column_blocks(const SensitivityGeometry& geometry) { return (geometry.columns + 7) / 8; }
EDGE_DEVICE int grid_blocks(const SensitivityGeometry& geometry) { return (geometry.grid_columns + 7) / 8; }

// Worked out once.
struct SensitivityTables {
    std::vector<double> line_waves;    // exp(2 pi i position lag), complex (grid_lines, lag_lines)
    std::vector<float> column_waves;   // the same, packed (grid_blocks, lag_columns): see vector.hpp
    std::vector<Between> lines, columns;  // of the image, between those of the grid

    explicit SensitivityTables(const SensitivityGeometry& geometry);
};

// One estimate. `factor` needs what came before it whole, the others share their work over an index.
struct SensitivityTask {
    const float* acs = nullptr;     // complex64 (coils, acs_lines, acs_columns)
    double threshold = 0;           // share of the largest singular value
    const float* weight = nullptr;  // float32 (phase_encodes, columns) by which maps are multiplied, or none
    float* out = nullptr;           // complex64 (coils, phase_encodes, columns)

    Panels calibration = {nullptr, 0};  // (windows, unknowns)
    Panels gram = {nullptr, 0};         // (unknowns, unknowns), rows padded as columns are; then the projection, its upper tiles
    Panels square = {nullptr, 0};       // gram²; then the Cholesky factor U of gram² + floor, its upper tiles
    Panels inverse = {nullptr, 0};      // lower tiles: U⁻ᴴ
    double* vectors = nullptr;          // two, each as long as a padded row, of the power iteration
    double* floor = nullptr;            // what is added to gram²; 0 where there is no signal
    double* lags = nullptr;             // complex (pairs of coils i <= j, lag_lines, lag_columns)
    float* widened = nullptr;           // packed (grid_lines, column_blocks, coils)
};

typedef void (*SensitivityKernel)(const SensitivityGeometry&, const SensitivityTables&, const SensitivityTask&,
                                  std::size_t index, float* scratch);

#define EDGE_SENSITIVITY_KERNELS(apply)                                                                      \
    apply(gather_calibration)   /* a panel: acs -> calibration */                                            \
    apply(gram_of_calibration)  /* a panel: calibration -> gram */                                           \
    apply(square_gram)          /* a panel: gram -> square */                                                \
    apply(find_floor)           /* square -> floor, from its largest eigenvalue */                           \
    apply(factor_square)        /* square, floor -> square, inverse */                                       \
    apply(project)              /* a panel: inverse -> gram = gram² (gram² + floor)⁻¹ */                     \
    apply(sum_lags)             /* gram -> lags, conjugate */                                                \
    apply(maps_of_grid_line)    /* a line of the grid: lags -> widened */                                    \
    apply(maps_of_image_line)   /* a line of the image: widened -> out */

std::size_t sensitivity_scratch(const SensitivityGeometry& geometry);  // floats that one thread needs

}  // namespace edge
