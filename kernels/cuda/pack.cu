// Images as an engine's tensors hold them, and back: kernels/cpu/pack.cpp for a GPU. A thread does one pixel. Launch: grid (blocks of
// columns, lines). Planes are (lines, columns) of an engine's tensor, at least as large as the image, complex64 (phase_encodes, columns).
#include "pack.cuh"

namespace edge {

struct Planes {
    int phase_encodes, columns;            // of the image
    int plane_lines, plane_columns;
    Quantization quantization;
};

// Real and imaginary part over `scale`, turned back by `phase` where there is one; zero outside the image.
template <class T>
__device__ __forceinline__ void pack(const Planes& planes, const float2* image, const float2* phase, float scale, T* out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, line = blockIdx.y;
    if (column >= planes.plane_columns) return;
    float2 value = make_float2(0.0f, 0.0f);
    if (line < planes.phase_encodes && column < planes.columns) {
        const long long pixel = static_cast<long long>(line) * planes.columns + column;
        value = image[pixel];
        if (phase) {
            const float2 turn = phase[pixel];
            value = make_float2(value.x * turn.x + value.y * turn.y, value.y * turn.x - value.x * turn.y);
        }
        value = make_float2(value.x / scale, value.y / scale);
    }
    const long long at = static_cast<long long>(line) * planes.plane_columns + column;
    out[at] = quantized<T>(value.x, planes.quantization);
    out[at + static_cast<long long>(planes.plane_lines) * planes.plane_columns] = quantized<T>(value.y, planes.quantization);
}

// One value inside the image, zero outside.
template <class T>
__device__ __forceinline__ void fill(const Planes& planes, float value, T* out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, line = blockIdx.y;
    if (column >= planes.plane_columns) return;
    const bool inside = line < planes.phase_encodes && column < planes.columns;
    out[static_cast<long long>(line) * planes.plane_columns + column] = quantized<T>(inside ? value : 0.0f, planes.quantization);
}

// out = image + scale * planes, turned by `phase` where there is one; it may be the image.
template <class T>
__device__ __forceinline__ void unpack(const Planes& planes, const float2* image, const float2* phase, const T* from, float scale,
                                       float2* out) {
    const int column = blockIdx.x * blockDim.x + threadIdx.x, line = blockIdx.y;
    if (line >= planes.phase_encodes || column >= planes.columns) return;
    const T* const real = from + static_cast<long long>(line) * planes.plane_columns + column;
    const T* const imaginary = real + static_cast<long long>(planes.plane_lines) * planes.plane_columns;
    const long long at = static_cast<long long>(line) * planes.columns + column;
    const float2 value = image[at];
    float re = scale * dequantized(*real, planes.quantization), im = scale * dequantized(*imaginary, planes.quantization);
    if (phase) {
        const float2 turn = phase[at];
        const float unturned = re;
        re = unturned * turn.x - im * turn.y;
        im = unturned * turn.y + im * turn.x;
    }
    out[at] = make_float2(value.x + re, value.y + im);
}

}  // namespace edge

using namespace edge;

extern "C" __global__ void pack_float32(Planes planes, const float2* image, const float2* phase, float scale, float* out) {
    pack(planes, image, phase, scale, out);
}
extern "C" __global__ void pack_int8(Planes planes, const float2* image, const float2* phase, float scale, signed char* out) {
    pack(planes, image, phase, scale, out);
}
extern "C" __global__ void pack_uint8(Planes planes, const float2* image, const float2* phase, float scale, unsigned char* out) {
    pack(planes, image, phase, scale, out);
}

extern "C" __global__ void fill_float32(Planes planes, float value, float* out) { fill(planes, value, out); }
extern "C" __global__ void fill_int8(Planes planes, float value, signed char* out) { fill(planes, value, out); }
extern "C" __global__ void fill_uint8(Planes planes, float value, unsigned char* out) { fill(planes, value, out); }

extern "C" __global__ void unpack_float32(Planes planes, const float2* image, const float2* phase, const float* from, float scale,
                                          float2* out) {
    unpack(planes, image, phase, from, scale, out);
}
extern "C" __global__ void unpack_int8(Planes planes, const float2* image, const float2* phase, const signed char* from, float scale,
                                       float2* out) {
    unpack(planes, image, phase, from, scale, out);
}
extern "C" __global__ void unpack_uint8(Planes planes, const float2* image, const float2* phase, const unsigned char* from,
                                        float scale, float2* out) {
    unpack(planes, image, phase, from, scale, out);
}
