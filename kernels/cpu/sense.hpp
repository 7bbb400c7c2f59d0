// The SENSE operator of one slice in hybrid space, and what is solved with it. Along the readout everything is measured and already
// transformed, so each column is a problem of its own with one Fourier axis, the phase encodes; kLanes columns make a block, whose coil
// maps stay in a core's cache through a whole solve. No (coils x image) array is ever made.
#pragma once

#include <cstddef>

#include "transform.hpp"

namespace edge {

struct SenseGeometry {
    int coils;
    int phase_encodes;
    int columns;
};

// What is known of the slice. Packed arrays hold blocks of columns, see vector.hpp; those over frequencies are in the order of
// Transform::frequency.
struct SenseData {
    float* maps;     // packed (blocks, coils, phase_encodes)
    float* mask;     // (blocks, phase_encodes, lanes) over frequencies: 1 / phase_encodes where a sample counts, else 0
    float* adjoint;  // packed (blocks, phase_encodes): Aᴴ y
};

// One call on all blocks. Images are complex64 (phase_encodes, columns), hybrid arrays complex64 (coils, phase_encodes, columns),
// k-space and image centred at n / 2.
struct SenseTask {
    const float* image = nullptr;
    const float* hybrid = nullptr;
    const bool* measured = nullptr;  // (phase_encodes, columns)
    const float* towards = nullptr;  // another image
    float share = 0;                 // of the way there
    const float* weight = nullptr;   // float32 (phase_encodes, columns)
    float lambda = 0;
    int steps = 0;        // of conjugate gradients, the most
    float tolerance = 0;  // of |residual| / |right side| in a column, which then stops
    float* out = nullptr;
    float* power = nullptr;  // float32 (phase_encodes, columns); of line_search (columns,)
};

std::size_t sense_blocks(int columns);
std::size_t sense_scratch(const Transform& transform, const SenseGeometry& geometry);  // floats that one thread needs

typedef void (*SenseKernel)(const Transform&, const SenseGeometry&, const SenseData&, const SenseTask&, std::size_t block,
                            float* scratch);

// By name; each does one block of columns.
#define EDGE_SENSE_KERNELS(apply)                                                                                      \
    apply(pack_maps)        /* hybrid -> maps */                                                                       \
    apply(pack_samples)     /* hybrid, measured -> mask, adjoint */                                                    \
    apply(normal)           /* image -> out = Aᴴ A image */                                                            \
    apply(gradient)         /* image -> out = Aᴴ (A image - y) */                                                      \
    apply(data_consistent)  /* image -> out = argmin |A x - y|² + lambda |x - image|², `steps` of conjugate gradients */ \
    apply(regularised)      /* weight -> out = argmin |A x - y|² + Σ weight |F x|², `steps` of conjugate gradients */  \
    apply(substituted)      /* image, hybrid, measured -> out (float32) with every sample in its place, power */       \
    apply(line_search)      /* image, towards, d between, hybrid, measured -> out = Re <A d, y - A image>, power = |A d|², by column */ \
    apply(between)          /* image, towards, share -> out */                                                         \
    apply(sample_power)     /* hybrid -> out (float32) = Σ |y|² over the coils */

}  // namespace edge
