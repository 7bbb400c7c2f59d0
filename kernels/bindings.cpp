// The extension module `edge_runtime._kernels`. What is checked here is what memory safety needs; `edge_runtime.kernels` checks first and
// says what is wrong in the caller's words.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <complex>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

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

class CoilPlan {
  public:
    CoilPlan(edge::Workers& workers, int coils, int phase_encodes, int columns)
        : workers_(workers),
          transform_((require(phase_encodes >= 1, "phase_encodes >= 1"), phase_encodes)),
          coils_((require(coils >= 1 && columns >= 1, "coils, columns >= 1"), coils)),
          columns_(columns),
          scratch_(workers.threads(), edge::coil_scratch(transform_, coils)) {}

    typedef Array<const Complex64, 3> Samples;
    typedef Contiguous<const bool, 1> Lines;

    void compress(Samples samples, Lines measured, Contiguous<const Complex64, 2> matrix, Contiguous<Complex64, 3> out) {
        edge::CoilTask task = task_of(samples, measured);
        require(matrix.shape(1) == samples.shape(0), "matrix: (virtual_coils, coils)");
        require(out.shape(0) == matrix.shape(0) && out.shape(1) == samples.shape(1) && out.shape(2) == samples.shape(2),
                "out: (virtual_coils, phase_encodes, columns)");
        task.matrix = reinterpret_cast<const float*>(matrix.data());
        task.virtual_coils = static_cast<int>(matrix.shape(0));
        task.out = reinterpret_cast<float*>(out.data());
        const edge::CompressLine kernel = edge::kernels().compress_line;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        workers_.run(samples.shape(1), [&](std::size_t line, int slot) { kernel(task, line, scratch_[slot]); });
    }

    void combine(Samples samples, Lines measured, Contiguous<float, 2> out) {
        edge::CoilTask task = task_of(samples, measured);
        require(out.shape(0) == samples.shape(1) && out.shape(1) == samples.shape(2), "out: (phase_encodes, columns)");
        task.out = out.data();
        const edge::CombineBlock kernel = edge::kernels().combine_block;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        workers_.run((samples.shape(2) + 7) / 8,
                     [&](std::size_t block, int slot) { kernel(transform_, task, block, scratch_[slot]); });
    }

  private:
    edge::CoilTask task_of(const Samples& samples, const Lines& measured) const {
        require(samples.shape(0) == static_cast<std::size_t>(coils_) &&
                    samples.shape(1) == static_cast<std::size_t>(transform_.length) &&
                    samples.shape(2) == static_cast<std::size_t>(columns_) && (samples.stride(2) == 1 || columns_ == 1),
                "samples: (coils, phase_encodes, columns), columns side by side");
        require(measured.shape(0) == samples.shape(1), "measured: (phase_encodes,)");
        edge::CoilTask task{};
        task.samples = reinterpret_cast<const float*>(samples.data());
        task.coil_stride = samples.stride(0);
        task.line_stride = samples.stride(1);
        task.coils = coils_;
        task.phase_encodes = transform_.length;
        task.columns = columns_;
        task.measured = measured.data();
        return task;
    }

    edge::Workers& workers_;
    edge::Transform transform_;
    int coils_, columns_;
    edge::Scratch scratch_;
    std::mutex busy_;
};

// What plans of slices and of volumes have in common. Images have `Axes` axes, the last of them the columns.
template <class Transforms, class Geometry, std::size_t Axes>
class OperatorPlan {
  public:
    typedef Contiguous<const Complex64, Axes> Image;
    typedef Contiguous<const Complex64, Axes + 1> Hybrid;
    typedef Contiguous<const bool, Axes> Mask;
    typedef Contiguous<Complex64, Axes> Out;

  protected:
    typedef std::array<int, Axes + 1> Shape;  // of a hybrid array
    typedef void (*Kernel)(const Transforms&, const Geometry&, const edge::SenseData&, const edge::SenseTask&, std::size_t, float*);
    typedef Kernel edge::Kernels::*Member;

    OperatorPlan(edge::Workers& workers, Transforms transforms, Geometry geometry, Shape shape,
                 std::size_t (*scratch)(const Transforms&, const Geometry&))
        : workers_(workers),
          transforms_(std::move(transforms)),
          geometry_(geometry),
          shape_(shape),
          blocks_((require(shape[0] >= 1 && shape[Axes] >= 1, "coils, columns >= 1"), edge::sense_blocks(shape[Axes]))),
          scratch_(workers.threads(), scratch(transforms_, geometry_)),
          memory_(1, blocks_ * elements() * (16 * coils() + 8 + 16)) {
        data_.maps = memory_[0];
        data_.adjoint = data_.maps + blocks_ * elements() * 16 * coils();
        data_.mask = data_.adjoint + blocks_ * elements() * 16;
    }

