// Complex matrices in double precision, in panels of four columns: a row of a panel is one cache line, four real parts and four imaginary
// ones. Everything here is made of one product, Aᴴ B, a tile of 4 x 4 at a time.
#pragma once

#include <cstddef>
#include <cstring>

#include "pivots.cuh"

namespace edge {

inline int panels_of(int columns) { return (columns + kPanel - 1) / kPanel; }

struct Panels {
    double* data;
    int rows;

    double* at(int panel, int row) const {
        return data + 2 * kPanel * (static_cast<std::ptrdiff_t>(panel) * rows + row);
    }
    static std::size_t doubles(int columns, int rows) {
        return static_cast<std::size_t>(2 * kPanel * panels_of(columns)) * static_cast<std::size_t>(rows);
    }
};

#if defined(EDGE_ISA)
namespace EDGE_ISA {

// A row of a panel's real or imaginary parts.
#if defined(__AVX__)

typedef double Doubles __attribute__((vector_size(8 * kPanel)));

#else

typedef double Pair __attribute__((vector_size(16)));

struct Doubles {
    Pair low, high;
};

inline Doubles operator+(Doubles a, Doubles b) { return {a.low + b.low, a.high + b.high}; }
inline Doubles operator-(Doubles a, Doubles b) { return {a.low - b.low, a.high - b.high}; }
inline Doubles operator*(double a, Doubles b) { return {a * b.low, a * b.high}; }

#endif

inline Doubles load_doubles(const double* from) {
    Doubles value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store_doubles(double* to, Doubles value) { std::memcpy(to, &value, sizeof value); }

struct Tile {
    Doubles re[kPanel] = {}, im[kPanel] = {};  // a row each
};

inline Tile load_tile(const double* from) {
    Tile tile;
    for (int row = 0; row < kPanel; ++row) {
        tile.re[row] = load_doubles(from + 2 * kPanel * row);
        tile.im[row] = load_doubles(from + 2 * kPanel * row + kPanel);
    }
    return tile;
}

inline void store_tile(double* to, const Tile& tile) {
    for (int row = 0; row < kPanel; ++row) {
        store_doubles(to + 2 * kPanel * row, tile.re[row]);
        store_doubles(to + 2 * kPanel * row + kPanel, tile.im[row]);
    }
}

// The conjugate transpose.
inline Tile mirrored(const Tile& tile) {
    double rows[2 * kPanel * kPanel], turned[2 * kPanel * kPanel];
    store_tile(rows, tile);
    for (int row = 0; row < kPanel; ++row) {
        for (int column = 0; column < kPanel; ++column) {
            turned[2 * kPanel * row + column] = rows[2 * kPanel * column + row];
            turned[2 * kPanel * row + kPanel + column] = -rows[2 * kPanel * column + kPanel + row];
        }
    }
    return load_tile(turned);
}

// factor * tile + shift on the diagonal
inline Tile shifted(Tile tile, double factor, double shift) {
    for (int row = 0; row < kPanel; ++row) {
        double diagonal[kPanel] = {};
        diagonal[row] = shift;
        tile.re[row] = factor * tile.re[row] + load_doubles(diagonal);
        tile.im[row] = factor * tile.im[row];
    }
    return tile;
}

// Aᴴ B of the rows first..end of two panels.
inline Tile product(const Panels& a, int panel_a, const Panels& b, int panel_b, int first, int end) {
    Tile sum;
    const double *left = a.at(panel_a, first), *right = b.at(panel_b, first);
    for (int row = first; row < end; ++row, left += 2 * kPanel, right += 2 * kPanel) {
        const Doubles re = load_doubles(right), im = load_doubles(right + kPanel);
        for (int i = 0; i < kPanel; ++i) {
            sum.re[i] = (sum.re[i] + left[i] * re) + left[kPanel + i] * im;
            sum.im[i] = (sum.im[i] + left[i] * im) - left[kPanel + i] * re;
        }
    }
    return sum;
}

inline Tile operator-(const Tile& a, const Tile& b) {
    Tile difference;
    for (int row = 0; row < kPanel; ++row) {
        difference.re[row] = a.re[row] - b.re[row];
        difference.im[row] = a.im[row] - b.im[row];
    }
    return difference;
}

// Of a Hermitian, positive definite tile.
inline Pivots pivots_of(const Tile& tile) {
    Pivots pivots;
    for (int row = 0; row < kPanel; ++row) {
        store_doubles(pivots.re[row], tile.re[row]);
        store_doubles(pivots.im[row], tile.im[row]);
    }
    pivots.factor();
    return pivots;
}

// U⁻ᴴ tile
inline Tile solved(const Pivots& pivots, Tile tile) {
    pivots.solve(tile.re, tile.im);
    return tile;
}

}  // namespace EDGE_ISA
#endif

}  // namespace edge
