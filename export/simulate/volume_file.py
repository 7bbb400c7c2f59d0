"""Files of magnitude volumes: NIfTI, ``.npz`` with ``vol`` and ``.mat`` with ``image``; checked before their voxels are read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import RecordingError

Voxels = npt.NDArray[Any]

MAX_VOXELS = 1 << 28
"""Of the largest volume that is read, 1 GB in single precision."""


@dataclass(frozen=True)
class StoredVolume:
    """A volume as its file holds it.

    Attributes:
        voxels: real, of three axes; none is infinite, some are above zero. What is not a number lies outside of what was measured.
        affine: voxel to RAS millimetres, ``(4, 4)``, finite and regular; None where the format has none.
        voxel_mm: sizes along the axes as the header says, finite and above zero; None where the format has none.
    """

    voxels: Voxels
    affine: npt.NDArray[np.float64] | None = None
    voxel_mm: tuple[float, float, float] | None = None


def read_volume(path: Path) -> StoredVolume:
    """Reads a volume. Shape and type are looked at before anything is unpacked.

    Raises:
        RecordingError: names the file: it can't be read, is no real magnitude volume of three axes or too large, does not say how
            large its voxels are and where they lie, or shows nothing.
    """
    reader = next((read for suffix, read in _READERS.items() if path.name.endswith(suffix)), None)
    if reader is None:
        raise RecordingError(
            f"{path}: volumes are read from {', '.join(SUFFIXES)} (.npz with 'vol', .mat with 'image')"
        )
    try:
        stored = reader(path)
    except RecordingError:
        raise
    except KeyError as error:
        raise RecordingError(f"{path}: no volume {error}; .npz with 'vol' and .mat with 'image' are read") from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # the libraries fail in any way on damaged bytes
        raise RecordingError(f"{path}: no readable volume ({type(error).__name__}: {error})") from None
    _check_type(path, stored.voxels.dtype, stored.voxels.shape)
    if infinite := int(np.count_nonzero(np.isinf(stored.voxels))):
        raise RecordingError(
            f"{path}: {infinite} voxels are infinite; finite ones are expected, or NaN outside of what was measured"
        )
    if not np.any(stored.voxels > 0):
        raise RecordingError(f"{path}: no voxel is above zero; is it the right file?")
    return stored


def _read_nifti(path: Path) -> StoredVolume:
    import nibabel
    from nibabel.openers import ImageOpener
    from nibabel.spatialimages import SpatialImage

    image = cast(SpatialImage, nibabel.load(path))
    shape = _of_three_axes(path, image.shape)
    _check_type(path, np.dtype(image.get_data_dtype()), shape)
    header: Any = image.header
    with ImageOpener(str(path)) as file:
        as_stored = header.from_fileobj(file, check=False)  # as loaded, a size of 0 is 1 mm
    sizes = tuple(float(size) for size in as_stored["pixdim"][1:4])
    if not all(math.isfinite(size) and size > 0 for size in sizes):
        raise RecordingError(f"{path}: voxels of {sizes} mm (pixdim); finite sizes above zero are expected")
    affine = np.asarray(image.affine, np.float64)
    if not np.all(np.isfinite(affine)) or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise RecordingError(
            f"{path}: its affine {affine[:3].tolist()} does not place three axes in space; finite, independent columns are expected"
        )
    return StoredVolume(np.asarray(image.dataobj).reshape(shape), affine, (sizes[0], sizes[1], sizes[2]))


def _read_npz(path: Path) -> StoredVolume:
    with zipfile.ZipFile(path) as archive, archive.open("vol.npy") as member:
        version = np.lib.format.read_magic(member)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read_header(member)
    _check_type(path, kind, _of_three_axes(path, shape))
    with np.load(path, allow_pickle=False) as arrays:
        return StoredVolume(np.asarray(arrays["vol"]).reshape(_of_three_axes(path, shape)))


def _read_mat(path: Path) -> StoredVolume:
    from scipy.io import loadmat, whosmat

    shapes = {name: shape for name, shape, _ in whosmat(path)}
    shape = _of_three_axes(path, shapes["image"])
    return StoredVolume(np.asarray(loadmat(path, variable_names=["image"])["image"]).reshape(shape))


_READERS: dict[str, Callable[[Path], StoredVolume]] = {
    ".nii": _read_nifti,
    ".nii.gz": _read_nifti,
    ".npz": _read_npz,
    ".mat": _read_mat,
}

SUFFIXES = tuple(_READERS)


def _of_three_axes(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without further axes of length 1.

    Raises:
        RecordingError: there are others, or too many voxels.
    """
    further = shape[3:]
    if len(shape) < 3 or any(length != 1 for length in further) or min(shape) < 1:
        raise RecordingError(f"{path}: an array of shape {shape}; a volume of three axes is read")
    if math.prod(shape) > MAX_VOXELS:
        raise RecordingError(f"{path}: {math.prod(shape)} voxels; at most {MAX_VOXELS} are read")
    return shape[:3]


def _check_type(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> None:
    if kind.kind not in "iuf":
        raise RecordingError(f"{path}: {kind} of shape {shape}; a real magnitude volume is read")
