"""The learned reconstruction: an unrolled network whose physics is here and whose regulariser is one real-valued graph.

Mirrors `export.families.unrolled`, which trained it; a test holds the two together. After
Aggarwal et al. (MoDL), IEEE TMI 38:394, 2019.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session, Tensor
from edge_runtime.kernels import SensePlan
from edge_runtime.modalities.mri.fourier import Complex

CHANNELS = 6
"""Current and first estimate (real, imaginary), logarithm of the noise level, progress."""


@dataclass(frozen=True)
class LearnedReconstruction:
    """A regulariser made ready on an engine, with the settings it was trained with."""

    settings: UnrolledSettings
    regulariser: Session

    def run(self, plan: SensePlan, first: Complex, scale: float, noise: float) -> Complex:
        """The image, complex ``(phase_encodes, columns)``, in the units of the samples.

        Args:
            plan: holds what the network may see.
            first: the classical image of the same samples, ``(phase_encodes, columns)``, where the network starts.
            scale: divides the image down to the range the network was trained on (`normalise.image_scale`).
            noise: standard deviation of a complex sample.
        """
        settings = self.settings
        weights = self.weights(scale, noise)
        lines, columns = plan.shape
        batch = np.zeros((1, CHANNELS, -(-lines // settings.multiple) * settings.multiple,
                          -(-columns // settings.multiple) * settings.multiple), np.float32)  # fmt: skip
        inside = batch[0, :, :lines, :columns]
        inside[4] = condition_of_noise(noise / scale)
        image: Complex = first.copy()
        prior: Complex = np.empty_like(first)
        _pack(image, scale, inside[2:4])
        for iteration in range(settings.iterations):
            _pack(image, scale, inside[0:2])
            inside[5] = iteration / settings.iterations
            correction = self.regulariser.run(batch)[0, :, :lines, :columns]
            _add(image, correction, scale, prior)
            plan.data_consistent(prior, weights[iteration], settings.cg_steps, out=image)
        return image

    def weights(self, scale: float, noise: float) -> list[float]:
        """λ of every iteration for a scan of this noise."""
        condition = condition_of_noise(noise / scale)
        return [math.exp(intercept + slope * condition) for intercept, slope in self.settings.log_weights]


def condition_of_noise(noise_level: float) -> float:
    """The noise level, in units of the normalised image, as the network is told it."""
    return 0.25 * math.log10(max(noise_level, 1e-4) / 0.05)


def _pack(image: Complex, scale: float, planes: npt.NDArray[np.float32]) -> None:
    """Writes an image ``(phase_encodes, columns)`` as two planes ``(2, phase_encodes, columns)``."""
    np.divide(image.real, np.float32(scale), out=planes[0])
    np.divide(image.imag, np.float32(scale), out=planes[1])


def _add(image: Complex, planes: Tensor, scale: float, out: Complex) -> None:
    """The image plus a correction ``(2, phase_encodes, columns)``."""
    np.multiply(planes[0], np.float32(scale), out=out.real)
    np.multiply(planes[1], np.float32(scale), out=out.imag)
    out += image
