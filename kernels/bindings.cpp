// The extension module `edge_runtime._kernels`. What is checked here is what memory safety needs; `edge_runtime.kernels` checks first and
// says what is wrong in the caller's words.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cmath>
#include <complex>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

#include "bindings_arrays.hpp"
#include "pack.hpp"
#include "scratch.hpp"
#include "table.hpp"
#include "workers.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

// What the coils' plans are made for, and a call's samples held against it.
struct CoilGeometry {
    edge::Transform transform;
    int coils, columns;

    CoilGeometry(int coils_, int phase_encodes, int columns_)
        : transform((require(phase_encodes >= 1, "phase_encodes >= 1"), edge::transform_of(phase_encodes))),
          coils((require(coils_ >= 1 && columns_ >= 1, "coils, columns >= 1"), coils_)),
          columns(columns_) {}

    edge::CoilTask task(const Array<const Complex64, 3>& samples, const Contiguous<const bool, 1>& measured) const {
        require(samples.shape(0) == static_cast<std::size_t>(coils) &&
                    samples.shape(1) == static_cast<std::size_t>(transform.length) &&
                    samples.shape(2) == static_cast<std::size_t>(columns) && (samples.stride(2) == 1 || columns == 1),
                "samples: (coils, phase_encodes, columns), columns side by side");
        require(measured.shape(0) == samples.shape(1), "measured: (phase_encodes,)");
        edge::CoilTask task{};
        task.samples = reinterpret_cast<const float*>(samples.data());
        task.coil_stride = samples.stride(0);
        task.line_stride = samples.stride(1);
        task.coils = coils;
        task.phase_encodes = transform.length;
        task.columns = columns;
        task.measured = measured.data();
        return task;
    }
};

class CoilPlan {
  public:
    CoilPlan(edge::Workers& workers, int coils, int phase_encodes, int columns)
        : workers_(workers),
          geometry_(coils, phase_encodes, columns),
          scratch_(workers.threads(), edge::coil_scratch(geometry_.transform, coils)) {}

    typedef Array<const Complex64, 3> Samples;
    typedef Contiguous<const bool, 1> Lines;

    void compress(Samples samples, Lines measured, Contiguous<const Complex64, 2> matrix, Contiguous<Complex64, 3> out) {
        edge::CoilTask task = geometry_.task(samples, measured);
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
        edge::CoilTask task = geometry_.task(samples, measured);
        require(out.shape(0) == samples.shape(1) && out.shape(1) == samples.shape(2), "out: (phase_encodes, columns)");
        task.out = out.data();
        const edge::CombineBlock kernel = edge::kernels().combine_block;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        workers_.run((samples.shape(2) + 7) / 8,
                     [&](std::size_t block, int slot) { kernel(geometry_.transform, task, block, scratch_[slot]); });
    }

  private:
    edge::Workers& workers_;
    CoilGeometry geometry_;
    edge::Scratch scratch_;
    std::mutex busy_;
};

class AdaptivePlan {
  public:
    AdaptivePlan(edge::Workers& workers, int coils, int phase_encodes, int columns)
        : workers_(workers),
          geometry_(coils, phase_encodes, columns),
          scratch_(workers.threads(), edge::adaptive_scratch(geometry_.transform, coils, columns)),
          images_(1, 16 * size(phase_encodes) * blocks() * size(coils)),
          powers_(1, blocks() * size(coils)),
          widened_(1, 16 * cell_lines() * blocks() * size(coils)) {
        task_.images = images_[0];
        task_.powers = powers_[0];
        task_.widened = widened_[0];
        for (int line = 0; line < phase_encodes; ++line) {
            task_.lines.push_back(edge::between_cells(line, edge::kCell, edge::cells_of(phase_encodes)));
        }
        for (int column = 0; column < edge::kCell * edge::cells_of(columns); ++column) {
            task_.columns.push_back(edge::between_cells(column, edge::kCell, edge::cells_of(columns)));
        }
    }

