#include <algorithm>
#include <cmath>

#include "sensitivity.hpp"

namespace edge {

namespace {

constexpr std::size_t kPacked = 16, kLanes = 8;  // see vector.hpp

// exp(2 pi i position lag) of a centred grid's point
void wave(int index, int grid, int lag, double* to) {
    const double angle = 2 * 3.14159265358979323846 * static_cast<double>(index - grid / 2) / grid * lag;
    to[0] = std::cos(angle);
    to[1] = std::sin(angle);
}

}  // namespace

SensitivityTables::SensitivityTables(const SensitivityGeometry& geometry) {
    for (int line = 0; line < geometry.grid_lines; ++line) {
        for (int lag = 1 - geometry.kernel_lines; lag < geometry.kernel_lines; ++lag) {
            double value[2];
            wave(line, geometry.grid_lines, lag, value);
            line_waves.insert(line_waves.end(), value, value + 2);
        }
    }
    column_waves.resize(kPacked * static_cast<std::size_t>(grid_blocks(geometry) * geometry.lag_columns()));
    for (int column = 0; column < geometry.grid_columns; ++column) {
        for (int lag = 0; lag < geometry.lag_columns(); ++lag) {
            double value[2];
            wave(column, geometry.grid_columns, lag + 1 - geometry.kernel_columns, value);
            const std::size_t block = static_cast<std::size_t>(column) / kLanes, lane = static_cast<std::size_t>(column) % kLanes;
            float* to = &column_waves[kPacked * (block * static_cast<std::size_t>(geometry.lag_columns()) + static_cast<std::size_t>(lag))];
            to[lane] = static_cast<float>(value[0]);
            to[kLanes + lane] = static_cast<float>(value[1]);
        }
    }
    for (int line = 0; line < geometry.phase_encodes; ++line) {
        lines.push_back(between_centred(line, geometry.phase_encodes, geometry.grid_lines));
    }
    for (int column = 0; column < 8 * column_blocks(geometry); ++column) {  // those beyond the image are never looked at
        columns.push_back(between_centred(std::min(column, geometry.columns - 1), geometry.columns, geometry.grid_columns));
    }
}

std::size_t sensitivity_scratch(const SensitivityGeometry& geometry) {
    const std::size_t coils = static_cast<std::size_t>(geometry.coils);
    const std::size_t matrices = 2 * kPacked * coils * coils;
    const std::size_t along_line = coils * (coils + 1) * static_cast<std::size_t>(geometry.lag_columns());
    return matrices + along_line + 2 * coils * static_cast<std::size_t>(geometry.grid_columns);
}

}  // namespace edge
