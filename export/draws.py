"""Training draws: from a noise-free acquisition of the pool to what the device would see, and the image it should make of it.

Everything between the readouts and the network happens here as it does on the device: the same compression, the same
sensitivities estimated from the same noisy ACS, the same held-out samples, the same normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri import sampling
from edge_runtime.modalities.mri.classical import STEPS as CLASSICAL_STEPS
from edge_runtime.modalities.mri.classical import wiener_weight
from edge_runtime.modalities.mri.coils import compression_matrix, estimate_sensitivities
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.normalise import image_scale
from edge_runtime.modalities.mri.sense import SenseProblem
from edge_runtime.trust.heldout import choose_held_out
from export.simulate.receive import KSpace, complex_noise

Complex = npt.NDArray[np.complex64]


@dataclass(frozen=True)
class Draw:
    """One training or validation problem, normalised so that the ACS image's 99th percentile is 1.

    Attributes:
        hybrid: measured samples, zero elsewhere, ``(coils, phase_encodes, columns)``.
        sensitivities: ``(coils, phase_encodes, columns)``.
        first: the classical image of what the network may see, where it starts, ``(phase_encodes, columns)``.
        mask: what the network may see, ``(phase_encodes, columns)``.
        target: the fully sampled image combined with the same sensitivities, noise included, ``(phase_encodes, columns)``.
        noise_level: standard deviation of a complex sample.
    """

    hybrid: Complex
    sensitivities: Complex
    first: Complex
    mask: npt.NDArray[np.bool_]
    target: Complex
    noise_level: float


def draw_problem(kspace: KSpace, rng: np.random.Generator, columns: int) -> Draw:
    """Noise, sampling, calibration and a band of ``columns`` columns from a noise-free ``(coils, phase_encodes, samples)``.

    The target keeps the noise of the full acquisition: what is asked of the network is the image that the fully sampled scan would
    have shown, not a smoother one.
    """
    kspace = _augment(kspace, rng)
    noise_level = float(np.exp(rng.uniform(np.log(0.004), np.log(0.13))))
    kspace = kspace + np.float32(noise_level) * complex_noise(kspace.shape, rng)
    lines = kspace.shape[1]
    measured = _draw_mask(lines, rng)
    acs = kspace[:, sampling.contiguous_centre(measured)]
    matrix = compression_matrix(acs, kspace.shape[0])
    kspace = np.einsum("vc,cyx->vyx", matrix, kspace)
    acs = kspace[:, sampling.contiguous_centre(measured)]
    sensitivities = estimate_sensitivities(acs, lines, kspace.shape[2])
    hybrid = to_image(kspace, axis=2)
    scale = image_scale(hybrid, sampling.contiguous_centre(measured))
    held_out = choose_held_out(measured, kspace.shape[2], rng)
    left = int(rng.integers(0, max(1, kspace.shape[2] - columns + 1)))
    band = slice(left, left + columns)
    visible = measured[:, None] & ~held_out
    weight = wiener_weight(hybrid * visible, measured, noise_level)[band]
    hybrid, sensitivities = hybrid[:, :, band] / scale, sensitivities[:, :, band]
    seen = np.ascontiguousarray(hybrid * visible[:, band], np.complex64)
    first = SenseProblem(seen, sensitivities, visible[:, band]).regularised(weight, CLASSICAL_STEPS).T
    target = np.sum(sensitivities.conj() * to_image(hybrid, axis=1), axis=0)
    return Draw(
        seen,
        np.ascontiguousarray(sensitivities),
        np.ascontiguousarray(first),
        visible[:, band],
        target,
        noise_level / scale,
    )


def _augment(kspace: KSpace, rng: np.random.Generator) -> KSpace:
    """Mirrors, conjugates and turns by multiples of 90 degrees; subsets of coils."""
    if rng.random() < 0.5:
        kspace = kspace.transpose(0, 2, 1)
    if rng.random() < 0.5:
        kspace = np.conj(kspace)
    if rng.random() < 0.5:
        kspace = kspace[:, ::-1, :]
    if kspace.shape[0] > 2 and rng.random() < 0.3:
        kspace = kspace[: int(rng.integers(1, kspace.shape[0] + 1))]
    return kspace


def _draw_mask(lines: int, rng: np.random.Generator) -> sampling.Mask:
    """Mostly variable density at R of 1.6 to 8, some uniform with ACS, some partial scans as previews see them."""
    acs_fraction = rng.uniform(0.035, 0.15)
    kind = rng.random()
    acceleration = float(np.exp(rng.uniform(np.log(1.6), np.log(8.0))))
    if kind < 0.65:
        acs_fraction = min(acs_fraction, 0.6 / acceleration)
        return sampling.variable_density(lines, acceleration, acs_fraction, rng)
    if kind < 0.85:
        return sampling.uniform(lines, int(np.clip(round(acceleration), 2, 6)), acs_fraction)
    full = sampling.variable_density(lines, float(rng.uniform(1.0, 4.0)), acs_fraction, rng)
    distance = np.abs(np.arange(lines) - lines // 2)
    reach = rng.uniform(0.3, 1.0) * lines / 2
    if rng.random() < 0.5:
        return full & (distance < reach)  # centre-out, stopped early
    return full & (np.arange(lines) < lines // 2 + reach)  # linear, stopped past the centre
