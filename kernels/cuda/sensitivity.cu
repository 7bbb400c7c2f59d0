// Coil sensitivities from the ACS, kernels/cpu/sensitivity.cpp for a GPU, stage by stage; what each stands for is told in
// edge_runtime/modalities/mri/coils.py. Launches follow one another in a stream, and leave everything on the device.
//
// Up to the lags everything is in double precision, which is what these stages cost: of compute capability 8.6 a multiprocessor does two
// such FMAs a cycle (CUDA C++ Programming Guide), against 128 single ones, and a warp's other work hides behind them; Orin's 8.7 is taken
// to be alike, and has not been measured. Of n unknowns and w windows in FMAs: gram 2 n² w, square 2 n³, a step of the power iteration
// 4 n², factor 4/3 n³, lags 2/3 n³. For 8 coils with kernels of 4 x 4 and an ACS of 24 x 24 (n = 128, w = 441): 14, 4.2, 0.07 a step
// (about 40 of them), 2.8 and 1.4 million. The steps and the factor are one block's: each of their parts waits for all of the one before.
#include "interpolation.cuh"
#include "pair.cuh"
#include "rank_one.cuh"
#include "sensitivity.cuh"

namespace edge {

// One plan's; the device's memory. Matrices are (padded, padded), row by row.
struct Sensitivity {
    SensitivityGeometry geometry;
    double2* gram;                   // whole; then the projection, of pairs of coils i <= j
    double2* square;                 // whole: gram²; then the Cholesky factor U of gram² + floor, its upper triangle
    double2* inverse;                // lower triangle: U⁻ᴴ
    double* floor;                   // what is added to gram²; 0 where there is no signal
    double2* lags;                   // (pairs of coils i <= j, lag_lines, lag_columns)
    float2* maps;                    // (coils, grid_lines, grid_columns)
    const double2* line_waves;       // exp(2 pi i position lag), (grid_lines, lag_lines)
    const float2* column_waves;      // the same, (grid_columns, lag_columns)
    const Between *lines, *columns;  // of the image, between those of the grid
};

extern __shared__ float4 memory[];

constexpr int kTile = 16;  // rows and columns of a matrix that a block does, an element a thread

__device__ __forceinline__ Complex<double> complex_of(double2 value) { return {value.x, value.y}; }
__device__ __forceinline__ double2 packed(Complex<double> value) { return make_double2(value.re, value.im); }

// sum + conj(a) b in four FMAs; a sum of finished products would take six operations.
__device__ __forceinline__ Complex<double> plus_product(Complex<double> sum, double2 a, double2 b) {
    return {(sum.re + a.x * b.x) + a.y * b.y, (sum.im + a.x * b.y) - a.y * b.x};
}

// (Aᴴ A)[row][column] from A's rows first..end.
__device__ __forceinline__ Complex<double> product(const double2* a, int size, int row, int column, int first, int end) {
    Complex<double> sum = {};
#pragma unroll 4
    for (int k = first; k < end; ++k) sum = plus_product(sum, a[k * size + row], a[k * size + column]);
    return sum;
}

// An element of a Hermitian matrix, and the one across the diagonal.
__device__ __forceinline__ void store_hermitian(double2* a, int size, int row, int column, Complex<double> value) {
    a[column * size + row] = packed({value.re, -value.im});
    a[row * size + column] = packed(value);
}

// An element of the calibration matrix (windows, unknowns), 0 outside.
__device__ __forceinline__ double2 calibration(const SensitivityGeometry& g, const float2* acs, int window, int unknown) {
    if (window >= g.windows() || unknown >= g.unknowns()) return make_double2(0.0, 0.0);
    const int coil = unknown / g.kernel(), within = unknown % g.kernel();
    const int line = within / g.kernel_columns + window / g.windows_along();
    const int column = within % g.kernel_columns + window % g.windows_along();
    const float2 sample = __ldg(acs + (coil * g.acs_lines + line) * g.acs_columns + column);
    return make_double2(sample.x, sample.y);
}

// The sum of all threads' values, for all of them. `partial` is shared, (warps,); ends in a barrier, and is read after it.
__device__ __forceinline__ double sum_of_block(double value, double* partial) {
    for (unsigned turned = 1; turned < 32; turned *= 2) value += __shfl_xor_sync(0xffffffffu, value, turned);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    double sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    return sum;
}

// Calls `act(to, column, first)` for the columns of this thread in four rows: of V, which begin in row `first`, then of U.
template <class Act>
__device__ __forceinline__ void every_column(const Sensitivity& plan, int row, Act act) {
    for (int at = threadIdx.x; at < plan.geometry.padded() + kPanel; at += blockDim.x) {
        if (at < row + kPanel) {
            act(plan.inverse, at, at / kPanel * kPanel);
        } else {
            act(plan.square, at - kPanel, 0);
        }
    }
}

}  // namespace edge

