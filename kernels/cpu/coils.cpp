#include "coils.hpp"

#include "fft.hpp"
#include "hermitian.cuh"
#include "maps.hpp"
#include "table.hpp"

namespace edge {
namespace EDGE_ISA {

void compress_line(const CoilTask& task, std::size_t index, float* scratch) {
    const std::ptrdiff_t line = static_cast<std::ptrdiff_t>(index);
    const std::ptrdiff_t coil_size = static_cast<std::ptrdiff_t>(task.phase_encodes) * task.columns;
    float* out = task.out + 2 * line * task.columns;
    if (!task.measured[index]) {
        for (int coil = 0; coil < task.virtual_coils; ++coil) {
            std::memset(out + 2 * coil * coil_size, 0, 2 * sizeof(float) * static_cast<std::size_t>(task.columns));
        }
        return;
    }
    ComplexVector* inputs = reinterpret_cast<ComplexVector*>(scratch);
    for (int column = 0; column < task.columns; column += kLanes) {
        const int left = task.columns - column;
        for (int coil = 0; coil < task.coils; ++coil) {
            inputs[coil] = load_some(task.samples + 2 * (coil * task.coil_stride + line * task.line_stride + column), left);
        }
        for (int made = 0; made < task.virtual_coils; ++made) {
            const float* row = task.matrix + 2 * static_cast<std::ptrdiff_t>(made) * task.coils;
            ComplexVector sum = {};
            for (int coil = 0; coil < task.coils; ++coil) sum = sum + times(inputs[coil], row[2 * coil], row[2 * coil + 1]);
            store_some(out + 2 * (made * coil_size + column), sum, left);
        }
    }
}

namespace {

// A thread's memory for the image of one coil in a block of columns, packed, the centre at index 0.
struct CoilImage {
    const Transform& transform;
    ComplexVector* butterflies;
    float* packed;
    float* rest;

    CoilImage(const Transform& t, float* scratch)
        : transform(t),
          butterflies(reinterpret_cast<ComplexVector*>(scratch)),
          packed(reinterpret_cast<float*>(butterflies + t.largest_prime)),
          rest(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * t.length) {}

    void make(const CoilTask& task, int coil, int column) {
        const int lines = task.phase_encodes, half = lines / 2;
        for (int position = 0; position < lines; ++position) {
            const int line = (transform.frequency[static_cast<std::size_t>(position)] + half) % lines;
            const float* from = task.samples + 2 * (coil * task.coil_stride + line * task.line_stride + column);
            const ComplexVector sample = task.measured[line] ? load_some(from, task.columns - column) : ComplexVector{};
            store_packed(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * position, scaled(sample, transform.scale));
        }
        inverse(transform, packed, butterflies);
    }

