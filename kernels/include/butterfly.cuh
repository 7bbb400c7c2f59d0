// Discrete Fourier transforms of a few points, in registers: the steps a transform of any length is made of.
// Sign is that of the exponent: -1 forward, +1 inverse. Nothing is scaled.
#pragma once

#include "complex.cuh"

namespace edge {

template <int Sign, class V>
EDGE_DEVICE void butterfly_2(Complex<V>* z) {
    const Complex<V> sum = z[0] + z[1];
    z[1] = z[0] - z[1];
    z[0] = sum;
}

template <int Sign, class V>
EDGE_DEVICE void butterfly_4(Complex<V>* z) {
    const Complex<V> a = z[0] + z[2], b = z[0] - z[2];
    const Complex<V> c = z[1] + z[3], d = times_i<Sign>(z[1] - z[3]);
    z[0] = a + c;
    z[1] = b + d;
    z[2] = a - c;
    z[3] = b - d;
}

template <int Sign, class V>
EDGE_DEVICE void butterfly_8(Complex<V>* z) {
    constexpr float half_root = 0.70710678118654752440f;
    Complex<V> even[4] = {z[0], z[2], z[4], z[6]};
    Complex<V> odd[4] = {z[1], z[3], z[5], z[7]};
    butterfly_4<Sign>(even);
    butterfly_4<Sign>(odd);
    odd[1] = scaled(odd[1] + times_i<Sign>(odd[1]), half_root);
    odd[2] = times_i<Sign>(odd[2]);
    odd[3] = scaled(times_i<Sign>(odd[3]) - odd[3], half_root);
    for (int k = 0; k < 4; ++k) {
        z[k] = even[k] + odd[k];
        z[k + 4] = even[k] - odd[k];
    }
}

// Any odd R. `roots` are exp(2 pi i k / R) for k in 0..R-1 as (re, im) pairs: one multiplication serves a pair of outputs.
template <int R, int Sign, class V>
EDGE_DEVICE void butterfly_odd(Complex<V>* z, const float* roots) {
    constexpr int half = (R - 1) / 2;
    Complex<V> sums[half], differences[half];
    Complex<V> total = z[0];
    for (int j = 1; j <= half; ++j) {
        sums[j - 1] = z[j] + z[R - j];
        differences[j - 1] = z[j] - z[R - j];
        total = total + sums[j - 1];
    }
    Complex<V> outputs[R];
    outputs[0] = total;
    for (int k = 1; k <= half; ++k) {
        Complex<V> even = z[0];
        Complex<V> odd = scaled(differences[0], roots[2 * (k % R) + 1]);
        even = even + scaled(sums[0], roots[2 * (k % R)]);
        for (int j = 2; j <= half; ++j) {
            const int root = 2 * ((j * k) % R);
            even = even + scaled(sums[j - 1], roots[root]);
            odd = odd + scaled(differences[j - 1], roots[root + 1]);
        }
        const Complex<V> turned = times_i<Sign>(odd);
        outputs[k] = even + turned;
        outputs[R - k] = even - turned;
    }
    for (int k = 0; k < R; ++k) z[k] = outputs[k];
}

// R points in place; 2, 4, 8 and odd numbers.
template <int R, int Sign, class V>
EDGE_DEVICE void butterfly(Complex<V>* z, const float* roots) {
    if constexpr (R == 2) {
        butterfly_2<Sign>(z);
    } else if constexpr (R == 4) {
        butterfly_4<Sign>(z);
    } else if constexpr (R == 8) {
        butterfly_8<Sign>(z);
    } else {
        butterfly_odd<R, Sign>(z, roots);
    }
}

}  // namespace edge
