#include "mrd_stream.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>

namespace edge {

namespace {

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "numbers are read as the wire has them, which is little-endian"
#endif

// A number at any address.
template <class T>
T number_at(const unsigned char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Claims may be absurd: what does not fit 64 bits is as refused as the largest number that does.
std::uint64_t plus(std::uint64_t a, std::uint64_t b) {
    std::uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<std::uint64_t>::max() : sum;
}

std::uint64_t times(std::uint64_t a, std::uint64_t b) {
    std::uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<std::uint64_t>::max() : product;
}

bool finite(const unsigned char* number) {
    constexpr std::uint32_t kExponent = 0x7f800000;
    return (number_at<std::uint32_t>(number) & kExponent) != kExponent;
}

Fault fault(Check check, MessageId id, std::array<std::uint64_t, 7> numbers) {
    return {check, static_cast<std::uint16_t>(id), numbers, {}};
}

// An acquisition message up to its trajectory, seen through the fields that are checked; offsets are from the message's id.
constexpr std::size_t kFrameBytes = kIdBytes + kAcquisitionHeaderBytes;
constexpr std::size_t kFlagsAt = 4, kEncodingSpaceAt = 176;
struct Frame {
    explicit Frame(const unsigned char* message)
        : version(number_at<std::uint16_t>(message + 2)),
          scan_counter(number_at<std::uint32_t>(message + 16)),
          samples(number_at<std::uint16_t>(message + 36)),
          available(number_at<std::uint16_t>(message + 38)),
          coils(number_at<std::uint16_t>(message + 40)),
          discard_pre(number_at<std::uint16_t>(message + 170)),
          discard_post(number_at<std::uint16_t>(message + 172)),
          dimensions(number_at<std::uint16_t>(message + 178)),
          geometry(message + 180) {}

    std::uint16_t version;
    std::uint32_t scan_counter;
    std::uint16_t samples, available, coils, discard_pre, discard_post, dimensions;
    const unsigned char* geometry;  // floats

    std::uint64_t payload() const { return std::uint64_t{kSampleBytes} * samples * coils; }
    std::uint64_t size() const { return kFrameBytes + std::uint64_t{4} * samples * dimensions + payload(); }
};

bool finite_geometry(const Frame& frame) {
    for (std::size_t i = 0; i < kGeometryNumbers; ++i) {
        if (!finite(frame.geometry + 4 * i)) return false;
    }
    return true;
}

// The first check on headers that fails. They say nothing of the samples, which may not have arrived yet.
std::optional<Check> unsound(const Frame& frame, const StreamLimits& limits) {
    if (frame.version > kNewestVersion) return Check::kReadoutVersion;
    if (frame.dimensions > kMostTrajectoryDimensions) return Check::kTrajectoryDimensions;
    if (frame.samples < 1 || frame.samples > limits.samples) return Check::kSamples;
    if (frame.coils < 1 || frame.coils > limits.coils) return Check::kCoils;
    if (frame.available != 0 && frame.coils > frame.available) return Check::kAvailableCoils;
    if (std::uint32_t{frame.discard_pre} + frame.discard_post >= frame.samples) return Check::kDiscard;
    if (!finite_geometry(frame)) return Check::kGeometry;
    return std::nullopt;
}

Fault readout_fault(Check check, const Frame& frame, const StreamLimits& limits) {
    Fault found = fault(check, MessageId::kAcquisition, {});
    switch (check) {
        case Check::kReadoutVersion: found.numbers = {frame.version}; break;
        case Check::kTrajectoryDimensions: found.numbers = {frame.dimensions}; break;
        case Check::kSamples: found.numbers = {frame.samples, limits.samples}; break;
        case Check::kCoils: found.numbers = {frame.coils, limits.coils}; break;
        case Check::kAvailableCoils: found.numbers = {frame.coils, frame.available}; break;
        case Check::kDiscard: found.numbers = {frame.discard_pre, frame.discard_post}; break;
        case Check::kReadoutSize: found.numbers = {frame.coils, frame.samples, frame.size(), limits.message_bytes}; break;
        default: break;
    }
    if (check == Check::kGeometry) std::memcpy(found.floats.data(), frame.geometry, 4 * kGeometryNumbers);
    return found;
}

Fault not_finite(const Frame& frame, const unsigned char* samples) {
    const std::uint64_t last = frame.payload() / kSampleBytes - 1;
    std::uint64_t index = 0;
    while (index < last && finite(samples + kSampleBytes * index) && finite(samples + kSampleBytes * index + 4)) ++index;
    Fault found = fault(Check::kFinite, MessageId::kAcquisition,
                        {index / frame.samples, index % frame.samples, frame.scan_counter});
    std::memcpy(found.floats.data(), samples + kSampleBytes * index, kSampleBytes);
    return found;
}

std::uint64_t pixel_bytes(std::uint16_t type) {
    constexpr std::uint8_t kBytes[] = {0, 2, 2, 4, 4, 4, 8, 8, 16};  // ISMRMRD_DataTypes
    return type < sizeof kBytes ? kBytes[type] : 0;
}

bool known(std::uint16_t id) {
    switch (static_cast<MessageId>(id)) {
        case MessageId::kConfigFile:
        case MessageId::kConfigText:
        case MessageId::kHeader:
        case MessageId::kClose:
        case MessageId::kText:
        case MessageId::kAcquisition:
        case MessageId::kImage:
        case MessageId::kWaveform: return true;
    }
    return false;
}

// Not touched, so that it costs nothing until it is written.
std::shared_ptr<unsigned char[]> memory_of(std::size_t bytes) {
    return std::shared_ptr<unsigned char[]>(new unsigned char[bytes]);
}

}  // namespace

MrdStream::MrdStream(std::size_t buffer_bytes, AllFinite all_finite, std::optional<std::uint64_t> checked_flags)
    : all_finite_(all_finite),
      checked_flags_(checked_flags),
      memory_(memory_of(std::max(buffer_bytes, kIdBytes))),
      capacity_(std::max(buffer_bytes, kIdBytes)) {}

void MrdStream::accept(const StreamLimits& limits) {
    limits_ = limits;
    // Whatever passes this limit fits a size_t, also where that has 32 bits.
    limits_.message_bytes = std::min<std::uint64_t>(limits.message_bytes, std::numeric_limits<std::size_t>::max() / 2);
}

MrdStream::Room MrdStream::room() {
    const std::size_t count = held();
    if (need_ > capacity_) {
        std::shared_ptr<unsigned char[]> grown = memory_of(need_);
        std::memcpy(grown.get(), message(), count);
        memory_ = std::move(grown);
        capacity_ = need_;
    } else if (start_) {
        // Less than one message, so little is moved; and the next receive falls on memory that is still in cache.
        std::memmove(memory_.get(), message(), count);
    }
    start_ = 0;
    end_ = count;
    return {memory_.get() + end_, capacity_ - end_};
}

bool MrdStream::received(std::size_t count) {
    if (count > capacity_ - end_) return false;
    end_ += count;
    ended_ = count == 0;
    return true;
}

Item MrdStream::next() {
    if (closed_) return StreamEnd{};
    const Need need = needed();
    if (const Fault* found = std::get_if<Fault>(&need)) return *found;
    const std::size_t size = std::get<std::size_t>(need);
    if (size > held()) {
        need_ = size;
        if (!ended_) return NeedMore{};
        ended_ = false;
        if (held() == 0) return StreamEnd{};
        const std::uint16_t id = held() < kIdBytes ? 0 : number_at<std::uint16_t>(message());
        return fault(Check::kEnd, static_cast<MessageId>(id), {held(), size});
    }
    const MessageId id = static_cast<MessageId>(number_at<std::uint16_t>(message()));
    if (id == MessageId::kAcquisition) return take_readouts(size);
    const Body body{id, message() + kIdBytes, size - kIdBytes};
    start_ += size;
    closed_ = id == MessageId::kClose;
    return body;
}

// Bytes that the first message needs, as far as what has arrived of it can tell; checked against the limits.
MrdStream::Need MrdStream::needed() const {
    if (held() < kIdBytes) return kIdBytes;
    const std::uint16_t number = number_at<std::uint16_t>(message());
    const MessageId id = static_cast<MessageId>(number);
    if (!known(number)) return fault(Check::kMessageId, id, {number});
    switch (id) {
        case MessageId::kClose: return kIdBytes;
        case MessageId::kConfigFile: return kIdBytes + kConfigFileBytes;
        case MessageId::kAcquisition: return needed_by_readout();
        case MessageId::kImage: return needed_by_image();
        case MessageId::kWaveform: return needed_by_waveform();
        default: return needed_by_text(id);
    }
}

MrdStream::Need MrdStream::needed_by_text(MessageId id) const {
    constexpr std::size_t kFixed = kIdBytes + 4;
    if (held() < kFixed) return kFixed;
    const std::uint64_t length = number_at<std::uint32_t>(message() + kIdBytes);
    if (length > limits_.text_bytes) return fault(Check::kTextLength, id, {length, limits_.text_bytes});
    const std::uint64_t size = kFixed + length;
    if (size > limits_.message_bytes) return fault(Check::kTextSize, id, {length, size, limits_.message_bytes});
    return static_cast<std::size_t>(size);
}

MrdStream::Need MrdStream::needed_by_readout() const {
    if (held() < kFrameBytes) return kFrameBytes;
    const Frame frame(message());
    if (const auto check = unsound(frame, limits_)) return readout_fault(*check, frame, limits_);
    if (frame.size() > limits_.message_bytes) return readout_fault(Check::kReadoutSize, frame, limits_);
    return static_cast<std::size_t>(frame.size());
}

MrdStream::Need MrdStream::needed_by_image() const {
    constexpr std::size_t kFixed = kIdBytes + kImageHeaderBytes + 8;
    constexpr MessageId kId = MessageId::kImage;
    if (held() < kFixed) return kFixed;
    const unsigned char* header = message() + kIdBytes;
    const std::uint16_t version = number_at<std::uint16_t>(header), type = number_at<std::uint16_t>(header + 2);
    if (version > kNewestVersion) return fault(Check::kHeaderVersion, kId, {version});
    if (!pixel_bytes(type)) return fault(Check::kPixelType, kId, {type});
    // The length stands twice; readers of the reference implementation obey the second, so writers get that one right.
    const std::uint64_t text = number_at<std::uint64_t>(header + kImageHeaderBytes);
    if (text > limits_.text_bytes) return fault(Check::kAttributeLength, kId, {text, limits_.text_bytes});
    const std::uint64_t channels = number_at<std::uint16_t>(header + 34), x = number_at<std::uint16_t>(header + 16),
                        y = number_at<std::uint16_t>(header + 18), z = number_at<std::uint16_t>(header + 20);
    const std::uint64_t pixels = times(times(times(channels, x), y), z), beside = plus(kFixed, text);
    if (!pixels) return fault(Check::kNoPixels, kId, {channels, x, y, z});
    const std::uint64_t size = plus(beside, times(pixels, pixel_bytes(type)));
    if (size > limits_.message_bytes) {
        return fault(Check::kImageSize, kId, {channels, x, y, z, pixel_bytes(type), beside, limits_.message_bytes});
    }
    return static_cast<std::size_t>(size);
}

MrdStream::Need MrdStream::needed_by_waveform() const {
    constexpr std::size_t kFixed = kIdBytes + kWaveformHeaderBytes;
    constexpr MessageId kId = MessageId::kWaveform;
    if (held() < kFixed) return kFixed;
    const unsigned char* header = message() + kIdBytes;
    const std::uint16_t version = number_at<std::uint16_t>(header);
    if (version > kNewestVersion) return fault(Check::kHeaderVersion, kId, {version});
    const std::uint64_t samples = number_at<std::uint16_t>(header + 28), channels = number_at<std::uint16_t>(header + 30);
    const std::uint64_t size = kFixed + 4 * channels * samples;
    if (size > limits_.message_bytes) return fault(Check::kWaveformSize, kId, {channels, samples, size, limits_.message_bytes});
    return static_cast<std::size_t>(size);
}

bool MrdStream::is_checked(const unsigned char* readout) const {
    return !checked_flags_ || (number_at<std::uint64_t>(readout + kFlagsAt) & *checked_flags_) ||
           number_at<std::uint16_t>(readout + kEncodingSpaceAt) != 0;
}

// The run of sound readouts that begins with the first message, which is complete, has `size` bytes, and whose header has passed.
Item MrdStream::take_readouts(std::size_t size) {
    const Frame first(message());
    const std::size_t payload = static_cast<std::size_t>(first.payload());
    const std::size_t most =
        std::min({held() / size, kBatchReadouts, std::max<std::size_t>(1, kBatchBytes / payload)});
    std::size_t count = 0;
    for (const unsigned char* at = message(); count < most; ++count, at += size) {
        if (count) {
            const Frame frame(at);
            if (number_at<std::uint16_t>(at) != static_cast<std::uint16_t>(MessageId::kAcquisition) ||
                frame.samples != first.samples || frame.coils != first.coils || frame.dimensions != first.dimensions ||
                unsound(frame, limits_)) {
                break;
            }
        }
        if (is_checked(at) && !all_finite_(at + size - payload, payload / 4)) break;
    }
    if (!count) return not_finite(first, message() + size - payload);
    const Readouts readouts{message(), count, size, first.coils, first.samples};
    start_ += count * size;
    return readouts;
}

}  // namespace edge
