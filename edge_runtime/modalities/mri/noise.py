"""How strong the noise is: from a noise scan where there is one, from the corners of k-space where there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.fourier import Complex, to_kspace

OUTER_SHARE = 0.25
"""Share of the measured lines, the outermost ones, from which noise is estimated."""

CORNER_SHARE = 0.1
"""Share of a readout, at either end, from which noise is estimated."""

MEDIAN_OF_UNIT_NOISE = float(np.sqrt(np.log(2.0)))
"""Median magnitude of complex Gaussian noise of unit variance (a Rayleigh variable)."""


@dataclass(frozen=True, slots=True)
class NoiseLevel:
    """Standard deviation of a complex sample, real and imaginary part together, and how it is known."""

    standard_deviation: float
    source: str


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """A noise scan's result.

    Attributes:
        whitening: ``(coils, coils)``; applied to samples it makes the noise white with unit variance.
        sample_time_us: dwell time of the noise readouts; 0 where the scanner did not say.
    """

    whitening: Complex
    sample_time_us: float

    def whitening_for(self, sample_time_us: float) -> Complex:
        """The matrix for readouts of another dwell time: noise variance goes with the bandwidth, 1 / dwell time."""
        if self.sample_time_us > 0 and sample_time_us > 0:
            return np.asarray(self.whitening * np.sqrt(sample_time_us / self.sample_time_us), dtype=np.complex64)
        return self.whitening


def noise_model(samples: Complex, sample_time_us: float) -> NoiseModel:
    """Whitening from noise samples ``(coils, samples)`` by the inverse Cholesky factor of their covariance.

    Raises:
        ValueError: too few samples, or a coil without noise (disconnected).
    """
    coils, count = samples.shape
    if count < 8 * coils:
        raise ValueError(f"{count} noise samples for {coils} coils; at least {8 * coils} are needed")
    double = samples.astype(np.complex128)
    double -= double.mean(axis=1, keepdims=True)
    covariance = double @ double.conj().T / (count - 1)
    variances = covariance.diagonal().real
    if not np.all(variances > 1e-8 * variances.max()):
        raise ValueError(f"coil {int(np.argmin(variances))} has no noise; is it connected?")
    try:
        factor = np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        raise ValueError("the noise covariance is singular; are two coils the same signal?") from None
    return NoiseModel(np.linalg.inv(factor).astype(np.complex64), sample_time_us)


def estimate_noise(hybrid: Complex, measured: npt.NDArray[np.bool_]) -> NoiseLevel:
    """Noise of data without a noise scan: the median magnitude in the corners of k-space, where there is least signal.

    The air beside the head would be darker still, but receivers filter the edges of the readout's field of view, so noise there is
    not the noise in the image (a factor of 2.4 was seen on real scans).

    Args:
        hybrid: ``(coils, phase_encodes, columns)``.
        measured: ``(phase_encodes,)``.
    """
    lines = np.flatnonzero(measured)
    distance = np.abs(lines - measured.size // 2)
    outer = lines[np.argsort(distance, kind="stable")[-max(1, round(OUTER_SHARE * lines.size)) :]]
    kspace = to_kspace(np.asarray(hybrid)[:, outer], axis=2)
    edge = max(1, round(CORNER_SHARE * kspace.shape[2]))
    ends = np.abs(np.stack([kspace[:, :, :edge], kspace[:, :, -edge:]]))
    weaker, stronger = sorted(float(np.median(end)) for end in ends)
    # One end of an asymmetric echo was not measured and holds zeros.
    median = float(np.median(ends)) if weaker > stronger / 2 else stronger
    return NoiseLevel(median / MEDIAN_OF_UNIT_NOISE, "estimated from the corners of k-space")
