// Transforms of kLanes lines at once: packed elements, in place, passes of radix 8, 7, 5, 4, 3, 2 and of any prime.
// What goes in and comes out of a pass is up to its caller, so that multiplications by coil maps or a mask cost no pass of their own.
#pragma once

#include "butterfly.cuh"
#include "transform.hpp"
#include "vector.hpp"

namespace edge {
namespace EDGE_ISA {

// Elements of a line, whole blocks of a pass. What a pass leaves are blocks for the next ones, which do them one by one: with all
// their passes done while it is in the nearest cache, a line that is larger than that cache crosses it once, not once a pass.
struct Part {
    int begin, end;
};

// The radix-R butterflies of one pass. `load(i)` gives element i, `store(i, z)` takes it. Twiddles follow a forward butterfly and
// precede an inverse one.
template <int R, int Sign, class Load, class Store>
inline void run_radix(Part part, int length, const float* twiddles, const float* roots, Load load, Store store) {
    const int stride = length / R;
    ComplexVector z[R];
    for (int base = part.begin; base < part.end; base += length) {
        for (int j = 0; j < stride; ++j) {
            const float* w = twiddles + 2 * (R - 1) * j;
            for (int q = 0; q < R; ++q) z[q] = load(base + j + q * stride);
            if constexpr (Sign > 0) {
                if (j) {
                    for (int q = 1; q < R; ++q) z[q] = times_conjugate(z[q], w[2 * q - 2], w[2 * q - 1]);
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
inline void run_prime(Part part, const Pass& pass, const float* twiddles, const float* roots, ComplexVector* scratch,
                      Load load, Store store) {
    const int radix = pass.radix, stride = pass.length / radix;
    for (int base = part.begin; base < part.end; base += pass.length) {
        for (int j = 0; j < stride; ++j) {
            const float* w = twiddles + 2 * (radix - 1) * j;
            for (int q = 0; q < radix; ++q) {
                scratch[q] = load(base + j + q * stride);
                if (Sign > 0 && q) scratch[q] = times_conjugate(scratch[q], w[2 * q - 2], w[2 * q - 1]);
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
inline void run_pass(const Transform& transform, const Pass& pass, Part part, ComplexVector* scratch, Load load,
                     Store store) {
    const float* twiddles = transform.tables.data() + pass.twiddles;
    const float* roots = transform.tables.data() + pass.roots;
    switch (pass.radix) {
        case 2: return run_radix<2, Sign>(part, pass.length, twiddles, roots, load, store);
        case 3: return run_radix<3, Sign>(part, pass.length, twiddles, roots, load, store);
        case 4: return run_radix<4, Sign>(part, pass.length, twiddles, roots, load, store);
        case 5: return run_radix<5, Sign>(part, pass.length, twiddles, roots, load, store);
        case 7: return run_radix<7, Sign>(part, pass.length, twiddles, roots, load, store);
        case 8: return run_radix<8, Sign>(part, pass.length, twiddles, roots, load, store);
        default: return run_prime<Sign>(part, pass, twiddles, roots, scratch, load, store);
    }
}

// Access to `packed`, an array of elements.
struct InPlace {
    float* packed;
    ComplexVector operator()(int at) const { return load_packed(packed + 2 * kLanes * at); }
    void operator()(int at, ComplexVector value) const { store_packed(packed + 2 * kLanes * at, value); }
};

inline Part whole(const Transform& transform) { return {0, transform.length}; }

// Calls `run(part)` for each block that the first of two passes or more leaves.
template <class Run>
inline void each_part(const Transform& transform, Run run) {
    const int length = transform.passes[1].length;
    for (int begin = 0; begin < transform.length; begin += length) run(Part{begin, begin + length});
}

// The passes of a part between the first one and the last one.
template <int Sign>
inline void run_inner(const Transform& transform, Part part, ComplexVector* scratch, InPlace here) {
    const std::size_t count = transform.passes.size();
    for (std::size_t turn = 1; turn + 1 < count; ++turn) {
        run_pass<Sign>(transform, transform.passes[Sign < 0 ? turn : count - 1 - turn], part, scratch, here, here);
    }
}

// All passes of one line: natural order in, `Transform::frequency` order out (forward), or back (inverse). Not scaled. The first pass
// loads by `load`, the last one stores by `store`, and between them the line is in `packed`.
template <int Sign, class Load, class Store>
inline void transform_line(const Transform& transform, float* packed, ComplexVector* scratch, Load load, Store store) {
    const std::vector<Pass>& passes = transform.passes;
    const Part line = whole(transform);
    const InPlace here{packed};
    if (passes.empty()) return store(0, load(0));
    if (passes.size() == 1) return run_pass<Sign>(transform, passes[0], line, scratch, load, store);
    if constexpr (Sign < 0) {
        run_pass<Sign>(transform, passes.front(), line, scratch, load, here);
        each_part(transform, [&](Part part) {
            run_inner<Sign>(transform, part, scratch, here);
            run_pass<Sign>(transform, passes.back(), part, scratch, here, store);
        });
    } else {
        each_part(transform, [&](Part part) {
            run_pass<Sign>(transform, passes.back(), part, scratch, load, here);
            run_inner<Sign>(transform, part, scratch, here);
        });
        run_pass<Sign>(transform, passes.front(), line, scratch, here, store);
    }
}

inline void forward(const Transform& transform, float* packed, ComplexVector* scratch) {
    transform_line<-1>(transform, packed, scratch, InPlace{packed}, InPlace{packed});
}

inline void inverse(const Transform& transform, float* packed, ComplexVector* scratch) {
    transform_line<+1>(transform, packed, scratch, InPlace{packed}, InPlace{packed});
}

}  // namespace EDGE_ISA
}  // namespace edge
