"""Training draws: from a noise-free acquisition of the pool to what the device would see, and the image it should make of it.

Everything between the readouts and the network happens here as it does on the device: the same compression, the same
sensitivities estimated from the same noisy ACS, the same held-out samples, the same first image and normalisation. But for the slow
phase: the first training shows the network all that was drawn; the second, and the device, what is left of it
(`edge_runtime.modalities.mri.phase`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri import sampling
from edge_runtime.modalities.mri.fourier import to_image, to_kspace
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.phase import slow_phase
from edge_runtime.modalities.mri.reconstruct import SliceSamples, calibrate, compress, first_image
from edge_runtime.modalities.mri.sampling import Mask, contiguous_centre
from edge_runtime.trust.heldout import hold_out
from export.simulate.receive import KSpace, complex_noise

Complex = npt.NDArray[np.complex64]

HOT_SPOT_SHARE = 1 / 3
"""Of the second training's scans."""

HOT_SPOT_RADII, HOT_SPOT_GAIN, HOT_SPOT_EDGE = (0.04, 0.15), (0.5, 3), 12
"""Of the field of view; added to 1; steepness over a radius, an edge of a sixth of it."""

LEAST_NOISE, MOST_NOISE = 0.002, 0.13
"""Standard deviation of a complex sample, as a share of the object's brightness; scanners of 0.05 T are near the upper end."""


@dataclass(frozen=True)
class Draw:
    """One training or validation problem, normalised so that the ACS image's 99th percentile is 1.

    Attributes:
        hybrid: measured samples, zero elsewhere, ``(coils, phase_encodes, columns)``.
        sensitivities: ``(coils, phase_encodes, columns)``, zero in the air.
        measured: which samples were measured, ``(phase_encodes, columns)``.
        visible: which of them the network may see.
        first: the classical image of what the network may see, where it starts, ``(phase_encodes, columns)``.
        target: the fully sampled image combined with the same sensitivities, noise included, ``(phase_encodes, columns)``.
        reference: root-sum-of-squares of the fully sampled coil images, ``(phase_encodes, columns)``.
        noise_level: standard deviation of a complex sample, as the device would reckon with it.
    """

    hybrid: Complex
    sensitivities: Complex
    measured: npt.NDArray[np.bool_]
    visible: npt.NDArray[np.bool_]
    first: Complex
    target: Complex
    reference: npt.NDArray[np.float32]
    noise_level: float


def draw_problem(kspace: KSpace, rng: np.random.Generator, columns: int) -> Draw:
    """Noise, sampling, calibration and a band of ``columns`` columns from a noise-free ``(coils, phase_encodes, samples)``.

    The target keeps the noise of the full acquisition: what is asked of the network is the image that the fully sampled scan would
    have shown, not a smoother one.

    Raises:
        NoImage: the centre holds no signal, as in an empty phantom.
    """
    kspace = _augment(kspace, rng)
    noise_level = float(np.exp(rng.uniform(np.log(LEAST_NOISE), np.log(MOST_NOISE))))
    full = to_image(kspace + np.float32(noise_level) * complex_noise(kspace.shape, rng), axis=2)
    measured = _draw_mask(full.shape[1], rng)
    # Half of the scans come with a noise scan, which tells the noise exactly; of the others it is estimated.
    known = NoiseLevel(noise_level, "noise scan") if rng.random() < 0.5 else None
    samples = SliceSamples(full * measured[None, :, None], measured, known, (int(rng.integers(1 << 32)),))
    plans = Plans(Workers(threads=1))
    calibration = calibrate(samples.hybrid, measured, plans)
    compressed = compress(samples, calibration, plans, _any_line)
    visible = measured[:, None] & ~compressed.held_out
    power = np.sum(compressed.hybrid.real**2 + compressed.hybrid.imag**2, axis=0) * visible
    with plans.sense(*compressed.hybrid.shape) as plan:
        plan.set_maps(calibration.sensitivities)
        plan.set_samples(compressed.hybrid, visible)
        first, level = first_image(plan, compressed.hybrid, power, measured, visible, compressed.noise)

    left = int(rng.integers(0, max(1, full.shape[2] - columns + 1)))
    band = slice(left, left + columns)
    scale = calibration.scale
    hybrid = np.ascontiguousarray(compressed.hybrid[:, :, band] / np.float32(scale))
    sensitivities = np.ascontiguousarray(calibration.sensitivities[:, :, band])
    visible = np.ascontiguousarray(visible[:, band])
    coil_images = to_image(np.tensordot(calibration.compression, full[:, :, band], axes=1) / np.float32(scale), axis=1)
    return Draw(
        hybrid,
        sensitivities,
        np.repeat(measured[:, None], visible.shape[1], axis=1),
        visible,
        first[:, band] / np.float32(scale),
        np.sum(sensitivities.conj() * coil_images, axis=0),
        np.sqrt(np.sum(coil_images.real**2 + coil_images.imag**2, axis=0)),
        level / scale,
    )


def with_hot_spot(kspace: KSpace, rng: np.random.Generator) -> KSpace:
    """A noise-free acquisition ``(coils, phase_encodes, samples)``, or by chance one in which whatever lies in an ellipse shines: a
    tumour with its oedema, fat, or what is next to a coil. Scans are brought to the brightness of their brightest hundredth
    (`normalise.image_scale`), so that all else is then darker than in the volumes of healthy people, and noisier for it.
    """
    if rng.random() >= HOT_SPOT_SHARE:
        return kspace
    lines, samples = kspace.shape[1:]
    row, column = np.ogrid[-0.5 : 0.5 : lines * 1j, -0.5 : 0.5 : samples * 1j]
    middle, radii = rng.uniform(-0.25, 0.25, 2), rng.uniform(*HOT_SPOT_RADII, 2)
    distance = np.hypot((row - middle[0]) / radii[0], (column - middle[1]) / radii[1])
    factor = 1 + rng.uniform(*HOT_SPOT_GAIN) / (1 + np.exp(np.minimum(HOT_SPOT_EDGE * (distance - 1), 50)))
    image = to_image(to_image(kspace, axis=1), axis=2) * factor.astype(np.float32)
    return to_kspace(to_kspace(image, axis=1), axis=2)


def phase_shown(first: Complex, measured: Mask) -> Complex:
    """What a device takes out of a draw's images, ``(phase_encodes, columns)``: the slow phase of the first one.

    Args:
        first: see `Draw`.
        measured: likewise.
    """
    acs = contiguous_centre(measured[:, 0])
    return slow_phase(first, acs.stop - acs.start)


def _any_line(measured: Mask, calibration: slice, columns: int, rng: np.random.Generator) -> Mask:
    """Held-out samples, each line as likely as on the device; the weights that were trained with these draws hang on them."""
    return hold_out(measured, calibration, columns, rng.choice)


def _augment(kspace: KSpace, rng: np.random.Generator) -> KSpace:
    """Mirrors and conjugates; subsets of coils."""
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
