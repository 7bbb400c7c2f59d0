#include "transform.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace edge {

namespace {

// Large radices first: the passes over the whole array are the ones that move the most data. The last pass, which the callers fuse
// with their own work, is kept small.
std::vector<int> radices_of(int length, int widest_radix) {
    std::vector<int> radices;
    int twos = 0;
    while (length % 2 == 0) {
        length /= 2;
        ++twos;
    }
    for (; widest_radix >= 8 && (twos >= 5 || twos == 3); twos -= 3) radices.push_back(8);
    for (int prime : {7, 5, 3}) {
        for (; length % prime == 0; length /= prime) radices.push_back(prime);
    }
    for (int prime = 11; length > 1; prime += 2) {
        if (prime * prime > length) prime = length;
        for (; length % prime == 0; length /= prime) radices.insert(radices.begin(), prime);
    }
    for (; twos >= 2; twos -= 2) radices.push_back(4);
    if (twos == 1) radices.push_back(2);
    return radices;
}

void append_root(std::vector<float>& table, long numerator, long denominator, double sign) {
    const double angle = sign * 2 * 3.14159265358979323846 * static_cast<double>(numerator % denominator) /
                         static_cast<double>(denominator);
    table.push_back(static_cast<float>(std::cos(angle)));
    table.push_back(static_cast<float>(std::sin(angle)));
}

}  // namespace

Transform::Transform(int length_, int widest_radix)
    : length(length_), scale(1.0f), frequency(static_cast<std::size_t>(std::max(length_, 0))), position(frequency.size()) {
    if (length < 1) throw std::invalid_argument("a transform has at least one point");
    scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(length)));
    const std::vector<int> radices = radices_of(length, widest_radix);
    largest_prime = 1;
    int block = length;
    for (int radix : radices) {
        Pass pass{radix, block, tables.size(), 0};
        const int stride = block / radix;
        for (long j = 0; j < stride; ++j) {
            for (long q = 1; q < radix; ++q) append_root(tables, j * q, block, -1);
        }
        pass.roots = tables.size();
        for (long k = 0; k < radix; ++k) append_root(tables, k, radix, +1);
        passes.push_back(pass);
        largest_prime = std::max(largest_prime, radix);
        block = stride;
    }
    // After a pass of radix r over blocks of L, residue q of the frequency lies in the q-th of r sub-blocks.
    for (int at = 0; at < length; ++at) {
        int within = at, size = length, weight = 1, sum = 0;
        for (int radix : radices) {
            size /= radix;
            sum += weight * (within / size);
            within %= size;
            weight *= radix;
        }
        frequency[static_cast<std::size_t>(at)] = sum;
        position[static_cast<std::size_t>(sum)] = at;
    }
}

}  // namespace edge