using namespace edge;

// acs complex64 (coils, acs_lines, acs_columns) -> gram. Launch: grid (tiles, tiles), block (kTile, kTile), shared double2 (2, kTile,
// kTile), where samples become doubles once for all elements of the tile.
extern "C" __global__ void __launch_bounds__(256) sensitivity_gram(Sensitivity plan, const float2* acs) {
    if (blockIdx.x < blockIdx.y) return;  // the other triangle
    const SensitivityGeometry& g = plan.geometry;
    const int row = kTile * blockIdx.y + threadIdx.y, column = kTile * blockIdx.x + threadIdx.x, size = g.padded();
    double2 *const left = reinterpret_cast<double2*>(memory), *const right = left + kTile * kTile;
    const int mine = kTile * threadIdx.y + threadIdx.x;
    Complex<double> sum = {};
    for (int first = 0; first < g.windows(); first += kTile) {
        left[mine] = calibration(g, acs, first + threadIdx.y, kTile * blockIdx.y + threadIdx.x);
        right[mine] = calibration(g, acs, first + threadIdx.y, column);
        __syncthreads();
#pragma unroll
        for (int k = 0; k < kTile; ++k) sum = plus_product(sum, left[kTile * k + threadIdx.y], right[kTile * k + threadIdx.x]);
        __syncthreads();
    }
    if (row <= column && column < size) store_hermitian(plan.gram, size, row, column, sum);
}

// gram -> square. Launch: grid (tiles, tiles), block (kTile, kTile).
extern "C" __global__ void __launch_bounds__(256) sensitivity_square(Sensitivity plan) {
    const int row = kTile * blockIdx.y + threadIdx.y, column = kTile * blockIdx.x + threadIdx.x, size = plan.geometry.padded();
    if (row > column || column >= size) return;
    store_hermitian(plan.square, size, row, column, product(plan.gram, size, row, column, 0, size));
}

// square -> floor, from its largest eigenvalue. Launch: one block of whole warps; shared double2 (2, padded), double (2, warps). What is
// written of a step is not what others still read of the one before, so one barrier a step does.
extern "C" __global__ void __launch_bounds__(256) sensitivity_floor(Sensitivity plan, double threshold) {
    const int size = plan.geometry.padded(), warps = blockDim.x / 32;
    double2* const vectors = reinterpret_cast<double2*>(memory);
    double* const partial = reinterpret_cast<double*>(vectors + 2 * size);
    double trace = 0;
    for (int i = 0; i < size; ++i) trace += plan.square[i * size + i].x;
    PowerIteration iteration;
    double factor = 0;
    bool going = true;
    for (int step = 0; going; ++step) {
        double2 *const vector = vectors + (step + 1) % 2 * size, *const next = vectors + step % 2 * size;
        double power = 0;
        for (int i = threadIdx.x; i < size; i += blockDim.x) {
            Complex<double> value = PowerIteration::start(i);
            if (step) {
                value = {};
#pragma unroll 4
                for (int k = 0; k < size; ++k) value = plus_product(value, plan.square[k * size + i], vector[k]);
                value = scaled(value, factor);
            }
            next[i] = packed(value);
            power += squared_magnitude(value);
        }
        const double length = sqrt(sum_of_block(power, partial + step % 2 * warps));
        going = iteration.goes_on(length);
        factor = 1.0 / length / trace;
    }
    if (threadIdx.x == 0) *plan.floor = iteration.floor(trace, threshold);
}

