#include "pack.hpp"

#include "table.hpp"

namespace edge {
namespace EDGE_ISA {

namespace {

// The loops over columns are plain: the compiler makes vectors of them.

// Before such a loop whose output may be its input, number for number, and overlaps it in no other way. Left to test for overlap, a
// compiler takes another path there, which fuses other products with sums: in place would then not be the same, bit for bit.
#if defined(__clang__)
#define EDGE_NO_CARRIED_DEPENDENCE _Pragma("clang loop vectorize(assume_safety)")
#else
#define EDGE_NO_CARRIED_DEPENDENCE _Pragma("GCC ivdep")
#endif

// One line of a plane; `inside(column)` gives the number of a pixel.
template <class T, class Inside>
void write_line(const PackTask& task, int plane, int line, Inside inside) {
    const Quantization to = task.quantization;
    T* __restrict out = static_cast<T*>(task.planes_out) +
                        (static_cast<std::ptrdiff_t>(plane) * task.plane_lines + line) * task.plane_columns;
    const int within = line < task.phase_encodes ? task.columns : 0, columns = task.plane_columns;
    for (int column = 0; column < within; ++column) out[column] = quantized<T>(inside(column), to);
    for (int column = within; column < columns; ++column) out[column] = quantized<T>(0.0f, to);
}

template <class T>
void unpack_line(const PackTask& task, int line) {
    const std::ptrdiff_t first = 2 * static_cast<std::ptrdiff_t>(line) * task.columns;
    const float* image = task.image + first;
    const T* real = static_cast<const T*>(task.planes_in) + static_cast<std::ptrdiff_t>(line) * task.plane_columns;
    const T* imaginary = real + static_cast<std::ptrdiff_t>(task.plane_lines) * task.plane_columns;
    float* out = task.out + first;  // may be the image itself
    const Quantization from = task.quantization;
    const float scale = task.scale;
    if (task.phase) {
        const float* phase = task.phase + first;
        EDGE_NO_CARRIED_DEPENDENCE
        for (int column = 0; column < task.columns; ++column) {
            const float re = scale * dequantized(real[column], from), im = scale * dequantized(imaginary[column], from);
            out[2 * column] = image[2 * column] + (re * phase[2 * column] - im * phase[2 * column + 1]);
            out[2 * column + 1] = image[2 * column + 1] + (re * phase[2 * column + 1] + im * phase[2 * column]);
        }
        return;
    }
    EDGE_NO_CARRIED_DEPENDENCE
    for (int column = 0; column < task.columns; ++column) {
        out[2 * column] = image[2 * column] + scale * dequantized(real[column], from);
        out[2 * column + 1] = image[2 * column + 1] + scale * dequantized(imaginary[column], from);
    }
}

// Calls line(T{}, index) for the lines of a block, with the T of the planes.
template <class Line>
void every_line(const PackTask& task, int lines, std::size_t block, Line line) {
    const int first = static_cast<int>(block) * kPackedLinesAtOnce;
    const int end = lines - first < kPackedLinesAtOnce ? lines : first + kPackedLinesAtOnce;
    const auto run = [&](auto element) {
        for (int at = first; at < end; ++at) line(element, at);
    };
    switch (task.element) {
        case Element::float32: return run(float{});
        case Element::int8: return run(static_cast<signed char>(0));
        case Element::uint8: return run(static_cast<unsigned char>(0));
    }
}

}  // namespace

void pack(const PackTask& task, std::size_t block) {
    every_line(task, task.plane_lines, block, [&task](auto element, int line) {
        typedef decltype(element) T;
        const std::ptrdiff_t first = 2 * static_cast<std::ptrdiff_t>(line) * task.columns;
        const float* image = task.image + first;
        const float scale = task.scale;
        if (!task.phase) {
            for (int part = 0; part < 2; ++part) {
                write_line<T>(task, part, line, [=](int column) { return image[2 * column + part] / scale; });
            }
            return;
        }
        const float* phase = task.phase + first;
        write_line<T>(task, 0, line, [=](int column) {
            return (image[2 * column] * phase[2 * column] + image[2 * column + 1] * phase[2 * column + 1]) / scale;
        });
        write_line<T>(task, 1, line, [=](int column) {
            return (image[2 * column + 1] * phase[2 * column] - image[2 * column] * phase[2 * column + 1]) / scale;
        });
    });
}

void fill(const PackTask& task, std::size_t block) {
    every_line(task, task.plane_lines, block, [&task](auto element, int line) {
        const float value = task.scale;
        write_line<decltype(element)>(task, 0, line, [=](int) { return value; });
    });
}

void unpack(const PackTask& task, std::size_t block) {
    every_line(task, task.phase_encodes, block, [&task](auto element, int line) { unpack_line<decltype(element)>(task, line); });
}

}  // namespace EDGE_ISA
}  // namespace edge
