// `MrdStream` for Python: `edge_runtime.links.mrd_messages` makes messages of what it yields and texts of what it refuses.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <variant>

#include "mrd_stream.hpp"
#include "table.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

typedef std::shared_ptr<unsigned char[]> Memory;
typedef nb::ndarray<nb::numpy, unsigned char, nb::ndim<1>> WritableBytes;
typedef nb::ndarray<nb::numpy, const unsigned char, nb::ndim<1>> Bytes;

// What keeps an array's memory when the stream has gone on to a larger buffer, or has gone.
nb::capsule owner_of(const Memory& memory) {
    auto held = std::make_unique<Memory>(memory);
    nb::capsule owner(held.get(), [](void* pointer) noexcept { delete static_cast<Memory*>(pointer); });
    held.release();
    return owner;
}

struct PyReadouts {
    edge::Readouts readouts;
    nb::object data;  // read-only bytes of the whole run
};

struct PyBody {
    edge::MessageId id;
    nb::bytes data;
};

class PyStream {
  public:
    PyStream(std::size_t buffer_bytes, std::optional<std::uint64_t> checked_flags)
        : stream_(buffer_bytes, edge::kernels().all_finite, checked_flags) {}

    void accept(std::uint64_t text_bytes, std::uint64_t coils, std::uint64_t samples, std::uint64_t message_bytes) {
        const std::lock_guard<std::mutex> lock(busy_);
        stream_.accept({text_bytes, coils, samples, message_bytes});
    }

    std::size_t held() {
        const std::lock_guard<std::mutex> lock(busy_);
        return stream_.held();
    }

    WritableBytes room() {
        Memory memory;
        edge::MrdStream::Room room;
        {
            const nb::gil_scoped_release released;
            const std::lock_guard<std::mutex> lock(busy_);
            room = stream_.room();
            memory = stream_.memory();
        }
        return WritableBytes(room.begin, {room.size}, owner_of(memory));
    }

    void received(std::size_t count) {
        const std::lock_guard<std::mutex> lock(busy_);
        if (!stream_.received(count)) throw std::invalid_argument("more bytes than there was room for");
    }

    nb::object next() {
        Memory memory;  // kept until the item is converted: another thread may ask for room meanwhile
        edge::Item item;
        {
            const nb::gil_scoped_release released;
            const std::lock_guard<std::mutex> lock(busy_);
            item = stream_.next();
            memory = stream_.memory();
        }
        return std::visit([&](const auto& found) { return to_python(found, memory); }, item);
    }

  private:
    static nb::object to_python(const edge::Readouts& found, const Memory& memory) {
        const Bytes data(found.begin, {found.count * found.stride}, owner_of(memory));
        return nb::cast(PyReadouts{found, nb::cast(data)});
    }
    static nb::object to_python(const edge::Body& found, const Memory&) {
        return nb::cast(PyBody{found.id, nb::bytes(found.begin, found.size)});
    }
    template <class Other>
    static nb::object to_python(const Other& found, const Memory&) {
        return nb::cast(found);
    }

    edge::MrdStream stream_;
    std::mutex busy_;
};

template <class T, std::size_t N>
nb::tuple as_tuple(const std::array<T, N>& values) {
    nb::list list;
    for (const T value : values) list.append(value);
    return nb::tuple(list);
}

}  // namespace

void bind_mrd_stream(nb::module_& module) {
    using edge::Check;
    nb::enum_<Check>(module, "Check")
        .value("MESSAGE_ID", Check::kMessageId)
        .value("END", Check::kEnd)
        .value("TEXT_LENGTH", Check::kTextLength)
        .value("TEXT_SIZE", Check::kTextSize)
        .value("READOUT_VERSION", Check::kReadoutVersion)
        .value("TRAJECTORY_DIMENSIONS", Check::kTrajectoryDimensions)
        .value("SAMPLES", Check::kSamples)
        .value("COILS", Check::kCoils)
        .value("AVAILABLE_COILS", Check::kAvailableCoils)
        .value("DISCARD", Check::kDiscard)
        .value("GEOMETRY", Check::kGeometry)
        .value("READOUT_SIZE", Check::kReadoutSize)
        .value("FINITE", Check::kFinite)
        .value("HEADER_VERSION", Check::kHeaderVersion)
        .value("PIXEL_TYPE", Check::kPixelType)
        .value("ATTRIBUTE_LENGTH", Check::kAttributeLength)
        .value("NO_PIXELS", Check::kNoPixels)
        .value("IMAGE_SIZE", Check::kImageSize)
        .value("WAVEFORM_SIZE", Check::kWaveformSize);

    nb::class_<edge::NeedMore>(module, "NeedMore");
    nb::class_<edge::StreamEnd>(module, "StreamEnd");
    nb::class_<edge::Fault>(module, "Fault")
        .def_ro("check", &edge::Fault::check)
        .def_ro("message_id", &edge::Fault::id)
        .def_prop_ro("numbers", [](const edge::Fault& fault) { return as_tuple(fault.numbers); })
        .def_prop_ro("floats", [](const edge::Fault& fault) { return as_tuple(fault.floats); });
    nb::class_<PyReadouts>(module, "Readouts")
        .def_ro("data", &PyReadouts::data)
        .def_prop_ro("count", [](const PyReadouts& run) { return run.readouts.count; })
        .def_prop_ro("stride", [](const PyReadouts& run) { return run.readouts.stride; })
        .def_prop_ro("coils", [](const PyReadouts& run) { return run.readouts.coils; })
        .def_prop_ro("samples", [](const PyReadouts& run) { return run.readouts.samples; });
    nb::class_<PyBody>(module, "Body")
        .def_prop_ro("message_id", [](const PyBody& body) { return static_cast<std::uint16_t>(body.id); })
        .def_ro("data", &PyBody::data);

    nb::class_<PyStream>(module, "MrdStream")
        .def(nb::init<std::size_t, std::optional<std::uint64_t>>(), "buffer_bytes"_a, "checked_flags"_a.none() = nb::none())
        .def("accept", &PyStream::accept, nb::kw_only(), "text_bytes"_a, "coils"_a, "samples"_a, "message_bytes"_a)
        .def_prop_ro("held", &PyStream::held)
        .def("room", &PyStream::room)
        .def("received", &PyStream::received, "count"_a)
        .def("next", &PyStream::next);
}