// gram² + floor = Uᴴ U, and V = U⁻ᴴ by U's rows, four at a time: square, floor -> square, inverse. A thread has columns of both. Launch:
// one block; shared Pivots.
extern "C" __global__ void __launch_bounds__(256) sensitivity_factor(Sensitivity plan) {
    const double floor = *plan.floor;
    if (floor == 0) return;
    const int size = plan.geometry.padded();
    Pivots& pivots = *reinterpret_cast<Pivots*>(memory);
    for (int row = 0; row < size; row += kPanel) {
        const double2* const above = plan.square + row;  // the columns of U that end in these rows' diagonal
        every_column(plan, row, [&](double2* matrix, int column, int first) {
            Complex<double> sums[kPanel] = {};
#pragma unroll 2
            for (int k = first; k < row; ++k) {
                const double2 factor = matrix[k * size + column];
#pragma unroll
                for (int i = 0; i < kPanel; ++i) sums[i] = plus_product(sums[i], above[k * size + i], factor);
            }
            for (int i = 0; i < kPanel; ++i) {
                double2& element = matrix[(row + i) * size + column];
                double2 whole = make_double2(row + i == column ? 1.0 : 0.0, 0.0);
                if (matrix == plan.square) whole = make_double2(element.x + whole.x * floor, element.y);
                element = make_double2(whole.x - sums[i].re, whole.y - sums[i].im);
            }
        });
        __syncthreads();
        if (threadIdx.x == 0) {
            for (int i = 0; i < kPanel; ++i) {
                for (int column = i; column < kPanel; ++column) {
                    const double2 element = above[(row + i) * size + column];
                    pivots.re[i][column] = element.x;
                    pivots.im[i][column] = element.y;
                }
            }
            pivots.factor();
        }
        __syncthreads();
        every_column(plan, row, [&](double2* matrix, int column, int) {
            double re[kPanel], im[kPanel];
            for (int i = 0; i < kPanel; ++i) {
                const double2 element = matrix[(row + i) * size + column];
                re[i] = element.x;
                im[i] = element.y;
            }
            pivots.solve(re, im);
            for (int i = 0; i < kPanel; ++i) matrix[(row + i) * size + column] = make_double2(re[i], im[i]);
        });
        __syncthreads();
    }
}

// The projection gram² (gram² + floor)⁻¹ = 1 - floor Vᴴ V of a pair of coils, and the conjugates of its sums over equal lags: inverse,
// floor -> gram, lags. Launch: grid (coils, coils), any block.
extern "C" __global__ void __launch_bounds__(256) sensitivity_lags(Sensitivity plan) {
    const SensitivityGeometry& g = plan.geometry;
    const int first = blockIdx.y, second = blockIdx.x, kernel = g.kernel(), size = g.padded();
    if (second < first) return;
    double2* const lags = plan.lags + (first * g.coils - first * (first - 1) / 2 + second - first) * g.lag_lines() * g.lag_columns();
    const double floor = *plan.floor;
    for (int at = threadIdx.x; floor > 0 && at < kernel * kernel; at += blockDim.x) {
        const int row = first * kernel + at / kernel, column = second * kernel + at % kernel, later = row > column ? row : column;
        const Complex<double> sum = product(plan.inverse, size, row, column, later / kPanel * kPanel, size);
        plan.gram[row * size + column] = packed({(row == column ? 1.0 : 0.0) - floor * sum.re, -floor * sum.im});
    }
    __syncthreads();
    for (int at = threadIdx.x; at < g.lag_lines() * g.lag_columns(); at += blockDim.x) {
        const int lag_line = at / g.lag_columns() + 1 - g.kernel_lines, lag_column = at % g.lag_columns() + 1 - g.kernel_columns;
        Complex<double> sum = {};
        for (int j = 0; floor > 0 && j < kernel; ++j) {
            const int line = j / g.kernel_columns + lag_line, column = j % g.kernel_columns + lag_column;
            if (line < 0 || line >= g.kernel_lines || column < 0 || column >= g.kernel_columns) continue;
            sum = sum + complex_of(plan.gram[(first * kernel + line * g.kernel_columns + column) * size + second * kernel + j]);
        }
        lags[at] = packed({sum.re, -sum.im});
    }
}

