// Elimination with a tile of a Cholesky factor, in double precision.
#pragma once

#if !defined(__CUDACC_RTC__)  // which knows these functions by itself
#include <math.h>
#endif

#include "complex.cuh"

namespace edge {

constexpr int kPanel = 4;  // rows that are solved for with the same pivots

// A Cholesky factor's diagonal tile U, upper triangular: 1 / its diagonal, and what is right of that.
struct Pivots {
    double inverse[kPanel], re[kPanel][kPanel], im[kPanel][kPanel];

    // Makes a Hermitian, positive definite tile in `re` and `im`, of which the upper triangle is looked at, its factor.
    EDGE_DEVICE void factor() {
        for (int row = 0; row < kPanel; ++row) {
            inverse[row] = 1.0 / sqrt(re[row][row]);
            for (int column = row; column < kPanel; ++column) {
                re[row][column] = inverse[row] * re[row][column];
                im[row][column] = inverse[row] * im[row][column];
            }
            for (int below = row + 1; below < kPanel; ++below) {
                for (int column = below; column < kPanel; ++column) {
                    subtract(row, below, re[row][column], im[row][column], re[below][column], im[below][column]);
                }
            }
        }
    }

    // U⁻ᴴ times columns, whose rows these are: a column as doubles, or several side by side.
    template <class V>
    EDGE_DEVICE void solve(V* of_re, V* of_im) const {
        for (int row = 0; row < kPanel; ++row) {
            of_re[row] = inverse[row] * of_re[row];
            of_im[row] = inverse[row] * of_im[row];
            for (int below = row + 1; below < kPanel; ++below) {
                subtract(row, below, of_re[row], of_im[row], of_re[below], of_im[below]);
            }
        }
    }

  private:
    // Takes conj(U[row][below]) times what is there in a row from what is there in one below.
    template <class V>
    EDGE_DEVICE void subtract(int row, int below, const V& of_re, const V& of_im, V& from_re, V& from_im) const {
        from_re = (from_re - re[row][below] * of_re) - im[row][below] * of_im;
        from_im = (from_im - re[row][below] * of_im) + im[row][below] * of_re;
    }
};

}  // namespace edge
