"""Which phase encodes a scan measures: the patterns used for retrospective undersampling, simulation and training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

DENSITY_WIDTH = 0.15
"""Half-width, as a share of k-space, at which the variable density has fallen to a half."""

NEAREST_CENTRE = 2
"""Lines by which uniform undersampling may miss the centre of k-space."""

ACS_FRACTION_BY_ACCELERATION = {2: 0.12, 4: 0.08, 6: 0.04}
"""Calibration share that goes with each nominal acceleration of the project's quality tables."""


def acs_lines(phase_encodes: int, acs_fraction: float) -> slice:
    """The contiguous central lines that make up the ACS; at least two."""
    lines = max(2, round(acs_fraction * phase_encodes))
    start = phase_encodes // 2 - lines // 2
    return slice(start, start + lines)


def variable_density(phase_encodes: int, acceleration: float, acs_fraction: float, rng: np.random.Generator) -> Mask:
    """Random lines whose density falls off as 1 / (1 + (k / width)^2), with a full centre.

    Returns:
        ``(phase_encodes,)``; about ``phase_encodes / acceleration`` entries are true, the ACS among them.
    """
    mask = np.zeros(phase_encodes, np.bool_)
    mask[acs_lines(phase_encodes, acs_fraction)] = True
    distance = np.abs(np.arange(phase_encodes) - phase_encodes // 2) / (DENSITY_WIDTH * phase_encodes)
    density = np.where(mask, 0.0, 1.0 / (1.0 + distance**2))
    wanted = max(0, round(phase_encodes / acceleration) - int(mask.sum()))
    mask[rng.choice(phase_encodes, wanted, replace=False, p=density / density.sum())] = True
    return mask


def uniform(phase_encodes: int, acceleration: int, acs_fraction: float) -> Mask:
    """Every ``acceleration``-th line, aligned with the centre of k-space, with a full centre. ``(phase_encodes,)``."""
    mask = np.zeros(phase_encodes, np.bool_)
    mask[(phase_encodes // 2) % acceleration :: acceleration] = True
    if acs_fraction > 0:
        mask[acs_lines(phase_encodes, acs_fraction)] = True
    return mask


def effective_acceleration(mask: Mask) -> float:
    """All lines over measured lines."""
    return float(mask.size / max(1, int(mask.sum())))


def contiguous_centre(measured: Mask) -> slice:
    """The run of measured lines that holds the centre of k-space; empty where the centre is not measured.

    Uniform undersampling without ACS may step over the very centre; the nearest line counts as the centre when it is at most
    `NEAREST_CENTRE` lines away.

    Args:
        measured: ``(phase_encodes,)``.
    """
    centre = measured.size // 2
    lines = np.flatnonzero(measured)
    if lines.size == 0:
        return slice(centre, centre)
    nearest = int(lines[np.argmin(np.abs(lines - centre))])
    if abs(nearest - centre) > NEAREST_CENTRE:
        return slice(centre, centre)
    missing = np.flatnonzero(~measured)
    below, above = missing[missing < nearest], missing[missing > nearest]
    start = int(below[-1]) + 1 if below.size else 0
    stop = int(above[0]) if above.size else measured.size
    return slice(start, stop)