// lags -> maps. Launch: grid (grid_lines), block (32, warps): a warp does a pixel at a time; shared float2 (pairs, lag_columns), then of
// each warp float2 (2, coils, coils).
extern "C" __global__ void __launch_bounds__(256) sensitivity_maps_of_grid(Sensitivity plan) {
    const SensitivityGeometry& g = plan.geometry;
    const int n = g.coils, line = blockIdx.x, lag_lines = g.lag_lines(), lag_columns = g.lag_columns(), along = g.pairs() * lag_columns;
    float2* const along_line = reinterpret_cast<float2*>(memory);
    float2 *const matrix = along_line + along + 2 * n * n * threadIdx.y, *const other = matrix + n * n;
    for (int at = 32 * threadIdx.y + threadIdx.x; at < along; at += 32 * blockDim.y) {
        const int pair = at / lag_columns, column = at % lag_columns;
        Complex<double> sum = {};
        for (int lag = 0; lag < lag_lines; ++lag) {
            const double2 of_pair = plan.lags[(pair * lag_lines + lag) * lag_columns + column];
            sum = sum + complex_of(plan.line_waves[line * lag_lines + lag]) * complex_of(of_pair);
        }
        along_line[at] = make_float2(static_cast<float>(sum.re), static_cast<float>(sum.im));
    }
    __syncthreads();
    for (int column = threadIdx.y; column < g.grid_columns; column += blockDim.y) {
        const float2* const waves = plan.column_waves + column * lag_columns;
        every_element(n, [&](int i, int j) {
            const int first = i < j ? i : j, second = i < j ? j : i;
            const float2* const lags = along_line + (first * n - first * (first - 1) / 2 + second - first) * lag_columns;
            Complex<float> sum = {};
            for (int lag = 0; lag < lag_columns; ++lag) sum = sum + complex_of(__ldg(waves + lag)) * complex_of(lags[lag]);
            matrix[i * n + j] = make_float2(sum.re, i <= j ? sum.im : -sum.im);
        });
        __syncwarp();
        make_rank_one(matrix, n, other);
        if (threadIdx.x == 0) {
            eigenvector_of_rank_one(Strided{&matrix->x, 2, 1}, n, 0, [&](int coil, Complex<float> component) {
                float2* const map = plan.maps + (static_cast<long long>(coil) * g.grid_lines + line) * g.grid_columns;
                map[column] = make_float2(component.re, component.im);
            });
        }
        __syncwarp();
    }
}

// maps -> out complex64 (coils, phase_encodes, columns), of unit length at each pixel, times `weight` (phase_encodes, columns) if there is
// one. A thread does two neighbouring pixels, and looks at them twice rather than keep all coils. Launch: grid (phase_encodes, blocks of
// pairs of columns).
extern "C" __global__ void __launch_bounds__(256) sensitivity_maps_of_image(Sensitivity plan, const float* weight, float2* out) {
    const SensitivityGeometry& g = plan.geometry;
    const int line = blockIdx.x, column = 2 * (blockIdx.y * blockDim.x + threadIdx.x);
    if (column >= g.columns) return;
    const bool both = column + 1 < g.columns;
    const Between down = plan.lines[line], first = plan.columns[column], second = plan.columns[both ? column + 1 : column];
    const auto at_pixels = [&](int coil) {
        const auto at = [&](int grid_line, const Between& between) {
            const float2* const map = plan.maps + (static_cast<long long>(coil) * g.grid_lines + grid_line) * g.grid_columns;
            return interpolated(complex_of(map[between.left]), complex_of(map[between.right]), between.weight);
        };
        const auto pair = [&](int grid_line) {
            const Complex<float> a = at(grid_line, first), b = at(grid_line, second);
            return ComplexPair{{a.re, b.re}, {a.im, b.im}};
        };
        return interpolated(pair(down.left), pair(down.right), down.weight);
    };
    Pair power = {0.0f, 0.0f};
    for (int coil = 0; coil < g.coils; ++coil) power = power + squared_magnitude(at_pixels(coil));
    const long long pixel = static_cast<long long>(line) * g.columns + column;
    const auto factor_of = [&](float squared, int of) {
        const float length = sqrtf(squared);
        return (weight ? weight[pixel + of] : 1.0f) / (length > kLeastLength ? length : kLeastLength);
    };
    const Pair factor = {factor_of(power.first, 0), both ? factor_of(power.second, 1) : 0.0f};
    for (int coil = 0; coil < g.coils; ++coil) {
        const ComplexPair value = scaled(at_pixels(coil), factor);
        float2* const to = out + static_cast<long long>(coil) * g.phase_encodes * g.columns + pixel;
        if (g.columns % 2 == 0) {
            *reinterpret_cast<float4*>(to) = make_float4(value.re.first, value.im.first, value.re.second, value.im.second);
            continue;
        }
        to[0] = make_float2(value.re.first, value.im.first);
        if (both) to[1] = make_float2(value.re.second, value.im.second);
    }
}
