"""What the tests of SENSE plans share: geometries of slices and volumes, images for them, and what counts as equal."""

from __future__ import annotations

from typing import Any

import numpy as np
from simulated import complex_noise

from edge_runtime.kernels import SensePlan, VolumeSensePlan, Where, Workers

running_on: Where = "cpu"
"""What plans are made for; the fixture `kernels_on` sets it."""


def sense_plan(shape: tuple[int, int, int], threads: int = 1) -> SensePlan:
    """``(coils, phase_encodes, columns)``"""
    return SensePlan(Workers(threads), *shape, device=running_on)


def volume_plan(shape: tuple[int, int, int, int], threads: int = 1) -> VolumeSensePlan:
    """``(coils, partitions, phase_encodes, columns)``"""
    return VolumeSensePlan(Workers(threads), *shape, device=running_on)


SLICES = [
    (1, 8, 3),
    (1, 7, 1),
    (2, 6, 5),
    (3, 9, 4),
    (4, 16, 9),
    (8, 5, 2),
    (3, 15, 17),
    (2, 11, 8),
    (2, 1, 3),
    (5, 64, 8),
]
"""``(coils, phase_encodes, columns)``; even and odd, a prime, more columns than a vector holds."""

VOLUMES = [
    (1, 4, 8, 3),
    (2, 1, 9, 8),
    (2, 6, 1, 3),
    (1, 1, 1, 1),
    (3, 5, 7, 9),
    (2, 11, 13, 2),
    (4, 16, 12, 17),
    (2, 23, 3, 8),
    (8, 3, 22, 1),
    (2, 2, 3, 71),
]
"""``(coils, partitions, phase_encodes, columns)``; even, odd and prime, a single one of each, more columns than a vector or a warp
holds."""


def image_like(plan: Any, seed: int = 1) -> Any:
    """A random image of the plan's shape."""
    return complex_noise(plan.shape, np.random.default_rng(seed))


def assert_close(ours: Any, theirs: Any, tolerance: float = 3e-6) -> None:
    """To rounding, in shares of the largest element."""
    assert np.abs(ours - theirs).max() <= tolerance * max(np.abs(theirs).max(), 1e-30)
