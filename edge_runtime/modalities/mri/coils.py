"""What is learned from the autocalibration region (ACS): coil compression and coil sensitivities.

Sensitivities follow ESPIRiT (Uecker et al., Magn Reson Med 71:990, 2014): the projection onto the signal subspace of the
calibration matrix becomes one small Hermitian matrix a pixel, whose dominant eigenvector holds the coil sensitivities there. The
kernels are short, so the maps are band-limited and are computed on a coarse grid. Two things differ from ESPIRiT's usual form. The
subspace has no hard edge: its projection is a smooth function of the calibration matrix, so that rounding can't move a kernel in or
out of it (with a hard edge, the number of threads of a matrix product made one scan's error 5 % larger or smaller). It is
``G² (G² + τ²)⁻¹``, a Tikhonov filter of second order, where G is the calibration matrix's Gram matrix and τ the eigenvalue that
counts half; in double precision, because the eigenvalues that matter span seven decades after squaring. And nothing is cropped
where the eigenvalue is small, which removes signal at the rim of the head; what is air is told apart more cautiously, in
`edge_runtime.modalities.mri.support`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex, centre_slice

MAP_GRID = 48
"""Points along each axis on which maps are computed before interpolation; kernels of 4 need at least 7."""

KERNEL = 4
"""Longest calibration kernel along either axis; longer ones starve on the few lines of a small ACS."""

CALIBRATION_COLUMNS = 24
"""Low spatial frequencies along the readout that take part in calibration."""

SUBSPACE_THRESHOLD = 0.015
"""Singular values of this share of the largest count half; those of half and double this, 0.06 and 0.94."""


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


def estimate_sensitivities(
    acs_kspace: Complex, phase_encodes: int, columns: int, plans: Plans, weight: npt.NDArray[np.float32] | None = None
) -> Complex:
    """Coil sensitivities from the ACS, with unit root-sum-of-squares at every pixel.

    The phase of the first coil is the reference, so the first coil should be the strongest (see `compression_matrix`).

    Args:
        acs_kspace: ``(coils, acs_lines, samples)``, contiguous lines around the centre of k-space, both axes in k-space.
        phase_encodes: image size along the phase-encode axis.
        columns: image size along the readout; the field of view of ``acs_kspace`` along the readout is the image's.
        weight: multiplies the maps, ``(phase_encodes, columns)``.

    Returns:
        ``(coils, phase_encodes, columns)``.
    """
    coils, lines, samples = acs_kspace.shape
    block = np.ascontiguousarray(acs_kspace[:, :, centre_slice(samples, min(samples, CALIBRATION_COLUMNS))])
    acs, image = block.shape[1:], (phase_encodes, columns)
    kernel = min(KERNEL, max(1, (lines + 1) // 2)), min(KERNEL, acs[1])
    grid = min(MAP_GRID, phase_encodes), min(MAP_GRID, columns)
    with plans.sensitivities(coils, acs, kernel, grid, image) as plan:
        return plan.estimate(block, SUBSPACE_THRESHOLD, weight)
