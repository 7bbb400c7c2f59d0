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

// The last number of rows with an odd count of them, and zeros.
void load_last(const unsigned char* const* rows, std::ptrdiff_t offset, ComplexVector& even, ComplexVector& odd) {
    unsigned char padded[kLanes][16] = {};
    const unsigned char* at[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        std::memcpy(padded[lane], rows[lane] + offset, 8);
        at[lane] = padded[lane];
    }
    load_pairs(at, 0, even, odd);
}

// kLanes rows into packed elements, real and imaginary parts exchanged (which turns the forward transform into the inverse).
// Meanwhile the `columns` of `wanted` are fetched: what is written later goes to more places at once than a core foresees.
void gather(const unsigned char* const* rows, int count, int offset, int length, float* packed, float* const* wanted, int columns) {
    constexpr int line = 8;  // complex numbers
    const int centre = length / 2;
    if (count < length) std::memset(packed, 0, sizeof(float) * 2 * kLanes * static_cast<std::size_t>(length));
    float* const end = packed + at(length);
    float* to = packed + at(offset < centre ? offset - centre + length : offset - centre);
    const auto put = [&](ComplexVector value) {
        store_packed(to, {value.im, value.re});
        to += kElement;
        if (to == end) to = packed;
    };
    const unsigned char* from[kLanes];  // no store goes to these, as the compiler can see
    for (int lane = 0; lane < kLanes; ++lane) from[lane] = rows[lane];
    ComplexVector even, odd;
    for (int sample = 0; sample + 1 < count; sample += 2) {
        if (sample % line == 0 && sample < columns) {
            for (int lane = 0; lane < kLanes; ++lane) __builtin_prefetch(wanted[lane] + 2 * sample, 1, 2);
        }
        load_pairs(from, 8 * static_cast<std::ptrdiff_t>(sample), even, odd);
        put(even);
        put(odd);
    }
    if (count % 2) {
        load_last(from, 8 * static_cast<std::ptrdiff_t>(count - 1), even, odd);
        put(even);
    }
}

// Two columns of rows from `at` on; `add` to what is there, of the first `used` rows. (Else idle lanes do what the last one does.)
template <bool Add>
inline void put_pairs(const Pairs& pairs, float* const* rows, std::ptrdiff_t at, int used) {
    for (int lane = 0; lane < kLanes; ++lane) {
        if constexpr (Add) {
            if (lane < used) store_quad(rows[lane] + at, pairs[lane] + load_quad(rows[lane] + at));
        } else {
            store_quad(rows[lane] + at, pairs[lane]);
        }
    }
}

// The central columns of `used` rows out of packed elements.
template <bool Add>
void scatter(const Transform& transform, const float* packed, int columns, float* const* rows, int used) {
    const int length = transform.length, centre = length / 2;
    int frequency = length / 2 - columns / 2 - centre;
    if (frequency < 0) frequency += length;
    const auto next = [&] {
        const float* from = packed + static_cast<std::ptrdiff_t>(2 * kLanes) * transform.position[static_cast<std::size_t>(frequency)];
        if (++frequency == length) frequency = 0;
        return ComplexVector{load(from + kLanes) * transform.scale, load(from) * transform.scale};
    };
    for (int at = 0; at + 1 < columns; at += 2) {
        const ComplexVector even = next();
        put_pairs<Add>(pairs_of(even, next()), rows, 2 * at, used);
    }
    if (columns % 2) {
        float re[kLanes], im[kLanes];
        const ComplexVector last = next();
        store(re, last.re);
        store(im, last.im);
        for (int lane = 0; lane < used; ++lane) {
            float* to = rows[lane] + 2 * (columns - 1);
            to[0] = Add ? to[0] + re[lane] : re[lane];
            to[1] = Add ? to[1] + im[lane] : im[lane];
        }
    }
}

