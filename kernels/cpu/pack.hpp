// Complex images into planes of an engine's input, and corrections from planes of its output.
#pragma once

#include <cstddef>

#include "pack.cuh"

namespace edge {

enum class Element { float32, int8, uint8 };

constexpr int kPackedLinesAtOnce = 32;

struct PackTask {
    int phase_encodes = 0, columns = 0;      // of the image
    int plane_lines = 0, plane_columns = 0;  // of a plane, no fewer; what lies beyond the image stands for zero
    Element element = Element::float32;
    Quantization quantization = {1.0f, 0};
    const float* image = nullptr;     // complex64 (phase_encodes, columns)
    const float* phase = nullptr;     // the same, of modulus one; nullptr for none
    float scale = 1.0f;               // of the image over its planes; of `fill` the value
    const void* planes_in = nullptr;  // (2, plane_lines, plane_columns): real, imaginary
    void* planes_out = nullptr;       // the same; of `fill` one plane
    float* out = nullptr;             // complex64 (phase_encodes, columns)
};

// Up to kPackedLinesAtOnce lines: of the planes that are written, or of the image.
typedef void (*PackLines)(const PackTask&, std::size_t block);

#define EDGE_PACK_KERNELS(apply)                                                                  \
    apply(pack)   /* image, phase, scale -> planes_out = image * conj(phase) / scale */           \
    apply(fill)   /* scale -> planes_out = scale, zero beyond the image */                        \
    apply(unpack) /* image, phase, scale, planes_in -> out = image + scale * phase * planes_in */

}  // namespace edge
