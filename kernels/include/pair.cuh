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

// The value where the mask is above 0; else 0, whatever it was.
EDGE_DEVICE ComplexPair where(Pair mask, ComplexPair value) {
    const bool first = mask.first > 0, second = mask.second > 0;
    return {{first ? value.re.first : 0.0f, second ? value.re.second : 0.0f}, {first ? value.im.first : 0.0f, second ? value.im.second : 0.0f}};
}

// a . b of complex numbers as vectors of two reals
EDGE_DEVICE Pair real_product(ComplexPair a, ComplexPair b) { return a.re * b.re + a.im * b.im; }

// Of energies; 0 for an empty column, whatever the units of others.
EDGE_DEVICE Pair ratio(Pair numerator, Pair denominator) {
    return {numerator.first / (denominator.first > 0 ? denominator.first : 1.0f),
            numerator.second / (denominator.second > 0 ? denominator.second : 1.0f)};
}

}  // namespace edge
