"""What small changes of the measured scan do to the image: noise that grows, small structures that are lost.

Instabilities of learned reconstruction show as tiny changes of the samples that become large ones in the image, and as small
structures that never reach it (Antun et al., PNAS 117:30088, 2020). Both are measured through the whole reconstruction, network,
held-out samples, data consistency and all, and beside the classical one of the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from edge_runtime.hil.quality import Magnitude
from edge_runtime.kernels import Plans
from edge_runtime.modalities.mri.fourier import Complex, to_image, to_kspace
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.modalities.mri.reconstruct import compress
from export.qualification.cases import Case
from export.qualification.judge import ZERO_FILLED, images
from export.simulate.receive import complex_noise

LEAST_NOISE = 0.002
"""As a share of the object's brightness: scans with less noise are disturbed by that much, which nobody would see."""

NOISE_DRAWS = 3
STRUCTURES = 6
RADIUS_PIXELS = 2.0
CONTRASTS = (-0.3, 0.3)
"""Of the brightness that is there."""


@dataclass(frozen=True)
class Stability:
    """Of one method on one case.

    Attributes:
        case, group: of which scan.
        noise_gain: change of the image over the change of the samples when as much noise is added as there is already, both
            root-mean-square, of the largest of some draws. 1 is what a fully sampled, unitary reconstruction does.
        contrast_kept: share of a small structure's contrast that reaches the image, of the worst of some structures.
    """

    case: str
    group: str
    method: str
    noise_gain: float
    contrast_kept: float

    def __post_init__(self) -> None:
        for name in ("noise_gain", "contrast_kept"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(
                    f"{self.case}, {self.method}: {name} = {getattr(self, name)}: a finite number is expected"
                )


def stabilities(case: Case, models: Mapping[str, Learned], plans: Plans) -> list[Stability]:
    """Of every method but zero-filling.

    Raises:
        ValueError: a value is not finite.
    """
    rng = np.random.default_rng([case.name.seed, case.name.index, 1])
    usual = _images(case, case.full, models, plans)
    noise = _noise_of(case, plans)
    gains: dict[str, list[float]] = {method: [] for method in usual}
    for _ in range(NOISE_DRAWS):
        change = np.float32(noise) * complex_noise(case.full.shape, rng)
        for method, image in _images(case, case.full + change, models, plans).items():
            gains[method].append(float(np.sqrt(np.mean((image - usual[method])[case.where] ** 2)) / noise))
    kept: dict[str, list[float]] = {method: [] for method in usual}
    inside = np.argwhere(case.where)
    for number in range(STRUCTURES):
        centre = inside[int(rng.integers(len(inside)))]
        pattern = _disc(case.reference.shape, centre) * CONTRASTS[number % len(CONTRASTS)]
        with_it = to_kspace(to_image(case.full, axis=1) * (1 + pattern), axis=1)
        wanted = pattern * case.reference
        near = _disc(case.reference.shape, centre, 2 * RADIUS_PIXELS) > 0
        for method, image in _images(case, np.asarray(with_it, np.complex64), models, plans).items():
            got = image - usual[method]
            kept[method].append(float(np.sum((got * wanted)[near]) / np.sum((wanted * wanted)[near])))
    return [
        Stability(str(case.name), case.name.group, method, max(gains[method]), min(kept[method])) for method in usual
    ]


def _noise_of(case: Case, plans: Plans) -> float:
    """Standard deviation of a complex sample, that the scan has or is estimated to have, or the least that disturbs it."""
    noise = compress(case.samples, case.calibration, plans).noise.standard_deviation
    return max(noise, LEAST_NOISE * float(np.percentile(case.reference[case.where], 99)))


def _images(case: Case, full: Complex, models: Mapping[str, Learned], plans: Plans) -> dict[str, Magnitude]:
    """Of other samples with the same calibration, which so small a change would hardly alter."""
    hybrid = full * case.samples.measured[None, :, None]
    changed = replace(case, samples=replace(case.samples, hybrid=np.ascontiguousarray(hybrid)))
    made = images(changed, models, plans)
    return {method: image for method, (image, _) in made.items() if method != ZERO_FILLED}


def _disc(shape: tuple[int, ...], centre: np.ndarray, radius: float = RADIUS_PIXELS) -> Magnitude:
    """1 in a disc ``shape`` around a pixel, 0 outside, its edge a pixel wide."""
    rows, columns = (np.arange(size) for size in shape)
    distance = np.hypot(rows[:, None] - centre[0], columns[None, :] - centre[1])
    return np.asarray(np.clip(radius + 0.5 - distance, 0, 1), np.float32)
