"""Magnitude volumes that the simulator draws its anatomy from.

Only the folder it is given is read; keeping `validate/` and `raw/` out of training is done by giving it `train/` alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.simulate.volume_file import SUFFIXES, read_volume

Magnitude = npt.NDArray[np.float32]

EMPTY_SHARE = 0.08
"""A slice with less foreground than this share of its pixels shows too little anatomy to train on."""


@dataclass(frozen=True)
class Volume:
    """A magnitude volume ``(slices, rows, columns)`` scaled to 0..1, and the axes along which it may be sliced."""

    name: str
    voxels: Magnitude
    slice_axes: tuple[int, ...]
    pixel_aspect: tuple[float, float, float]

    def slice_count(self) -> int:
        return sum(self.voxels.shape[axis] for axis in self.slice_axes)

    def draw(self, rng: np.random.Generator) -> tuple[Magnitude, float]:
        """A random slice ``(rows, columns)``, thick where the volume is fine, and its row-to-column pixel aspect."""
        for _ in range(50):
            axis = int(rng.choice(self.slice_axes))
            length = self.voxels.shape[axis]
            thickness = int(rng.integers(1, 4)) if length > 60 else 1
            start = int(rng.integers(0, length - thickness + 1))
            plane = self.voxels.take(range(start, start + thickness), axis=axis).mean(axis=axis)
            if np.mean(plane > 0.15) > EMPTY_SHARE:
                rows, columns = (self.pixel_aspect[a] for a in range(3) if a != axis)
                return np.asarray(plane, dtype=np.float32), rows / columns
        raise ValueError(f"{self.name}: 50 draws found no slice with anatomy; is the volume empty?")


PATTERNS = ("mr_*.npz", "*.nii.gz", "*.nii", "hku_3T/*/*.mat")
"""Of the files that are magnitude volumes; in this order they are drawn from."""


def load_volumes(folder: Path) -> list[Volume]:
    """Every magnitude volume in ``folder`` that a 2D brain model can learn from (`PATTERNS`).

    Raises:
        FileNotFoundError: there is none.
        RecordingError: one can't be read, or is no magnitude volume (`export.simulate.volume_file.read_volume`).
    """
    volumes = [_volume(path) for path in volume_files(folder)]
    if not volumes:
        raise FileNotFoundError(f"{folder}: no magnitude volumes; {', '.join(PATTERNS)} in it are read")
    return volumes


def volume_files(folder: Path) -> list[Path]:
    """The files that `load_volumes` reads."""
    return [path for pattern in PATTERNS for path in sorted(folder.glob(pattern))]


def unread_files(folder: Path) -> list[Path]:
    """The files beside them that may hold volumes, by their names, but are none of `PATTERNS`."""
    read = set(volume_files(folder))
    return [path for path in sorted(folder.iterdir()) if path.name.endswith(SUFFIXES) and path not in read]


def _volume(path: Path) -> Volume:
    stored = read_volume(path)
    voxels = _scaled(stored.voxels)
    if path.suffix == ".npz":
        return Volume(path.stem, voxels, (0, 1, 2), (1.0, 1.0, 1.0))
    if stored.voxel_mm is None:
        return Volume(f"hku_3T_{path.parent.name}_{path.stem}", voxels, (2,), (1.0, 1.0, 1.0))
    isotropic = max(stored.voxel_mm) <= 2 * min(stored.voxel_mm)
    axes = (0, 1, 2) if isotropic else (int(np.argmax(stored.voxel_mm)),)
    return Volume(path.name.split(".")[0], voxels, axes, stored.voxel_mm)


def _scaled(voxels: npt.NDArray[np.generic]) -> Magnitude:
    floats = np.nan_to_num(np.asarray(voxels, dtype=np.float32))
    floats = np.maximum(floats, 0)
    return np.asarray(np.minimum(floats / np.percentile(floats[floats > 0], 99.5), 1.5), dtype=np.float32)
