// The SENSE operator of one volume in hybrid space, and data consistency on it. As sense.hpp, but each readout plane (a column of the
// arrays) is a problem of its own with two Fourier axes, partitions and phase encodes; kLanes planes make a block.
#pragma once

#include "sense.hpp"

namespace edge {

struct VolumeGeometry {
    int coils;
    int partitions;
    int phase_encodes;
    int columns;
};

struct PlaneTransform {
    Transform partitions, phase_encodes;
};

std::size_t volume_scratch(const PlaneTransform& transform, const VolumeGeometry& geometry);  // floats that one thread needs

// SenseData and SenseTask as of a slice, with (partitions, phase_encodes) where it has phase_encodes; but the mask is
// (blocks, phase_encodes, partitions, lanes), both in the order of Transform::frequency.
typedef void (*VolumeKernel)(const PlaneTransform&, const VolumeGeometry&, const SenseData&, const SenseTask&, std::size_t block,
                             float* scratch);

// By name; each does one block of planes. What they do is said where the slice's are, in sense.hpp.
#define EDGE_VOLUME_KERNELS(apply) \
    apply(volume_pack_maps)        \
    apply(volume_pack_samples)     \
    apply(volume_normal)           \
    apply(volume_gradient)         \
    apply(volume_data_consistent)

}  // namespace edge
