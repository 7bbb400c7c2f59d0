"""Coils that surround the whole object and see all of it nearly alike, as body coils and birdcages do.

The two channels of a birdcage receive the same circularly polarised signal with a phase between them, so that a second one adds
little: of the two-channel 3 T scans in ``raw/siemens_twix`` the second singular value is a seventh to a quarter of the first.
"""

from __future__ import annotations

import numpy as np

from export.simulate.receive import CoilMaps

DEVIATION = 0.35
"""Root-mean-square share by which a channel's sensitivity departs from uniform over the field of view; chosen by those scans."""


def volume_coils(size: tuple[int, int], coils: int, rng: np.random.Generator) -> CoilMaps:
    """Coil maps ``(coils, rows, columns)``: uniform but for a smooth complex polynomial of second degree and a phase."""
    y = np.linspace(-1, 1, size[0])[:, None]
    x = np.linspace(-1, 1, size[1])[None, :]
    maps = np.empty((coils, *size), np.complex64)
    for coil in range(coils):
        terms = rng.standard_normal((5, 2)) @ np.array([1, 1j])
        shape = terms[0] * y + terms[1] * x + terms[2] * y * y + terms[3] * x * x + terms[4] * x * y
        shape = DEVIATION * shape / np.sqrt(np.mean(np.abs(shape) ** 2))
        maps[coil] = (1 + shape) * np.exp(2j * np.pi * rng.random())
    return np.asarray(maps / np.sqrt(np.mean(np.sum(np.abs(maps) ** 2, axis=0))), dtype=np.complex64)


def uniform_coil(size: tuple[int, int], coils: int, rng: np.random.Generator) -> CoilMaps:
    """One coil ``(1, rows, columns)`` that sees everything alike; what theory is compared with."""
    return np.ones((coils, *size), np.complex64)
