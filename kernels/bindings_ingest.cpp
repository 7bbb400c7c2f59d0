// Readouts on their way into slices, for `edge_runtime.kernels`: what their headers say, and the transform into hybrid space.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings_arrays.hpp"
#include "ingest.hpp"
#include "lines.hpp"
#include "scratch.hpp"
#include "table.hpp"
#include "workers.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// In the order of `edge::HeaderFields`.
typedef std::array<std::size_t, 1 + edge::kSliceCounters + 7 + edge::kPlacement> FieldOffsets;

edge::HeaderFields fields_at(const FieldOffsets& at) {
    static_assert(edge::kSliceCounters == 5 && edge::kPlacement == 4, "as many as are listed here");
    return {at[0],  {at[1], at[2], at[3], at[4], at[5]}, at[6],  at[7], at[8], at[9], at[10], at[11], at[12],
            {at[13], at[14], at[15], at[16]}};
}

// The headers of a batch: a structured array, at any address and with any gaps, which nanobind's arrays can't be.
class HeaderBuffer {
  public:
    HeaderBuffer(nb::handle array, const FieldOffsets& offsets) {
        const edge::HeaderFields fields = fields_at(offsets);
        if (PyObject_GetBuffer(array.ptr(), &view_, PyBUF_STRIDES)) throw nb::python_error();
        const bool fits = view_.ndim == 1 && static_cast<std::size_t>(view_.itemsize) >= fields.size();
        if (!fits) {
            PyBuffer_Release(&view_);
            throw std::invalid_argument("headers: a structured array (readouts,) with all the fields");
        }
        headers_ = {static_cast<const unsigned char*>(view_.buf), view_.strides[0], static_cast<std::size_t>(view_.shape[0]), fields};
    }
    ~HeaderBuffer() { PyBuffer_Release(&view_); }
    HeaderBuffer(const HeaderBuffer&) = delete;
    HeaderBuffer& operator=(const HeaderBuffer&) = delete;

    const edge::Headers& operator*() const { return headers_; }
    const edge::Headers* operator->() const { return &headers_; }

  private:
    Py_buffer view_;
    edge::Headers headers_;
};

typedef std::array<float, edge::kPlacement> Tolerances;
typedef std::array<float, 3 * edge::kPlacement> Placement;

class LineBook {
  public:
    LineBook(std::size_t lines, std::int64_t first, std::uint64_t final_flags, std::uint64_t end_flags, std::uint32_t averages, const Tolerances& tolerances,
             const Placement& placement)
        : book(lines, {first, final_flags, end_flags, averages, tolerances}, placement) {}

    nb::ndarray<nb::numpy, const std::int32_t, nb::ndim<1>> counts() {
        return {book.counts().data(), {book.counts().size()}, nb::find(*this)};
    }

    edge::LineBook book;
};

// Where readouts go that are transformed elsewhere: which line each is, and whether it is added to what is there.
typedef std::tuple<edge::Placed, std::vector<std::int64_t>, std::vector<bool>> Sorted;

bool finite(const Array<const unsigned char, 3>& samples, std::size_t readout) {
    const unsigned char* at = samples.data() + static_cast<std::int64_t>(readout) * samples.stride(0);
    for (std::size_t coil = 0; coil < samples.shape(1); ++coil) {
        if (!edge::kernels().all_finite(at + static_cast<std::int64_t>(coil) * samples.stride(1), samples.shape(2) / 4)) return false;
    }
    return true;
}

// As `IngestPlan::place`, but for the transform.
Sorted sort_readouts(nb::handle header, const FieldOffsets& fields, Array<const unsigned char, 3> samples, std::size_t begin,
                     LineBook& book) {
    const HeaderBuffer headers(header, fields);
    require(headers->count == samples.shape(0) && begin < headers->count, "one header for each readout");
    require(samples.stride(2) == 1 && samples.shape(2) % 8 == 0, "samples: contiguous complex64 readouts");
    Sorted sorted;
    auto& [placed, lines, adds] = sorted;
    const nb::gil_scoped_release released;
    placed = book.book.place(*headers, begin, [&](std::size_t first, std::size_t readouts, const std::int64_t* to, bool add) {
        for (std::size_t i = 0; i < readouts; ++i) {
            if (!finite(samples, first + i)) return first + i;
            lines.push_back(to[i]);
            adds.push_back(add);
        }
        return edge::kAllSound;
    });
    return sorted;
}

class IngestPlan {
  public:
    IngestPlan(edge::Workers& workers, int coils, int samples, int columns)
        : workers_(workers),
          transform_((require(samples >= 1 && columns >= 1 && columns <= samples, "1 <= columns <= samples"),
                      edge::transform_of(samples))),
          geometry_{(require(coils >= 1, "coils >= 1"), coils), columns},
          scratch_(workers.threads(), edge::ingest_scratch(transform_, geometry_)) {}

