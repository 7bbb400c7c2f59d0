"""Whether runs of a network that were made before the last samples came may stay.

A run that lacked a few samples sees nearly the image that it would have seen with them, and what it lacked comes in with the
data consistency after it, which always has all samples that are there. By how much the finished image differs is foretold from
the power of the samples that each run did not know, as a share of all: what the last run lacked passes through no other and counts
half, those before it share the other half. Over simulated and measured scans, orders and lags, images differed by at most 0.82 of
that, half of them by less than 0.41 (`benchmarks.warm_start`, docs/benchmarks.md).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.proposal import Begun, Mask

NOISE_DRIFT = 0.05
"""Relative change of the noise estimate at which an image is begun anew: it weighs what the network says against the samples."""


def goes_on(
    begun: Begun,
    runs: int,
    visible: Mask,
    power: npt.NDArray[np.float32],
    scale: float,
    noise: NoiseLevel,
    tolerance: float,
) -> bool:
    """Whether an image that was begun may be finished with the samples that are there now.

    Not where a run knew a sample that is held out by now, which would have it confirm itself; nor where brightness or noise have
    changed; nor where the image may come out otherwise than made at once.

    Args:
        runs: of the network, that an image takes.
        visible: samples that the network may see now, ``(phase_encodes, columns)``.
        power: of those samples, summed over the coils, zero elsewhere, likewise.
        scale: brightness of the ACS image.
        tolerance: relative difference of the image that counts as none.
    """
    return (
        not (begun.visible[-1] & ~visible).any()
        and begun.scale == scale
        and abs(noise.standard_deviation - begun.noise) <= NOISE_DRIFT * begun.noise
        and foretold_difference(begun, runs, visible, power) <= tolerance
    )


def foretold_difference(begun: Begun, runs: int, visible: Mask, power: npt.NDArray[np.float32]) -> float:
    """Relative difference that a finished image has at most, about, from one whose runs all knew every sample; arguments as
    `goes_on`'s. Infinite where there is no signal to compare with."""
    whole = float(power.sum(dtype=np.float64))
    if not 0 < whole < math.inf:
        return math.inf
    unknown = [math.sqrt(float(power[visible & ~known].sum(dtype=np.float64)) / whole) for known in begun.visible]
    if runs == 1:
        return sum(unknown)
    weights = [0.5 if run == runs - 1 else 0.5 / (runs - 1) for run in range(len(unknown))]
    return sum(weight * share for weight, share in zip(weights, unknown))
