// Kernels with one fault each, which the test driver must find.
namespace edge {
extern __shared__ float4 memory[];
}

extern "C" __global__ void beyond_shared(float* out, int elements) {
    edge::memory[elements].x = 1.0f;
    out[0] = 1.0f;
}

extern "C" __global__ void beyond_memory(float* out, int at) { out[at] = 1.0f; }

extern "C" __global__ void diverging_barrier(float* out, int threads) {
    if (threadIdx.x < threads) __syncthreads();
    out[0] = 1.0f;
}

extern "C" __global__ void count(float* out, int times) {
    for (int i = 0; i < times; ++i) atomicAdd(out, 1.0f);
}
