// Two floats side by side: what one GPU thread computes of two neighbouring columns, so that it moves 16 bytes of complex numbers at once.
#pragma once

#include "complex.cuh"

namespace edge {

struct alignas(8) Pair {
    float first, second;
};

EDGE_DEVICE Pair operator+(Pair a, Pair b) { return {a.first + b.first, a.second + b.second}; }
EDGE_DEVICE Pair operator-(Pair a, Pair b) { return {a.first - b.first, a.second - b.second}; }
EDGE_DEVICE Pair operator-(Pair a) { return {-a.first, -a.second}; }
EDGE_DEVICE Pair operator*(Pair a, Pair b) { return {a.first * b.first, a.second * b.second}; }
EDGE_DEVICE Pair operator*(Pair a, float b) { return {a.first * b, a.second * b}; }

typedef Complex<Pair> ComplexPair;

// a . b of complex numbers as vectors of two reals
EDGE_DEVICE Pair real_product(ComplexPair a, ComplexPair b) { return a.re * b.re + a.im * b.im; }

}  // namespace edge
