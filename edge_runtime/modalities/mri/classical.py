"""The classical image: SENSE regularised by the expected power of every spatial frequency.

The regularisation weight is noise over signal power (a Wiener prior, the linear optimum for a Gaussian image model),
both taken from the data: it damps where noise wins and leaves the measured centre alone, and nothing needs tuning from
scan to scan.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_runtime.kernels import SensePlan
from edge_runtime.modalities.mri.fourier import Complex

LEAST_POWER = float(np.finfo(np.float32).tiny)
"""Stands for no noise at all, and for no signal above it, in whatever units samples come."""

LEAST_COLUMN = 0.02
"""Least power of a column, as a share of their mean."""

STEPS = 12
FREQUENCY_BINS = 12


def wiener_weight(
    power: npt.NDArray[np.float32], coils: int, measured: npt.NDArray[np.bool_], noise: float
) -> npt.NDArray[np.float32]:
    """Noise over expected signal power of the combined image's spectrum, ``(phase_encodes, columns)``.

    The power is taken as a product of a profile over the distance from the centre of k-space and one over the columns.

    Args:
        power: of the samples, summed over the coils, ``(phase_encodes, columns)``.
        measured: ``(phase_encodes,)``.
        noise: standard deviation of a complex sample.
    """
    lines = measured.size
    noise_power = max(noise**2, LEAST_POWER)
    distance = np.abs(np.arange(lines) - lines // 2).astype(np.float64)
    known = np.flatnonzero(measured)
    signal = np.maximum(power[known].mean(axis=1) - coils * noise_power, 0) + noise_power
    edges = np.concatenate([[0.0, 1.5], np.geomspace(3.0, lines / 2 + 1, FREQUENCY_BINS)])
    centres, levels = [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        inside = (distance[known] >= low) & (distance[known] < high)
        if inside.any():
            centres.append(float(distance[known][inside].mean()))
            levels.append(float(signal[inside].mean()))
    profile = np.exp(np.interp(distance, centres, np.log(levels)))
    columns = power[known].mean(axis=0) - coils * noise_power
    # Where noise hides most columns their mean is next to nothing, or less: half of what rises above it stands for the object then.
    mean = max(float(columns.mean()), float(np.maximum(columns, 0).mean()) / 2)
    shares = np.maximum(columns / mean, LEAST_COLUMN) if mean > 0 else np.ones_like(columns)
    return np.asarray(noise_power / (profile[:, None] * shares[None, :]), dtype=np.float32)


def regularised_sense(
    plan: SensePlan, power: npt.NDArray[np.float32], measured: npt.NDArray[np.bool_], noise: float
) -> Complex:
    """The regularised SENSE image of the plan's samples, complex ``(phase_encodes, columns)``; arguments as `wiener_weight`'s."""
    return plan.regularised(wiener_weight(power, plan.coils, measured, noise), STEPS)
