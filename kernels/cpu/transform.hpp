// What a transform of one length needs, worked out once; see fft.hpp for the passes that use it.
#pragma once

#include <cstddef>
#include <vector>

namespace edge {

// One pass: butterflies of `radix` points over blocks of `length` elements.
struct Pass {
    int radix;
    int length;
    std::size_t twiddles;  // offset into Transform::tables: (length / radix) x (radix - 1) pairs (re, im), forward sign
    std::size_t roots;     // offset into Transform::tables: exp(2 pi i k / radix), radix pairs
};

// Decimation in frequency, in place: natural order in, digit-reversed order out. The inverse runs the passes backwards.
struct Transform {
    int length;
    float scale;              // makes forward and inverse unitary
    std::vector<Pass> passes;
    std::vector<float> tables;
    std::vector<int> frequency;  // of the element at each position after the forward passes
    std::vector<int> position;   // of each frequency, the inverse of `frequency`
    int largest_prime;           // scratch needed by passes without a butterfly of their own

    // length >= 1. Factors of two are taken together in butterflies of at most `widest_radix` points, 4 or 8.
    Transform(int length, int widest_radix);
};

}  // namespace edge
