"""A volume to train on that is nobody's head."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.simulate.volumes import Volume


def made_volume(size: int = 48) -> Volume:
    """Nested ellipsoids with a few spheres, ``(size, size, size)``."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, size)] * 3, indexing="ij")
    voxels = np.where((y / 0.8) ** 2 + (x / 0.7) ** 2 + (z / 0.9) ** 2 < 1, 0.8, 0.0)
    voxels = np.where((y / 0.6) ** 2 + (x / 0.5) ** 2 + (z / 0.7) ** 2 < 1, 0.5, voxels)
    for centre in ((0.1, 0.2, 0.0), (-0.3, 0.0, 0.2), (0.2, -0.3, -0.2)):
        voxels = np.where(sum((axis - c) ** 2 for axis, c in zip((y, x, z), centre)) < 0.02, 1.0, voxels)
    return Volume("made", voxels.astype(np.float32), (0,), (1.0, 1.0, 1.0))


def write_volume(folder: Path) -> Path:
    """The volume as `load_volumes` finds it; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "mr_made.npz", vol=made_volume().voxels)
    return folder
