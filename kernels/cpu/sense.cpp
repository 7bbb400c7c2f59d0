#include "sense.hpp"

#include "conjugate_gradients.hpp"
#include "fft.hpp"
#include "table.hpp"

namespace edge {
namespace EDGE_ISA {

namespace {

constexpr float kLeastPrecondition = 0.05f;  // stands for frequencies that were not measured

struct Block {
    const Transform& transform;
    const SenseGeometry& geometry;
    int first;   // column
    int columns;  // of kLanes, those that exist
    float* maps;
    float* mask;
    float* adjoint;

    Block(const Transform& t, const SenseGeometry& g, const SenseData& data, std::size_t block)
        : transform(t),
          geometry(g),
          first(static_cast<int>(block) * kLanes),
          columns(g.columns - first < kLanes ? g.columns - first : kLanes),
          maps(data.maps + at(1) * static_cast<std::ptrdiff_t>(block) * g.coils * g.phase_encodes),
          mask(data.mask + static_cast<std::ptrdiff_t>(kLanes) * static_cast<std::ptrdiff_t>(block) * g.phase_encodes),
          adjoint(data.adjoint + at(1) * static_cast<std::ptrdiff_t>(block) * g.phase_encodes) {}

    int lines() const { return geometry.phase_encodes; }
    const float* coil_maps(int coil) const { return maps + at(1) * static_cast<std::ptrdiff_t>(coil) * lines(); }
    // of the block's first column
    std::ptrdiff_t sample(int coil, int line) const {
        return (static_cast<std::ptrdiff_t>(coil) * lines() + line) * geometry.columns + first;
    }
    int shifted(int index) const {  // between a centred axis and one whose centre is index 0
        const int moved = index + lines() / 2;
        return moved < lines() ? moved : moved - lines();
    }
    // 1 in the lanes of columns whose sample of this line counts, else 0
    Vector counting(const bool* measured, int line) const {
        float counts[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) counts[lane] = lane < columns && measured[sample(0, line) + lane] ? 1.0f : 0.0f;
        return load(counts);
    }
    Vector mask_at(int position) const { return load(mask + kLanes * static_cast<std::ptrdiff_t>(position)); }
};

void load_image(const Block& block, const float* image, float* packed) {
    for (int line = 0; line < block.lines(); ++line) {
        store_packed(packed + at(line), load_some(image + 2 * block.sample(0, line), block.columns));
    }
}

void store_image(const Block& block, const float* packed, float* image) {
    for (int line = 0; line < block.lines(); ++line) {
        store_some(image + 2 * block.sample(0, line), load_packed(packed + at(line)), block.columns);
    }
}

// The last forward pass, the mask and the first inverse pass, while a butterfly's points are in registers.
template <int R>
void masked_centre(const Block& block, const Pass& pass, Part part, float* packed, const float* wanted_next) {
    const float* roots = block.transform.tables.data() + pass.roots;
    ComplexVector z[R];
    for (int base = part.begin; base < part.end; base += R) {
        for (int q = 0; q < R; ++q) z[q] = load_packed(packed + at(base + q));
        butterfly<R, -1>(z, roots);
        for (int q = 0; q < R; ++q) z[q] = scaled(z[q], block.mask_at(base + q));
        butterfly<R, +1>(z, roots);
        for (int q = 0; q < R; ++q) {
            store_packed(packed + at(base + q), z[q]);
            __builtin_prefetch(wanted_next + at(base + q), 0, 2);
        }
    }
}

// Meanwhile the next coil's maps are fetched, `wanted_next`.
void masked_centre(const Block& block, Part part, float* packed, const float* wanted_next, ComplexVector* scratch) {
    if (block.transform.passes.empty()) {
        store_packed(packed, scaled(load_packed(packed), block.mask_at(0)));
        return;
    }
    const Pass& pass = block.transform.passes.back();
    switch (pass.radix) {
        case 2: return masked_centre<2>(block, pass, part, packed, wanted_next);
        case 3: return masked_centre<3>(block, pass, part, packed, wanted_next);
        case 4: return masked_centre<4>(block, pass, part, packed, wanted_next);
        case 5: return masked_centre<5>(block, pass, part, packed, wanted_next);
        case 7: return masked_centre<7>(block, pass, part, packed, wanted_next);
        case 8: return masked_centre<8>(block, pass, part, packed, wanted_next);
        default: break;
    }
    const InPlace here{packed};
    run_pass<-1>(block.transform, pass, part, scratch, here, here);
    for (int position = part.begin; position < part.end; ++position) {
        store_packed(packed + at(position), scaled(load_packed(packed + at(position)), block.mask_at(position)));
    }
    run_pass<+1>(block.transform, pass, part, scratch, here, here);
}

// sum = Σ Sᴴ Fᴴ M F S image. The transforms need not be centred: Fᴴ M F commutes with a shift of the image.
void apply_normal(const Block& block, const float* image, float* sum, float* work, ComplexVector* scratch) {
    const std::vector<Pass>& passes = block.transform.passes;
    const Part line = whole(block.transform);
    const InPlace here{work};
    std::memset(sum, 0, sizeof(float) * static_cast<std::size_t>(at(block.lines())));
    for (int coil = 0; coil < block.geometry.coils; ++coil) {
        const float* maps = block.coil_maps(coil);
        const auto seen = [maps, image](int i) { return load_packed(maps + at(i)) * load_packed(image + at(i)); };
        const auto combine = [maps, sum](int i, ComplexVector value) {
            store_packed(sum + at(i), load_packed(sum + at(i)) + conjugate_times(load_packed(maps + at(i)), value));
        };
        const float* wanted_next = maps + at(block.lines());
        if (passes.size() < 2) {
            for (int i = 0; i < block.lines(); ++i) here(i, seen(i));
            masked_centre(block, line, work, wanted_next, scratch);
            for (int i = 0; i < block.lines(); ++i) combine(i, here(i));
            continue;
        }
        run_pass<-1>(block.transform, passes.front(), line, scratch, seen, here);
        each_part(block.transform, [&](Part part) {
            run_inner<-1>(block.transform, part, scratch, here);
            masked_centre(block, part, work, wanted_next, scratch);
            run_inner<+1>(block.transform, part, scratch, here);
        });
        run_pass<+1>(block.transform, passes.front(), line, scratch, here, combine);
    }
}

// The unscaled spectrum of one coil's image, in the transform's own order.
void coil_spectrum(const Block& block, const float* maps, const float* image, float* spectrum, ComplexVector* scratch) {
    for (int i = 0; i < block.lines(); ++i) {
        const int line = block.shifted(i);
        store_packed(spectrum + at(i), load_packed(maps + at(line)) * load_packed(image + at(line)));
    }
    forward(block.transform, spectrum, scratch);
}

struct Memory {  // a thread's
    ComplexVector* butterflies;
    float* arrays;
    std::ptrdiff_t size;

