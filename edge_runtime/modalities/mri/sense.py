"""The SENSE operator in hybrid space and the linear solves on it.

Along the readout the data are measured whole and already transformed, so every image column is a problem of its own with one
Fourier axis, the phase encodes (Pruessmann et al., Magn Reson Med 42:952, 1999, in its Cartesian hybrid form). Arrays are laid out
``(columns, coils, phase_encodes)``: a block of columns stays in cache through a whole solve, and blocks are shared between threads.
Because every column has its own step lengths the result does not depend on the blocks or on the number of threads.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.fourier import Complex, forward, inverse, to_image, to_kspace

BLOCK_SAMPLES = 1 << 16
"""Complex samples in one block of columns: 0.5 MB, about what a core's second-level cache holds beside its temporaries."""

TINY = np.float32(1e-20)
"""Keeps an empty column's step length finite."""


class SenseProblem:
    """``A x = y`` with ``A = M F S``: sensitivities, phase-encode transform, mask. Also holds ``Aᴴ y``.

    All arrays are centred; only the mask is turned to FFT order, since ``Fᴴ M F`` commutes with a shift of the image.

    Args:
        hybrid: measured samples, zero elsewhere, ``(coils, phase_encodes, columns)``.
        sensitivities: ``(coils, phase_encodes, columns)``, unit root-sum-of-squares.
        mask: which samples count, ``(phase_encodes, columns)``.
        executor: where blocks of columns run; ``None`` runs them here, one after another.
    """

    def __init__(
        self, hybrid: Complex, sensitivities: Complex, mask: npt.NDArray[np.bool_], executor: Executor | None = None
    ) -> None:
        self.sensitivities = np.ascontiguousarray(sensitivities.transpose(2, 0, 1), dtype=np.complex64)
        self.conjugate = self.sensitivities.conj()
        self._executor = executor
        _, coils, lines = self.sensitivities.shape
        self._block = max(1, BLOCK_SAMPLES // (coils * lines))
        self._measure(hybrid, mask)

    def with_mask(self, hybrid: Complex, mask: npt.NDArray[np.bool_]) -> SenseProblem:
        """The same coils with another mask, without another copy of the sensitivities."""
        other = copy.copy(self)
        other._measure(hybrid, mask)
        return other

    def _measure(self, hybrid: Complex, mask: npt.NDArray[np.bool_]) -> None:
        self.measured = np.ascontiguousarray(np.fft.ifftshift(mask, axes=0).T[:, None, :], dtype=np.float32)
        masked = np.ascontiguousarray((hybrid * mask).transpose(2, 0, 1), dtype=np.complex64)
        columns, _, lines = masked.shape
        self.adjoint = np.empty((columns, lines), np.complex64)

        def combine(block: slice) -> None:
            self.adjoint[block] = np.sum(self.conjugate[block] * to_image(masked[block], axis=2), axis=1)

        self.for_blocks(combine)

    @property
    def shape(self) -> tuple[int, int]:
        """``(columns, phase_encodes)``."""
        return self.adjoint.shape[0], self.adjoint.shape[1]

    def for_blocks(self, work: Callable[[slice], None]) -> None:
        """Runs ``work`` on every block of columns."""
        columns = self.adjoint.shape[0]
        blocks = [slice(start, min(start + self._block, columns)) for start in range(0, columns, self._block)]
        if self._executor is None:
            for block in blocks:
                work(block)
        else:
            for _ in self._executor.map(work, blocks):
                pass

    def coil_spectra(self, image: Complex, block: slice = slice(None)) -> Complex:
        """``F S x`` of a block, without the mask and in FFT order of an uncentred image: ``(columns, coils, phase_encodes)``."""
        return forward(self.sensitivities[block] * image[:, None, :], axis=2)

    def normal(self, image: Complex, block: slice = slice(None)) -> Complex:
        """``Aᴴ A x`` of a block of columns ``(columns, phase_encodes)``."""
        spectrum = self.coil_spectra(image, block)
        spectrum *= self.measured[block]
        coil_images = inverse(spectrum, axis=2)
        coil_images *= self.conjugate[block]
        return np.asarray(np.add.reduce(coil_images, axis=1), dtype=np.complex64)

    def residuals(self, image: Complex, hybrid: Complex) -> Complex:
        """``F S x - y`` at every sample of hybrid space.

        Args:
            image: ``(columns, phase_encodes)``.
            hybrid: measured samples ``(coils, phase_encodes, columns)``.

        Returns:
            ``(coils, phase_encodes, columns)``; meaningful where samples were measured.
        """
        out = np.empty_like(hybrid)

        def subtract(block: slice) -> None:
            spectrum = to_kspace(self.sensitivities[block] * image[block, None, :], axis=2)
            out[:, :, block] = spectrum.transpose(1, 2, 0) - hybrid[:, :, block]

        self.for_blocks(subtract)
        return out

    def substituted(self, image: Complex, residual: Complex) -> npt.NDArray[np.float32]:
        """The magnitude image that agrees with every measured sample: in each coil's k-space the model's samples give way to the
        measured ones, and the coil images are combined by root-sum-of-squares.

        Args:
            image: ``(columns, phase_encodes)``.
            residual: `residuals` of it where samples were measured, zero elsewhere, ``(coils, phase_encodes, columns)``.

        Returns:
            ``(columns, phase_encodes)``.
        """
        out = np.empty(self.shape, np.float32)

        def combine(block: slice) -> None:
            correction = to_image(np.ascontiguousarray(residual[:, :, block].transpose(2, 0, 1)), axis=2)
            coil_images = self.sensitivities[block] * image[block, None, :] - correction
            out[block] = np.sqrt(np.sum(coil_images.real**2 + coil_images.imag**2, axis=1))

        self.for_blocks(combine)
        return out

    def data_consistent(self, prior: Complex, weight: float, steps: int) -> Complex:
        """``argmin |A x - y|² + weight |x - prior|²`` by conjugate gradients from ``prior``; ``(columns, phase_encodes)``."""
        out = np.empty_like(prior)
        scale = np.float32(weight)

        def solve(block: slice) -> None:
            out[block] = _conjugate_gradients(
                lambda x: self.normal(x, block) + scale * x,
                self.adjoint[block] + scale * prior[block],
                prior[block],
                steps,
            )

        self.for_blocks(solve)
        return out

    def regularised(self, spectral_weight: npt.NDArray[np.float32], steps: int) -> Complex:
        """``argmin |A x - y|² + Σ w |F x|²`` by preconditioned conjugate gradients; ``(columns, phase_encodes)``.

        Args:
            spectral_weight: ``w``, positive, ``(columns, phase_encodes)`` with the phase encodes centred.
            steps: iterations.
        """
        out = np.empty_like(self.adjoint)
        weights = np.fft.ifftshift(spectral_weight, axes=1)

        def solve(block: slice) -> None:
            weight = weights[block]
            preconditioner = 1 / np.sqrt(weight + np.maximum(self.measured[block, 0], np.float32(0.05)))

            def scaled(x: Complex) -> Complex:
                return inverse(forward(x, axis=1) * preconditioner, axis=1)

            def operator(x: Complex) -> Complex:
                image = scaled(x)
                penalty = inverse(weight * forward(image, axis=1), axis=1)
                return scaled(self.normal(image, block) + penalty)

            start = np.zeros_like(self.adjoint[block])
            out[block] = scaled(_conjugate_gradients(operator, scaled(self.adjoint[block]), start, steps))

        self.for_blocks(solve)
        return out


def _conjugate_gradients(
    operator: Callable[[Complex], Complex], right_side: Complex, start: Complex, steps: int
) -> Complex:
    """Conjugate gradients on each row of ``(columns, phase_encodes)``, a problem of its own (Hestenes and Stiefel, 1952)."""
    x: Complex = start.copy()
    residual = right_side - operator(x)
    direction = residual.copy()
    energy = _inner(residual, residual)
    for _ in range(steps):
        image = operator(direction)
        step = (energy / np.maximum(_inner(direction, image), TINY))[:, None]
        x += step * direction
        residual -= step * image
        previous, energy = energy, _inner(residual, residual)
        direction = residual + (energy / np.maximum(previous, TINY))[:, None] * direction
    return x


def _inner(a: Complex, b: Complex) -> npt.NDArray[np.float32]:
    """Real part of the inner product of every row; ``(columns,)``."""
    product = np.einsum("xy,xy->x", a.real, b.real) + np.einsum("xy,xy->x", a.imag, b.imag)
    return np.asarray(product, dtype=np.float32)
