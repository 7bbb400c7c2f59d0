#include "ingest.hpp"

#include <algorithm>

#include "fft.hpp"
#include "table.hpp"

namespace edge {

namespace EDGE_ISA {

namespace {

// Whether no lane holds an infinity or something that is not a number, as the sum of finite numbers is, unless it is too large.
bool finite(ComplexVector sum) {
    float lanes[kLanes];
    store(lanes, sum.re * 0.0f + sum.im * 0.0f);  // 0, but for such a number
    float total = 0;
    for (float lane : lanes) total += lane;
    return total == 0;
}

bool finite_readout(const IngestGeometry& geometry, const IngestJob& job, std::size_t readout) {
    const unsigned char* samples = job.samples + static_cast<std::int64_t>(readout) * job.readout_bytes;
    for (int coil = 0; coil < geometry.coils; ++coil) {
        if (!all_finite(samples + coil * job.coil_bytes, 2 * static_cast<std::size_t>(job.count))) return false;
    }
    return true;
}

// Mixes the coils of one readout: out (coils, stride) complex.
void whiten(const IngestGeometry& geometry, const IngestJob& job, const unsigned char* readout, float* out, int stride,
            ComplexVector* inputs) {
    for (int at = 0; at < job.count; at += kLanes) {
        for (int coil = 0; coil < geometry.coils; ++coil) {
            inputs[coil] = load_some(readout + coil * job.coil_bytes + 8 * at, job.count - at);
        }
        for (int coil = 0; coil < geometry.coils; ++coil) {
            const float* row = job.whitening + 2 * static_cast<std::ptrdiff_t>(coil) * geometry.coils;
            ComplexVector sum = {};
            for (int other = 0; other < geometry.coils; ++other) {
                const float re = row[2 * other], im = row[2 * other + 1];
                if (re != 0 || im != 0) sum = sum + times(inputs[other], re, im);  // half of it is zero: a Cholesky factor
            }
            store_interleaved(out + 2 * (static_cast<std::ptrdiff_t>(coil) * stride + at), sum);
        }
    }
}

// Up to kLanes rows into packed elements, real and imaginary parts exchanged (which turns the forward transform into the inverse).
void gather(const unsigned char* const* rows, int count, int offset, int length, float* packed) {
    const int centre = length / 2;
    if (count < length) std::memset(packed, 0, sizeof(float) * 2 * kLanes * static_cast<std::size_t>(length));
    for (int at = 0; at < count; at += kLanes) {
        Vector re[kLanes], im[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) {
            const ComplexVector value = load_some(rows[lane] + 8 * at, count - at);
            re[lane] = value.re;
            im[lane] = value.im;
        }
        transpose(re);
        transpose(im);
        const int some = std::min(kLanes, count - at);
        int place = offset + at - centre;
        if (place < 0) place += length;
        for (int i = 0; i < some; ++i) {
            store_packed(packed + static_cast<std::ptrdiff_t>(2 * kLanes) * place, {im[i], re[i]});
            if (++place == length) place = 0;
        }
    }
}

// The central columns of `used` rows out of packed elements.
void scatter(const Transform& transform, const float* packed, int columns, float* const* rows, int used, bool add) {
    const int length = transform.length, centre = length / 2;
    int frequency = length / 2 - columns / 2 - centre;
    if (frequency < 0) frequency += length;
    for (int at = 0; at < columns; at += kLanes) {
        Vector re[kLanes], im[kLanes];
        const int some = std::min(kLanes, columns - at);
        for (int i = 0; i < kLanes; ++i) {
            if (i < some) {
                const float* from = packed + static_cast<std::ptrdiff_t>(2 * kLanes) * transform.position[frequency];
                im[i] = load(from) * transform.scale;
                re[i] = load(from + kLanes) * transform.scale;
                if (++frequency == length) frequency = 0;
            } else {
                re[i] = im[i] = Vector{};
            }
        }
        transpose(re);
        transpose(im);
        for (int lane = 0; lane < used; ++lane) {
            float* to = rows[lane] + 2 * at;
            ComplexVector value = {re[lane], im[lane]};
            if (some == kLanes) {
                if (add) value = value + load_interleaved(to);
                store_interleaved(to, value);
            } else {
                float tail[2 * kLanes];
                store_interleaved(tail, value);
                for (int i = 0; i < 2 * some; ++i) to[i] = add ? to[i] + tail[i] : tail[i];
            }
        }
    }
}

}  // namespace

std::size_t ingest_chunk(const Transform& transform, const IngestGeometry& geometry, const IngestJob& job, std::size_t chunk,
                  float* scratch) {
    const std::size_t first = chunk * kReadoutsAtOnce;
    const std::size_t readouts = std::min(kReadoutsAtOnce, job.readouts - first);
    const int stride = whitened_stride(transform.length);
    ComplexVector* butterflies = reinterpret_cast<ComplexVector*>(scratch);
    ComplexVector* inputs = butterflies + 2 * transform.largest_prime;
    float* packed = reinterpret_cast<float*>(inputs + geometry.coils);
    float* whitened = packed + static_cast<std::ptrdiff_t>(2 * kLanes) * transform.length;
    if (job.whitening) {
        for (std::size_t r = 0; r < readouts; ++r) {
            whiten(geometry, job, job.samples + static_cast<std::int64_t>(first + r) * job.readout_bytes,
                   whitened + 2 * static_cast<std::ptrdiff_t>(r) * geometry.coils * stride, stride, inputs);
        }
    }
    const std::size_t rows = readouts * static_cast<std::size_t>(geometry.coils);
    for (std::size_t begin = 0; begin < rows; begin += kLanes) {
        const unsigned char* from[kLanes];
        float* to[kLanes];
        const int used = static_cast<int>(std::min<std::size_t>(kLanes, rows - begin));
        for (int lane = 0; lane < kLanes; ++lane) {
            const std::size_t row = begin + static_cast<std::size_t>(std::min(lane, used - 1));  // idle lanes repeat the last
            const std::size_t readout = row / static_cast<std::size_t>(geometry.coils);
            const std::int64_t coil = static_cast<std::int64_t>(row % static_cast<std::size_t>(geometry.coils));
            from[lane] = job.whitening
                             ? reinterpret_cast<const unsigned char*>(whitened + 2 * static_cast<std::ptrdiff_t>(row) * stride)
                             : job.samples + static_cast<std::int64_t>(first + readout) * job.readout_bytes +
                                   coil * job.coil_bytes;
            to[lane] = job.out + 2 * (job.lines[first + readout] * geometry.coils + coil) * geometry.columns;
        }
        gather(from, job.count, job.offset, transform.length, packed);
        forward(transform, packed, butterflies);
        const bool sound = finite(load_packed(packed));  // frequency 0 is the sum of a row
        scatter(transform, packed, geometry.columns, to, used, job.add);
        if (sound) continue;
        const std::size_t last = first + (begin + static_cast<std::size_t>(used) - 1) / static_cast<std::size_t>(geometry.coils);
        for (std::size_t readout = first + begin / static_cast<std::size_t>(geometry.coils); readout <= last; ++readout) {
            if (!finite_readout(geometry, job, readout)) return readout;
        }
    }
    return kAllFinite;
}

bool all_finite(const unsigned char* floats, std::size_t count) {
    Vector sum = {};  // 0 * x is 0, but for x infinite or not a number
    std::size_t at = 0;
    for (; at + kLanes <= count; at += kLanes) {
        Vector value;
        std::memcpy(&value, floats + 4 * at, sizeof value);
        sum = sum + value * 0.0f;
    }
    float lanes[kLanes];
    store(lanes, sum);
    float total = 0;
    for (float lane : lanes) total += lane;
    for (; at < count; ++at) {
        float value;
        std::memcpy(&value, floats + 4 * at, sizeof value);
        total += value * 0.0f;
    }
    return total == 0;
}

}  // namespace EDGE_ISA
}  // namespace edge
