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

typedef float Quad __attribute__((vector_size(16)));

inline Quad load_quad(const void* from) {
    Quad value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store_quad(void* to, Quad value) { std::memcpy(to, &value, sizeof value); }

// Two interleaved complex numbers of each of kLanes rows, at any address: `even` and `odd` hold the rows side by side.
inline void load_pairs(const unsigned char* const* rows, std::ptrdiff_t offset, Complex<Vector>& even, Complex<Vector>& odd) {
    Vector wide[4];  // of rows i and i + 4
    for (int i = 0; i < 4; ++i) {
        const Quad low = load_quad(rows[i] + offset), high = load_quad(rows[i + 4] + offset);
        wide[i] = __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7);
    }
    const Vector even_01 = __builtin_shufflevector(wide[0], wide[1], 0, 1, 8, 9, 4, 5, 12, 13);
    const Vector even_23 = __builtin_shufflevector(wide[2], wide[3], 0, 1, 8, 9, 4, 5, 12, 13);
    const Vector odd_01 = __builtin_shufflevector(wide[0], wide[1], 2, 3, 10, 11, 6, 7, 14, 15);
    const Vector odd_23 = __builtin_shufflevector(wide[2], wide[3], 2, 3, 10, 11, 6, 7, 14, 15);
    even = {__builtin_shufflevector(even_01, even_23, 0, 2, 8, 10, 4, 6, 12, 14),
            __builtin_shufflevector(even_01, even_23, 1, 3, 9, 11, 5, 7, 13, 15)};
    odd = {__builtin_shufflevector(odd_01, odd_23, 0, 2, 8, 10, 4, 6, 12, 14),
           __builtin_shufflevector(odd_01, odd_23, 1, 3, 9, 11, 5, 7, 13, 15)};
}

// What `store_pairs` stores, still in registers: pair i is that of rows i and i + 4.
struct Pairs {
    Vector wide[4];
    Quad operator[](int row) const {
        const Vector value = wide[row % 4];
        return row < 4 ? __builtin_shufflevector(value, value, 0, 1, 2, 3) : __builtin_shufflevector(value, value, 4, 5, 6, 7);
    }
};

// The inverse of `load_pairs`.
inline Pairs pairs_of(Complex<Vector> even, Complex<Vector> odd) {
    const Vector even_01 = __builtin_shufflevector(even.re, even.im, 0, 8, 1, 9, 4, 12, 5, 13);
    const Vector even_23 = __builtin_shufflevector(even.re, even.im, 2, 10, 3, 11, 6, 14, 7, 15);
    const Vector odd_01 = __builtin_shufflevector(odd.re, odd.im, 0, 8, 1, 9, 4, 12, 5, 13);
    const Vector odd_23 = __builtin_shufflevector(odd.re, odd.im, 2, 10, 3, 11, 6, 14, 7, 15);
    return {{__builtin_shufflevector(even_01, odd_01, 0, 1, 8, 9, 4, 5, 12, 13),
             __builtin_shufflevector(even_01, odd_01, 2, 3, 10, 11, 6, 7, 14, 15),
             __builtin_shufflevector(even_23, odd_23, 0, 1, 8, 9, 4, 5, 12, 13),
             __builtin_shufflevector(even_23, odd_23, 2, 3, 10, 11, 6, 7, 14, 15)}};
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

// Four rows of two interleaved complex numbers.
inline void load_quads(const unsigned char* const* rows, std::ptrdiff_t offset, Quad& even_re, Quad& even_im, Quad& odd_re, Quad& odd_im) {
    const Quad a = load_quad(rows[0] + offset), b = load_quad(rows[1] + offset);
    const Quad c = load_quad(rows[2] + offset), d = load_quad(rows[3] + offset);
    const Quad even_01 = __builtin_shufflevector(a, b, 0, 1, 4, 5), even_23 = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    const Quad odd_01 = __builtin_shufflevector(a, b, 2, 3, 6, 7), odd_23 = __builtin_shufflevector(c, d, 2, 3, 6, 7);
    even_re = __builtin_shufflevector(even_01, even_23, 0, 2, 4, 6);
    even_im = __builtin_shufflevector(even_01, even_23, 1, 3, 5, 7);
    odd_re = __builtin_shufflevector(odd_01, odd_23, 0, 2, 4, 6);
    odd_im = __builtin_shufflevector(odd_01, odd_23, 1, 3, 5, 7);
}

inline void load_pairs(const unsigned char* const* rows, std::ptrdiff_t offset, Complex<Vector>& even, Complex<Vector>& odd) {
    load_quads(rows, offset, even.re.low, even.im.low, odd.re.low, odd.im.low);
    load_quads(rows + 4, offset, even.re.high, even.im.high, odd.re.high, odd.im.high);
}

struct Pairs {
    Quad rows[kLanes];
    Quad operator[](int row) const { return rows[row]; }
};

inline void quads_of(Quad even_re, Quad even_im, Quad odd_re, Quad odd_im, Quad* rows) {
    const Quad even_01 = __builtin_shufflevector(even_re, even_im, 0, 4, 1, 5);
    const Quad even_23 = __builtin_shufflevector(even_re, even_im, 2, 6, 3, 7);
    const Quad odd_01 = __builtin_shufflevector(odd_re, odd_im, 0, 4, 1, 5);
    const Quad odd_23 = __builtin_shufflevector(odd_re, odd_im, 2, 6, 3, 7);
    rows[0] = __builtin_shufflevector(even_01, odd_01, 0, 1, 4, 5);
    rows[1] = __builtin_shufflevector(even_01, odd_01, 2, 3, 6, 7);
    rows[2] = __builtin_shufflevector(even_23, odd_23, 0, 1, 4, 5);
    rows[3] = __builtin_shufflevector(even_23, odd_23, 2, 3, 6, 7);
}

inline Pairs pairs_of(Complex<Vector> even, Complex<Vector> odd) {
    Pairs pairs;
    quads_of(even.re.low, even.im.low, odd.re.low, odd.im.low, pairs.rows);
    quads_of(even.re.high, even.im.high, odd.re.high, odd.im.high, pairs.rows + 4);
    return pairs;
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
