// Conjugate gradients (Hestenes and Stiefel, J Res Natl Bur Stand 49:409, 1952) for kLanes problems side by side: each lane has its own
// step lengths and its own end.
#pragma once

#include "sense.hpp"
#include "vector.hpp"

namespace edge {
namespace EDGE_ISA {

// Sums over packed elements, a lane its own.
struct LaneSums {
    Vector sum = {};
    void add(ComplexVector a, ComplexVector b) { sum = sum + (a.re * b.re + a.im * b.im); }
};

inline Vector energy_of(const float* packed, int elements) {
    LaneSums sums;
    for (int i = 0; i < elements; ++i) sums.add(load_packed(packed + at(i)), load_packed(packed + at(i)));
    return sums.sum;
}

// Of energies; 0 for an empty column, whatever the units of others.
inline Vector ratio(Vector numerator, Vector denominator) {
    float above[kLanes], below[kLanes];
    store(above, numerator);
    store(below, denominator);
    for (int lane = 0; lane < kLanes; ++lane) above[lane] /= below[lane] > 0 ? below[lane] : 1.0f;
    return load(above);
}

// The lanes that are not solved yet: 1 where the residual's energy is above its limit, else 0.
inline bool unsolved(Vector energy, Vector limit, Vector& lanes) {
    float left[kLanes], enough[kLanes];
    store(left, energy);
    store(enough, limit);
    bool any = false;
    for (int lane = 0; lane < kLanes; ++lane) {
        const bool solved = left[lane] <= enough[lane];
        left[lane] = solved ? 0.0f : 1.0f;
        any = any || !solved;
    }
    lanes = load(left);
    return any;
}

// Solves operate(x) = right side from x on; `residual` holds right side - operate(x). A lane whose residual's energy is no more than
// its `limit` keeps its x, and the solve ends after `steps` or when all lanes do.
template <class Operate>
void conjugate_gradients(int elements, int steps, Vector limit, float* x, float* residual, float* direction, float* product,
                         Operate operate) {
    std::memcpy(direction, residual, sizeof(float) * static_cast<std::size_t>(at(elements)));
    Vector energy = energy_of(residual, elements), lanes;
    for (int step = 0; step < steps && unsolved(energy, limit, lanes); ++step) {
        operate(direction, product);
        LaneSums curvature, left;
        for (int i = 0; i < elements; ++i) curvature.add(load_packed(direction + at(i)), load_packed(product + at(i)));
        const Vector length = ratio(energy * lanes, curvature.sum);
        for (int i = 0; i < elements; ++i) {
            const ComplexVector d = load_packed(direction + at(i));
            store_packed(x + at(i), load_packed(x + at(i)) + scaled(d, length));
            const ComplexVector r = load_packed(residual + at(i)) - scaled(load_packed(product + at(i)), length);
            store_packed(residual + at(i), r);
            left.add(r, r);
        }
        const Vector turn = ratio(left.sum * lanes, energy);
        energy = left.sum;
        for (int i = 0; i < elements; ++i) {
            store_packed(direction + at(i), load_packed(residual + at(i)) + scaled(load_packed(direction + at(i)), turn));
        }
    }
}

// Solves (normal + lambda) x = adjoint + lambda prior from x = prior on, with `task`'s lambda, steps and tolerance.
template <class Normal>
void data_consistency(const SenseTask& task, int elements, const float* adjoint, float* x, float* residual, float* direction,
                      float* product, Normal normal) {
    normal(x, product);
    LaneSums right;
    for (int i = 0; i < elements; ++i) {  // at x = prior, the prior's terms cancel
        const ComplexVector from_samples = load_packed(adjoint + at(i));
        const ComplexVector side = from_samples + scaled(load_packed(x + at(i)), task.lambda);
        right.add(side, side);
        store_packed(residual + at(i), from_samples - load_packed(product + at(i)));
    }
    const Vector limit = right.sum * (task.tolerance * task.tolerance);
    conjugate_gradients(elements, task.steps, limit, x, residual, direction, product, [&](const float* in, float* out) {
        normal(in, out);
        for (int i = 0; i < elements; ++i) {
            store_packed(out + at(i), load_packed(out + at(i)) + scaled(load_packed(in + at(i)), task.lambda));
        }
    });
}

}  // namespace EDGE_ISA
}  // namespace edge
