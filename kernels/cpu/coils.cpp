#include "coils.hpp"

#include "fft.hpp"
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

void combine_block(const Transform& transform, const CoilTask& task, std::size_t block, float* scratch) {
    const int lines = task.phase_encodes, half = lines / 2;
    const int column = static_cast<int>(block) * kLanes, left = task.columns - column;
    ComplexVector* butterflies = reinterpret_cast<ComplexVector*>(scratch);
    float* packed = reinterpret_cast<float*>(butterflies + 2 * transform.largest_prime);
    float* power = packed + static_cast<std::ptrdiff_t>(2 * kLanes) * lines;
    std::memset(power, 0, sizeof(float) * kLanes * static_cast<std::size_t>(lines));
    for (int coil = 0; coil < task.coils; ++coil) {
        for (int position = 0; position < lines; ++position) {
            const int line = (transform.frequency[static_cast<std::size_t>(position)] + half) % lines;
            const float* from = task.samples + 2 * (coil * task.coil_stride + line * task.line_stride + column);
            const ComplexVector sample = task.measured[line] ? load_some(from, left) : ComplexVector{};
            store_packed(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * position, scaled(sample, transform.scale));
        }
        inverse(transform, packed, butterflies);
        for (int i = 0; i < lines; ++i) {
            const ComplexVector pixel = load_packed(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * i);
            float* sum = power + static_cast<std::ptrdiff_t>(kLanes) * i;
            store(sum, load(sum) + pixel.re * pixel.re + pixel.im * pixel.im);
        }
    }
    for (int i = 0; i < lines; ++i) {
        float* out = task.out + static_cast<std::ptrdiff_t>((i + half) % lines) * task.columns + column;
        for (int lane = 0; lane < kLanes && lane < left; ++lane) {
            out[lane] = __builtin_sqrtf(power[static_cast<std::ptrdiff_t>(kLanes) * i + lane]);
        }
    }
}

}  // namespace EDGE_ISA
}  // namespace edge