    ComplexVector operator[](int i) const { return load_packed(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * i); }
};

float sum_of(Vector value) {
    float lanes[kLanes], sum = 0.0f;
    store(lanes, value);
    for (float lane : lanes) sum += lane;
    return sum;
}

}  // namespace

void combine_block(const Transform& transform, const CoilTask& task, std::size_t block, float* scratch) {
    const int lines = task.phase_encodes, half = lines / 2;
    const int column = static_cast<int>(block) * kLanes, left = task.columns - column;
    CoilImage image(transform, scratch);
    float* power = image.rest;
    std::memset(power, 0, sizeof(float) * kLanes * static_cast<std::size_t>(lines));
    for (int coil = 0; coil < task.coils; ++coil) {
        image.make(task, coil, column);
        for (int i = 0; i < lines; ++i) {
            float* sum = power + static_cast<std::ptrdiff_t>(kLanes) * i;
            store(sum, load(sum) + squared_magnitude(image[i]));
        }
    }
    for (int i = 0; i < lines; ++i) {
        float* out = task.out + static_cast<std::ptrdiff_t>((i + half) % lines) * task.columns + column;
        for (int lane = 0; lane < kLanes && lane < left; ++lane) {
            out[lane] = __builtin_sqrtf(power[static_cast<std::ptrdiff_t>(kLanes) * i + lane]);
        }
    }
}

void image_block(const Transform& transform, const AdaptiveTask& task, std::size_t block, float* scratch) {
    const int coils = task.coils.coils, lines = task.coils.phase_encodes, half = lines / 2;
    CoilImage image(transform, scratch);
    float* images = task.images + static_cast<std::ptrdiff_t>(2 * kLanes) * static_cast<std::ptrdiff_t>(block) * coils * lines;
    for (int coil = 0; coil < coils; ++coil, images += static_cast<std::ptrdiff_t>(2 * kLanes) * lines) {
        image.make(task.coils, coil, static_cast<int>(block) * kLanes);
        Vector power = {};
        for (int i = 0; i < lines; ++i) {
            power = power + squared_magnitude(image[i]);
            store_packed(images + static_cast<std::ptrdiff_t>(2 * kLanes) * ((i + half) % lines), image[i]);
        }
        task.powers[static_cast<std::ptrdiff_t>(block) * coils + coil] = sum_of(power);
    }
}

void map_cells(const Transform&, const AdaptiveTask& task, std::size_t cell, float* scratch) {
    const int coils = task.coils.coils, lines = task.coils.phase_encodes, blocks = cells_of(task.coils.columns);
    const int first = static_cast<int>(cell) * kCell, count = lines - first < kCell ? lines - first : kCell;
    ComplexVector* matrix = reinterpret_cast<ComplexVector*>(scratch);
    ComplexVector* other = matrix + coils * coils;
    float* maps = reinterpret_cast<float*>(other + coils * coils);  // complex (coils, blocks)
    for (int group = 0; group < blocks; group += kLanes) {  // as many cells at once
        const int cells = blocks - group < kLanes ? blocks - group : kLanes;
        float* covariance = scratch;
        std::memset(covariance, 0, sizeof(ComplexVector) * static_cast<std::size_t>(coils * coils));
        for (int lane = 0; lane < cells; ++lane) {
            const std::ptrdiff_t block = static_cast<std::ptrdiff_t>(2 * kLanes) * (group + lane) * coils * lines;
            const float* pixels = task.images + block + static_cast<std::ptrdiff_t>(2 * kLanes) * first;
            for (int i = 0; i < coils; ++i) {
                for (int j = i; j < coils; ++j) {
                    ComplexVector sum = {};
                    for (int line = 0; line < count; ++line) {
                        const ComplexVector one = load_packed(pixels + static_cast<std::ptrdiff_t>(2 * kLanes) * (i * lines + line));
                        const ComplexVector two = load_packed(pixels + static_cast<std::ptrdiff_t>(2 * kLanes) * (j * lines + line));
                        sum = sum + conjugate_times(two, one);
                    }
                    float *upper = covariance + 2 * kLanes * (i * coils + j), *lower = covariance + 2 * kLanes * (j * coils + i);
                    upper[lane] = lower[lane] = sum_of(sum.re);
                    upper[kLanes + lane] = sum_of(sum.im);
                    lower[kLanes + lane] = -upper[kLanes + lane];
                }
            }
        }
        make_rank_one(matrix, coils, other);
        for (int lane = 0; lane < cells; ++lane) {
            const Strided of_cell{covariance + lane, 2 * kLanes, kLanes};
            eigenvector_of_rank_one(of_cell, coils, task.reference, [&](int coil, Complex<float> component) {
                maps[2 * (coil * blocks + group + lane)] = component.re;
                maps[2 * (coil * blocks + group + lane) + 1] = component.im;
            });
        }
    }
    const std::ptrdiff_t widened_line = static_cast<std::ptrdiff_t>(2 * kLanes) * blocks * coils;
    widen(maps, coils, blocks, task.columns, task.widened + widened_line * static_cast<std::ptrdiff_t>(cell));
}

void combine_line(const Transform&, const AdaptiveTask& task, std::size_t line, float* scratch) {
    const int coils = task.coils.coils, lines = task.coils.phase_encodes, blocks = cells_of(task.coils.columns);
    const Between& at = task.lines[line];
    const std::ptrdiff_t block_size = static_cast<std::ptrdiff_t>(2 * kLanes) * coils;
    ComplexVector* maps = reinterpret_cast<ComplexVector*>(scratch);
    for (int block = 0; block < blocks; ++block) {
        const float* above = task.widened + block_size * (static_cast<std::ptrdiff_t>(at.left) * blocks + block);
        const float* below = task.widened + block_size * (static_cast<std::ptrdiff_t>(at.right) * blocks + block);
        float factors[kLanes];
        pixels_between(above, below, at.weight, coils, maps, factors);
        ComplexVector sum = {};
        for (int coil = 0; coil < coils; ++coil) {
            const std::ptrdiff_t pixel = (static_cast<std::ptrdiff_t>(block) * coils + coil) * lines + static_cast<std::ptrdiff_t>(line);
            sum = sum + conjugate_times(maps[coil], load_packed(task.images + 2 * kLanes * pixel));
        }
        float* out = task.coils.out + 2 * (static_cast<std::ptrdiff_t>(line) * task.coils.columns + kLanes * block);
        store_some(out, scaled(sum, load(factors)), task.coils.columns - kLanes * block);
    }
}

}  // namespace EDGE_ISA
}  // namespace edge
