// The SENSE operator of one volume in hybrid space, and data consistency on it: kernels/cpu/volume.cpp for a GPU. Each readout plane (a
// column of the arrays) is a problem of its own with two Fourier axes. Shared memory holds lines of one at a time: phase encodes of one
// partition, or partitions of neighbouring elements. In between, images of some coils are in the device's memory.
//
// Packed arrays are (partitions, phase_encodes, pairs): pairs of columns, a float4 as in block.cuh; the second of the last may be beyond the
// volume, and zero. Frequencies are in the order of Lines::frequency on both axes; transforms need not be centred, see sense.cu.
#include "group.cuh"

namespace edge {

// What is known of the volume; the device's memory.
struct Volume {
    Geometry along;    // the phase encodes; its columns are those of packed arrays, 2 * pairs
    Geometry through;  // the partitions; its pairs of columns are a partition's elements (phase_encodes, pairs)
    float4* maps;      // packed (coils, ...)
    Pair* mask;        // as packed arrays, over frequencies: 1 / (partitions phase_encodes) where a sample counts, else 0
    float4* work;      // packed (coils of one batch, ...)
    int columns, pairs;
};

// Of a packed array.
__device__ __forceinline__ long long row(const Volume& volume, int coil, int partition, int phase_encode) {
    return ((static_cast<long long>(coil) * volume.through.lines.length + partition) * volume.along.lines.length + phase_encode) *
           volume.pairs;
}

// A group of lines in shared memory, and whether this thread's pair of columns is there.
struct Packed : Group {
    bool inside;
    int index;  // of the pair

    __device__ __forceinline__ explicit Packed(const Geometry& g) : Group(g), inside(column < g.columns), index(column / 2) {}

    __device__ __forceinline__ ComplexPair operator()(const float4* array, long long first) const {
        return pair_of(inside ? array[first + index] : make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    }
    __device__ __forceinline__ void operator()(float4* array, long long first, ComplexPair value) const {
        if (inside) array[first + index] = packed(value);
    }
};

// Rows (of packed arrays, one partition's phase encode each) that a thread has of its pair of columns. Launch: grid (parts of the rows,
// groups of pairs), block (pairs, threads that share the rows) as in group.cuh. Sums over the rows are Pair (parts, pairs), and whole in
// the next launch only: their order never changes.
struct Rows {
    int pair, pairs;
    bool inside;
    Pair* partial;

    __device__ __forceinline__ explicit Rows(const Volume& volume)
        : pair(blockIdx.y * blockDim.x + threadIdx.x),
          pairs(volume.pairs),
          inside(pair < pairs),
          partial(reinterpret_cast<Pair*>(memory)) {}

    template <class Act>
    __device__ __forceinline__ void every(long long rows, Act act) const {
        if (!inside) return;
        for (long long at = static_cast<long long>(blockIdx.x) * blockDim.y + threadIdx.y; at < rows; at += gridDim.x * blockDim.y) {
            act(at, at * pairs + pair);
        }
    }
    // All threads call these two.
    __device__ __forceinline__ void keep(Pair* sums, Pair value) const {
        value = sum_over_lines(value, partial);
        if (inside && threadIdx.y == 0) sums[static_cast<long long>(blockIdx.x) * pairs + pair] = value;
    }
    __device__ __forceinline__ Pair total(const Pair* sums) const {
        Pair sum = {0.0f, 0.0f};
        for (unsigned part = threadIdx.y; inside && part < gridDim.x; part += blockDim.y) sum = sum + sums[part * pairs + pair];
        return sum_over_lines(sum, partial);
    }
};

__device__ __forceinline__ long long rows_of(const Volume& volume) { return row(volume, 1, 0, 0) / volume.pairs; }

// Conjugate gradients (Hestenes and Stiefel, J Res Natl Bur Stand 49:409, 1952), each column with step lengths and an end of its own;
// packed arrays.
struct Solve {
    float4 *x, *residual, *direction;
    float4* product;         // of the normal operator and the direction
    Pair *right, *curvature;  // sums: |right side|², <direction, (normal + lambda) direction>
    float lambda, tolerance;