    void combine(Array<const Complex64, 3> samples, Contiguous<const bool, 1> measured, Contiguous<Complex64, 2> out) {
        const edge::CoilTask coils = geometry_.task(samples, measured);
        require(out.shape(0) == samples.shape(1) && out.shape(1) == samples.shape(2), "out: (phase_encodes, columns)");
        const edge::Kernels& kernels = edge::kernels();
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        task_.coils = coils;
        task_.coils.out = reinterpret_cast<float*>(out.data());
        run(kernels.image_block, blocks());
        task_.reference = strongest();
        run(kernels.map_cells, cell_lines());
        run(kernels.combine_line, size(geometry_.transform.length));
    }

  private:
    static std::size_t size(int count) { return static_cast<std::size_t>(count); }
    std::size_t blocks() const { return size(edge::cells_of(geometry_.columns)); }
    std::size_t cell_lines() const { return size(edge::cells_of(geometry_.transform.length)); }

    int strongest() const {
        int best = 0;
        float most = 0;
        for (int coil = 0; coil < geometry_.coils; ++coil) {
            float power = 0;
            for (std::size_t block = 0; block < blocks(); ++block) {
                power += task_.powers[block * size(geometry_.coils) + size(coil)];
            }
            if (power > most) {
                best = coil;
                most = power;
            }
        }
        return best;
    }

    void run(edge::AdaptiveKernel kernel, std::size_t count) {
        workers_.run(count, [&](std::size_t index, int slot) { kernel(geometry_.transform, task_, index, scratch_[slot]); });
    }

    edge::Workers& workers_;
    CoilGeometry geometry_;
    edge::Scratch scratch_, images_, powers_, widened_;
    edge::AdaptiveTask task_;
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
        run(member, task, [] {});
    }

    // `finish()` is called while the plan is still this caller's.
    template <class Finish>
    void run(Member member, const edge::SenseTask& task, Finish finish) {
        const Kernel kernel = edge::kernels().*member;
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        workers_.run(blocks_, [&](std::size_t block, int slot) {
            kernel(transforms_, geometry_, data_, task, block, scratch_[slot]);
        });
        finish();
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
        : OperatorPlan(workers, edge::transform_of(phase_encodes), {coils, phase_encodes, columns}, {coils, phase_encodes, columns},
                       edge::sense_scratch),
          sums_(1, 2 * size(columns)) {}

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

    void between(Image image, Image towards, float share, Out out) {
        require_image(image);
        require_image(towards);
        require_image(out);
        edge::SenseTask task;
        task.image = reinterpret_cast<const float*>(image.data());
        task.towards = reinterpret_cast<const float*>(towards.data());
        task.share = share;
        task.out = reinterpret_cast<float*>(out.data());
        run(&edge::Kernels::between, task);
    }

    void sample_power(Hybrid hybrid, Contiguous<float, 2> out) {
        require_hybrid(hybrid);
        require_image(out);
        edge::SenseTask task;
        task.hybrid = reinterpret_cast<const float*>(hybrid.data());
        task.out = out.data();
        run(&edge::Kernels::sample_power, task);
    }

    // Re <A d, y - A image> and |A d|², d from the image to the other
    std::pair<double, double> line_search(Image image, Image towards, Hybrid hybrid, Mask measured) {
        require_image(image);
        require_image(towards);
        require_hybrid(hybrid);
        require_image(measured);
        edge::SenseTask task;
        task.image = reinterpret_cast<const float*>(image.data());
        task.towards = reinterpret_cast<const float*>(towards.data());
        task.hybrid = reinterpret_cast<const float*>(hybrid.data());
        task.measured = measured.data();
        task.out = sums_[0];  // a column's each
        task.power = task.out + columns();
        std::pair<double, double> whole{0, 0};
        run(&edge::Kernels::line_search, task, [&] {
            for (std::size_t column = 0; column < columns(); ++column) {
                whole.first += static_cast<double>(task.out[column]);
                whole.second += static_cast<double>(task.power[column]);
            }
        });
        return whole;
    }

  private:
    static std::size_t size(int count) { return static_cast<std::size_t>(count); }

    edge::Scratch sums_;
};

