// Eight floats side by side: one AVX register (with AVX-512 a core has 32 of them), or two of SSE or NEON. Packed arrays look the same
// everywhere.
#pragma once

#include <cstddef>
#include <cstring>

#include "complex.cuh"

#ifndef EDGE_ISA
#error "EDGE_ISA names the instruction set that this file is compiled for"
#endif

namespace edge {
namespace EDGE_ISA {  // one namespace an instruction set: the linker must never share functions between them

constexpr int kLanes = 8;

#if defined(__AVX__)

typedef float Vector __attribute__((vector_size(4 * kLanes)));

inline Vector load(const float* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

// kLanes interleaved complex numbers at any address
inline Complex<Vector> load_interleaved(const void* from) {
    Vector first, second;
    std::memcpy(&first, from, sizeof first);
    std::memcpy(&second, static_cast<const char*>(from) + sizeof first, sizeof second);
    const Vector low = __builtin_shufflevector(first, second, 0, 1, 2, 3, 8, 9, 10, 11);
    const Vector high = __builtin_shufflevector(first, second, 4, 5, 6, 7, 12, 13, 14, 15);
    return {__builtin_shufflevector(low, high, 0, 2, 8, 10, 4, 6, 12, 14),
            __builtin_shufflevector(low, high, 1, 3, 9, 11, 5, 7, 13, 15)};
}

inline void store_interleaved(void* to, Complex<Vector> value) {
    const Vector low = __builtin_shufflevector(value.re, value.im, 0, 8, 1, 9, 4, 12, 5, 13);
    const Vector high = __builtin_shufflevector(value.re, value.im, 2, 10, 3, 11, 6, 14, 7, 15);
    const Vector first = __builtin_shufflevector(low, high, 0, 1, 2, 3, 8, 9, 10, 11);
    const Vector second = __builtin_shufflevector(low, high, 4, 5, 6, 7, 12, 13, 14, 15);
    std::memcpy(to, &first, sizeof first);
    std::memcpy(static_cast<char*>(to) + sizeof first, &second, sizeof second);
}

// Turns kLanes vectors of kLanes floats over their diagonal.
inline void transpose(Vector* rows) {
    Vector a[kLanes], b[kLanes];
    for (int i = 0; i < kLanes; i += 2) {
        a[i] = __builtin_shufflevector(rows[i], rows[i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        a[i + 1] = __builtin_shufflevector(rows[i], rows[i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < kLanes; i += 4) {
        b[i] = __builtin_shufflevector(a[i], a[i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        b[i + 1] = __builtin_shufflevector(a[i], a[i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        b[i + 2] = __builtin_shufflevector(a[i + 1], a[i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        b[i + 3] = __builtin_shufflevector(a[i + 1], a[i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; ++i) {
        rows[i] = __builtin_shufflevector(b[i], b[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        rows[i + 4] = __builtin_shufflevector(b[i], b[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
}

#else

typedef float Quad __attribute__((vector_size(16)));

struct Vector {
    Quad low, high;
};

EDGE_DEVICE Vector operator+(Vector a, Vector b) { return {a.low + b.low, a.high + b.high}; }
EDGE_DEVICE Vector operator+(Vector a, float b) { return {a.low + b, a.high + b}; }
EDGE_DEVICE Vector operator-(Vector a, Vector b) { return {a.low - b.low, a.high - b.high}; }
EDGE_DEVICE Vector operator-(Vector a) { return {-a.low, -a.high}; }
EDGE_DEVICE Vector operator*(Vector a, Vector b) { return {a.low * b.low, a.high * b.high}; }
EDGE_DEVICE Vector operator*(Vector a, float b) { return {a.low * b, a.high * b}; }
EDGE_DEVICE Vector operator/(Vector a, Vector b) { return {a.low / b.low, a.high / b.high}; }

inline Quad load_quad(const void* from) {
    Quad value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store_quad(void* to, Quad value) { std::memcpy(to, &value, sizeof value); }

inline Vector load(const float* from) { return {load_quad(from), load_quad(from + 4)}; }

inline void store(float* to, Vector value) {
    store_quad(to, value.low);
    store_quad(to + 4, value.high);
}

inline Complex<Vector> load_interleaved(const void* from) {
    const char* bytes = static_cast<const char*>(from);
    const Quad a = load_quad(bytes), b = load_quad(bytes + 16), c = load_quad(bytes + 32), d = load_quad(bytes + 48);
    return {{__builtin_shufflevector(a, b, 0, 2, 4, 6), __builtin_shufflevector(c, d, 0, 2, 4, 6)},
            {__builtin_shufflevector(a, b, 1, 3, 5, 7), __builtin_shufflevector(c, d, 1, 3, 5, 7)}};
}

inline void store_interleaved(void* to, Complex<Vector> value) {
    char* bytes = static_cast<char*>(to);
    store_quad(bytes, __builtin_shufflevector(value.re.low, value.im.low, 0, 4, 1, 5));
    store_quad(bytes + 16, __builtin_shufflevector(value.re.low, value.im.low, 2, 6, 3, 7));
    store_quad(bytes + 32, __builtin_shufflevector(value.re.high, value.im.high, 0, 4, 1, 5));
    store_quad(bytes + 48, __builtin_shufflevector(value.re.high, value.im.high, 2, 6, 3, 7));
}

inline void transpose_quads(Quad& a, Quad& b, Quad& c, Quad& d) {
    const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

inline void transpose(Vector* rows) {
    transpose_quads(rows[0].low, rows[1].low, rows[2].low, rows[3].low);
    transpose_quads(rows[4].high, rows[5].high, rows[6].high, rows[7].high);
    transpose_quads(rows[0].high, rows[1].high, rows[2].high, rows[3].high);
    transpose_quads(rows[4].low, rows[5].low, rows[6].low, rows[7].low);
    for (int i = 0; i < 4; ++i) {
        const Quad upper = rows[i].high;
        rows[i].high = rows[i + 4].low;
        rows[i + 4].low = upper;
    }
}

#endif

typedef Complex<Vector> ComplexVector;

// Up to kLanes interleaved complex numbers; zeros beyond `left`.
inline ComplexVector load_some(const void* from, int left) {
    if (left >= kLanes) return load_interleaved(from);
    unsigned char padded[8 * kLanes] = {};
    std::memcpy(padded, from, static_cast<std::size_t>(left) * 8);
    return load_interleaved(padded);
}

inline void store_some(void* to, ComplexVector value, int left) {
    if (left >= kLanes) return store_interleaved(to, value);
    unsigned char padded[8 * kLanes];
    store_interleaved(padded, value);
    std::memcpy(to, padded, static_cast<std::size_t>(left) * 8);
}

// A packed element: kLanes real parts, then kLanes imaginary parts; one cache line.
constexpr int kElement = 2 * kLanes;  // floats

inline std::ptrdiff_t at(int element) { return static_cast<std::ptrdiff_t>(kElement) * element; }

inline ComplexVector load_packed(const float* from) { return {load(from), load(from + kLanes)}; }

inline void store_packed(float* to, ComplexVector value) {
    store(to, value.re);
    store(to + kLanes, value.im);
}

}  // namespace EDGE_ISA
}  // namespace edge
