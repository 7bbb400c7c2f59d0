"""What is learned from the autocalibration region (ACS): coil compression and coil sensitivities.

Sensitivities follow ESPIRiT (Uecker et al., Magn Reson Med 71:990, 2014): the projection onto the signal subspace of the
calibration matrix becomes one small Hermitian matrix a pixel, whose dominant eigenvector holds the coil sensitivities there. The
kernels are short, so the maps are band-limited and are computed on a coarse grid. Two things differ from ESPIRiT's usual form. The
subspace has no hard edge: its projection is a smooth function of the calibration matrix, so that rounding can't move a kernel in or
out of it (with a hard edge, the number of threads of a matrix product made one scan's error 5 % larger or smaller). And nothing is
cropped where the eigenvalue is small, which removes signal at the rim of the head; what is air is told apart more cautiously, in
`edge_runtime.modalities.mri.support`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.fourier import Complex, centre_slice

Complex128 = npt.NDArray[np.complex128]

MAP_GRID = 48
"""Points along each axis on which maps are computed before interpolation; kernels of 4 need at least 7."""

KERNEL = 4
"""Longest calibration kernel along either axis; longer ones starve on the few lines of a small ACS."""

CALIBRATION_COLUMNS = 24
"""Low spatial frequencies along the readout that take part in calibration."""

SUBSPACE_THRESHOLD = 0.015
"""Singular values of this share of the largest count half; those of half and double this, 0.06 and 0.94."""

EIGENVECTOR_ITERATIONS = 12


def compression_matrix(acs: Complex, max_virtual_coils: int) -> Complex:
    """Rows that map physical to virtual coils, strongest first (Buehrer et al., Magn Reson Med 57:1131, 2007).

    Args:
        acs: calibration samples ``(coils, phase_encodes, samples)``, whitened; k-space or hybrid space.
        max_virtual_coils: the most virtual coils to keep.

    Returns:
        ``(virtual_coils, coils)`` with orthonormal rows, so white noise stays white.
    """
    flat = acs.reshape(acs.shape[0], -1).astype(np.complex128)
    _, vectors = np.linalg.eigh(flat @ flat.conj().T)
    strongest_first = vectors[:, ::-1][:, : min(max_virtual_coils, acs.shape[0])]
    return np.ascontiguousarray(strongest_first.conj().T, dtype=np.complex64)


def estimate_sensitivities(acs_kspace: Complex, phase_encodes: int, columns: int) -> Complex:
    """Coil sensitivities from the ACS, with unit root-sum-of-squares at every pixel.

    The phase of the first coil is the reference, so the first coil should be the strongest (see `compression_matrix`).

    Args:
        acs_kspace: ``(coils, acs_lines, samples)``, contiguous lines around the centre of k-space, both axes in k-space.
        phase_encodes: image size along the phase-encode axis.
        columns: image size along the readout; the field of view of ``acs_kspace`` along the readout is the image's.

    Returns:
        ``(coils, phase_encodes, columns)``.
    """
    coils, lines, samples = acs_kspace.shape
    if coils == 1:
        return np.ones((1, phase_encodes, columns), np.complex64)
    block = acs_kspace[:, :, centre_slice(samples, min(samples, CALIBRATION_COLUMNS))]
    kernel_y = min(KERNEL, max(1, (lines + 1) // 2))
    kernel_x = min(KERNEL, block.shape[2])
    windows = np.lib.stride_tricks.sliding_window_view(block, (kernel_y, kernel_x), axis=(1, 2))
    calibration = windows.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel_y * kernel_x)
    lags = _lag_sums(_signal_projection(calibration).reshape(coils, kernel_y, kernel_x, coils, kernel_y, kernel_x))

    grid_y, grid_x = min(MAP_GRID, phase_encodes), min(MAP_GRID, columns)
    along_x = lags.reshape(-1, lags.shape[3]) @ _waves(kernel_x, grid_x).T
    gram = _waves(kernel_y, grid_y) @ along_x.reshape(coils, coils, lags.shape[2], grid_x)
    dominant = _dominant_eigenvectors(gram.transpose(2, 3, 0, 1).reshape(-1, coils, coils).astype(np.complex64)).conj()
    reference = np.exp(-1j * np.angle(dominant[:, :1]))
    maps = (dominant * reference).T.reshape(coils, grid_y, grid_x).astype(np.complex64)

    full = _interpolate(_interpolate(maps, phase_encodes, axis=1), columns, axis=2)
    norm = np.sqrt(np.sum(full.real**2 + full.imag**2, axis=0))
    return np.ascontiguousarray(full / np.maximum(norm, 1e-6), dtype=np.complex64)


def _signal_projection(calibration: Complex) -> Complex128:
    """The smooth projection ``G² (G² + τ²)⁻¹`` onto the signal subspace, ``(n, n)``, of a calibration matrix ``(windows, n)``.

    G is the Gram matrix and τ the eigenvalue that counts half: a Tikhonov filter of second order in place of a hard threshold.
    In double precision, because the eigenvalues that matter span seven decades after squaring.
    """
    exact = calibration.astype(np.complex128)
    gram = exact.conj().T @ exact
    largest = float(np.linalg.eigvalsh(gram)[-1])
    if largest <= 0:
        return np.zeros_like(gram)
    gram /= largest
    floor = SUBSPACE_THRESHOLD**4 * np.eye(gram.shape[0])
    square = gram @ gram
    return np.asarray(np.linalg.solve(square + floor, square), dtype=np.complex128)


def _lag_sums(projection: Complex128) -> Complex128:
    """Sums of ``(coils, y, x, coils, y, x)`` over equal lags, all that a pixel's matrix depends on.

    Returns:
        ``(coils, coils, 2 y - 1, 2 x - 1)``.
    """
    coils, kernel_y, kernel_x = projection.shape[:3]
    sums = np.zeros((coils, coils, 2 * kernel_y - 1, 2 * kernel_x - 1), np.complex128)
    for y, x in np.ndindex(kernel_y, kernel_x):
        # the second offset runs backwards through the lags of the first
        rows, columns = slice(y, y + kernel_y), slice(x, x + kernel_x)
        sums[:, :, rows, columns] += projection[:, y, x, :, ::-1, ::-1]
    return sums


def _waves(kernel: int, grid: int) -> Complex128:
    """Transform rows ``(grid, 2 kernel - 1)`` that evaluate a kernel's lags on a centred grid."""
    lag = np.arange(1 - kernel, kernel)
    position = (np.arange(grid) - grid // 2) / grid
    return np.asarray(np.exp(-2j * np.pi * position[:, None] * lag), dtype=np.complex128)


def _dominant_eigenvectors(gram: Complex) -> Complex:
    """Unit eigenvectors ``(pixels, n)`` of the largest eigenvalues of Hermitian ``(pixels, n, n)``, by squaring.

    Repeated squaring of the normalised matrix separates the largest eigenvalue doubly exponentially; the column with the largest
    diagonal entry is then proportional to its eigenvector.
    """
    power = gram
    for _ in range(EIGENVECTOR_ITERATIONS // 2):
        trace = np.einsum("pii->p", power).real
        power = power / np.maximum(trace, np.finfo(np.float32).tiny)[:, None, None]
        power = np.matmul(power, power)
    diagonal = np.einsum("pii->pi", power).real
    column = np.take_along_axis(power, np.argmax(diagonal, axis=1)[:, None, None], axis=2)[:, :, 0]
    norm = np.linalg.norm(column, axis=1, keepdims=True)
    return np.asarray(column / np.maximum(norm, np.finfo(np.float32).tiny), dtype=np.complex64)


def _interpolate(maps: Complex, size: int, axis: int) -> Complex:
    """Linear interpolation of a centred grid to ``size`` points over the same field of view."""
    grid = maps.shape[axis]
    if grid == size:
        return maps
    position = np.clip((np.arange(size) - size // 2) * (grid / size) + grid // 2, 0, grid - 1)
    left = np.minimum(position.astype(np.intp), grid - 2)
    weight = (position - left).astype(np.float32)
    weight = weight.reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
    return np.asarray(
        maps.take(left, axis=axis) * (1 - weight) + maps.take(left + 1, axis=axis) * weight, dtype=np.complex64
    )
