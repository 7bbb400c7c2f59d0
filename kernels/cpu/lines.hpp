// Readouts and the lines they are, out of headers that prove nothing but their size: which of them belong together, which line of a
// slice each is, and what speaks against it. Neither Python nor samples.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <vector>

namespace edge {

constexpr std::size_t kSliceCounters = 5;  // slice, contrast, phase, repetition, set: one image each
constexpr std::size_t kPlacement = 4;      // position and three directions, three floats each

// Where a header's fields are, in bytes from its start.
struct HeaderFields {
    std::size_t flags;  // u64
    std::array<std::size_t, kSliceCounters> slice;  // u16, like all that follow but the last
    std::size_t phase_encode, partition, average, centre_sample, discard_pre, discard_post, encoding_space;
    std::array<std::size_t, kPlacement> placement;  // f32[3] each

    std::size_t size() const;  // that a header has at least
};

// Headers at any address, one every `stride` bytes.
struct Headers {
    const unsigned char* begin;
    std::int64_t stride;
    std::size_t count;
    HeaderFields at;
};

struct Survey {
    std::uint64_t flags;  // that any of them has
    bool one_space;       // all are of the first encoding space
    bool one_slice;       // all are of one slice
};

Survey survey(const Headers& headers);

// What a readout failed, or why those after it do not go with it.
enum class Stop : std::uint8_t {
    kEnd,           // there are no more
    kOther,         // the next one is of another slice, or is transformed otherwise
    kSliceEnds,     // the last one that was placed ends it
    kPartition,     // the next one lies in another partition than the first
    kPhaseEncode,   // the next one lies outside the slice
    kMeasured,      // the next one's average has brought that line before
    kNotFinite,     // the next one has samples that are not finite
};

struct Placed {
    std::size_t count;  // of readouts
    Stop stop;
    unsigned moved;     // bit n: the n-th part of the placement differs from the slice's
    std::uint16_t lowest_average, highest_average;
};

// Of one line of `floats` numbers summed over `count` readouts, their mean; zeros where none came. `mean` may be `sums`.
void mean_of_line(const float* sums, std::int32_t count, std::size_t floats, float* mean);

constexpr std::size_t kAllSound = std::numeric_limits<std::size_t>::max();

// The lines of one slice.
class LineBook {
  public:
    struct Rules {
        std::int64_t first;        // phase encode of the first line
        std::uint64_t final_flags;  // with any of which a readout ends the slice,
        std::uint64_t end_flags;    // or with one of these,
        std::uint32_t averages;     // if it is of the last one
        std::array<float, kPlacement> tolerance;  // from which on placements differ
    };

    LineBook(std::size_t lines, const Rules& rules, const std::array<float, 3 * kPlacement>& placement)
        : rules_(rules), placement_(placement), counts_(lines) {}

    // Averages summed, of each line.
    std::vector<std::int32_t>& counts() { return counts_; }

    // Takes the readouts from `begin` on that go with the first of them. `transform(first, count, lines, add)` puts `count` of them
    // into `lines`, or adds them to what is there, and returns the first with samples that are not finite, or `kAllSound`; what it made
    // of that one and those after it is not counted.
    template <class Transform>
    Placed place(const Headers& headers, std::size_t begin, Transform transform) {
        Placed placed{0, Stop::kEnd, 0, std::numeric_limits<std::uint16_t>::max(), 0};
        lines_.clear();
        averages_.clear();
        std::size_t start = begin;  // of the readouts that are listed and not transformed
        bool adding = false;
        const auto flush = [&](std::size_t stop) {
            const std::size_t bad = stop > start ? transform(start, stop - start, lines_.data() + (start - begin), adding) : kAllSound;
            start = stop;
            if (bad == kAllSound) return true;
            forget(bad - begin);
            placed.stop = Stop::kNotFinite;
            return false;
        };
        std::size_t at = begin;
        for (; at < headers.count; ++at) {
            std::int64_t line;
            placed.stop = look(headers, begin, at, line);
            if (placed.stop != Stop::kEnd && placed.stop != Stop::kSliceEnds) break;
            const bool add = counts_[static_cast<std::size_t>(line)] > 0;
            if (add != adding) {
                if (!flush(at)) return finished(placed, headers, begin);
                adding = add;
            }
            if (!mark(average(headers, at), line)) {
                placed.stop = Stop::kMeasured;
                break;
            }
            if (placed.stop == Stop::kSliceEnds) {
                ++at;
                break;
            }
        }
        flush(at);
        return finished(placed, headers, begin);
    }

  private:
    Stop look(const Headers& headers, std::size_t first, std::size_t at, std::int64_t& line) const;
    static std::uint16_t average(const Headers& headers, std::size_t at);
    bool mark(std::uint16_t average, std::int64_t line);  // false: it was before
    void forget(std::size_t kept);
    Placed finished(Placed placed, const Headers& headers, std::size_t begin) const;

    Rules rules_;
    std::array<float, 3 * kPlacement> placement_;
    std::vector<std::int32_t> counts_;
    std::map<std::uint16_t, std::vector<bool>> seen_;  // by average
    std::vector<std::int64_t> lines_;                  // of the readouts that are placed at the moment
    std::vector<std::uint16_t> averages_;
};

}  // namespace edge
