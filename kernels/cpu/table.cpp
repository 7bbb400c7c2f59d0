#include "table.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace edge {

namespace {

#define EDGE_SENSE(isa)                                                                                                \
    isa::pack_maps, isa::pack_samples, isa::normal, isa::gradient, isa::data_consistent, isa::regularised, isa::substituted,       \
        isa::line_search, isa::between, isa::sample_power
#define EDGE_PACK(isa) isa::pack, isa::fill, isa::unpack
#define EDGE_SENSITIVITY(isa)                                                                                          \
    isa::gather_calibration, isa::gram_of_calibration, isa::square_gram, isa::find_floor, isa::factor_square, isa::project,        \
        isa::sum_lags, isa::maps_of_grid_line, isa::maps_of_image_line
#define EDGE_ADAPTIVE(isa) isa::image_block, isa::map_cells, isa::combine_line
#define EDGE_VOLUME(isa) \
    isa::volume_pack_maps, isa::volume_pack_samples, isa::volume_normal, isa::volume_gradient, isa::volume_data_consistent
#define EDGE_TABLE(isa, widest_radix)                                                                                  \
    { #isa, widest_radix, isa::ingest_chunk, isa::all_finite, isa::compress_line, isa::combine_block, EDGE_SENSE(isa),             \
          EDGE_PACK(isa), EDGE_SENSITIVITY(isa), EDGE_ADAPTIVE(isa), EDGE_VOLUME(isa) }

const Kernels kTables[] = {
#if defined(EDGE_X86)
    EDGE_TABLE(avx512, 8),  // eight points are half of its registers, elsewhere all of them
    EDGE_TABLE(avx2, 4),
#endif
    EDGE_TABLE(baseline, 4),
};

bool runs_here(const char* name) {
#if defined(EDGE_X86)
    if (!std::strcmp(name, "avx512")) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
    }
    if (!std::strcmp(name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return !std::strcmp(name, "baseline");
}

std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

std::size_t coil_scratch(const Transform& transform, int coils) {
    constexpr std::size_t kPacked = 16, kPower = 8;
    const std::size_t length = static_cast<std::size_t>(transform.length);
    const std::size_t combining = kPacked * (static_cast<std::size_t>(transform.largest_prime) + length) + kPower * length;
    const std::size_t compressing = kPacked * static_cast<std::size_t>(coils);
    return combining > compressing ? combining : compressing;
}

std::size_t adaptive_scratch(const Transform& transform, int coils, int columns) {
    constexpr std::size_t kPacked = 16;
    const std::size_t count = static_cast<std::size_t>(coils);
    const std::size_t imaging = coil_scratch(transform, coils);
    const std::size_t mapping = 2 * kPacked * count * count + 2 * count * static_cast<std::size_t>(cells_of(columns));
    return imaging > mapping ? imaging : mapping;
}

std::size_t sense_blocks(int columns) { return (static_cast<std::size_t>(columns) + 7) / 8; }

std::size_t sense_scratch(const Transform& transform, const SenseGeometry&) {
    constexpr std::size_t kPacked = 16, kArrays = 7;  // see Memory in sense.cpp
    return kPacked * (static_cast<std::size_t>(transform.largest_prime) +
                      kArrays * (static_cast<std::size_t>(transform.length) + 1));
}

std::size_t volume_scratch(const PlaneTransform& transform, const VolumeGeometry& geometry) {
    constexpr std::size_t kPacked = 16, kArrays = 4;  // see Block in volume.cpp
    const std::size_t partitions = static_cast<std::size_t>(geometry.partitions);
    const std::size_t lines = static_cast<std::size_t>(geometry.phase_encodes);
    const int prime = std::max(transform.partitions.largest_prime, transform.phase_encodes.largest_prime);
    return kPacked * (static_cast<std::size_t>(prime) + partitions + partitions * (lines | 1) + kArrays * (partitions * lines + 1));
}

const Kernels& kernels() {
    const Kernels* table = chosen.load(std::memory_order_acquire);
    if (!table) {
        table = kTables;
        while (!runs_here(table->name)) ++table;  // the last one always does
        chosen.store(table, std::memory_order_release);
    }
    return *table;
}

Transform transform_of(int length) { return Transform(length, kernels().widest_radix); }

bool choose_kernels(const char* name) {
    for (const Kernels& table : kTables) {
        if (!std::strcmp(table.name, name) && runs_here(name)) {
            chosen.store(&table, std::memory_order_release);
            return true;
        }
    }
    return false;
}

const char* const* kernel_names(int* count) {
    static const char* names[sizeof kTables / sizeof *kTables];
    int found = 0;
    for (const Kernels& table : kTables) {
        if (runs_here(table.name)) names[found++] = table.name;
    }
    *count = found;
    return names;
}

}  // namespace edge
