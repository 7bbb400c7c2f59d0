#include "sensitivity.hpp"

#include <utility>

#include "hermitian.cuh"
#include "maps.hpp"
#include "table.hpp"

namespace edge {
namespace EDGE_ISA {

namespace {

typedef const SensitivityGeometry Geometry;
typedef const SensitivityTables Tables;
typedef const SensitivityTask Task;

// The tiles in the rows of a panel's number, from the diagonal on: a Hermitian matrix has no others of its own.
template <class Work>
void tiles_right_of(Geometry& geometry, int panel, Work work) {
    for (int right = panel; right < panels_of(geometry.unknowns()); ++right) work(right, kPanel * panel);
}

}  // namespace

void gather_calibration(Geometry& geometry, Tables&, Task& task, std::size_t index, float*) {
    const int kernel = geometry.kernel(), panel = static_cast<int>(index);
    for (int lane = 0; lane < kPanel; ++lane) {
        const int unknown = kPanel * panel + lane;
        const int coil = unknown / kernel, line = unknown % kernel / geometry.kernel_columns;
        const int column = unknown % geometry.kernel_columns;
        double* to = task.calibration.at(panel, 0) + lane;
        for (int down = line; down <= geometry.acs_lines - geometry.kernel_lines + line; ++down) {
            for (int along = column; along <= geometry.acs_columns - geometry.kernel_columns + column; ++along) {
                const std::ptrdiff_t at =
                    (static_cast<std::ptrdiff_t>(coil) * geometry.acs_lines + down) * geometry.acs_columns + along;
                to[0] = coil < geometry.coils ? static_cast<double>(task.acs[2 * at]) : 0.0;
                to[kPanel] = coil < geometry.coils ? static_cast<double>(task.acs[2 * at + 1]) : 0.0;
                to += 2 * kPanel;
            }
        }
    }
}

void gram_of_calibration(Geometry& geometry, Tables&, Task& task, std::size_t index, float*) {
    const int panel = static_cast<int>(index);
    tiles_right_of(geometry, panel, [&](int right, int row) {
        const Tile tile = product(task.calibration, panel, task.calibration, right, 0, geometry.windows());
        store_tile(task.gram.at(right, row), tile);
        store_tile(task.gram.at(panel, kPanel * right), mirrored(tile));
    });
}

void square_gram(Geometry& geometry, Tables&, Task& task, std::size_t index, float*) {
    const int panel = static_cast<int>(index);
    tiles_right_of(geometry, panel, [&](int right, int row) {
        const Tile tile = product(task.gram, panel, task.gram, right, 0, task.gram.rows);
        store_tile(task.square.at(right, row), tile);
        store_tile(task.square.at(panel, kPanel * right), mirrored(tile));
    });
}

void find_floor(Geometry& geometry, Tables&, Task& task, std::size_t, float*) {
    const int panels = panels_of(geometry.unknowns()), size = kPanel * panels;
    double *vector = task.vectors, *next = task.vectors + 2 * size;
    double trace = 0;
    for (int i = 0; i < size; ++i) {
        const Complex<double> value = PowerIteration::start(i);
        vector[2 * kPanel * (i / kPanel) + i % kPanel] = value.re;
        vector[2 * kPanel * (i / kPanel) + kPanel + i % kPanel] = value.im;
        trace += task.square.at(i / kPanel, i)[i % kPanel];
    }
    PowerIteration iteration;
    for (;;) {
        double power = 0;
        for (int i = 0; i < 2 * size; ++i) power += vector[i] * vector[i];
        const double length = __builtin_sqrt(power), factor = 1.0 / length / trace;
        if (!iteration.goes_on(length)) break;
        for (int panel = 0; panel < panels; ++panel) {  // conj(vᴴ gram²) = gram² v
            Doubles re = {}, im = {};
            const double* column = task.square.at(panel, 0);
            for (int row = 0; row < size; ++row, column += 2 * kPanel) {
                const double* v = vector + 2 * kPanel * (row / kPanel) + row % kPanel;
                const Doubles g_re = load_doubles(column), g_im = load_doubles(column + kPanel);
                re = (re + v[0] * g_re) + v[kPanel] * g_im;
                im = (im + v[kPanel] * g_re) - v[0] * g_im;
            }
            store_doubles(next + 2 * kPanel * panel, factor * re);
            store_doubles(next + 2 * kPanel * panel + kPanel, factor * im);
        }
        std::swap(vector, next);
    }
    *task.floor = iteration.floor(trace, task.threshold);
}

// gram² + floor = Uᴴ U, and V = U⁻ᴴ by U's rows, four at a time: those of U and of V are solved for with the same pivots.
void factor_square(Geometry& geometry, Tables&, Task& task, std::size_t, float*) {
    if (*task.floor == 0) return;
    const Panels &upper = task.square, &lower = task.inverse;
    for (int panel = 0; panel < panels_of(geometry.unknowns()); ++panel) {
        const int row = kPanel * panel;
        const Tile diagonal = load_tile(upper.at(panel, row)) - product(upper, panel, upper, panel, 0, row);
        const Pivots pivots = pivots_of(shifted(diagonal, 1.0, *task.floor));
        for (int right = panel + 1; right < panels_of(geometry.unknowns()); ++right) {
            const Tile tile = load_tile(upper.at(right, row)) - product(upper, panel, upper, right, 0, row);
            store_tile(upper.at(right, row), solved(pivots, tile));
        }
        for (int left = 0; left <= panel; ++left) {
            const Tile tile = product(upper, panel, lower, left, kPanel * left, row);
            store_tile(lower.at(left, row), solved(pivots, shifted(tile, -1.0, left == panel ? 1.0 : 0.0)));
        }
    }
}

// 1 - floor (gram² + floor)⁻¹, with the inverse as Vᴴ V.
void project(Geometry& geometry, Tables&, Task& task, std::size_t index, float*) {
    const int panel = static_cast<int>(index);
    const double floor = *task.floor;
    if (floor == 0) return;
    tiles_right_of(geometry, panel, [&](int right, int row) {
        const Tile tile = product(task.inverse, panel, task.inverse, right, kPanel * right, task.inverse.rows);
        store_tile(task.gram.at(right, row), shifted(tile, -floor, right == panel ? 1.0 : 0.0));
    });
}

void sum_lags(Geometry& geometry, Tables&, Task& task, std::size_t, float*) {
    const int kernel_columns = geometry.kernel_columns, kernel = geometry.kernel();
    const int lag_columns = geometry.lag_columns(), lags = geometry.lag_lines() * lag_columns;
    const int centre = (geometry.kernel_lines - 1) * lag_columns + kernel_columns - 1;
    std::memset(task.lags, 0, sizeof(double) * static_cast<std::size_t>(geometry.coils * (geometry.coils + 1) * lags));
    if (*task.floor == 0) return;
    double* sums = task.lags;
    for (int first = 0; first < geometry.coils; ++first) {
        for (int second = first; second < geometry.coils; ++second, sums += 2 * lags) {
            for (int i = 0; i < kernel; ++i) {
                const int row = first * kernel + i;
                for (int j = first == second ? i : 0; j < kernel; ++j) {
                    const int column = second * kernel + j;
                    const double* element = task.gram.at(column / kPanel, row) + column % kPanel;
                    const int lag = (i / kernel_columns - j / kernel_columns) * lag_columns + i % kernel_columns - j % kernel_columns;
                    sums[2 * (centre + lag)] += element[0];
                    sums[2 * (centre + lag) + 1] -= element[kPanel];
                    if (first == second && i != j) {  // the other triangle
                        sums[2 * (centre - lag)] += element[0];
                        sums[2 * (centre - lag) + 1] += element[kPanel];
                    }
                }
            }
        }
    }
}

void maps_of_grid_line(Geometry& geometry, Tables& tables, Task& task, std::size_t line, float* scratch) {
    const int coils = geometry.coils, lag_lines = geometry.lag_lines(), lag_columns = geometry.lag_columns();
    ComplexVector* matrix = reinterpret_cast<ComplexVector*>(scratch);
    ComplexVector* other = matrix + coils * coils;
    float* along_line = reinterpret_cast<float*>(other + coils * coils);                // complex (pairs, lag_columns)
    float* maps = along_line + coils * (coils + 1) * lag_columns;                       // complex (coils, grid_columns)
    const double* waves = tables.line_waves.data() + 2 * lag_lines * static_cast<std::ptrdiff_t>(line);
    for (int pair = 0; pair < geometry.pairs(); ++pair) {
        for (int column = 0; column < lag_columns; ++column) {
            double re = 0, im = 0;
            for (int lag = 0; lag < lag_lines; ++lag) {
                const double* sum = task.lags + 2 * ((static_cast<std::ptrdiff_t>(pair) * lag_lines + lag) * lag_columns + column);
                re += waves[2 * lag] * sum[0] - waves[2 * lag + 1] * sum[1];
                im += waves[2 * lag] * sum[1] + waves[2 * lag + 1] * sum[0];
            }
            along_line[2 * (pair * lag_columns + column)] = static_cast<float>(re);
            along_line[2 * (pair * lag_columns + column) + 1] = static_cast<float>(im);
        }
    }
    for (int block = 0; block < grid_blocks(geometry); ++block) {
        const float* column_waves = tables.column_waves.data() + 2 * kLanes * block * lag_columns;
        const float* lags = along_line;
        for (int i = 0; i < coils; ++i) {
            for (int j = i; j < coils; ++j, lags += 2 * lag_columns) {
                ComplexVector sum = {};
                for (int lag = 0; lag < lag_columns; ++lag) {
                    sum = sum + times(load_packed(column_waves + 2 * kLanes * lag), lags[2 * lag], lags[2 * lag + 1]);
                }
                matrix[i * coils + j] = sum;
                matrix[j * coils + i] = {sum.re, -sum.im};
            }
        }
        make_rank_one(matrix, coils, other);
        for (int lane = 0; lane < kLanes && kLanes * block + lane < geometry.grid_columns; ++lane) {
            const Strided of_lane{reinterpret_cast<const float*>(matrix) + lane, 2 * kLanes, kLanes};
            eigenvector_of_rank_one(of_lane, coils, 0, [&](int coil, Complex<float> component) {
                float* to = maps + 2 * (coil * geometry.grid_columns + kLanes * block + lane);
                to[0] = component.re;
                to[1] = component.im;
            });
        }
    }
    const std::ptrdiff_t widened_line = static_cast<std::ptrdiff_t>(2 * kLanes) * column_blocks(geometry) * coils;
    widen(maps, coils, geometry.grid_columns, tables.columns, task.widened + widened_line * static_cast<std::ptrdiff_t>(line));
}

void maps_of_image_line(Geometry& geometry, Tables& tables, Task& task, std::size_t line, float* scratch) {
    const int coils = geometry.coils;
    const Between& at = tables.lines[line];
    const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(2 * kLanes) * coils;
    ComplexVector* pixels = reinterpret_cast<ComplexVector*>(scratch);
    for (int block = 0; block < column_blocks(geometry); ++block) {
        const int column = kLanes * block, left = geometry.columns - column;
        const std::ptrdiff_t first = static_cast<std::ptrdiff_t>(line) * geometry.columns + column;
        const float* above = task.widened + block_size * (static_cast<std::ptrdiff_t>(at.left) * column_blocks(geometry) + block);
        const float* below = task.widened + block_size * (static_cast<std::ptrdiff_t>(at.right) * column_blocks(geometry) + block);
        float factors[kLanes];
        pixels_between(above, below, at.weight, coils, pixels, factors);
        if (task.weight) {
            for (int lane = 0; lane < kLanes && lane < left; ++lane) factors[lane] *= task.weight[first + lane];
        }
        const Vector factor = load(factors);
        for (int coil = 0; coil < coils; ++coil) {
            const std::ptrdiff_t whole = static_cast<std::ptrdiff_t>(coil) * geometry.phase_encodes * geometry.columns;
            store_some(task.out + 2 * (whole + first), scaled(pixels[coil], factor), left);
        }
    }
}

}  // namespace EDGE_ISA
}  // namespace edge
