// Readouts into hybrid space: whitened, zero-padded, transformed along the readout, cropped and put in their places.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "transform.hpp"

namespace edge {

struct IngestGeometry {
    int coils;
    int columns;  // kept of the transform's length, around its centre
};

struct IngestJob {
    const unsigned char* samples;  // complex64 (readouts, coils, count) at any address
    std::int64_t readout_bytes;    // from one readout to the next
    std::int64_t coil_bytes;       // from one coil to the next
    std::size_t readouts;
    int count;               // samples of a readout
    int offset;              // of the first sample in the transform's length
    const float* whitening;  // complex64 (coils, coils), or null
    const std::int64_t* lines;
    float* out;  // complex64 (lines, coils, columns), C order
    bool add;    // to what is there, instead of replacing it
};

// Samples from one coil's whitened readout to the next: never a power of two, or eight coils would compete for one cache set.
inline int whitened_stride(int length) { return (length + 7) / 8 * 8 + 8; }

constexpr std::size_t kReadoutsAtOnce = 8;

// Floats of scratch that one thread needs.
inline std::size_t ingest_scratch(const Transform& transform, const IngestGeometry& geometry) {
    constexpr std::size_t kPacked = 16;  // floats of a packed element: see vector.hpp
    const std::size_t length = static_cast<std::size_t>(transform.length), coils = static_cast<std::size_t>(geometry.coils);
    const std::size_t whitened = 2 * kReadoutsAtOnce * coils * static_cast<std::size_t>(whitened_stride(transform.length));
    return kPacked * (static_cast<std::size_t>(transform.largest_prime) + coils + length) + whitened;
}

// The `chunk`-th group of `kReadoutsAtOnce` readouts. Returns the first of the job's readouts, if it is in this group, that holds a
// sample which is not finite, or `kAllFinite`. Lines of readouts before it are as they should be.
constexpr std::size_t kAllFinite = std::numeric_limits<std::size_t>::max();
typedef std::size_t (*IngestChunk)(const Transform&, const IngestGeometry&, const IngestJob&, std::size_t chunk, float* scratch);

// Whether `count` floats at any address are all finite.
typedef bool (*AllFinite)(const unsigned char* floats, std::size_t count);

}  // namespace edge
