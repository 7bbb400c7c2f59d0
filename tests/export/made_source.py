"""A small volume to scan that is nobody's head, without a file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.simulate.settings import AcquisitionConfig, checked
from export.simulate.source import Source

SMALL = {
    "columns": 32,
    "phase_encodes": 40,
    "read_mm": 160.0,
    "phase_mm": 200.0,
    "coils": 3,
    "snr": 0.0,
    "phase": "none",
    "line_order": "linear",
}


def small(**values: object) -> AcquisitionConfig:
    """A quick configuration without noise, phase, field or motion."""
    return checked(AcquisitionConfig(), {**SMALL, **values}, "")


def made_source(size: int = 60, voxel_mm: float = 2.5) -> Source:
    """Nested ellipsoids and an asymmetric spot, well within 150 mm; axes are the scanner's."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    voxels = np.where((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.9) ** 2 < 1, 0.8, 0.0)
    voxels = np.where((x / 0.5) ** 2 + (y / 0.6) ** 2 + (z / 0.7) ** 2 < 1, 0.5, voxels)
    voxels = np.where((x - 0.2) ** 2 + (y - 0.3) ** 2 + (z / 3) ** 2 < 0.03, 1.0, voxels)
    axes = np.diag([-1.0, -1.0, 1.0])
    return Source("made", "0" * 64, voxels.astype(np.float32), (voxel_mm,) * 3, axes, np.zeros(3), True)


def point_source(index: tuple[int, int, int], axes: np.ndarray, centre_mm: np.ndarray, size: int = 61) -> Source:
    """One bright voxel in air."""
    voxels = np.zeros((size,) * 3, np.float32)
    voxels[index] = 1.0
    return replace(made_source(), voxels=voxels, axes=axes, centre_mm=centre_mm)
