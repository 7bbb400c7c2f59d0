#include "lines.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace edge {

namespace {

template <class T>
T number_at(const unsigned char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

const unsigned char* header_at(const Headers& headers, std::size_t index) {
    return headers.begin + static_cast<std::int64_t>(index) * headers.stride;
}

std::uint16_t counter(const unsigned char* header, std::size_t offset) { return number_at<std::uint16_t>(header + offset); }

bool same_slice(const unsigned char* a, const unsigned char* b, const HeaderFields& at) {
    for (const std::size_t offset : at.slice) {
        if (counter(a, offset) != counter(b, offset)) return false;
    }
    return true;
}

}  // namespace

std::size_t HeaderFields::size() const {
    std::size_t size = flags + sizeof(std::uint64_t);
    for (const std::size_t offset : slice) size = std::max(size, offset + sizeof(std::uint16_t));
    for (const std::size_t offset : {phase_encode, partition, average, centre_sample, discard_pre, discard_post, encoding_space}) {
        size = std::max(size, offset + sizeof(std::uint16_t));
    }
    for (const std::size_t offset : placement) size = std::max(size, offset + 3 * sizeof(float));
    return size;
}

Survey survey(const Headers& headers) {
    Survey found{0, true, true};
    for (std::size_t i = 0; i < headers.count; ++i) {
        const unsigned char* header = header_at(headers, i);
        found.flags |= number_at<std::uint64_t>(header + headers.at.flags);
        found.one_space = found.one_space && counter(header, headers.at.encoding_space) == 0;
        found.one_slice = found.one_slice && same_slice(headers.begin, header, headers.at);
    }
    return found;
}

void mean_of_line(const float* sums, std::int32_t count, std::size_t floats, float* mean) {
    if (count == 1 && mean == sums) return;
    if (count < 1) {
        std::memset(mean, 0, sizeof(float) * floats);
        return;
    }
    const float share = 1.0f / static_cast<float>(count);
    for (std::size_t i = 0; i < floats; ++i) mean[i] = sums[i] * share;
}

std::uint16_t LineBook::average(const Headers& headers, std::size_t at) {
    return counter(header_at(headers, at), headers.at.average);
}

// What is to be said of a readout, but for whether its line has come before.
Stop LineBook::look(const Headers& headers, std::size_t first, std::size_t at, std::int64_t& line) const {
    const HeaderFields& fields = headers.at;
    const unsigned char *model = header_at(headers, first), *header = header_at(headers, at);
    const bool alike = same_slice(model, header, fields) &&
                       counter(model, fields.centre_sample) == counter(header, fields.centre_sample) &&
                       counter(model, fields.discard_pre) == counter(header, fields.discard_pre) &&
                       counter(model, fields.discard_post) == counter(header, fields.discard_post);
    if (!alike) return Stop::kOther;
    if (counter(header, fields.partition) != 0) return Stop::kPartition;
    line = std::int64_t{counter(header, fields.phase_encode)} - rules_.first;
    if (line < 0 || line >= static_cast<std::int64_t>(counts_.size())) return Stop::kPhaseEncode;
    const bool last_average = std::uint32_t{counter(header, fields.average)} + 1 >= rules_.averages;
    const std::uint64_t ends = rules_.final_flags | (last_average ? rules_.end_flags : 0);
    return number_at<std::uint64_t>(header + fields.flags) & ends ? Stop::kSliceEnds : Stop::kEnd;
}

bool LineBook::mark(std::uint16_t average, std::int64_t line) {
    const std::size_t index = static_cast<std::size_t>(line);
    std::vector<bool>& seen = seen_[average];
    if (seen.empty()) seen.resize(counts_.size());
    if (seen[index]) return false;
    seen[index] = true;
    ++counts_[index];
    lines_.push_back(line);
    averages_.push_back(average);
    return true;
}

// The listed lines but the first `kept` have not come.
void LineBook::forget(std::size_t kept) {
    for (std::size_t i = kept; i < lines_.size(); ++i) {
        const std::size_t index = static_cast<std::size_t>(lines_[i]);
        seen_[averages_[i]][index] = false;
        --counts_[index];
    }
    lines_.resize(kept);
    averages_.resize(kept);
}

Placed LineBook::finished(Placed placed, const Headers& headers, std::size_t begin) const {
    placed.count = lines_.size();
    for (std::size_t i = 0; i < placed.count; ++i) {
        placed.lowest_average = std::min(placed.lowest_average, averages_[i]);
        placed.highest_average = std::max(placed.highest_average, averages_[i]);
        const unsigned char* header = header_at(headers, begin + i);
        for (std::size_t part = 0; part < kPlacement; ++part) {
            for (std::size_t axis = 0; axis < 3; ++axis) {
                const float value = number_at<float>(header + headers.at.placement[part] + sizeof(float) * axis);
                const float difference = std::abs(value - placement_[3 * part + axis]);
                if (difference > rules_.tolerance[part]) placed.moved |= 1u << part;
            }
        }
    }
    return placed;
}

}  // namespace edge