class VolumeSensePlan : public OperatorPlan<edge::PlaneTransform, edge::VolumeGeometry, 3> {
  public:
    VolumeSensePlan(edge::Workers& workers, int coils, int partitions, int phase_encodes, int columns)
        : OperatorPlan(workers, {edge::transform_of(partitions), edge::transform_of(phase_encodes)},
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

class PackPlan {
  public:
    PackPlan(edge::Workers& workers, int phase_encodes, int columns, int plane_lines, int plane_columns) : workers_(workers) {
        require(phase_encodes >= 1 && columns >= 1, "phase_encodes, columns >= 1");
        require(plane_lines >= phase_encodes && plane_columns >= columns, "a plane holds the image");
        geometry_.phase_encodes = phase_encodes;
        geometry_.columns = columns;
        geometry_.plane_lines = plane_lines;
        geometry_.plane_columns = plane_columns;
    }

    typedef Contiguous<const Complex64, 2> Image;

    template <class T>
    void pack(Image image, std::optional<Image> phase, float scale, Contiguous<T, 3> planes, float step, int zero_point) {
        require_image(image);
        if (phase) require_image(*phase);
        require_planes(planes);
        edge::PackTask task = task_of<T>(scale, step, zero_point);
        task.image = reinterpret_cast<const float*>(image.data());
        task.phase = phase ? reinterpret_cast<const float*>(phase->data()) : nullptr;
        task.planes_out = planes.data();
        run(edge::kernels().pack, task, task.plane_lines);
    }

    template <class T>
    void fill(float value, Contiguous<T, 2> plane, float step, int zero_point) {
        require(plane.shape(0) == size(geometry_.plane_lines) && plane.shape(1) == size(geometry_.plane_columns),
                "plane: (plane_lines, plane_columns)");
        edge::PackTask task = task_of<T>(value, step, zero_point);
        task.planes_out = plane.data();
        run(edge::kernels().fill, task, task.plane_lines);
    }

    template <class T>
    void unpack(Image image, std::optional<Image> phase, float scale, Contiguous<const T, 3> planes, Contiguous<Complex64, 2> out,
                float step, int zero_point) {
        require_image(image);
        if (phase) require_image(*phase);
        require_planes(planes);
        require_image(out);
        edge::PackTask task = task_of<T>(scale, step, zero_point);
        task.image = reinterpret_cast<const float*>(image.data());
        task.phase = phase ? reinterpret_cast<const float*>(phase->data()) : nullptr;
        task.planes_in = planes.data();
        task.out = reinterpret_cast<float*>(out.data());
        run(edge::kernels().unpack, task, task.phase_encodes);
    }

  private:
    static std::size_t size(int count) { return static_cast<std::size_t>(count); }

    template <class A>
    void require_image(const A& array) const {
        require(array.shape(0) == size(geometry_.phase_encodes) && array.shape(1) == size(geometry_.columns),
                "(phase_encodes, columns) differ from the plan's");
    }

    template <class A>
    void require_planes(const A& array) const {
        require(array.shape(0) == 2 && array.shape(1) == size(geometry_.plane_lines) &&
                    array.shape(2) == size(geometry_.plane_columns),
                "planes: (2, plane_lines, plane_columns)");
    }

    template <class T>
    edge::PackTask task_of(float scale, float step, int zero_point) const {
        edge::PackTask task = geometry_;
        task.element = std::is_same_v<T, float>         ? edge::Element::float32
                       : std::is_same_v<T, signed char> ? edge::Element::int8
                                                        : edge::Element::uint8;
        task.scale = scale;
        require(zero_point >= -128 && zero_point <= 255, "zero_point: one that a byte holds");
        task.quantization = {step, zero_point};
        return task;
    }

    void run(edge::PackLines kernel, const edge::PackTask& task, int lines) {
        const nb::gil_scoped_release released;
        workers_.run(size((lines + edge::kPackedLinesAtOnce - 1) / edge::kPackedLinesAtOnce),
                     [&](std::size_t block, int) { kernel(task, block); });
    }

    edge::Workers& workers_;
    edge::PackTask geometry_;
};

class SensitivityPlan {
  public:
    typedef std::pair<int, int> Size;  // lines, columns

    SensitivityPlan(edge::Workers& workers, int coils, Size acs, Size kernel, Size grid, Size image)
        : workers_(workers),
          geometry_{coils, acs.first, acs.second, kernel.first, kernel.second, grid.first, grid.second, image.first, image.second},
          tables_((check(), geometry_)),
          scratch_(workers.threads(), edge::sensitivity_scratch(geometry_)),
          calibration_(1, floats_of(geometry_.windows())),
          gram_(1, floats_of(rows())),
          square_(1, floats_of(rows())),
          inverse_(1, floats_of(rows())),
          vectors_(1, 2 * floats_of(1)),
          lags_(1, 2 * size(coils) * size(coils + 1) * size(geometry_.lag_lines()) * size(geometry_.lag_columns())),
          widened_(1, 16 * size(geometry_.grid_lines) * size(column_blocks(geometry_)) * size(coils)) {
        task_.calibration = {doubles(calibration_), geometry_.windows()};
        task_.gram = {doubles(gram_), rows()};
        task_.square = {doubles(square_), rows()};
        task_.inverse = {doubles(inverse_), rows()};
        task_.vectors = doubles(vectors_);
        task_.floor = &floor_;
        task_.lags = doubles(lags_);
        task_.widened = widened_[0];
    }

    void estimate(Contiguous<const Complex64, 3> acs, double threshold, std::optional<Contiguous<const float, 2>> weight,
                  Contiguous<Complex64, 3> out) {
        require(acs.shape(0) == size(geometry_.coils) && acs.shape(1) == size(geometry_.acs_lines) &&
                    acs.shape(2) == size(geometry_.acs_columns),
                "acs: (coils, acs_lines, acs_columns)");
        require(out.shape(0) == size(geometry_.coils) && out.shape(1) == size(geometry_.phase_encodes) &&
                    out.shape(2) == size(geometry_.columns),
                "out: (coils, phase_encodes, columns)");
        if (weight) {
            require(weight->shape(0) == out.shape(1) && weight->shape(1) == out.shape(2), "weight: (phase_encodes, columns)");
        }
        const edge::Kernels& kernels = edge::kernels();
        const nb::gil_scoped_release released;
        const std::lock_guard<std::mutex> lock(busy_);
        task_.acs = reinterpret_cast<const float*>(acs.data());
        task_.threshold = threshold;
        task_.weight = weight ? weight->data() : nullptr;
        task_.out = reinterpret_cast<float*>(out.data());
        const std::size_t panels = size(edge::panels_of(geometry_.unknowns()));
        run(kernels.gather_calibration, panels);
        run(kernels.gram_of_calibration, panels);
        run(kernels.square_gram, panels);
        run(kernels.find_floor, 1);
        run(kernels.factor_square, 1);
        run(kernels.project, panels);
        run(kernels.sum_lags, 1);
        run(kernels.maps_of_grid_line, size(geometry_.grid_lines));
        run(kernels.maps_of_image_line, size(geometry_.phase_encodes));
    }

  private:
    static std::size_t size(int count) { return static_cast<std::size_t>(count); }

    void check() const {
        const edge::SensitivityGeometry& g = geometry_;
        require(g.coils >= 1 && g.kernel_lines >= 1 && g.kernel_columns >= 1 && g.grid_lines >= 1 && g.grid_columns >= 1,
                "coils, kernel, grid: at least 1");
        require(g.kernel_lines <= g.acs_lines && g.kernel_columns <= g.acs_columns, "a kernel that the ACS holds");
        require(g.grid_lines <= g.phase_encodes && g.grid_columns <= g.columns, "a grid no finer than the image");
    }

    static double* doubles(const edge::Scratch& memory) { return reinterpret_cast<double*>(memory[0]); }
    int rows() const { return geometry_.padded(); }
    std::size_t floats_of(int matrix_rows) const { return 2 * edge::Panels::doubles(geometry_.unknowns(), matrix_rows); }

    void run(edge::SensitivityKernel kernel, std::size_t count) {
        workers_.run(count, [&](std::size_t index, int slot) { kernel(geometry_, tables_, task_, index, scratch_[slot]); });
    }

    edge::Workers& workers_;
    edge::SensitivityGeometry geometry_;
    edge::SensitivityTables tables_;
    edge::Scratch scratch_;
    edge::Scratch calibration_, gram_, square_, inverse_, vectors_, lags_, widened_;
    double floor_ = 0;
    edge::SensitivityTask task_;
    std::mutex busy_;
};

bool all_positive(Contiguous<const float, 2> numbers) {  // and finite
    bool positive = true;
    for (std::size_t i = 0; i < numbers.size(); ++i) positive = positive && numbers.data()[i] > 0 && numbers.data()[i] < HUGE_VALF;
    return positive;
}

// One signature for every type that a tensor's elements may have.
template <class T>
void bind_pack(nb::class_<PackPlan>& plan) {
    plan.def("pack", &PackPlan::pack<T>, "image"_a.noconvert(), "phase"_a.noconvert().none(), "scale"_a, "planes"_a.noconvert(),
             "step"_a, "zero_point"_a)
        .def("fill", &PackPlan::fill<T>, "value"_a, "plane"_a.noconvert(), "step"_a, "zero_point"_a)
        .def("unpack", &PackPlan::unpack<T>, "image"_a.noconvert(), "phase"_a.noconvert().none(), "scale"_a,
             "planes"_a.noconvert(), "out"_a.noconvert(), "step"_a, "zero_point"_a);
}

}  // namespace

void bind_ingest(nb::module_& module);      // bindings_ingest.cpp
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

