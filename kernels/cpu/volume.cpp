#include "volume.hpp"

#include "conjugate_gradients.hpp"
#include "fft.hpp"
#include "table.hpp"

namespace edge {
namespace EDGE_ISA {

namespace {

// Memory that is wanted a row later: the first pass reads a row as several short streams, which the processor does not foresee.
inline void fetch(const float* packed) { __builtin_prefetch(packed, 0, 2); }

// kLanes planes of the volume, and a thread's memory for them. Packed planes are (partitions, phase_encodes); images are transformed
// with their centre where it is, since Fᴴ M F commutes with a shift of the image.
class Block {
  public:
    Block(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data, std::size_t block, float* scratch)
        : adjoint(data.adjoint + at(1) * static_cast<std::ptrdiff_t>(block) * geometry.partitions * geometry.phase_encodes),
          transform_(transform),
          geometry_(geometry),
          first_(static_cast<int>(block) * kLanes),
          columns_(geometry.columns - first_ < kLanes ? geometry.columns - first_ : kLanes),
          maps_(data.maps + at(1) * static_cast<std::ptrdiff_t>(block) * geometry.coils * elements()),
          mask_(data.mask + static_cast<std::ptrdiff_t>(kLanes) * static_cast<std::ptrdiff_t>(block) * elements()),
          butterflies_(reinterpret_cast<ComplexVector*>(scratch)),
          line_(scratch + at(largest_prime(transform))),
          work_(line_ + at(geometry.partitions)),
          arrays_(work_ + at(1) * row_stride() * geometry.partitions) {}

    float* const adjoint;

    int elements() const { return geometry_.partitions * geometry_.phase_encodes; }
    float* array(int index) const { return arrays_ + index * (at(elements()) + at(1)); }  // no power of two, see row_stride

    void load_image(const float* image, float* packed) const { load_plane(image, 0, packed); }
    void store_image(const float* packed, float* image) const {
        for (int i = 0; i < elements(); ++i) store_some(image + 2 * sample(0, i), load_packed(packed + at(i)), columns_);
    }
    void pack_maps(const float* maps) const {
        for (int coil = 0; coil < geometry_.coils; ++coil) load_plane(maps, coil, coil_maps(coil));
    }
    void pack_samples(const float* hybrid, const bool* measured) const;

    // sum = Σ Sᴴ Fᴴ M F S image
    void normal(const float* image, float* sum) const;

  private:
    static int largest_prime(const PlaneTransform& transform) {
        const int of_partitions = transform.partitions.largest_prime, of_lines = transform.phase_encodes.largest_prime;
        return of_partitions > of_lines ? of_partitions : of_lines;
    }
    float* coil_maps(int coil) const { return maps_ + at(1) * static_cast<std::ptrdiff_t>(coil) * elements(); }
    // of the block's first column
    std::ptrdiff_t sample(int coil, int element) const {
        return (static_cast<std::ptrdiff_t>(coil) * elements() + element) * geometry_.columns + first_;
    }
    void load_plane(const float* from, int coil, float* packed) const {
        for (int i = 0; i < elements(); ++i) store_packed(packed + at(i), load_some(from + 2 * sample(coil, i), columns_));
    }

    // Rows of `work_`, of one partition each, are an odd number of elements apart: those of one phase encode must not compete for one
    // cache set.
    int row_stride() const { return geometry_.phase_encodes | 1; }
    float* row(int partition) const { return work_ + at(1) * row_stride() * partition; }
    struct Strided {
        float* first;
        std::ptrdiff_t stride;
        ComplexVector operator()(int i) const { return load_packed(first + stride * i); }
        void operator()(int i, ComplexVector value) const { store_packed(first + stride * i, value); }
    };
    Strided across(int phase_encode) const { return {work_ + at(phase_encode), at(row_stride())}; }
    Vector mask_at(int phase_encode, int partition) const { return load(mask_row(phase_encode) + kLanes * partition); }
    float* mask_row(int phase_encode) const {
        return mask_ + static_cast<std::ptrdiff_t>(kLanes) * geometry_.partitions * phase_encode;
    }
    // Where the frequency at a position, or an image's element as transformed, lies on a centred axis.
    static int centred(const Transform& transform, int index) {
        const int moved = index + transform.length / 2;
        return moved < transform.length ? moved : moved - transform.length;
    }
    static int frequency(const Transform& transform, int position) {
        return centred(transform, transform.frequency[static_cast<std::size_t>(position)]);
    }

