// Adaptive combination of coil images, kernels/cpu/coils.cpp for a GPU: images of all coils, their sensitivities in every cell of 8 x 8
// pixels, and their sum with the sensitivities between the cells. Images stay in the device's memory in between.
#include "interpolation.cuh"
#include "rank_one.cuh"
#include "samples.cuh"

namespace edge {

constexpr int kCell = 8, kPixels = kCell * kCell / 2;  // pairs of pixels in a cell

__host__ __device__ __forceinline__ int cells_of(int pixels) { return (pixels + kCell - 1) / kCell; }

// One slice; the device's memory.
struct Adaptive {
    Geometry geometry;
    float4* images;  // packed (coils, lines, pairs): pairs of columns, those beyond the last zero
    float* powers;   // (coils, groups)
    float2* maps;    // (coils, cells of the lines, cells of the columns)
    int groups, pairs;
};

__device__ __forceinline__ long long pixel(const Adaptive& slice, int coil, int line) {
    return (static_cast<long long>(coil) * slice.geometry.lines.length + line) * slice.pairs;
}

// The coil with the most signal; of whole warps, each finds it by itself.
__device__ __forceinline__ int strongest(const Adaptive& slice) {
    int best = 0;
    float most = 0.0f;
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        float power = 0.0f;
        for (int group = threadIdx.x % 32; group < slice.groups; group += 32) power += __ldg(slice.powers + coil * slice.groups + group);
        for (unsigned turned = 1; turned < 32; turned *= 2) power += __shfl_xor_sync(0xffffffffu, power, turned);
        if (power > most) {
            best = coil;
            most = power;
        }
    }
    return best;
}

}  // namespace edge

using namespace edge;

// Images and powers of samples. Launch: grid (groups, coils), block as in group.cuh; 1 array
extern "C" __global__ void __launch_bounds__(256) adaptive_images(Adaptive slice, Samples samples) {
    const Group group(slice.geometry);
    const Arrays arrays(group);
    const Shared work{arrays[0]};
    const int coil = blockIdx.y;
    coil_image(group, samples, coil, arrays[0], arrays.staged);
    Pair powers = {0.0f, 0.0f};
    every_line(group, [&](int at) {
        const ComplexPair value = work(at);
        powers = powers + squared_magnitude(value);
        slice.images[pixel(slice, coil, group.shifted(at)) + group.column / 2] = packed(value);
    });
    powers = sum_over_lines(powers, arrays.partial(1));
    float power = powers.first + powers.second;
    for (unsigned turned = 1; turned < blockDim.x; turned *= 2) power += __shfl_xor_sync(0xffffffffu, power, turned);
    if (threadIdx.x == 0 && threadIdx.y == 0) slice.powers[coil * slice.groups + blockIdx.x] = power;
}

// Maps of images and powers: of each cell the dominant eigenvector of the coils' covariance, by a warp. Launch: grid (blocks of cells of
// the columns, cells of the lines), block (32, cells). Shared memory: of every cell its pixels, float4 (coils, kPixels | 1), in whose
// place there is later a matrix, and a matrix.
extern "C" __global__ void __launch_bounds__(128) adaptive_maps(Adaptive slice) {
    const int coils = slice.geometry.coils, lines = slice.geometry.lines.length, row = kPixels | 1;  // rows in different banks
    const int of_matrix = (coils * coils + 1) / 2, of_pixels = coils * row > of_matrix ? coils * row : of_matrix;
    const int cell_columns = cells_of(slice.geometry.columns), cell_column = blockIdx.x * blockDim.y + threadIdx.y, lane = threadIdx.x;
    if (cell_column >= cell_columns) return;
    float4* const pixels = memory + threadIdx.y * (of_pixels + of_matrix);
    float2 *const other = reinterpret_cast<float2*>(pixels), *const matrix = reinterpret_cast<float2*>(pixels + of_pixels);
    for (int index = lane; index < coils * kPixels; index += 32) {
        const int coil = index / kPixels, within = index % kPixels;
        const int line = kCell * blockIdx.y + 2 * within / kCell, pair = kCell / 2 * cell_column + within % (kCell / 2);
        const bool inside = line < lines && pair < slice.pairs;
        pixels[coil * row + within] = inside ? __ldg(slice.images + pixel(slice, coil, line) + pair) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    }
    __syncwarp();
    every_element(coils, [&](int i, int j) {
        ComplexPair sum = {{0.0f, 0.0f}, {0.0f, 0.0f}};
        for (int at = 0; at < kPixels; ++at) sum = sum + conjugate_times(pair_of(pixels[j * row + at]), pair_of(pixels[i * row + at]));
        matrix[i * coils + j] = make_float2(sum.re.first + sum.re.second, sum.im.first + sum.im.second);
    });
    __syncwarp();
    make_rank_one(matrix, coils, other);
    eigenvector_of_rank_one(Strided{&matrix->x, 2, 1}, coils, strongest(slice), [&](int coil, Complex<float> component) {
        float2* const map = slice.maps + (static_cast<long long>(coil) * gridDim.y + blockIdx.y) * cell_columns;
        if (coil % 32 == lane) map[cell_column] = make_float2(component.re, component.im);
    });
}

// out (lines, columns) of images and maps. A thread does two neighbouring columns, which lie between the same cells: a cell's middle is
// not between them. Launch: grid (blocks of pairs of columns, lines)
extern "C" __global__ void adaptive_combine(Adaptive slice, float2* out) {
    const int pair = blockIdx.x * blockDim.x + threadIdx.x, column = 2 * pair, line = blockIdx.y;
    const int columns = slice.geometry.columns, lines = slice.geometry.lines.length;
    if (column >= columns) return;
    const int cell_columns = cells_of(columns), cell_lines = cells_of(lines);
    const Between down = between_cells(line, kCell, cell_lines);
    const Between first = between_cells(column, kCell, cell_columns), second = between_cells(column + 1, kCell, cell_columns);
    ComplexPair sum = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    Pair powers = {0.0f, 0.0f};
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        const auto between_lines = [&](int cell_column) {
            const float2* const maps = slice.maps + static_cast<long long>(coil) * cell_lines * cell_columns + cell_column;
            const float2 above = __ldg(maps + down.left * cell_columns), below = __ldg(maps + down.right * cell_columns);
            return interpolated(Complex<float>{above.x, above.y}, Complex<float>{below.x, below.y}, down.weight);
        };
        const Complex<float> left = between_lines(first.left), right = between_lines(first.right);
        const Complex<float> one = interpolated(left, right, first.weight), two = interpolated(left, right, second.weight);
        const ComplexPair map = {{one.re, two.re}, {one.im, two.im}};
        sum = sum + conjugate_times(map, pair_of(__ldg(slice.images + pixel(slice, coil, line) + pair)));
        powers = powers + squared_magnitude(map);
    }
    const auto factor = [](float power) {
        const float length = sqrtf(power);
        return 1.0f / (length > kLeastLength ? length : kLeastLength);
    };
    sum = scaled(sum, Pair{factor(powers.first), factor(powers.second)});
    store_pair(out + static_cast<long long>(line) * columns + column, column, columns, sum);
}