    template <class A>
    void require_image(const A& array) const {
        for (std::size_t axis = 0; axis < Axes; ++axis) {
            require(array.shape(axis) == static_cast<std::size_t>(shape_[axis + 1]), "an image's shape differs from the plan's");
        }
    }

    void require_hybrid(const Hybrid& array) const {
        for (std::size_t axis = 0; axis <= Axes; ++axis) {
            require(array.shape(axis) == static_cast<std::size_t>(shape_[axis]), "a hybrid array's shape differs from the plan's");
        }
    }

    void pack_maps(Member kernel, const Hybrid& maps) {
        require_hybrid(maps);
        edge::SenseTask task;
        task.hybrid = reinterpret_cast<const float*>(maps.data());
        run(kernel, task);
    }

    void pack_samples(Member kernel, const Hybrid& hybrid, const Mask& measured) {
        require_hybrid(hybrid);
        require_image(measured);
        edge::SenseTask task;
        task.hybrid = reinterpret_cast<const float*>(hybrid.data());
        task.measured = measured.data();
        run(kernel, task);
    }

    void image_to_image(Member kernel, const Image& image, const Out& out, float lambda = 0, int steps = 0, float tolerance = 0) {
        require_image(image);
        require_image(out);
        edge::SenseTask task;
        task.image = reinterpret_cast<const float*>(image.data());
        task.lambda = lambda;
        task.steps = steps;
        task.tolerance = tolerance;
        task.out = reinterpret_cast<float*>(out.data());
        run(kernel, task);
    }

    void run(Member member, const edge::SenseTask& task) {
        const Kernel kernel = edge::kernels().*member;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        workers_.run(blocks_, [&](std::size_t block, int slot) {
            kernel(transforms_, geometry_, data_, task, block, scratch_[slot]);
        });
    }

    std::size_t columns() const { return static_cast<std::size_t>(shape_[Axes]); }

  private:
    std::size_t coils() const { return static_cast<std::size_t>(shape_[0]); }
    std::size_t elements() const {  // of one column of an image
        std::size_t count = 1;
        for (std::size_t axis = 1; axis < Axes; ++axis) count *= static_cast<std::size_t>(shape_[axis]);
        return count;
    }

    edge::Workers& workers_;
    Transforms transforms_;
    Geometry geometry_;
    Shape shape_;
    std::size_t blocks_;
    edge::Scratch scratch_;
    edge::Scratch memory_;
    edge::SenseData data_;
    std::mutex busy_;
};

class SensePlan : public OperatorPlan<edge::Transform, edge::SenseGeometry, 2> {
  public:
    SensePlan(edge::Workers& workers, int coils, int phase_encodes, int columns)
        : OperatorPlan(workers, edge::Transform(phase_encodes), {coils, phase_encodes, columns}, {coils, phase_encodes, columns},
                       edge::sense_scratch) {}

    void set_maps(Hybrid maps) { pack_maps(&edge::Kernels::pack_maps, maps); }
    void set_samples(Hybrid hybrid, Mask measured) { pack_samples(&edge::Kernels::pack_samples, hybrid, measured); }
    void normal(Image image, Out out) { image_to_image(&edge::Kernels::normal, image, out); }
    void gradient(Image image, Out out) { image_to_image(&edge::Kernels::gradient, image, out); }
    void data_consistent(Image prior, float weight, int steps, float tolerance, Out out) {
        image_to_image(&edge::Kernels::data_consistent, prior, out, weight, steps, tolerance);
    }

    void regularised(Contiguous<const float, 2> weight, int steps, float tolerance, Out out) {
        require_image(weight);
        require_image(out);
        edge::SenseTask task;
        task.weight = weight.data();
        task.steps = steps;
        task.tolerance = tolerance;
        task.out = reinterpret_cast<float*>(out.data());
        run(&edge::Kernels::regularised, task);
    }

    void substituted(Image image, Hybrid hybrid, Mask measured, Contiguous<float, 2> out, Contiguous<float, 2> power) {
        require_image(image);
        require_hybrid(hybrid);
        require_image(measured);
        require_image(out);
        require_image(power);
        edge::SenseTask task;
        task.image = reinterpret_cast<const float*>(image.data());
        task.hybrid = reinterpret_cast<const float*>(hybrid.data());
        task.measured = measured.data();
        task.out = out.data();
        task.power = power.data();
        run(&edge::Kernels::substituted, task);
    }

