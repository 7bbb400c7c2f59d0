// The ISMRMRD v1 stream, out of bytes that prove nothing: which messages they hold, and whether those are what they claim to be.
// Neither Python nor I/O. Every message is a little-endian u16 id and a body; sources: ismrmrd.h, waveform.h and
// doc/mrd_messages.md of https://github.com/ismrmrd/ismrmrd.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include "ingest.hpp"

namespace edge {

enum class MessageId : std::uint16_t {
    kConfigFile = 1,
    kConfigText = 2,
    kHeader = 3,
    kClose = 4,
    kText = 5,
    kAcquisition = 1008,
    kImage = 1022,
    kWaveform = 1026,
};

constexpr std::size_t kIdBytes = 2;
constexpr std::size_t kConfigFileBytes = 1024;  // a char[1024]
constexpr std::size_t kAcquisitionHeaderBytes = 340;
constexpr std::size_t kImageHeaderBytes = 198;
constexpr std::size_t kWaveformHeaderBytes = 40;
constexpr std::size_t kSampleBytes = 8;
constexpr std::uint16_t kNewestVersion = 1;  // of the headers; real files say 0 or 1, with the same layout
constexpr std::uint16_t kMostTrajectoryDimensions = 3;
constexpr std::size_t kGeometryNumbers = 13;  // sample time, position and three directions, which lie side by side

// Bounds a batch of tiny readouts, so that the work on one batch stays short.
constexpr std::size_t kBatchReadouts = 1024;
// Bounds the samples of ordinary readouts: small enough to be still in cache when their consumer reads them.
constexpr std::size_t kBatchBytes = std::size_t{2} << 20;

// What is accepted from a peer that has proved nothing yet; see edge_runtime.links.mrd_messages.WireLimits.
struct StreamLimits {
    std::uint64_t text_bytes;
    std::uint64_t coils;
    std::uint64_t samples;
    std::uint64_t message_bytes;
};

// What a message failed; the numbers of its `Fault` are those named here, in this order.
enum class Check : std::uint8_t {
    kMessageId,             // number
    kEnd,                   // bytes held when the stream ended within a message, bytes needed at least
    kTextLength,            // length, limit
    kTextSize,              // length, bytes of the message, limit
    kReadoutVersion,        // version
    kTrajectoryDimensions,  // dimensions
    kSamples,               // samples, limit
    kCoils,                 // coils, limit
    kAvailableCoils,        // coils, available
    kDiscard,               // before, after
    kGeometry,              // none; the floats are what came
    kReadoutSize,           // coils, samples, bytes, limit
    kFinite,                // coil, sample, scan counter; the floats are the sample
    kHeaderVersion,         // version; of an image or a waveform
    kPixelType,             // number
    kAttributeLength,       // length, limit
    kNoPixels,              // channels, x, y, z
    kImageSize,             // channels, x, y, z, bytes of a pixel, bytes beside the pixels, limit
    kWaveformSize,          // channels, samples, bytes, limit
};

struct Fault {
    Check check;
    std::uint16_t id;  // of the message; 0 where not even that has arrived
    std::array<std::uint64_t, 7> numbers;
    std::array<float, kGeometryNumbers> floats;
};

// Sound readouts of one shape (but for samples that were not to be checked), one whole message after the other from `begin`. The header of a message follows its id; its samples,
// complex64 (coils, samples) at any address, are the last `coils * samples * kSampleBytes` of its `stride` bytes.
struct Readouts {
    const unsigned char* begin;
    std::size_t count;
    std::size_t stride;
    std::size_t coils;
    std::size_t samples;
};

// A complete message of another kind, whose lengths agree with each other and the limits. What its texts say is not looked at.
struct Body {
    MessageId id;
    const unsigned char* begin;  // after the id
    std::size_t size;
};

struct NeedMore {};   // than was received
struct StreamEnd {};  // after CLOSE, or between two messages

typedef std::variant<NeedMore, Readouts, Body, StreamEnd, Fault> Item;

// A receive buffer and what is found in it. What `next` yields lies in the buffer and is valid until the next call of `room`.
// For one thread at a time.
class MrdStream {
  public:
    // The buffer has `buffer_bytes` at first, and grows to no more than one admissible message needs. Until `accept`, no message of
    // a length of its own is. Samples are checked, but those of readouts of the first encoding space without any of the flags in
    // `checked_flags`: whoever transforms those sees what they hold. Without a value, all are.
    MrdStream(std::size_t buffer_bytes, AllFinite all_finite, std::optional<std::uint64_t> checked_flags = std::nullopt);

    // What is accepted from here on.
    void accept(const StreamLimits& limits);

    struct Room {
        unsigned char* begin;
        std::size_t size;  // never 0 after `NeedMore`
    };
    // Where bytes may be received into. Moves what is held to the start of the buffer, and grows that if it can't hold the message.
    Room room();
    // `count` bytes were written at the start of `room`; 0 says that the stream has ended.
    // False, and nothing is changed: there was no room for as many.
    bool received(std::size_t count);

    // What comes next in the stream. A fault is never passed over: it comes again, but for one that more bytes mend (`kEnd`).
    Item next();

    std::size_t held() const { return end_ - start_; }  // bytes received and not yet yielded
    std::size_t capacity() const { return capacity_; }
    // The buffer itself, for whoever looks at what was yielded for longer than the stream lives.
    const std::shared_ptr<unsigned char[]>& memory() const { return memory_; }

  private:
    typedef std::variant<std::size_t, Fault> Need;  // bytes

    const unsigned char* message() const { return memory_.get() + start_; }
    Need needed() const;
    Need needed_by_text(MessageId id) const;
    Need needed_by_readout() const;
    Need needed_by_image() const;
    Need needed_by_waveform() const;
    Item take_readouts(std::size_t size);
    bool is_checked(const unsigned char* readout) const;

    StreamLimits limits_{};
    AllFinite all_finite_;
    std::optional<std::uint64_t> checked_flags_;
    std::shared_ptr<unsigned char[]> memory_;
    std::size_t capacity_;
    std::size_t start_ = 0;  // of the first message not yet yielded
    std::size_t end_ = 0;    // of what was received
    std::size_t need_ = kIdBytes;
    bool ended_ = false;   // nothing came when more was asked for
    bool closed_ = false;  // CLOSE was yielded; what follows it is not looked at
};

}  // namespace edge