    // samples: the bytes of complex64 (readouts, coils, count); out: (lines, coils, columns)
    void execute(Array<const unsigned char, 3> samples, int offset, std::optional<Contiguous<const Complex64, 2>> whitening,
                 Contiguous<const std::int64_t, 1> lines, Contiguous<Complex64, 3> out, bool add) {
        const edge::IngestJob job = job_of(samples, 0, samples.shape(2) / 8, offset, whitening, out, lines.data(), add);
        require(samples.shape(0) == lines.shape(0), "one line for each readout");
        for (std::size_t i = 0; i < lines.shape(0); ++i) {
            require(lines.data()[i] >= 0 && lines.data()[i] < static_cast<std::int64_t>(out.shape(0)), "a line lies outside out");
        }
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        run(job);
    }

    // The readouts from `begin` on that go with it, into the lines that their headers say; their samples but the first `skipped`, of
    // which `count` are used.
    edge::Placed place(nb::handle header, const FieldOffsets& fields, Array<const unsigned char, 3> samples, std::size_t begin,
                       std::size_t skipped, std::size_t count, int offset, std::optional<Contiguous<const Complex64, 2>> whitening,
                       LineBook& book, Contiguous<Complex64, 3> out) {
        const HeaderBuffer headers(header, fields);
        const edge::IngestJob whole = job_of(samples, skipped, count, offset, whitening, out, nullptr, false);
        require(headers->count == samples.shape(0) && begin < headers->count, "one header for each readout");
        require(book.book.counts().size() == out.shape(0), "out: as many lines as the book");
        const std::size_t floats = samples.shape(2) / 4;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        return book.book.place(*headers, begin, [&](std::size_t first, std::size_t readouts, const std::int64_t* lines, bool add) {
            // What is added to can't be taken away again, and the transform sees only what is used.
            const bool apart = add || 2 * count != floats;
            std::size_t sound = 0;
            while (apart && sound < readouts && finite(samples, first + sound)) ++sound;
            edge::IngestJob job = whole;
            job.samples += static_cast<std::int64_t>(first) * job.readout_bytes;
            job.readouts = apart ? sound : readouts;
            job.lines = lines;
            job.add = add;
            const std::size_t bad = run(job);
            if (bad != edge::kAllFinite) return first + bad;
            return job.readouts < readouts ? first + sound : edge::kAllSound;
        });
    }

    // out: means of sums, both (lines, coils, columns), over `counts` readouts; may be the sums
    void mean(Contiguous<const Complex64, 3> sums, Contiguous<const std::int32_t, 1> counts, Contiguous<Complex64, 3> out) {
        require(sums.shape(0) == out.shape(0) && sums.shape(1) == out.shape(1) && sums.shape(2) == out.shape(2), "out: shaped as the sums");
        require(counts.shape(0) == sums.shape(0), "counts: (lines,)");
        const std::size_t floats = 2 * sums.shape(1) * sums.shape(2);
        const nb::gil_scoped_release released;
        workers_.run(sums.shape(0), [&](std::size_t line, int) {
            const float* from = reinterpret_cast<const float*>(sums.data()) + line * floats;
            edge::mean_of_line(from, counts.data()[line], floats, reinterpret_cast<float*>(out.data()) + line * floats);
        });
    }

  private:
    edge::IngestJob job_of(const Array<const unsigned char, 3>& samples, std::size_t skipped, std::size_t count, int offset,
                           const std::optional<Contiguous<const Complex64, 2>>& whitening, const Contiguous<Complex64, 3>& out,
                           const std::int64_t* lines, bool add) const {
        const std::size_t coils = static_cast<std::size_t>(geometry_.coils), length = static_cast<std::size_t>(transform_.length);
        require(samples.stride(2) == 1 && samples.shape(2) % 8 == 0, "samples: contiguous complex64 readouts");
        require(samples.shape(1) == coils && out.shape(1) == coils, "coils differ from the plan's");
        require(out.shape(2) == static_cast<std::size_t>(geometry_.columns), "columns differ from the plan's");
        require(count <= samples.shape(2) / 8 && skipped <= samples.shape(2) / 8 - count, "more samples than there are");
        require(count >= 1 && offset >= 0 && count <= length && static_cast<std::size_t>(offset) <= length - count,
                "samples reach beyond the readout");
        if (whitening) require(whitening->shape(0) == coils && whitening->shape(1) == coils, "whitening: (coils, coils)");
        return {samples.data() + 8 * skipped,
                samples.stride(0),
                samples.stride(1),
                samples.shape(0),
                static_cast<int>(count),
                offset,
                whitening ? reinterpret_cast<const float*>(whitening->data()) : nullptr,
                lines,
                reinterpret_cast<float*>(out.data()),
                add};
    }

