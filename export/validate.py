"""How a bundle fares on scans it was not trained on: other people, other coil, phase and noise generators.

The noise is correlated between coils and known from a simulated noise scan, as on the device; training only sees white noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from edge_runtime.bundle import Bundle
from edge_runtime.errors import NoImage
from edge_runtime.hil.quality import Magnitude, Mask, Quality, compare_within
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.noise import NoiseLevel, noise_model
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, reconstruct
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import prepare_model
from edge_runtime.scan import Method
from export.simulate.pool import simulate_acquisition
from export.simulate.receive import KSpace, complex_noise
from export.simulate.volumes import Volume

NOISE_SCAN_SAMPLES = 4096


@dataclass(frozen=True)
class Row:
    """Quality of one method on one validation scan."""

    scan: int
    acceleration: int
    method: str
    quality: Quality


def validate(
    bundle: Bundle, volumes: list[Volume], count: int, seed: int, foreground: Callable[[Magnitude], Mask]
) -> Iterator[Row]:
    """Reconstructs ``count`` validation draws at R = 2, 4 and 6 with every method and precision, one after another.

    Args:
        foreground: the mask of a reference image ``(rows, columns)``.
    """
    profile = load_profile(DEFAULT_PROFILE)
    models = {precision: prepare_model(bundle, profile, precision).reconstruction for precision in sorted(bundle.forms)}
    plans = Plans(Workers(profile.threads))
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        kspace = whitened(simulate_acquisition(volumes, rng, phantom_share=0.0, validation=True), rng)
        images = to_image(to_image(kspace, axis=2), axis=1)
        reference = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
        where = foreground(reference)
        for acceleration, acs in ACS_FRACTION_BY_ACCELERATION.items():
            measured = variable_density(kspace.shape[1], acceleration, acs, rng)
            hybrid = to_image(kspace, axis=2) * measured[None, :, None]
            samples = SliceSamples(hybrid, measured, NoiseLevel(1.0, "noise scan"), (index,))
            try:
                calibration = calibrate(hybrid, measured, plans)
            except NoImage:
                continue
            for precision, model in models.items():
                for method, made in reconstruct(samples, calibration, model, plans):
                    name = f"learned {precision}" if method is Method.LEARNED else method.value
                    if method is Method.LEARNED or precision == next(iter(models)):
                        yield Row(index, acceleration, name, compare_within(made.image, reference, where))


def whitened(kspace: KSpace, rng: np.random.Generator) -> KSpace:
    """Adds noise that is correlated between coils, and whitens by what a noise scan tells of it."""
    coils = kspace.shape[0]
    mixing = np.eye(coils) + 0.2 * complex_noise((coils, coils), rng)
    mixing = mixing * np.exp(rng.uniform(np.log(0.004), np.log(0.1)))
    noisy = kspace + np.einsum("ij,jyx->iyx", mixing, complex_noise(kspace.shape, rng))
    model = noise_model((mixing @ complex_noise((coils, NOISE_SCAN_SAMPLES), rng)).astype(np.complex64), 0.0)
    return np.asarray(np.einsum("ij,jyx->iyx", model.whitening, noisy), dtype=np.complex64)
