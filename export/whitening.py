"""Noise as a scanner has it: correlated between coils, and known from a noise scan. Training only sees white noise."""

from __future__ import annotations

import numpy as np

from edge_runtime.modalities.mri.noise import noise_model
from export.simulate.receive import KSpace, complex_noise

NOISE_SCAN_SAMPLES = 4096

NOISE_LEVELS = (0.004, 0.1)
"""Standard deviation of a complex sample before whitening, least and most, as a share of the object's brightness."""


def whitened(kspace: KSpace, rng: np.random.Generator, levels: tuple[float, float] = NOISE_LEVELS) -> KSpace:
    """Adds noise that is correlated between coils, and whitens by what a noise scan tells of it."""
    coils = kspace.shape[0]
    mixing = np.eye(coils) + 0.2 * complex_noise((coils, coils), rng)
    mixing = mixing * np.exp(rng.uniform(np.log(levels[0]), np.log(levels[1])))
    noisy = kspace + np.einsum("ij,jyx->iyx", mixing, complex_noise(kspace.shape, rng))
    model = noise_model((mixing @ complex_noise((coils, NOISE_SCAN_SAMPLES), rng)).astype(np.complex64), 0.0)
    return np.asarray(np.einsum("ij,jyx->iyx", model.whitening, noisy), dtype=np.complex64)
