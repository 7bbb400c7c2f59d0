"""Volumes as a simulated scanner reads them: whatever the order of their axes, the same patient."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nibabel", reason="the extra 'export' is not installed")

import nibabel

from edge_runtime.errors import RecordingError
from export.config import ConfigError
from export.simulate.settings import AcquisitionConfig, checked
from export.simulate.source import plane_of, read_source, resample, slab

pytestmark = pytest.mark.full

SHAPE, SIZES = (5, 6, 7), (1.0, 2.0, 3.0)


def voxels() -> np.ndarray:
    """``(right, anterior, superior)``."""
    return np.random.default_rng(0).uniform(0.1, 1, SHAPE).astype(np.float32)


def config(**values: object) -> AcquisitionConfig:
    return checked(AcquisitionConfig(), values, "")


def nifti(path: Path, order: tuple[int, ...], signs: tuple[int, ...]) -> Path:
    """The same volume with its axes permuted and flipped; its centre stays at (10, 20, 30) mm in RAS."""
    array = voxels().transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(order, signs)):
        affine[axis, column] = sign * SIZES[axis]
    affine[:3, 3] = np.array([10, 20, 30]) - affine[:3, :3] @ ((np.array(array.shape) - 1) / 2)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), affine), path)
    return path


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1)])
def test_the_order_of_a_files_axes_does_not_matter(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    source = read_source(nifti(tmp_path / "head.nii.gz", order, signs), config())
    expected = voxels() / np.percentile(voxels(), 99.5)
    np.testing.assert_allclose(source.voxels, expected, rtol=1e-5)
    assert source.voxel_mm == SIZES and source.oriented
    np.testing.assert_allclose(source.axes, np.diag([-1, -1, 1]))  # right and anterior are negative in LPS
    np.testing.assert_allclose(source.centre_mm, [-10, -20, 30], atol=1e-5)


def test_an_array_without_header_is_turned_as_it_is_told(tmp_path: Path) -> None:
    """``SPL``: the first axis points to the head, the second to the back, the third to the left."""
    stored = voxels().transpose(2, 1, 0)[:, ::-1, ::-1]
    np.savez(tmp_path / "head.npz", vol=stored)
    told = read_source(tmp_path / "head.npz", config(orientation="SPL", voxel_mm=[3.0, 2.0, 1.0]))
    expected = voxels() / np.percentile(voxels(), 99.5)
    np.testing.assert_allclose(told.voxels, expected, rtol=1e-5)
    assert told.voxel_mm == SIZES and told.oriented
    untold = read_source(tmp_path / "head.npz", config())
    assert not untold.oriented and untold.voxels.shape == (7, 6, 5)


def test_a_mat_file_is_read(tmp_path: Path) -> None:
    from scipy.io import savemat

    savemat(tmp_path / "head.mat", {"image": voxels()})
    assert read_source(tmp_path / "head.mat", config()).voxels.shape == SHAPE


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", volume=voxels())
    np.savez(tmp_path / "flat.npz", vol=voxels()[0])
    np.savez(tmp_path / "air.npz", vol=np.zeros(SHAPE))
    (tmp_path / "broken.nii.gz").write_bytes(b"no gzip")
    for name, complaint in {
        "absent.npz": "No such file",
        "other.npz": "no volume .*'vol'",
        "flat.npz": r"shape \(6, 7\); a volume of three axes",
        "air.npz": "no voxel is above zero",
        "broken.nii.gz": "no readable volume",
    }.items():
        with pytest.raises(RecordingError, match=complaint):
            read_source(tmp_path / name, config())
    with pytest.raises(ConfigError, match="orientation: leave it out"):
        read_source(nifti(tmp_path / "head.nii.gz", (0, 1, 2), (1, 1, 1)), config(orientation="RAS"))


def test_a_slab_is_the_mean_over_its_thickness(tmp_path: Path) -> None:
    source = read_source(nifti(tmp_path / "head.nii.gz", (0, 1, 2), (1, 1, 1)), config())
    axial = plane_of(config())
    whole = source.voxels[::-1, ::-1]  # as displayed: rows to the back, columns to the left
    np.testing.assert_allclose(slab(source, axial, 0.0, 0.5), whole[:, :, 3].T, rtol=1e-5)
    np.testing.assert_allclose(slab(source, axial, 3.0, 6.0), (whole @ [0, 0, 0, 0.25, 0.5, 0.25, 0]).T, rtol=1e-5)
    assert not slab(source, axial, 300.0, 6.0).any()


def test_resampling_on_a_slices_own_grid_changes_nothing() -> None:
    plane = voxels()[:, :, 0]
    rows, columns = (np.arange(5) - 2) * 1.5, (np.arange(6) - 2.5) * 2.0
    np.testing.assert_allclose(resample(plane, (1.5, 2.0), rows, columns), plane, atol=1e-5)