    Memory(const Block& block, float* scratch)
        : butterflies(reinterpret_cast<ComplexVector*>(scratch)),
          arrays(scratch + at(block.transform.largest_prime)),
          size(at(block.lines()) + kElement) {}  // not a power of two: the arrays must not compete for one cache set
    float* operator[](int array) const { return arrays + array * size; }
};

}  // namespace

void pack_maps(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
               std::size_t index, float*) {
    const Block block(transform, geometry, data, index);
    for (int coil = 0; coil < geometry.coils; ++coil) {
        float* maps = block.maps + at(1) * static_cast<std::ptrdiff_t>(coil) * block.lines();
        for (int line = 0; line < block.lines(); ++line) {
            store_packed(maps + at(line), load_some(task.hybrid + 2 * block.sample(coil, line), block.columns));
        }
    }
}

void pack_samples(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                  std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    for (int position = 0; position < block.lines(); ++position) {
        const int line = block.shifted(transform.frequency[static_cast<std::size_t>(position)]);
        const Vector mask = block.counting(task.measured, line) * (transform.scale * transform.scale);
        store(block.mask + kLanes * static_cast<std::ptrdiff_t>(position), mask);
    }
    std::memset(block.adjoint, 0, sizeof(float) * static_cast<std::size_t>(at(block.lines())));
    for (int coil = 0; coil < geometry.coils; ++coil) {
        for (int position = 0; position < block.lines(); ++position) {
            const int line = block.shifted(transform.frequency[static_cast<std::size_t>(position)]);
            const ComplexVector sample = load_some(task.hybrid + 2 * block.sample(coil, line), block.columns);
            store_packed(memory[0] + at(position), scaled(where(block.mask_at(position), sample), transform.scale));
        }
        inverse(transform, memory[0], memory.butterflies);
        const float* maps = block.coil_maps(coil);
        for (int i = 0; i < block.lines(); ++i) {
            const int line = block.shifted(i);
            const ComplexVector value = conjugate_times(load_packed(maps + at(line)), load_packed(memory[0] + at(i)));
            store_packed(block.adjoint + at(line), load_packed(block.adjoint + at(line)) + value);
        }
    }
}

void normal(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
            std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    load_image(block, task.image, memory[0]);
    apply_normal(block, memory[0], memory[1], memory[2], memory.butterflies);
    store_image(block, memory[1], task.out);
}

void gradient(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
              std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    load_image(block, task.image, memory[0]);
    apply_normal(block, memory[0], memory[1], memory[2], memory.butterflies);
    for (int i = 0; i < block.lines(); ++i) {
        store_packed(memory[1] + at(i), load_packed(memory[1] + at(i)) - load_packed(block.adjoint + at(i)));
    }
    store_image(block, memory[1], task.out);
}

void data_consistent(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                     std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    float *x = memory[0], *residual = memory[1], *direction = memory[2], *product = memory[3], *work = memory[4];
    load_image(block, task.image, x);
    data_consistency(task, block.lines(), block.adjoint, x, residual, direction, product,
                     [&](const float* in, float* out) { apply_normal(block, in, out, work, memory.butterflies); });
    store_image(block, x, task.out);
}

// Solved for the spectrum v with x = Fᴴ P v, where the preconditioner P is diagonal; frequencies stay in the transform's own order.
void regularised(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                 std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    float *v = memory[0], *residual = memory[1], *direction = memory[2], *product = memory[3], *work = memory[4];
    float *image = memory[5], *diagonals = memory[6];  // of the preconditioner and of the penalty, kLanes each
    const int lines = block.lines();
    for (int position = 0; position < lines; ++position) {
        const int line = block.shifted(transform.frequency[static_cast<std::size_t>(position)]);
        float mask[kLanes];
        store(mask, block.mask_at(position));
        for (int lane = 0; lane < kLanes; ++lane) {
            const float weight = lane < block.columns ? task.weight[block.sample(0, line) + lane] : 1.0f;
            const float seen = mask[lane] > 0 ? 1.0f : kLeastPrecondition;
            diagonals[at(position) + lane] = 1.0f / __builtin_sqrtf(weight + seen);
            diagonals[at(position) + kLanes + lane] = weight;
        }
    }
    const auto to_image = [&](const float* spectrum) {  // image = Fᴴ P spectrum, unitary
        for (int i = 0; i < lines; ++i) {
            const Vector precondition = load(diagonals + at(i)) * transform.scale;
            store_packed(image + at(i), scaled(load_packed(spectrum + at(i)), precondition));
        }
        inverse(transform, image, memory.butterflies);
    };
    const auto from_image = [&](float* spectrum) {  // in place: P F
        forward(transform, spectrum, memory.butterflies);
        for (int i = 0; i < lines; ++i) {
            const Vector precondition = load(diagonals + at(i)) * transform.scale;
            store_packed(spectrum + at(i), scaled(load_packed(spectrum + at(i)), precondition));
        }
    };
    std::memset(v, 0, sizeof(float) * static_cast<std::size_t>(at(lines)));
    std::memcpy(residual, block.adjoint, sizeof(float) * static_cast<std::size_t>(at(lines)));
    from_image(residual);
    const Vector limit = energy_of(residual, lines) * (task.tolerance * task.tolerance);
    conjugate_gradients(lines, task.steps, limit, v, residual, direction, product, [&](const float* in, float* out) {
        to_image(in);
        apply_normal(block, image, out, work, memory.butterflies);
        from_image(out);
        for (int i = 0; i < lines; ++i) {
            const Vector precondition = load(diagonals + at(i)), weight = load(diagonals + at(i) + kLanes);
            const ComplexVector penalty = scaled(load_packed(in + at(i)), precondition * precondition * weight);
            store_packed(out + at(i), load_packed(out + at(i)) + penalty);
        }
    });
    to_image(v);
    store_image(block, image, task.out);
}

void substituted(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                 std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    float *image = memory[0], *work = memory[1], *magnitude = memory[2], *power = memory[3];
    load_image(block, task.image, image);
    std::memset(magnitude, 0, sizeof(float) * static_cast<std::size_t>(at(block.lines())));
    std::memset(power, 0, sizeof(float) * static_cast<std::size_t>(at(block.lines())));
    for (int coil = 0; coil < geometry.coils; ++coil) {
        const float* maps = block.coil_maps(coil);
        coil_spectrum(block, maps, image, work, memory.butterflies);
        for (int position = 0; position < block.lines(); ++position) {
            const int line = block.shifted(transform.frequency[static_cast<std::size_t>(position)]);
            const Vector counts = block.counting(task.measured, line);
            const ComplexVector sample = load_some(task.hybrid + 2 * block.sample(coil, line), block.columns);
            const ComplexVector model = scaled(load_packed(work + at(position)), transform.scale);
            const ComplexVector residual = where(counts, model - sample);
            store_packed(work + at(position), scaled(residual, transform.scale));
            float* sum = power + at(line);
            store(sum, load(sum) + residual.re * residual.re + residual.im * residual.im);
        }
        inverse(transform, work, memory.butterflies);
        for (int i = 0; i < block.lines(); ++i) {
            const int line = block.shifted(i);
            const ComplexVector coil_image =
                load_packed(maps + at(line)) * load_packed(image + at(line)) - load_packed(work + at(i));
            float* sum = magnitude + at(line);
            store(sum, load(sum) + coil_image.re * coil_image.re + coil_image.im * coil_image.im);
        }
    }
    const float share = 1.0f / static_cast<float>(geometry.coils);
    for (int line = 0; line < block.lines(); ++line) {
        for (int lane = 0; lane < block.columns; ++lane) {
            task.out[block.sample(0, line) + lane] = __builtin_sqrtf(magnitude[at(line) + lane]);
            task.power[block.sample(0, line) + lane] = power[at(line) + lane] * share;
        }
    }
}

void line_search(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                 std::size_t index, float* scratch) {
    const Block block(transform, geometry, data, index);
    const Memory memory(block, scratch);
    float *image = memory[0], *direction = memory[1], *model = memory[2], *change = memory[3];
    load_image(block, task.image, image);
    load_image(block, task.towards, direction);
    for (int line = 0; line < block.lines(); ++line) {
        store_packed(direction + at(line), load_packed(direction + at(line)) - load_packed(image + at(line)));
    }
    LaneSums agreement, power;
    for (int coil = 0; coil < geometry.coils; ++coil) {
        coil_spectrum(block, block.coil_maps(coil), image, model, memory.butterflies);
        coil_spectrum(block, block.coil_maps(coil), direction, change, memory.butterflies);
        for (int position = 0; position < block.lines(); ++position) {
            const int line = block.shifted(transform.frequency[static_cast<std::size_t>(position)]);
            const Vector counts = block.counting(task.measured, line);
            const ComplexVector sample = load_some(task.hybrid + 2 * block.sample(coil, line), block.columns);
            const ComplexVector left = where(counts, sample - scaled(load_packed(model + at(position)), transform.scale));
            const ComplexVector step = where(counts, scaled(load_packed(change + at(position)), transform.scale));
            agreement.add(step, left);
            power.add(step, step);
        }
    }
    float sums[kLanes], powers[kLanes];
    store(sums, agreement.sum);
    store(powers, power.sum);
    for (int lane = 0; lane < block.columns; ++lane) {
        task.out[block.first + lane] = sums[lane];
        task.power[block.first + lane] = powers[lane];
    }
}

void between(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
             std::size_t index, float*) {
    const Block block(transform, geometry, data, index);
    for (int line = 0; line < block.lines(); ++line) {
        const std::ptrdiff_t pixel = 2 * block.sample(0, line);
        const ComplexVector from = load_some(task.image + pixel, block.columns), to = load_some(task.towards + pixel, block.columns);
        store_some(task.out + pixel, from + scaled(to - from, task.share), block.columns);
    }
}

void sample_power(const Transform& transform, const SenseGeometry& geometry, const SenseData& data, const SenseTask& task,
                  std::size_t index, float*) {
    const Block block(transform, geometry, data, index);
    for (int line = 0; line < block.lines(); ++line) {
        Vector sum = {};
        for (int coil = 0; coil < geometry.coils; ++coil) {
            sum = sum + squared_magnitude(load_some(task.hybrid + 2 * block.sample(coil, line), block.columns));
        }
        float powers[kLanes];
        store(powers, sum);
        for (int lane = 0; lane < block.columns; ++lane) task.out[block.sample(0, line) + lane] = powers[lane];
    }
}

}  // namespace EDGE_ISA
}  // namespace edge
