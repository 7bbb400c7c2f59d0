// The SENSE operator of one slice in hybrid space, and what is solved with it: kernels/cpu/sense.cpp for a GPU. A block does its group
// of columns from a solve's first step to its last, with the transform along the phase encodes in shared memory. Of every coil one array
// of the group is there at a time; its maps are read once an application. How kernels are launched: group.cuh.
#include "group.cuh"

namespace edge {

// What is known of the slice; the device's memory.
struct Slice {
    Geometry geometry;
    float4* maps;     // packed (groups, coils, lines, pairs)
    Pair* mask;       // (groups, positions, pairs) over frequencies: 1 / lines where a sample counts, else 0
    float4* adjoint;  // packed (groups, lines, pairs): Aᴴ y
};

struct Columns : Group {
    const Slice& slice;

    __device__ __forceinline__ explicit Columns(const Slice& s) : Group(s.geometry), slice(s) {}

    __device__ __forceinline__ float4* of(float4* array) const { return array + static_cast<long long>(blockIdx.x) * size; }
    __device__ __forceinline__ float4* maps(int coil) const {
        return slice.maps + (static_cast<long long>(blockIdx.x) * geometry.coils + coil) * size;
    }
    __device__ __forceinline__ Pair& mask(int position) const {
        return slice.mask[static_cast<long long>(blockIdx.x) * size + element(position)];
    }
};

// The last forward pass, the mask and the first inverse pass, while a butterfly's lines are in registers. Ends in a barrier.
template <int R, class Load, class Store>
__device__ __forceinline__ void masked_butterflies(const Columns& group, const Pass& pass, Load load, Store store) {
    const float* roots = group.lines.tables + pass.roots;
    for (int base = R * threadIdx.y; base < group.lines.length; base += R * blockDim.y) {
        ComplexPair z[R];
#pragma unroll
        for (int q = 0; q < R; ++q) z[q] = load(base + q);
        butterfly<R, -1>(z, roots);
#pragma unroll
        for (int q = 0; q < R; ++q) z[q] = scaled(z[q], group.mask(base + q));
        butterfly<R, +1>(z, roots);
#pragma unroll
        for (int q = 0; q < R; ++q) store(base + q, z[q]);
    }
    __syncthreads();
}

template <class Load, class Store>
__device__ __forceinline__ void masked_centre(const Columns& group, float4* work, float4* staged, Load load, Store store) {
    const Pass pass = group.lines.passes[group.lines.count - 1];
    switch (pass.radix) {
        case 2: return masked_butterflies<2>(group, pass, load, store);
        case 3: return masked_butterflies<3>(group, pass, load, store);
        case 4: return masked_butterflies<4>(group, pass, load, store);
        case 5: return masked_butterflies<5>(group, pass, load, store);
        case 7: return masked_butterflies<7>(group, pass, load, store);
        case 8: return masked_butterflies<8>(group, pass, load, store);
        default: break;
    }
    const Shared here{work};
    prime_pass<-1>(group.lines, pass, staged, load,
                   [&](int position, ComplexPair value) { here(position, scaled(value, group.mask(position))); });
    prime_pass<+1>(group.lines, pass, staged, here, store);
}

// sum = Σ Sᴴ Fᴴ M F S image, arrays in shared memory. The transforms need not be centred: Fᴴ M F commutes with a shift of the image.
// The image is whole before; ends in a barrier.
__device__ __noinline__ void apply_normal(const Columns& group, const float4* image, float4* sum, float4* work, float4* staged) {
    const Lines& lines = group.lines;
    const Shared here{work}, total{sum};
    for (int coil = 0; coil < group.geometry.coils; ++coil) {
        const float4* maps = group.maps(coil);
        const auto seen = [=](int line) { return pair_of(__ldg(maps + element(line))) * pair_of(image[element(line)]); };
        const auto combine = [=](int line, ComplexPair value) {
            const ComplexPair part = conjugate_times(pair_of(__ldg(maps + element(line))), value);
            total(line, coil ? total(line) + part : part);
        };
        if (lines.count == 0) {
            every_line(group, [&](int line) { combine(line, scaled(seen(line), group.mask(line))); });
        } else if (lines.count == 1) {
            masked_centre(group, work, staged, seen, combine);
        } else {
            run_pass<-1>(lines, 0, staged, seen, here);
            for (int pass = 1; pass + 1 < lines.count; ++pass) run_pass<-1>(lines, pass, staged, here, here);
            masked_centre(group, work, staged, here, here);
            for (int pass = lines.count - 2; pass > 0; --pass) run_pass<+1>(lines, pass, staged, here, here);
            run_pass<+1>(lines, 0, staged, here, combine);
        }
    }
}

// Conjugate gradients (Hestenes and Stiefel, J Res Natl Bur Stand 49:409, 1952), each column with step lengths and an end of its own.
// `operate()` makes `product` of `direction`, both in shared memory and whole for it; `x` and `residual` are in the device's, and only
// ever this thread's lines of them. A column whose residual's energy is no more than its limit keeps its x.
template <class Operate>
__device__ __forceinline__ void conjugate_gradients(const Columns& group, int steps, Pair energy, Pair limit, float4* x, float4* residual,
                                                    float4* direction, float4* product, Pair* partial, Operate operate) {
    const Shared along{direction}, made{product}, solution{x}, left{residual};
    every_line(group, [&](int line) { along(line, left(line)); });
    for (int step = 0; step < steps; ++step) {
        const Pair going = {energy.first <= limit.first ? 0.0f : 1.0f, energy.second <= limit.second ? 0.0f : 1.0f};
        if (!__syncthreads_or(going.first + going.second > 0.0f)) return;  // directions are whole here
        operate();
        Pair curvature = {0.0f, 0.0f};
        every_line(group, [&](int line) { curvature = curvature + real_product(along(line), made(line)); });
        const Pair length = ratio(energy * going, sum_over_lines(curvature, partial));
        Pair remaining = {0.0f, 0.0f};
        every_line(group, [&](int line) {
            solution(line, solution(line) + scaled(along(line), length));
            const ComplexPair r = left(line) - scaled(made(line), length);
            left(line, r);
            remaining = remaining + real_product(r, r);
        });
        remaining = sum_over_lines(remaining, partial);
        const Pair turn = ratio(remaining * going, energy);
        energy = remaining;
        every_line(group, [&](int line) { along(line, left(line) + scaled(along(line), turn)); });
    }
}

}  // namespace edge