    // The first readout that is not finite, or `kAllFinite`.
    std::size_t run(const edge::IngestJob& job) {
        const std::size_t chunks = (job.readouts + edge::kReadoutsAtOnce - 1) / edge::kReadoutsAtOnce;
        const edge::IngestChunk kernel = edge::kernels().ingest_chunk;
        std::size_t first = edge::kAllFinite;
        if (job.add || workers_.threads() == 1) {  // lines that are added to may repeat, so their sums have one order
            for (std::size_t chunk = 0; chunk < chunks && first == edge::kAllFinite; ++chunk) {
                first = kernel(transform_, geometry_, job, chunk, scratch_[0]);
            }
            return first;
        }
        std::mutex found;
        workers_.run(chunks, [&](std::size_t chunk, int slot) {
            const std::size_t bad = kernel(transform_, geometry_, job, chunk, scratch_[slot]);
            if (bad == edge::kAllFinite) return;
            const std::lock_guard<std::mutex> lock(found);
            first = std::min(first, bad);
        });
        return first;
    }

    edge::Workers& workers_;
    edge::Transform transform_;
    edge::IngestGeometry geometry_;
    edge::Scratch scratch_;
    std::mutex busy_;
};

// The lowest and the highest, and whether each is above the one before.
std::tuple<std::int64_t, std::int64_t, bool> lines_of(Contiguous<const std::int64_t, 1> lines) {
    require(lines.shape(0) > 0, "at least one line");
    std::int64_t lowest = lines.data()[0], highest = lowest;
    bool ascending = true;
    for (std::size_t i = 1; i < lines.shape(0); ++i) {
        const std::int64_t line = lines.data()[i];
        ascending = ascending && line > lines.data()[i - 1];
        lowest = std::min(lowest, line);
        highest = std::max(highest, line);
    }
    return {lowest, highest, ascending};
}

}  // namespace

void bind_ingest(nb::module_& module) {
    nb::class_<edge::Survey>(module, "Survey")
        .def_ro("flags", &edge::Survey::flags)
        .def_ro("one_space", &edge::Survey::one_space)
        .def_ro("one_slice", &edge::Survey::one_slice);
    module.def(
        "survey", [](nb::handle header, const FieldOffsets& fields) { return edge::survey(*HeaderBuffer(header, fields)); },
        "header"_a, "fields"_a);

    module.def("sort_readouts", &sort_readouts, "header"_a, "fields"_a, "samples"_a.noconvert(), "begin"_a, "book"_a);

    module.def("lines_of", &lines_of, "lines"_a.noconvert());

    nb::enum_<edge::Stop>(module, "Stop")
        .value("END", edge::Stop::kEnd)
        .value("OTHER", edge::Stop::kOther)
        .value("SLICE_ENDS", edge::Stop::kSliceEnds)
        .value("PARTITION", edge::Stop::kPartition)
        .value("PHASE_ENCODE", edge::Stop::kPhaseEncode)
        .value("MEASURED", edge::Stop::kMeasured)
        .value("NOT_FINITE", edge::Stop::kNotFinite);
    nb::class_<edge::Placed>(module, "Placed")
        .def_ro("count", &edge::Placed::count)
        .def_ro("stop", &edge::Placed::stop)
        .def_ro("moved", &edge::Placed::moved)
        .def_ro("lowest_average", &edge::Placed::lowest_average)
        .def_ro("highest_average", &edge::Placed::highest_average);

    nb::class_<LineBook>(module, "LineBook")
        .def(nb::init<std::size_t, std::int64_t, std::uint64_t, std::uint64_t, std::uint32_t, const Tolerances&, const Placement&>(), nb::kw_only(),
             "lines"_a, "first"_a, "final_flags"_a, "end_flags"_a, "averages"_a, "tolerances"_a, "placement"_a)
        .def_prop_ro("counts", &LineBook::counts);

    nb::class_<IngestPlan>(module, "IngestPlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "samples"_a, "columns"_a, nb::keep_alive<1, 2>())
        .def("execute", &IngestPlan::execute, "samples"_a.noconvert(), "offset"_a, "whitening"_a.noconvert().none(),
             "lines"_a.noconvert(), "out"_a.noconvert(), "add"_a)
        .def("mean", &IngestPlan::mean, "sums"_a.noconvert(), "counts"_a.noconvert(), "out"_a.noconvert())
        .def("place", &IngestPlan::place, "header"_a, "fields"_a, "samples"_a.noconvert(), "begin"_a, "skipped"_a, "count"_a, "offset"_a,
             "whitening"_a.noconvert().none(), "book"_a, "out"_a.noconvert());
}
