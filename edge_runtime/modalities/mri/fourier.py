"""Centred, orthonormal discrete Fourier transforms.

k-space and images are stored with their centre at index ``n // 2``; every transform here maps centre to centre and is unitary,
so that the noise level is the same on both sides.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Complex = npt.NDArray[np.complex64]


def forward(array: Complex, axis: int) -> Complex:
    """The unitary transform along one axis, with index 0 as centre on both sides. Single precision stays single."""
    return np.asarray(np.fft.fft(array, axis=axis, norm="ortho"), dtype=np.complex64)


def inverse(array: Complex, axis: int) -> Complex:
    """Undoes `forward`."""
    return np.asarray(np.fft.ifft(array, axis=axis, norm="ortho"), dtype=np.complex64)


def to_kspace(image: Complex, axis: int) -> Complex:
    """Image to k-space along one axis. The shape is kept."""
    shifted = np.fft.ifftshift(image, axes=axis)
    return np.fft.fftshift(forward(shifted, axis), axes=axis)


def to_image(kspace: Complex, axis: int) -> Complex:
    """k-space to image along one axis. The shape is kept."""
    shifted = np.fft.ifftshift(kspace, axes=axis)
    return np.fft.fftshift(inverse(shifted, axis), axes=axis)


def centre_slice(length: int, wanted: int) -> slice:
    """The indices of the central ``wanted`` of ``length`` points, centre kept on centre (``n // 2``)."""
    start = length // 2 - wanted // 2
    return slice(start, start + wanted)