using namespace edge;

// maps of sensitivities (coils, lines, columns); no shared memory
extern "C" __global__ void sense_set_maps(Slice slice, const float2* sensitivities) {
    const Columns group(slice);
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        const Shared maps{group.maps(coil)};
        every_line(group, [&](int line) { maps(line, group.load(sensitivities, group.sample(coil, line))); });
    }
}

// mask and adjoint of samples (coils, lines, columns) that count by `measured` (lines, columns); 1 array
extern "C" __global__ void sense_set_samples(Slice slice, const float2* hybrid, const unsigned char* measured) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Lines& lines = slice.geometry.lines;
    const Shared work{arrays[0]}, adjoint{group.of(slice.adjoint)};
    every_line(group, [&](int position) {
        group.mask(position) = group.load_reals(measured, group.sample(0, group.line_of(position)), 0.0f) * (lines.scale * lines.scale);
    });
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        every_line(group, [&](int position) {
            const ComplexPair sample = group.load(hybrid, group.sample(coil, group.line_of(position)));
            work(position, scaled(where(group.mask(position), sample), lines.scale));
        });
        __syncthreads();
        inverse(lines, arrays[0], arrays.staged);
        const Shared maps{group.maps(coil)};
        every_line(group, [&](int at) {
            const int line = group.shifted(at);
            const ComplexPair part = conjugate_times(maps(line), work(at));
            adjoint(line, coil ? adjoint(line) + part : part);
        });
    }
}

// out = Aᴴ A image; 3 arrays
extern "C" __global__ void sense_normal(Slice slice, const float2* image, float2* out) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Shared whole{arrays[0]}, sum{arrays[1]};
    every_line(group, [&](int line) { whole(line, group.load(image, group.sample(0, line))); });
    __syncthreads();
    apply_normal(group, arrays[0], arrays[1], arrays[2], arrays.staged);
    every_line(group, [&](int line) { group.store(out, group.sample(0, line), sum(line)); });
}

// out = Aᴴ (A image - y); 3 arrays
extern "C" __global__ void sense_gradient(Slice slice, const float2* image, float2* out) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Shared whole{arrays[0]}, sum{arrays[1]}, adjoint{group.of(slice.adjoint)};
    every_line(group, [&](int line) { whole(line, group.load(image, group.sample(0, line))); });
    __syncthreads();
    apply_normal(group, arrays[0], arrays[1], arrays[2], arrays.staged);
    every_line(group, [&](int line) { group.store(out, group.sample(0, line), sum(line) - adjoint(line)); });
}

