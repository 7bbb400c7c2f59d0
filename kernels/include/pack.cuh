// Numbers of an image as an engine's tensor holds them, and back; one element at a time.
#pragma once

#include "complex.cuh"

namespace edge {

// An integer q of a tensor stands for scale * (q - zero_point). Tensors of floats hold the numbers themselves.
struct Quantization {
    float scale;
    int zero_point;
};

template <class T>
EDGE_DEVICE T quantized(float value, Quantization to) {
    constexpr float lowest = T(-1) < T(0) ? -128.0f : 0.0f;
    constexpr float to_integer = 12582912.0f;  // 1.5 * 2^23: sums with it have no fraction, and round half to even
    const float least = lowest - static_cast<float>(to.zero_point), most = least + 255.0f;
    float level = value / to.scale;
    level = level > least ? level : least;  // what is not a number too
    level = level < most ? level : most;
    const float rounded = (level + to_integer) - to_integer;
    return static_cast<T>(static_cast<int>(rounded) + to.zero_point);
}

template <>
EDGE_DEVICE float quantized<float>(float value, Quantization) {
    return value;
}

template <class T>
EDGE_DEVICE float dequantized(T level, Quantization from) {
    return static_cast<float>(static_cast<int>(level) - from.zero_point) * from.scale;
}

template <>
EDGE_DEVICE float dequantized<float>(float value, Quantization) {
    return value;
}

}  // namespace edge