    bind_ingest(module);

    nb::class_<CoilPlan>(module, "CoilPlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "phase_encodes"_a, "columns"_a,
             nb::keep_alive<1, 2>())
        .def("compress", &CoilPlan::compress, "samples"_a.noconvert(), "measured"_a.noconvert(), "matrix"_a.noconvert(),
             "out"_a.noconvert())
        .def("combine", &CoilPlan::combine, "samples"_a.noconvert(), "measured"_a.noconvert(), "out"_a.noconvert());

    nb::class_<AdaptivePlan>(module, "AdaptivePlan")
        .def(nb::init<edge::Workers&, int, int, int>(), "workers"_a, "coils"_a, "phase_encodes"_a, "columns"_a,
             nb::keep_alive<1, 2>())
        .def("combine", &AdaptivePlan::combine, "samples"_a.noconvert(), "measured"_a.noconvert(), "out"_a.noconvert());

    module.def("all_positive", &all_positive, "numbers"_a.noconvert());

    module.def("transform_tables", [](int length) {
        const edge::Transform transform(length, 8);  // that a GPU's thread has registers for
        std::vector<std::array<int, 4>> passes;
        for (const edge::Pass& pass : transform.passes) {
            passes.push_back({pass.radix, pass.length, static_cast<int>(pass.twiddles), static_cast<int>(pass.roots)});
        }
        return std::make_tuple(passes, transform.tables, transform.frequency);
    }, "length"_a);