// The last pass, with `scatter` in it: two butterflies side by side make two columns of R places each.
template <int R, bool Add>
void scatter_butterflies(const Transform& transform, const float* packed, int columns, float* const* rows, int used) {
    const Pass& pass = transform.passes.back();
    const float* roots = transform.tables.data() + pass.roots;
    const int length = transform.length, apart = length / R;
    float* to[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) to[lane] = rows[lane];
    for (int frequency = 0; frequency < apart; frequency += 2) {
        ComplexVector even[R], odd[R];
        const float* from = packed + at(transform.position[static_cast<std::size_t>(frequency)]);
        for (int q = 0; q < R; ++q) even[q] = load_packed(from + at(q));
        from = packed + at(transform.position[static_cast<std::size_t>(frequency) + 1]);
        for (int q = 0; q < R; ++q) odd[q] = load_packed(from + at(q));
        int column = frequency + columns / 2;
        const auto put = [&](ComplexVector left, ComplexVector right) {
            left = scaled(ComplexVector{left.im, left.re}, transform.scale);
            right = scaled(ComplexVector{right.im, right.re}, transform.scale);
            put_pairs<Add>(pairs_of(left, right), to, 2 * static_cast<std::ptrdiff_t>(column), used);
        };
        if constexpr (R == 2) {
            if (2 * columns == length) {  // one of either butterfly's two places is cropped
                if (column < columns) {
                    put(even[0] + even[1], odd[0] + odd[1]);
                } else {
                    column -= columns;
                    put(even[0] - even[1], odd[0] - odd[1]);
                }
                continue;
            }
        }
        butterfly<R, -1>(even, roots);
        butterfly<R, -1>(odd, roots);
        for (int k = 0; k < R; ++k, column += apart) {
            if (column >= length) column -= length;
            if (column < columns) put(even[k], odd[k]);
        }
    }
}

// Whether the last pass is one that `scatter_butterflies` does, and pairs of columns stay together wherever they go.
bool scatters_butterflies(const Transform& transform, int columns) {
    if (transform.passes.empty() || transform.passes.back().radix > 8) return false;
    return transform.length / transform.passes.back().radix % 2 == 0 && transform.length % 2 == 0 && columns % 4 == 0;
}

template <bool Add>
bool transform_rows(const Transform& transform, float* packed, ComplexVector* scratch, int columns, float* const* rows, int used) {
    if (!scatters_butterflies(transform, columns)) {
        forward(transform, packed, scratch);
        scatter<Add>(transform, packed, columns, rows, used);
        return finite(load_packed(packed));  // frequency 0 is the sum of a row
    }
    const InPlace here{packed};
    if (transform.passes.size() > 1) {
        run_pass<-1>(transform, transform.passes.front(), whole(transform), scratch, here, here);
        each_part(transform, [&](Part part) { run_inner<-1>(transform, part, scratch, here); });
    }
    const int radix = transform.passes.back().radix;
    ComplexVector sum = load_packed(packed);
    for (int q = 1; q < radix; ++q) sum = sum + load_packed(packed + at(q));
    switch (radix) {
        case 2: scatter_butterflies<2, Add>(transform, packed, columns, rows, used); break;
        case 3: scatter_butterflies<3, Add>(transform, packed, columns, rows, used); break;
        case 4: scatter_butterflies<4, Add>(transform, packed, columns, rows, used); break;
        case 5: scatter_butterflies<5, Add>(transform, packed, columns, rows, used); break;
        case 7: scatter_butterflies<7, Add>(transform, packed, columns, rows, used); break;
        default: scatter_butterflies<8, Add>(transform, packed, columns, rows, used); break;
    }
    return finite(sum);
}

}  // namespace

std::size_t ingest_chunk(const Transform& transform, const IngestGeometry& geometry, const IngestJob& job, std::size_t chunk,
                  float* scratch) {
    const std::size_t first = chunk * kReadoutsAtOnce;
    const std::size_t readouts = std::min(kReadoutsAtOnce, job.readouts - first);
    const int stride = whitened_stride(transform.length);
    ComplexVector* butterflies = reinterpret_cast<ComplexVector*>(scratch);
    ComplexVector* inputs = butterflies + transform.largest_prime;
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
        gather(from, job.count, job.offset, transform.length, packed, to, geometry.columns);
        const bool sound = job.add ? transform_rows<true>(transform, packed, butterflies, geometry.columns, to, used)
                                   : transform_rows<false>(transform, packed, butterflies, geometry.columns, to, used);
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
