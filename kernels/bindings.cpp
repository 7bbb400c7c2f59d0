// The extension module `edge_runtime._kernels`. What is checked here is what memory safety needs; `edge_runtime.kernels` checks first and
// says what is wrong in the caller's words.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <complex>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "ingest.hpp"
#include "scratch.hpp"
#include "table.hpp"
#include "workers.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

typedef std::complex<float> Complex64;
template <class T, std::size_t N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::device::cpu>;
template <class T, std::size_t N>
using Contiguous = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

// samples: the bytes of complex64 (readouts, numbers)
std::size_t count_leading_finite(Array<const unsigned char, 2> samples) {
    require(samples.shape(0) == 0 || (samples.stride(1) == 1 && samples.shape(1) % 8 == 0), "samples: contiguous readouts");
    const edge::AllFinite all_finite = edge::kernels().all_finite;
    const nb::gil_scoped_release released;
    std::size_t found = 0;
    while (found < samples.shape(0) &&
           all_finite(samples.data() + static_cast<std::int64_t>(found) * samples.stride(0), samples.shape(1) / 4)) {
        ++found;
    }
    return found;
}

class IngestPlan {
  public:
    IngestPlan(edge::Workers& workers, int coils, int samples, int columns)
        : workers_(workers),
          transform_((require(samples >= 1 && columns >= 1 && columns <= samples, "1 <= columns <= samples"), samples)),
          geometry_{(require(coils >= 1, "coils >= 1"), coils), columns},
          scratch_(workers.threads(), edge::ingest_scratch(transform_, geometry_)) {}

    // samples: the bytes of complex64 (readouts, coils, count); out: (lines, coils, columns)
    void execute(Array<const unsigned char, 3> samples, int offset, std::optional<Contiguous<const Complex64, 2>> whitening,
                 Contiguous<const std::int64_t, 1> lines, Contiguous<Complex64, 3> out, bool add) {
        const std::size_t coils = static_cast<std::size_t>(geometry_.coils);
        require(samples.stride(2) == 1 && samples.shape(2) % 8 == 0, "samples: contiguous complex64 readouts");
        require(samples.shape(1) == coils && out.shape(1) == coils, "coils differ from the plan's");
        require(samples.shape(0) == lines.shape(0), "one line for each readout");
        require(out.shape(2) == static_cast<std::size_t>(geometry_.columns), "columns differ from the plan's");
        const std::size_t count = samples.shape(2) / 8, length = static_cast<std::size_t>(transform_.length);
        require(offset >= 0 && count <= length && static_cast<std::size_t>(offset) <= length - count,
                "samples reach beyond the readout");
        if (whitening) require(whitening->shape(0) == coils && whitening->shape(1) == coils, "whitening: (coils, coils)");
        for (std::size_t i = 0; i < lines.shape(0); ++i) {
            require(lines.data()[i] >= 0 && lines.data()[i] < static_cast<std::int64_t>(out.shape(0)), "a line lies outside out");
        }
        const edge::IngestJob job{samples.data(),
                                  samples.stride(0),
                                  samples.stride(1),
                                  samples.shape(0),
                                  static_cast<int>(count),
                                  offset,
                                  whitening ? reinterpret_cast<const float*>(whitening->data()) : nullptr,
                                  lines.data(),
                                  reinterpret_cast<float*>(out.data()),
                                  add};
        const std::size_t chunks = (job.readouts + edge::kReadoutsAtOnce - 1) / edge::kReadoutsAtOnce;
        const edge::IngestChunk kernel = edge::kernels().ingest_chunk;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        if (add) {  // lines may repeat, so their sums have one order
            for (std::size_t chunk = 0; chunk < chunks; ++chunk) kernel(transform_, geometry_, job, chunk, scratch_[0]);
        } else {
            workers_.run(chunks, [&](std::size_t chunk, int slot) { kernel(transform_, geometry_, job, chunk, scratch_[slot]); });
        }
    }

  private:
    edge::Workers& workers_;
    edge::Transform transform_;
    edge::IngestGeometry geometry_;
    edge::Scratch scratch_;
    std::mutex busy_;
};

}  // namespace

NB_MODULE(_kernels, module) {
    module.def("instruction_set", [] { return edge::kernels().name; });
    module.def("instruction_sets", [] {
        int count;
        const char* const* names = edge::kernel_names(&count);
        return std::vector<std::string>(names, names + count);
    });
    module.def(
        "choose_instruction_set",
        [](const std::string& name) {
            if (!edge::choose_kernels(name.c_str())) throw std::invalid_argument("not built, or not run by this processor: " + name);
        },
        "name"_a);

    module.def("count_leading_finite", &count_leading_finite, "samples"_a.noconvert());

    nb::class_<edge::Workers>(module, "Workers")
        .def("__init__",
             [](edge::Workers* self, int threads) {
                 require(threads >= 1 && threads <= 1024, "1 to 1024 threads");
                 new (self) edge::Workers(threads);
             },
             "threads"_a)
        .def_prop_ro("threads", &edge::Workers::threads);

    nb::class_<IngestPlan>(module, "IngestPlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "samples"_a, "columns"_a, nb::keep_alive<1, 2>())
        .def("execute", &IngestPlan::execute, "samples"_a.noconvert(), "offset"_a, "whitening"_a.noconvert().none(),
             "lines"_a.noconvert(), "out"_a.noconvert(), "add"_a);
}