    void line_search(Image image, Image direction, Hybrid hybrid, Mask measured, Contiguous<float, 1> agreement,
                     Contiguous<float, 1> power) {
        require_image(image);
        require_image(direction);
        require_hybrid(hybrid);
        require_image(measured);
        require(agreement.shape(0) == columns() && power.shape(0) == columns(), "agreement, power: (columns,)");
        edge::SenseTask task;
        task.image = reinterpret_cast<const float*>(image.data());
        task.direction = reinterpret_cast<const float*>(direction.data());
        task.hybrid = reinterpret_cast<const float*>(hybrid.data());
        task.measured = measured.data();
        task.out = agreement.data();
        task.power = power.data();
        run(&edge::Kernels::line_search, task);
    }
};

class VolumeSensePlan : public OperatorPlan<edge::PlaneTransform, edge::VolumeGeometry, 3> {
  public:
    VolumeSensePlan(edge::Workers& workers, int coils, int partitions, int phase_encodes, int columns)
        : OperatorPlan(workers, {edge::Transform(partitions), edge::Transform(phase_encodes)},
                       {coils, partitions, phase_encodes, columns}, {coils, partitions, phase_encodes, columns},
                       edge::volume_scratch) {}

    void set_maps(Hybrid maps) { pack_maps(&edge::Kernels::volume_pack_maps, maps); }
    void set_samples(Hybrid hybrid, Mask measured) { pack_samples(&edge::Kernels::volume_pack_samples, hybrid, measured); }
    void normal(Image image, Out out) { image_to_image(&edge::Kernels::volume_normal, image, out); }
    void gradient(Image image, Out out) { image_to_image(&edge::Kernels::volume_gradient, image, out); }
    void data_consistent(Image prior, float weight, int steps, float tolerance, Out out) {
        image_to_image(&edge::Kernels::volume_data_consistent, prior, out, weight, steps, tolerance);
    }
};

}  // namespace

void bind_mrd_stream(nb::module_& module);  // bindings_mrd.cpp

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

    nb::class_<CoilPlan>(module, "CoilPlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "phase_encodes"_a, "columns"_a,
             nb::keep_alive<1, 2>())
        .def("compress", &CoilPlan::compress, "samples"_a.noconvert(), "measured"_a.noconvert(), "matrix"_a.noconvert(),
             "out"_a.noconvert())
        .def("combine", &CoilPlan::combine, "samples"_a.noconvert(), "measured"_a.noconvert(), "out"_a.noconvert());

    nb::class_<SensePlan>(module, "SensePlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "phase_encodes"_a, "columns"_a,
             nb::keep_alive<1, 2>())
        .def("set_maps", &SensePlan::set_maps, "maps"_a.noconvert())
        .def("set_samples", &SensePlan::set_samples, "hybrid"_a.noconvert(), "measured"_a.noconvert())
        .def("normal", &SensePlan::normal, "image"_a.noconvert(), "out"_a.noconvert())
        .def("gradient", &SensePlan::gradient, "image"_a.noconvert(), "out"_a.noconvert())
        .def("data_consistent", &SensePlan::data_consistent, "prior"_a.noconvert(), "weight"_a, "steps"_a, "tolerance"_a,
             "out"_a.noconvert())
        .def("regularised", &SensePlan::regularised, "weight"_a.noconvert(), "steps"_a, "tolerance"_a, "out"_a.noconvert())
        .def("substituted", &SensePlan::substituted, "image"_a.noconvert(), "hybrid"_a.noconvert(), "measured"_a.noconvert(),
             "out"_a.noconvert(), "power"_a.noconvert())
        .def("line_search", &SensePlan::line_search, "image"_a.noconvert(), "direction"_a.noconvert(), "hybrid"_a.noconvert(),
             "measured"_a.noconvert(), "agreement"_a.noconvert(), "power"_a.noconvert());

    nb::class_<VolumeSensePlan>(module, "VolumeSensePlan")
        .def(nb::init<edge::Workers&, int, int, int, int>(), "workers"_a, "coils"_a, "partitions"_a, "phase_encodes"_a,
             "columns"_a, nb::keep_alive<1, 2>())
        .def("set_maps", &VolumeSensePlan::set_maps, "maps"_a.noconvert())
        .def("set_samples", &VolumeSensePlan::set_samples, "hybrid"_a.noconvert(), "measured"_a.noconvert())
        .def("normal", &VolumeSensePlan::normal, "image"_a.noconvert(), "out"_a.noconvert())
        .def("gradient", &VolumeSensePlan::gradient, "image"_a.noconvert(), "out"_a.noconvert())
        .def("data_consistent", &VolumeSensePlan::data_consistent, "prior"_a.noconvert(), "weight"_a, "steps"_a, "tolerance"_a,
             "out"_a.noconvert());

    bind_mrd_stream(module);
}
