// The kernels, once for each instruction set they are compiled for; `kernels()` is the one this processor runs best.
#pragma once

#include "coils.hpp"
#include "ingest.hpp"
#include "pack.hpp"
#include "sense.hpp"
#include "sensitivity.hpp"
#include "volume.hpp"

namespace edge {

struct Kernels {
    const char* name;
    int widest_radix;  // whose butterflies leave registers for temporaries; see `transform_of`
    IngestChunk ingest_chunk;
    AllFinite all_finite;
    CompressLine compress_line;
    CombineBlock combine_block;
#define EDGE_MEMBER(name) SenseKernel name;
    EDGE_SENSE_KERNELS(EDGE_MEMBER)
#undef EDGE_MEMBER
#define EDGE_MEMBER(name) PackLines name;
    EDGE_PACK_KERNELS(EDGE_MEMBER)
#undef EDGE_MEMBER
#define EDGE_MEMBER(name) SensitivityKernel name;
    EDGE_SENSITIVITY_KERNELS(EDGE_MEMBER)
#undef EDGE_MEMBER
#define EDGE_MEMBER(name) AdaptiveKernel name;
    EDGE_ADAPTIVE_KERNELS(EDGE_MEMBER)
#undef EDGE_MEMBER
#define EDGE_MEMBER(name) VolumeKernel name;
    EDGE_VOLUME_KERNELS(EDGE_MEMBER)
#undef EDGE_MEMBER
};

#define EDGE_DECLARE_SENSE(name)                                                                                       \
    void name(const Transform&, const SenseGeometry&, const SenseData&, const SenseTask&, std::size_t, float*);

#define EDGE_DECLARE_PACK(name) void name(const PackTask&, std::size_t block);
#define EDGE_DECLARE_SENSITIVITY(name)                                                                                 \
    void name(const SensitivityGeometry&, const SensitivityTables&, const SensitivityTask&, std::size_t, float*);
#define EDGE_DECLARE_ADAPTIVE(name) void name(const Transform&, const AdaptiveTask&, std::size_t, float*);
#define EDGE_DECLARE_VOLUME(name)                                                                                      \
    void name(const PlaneTransform&, const VolumeGeometry&, const SenseData&, const SenseTask&, std::size_t, float*);

#define EDGE_DECLARE(isa)                                                                                              \
    namespace isa {                                                                                                    \
    std::size_t ingest_chunk(const Transform&, const IngestGeometry&, const IngestJob&, std::size_t, float* scratch);  \
    bool all_finite(const unsigned char* floats, std::size_t count);                                                   \
    void compress_line(const CoilTask&, std::size_t line, float* scratch);                                             \
    void combine_block(const Transform&, const CoilTask&, std::size_t block, float* scratch);                          \
    EDGE_SENSE_KERNELS(EDGE_DECLARE_SENSE)                                                                             \
    EDGE_PACK_KERNELS(EDGE_DECLARE_PACK)                                                                               \
    EDGE_SENSITIVITY_KERNELS(EDGE_DECLARE_SENSITIVITY)                                                                 \
    EDGE_ADAPTIVE_KERNELS(EDGE_DECLARE_ADAPTIVE)                                                                       \
    EDGE_VOLUME_KERNELS(EDGE_DECLARE_VOLUME)                                                                           \
    }

EDGE_DECLARE(baseline)
#if defined(EDGE_X86)
EDGE_DECLARE(avx2)
EDGE_DECLARE(avx512)
#endif

const Kernels& kernels();                      // chosen when first asked
Transform transform_of(int length);            // made for them; any others run it too
bool choose_kernels(const char* name);         // for tests: false where this processor can't run them, or they are not built
const char* const* kernel_names(int* count);   // that this processor runs, best first

}  // namespace edge
