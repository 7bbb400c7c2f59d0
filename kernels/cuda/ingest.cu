// Readouts into hybrid space, kernels/cpu/ingest.cpp for a GPU. A block does some coils of one readout: whitened on their way into shared
// memory, transformed along the samples, cropped on their way to their line. What block.cuh calls a pair of columns is a pair of coils
// here, and its lines are samples.
#include "block.cuh"

namespace edge {

struct Ingest {
    Lines samples;
    const int* position;  // that holds each frequency
    int coils, columns;
    int staging;  // whether shared memory has an array for it
};

constexpr int kMostPairs = 4;  // of coils in a block

extern __shared__ float4 memory[];

__device__ __forceinline__ void put(float2* to, float re, float im, int add) {
    *to = add ? make_float2(to->x + re, to->y + im) : make_float2(re, im);
}

}  // namespace edge

using namespace edge;

// Samples complex64 (readouts, coils, count), of which the first stands at `first` in the transform's length, into the lines of out
// complex64 (lines, coils, columns), added to what is there or in its place. The rest of the length counts as zero. Lines of a launch
// are unique. Whitening is complex64 (coils, coils), or null. Launch: grid (readouts, groups of coils); 1 array, (samples, pairs).
extern "C" __global__ void __launch_bounds__(256)
    ingest_readouts(Ingest plan, const float2* samples, int count, int first, const float2* whitening, const long long* lines, int add,
                    float2* out) {
    const int length = plan.samples.length, pairs = blockDim.x, own = 2 * blockIdx.y * pairs, coils = plan.coils;
    float4* const staged = memory;
    float4* const array = memory + (plan.staging ? length * pairs : 0);
    const int thread = threadIdx.y * blockDim.x + threadIdx.x, threads = blockDim.x * blockDim.y;
    const float2* const readout = samples + static_cast<long long>(blockIdx.x) * coils * count;
    for (int at = thread; at < length; at += threads) {  // neighbours load neighbours
        const int sample = at - first;
        float2 values[2 * kMostPairs];
#pragma unroll
        for (int i = 0; i < 2 * kMostPairs; ++i) values[i] = make_float2(0.0f, 0.0f);
        if (sample >= 0 && sample < count && whitening) {
            for (int coil = 0; coil < coils; ++coil) {
                const float2 value = __ldg(readout + static_cast<long long>(coil) * count + sample);
#pragma unroll
                for (int i = 0; i < 2 * kMostPairs; ++i) {
                    if (i >= 2 * pairs || own + i >= coils) break;
                    const float2 factor = __ldg(whitening + (own + i) * coils + coil);
                    values[i].x += factor.x * value.x - factor.y * value.y;
                    values[i].y += factor.x * value.y + factor.y * value.x;
                }
            }
        } else if (sample >= 0 && sample < count) {
#pragma unroll
            for (int i = 0; i < 2 * kMostPairs; ++i) {
                if (i >= 2 * pairs || own + i >= coils) break;
                values[i] = __ldg(readout + static_cast<long long>(own + i) * count + sample);
            }
        }
        const int frequency = at < length / 2 ? at + length - length / 2 : at - length / 2;
        float4* const to = array + plan.position[frequency] * pairs;
#pragma unroll
        for (int pair = 0; pair < kMostPairs; ++pair) {
            if (pair >= pairs) break;
            const float2 one = values[2 * pair], two = values[2 * pair + 1];
            to[pair] = make_float4(one.x, two.x, one.y, two.y);
        }
    }
    __syncthreads();
    inverse(plan.samples, array, staged);
    const float scale = plan.samples.scale;
    float2* const line = out + (lines[blockIdx.x] * coils + own) * plan.columns;
    for (int column = thread; column < plan.columns; column += threads) {
        const int from = column - plan.columns / 2;  // from the centre, which the transform has at index 0
        const float4* const pixel = array + (from < 0 ? from + length : from) * pairs;
        for (int pair = 0; pair < pairs && own + 2 * pair < coils; ++pair) {
            const float4 value = pixel[pair];
            float2* const to = line + static_cast<long long>(2 * pair) * plan.columns + column;
            put(to, scale * value.x, scale * value.z, add);
            if (own + 2 * pair + 1 < coils) put(to + plan.columns, scale * value.y, scale * value.w, add);
        }
    }
}

// out: means of sums, both complex64 (lines, numbers), over `counts` readouts; zeros where none came. Launch: grid (parts of a line, lines).
extern "C" __global__ void ingest_mean(const float2* sums, const int* counts, int numbers, float2* out) {
    const int number = blockIdx.x * blockDim.x + threadIdx.x, count = counts[blockIdx.y];
    if (number >= numbers) return;
    const long long at = static_cast<long long>(blockIdx.y) * numbers + number;
    const float share = 1.0f / static_cast<float>(count > 1 ? count : 1);
    const float2 sum = count > 0 ? sums[at] : make_float2(0.0f, 0.0f);
    out[at] = make_float2(share * sum.x, share * sum.y);
}
