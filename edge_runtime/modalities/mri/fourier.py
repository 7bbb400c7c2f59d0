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


def to_image_columns(kspace: Complex, out: Complex, scratch: Complex) -> None:
    """`to_image` along the last axis, of which the central part that fits goes to ``out``, without other memory than what is given:
    memory that is new to the process costs as much as the transform.

    Args:
        kspace: ``(..., samples)``.
        out: ``(..., columns)``, at most as many as samples.
        scratch: of the shape of ``kspace``; overwritten.
    """
    samples, columns = kspace.shape[-1], out.shape[-1]
    before_centre = samples // 2
    scratch[..., : samples - before_centre] = kspace[..., before_centre:]
    scratch[..., samples - before_centre :] = kspace[..., :before_centre]
    np.fft.ifft(scratch, norm="ortho", out=scratch)  # type: ignore[arg-type]  # the stubs know complex128 only
    before_centre = columns // 2
    out[..., :before_centre] = scratch[..., samples - before_centre :]
    out[..., before_centre:] = scratch[..., : columns - before_centre]


def centre_slice(length: int, wanted: int) -> slice:
    """The indices of the central ``wanted`` of ``length`` points, centre kept on centre (``n // 2``)."""
    start = length // 2 - wanted // 2
    return slice(start, start + wanted)
