// Transforms of kLanes lines at once: packed elements, in place, passes of radix 8, 7, 5, 4, 3, 2 and of any prime.
// What goes in and comes out of a pass is up to its caller, so that multiplications by coil maps or a mask cost no pass of their own.
#pragma once

#include "butterfly.cuh"
#include "transform.hpp"
#include "vector.hpp"

namespace edge {
namespace EDGE_ISA {

// The radix-R butterflies of one pass. `load(i)` gives element i, `store(i, z)` takes it. Twiddles follow a forward butterfly and
// precede an inverse one.
template <int R, int Sign, class Load, class Store>
inline void run_radix(int total, int length, const float* twiddles, const float* roots, Load load, Store store) {
    const int stride = length / R;
    ComplexVector z[R];
    for (int base = 0; base < total; base += length) {
        for (int j = 0; j < stride; ++j) {
            const float* w = twiddles + 2 * (R - 1) * j;
            for (int q = 0; q < R; ++q) z[q] = load(base + j + q * stride);
            if constexpr (Sign > 0) {
                if (j) {
                    for (int q = 1; q < R; ++q) z[q] = times(z[q], w[2 * q - 2], -w[2 * q - 1]);
                }
            }
            butterfly<R, Sign>(z, roots);
            if constexpr (Sign < 0) {
                if (j) {
                    for (int q = 1; q < R; ++q) z[q] = times(z[q], w[2 * q - 2], w[2 * q - 1]);
                }
            }
            for (int q = 0; q < R; ++q) store(base + j + q * stride, z[q]);
        }
    }
}

// The same for a prime without a butterfly of its own, by the definition. `scratch` holds `radix` elements.
template <int Sign, class Load, class Store>
inline void run_prime(int total, const Pass& pass, const float* twiddles, const float* roots, ComplexVector* scratch,
                      Load load, Store store) {
    const int radix = pass.radix, stride = pass.length / radix;
    for (int base = 0; base < total; base += pass.length) {
        for (int j = 0; j < stride; ++j) {
            const float* w = twiddles + 2 * (radix - 1) * j;
            for (int q = 0; q < radix; ++q) {
                scratch[q] = load(base + j + q * stride);
                if (Sign > 0 && q) scratch[q] = times(scratch[q], w[2 * q - 2], -w[2 * q - 1]);
            }
            for (int k = 0; k < radix; ++k) {
                ComplexVector sum = scratch[0];
                for (int q = 1, root = k; q < radix; ++q, root = (root + k) % radix) {
                    sum = sum + times(scratch[q], roots[2 * root], Sign * roots[2 * root + 1]);
                }
                if (Sign < 0 && k) sum = times(sum, w[2 * k - 2], w[2 * k - 1]);
                store(base + j + k * stride, sum);
            }
        }
    }
}

template <int Sign, class Load, class Store>
inline void run_pass(const Transform& transform, const Pass& pass, ComplexVector* scratch, Load load, Store store) {
    const float* twiddles = transform.tables.data() + pass.twiddles;
    const float* roots = transform.tables.data() + pass.roots;
    const int total = transform.length;
    switch (pass.radix) {
        case 2: return run_radix<2, Sign>(total, pass.length, twiddles, roots, load, store);
        case 3: return run_radix<3, Sign>(total, pass.length, twiddles, roots, load, store);
        case 4: return run_radix<4, Sign>(total, pass.length, twiddles, roots, load, store);
        case 5: return run_radix<5, Sign>(total, pass.length, twiddles, roots, load, store);
        case 7: return run_radix<7, Sign>(total, pass.length, twiddles, roots, load, store);
        case 8: return run_radix<8, Sign>(total, pass.length, twiddles, roots, load, store);
        default: return run_prime<Sign>(total, pass, twiddles, roots, scratch, load, store);
    }
}

// Access to `packed`, an array of elements.
struct InPlace {
    float* packed;
    ComplexVector operator()(int at) const { return load_packed(packed + 2 * kLanes * at); }
    void operator()(int at, ComplexVector value) const { store_packed(packed + 2 * kLanes * at, value); }
};

// All passes of one line: natural order in, `Transform::frequency` order out (forward), or back (inverse). Not scaled. The first pass
// loads by `load`, the last one stores by `store`, and between them the line is in `packed`.
template <int Sign, class Load, class Store>
inline void transform_line(const Transform& transform, float* packed, ComplexVector* scratch, Load load, Store store) {
    const std::size_t count = transform.passes.size();
    const auto pass = [&](std::size_t turn) -> const Pass& { return transform.passes[Sign < 0 ? turn : count - 1 - turn]; };
    const InPlace here{packed};
    if (count == 0) return store(0, load(0));
    if (count == 1) return run_pass<Sign>(transform, pass(0), scratch, load, store);
    run_pass<Sign>(transform, pass(0), scratch, load, here);
    for (std::size_t turn = 1; turn + 1 < count; ++turn) run_pass<Sign>(transform, pass(turn), scratch, here, here);
    run_pass<Sign>(transform, pass(count - 1), scratch, here, store);
}

inline void forward(const Transform& transform, float* packed, ComplexVector* scratch) {
    transform_line<-1>(transform, packed, scratch, InPlace{packed}, InPlace{packed});
}

inline void inverse(const Transform& transform, float* packed, ComplexVector* scratch) {
    transform_line<+1>(transform, packed, scratch, InPlace{packed}, InPlace{packed});
}

}  // namespace EDGE_ISA
}  // namespace edge