    // 1 while the residual's energy is above its limit; then 0, and the column keeps its x.
    __device__ __forceinline__ Pair going(const Rows& rows, Pair energy) const {
        const Pair limit = rows.total(right) * (tolerance * tolerance);
        return {energy.first <= limit.first ? 0.0f : 1.0f, energy.second <= limit.second ? 0.0f : 1.0f};
    }
    __device__ __forceinline__ ComplexPair regularised(long long at) const {
        return pair_of(product[at]) + scaled(pair_of(direction[at]), lambda);
    }
};

}  // namespace edge

using namespace edge;

// to packed (rows, pairs) of an array (rows, columns). Launch: as Rows
extern "C" __global__ void volume_pack(Volume volume, long long rows, const float2* from, float4* to) {
    const Rows mine(volume);
    mine.every(rows, [&](long long at, long long element) {
        const int column = 2 * mine.pair;
        to[element] = packed(load_pair(from + at * volume.columns + column, column, volume.columns));
    });
}

// And back, less another packed array if there is one. Launch: as Rows
extern "C" __global__ void volume_unpack(Volume volume, const float4* from, const float4* less, float2* to) {
    const Rows mine(volume);
    mine.every(rows_of(volume), [&](long long at, long long element) {
        ComplexPair value = pair_of(from[element]);
        if (less) value = value - pair_of(less[element]);
        const int column = 2 * mine.pair;
        store_pair(to + at * volume.columns + column, column, volume.columns, value);
    });
}

// mask, and work = samples of hybrid (coils, partitions, phase_encodes, columns) that count by `measured`, partitions transformed back.
// Launch: grid (groups of `through`, coils of the batch); 1 array
extern "C" __global__ void __launch_bounds__(256)
    volume_set_samples(Volume volume, int first_coil, const float2* hybrid, const unsigned char* measured) {
    const Packed group(volume.through);
    const Arrays arrays(group);
    const Shared line{arrays[0]};
    const Lines& along = volume.along.lines;
    const int coil = blockIdx.y, column = 2 * (group.index % volume.pairs), half = along.length / 2;
    const int position = group.inside ? group.index / volume.pairs : 0, columns = volume.columns;
    const int phase_encode = (along.frequency[position] + half) % along.length;
    const float scale = along.scale * group.lines.scale;
    every_line(group, [&](int z) {
        const long long in_coil = static_cast<long long>(group.line_of(z)) * along.length + phase_encode;
        const long long in_all = static_cast<long long>(first_coil + coil) * group.lines.length * along.length + in_coil;
        const unsigned char* counts = measured + in_coil * columns + column;
        const Pair mask = {group.inside && counts[0] ? scale * scale : 0.0f,
                           group.inside && column + 1 < columns && counts[1] ? scale * scale : 0.0f};
        if (group.inside && first_coil + coil == 0) volume.mask[row(volume, 0, z, 0) + group.index] = mask;
        const ComplexPair sample = load_pair(hybrid + in_all * columns + column, group.inside ? column : columns, columns);
        line(z, scaled(where(mask, sample), scale));
    });
    __syncthreads();
    inverse(group.lines, arrays[0], arrays.staged);
    every_line(group, [&](int z) { group(volume.work, row(volume, coil, z, 0), line(z)); });
}

// work = maps times the image, phase encodes transformed. Launch: grid (groups of `along`, partitions, coils of the batch); 1 array
extern "C" __global__ void __launch_bounds__(256) volume_forward_along(Volume volume, int first_coil, const float4* image) {
    const Packed group(volume.along);
    const Arrays arrays(group);
    const Shared line{arrays[0]};
    const int partition = blockIdx.y, coil = blockIdx.z;
    every_line(group, [&](int y) {
        line(y, group(volume.maps, row(volume, first_coil + coil, partition, y)) * group(image, row(volume, 0, partition, y)));
    });
    __syncthreads();
    forward(group.lines, arrays[0], arrays.staged);
    every_line(group, [&](int y) { group(volume.work, row(volume, coil, partition, y), line(y)); });
}

// work: partitions transformed, masked, transformed back. Launch: grid (groups of `through`, coils of the batch); 1 array
extern "C" __global__ void __launch_bounds__(256) volume_mask_through(Volume volume) {
    const Packed group(volume.through);
    const Arrays arrays(group);
    const Shared line{arrays[0]};
    const int coil = blockIdx.y;
    every_line(group, [&](int z) { line(z, group(volume.work, row(volume, coil, z, 0))); });
    __syncthreads();
    forward(group.lines, arrays[0], arrays.staged);
    every_line(group, [&](int z) {
        const Pair none = {0.0f, 0.0f};
        line(z, scaled(line(z), group.inside ? volume.mask[row(volume, 0, z, 0) + group.index] : none));
    });
    __syncthreads();
    inverse(group.lines, arrays[0], arrays.staged);
    every_line(group, [&](int z) { group(volume.work, row(volume, coil, z, 0), line(z)); });
}

// sum = Σ Sᴴ work over the batch's coils, phase encodes transformed back; added to what the batches before have left. `centred`: what is
// in `work` has its centre at index 0. Launch: grid (groups of `along`, partitions); 2 arrays
extern "C" __global__ void __launch_bounds__(256)
    volume_inverse_along(Volume volume, int first_coil, int coils, int centred, float4* sum) {
    const Packed group(volume.along);
    const Arrays arrays(group);
    const Shared line{arrays[0]}, total{arrays[1]};
    const int partitions = volume.through.lines.length, partition = blockIdx.y;
    const int moved = centred ? (partition + partitions / 2) % partitions : partition;
    for (int coil = 0; coil < coils; ++coil) {
        every_line(group, [&](int y) { line(y, group(volume.work, row(volume, coil, partition, y))); });
        __syncthreads();
        inverse(group.lines, arrays[0], arrays.staged);
        every_line(group, [&](int at) {
            const int y = centred ? group.shifted(at) : at;
            const ComplexPair part = conjugate_times(group(volume.maps, row(volume, first_coil + coil, moved, y)), line(at));
            total(at, coil ? total(at) + part : part);
        });
    }
    every_line(group, [&](int at) {
        const long long to = row(volume, 0, moved, centred ? group.shifted(at) : at);
        group(sum, to, first_coil ? group(sum, to) + total(at) : total(at));
    });
}

// Before the first step, at x = prior, with product = normal x: the residual is the first direction. Launch: as Rows
extern "C" __global__ void __launch_bounds__(256) volume_begin(Volume volume, Solve solve, const float4* adjoint, Pair* energy) {
    const Rows mine(volume);
    Pair right = {0.0f, 0.0f}, left = {0.0f, 0.0f};
    mine.every(rows_of(volume), [&](long long, long long at) {  // the prior's terms cancel
        const ComplexPair from_samples = pair_of(adjoint[at]), side = from_samples + scaled(pair_of(solve.x[at]), solve.lambda);
        const ComplexPair r = from_samples - pair_of(solve.product[at]);
        right = right + real_product(side, side);
        left = left + real_product(r, r);
        solve.residual[at] = solve.direction[at] = packed(r);
    });
    mine.keep(solve.right, right);
    mine.keep(energy, left);
}

// Launch: as Rows
extern "C" __global__ void __launch_bounds__(256) volume_curvature(Volume volume, Solve solve) {
    const Rows mine(volume);
    Pair curvature = {0.0f, 0.0f};
    mine.every(rows_of(volume), [&](long long, long long at) {
        curvature = curvature + real_product(pair_of(solve.direction[at]), solve.regularised(at));
    });
    mine.keep(solve.curvature, curvature);
}

// x and the residual a step on; `energy` is the residual's before, `left` after. Launch: as Rows
extern "C" __global__ void __launch_bounds__(256) volume_step(Volume volume, Solve solve, const Pair* energy, Pair* left) {
    const Rows mine(volume);
    const Pair before = mine.total(energy), length = ratio(before * solve.going(mine, before), mine.total(solve.curvature));
    Pair after = {0.0f, 0.0f};
    mine.every(rows_of(volume), [&](long long, long long at) {
        const ComplexPair r = pair_of(solve.residual[at]) - scaled(solve.regularised(at), length);
        solve.x[at] = packed(pair_of(solve.x[at]) + scaled(pair_of(solve.direction[at]), length));
        solve.residual[at] = packed(r);
        after = after + real_product(r, r);
    });
    mine.keep(left, after);
}

// The next direction; a column that is solved never goes there. Launch: as Rows
extern "C" __global__ void __launch_bounds__(256) volume_turn(Volume volume, Solve solve, const Pair* energy, const Pair* left) {
    const Rows mine(volume);
    const Pair turn = ratio(mine.total(left), mine.total(energy));
    mine.every(rows_of(volume), [&](long long, long long at) {
        solve.direction[at] = packed(pair_of(solve.residual[at]) + scaled(pair_of(solve.direction[at]), turn));
    });
}
