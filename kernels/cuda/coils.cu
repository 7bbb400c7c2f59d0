// What is done with whole coils of one slice in hybrid space, kernels/cpu/coils.cpp for a GPU: compression into virtual coils, and
// combination of coil images.
#include "samples.cuh"

using namespace edge;

// out (virtual_coils, lines, columns) = matrix (virtual_coils, coils) times the samples, zero where nothing was measured. Launch: grid
// (blocks of pairs of columns, lines).
extern "C" __global__ void coils_compress(Geometry geometry, Samples samples, const float2* matrix, int virtual_coils, float2* out) {
    constexpr int kAtOnce = 8;
    const int pair = blockIdx.x * blockDim.x + threadIdx.x, column = 2 * pair, line = blockIdx.y, columns = geometry.columns;
    if (column >= columns) return;
    const bool measured = samples.measured[line];
    for (int begin = 0; begin < virtual_coils; begin += kAtOnce) {
        ComplexPair sums[kAtOnce] = {};
        for (int coil = 0; measured && coil < geometry.coils; ++coil) {
            const ComplexPair sample = load(samples, coil, line, column, columns);
#pragma unroll
            for (int made = 0; made < kAtOnce; ++made) {
                if (begin + made >= virtual_coils) break;
                const float2 factor = __ldg(matrix + (begin + made) * geometry.coils + coil);
                sums[made] = sums[made] + times(sample, factor.x, factor.y);
            }
        }
#pragma unroll
        for (int made = 0; made < kAtOnce; ++made) {
            if (begin + made >= virtual_coils) break;
            float2* const to = out + (static_cast<long long>(begin + made) * geometry.lines.length + line) * columns + column;
            store_pair(to, column, columns, sums[made]);
        }
    }
}

// out (lines, columns): the root-sum-of-squares of all coils' images; what was not measured counts as zero. 2 arrays
extern "C" __global__ void __launch_bounds__(256) coils_root_sum_of_squares(Geometry geometry, Samples samples, float* out) {
    const Group group(geometry);
    const Arrays arrays(group);
    const Shared work{arrays[0]};
    Pair* const powers = reinterpret_cast<Pair*>(arrays[1]);
    for (int coil = 0; coil < geometry.coils; ++coil) {
        coil_image(group, samples, coil, arrays[0], arrays.staged);
        every_line(group, [&](int at) {
            const Pair power = squared_magnitude(work(at));
            powers[element(at)] = coil ? powers[element(at)] + power : power;
        });
    }
    every_line(group, [&](int at) {
        const Pair power = powers[element(at)];
        group.store_reals(out, group.sample(0, group.shifted(at)), {sqrtf(power.first), sqrtf(power.second)});
    });
}
