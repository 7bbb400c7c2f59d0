// Arbitrary bytes in pieces of arbitrary sizes into `MrdStream`, its readouts into the lines of slices, and what must hold whatever they are. Built with ASan and UBSan:
// memory that was not received into is poisoned, so that a look at it is an error although the buffer is larger.
//
// An input is: a byte that chooses limits; a byte n; n bytes, the sizes of the pieces, used in turn; the stream.
#include <sanitizer/asan_interface.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ingest.hpp"
#include "lines.hpp"
#include "mrd_stream.hpp"
#include "scratch.hpp"

#define MUST_HOLD(condition)                                                        \
    do {                                                                            \
        if (!(condition)) {                                                         \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);    \
            std::abort();                                                           \
        }                                                                           \
    } while (false)

namespace edge {
namespace baseline {
bool all_finite(const unsigned char* floats, std::size_t count);
std::size_t ingest_chunk(const Transform&, const IngestGeometry&, const IngestJob&, std::size_t chunk, float* scratch);
}
}  // namespace edge

namespace {

constexpr int kBaselineRadix = 4;  // as kernels/cpu/table.cpp has it

// Of an acquisition header.
constexpr edge::HeaderFields kFields = {2, {248, 250, 252, 254, 256}, 242, 244, 246, 172, 168, 170, 174, {182, 194, 206, 218}};

struct Settings {
    edge::StreamLimits limits;
    std::size_t buffer_bytes;
    std::optional<std::uint64_t> checked_flags;
};

const Settings kSettings[] = {
    {{1 << 20, 1024, 65535, 4 << 20}, 64 << 10, std::nullopt},  // a server's, but smaller: it is poisoned again and again
    {{4096, 1024, 65535, 32 << 10}, 256, std::nullopt},
    {{64, 2, 8, 2048}, 0, std::nullopt},
    {{~0ull, ~0ull, ~0ull, 1 << 20}, 1024, std::nullopt},  // nothing but the size of messages is limited
    {{4096, 8, 64, 32 << 10}, 256, 0x40000},               // noise readouts are checked, and none without a flag
};

// What was yielded, whatever pieces it came in.
struct Outcome {
    std::vector<unsigned char> kinds;  // one a readout
    std::size_t consumed = 0;
    int fault = -1;  // none
    bool operator==(const Outcome& other) const {
        return kinds == other.kinds && consumed == other.consumed && fault == other.fault;
    }
};

bool same(const edge::Fault& a, const edge::Fault& b) {
    return a.check == b.check && a.id == b.id && a.numbers == b.numbers &&
           !std::memcmp(a.floats.data(), b.floats.data(), sizeof a.floats);
}

void check_readouts(const edge::Readouts& run, const Settings& settings) {
    MUST_HOLD(run.count >= 1 && run.count <= edge::kBatchReadouts);
    MUST_HOLD(run.coils >= 1 && run.coils <= settings.limits.coils);
    MUST_HOLD(run.samples >= 1 && run.samples <= settings.limits.samples);
    MUST_HOLD(run.stride <= settings.limits.message_bytes);
    const std::size_t payload = run.coils * run.samples * edge::kSampleBytes;
    MUST_HOLD(run.count == 1 || run.count * payload <= edge::kBatchBytes);
    MUST_HOLD(run.stride >= edge::kIdBytes + edge::kAcquisitionHeaderBytes + payload);
    for (std::size_t i = 0; i < run.count; ++i) {
        const unsigned char* header = run.begin + i * run.stride + edge::kIdBytes;
        std::uint64_t flags;
        std::memcpy(&flags, header + kFields.flags, sizeof flags);
        std::uint16_t space;
        std::memcpy(&space, header + kFields.encoding_space, sizeof space);
        if (settings.checked_flags && !(flags & *settings.checked_flags) && space == 0) continue;
        const unsigned char* samples = run.begin + (i + 1) * run.stride - payload;
        for (std::size_t at = 0; at < payload; at += sizeof(float)) {
            float number;
            std::memcpy(&number, samples + at, sizeof number);
            MUST_HOLD(std::isfinite(number));
        }
    }
}

// The readouts into slices of ten lines, as a session does it: a slice for each run of them.
void place_readouts(const edge::Readouts& run) {
    if (run.samples > 64 || run.coils > 8) return;  // it would take too long
    constexpr std::size_t kLines = 10;
    const std::size_t payload = run.coils * run.samples * edge::kSampleBytes;
    const edge::Headers headers{run.begin + edge::kIdBytes, static_cast<std::int64_t>(run.stride), run.count, kFields};
    const edge::Survey found = edge::survey(headers);
    const edge::Transform transform(static_cast<int>(run.samples), kBaselineRadix);
    const edge::IngestGeometry geometry{static_cast<int>(run.coils), static_cast<int>(run.samples)};
    const edge::Scratch scratch(1, edge::ingest_scratch(transform, geometry));
    for (std::size_t begin = 0; begin < run.count;) {
        edge::LineBook book(kLines, {-2, 1u << 24, 0x80, 2, {0.1f, 0.1f, 0.1f, 0.1f}}, {});
        std::vector<float> out(2 * kLines * run.coils * run.samples);
        const auto transformed = [&](std::size_t first, std::size_t count, const std::int64_t* lines, bool add) {
            for (std::size_t i = 0; i < count; ++i) MUST_HOLD(lines[i] >= 0 && lines[i] < static_cast<std::int64_t>(kLines));
            const edge::IngestJob job{run.begin + (first + 1) * run.stride - payload,
                                      static_cast<std::int64_t>(run.stride),
                                      static_cast<std::int64_t>(run.samples * edge::kSampleBytes),
                                      count, static_cast<int>(run.samples), 0, nullptr, lines, out.data(), add};
            for (std::size_t chunk = 0; chunk * edge::kReadoutsAtOnce < count; ++chunk) {
                const std::size_t bad = edge::baseline::ingest_chunk(transform, geometry, job, chunk, scratch[0]);
                if (bad == edge::kAllFinite) continue;
                MUST_HOLD(bad < count);
                MUST_HOLD(!edge::baseline::all_finite(run.begin + (first + bad + 1) * run.stride - payload, payload / 4));
                return first + bad;
            }
            return edge::kAllSound;
        };
        const edge::Placed placed = book.place(headers, begin, transformed);
        MUST_HOLD(placed.count <= run.count - begin);
        std::int64_t counted = 0;
        for (const std::int32_t count : book.counts()) counted += count;
        MUST_HOLD(counted == static_cast<std::int64_t>(placed.count));
        for (std::size_t i = begin; i < begin + placed.count; ++i) {
            MUST_HOLD(edge::baseline::all_finite(run.begin + (i + 1) * run.stride - payload, payload / 4));
        }
        MUST_HOLD(placed.stop != edge::Stop::kEnd || begin + placed.count == run.count);
        MUST_HOLD(placed.stop != edge::Stop::kOther || !found.one_slice || placed.count < run.count - begin);
        begin += std::max<std::size_t>(placed.count, 1);  // past one that is refused
    }
}

// What Python takes out of a body without asking again.
void check_body(const edge::Body& body, const Settings& settings) {
    MUST_HOLD(body.size + edge::kIdBytes <= std::max<std::uint64_t>(settings.limits.message_bytes, 2 + edge::kConfigFileBytes));
    if (body.id == edge::MessageId::kImage) {
        std::uint64_t text;
        MUST_HOLD(body.size > edge::kImageHeaderBytes + sizeof text);
        std::memcpy(&text, body.begin + edge::kImageHeaderBytes, sizeof text);
        MUST_HOLD(text < body.size - edge::kImageHeaderBytes - sizeof text);
    } else if (body.id == edge::MessageId::kWaveform) {
        MUST_HOLD(body.size >= edge::kWaveformHeaderBytes);
    }
}

// Pieces of `sizes` in turn; everything at once where there are none.
Outcome parse(const Settings& settings, const unsigned char* sizes, std::size_t pieces, const unsigned char* stream,
              std::size_t size) {
    edge::MrdStream parser(settings.buffer_bytes, &edge::baseline::all_finite, settings.checked_flags);
    parser.accept(settings.limits);
    const std::size_t largest =
        std::max({settings.buffer_bytes, static_cast<std::size_t>(settings.limits.message_bytes),
                  edge::kIdBytes + edge::kConfigFileBytes});
    Outcome outcome;
    std::size_t delivered = 0, turn = 0;
    for (bool closed = false;;) {
        const edge::Item item = parser.next();
        MUST_HOLD(parser.capacity() <= largest);
        if (std::holds_alternative<edge::NeedMore>(item)) {
            MUST_HOLD(!closed);
            const edge::MrdStream::Room room = parser.room();
            MUST_HOLD(room.size > 0);
            __asan_unpoison_memory_region(room.begin, room.size);
            std::size_t piece = room.size;
            if (pieces) {
                const unsigned char choice = sizes[turn++ % pieces];
                piece = choice < 128 ? 1 + choice : (choice - 127) * std::size_t{64};
            }
            piece = std::min({piece, room.size, size - delivered});
            if (piece) std::memcpy(room.begin, stream + delivered, piece);
            __asan_poison_memory_region(room.begin + piece, room.size - piece);
            MUST_HOLD(!parser.received(room.size + 1));
            MUST_HOLD(parser.received(piece));
            delivered += piece;
        } else if (const edge::Readouts* run = std::get_if<edge::Readouts>(&item)) {
            MUST_HOLD(!std::memcmp(run->begin, stream + outcome.consumed, run->count * run->stride));
            check_readouts(*run, settings);
            place_readouts(*run);
            outcome.consumed += run->count * run->stride;
            outcome.kinds.insert(outcome.kinds.end(), run->count, 0);
        } else if (const edge::Body* body = std::get_if<edge::Body>(&item)) {
            MUST_HOLD(!std::memcmp(body->begin, stream + outcome.consumed + edge::kIdBytes, body->size));
            MUST_HOLD(!closed);
            check_body(*body, settings);
            closed = body->id == edge::MessageId::kClose;
            outcome.consumed += edge::kIdBytes + body->size;
            outcome.kinds.push_back(static_cast<unsigned char>(static_cast<unsigned>(body->id) % 251));
        } else if (const edge::Fault* fault = std::get_if<edge::Fault>(&item)) {
            outcome.fault = static_cast<int>(fault->check);
            const edge::Item again = parser.next();
            if (fault->check == edge::Check::kEnd) {
                MUST_HOLD(delivered == size);
                MUST_HOLD(std::holds_alternative<edge::NeedMore>(again));
            } else {
                MUST_HOLD(same(std::get<edge::Fault>(again), *fault));
            }
            MUST_HOLD(parser.held() == delivered - outcome.consumed);
            return outcome;
        } else {
            MUST_HOLD(closed || (delivered == size && parser.held() == 0));
            MUST_HOLD(parser.held() == delivered - outcome.consumed);
            return outcome;
        }
        MUST_HOLD(parser.held() == delivered - outcome.consumed);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const Settings& settings = kSettings[data[0] % (sizeof kSettings / sizeof *kSettings)];
    const std::size_t pieces = std::min<std::size_t>(data[1], size - 2);
    const unsigned char *sizes = data + 2, *stream = sizes + pieces;
    const std::size_t length = size - 2 - pieces;
    const Outcome whole = parse(settings, nullptr, 0, stream, length);
    if (pieces) MUST_HOLD(parse(settings, sizes, pieces, stream, length) == whole);
    return 0;
}
