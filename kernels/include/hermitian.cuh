// Dominant eigenvectors of small Hermitian matrices (n, n), row by row, both triangles filled.
#pragma once

#if !defined(__CUDACC_RTC__)  // which knows these functions by itself
#include <math.h>
#endif

#include "complex.cuh"

namespace edge {

// A vector of one value, or the value itself.
template <class V>
EDGE_DEVICE V filled(float value) {
    return V{} + value;
}

// to = (from / trace)². Repeated, the largest eigenvalue outgrows the others doubly exponentially. A matrix of zeros stays one.
template <class V>
EDGE_DEVICE void square_normalised(Complex<V>* from, int n, Complex<V>* to) {
    V trace = {};
    for (int i = 0; i < n; ++i) trace = trace + from[i * n + i].re;
    const V factor = filled<V>(1.0f) / (trace + 1e-37f);
    for (int i = 0; i < n * n; ++i) from[i] = scaled(from[i], factor);
    for (int i = 0; i < n; ++i) {
        for (int j = i; j < n; ++j) {
            Complex<V> sum = {};
            for (int k = 0; k < n; ++k) sum = sum + conjugate_times(from[j * n + k], from[i * n + k]);
            to[i * n + j] = sum;
            to[j * n + i] = {sum.re, -sum.im};
        }
    }
}

// Leaves next to nothing but the largest eigenvalue's part: its lead to the 64th power. `other` is of the same size.
template <class V>
EDGE_DEVICE void make_rank_one(Complex<V>* matrix, int n, Complex<V>* other) {
    for (int pair = 0; pair < 3; ++pair) {
        square_normalised(matrix, n, other);
        square_normalised(other, n, matrix);
    }
}

// Element i of a matrix whose numbers lie `stride` floats apart, imaginary parts `imaginary` floats after the real ones.
struct Strided {
    const float* first;
    int stride, imaginary;
    EDGE_DEVICE Complex<float> operator[](int i) const { return {first[i * stride], first[i * stride + imaginary]}; }
};

// Of such a matrix, the unit eigenvector whose component `reference` is real and not negative: the column with the largest diagonal
// element. `keep(i, component)` takes it; zeros of a matrix of zeros.
template <class Keep>
EDGE_DEVICE void eigenvector_of_rank_one(Strided matrix, int n, int reference, Keep keep) {
    int column = 0;
    for (int i = 1; i < n; ++i) {
        if (matrix[i * n + i].re > matrix[column * n + column].re) column = i;
    }
    float power = 0.0f;
    for (int i = 0; i < n; ++i) power += squared_magnitude(matrix[i * n + column]);
    const float length = sqrtf(power), factor = length > 1e-37f ? 1.0f / length : 0.0f;
    Complex<float> phase = matrix[column * n + reference];  // the conjugate of that component
    const float size = sqrtf(squared_magnitude(phase));
    phase = size > 0.0f ? scaled(phase, factor / size) : Complex<float>{factor, 0.0f};
    for (int i = 0; i < n; ++i) keep(i, matrix[i * n + column] * phase);
}

}  // namespace edge
