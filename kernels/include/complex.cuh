// Complex arithmetic on values of type V: a float where a GPU thread computes one element, a vector of floats where a CPU core computes
// several side by side. No memory access, no launches: the same code is compiled for both.
#pragma once

#if defined(__CUDACC__)
#define EDGE_DEVICE __host__ __device__ __forceinline__
#else
#define EDGE_DEVICE inline __attribute__((always_inline))
#endif

namespace edge {

template <class V>
struct Complex {
    V re, im;
};

template <class V>
EDGE_DEVICE Complex<V> operator+(Complex<V> a, Complex<V> b) {
    return {a.re + b.re, a.im + b.im};
}

template <class V>
EDGE_DEVICE Complex<V> operator-(Complex<V> a, Complex<V> b) {
    return {a.re - b.re, a.im - b.im};
}

template <class V>
EDGE_DEVICE Complex<V> operator*(Complex<V> a, Complex<V> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}

// conj(a) * b
template <class V>
EDGE_DEVICE Complex<V> conjugate_times(Complex<V> a, Complex<V> b) {
    return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

template <class V>
EDGE_DEVICE V squared_magnitude(Complex<V> a) {
    return a.re * a.re + a.im * a.im;
}

// A scalar factor may be a plain float; `V * float` is what both a float and a vector of floats offer.
template <class V, class S>
EDGE_DEVICE Complex<V> scaled(Complex<V> a, S factor) {
    return {a.re * factor, a.im * factor};
}

// a * (re + i im) with scalars
template <class V>
EDGE_DEVICE Complex<V> times(Complex<V> a, float re, float im) {
    return {a.re * re - a.im * im, a.im * re + a.re * im};
}

// a * conj(re + i im) with scalars
template <class V>
EDGE_DEVICE Complex<V> times_conjugate(Complex<V> a, float re, float im) {
    return {a.re * re + a.im * im, a.im * re - a.re * im};
}

// Sign * i * a
template <int Sign, class V>
EDGE_DEVICE Complex<V> times_i(Complex<V> a) {
    if constexpr (Sign > 0) {
        return {-a.im, a.re};
    } else {
        return {a.im, -a.re};
    }
}

}  // namespace edge
