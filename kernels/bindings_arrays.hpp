// What the files of bindings share: arrays as kernels take them, and the check of what memory safety needs.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <complex>
#include <stdexcept>

typedef std::complex<float> Complex64;
template <class T, std::size_t N>
using Array = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::device::cpu>;
template <class T, std::size_t N>
using Contiguous = nanobind::ndarray<T, nanobind::ndim<N>, nanobind::c_contig, nanobind::device::cpu>;

inline void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}
