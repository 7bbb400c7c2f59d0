"""The volume that a simulated scanner measures: its voxels, and where they lie in the patient.

`export.simulate.volumes` reads the same formats for training, where orientation and millimetres do not matter; here they do, so
that the image of a simulated scan lies where the source says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from export.config import ConfigError
from export.digest import file_digest
from export.simulate.settings import AcquisitionConfig
from export.simulate.volume_file import read_volume
from export.simulate.volumes import Magnitude

Vector = npt.NDArray[np.float64]

BRIGHT_PERCENTILE = 99.5
"""Of the voxels above zero; it is scaled to 1."""


@dataclass(frozen=True)
class Source:
    """A magnitude volume in canonical order.

    Attributes:
        name: of the file.
        digest: SHA-256 of the file, hexadecimal.
        voxels: ``(right, anterior, superior)``: indices grow towards the patient's right, front and head; brightness about 1.
        voxel_mm: size of a voxel along these axes.
        axes: unit vectors of these axes in patient coordinates (LPS), one a row, ``(3, 3)``.
        centre_mm: of the volume in patient coordinates (LPS), ``(3,)``.
        oriented: whether file or configuration says where the axes point; otherwise `axes` is an assumption.
    """

    name: str
    digest: str
    voxels: Magnitude
    voxel_mm: tuple[float, float, float]
    axes: Vector
    centre_mm: Vector
    oriented: bool


@dataclass(frozen=True)
class Plane:
    """How the images of a plane lie in a `Source`.

    Attributes:
        row_axis, column_axis, slice_axis: the volume's axis along which row, column and slice numbers change.
        row_sign, column_sign, slice_sign: 1 where they grow with the volume's index, -1 where they fall.
    """

    row_axis: int
    row_sign: int
    column_axis: int
    column_sign: int
    slice_axis: int
    slice_sign: int

    def directions(self, axes: Vector) -> tuple[Vector, Vector, Vector]:
        """Unit vectors of increasing column (read), row (phase encode) and slice, in patient coordinates."""
        return (
            self.column_sign * axes[self.column_axis],
            self.row_sign * axes[self.row_axis],
            self.slice_sign * axes[self.slice_axis],
        )


_RIGHT, _ANTERIOR, _SUPERIOR = 0, 1, 2
_PLANES = {
    # As radiologists look at them: from below, from the front, from the left.
    "axial": Plane(_ANTERIOR, -1, _RIGHT, -1, _SUPERIOR, 1),
    "coronal": Plane(_SUPERIOR, -1, _RIGHT, -1, _ANTERIOR, -1),
    "sagittal": Plane(_SUPERIOR, -1, _ANTERIOR, -1, _RIGHT, 1),
}


def plane_of(config: AcquisitionConfig) -> Plane:
    """The plane with its readout along columns; swapped, the phase encode runs against the usual columns, so that read, phase and
    slice stay a right-handed frame."""
    plane = _PLANES[config.plane]
    if not config.swap_axes:
        return plane
    return Plane(
        plane.column_axis, -plane.column_sign, plane.row_axis, plane.row_sign, plane.slice_axis, plane.slice_sign
    )


def read_source(path: Path, config: AcquisitionConfig) -> Source:
    """Reads a NIfTI file, an ``.npz`` with ``vol`` or a ``.mat`` with ``image`` (the 3 T magnitudes of Hong Kong University).

    Raises:
        RecordingError: see `read_volume`.
        ConfigError: the configuration contradicts what the file says of itself.
    """
    import nibabel

    stored = read_volume(path)
    affine = stored.affine
    if affine is not None and (config.orientation or any(config.voxel_mm)):
        key = "orientation" if config.orientation else "voxel_mm"
        raise ConfigError(f"{key}: leave it out; {path} says itself where its axes point and how large its voxels are")
    if affine is None:
        affine = _assumed_affine(stored.voxels.shape, config)
    image = nibabel.as_closest_canonical(nibabel.Nifti1Image(stored.voxels, affine))  # type: ignore[no-untyped-call]
    affine = np.asarray(image.affine, np.float64)
    lps = np.diag([-1.0, -1.0, 1.0])
    zooms = np.linalg.norm(affine[:3, :3], axis=0)
    middle = (np.array(image.shape) - 1) / 2
    return Source(
        name=path.name,
        digest=file_digest(path),
        voxels=_scaled(np.asarray(image.dataobj)),
        voxel_mm=(float(zooms[0]), float(zooms[1]), float(zooms[2])),
        axes=(lps @ (affine[:3, :3] / zooms)).T,
        centre_mm=lps @ (affine[:3, :3] @ middle + affine[:3, 3]),
        oriented=bool(config.orientation) or stored.affine is not None,
    )


def slice_centre_mm(config: AcquisitionConfig, index: int) -> float:
    """Distance of a slice's centre from the volume's, along the slice direction."""
    return config.slice_offset_mm + (index - (config.slices - 1) / 2) * config.slice_spacing_mm


def slab(source: Source, plane: Plane, centre_mm: float, thickness_mm: float) -> Magnitude:
    """The mean of the volume over a slab: ``(rows, columns)`` of source voxels, in the plane's order.

    Voxels are boxes of constant brightness, so that a slab thinner than a voxel shows that voxel; outside the volume is air.
    """
    size = source.voxel_mm[plane.slice_axis]
    count = source.voxels.shape[plane.slice_axis]
    middle = plane.slice_sign * centre_mm / size + (count - 1) / 2
    low, high = middle - thickness_mm / size / 2, middle + thickness_mm / size / 2
    index = np.arange(count)
    weights = np.clip(np.minimum(high, index + 0.5) - np.maximum(low, index - 0.5), 0, None) / (high - low)
    touched = np.flatnonzero(weights)
    voxels = source.voxels.take(touched, axis=plane.slice_axis)
    mean = np.tensordot(voxels, weights[touched].astype(np.float32), axes=(plane.slice_axis, 0))
    upright = mean if plane.row_axis < plane.column_axis else mean.T
    return np.asarray(upright[:: plane.row_sign, :: plane.column_sign], dtype=np.float32)


def resample(plane: Magnitude, voxel_mm: tuple[float, float], rows_mm: Vector, columns_mm: Vector) -> Magnitude:
    """A slice on another grid by cubic splines, never negative: ``(len(rows_mm), len(columns_mm))``.

    Args:
        plane: ``(rows, columns)``.
        voxel_mm: its pixel size along rows and columns.
        rows_mm, columns_mm: evenly spaced positions from the slice's centre.
    """
    step = np.array([rows_mm[1] - rows_mm[0], columns_mm[1] - columns_mm[0]]) / voxel_mm
    middle = (np.array(plane.shape) - 1) / 2
    offset = np.array([rows_mm[0], columns_mm[0]]) / voxel_mm + middle
    shape = (len(rows_mm), len(columns_mm))
    fine = ndimage.affine_transform(plane, step, offset, output_shape=shape, order=3, mode="constant")
    return np.asarray(np.maximum(fine, 0), dtype=np.float32)


_TOWARDS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}


def _assumed_affine(shape: tuple[int, ...], config: AcquisitionConfig) -> Vector:
    """Voxel to RAS millimetres of a volume that lies centred in the scanner, as the configuration says or as is usual."""
    sizes = config.voxel_mm if any(config.voxel_mm) else (1.0, 1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = np.array([_TOWARDS[letter] for letter in config.orientation or "RAS"]).T * sizes
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _scaled(voxels: npt.NDArray[np.generic]) -> Magnitude:
    floats = np.maximum(np.nan_to_num(np.asarray(voxels, dtype=np.float32)), 0)
    return np.asarray(floats / np.percentile(floats[floats > 0], BRIGHT_PERCENTILE), dtype=np.float32)