    const PlaneTransform& transform_;
    const VolumeGeometry& geometry_;
    int first_, columns_;  // of kLanes columns, those that exist
    float *maps_, *mask_;
    ComplexVector* butterflies_;
    float* line_;  // all partitions of one phase encode
    float* work_;
    float* arrays_;
};

// A coil's plane is read, transformed and summed row by row; in between, each phase encode's partitions are transformed, masked and
// transformed back while they are in the innermost cache.
void Block::normal(const float* image, float* sum) const {
    std::memset(sum, 0, sizeof(float) * static_cast<std::size_t>(at(elements())));
    const Transform &along = transform_.phase_encodes, &through = transform_.partitions;
    const InPlace line{line_};
    const std::ptrdiff_t next = at(along.length);
    for (int coil = 0; coil < geometry_.coils; ++coil) {
        for (int z = 0; z < through.length; ++z) {
            const float *maps = coil_maps(coil) + at(z * along.length), *pixels = image + at(z * along.length);
            const auto seen = [=](int i) {
                fetch(maps + at(i) + next);
                fetch(pixels + at(i) + next);
                return load_packed(maps + at(i)) * load_packed(pixels + at(i));
            };
            transform_line<-1>(along, row(z), butterflies_, seen, InPlace{row(z)});
        }
        for (int y = 0; y < along.length; ++y) {
            const float* mask = mask_row(y);
            const auto masked = [mask, line](int i, ComplexVector value) { line(i, scaled(value, load(mask + kLanes * i))); };
            const Strided lines = across(y);
            const auto fetching = [lines](int i) {
                fetch(lines.first + lines.stride * i + at(1));
                return lines(i);
            };
            transform_line<-1>(through, line_, butterflies_, fetching, masked);
            transform_line<+1>(through, line_, butterflies_, line, across(y));
        }
        for (int z = 0; z < through.length; ++z) {
            const float* maps = coil_maps(coil) + at(z * along.length);
            float* sums = sum + at(z * along.length);
            const auto combine = [=](int i, ComplexVector value) {
                fetch(maps + at(i) + next);
                fetch(sums + at(i) + next);
                store_packed(sums + at(i), load_packed(sums + at(i)) + conjugate_times(load_packed(maps + at(i)), value));
            };
            transform_line<+1>(along, row(z), butterflies_, InPlace{row(z)}, combine);
        }
    }
}

void Block::pack_samples(const float* hybrid, const bool* measured) const {
    const Transform &along = transform_.phase_encodes, &through = transform_.partitions;
    const InPlace line{line_};
    const float scale = along.scale * through.scale;
    for (int y = 0; y < along.length; ++y) {
        for (int z = 0; z < through.length; ++z) {
            const bool* counts = measured + sample(0, frequency(through, z) * along.length + frequency(along, y));
            float* mask = mask_row(y) + kLanes * z;
            for (int lane = 0; lane < kLanes; ++lane) mask[lane] = lane < columns_ && counts[lane] ? scale * scale : 0.0f;
        }
    }
    std::memset(adjoint, 0, sizeof(float) * static_cast<std::size_t>(at(elements())));
    for (int coil = 0; coil < geometry_.coils; ++coil) {
        for (int z = 0; z < through.length; ++z) {
            for (int y = 0; y < along.length; ++y) {
                const std::ptrdiff_t from = sample(coil, frequency(through, z) * along.length + frequency(along, y));
                const ComplexVector value = load_some(hybrid + 2 * from, columns_);
                store_packed(row(z) + at(y), scaled(where(mask_at(y, z), value), scale));
            }
        }
        for (int y = 0; y < along.length; ++y) {
            for (int z = 0; z < through.length; ++z) line(z, across(y)(z));
            transform_line<+1>(through, line_, butterflies_, line, across(y));
        }
        for (int z = 0; z < through.length; ++z) {
            const int first = centred(through, z) * along.length;
            inverse(along, row(z), butterflies_);
            for (int y = 0; y < along.length; ++y) {
                const std::ptrdiff_t pixel = at(first + centred(along, y));
                const ComplexVector value = conjugate_times(load_packed(coil_maps(coil) + pixel), load_packed(row(z) + at(y)));
                store_packed(adjoint + pixel, load_packed(adjoint + pixel) + value);
            }
        }
    }
}

}  // namespace

void volume_pack_maps(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data, const SenseTask& task,
                      std::size_t index, float* scratch) {
    Block(transform, geometry, data, index, scratch).pack_maps(task.hybrid);
}

void volume_pack_samples(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data,
                         const SenseTask& task, std::size_t index, float* scratch) {
    Block(transform, geometry, data, index, scratch).pack_samples(task.hybrid, task.measured);
}

void volume_normal(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data, const SenseTask& task,
                   std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index, scratch);
    float *image = block.array(0), *sum = block.array(1);
    block.load_image(task.image, image);
    block.normal(image, sum);
    block.store_image(sum, task.out);
}

void volume_gradient(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data, const SenseTask& task,
                     std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index, scratch);
    float *image = block.array(0), *sum = block.array(1);
    block.load_image(task.image, image);
    block.normal(image, sum);
    for (int i = 0; i < block.elements(); ++i) {
        store_packed(sum + at(i), load_packed(sum + at(i)) - load_packed(block.adjoint + at(i)));
    }
    block.store_image(sum, task.out);
}

void volume_data_consistent(const PlaneTransform& transform, const VolumeGeometry& geometry, const SenseData& data,
                            const SenseTask& task, std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index, scratch);
    float *x = block.array(0), *residual = block.array(1), *direction = block.array(2), *product = block.array(3);
    block.load_image(task.image, x);
    data_consistency(task, block.elements(), block.adjoint, x, residual, direction, product,
                     [&](const float* in, float* out) { block.normal(in, out); });
    block.store_image(x, task.out);
}

}  // namespace EDGE_ISA
}  // namespace edge