// out = argmin |A x - y|² + lambda |x - image|², `steps` of conjugate gradients from the image on, which may be `out`; 3 arrays. `x` and
// `residual` are packed (groups, lines, pairs).
extern "C" __global__ void __launch_bounds__(256)
    sense_data_consistent(Slice slice, const float2* image, float lambda, int steps, float tolerance, float4* x, float4* residual,
                          float2* out) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Shared direction{arrays[0]}, product{arrays[1]}, adjoint{group.of(slice.adjoint)}, solution{group.of(x)}, left{group.of(residual)};
    Pair* const partial = arrays.partial(3);
    every_line(group, [&](int line) {
        const ComplexPair prior = group.load(image, group.sample(0, line));
        solution(line, prior);
        direction(line, prior);
    });
    __syncthreads();
    apply_normal(group, arrays[0], arrays[1], arrays[2], arrays.staged);
    Pair right = {0.0f, 0.0f}, energy = {0.0f, 0.0f};
    every_line(group, [&](int line) {  // at x = prior, the prior's terms cancel
        const ComplexPair side = adjoint(line) + scaled(solution(line), lambda), r = adjoint(line) - product(line);
        right = right + real_product(side, side);
        energy = energy + real_product(r, r);
        left(line, r);
    });
    right = sum_over_lines(right, partial);
    energy = sum_over_lines(energy, partial);
    conjugate_gradients(group, steps, energy, right * (tolerance * tolerance), solution.array, left.array, arrays[0], arrays[1], partial, [&] {
        apply_normal(group, arrays[0], arrays[1], arrays[2], arrays.staged);
        every_line(group, [&](int line) { product(line, product(line) + scaled(direction(line), lambda)); });
    });
    every_line(group, [&](int line) { group.store(out, group.sample(0, line), solution(line)); });
}

// out = argmin |A x - y|² + Σ weight |F x|² with weight (lines, columns), by preconditioned conjugate gradients from zero; 4 arrays. Solved
// for the spectrum v with x = Fᴴ P v, where the preconditioner P is diagonal; frequencies stay in the transform's own order. `v` and
// `residual` are packed (groups, lines, pairs).
extern "C" __global__ void __launch_bounds__(256)
    sense_regularised(Slice slice, const float* weight, int steps, float tolerance, float4* v, float4* residual, float2* out) {
    constexpr float kLeastPrecondition = 0.05f;  // stands for frequencies that were not measured
    const Columns group(slice);
    const Arrays arrays(group);
    const Lines& lines = slice.geometry.lines;
    const Shared direction{arrays[0]}, product{arrays[1]}, image{arrays[3]}, adjoint{group.of(slice.adjoint)}, solution{group.of(v)},
        left{group.of(residual)};
    Pair* const partial = arrays.partial(4);
    const auto weight_at = [&](int position) { return group.load_reals(weight, group.sample(0, group.line_of(position)), 1.0f); };
    const auto precondition = [&](int position) {
        const Pair penalty = weight_at(position), mask = group.mask(position);
        return Pair{1.0f / sqrtf(penalty.first + (mask.first > 0 ? 1.0f : kLeastPrecondition)),
                    1.0f / sqrtf(penalty.second + (mask.second > 0 ? 1.0f : kLeastPrecondition))};
    };
    const auto to_image = [&](const Shared& spectrum) {  // image = Fᴴ P spectrum, unitary; ends in a barrier
        every_line(group, [&](int at) { image(at, scaled(spectrum(at), precondition(at) * lines.scale)); });
        __syncthreads();
        inverse(lines, image.array, arrays.staged);
    };
    const auto from_image = [&] {  // in place, of the product: P F; of this thread's lines
        forward(lines, product.array, arrays.staged);
        every_line(group, [&](int at) { product(at, scaled(product(at), precondition(at) * lines.scale)); });
    };
    every_line(group, [&](int line) { product(line, adjoint(line)); });
    __syncthreads();
    from_image();
    Pair energy = {0.0f, 0.0f};
    every_line(group, [&](int at) {
        const ComplexPair r = product(at);
        solution(at, ComplexPair{});
        left(at, r);
        energy = energy + real_product(r, r);
    });
    energy = sum_over_lines(energy, partial);
    conjugate_gradients(group, steps, energy, energy * (tolerance * tolerance), solution.array, left.array, arrays[0], arrays[1], partial, [&] {
        to_image(direction);
        apply_normal(group, image.array, arrays[1], arrays[2], arrays.staged);
        from_image();
        every_line(group, [&](int at) {
            const Pair p = precondition(at);
            product(at, product(at) + scaled(direction(at), p * p * weight_at(at)));
        });
    });
    to_image(solution);
    every_line(group, [&](int line) { group.store(out, group.sample(0, line), image(line)); });
}