    module.def("between_centred", [](int size, int grid) {
        std::vector<std::tuple<int, int, float>> points;
        for (int index = 0; index < size; ++index) {
            const edge::Between at = edge::between_centred(index, size, grid);
            points.emplace_back(at.left, at.right, at.weight);
        }
        return points;
    }, "size"_a, "grid"_a);

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
        .def("between", &SensePlan::between, "image"_a.noconvert(), "towards"_a.noconvert(), "share"_a, "out"_a.noconvert())
        .def("sample_power", &SensePlan::sample_power, "hybrid"_a.noconvert(), "out"_a.noconvert())
        .def("line_search", &SensePlan::line_search, "image"_a.noconvert(), "towards"_a.noconvert(), "hybrid"_a.noconvert(),
             "measured"_a.noconvert());

    nb::class_<SensitivityPlan>(module, "SensitivityPlan")
        .def(nb::init<edge::Workers&, int, SensitivityPlan::Size, SensitivityPlan::Size, SensitivityPlan::Size,
                      SensitivityPlan::Size>(),
             "workers"_a, "coils"_a, "acs"_a, "kernel"_a, "grid"_a, "image"_a, nb::keep_alive<1, 2>())
        .def("estimate", &SensitivityPlan::estimate, "acs"_a.noconvert(), "threshold"_a, "weight"_a.noconvert().none(),
             "out"_a.noconvert());

    nb::class_<PackPlan> pack_plan(module, "PackPlan");
    pack_plan.def(nb::init<edge::Workers&, int, int, int, int>(), "workers"_a, "phase_encodes"_a, "columns"_a, "plane_lines"_a,
                  "plane_columns"_a, nb::keep_alive<1, 2>());
    bind_pack<float>(pack_plan);
    bind_pack<signed char>(pack_plan);
    bind_pack<unsigned char>(pack_plan);

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
