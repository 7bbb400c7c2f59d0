"""Magnitude volumes that the simulator draws its anatomy from.

Only the folder it is given is read; keeping `validate/` and `raw/` out of training is done by giving it `train/` alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

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


def load_volumes(folder: Path) -> list[Volume]:
    """Every magnitude volume below ``folder`` that a 2D brain model can learn from (`.npz` with `vol`, NIfTI, HKU 3T `.mat`)."""
    volumes = list(_read(folder))
    if not volumes:
        raise FileNotFoundError(f"{folder}: no .npz (key 'vol'), .nii.gz or hku_3T .mat magnitude volumes below it")
    return volumes


def volume_files(folder: Path) -> list[Path]:
    """The files that `load_volumes` reads."""
    patterns = ("mr_*.npz", "*.nii.gz", "hku_3T/*/*.mat")
    return [path for pattern in patterns for path in sorted(folder.glob(pattern))]


def _read(folder: Path) -> Iterator[Volume]:
    import nibabel
    from nibabel.spatialimages import SpatialImage
    from scipy.io import loadmat

    for path in volume_files(folder):
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                yield Volume(path.stem, _scaled(archive["vol"]), (0, 1, 2), (1.0, 1.0, 1.0))
        elif path.suffix == ".gz":
            image = cast(SpatialImage, nibabel.load(path))
            x, y, z = (float(zoom) for zoom in image.header.get_zooms()[:3])
            isotropic = max(x, y, z) <= 2 * min(x, y, z)
            axes = (0, 1, 2) if isotropic else (int(np.argmax((x, y, z))),)
            yield Volume(path.name.split(".")[0], _scaled(np.asarray(image.dataobj)), axes, (x, y, z))
        else:
            voxels = _scaled(loadmat(path)["image"])
            yield Volume(f"hku_3T_{path.parent.name}_{path.stem}", voxels, (2,), (1.0, 1.0, 1.0))


def _scaled(voxels: npt.NDArray[np.generic]) -> Magnitude:
    floats = np.nan_to_num(np.asarray(voxels, dtype=np.float32))
    floats = np.maximum(floats, 0)
    return np.asarray(np.minimum(floats / np.percentile(floats[floats > 0], 99.5), 1.5), dtype=np.float32)