// out (lines, columns): the magnitude image with every measured sample in its place, and `power`: |F S image - y|² there, mean over
// the coils; 3 arrays
extern "C" __global__ void __launch_bounds__(256)
    sense_substituted(Slice slice, const float2* image, const float2* hybrid, const unsigned char* measured, float* out, float* power) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Lines& lines = slice.geometry.lines;
    const Shared work{arrays[0]};
    Pair* const magnitudes = reinterpret_cast<Pair*>(arrays[1]);
    Pair* const powers = magnitudes + group.size;
    every_line(group, [&](int at) { magnitudes[element(at)] = powers[element(at)] = Pair{0.0f, 0.0f}; });
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        const Shared maps{group.maps(coil)};
        every_line(group, [&](int at) {
            const int line = group.shifted(at);
            work(at, maps(line) * group.load(image, group.sample(0, line)));
        });
        __syncthreads();
        forward(lines, arrays[0], arrays.staged);
        every_line(group, [&](int position) {
            const int line = group.line_of(position);
            const ComplexPair sample = group.load(hybrid, group.sample(coil, line)), model = scaled(work(position), lines.scale);
            const ComplexPair residual = where(group.load_reals(measured, group.sample(0, line), 0.0f), model - sample);
            work(position, scaled(residual, lines.scale));
            powers[element(position)] = powers[element(position)] + squared_magnitude(residual);
        });
        __syncthreads();
        inverse(lines, arrays[0], arrays.staged);
        every_line(group, [&](int at) {
            const int line = group.shifted(at);
            const ComplexPair coil_image = maps(line) * group.load(image, group.sample(0, line)) - work(at);
            magnitudes[element(at)] = magnitudes[element(at)] + squared_magnitude(coil_image);
        });
    }
    const float share = 1.0f / static_cast<float>(slice.geometry.coils);
    every_line(group, [&](int at) {
        const Pair magnitude = magnitudes[element(at)];
        group.store_reals(out, group.sample(0, group.shifted(at)), {sqrtf(magnitude.first), sqrtf(magnitude.second)});
        group.store_reals(power, group.sample(0, group.line_of(at)), powers[element(at)] * share);
    });
}

// out = image + share (towards - image); no shared memory
extern "C" __global__ void sense_between(Slice slice, const float2* image, const float2* towards, float share, float2* out) {
    const Columns group(slice);
    every_line(group, [&](int line) {
        const ComplexPair from = group.load(image, group.sample(0, line)), to = group.load(towards, group.sample(0, line));
        group.store(out, group.sample(0, line), from + scaled(to - from, share));
    });
}

// out (lines, columns) = Σ |y|² over the coils of hybrid; no shared memory
extern "C" __global__ void sense_sample_power(Slice slice, const float2* hybrid, float* out) {
    const Columns group(slice);
    every_line(group, [&](int line) {
        Pair sum = {0.0f, 0.0f};
        for (int coil = 0; coil < slice.geometry.coils; ++coil) {
            sum = sum + squared_magnitude(group.load(hybrid, group.sample(coil, line)));
        }
        group.store_reals(out, group.sample(0, line), sum);
    });
}

// Re <A d, y - A image> and |A d|² of every column, `agreement` and `power` (columns,), under the mask `measured`, with d = `towards` -
// image; 2 arrays
extern "C" __global__ void __launch_bounds__(256)
    sense_line_search(Slice slice, const float2* image, const float2* towards, const float2* hybrid, const unsigned char* measured,
                      float* agreement, float* power) {
    const Columns group(slice);
    const Arrays arrays(group);
    const Lines& lines = slice.geometry.lines;
    const Shared model{arrays[0]}, change{arrays[1]};
    Pair agreeing = {0.0f, 0.0f}, powers = {0.0f, 0.0f};
    for (int coil = 0; coil < slice.geometry.coils; ++coil) {
        const Shared maps{group.maps(coil)};
        every_line(group, [&](int at) {
            const int line = group.shifted(at);
            const ComplexPair from = group.load(image, group.sample(0, line)), to = group.load(towards, group.sample(0, line));
            model(at, maps(line) * from);
            change(at, maps(line) * (to - from));
        });
        __syncthreads();
        forward(lines, arrays[0], arrays.staged);
        forward(lines, arrays[1], arrays.staged);
        every_line(group, [&](int position) {
            const int line = group.line_of(position);
            const Pair mask = group.load_reals(measured, group.sample(0, line), 0.0f);
            const ComplexPair rest = where(mask, group.load(hybrid, group.sample(coil, line)) - scaled(model(position), lines.scale));
            const ComplexPair step = where(mask, scaled(change(position), lines.scale));
            agreeing = agreeing + real_product(step, rest);
            powers = powers + real_product(step, step);
        });
    }
    Pair* const partial = arrays.partial(2);
    agreeing = sum_over_lines(agreeing, partial);
    powers = sum_over_lines(powers, partial);
    if (threadIdx.y == 0) {
        group.store_reals(agreement, group.column, agreeing);
        group.store_reals(power, group.column, powers);
    }
}
