// Eight floats side by side: one AVX register (with AVX-512 a core has 32 of them), or two of SSE or NEON. Packed arrays look the same
// everywhere.
#pragma once

#include <cstddef>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#include "complex.cuh"

#ifndef EDGE_ISA
#error "EDGE_ISA names the instruction set that this file is compiled for"
#endif

namespace edge {
namespace EDGE_ISA {  // one namespace an instruction set: the linker must never share functions between them

constexpr int kLanes = 8;

typedef float Quad __attribute__((vector_size(16)));

// The elements of a, then those of b, that the indices name.
template <int... Index, class V>
EDGE_DEVICE V chosen(V a, V b) {
    static_assert(sizeof(V) == sizeof(float) * sizeof...(Index), "one index an element");
#if defined(__clang__)
    return __builtin_shufflevector(a, b, Index...);
#else  // GCC has the other one from version 12 on only
    typedef int Indices __attribute__((vector_size(sizeof(V))));
    return __builtin_shuffle(a, b, Indices{Index...});
#endif
}

inline Quad load_quad(const void* from) {
    Quad value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store_quad(void* to, Quad value) { std::memcpy(to, &value, sizeof value); }

#if defined(__AVX__)

typedef float Vector __attribute__((vector_size(4 * kLanes)));

inline Vector load(const float* from) {
    Vector value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, Vector value) { std::memcpy(to, &value, sizeof value); }

// The value in the lanes whose mask is above 0; the others are 0, whatever they held.
inline Vector where(Vector mask, Vector value) { return mask > 0 ? value : Vector{}; }

// kLanes interleaved complex numbers at any address
inline Complex<Vector> load_interleaved(const void* from) {
    Vector first, second;
    std::memcpy(&first, from, sizeof first);
    std::memcpy(&second, static_cast<const char*>(from) + sizeof first, sizeof second);
    const Vector low = chosen<0, 1, 2, 3, 8, 9, 10, 11>(first, second);
    const Vector high = chosen<4, 5, 6, 7, 12, 13, 14, 15>(first, second);
    return {chosen<0, 2, 8, 10, 4, 6, 12, 14>(low, high),
            chosen<1, 3, 9, 11, 5, 7, 13, 15>(low, high)};
}

inline void store_interleaved(void* to, Complex<Vector> value) {
    const Vector low = chosen<0, 8, 1, 9, 4, 12, 5, 13>(value.re, value.im);
    const Vector high = chosen<2, 10, 3, 11, 6, 14, 7, 15>(value.re, value.im);
    const Vector first = chosen<0, 1, 2, 3, 8, 9, 10, 11>(low, high);
    const Vector second = chosen<4, 5, 6, 7, 12, 13, 14, 15>(low, high);
    std::memcpy(to, &first, sizeof first);
    std::memcpy(static_cast<char*>(to) + sizeof first, &second, sizeof second);
}

// By name: through memory, as GCC makes it of copies, the load of a whole waits for the stores of both halves.
inline Vector both(Quad low, Quad high) { return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1); }

// Two interleaved complex numbers of each of kLanes rows, at any address: `even` and `odd` hold the rows side by side.
inline void load_pairs(const unsigned char* const* rows, std::ptrdiff_t offset, Complex<Vector>& even, Complex<Vector>& odd) {
    Vector wide[4];  // of rows i and i + 4
    for (int i = 0; i < 4; ++i) {
        wide[i] = both(load_quad(rows[i] + offset), load_quad(rows[i + 4] + offset));
    }
    const Vector even_01 = chosen<0, 1, 8, 9, 4, 5, 12, 13>(wide[0], wide[1]);
    const Vector even_23 = chosen<0, 1, 8, 9, 4, 5, 12, 13>(wide[2], wide[3]);
    const Vector odd_01 = chosen<2, 3, 10, 11, 6, 7, 14, 15>(wide[0], wide[1]);
    const Vector odd_23 = chosen<2, 3, 10, 11, 6, 7, 14, 15>(wide[2], wide[3]);
    even = {chosen<0, 2, 8, 10, 4, 6, 12, 14>(even_01, even_23),
            chosen<1, 3, 9, 11, 5, 7, 13, 15>(even_01, even_23)};
    odd = {chosen<0, 2, 8, 10, 4, 6, 12, 14>(odd_01, odd_23),
           chosen<1, 3, 9, 11, 5, 7, 13, 15>(odd_01, odd_23)};
}

// What `store_pairs` stores, still in registers: pair i is that of rows i and i + 4.
struct Pairs {
    Vector wide[4];
    Quad operator[](int row) const {
        return row < 4 ? Quad(_mm256_castps256_ps128(wide[row])) : Quad(_mm256_extractf128_ps(wide[row - 4], 1));
    }
};

// The inverse of `load_pairs`.
inline Pairs pairs_of(Complex<Vector> even, Complex<Vector> odd) {
    const Vector even_01 = chosen<0, 8, 1, 9, 4, 12, 5, 13>(even.re, even.im);
    const Vector even_23 = chosen<2, 10, 3, 11, 6, 14, 7, 15>(even.re, even.im);
    const Vector odd_01 = chosen<0, 8, 1, 9, 4, 12, 5, 13>(odd.re, odd.im);
    const Vector odd_23 = chosen<2, 10, 3, 11, 6, 14, 7, 15>(odd.re, odd.im);
    return {{chosen<0, 1, 8, 9, 4, 5, 12, 13>(even_01, odd_01),
             chosen<2, 3, 10, 11, 6, 7, 14, 15>(even_01, odd_01),
             chosen<0, 1, 8, 9, 4, 5, 12, 13>(even_23, odd_23),
             chosen<2, 3, 10, 11, 6, 7, 14, 15>(even_23, odd_23)}};
}

#else

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

inline Vector load(const float* from) { return {load_quad(from), load_quad(from + 4)}; }

inline void store(float* to, Vector value) {
    store_quad(to, value.low);
    store_quad(to + 4, value.high);
}

inline Quad where(Quad mask, Quad value) { return mask > 0 ? value : Quad{}; }
inline Vector where(Vector mask, Vector value) { return {where(mask.low, value.low), where(mask.high, value.high)}; }

inline Complex<Vector> load_interleaved(const void* from) {
    const char* bytes = static_cast<const char*>(from);
    const Quad a = load_quad(bytes), b = load_quad(bytes + 16), c = load_quad(bytes + 32), d = load_quad(bytes + 48);
    return {{chosen<0, 2, 4, 6>(a, b), chosen<0, 2, 4, 6>(c, d)},
            {chosen<1, 3, 5, 7>(a, b), chosen<1, 3, 5, 7>(c, d)}};
}

inline void store_interleaved(void* to, Complex<Vector> value) {
    char* bytes = static_cast<char*>(to);
    store_quad(bytes, chosen<0, 4, 1, 5>(value.re.low, value.im.low));
    store_quad(bytes + 16, chosen<2, 6, 3, 7>(value.re.low, value.im.low));
    store_quad(bytes + 32, chosen<0, 4, 1, 5>(value.re.high, value.im.high));
    store_quad(bytes + 48, chosen<2, 6, 3, 7>(value.re.high, value.im.high));
}

// Four rows of two interleaved complex numbers.
inline void load_quads(const unsigned char* const* rows, std::ptrdiff_t offset, Quad& even_re, Quad& even_im, Quad& odd_re, Quad& odd_im) {
    const Quad a = load_quad(rows[0] + offset), b = load_quad(rows[1] + offset);
    const Quad c = load_quad(rows[2] + offset), d = load_quad(rows[3] + offset);
    const Quad even_01 = chosen<0, 1, 4, 5>(a, b), even_23 = chosen<0, 1, 4, 5>(c, d);
    const Quad odd_01 = chosen<2, 3, 6, 7>(a, b), odd_23 = chosen<2, 3, 6, 7>(c, d);
    even_re = chosen<0, 2, 4, 6>(even_01, even_23);
    even_im = chosen<1, 3, 5, 7>(even_01, even_23);
    odd_re = chosen<0, 2, 4, 6>(odd_01, odd_23);
    odd_im = chosen<1, 3, 5, 7>(odd_01, odd_23);
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
    const Quad even_01 = chosen<0, 4, 1, 5>(even_re, even_im);
    const Quad even_23 = chosen<2, 6, 3, 7>(even_re, even_im);
    const Quad odd_01 = chosen<0, 4, 1, 5>(odd_re, odd_im);
    const Quad odd_23 = chosen<2, 6, 3, 7>(odd_re, odd_im);
    rows[0] = chosen<0, 1, 4, 5>(even_01, odd_01);
    rows[1] = chosen<2, 3, 6, 7>(even_01, odd_01);
    rows[2] = chosen<0, 1, 4, 5>(even_23, odd_23);
    rows[3] = chosen<2, 3, 6, 7>(even_23, odd_23);
}

inline Pairs pairs_of(Complex<Vector> even, Complex<Vector> odd) {
    Pairs pairs;
    quads_of(even.re.low, even.im.low, odd.re.low, odd.im.low, pairs.rows);
    quads_of(even.re.high, even.im.high, odd.re.high, odd.im.high, pairs.rows + 4);
    return pairs;
}

#endif

typedef Complex<Vector> ComplexVector;

inline ComplexVector where(Vector mask, ComplexVector value) { return {where(mask, value.re), where(mask, value.im)}; }

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
