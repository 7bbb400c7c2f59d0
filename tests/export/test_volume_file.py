"""Files of volumes are looked at before they are unpacked, and whatever is wrong with one is said with its name."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from made_volumes import made_volume, write_volume

pytest.importorskip("nibabel", reason="the extra 'export' is not installed")

import nibabel
from scipy.io import savemat

from edge_runtime.errors import RecordingError
from export.cli import main
from export.simulate import volume_file
from export.simulate.volume_file import read_volume
from export.simulate.volumes import load_volumes, unread_files, volume_files

VOXELS = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def nifti(path: Path, voxels: np.ndarray = VOXELS, **fields: object) -> Path:
    """A file whose header says otherwise in some fields, past all that nibabel checks when it writes."""
    image = nibabel.Nifti1Image(voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    header = image.header.copy()
    content = bytearray(image.to_bytes())
    header_bytes = np.frombuffer(content[:348], header.structarr.dtype).copy()
    for name, value in fields.items():
        header_bytes[name] = value
    content[:348] = header_bytes.tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if path.suffix == ".gz" else bytes(content))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(RecordingError) as refused:
        read_volume(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    return text


@pytest.mark.parametrize("name", ["head.nii", "head.nii.gz", "head.npz", "head.mat"])
@pytest.mark.parametrize("further", [(), (1,), (1, 1)])
def test_axes_of_length_one_behind_the_three_are_dropped(tmp_path: Path, name: str, further: tuple[int, ...]) -> None:
    path, voxels = tmp_path / name, VOXELS.reshape(*VOXELS.shape, *further)
    if name.endswith(".npz"):
        np.savez_compressed(path, vol=voxels)
    elif name.endswith(".mat"):
        savemat(path, {"image": voxels})
    else:
        nifti(path, voxels)
    stored = read_volume(path)
    np.testing.assert_array_equal(stored.voxels, VOXELS)
    known = name.startswith("head.nii")
    assert stored.voxel_mm == ((1.0, 2.0, 3.0) if known else None)
    assert (stored.affine is not None) == known


@pytest.mark.parametrize(
    ("voxels", "said"),
    [
        (np.stack([VOXELS] * 3, axis=-1), "an array of shape (2, 3, 4, 3); a volume of three axes is read"),
        (VOXELS[0], "an array of shape (3, 4); a volume of three axes is read"),
        (VOXELS + 1j, "complex64 of shape (2, 3, 4); a real magnitude volume is read"),
        (0 * VOXELS, "no voxel is above zero"),
        (-VOXELS, "no voxel is above zero"),
        (np.full_like(VOXELS, np.nan), "no voxel is above zero"),
        (np.where(VOXELS == 5, np.inf, VOXELS), "1 voxels are infinite"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii.gz", ".npz"])
def test_what_is_no_magnitude_volume_is_refused(tmp_path: Path, voxels: np.ndarray, said: str, suffix: str) -> None:
    path = tmp_path / f"head{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, vol=voxels)
    else:
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    text = refusal(path)
    assert said in text or ("(3, 4, 1)" in text and voxels.ndim == 2)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"pixdim": [1, 1, 0, 3, 0, 0, 0, 0]},
            "voxels of (1.0, 0.0, 3.0) mm (pixdim); finite sizes above zero are expected",
        ),
        ({"pixdim": [1, 1, np.nan, 3, 0, 0, 0, 0]}, "voxels of (1.0, nan, 3.0) mm (pixdim)"),
        ({"srow_x": [1, 0, 0, np.nan]}, "its affine [[1.0, 0.0, 0.0, nan], "),
        ({"srow_x": [np.inf, 0, 0, 0]}, "does not place three axes in space"),
        ({"srow_y": [0, 0, 0, 0]}, "does not place three axes in space"),
        ({"srow_y": [2, 0, 0, 0]}, "does not place three axes in space"),
    ],
)
def test_a_header_that_does_not_place_the_volume_is_refused(
    tmp_path: Path, fields: dict[str, object], said: str
) -> None:
    assert said in refusal(nifti(tmp_path / "head.nii", sform_code=1, qform_code=0, **fields))


@pytest.mark.parametrize("suffix", [".nii.gz", ".npz", ".mat"])
def test_a_volume_that_is_too_large_is_not_unpacked(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"head{suffix}"
    if suffix == ".npz":
        np.savez_compressed(path, vol=VOXELS)
    elif suffix == ".mat":
        savemat(path, {"image": VOXELS}, do_compression=True)
    else:
        nifti(path)
    monkeypatch.setattr(volume_file, "MAX_VOXELS", VOXELS.size)
    assert read_volume(path).voxels.size == VOXELS.size
    monkeypatch.setattr(volume_file, "MAX_VOXELS", VOXELS.size - 1)
    for reader in ("numpy.load", "scipy.io.loadmat", "nibabel.arrayproxy.ArrayProxy.__array__"):
        monkeypatch.setattr(reader, lambda *_, **__: pytest.fail("it was unpacked"))
    assert "24 voxels; at most 23 are read" in refusal(path)


def test_what_is_no_file_of_a_volume_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", volume=VOXELS)
    savemat(tmp_path / "other.mat", {"volume": VOXELS})
    np.savez(tmp_path / "pickled.npz", vol=np.array([{}]))
    for name in ("torn.nii.gz", "torn.npz", "torn.mat"):
        (tmp_path / name).write_bytes(b"GIF89a")
    (tmp_path / "half.nii.gz").write_bytes(nifti(tmp_path / "whole.nii.gz").read_bytes()[:-40])
    for name, said in {
        "other.npz": "no volume",
        "other.mat": "no volume 'image'",
        "pickled.npz": "(1,)",
        "torn.nii.gz": "",
        "torn.npz": "no readable volume",
        "torn.mat": "no readable volume",
        "half.nii.gz": "",
        "absent.mat": "",
        "head.dcm": "volumes are read from .nii, .nii.gz, .npz, .mat",
    }.items():
        assert said in refusal(tmp_path / name)


def test_a_folder_says_which_of_its_files_are_no_volumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match=r"no magnitude volumes; mr_\*\.npz, \*\.nii\.gz, \*\.nii, "):
        load_volumes(tmp_path)
    write_volume(tmp_path)
    np.savez_compressed(tmp_path / "head.npz", vol=made_volume().voxels)
    nifti(tmp_path / "head.nii", made_volume().voxels)
    (tmp_path / "README.md").write_text("nothing")
    assert [path.name for path in volume_files(tmp_path)] == ["mr_made.npz", "head.nii"]
    assert [volume.name for volume in load_volumes(tmp_path)] == ["mr_made", "head"]
    assert load_volumes(tmp_path)[1].slice_axes == (2,)  # the coarse one: 1 x 2 x 3 mm
    assert [path.name for path in unread_files(tmp_path)] == ["head.npz"]
    toml = Path(__file__).parents[2] / "export" / "configs" / "brain2d.toml"
    small = tmp_path / "small.toml"
    small.write_text(toml.read_text().replace("count = 4000", "count = 1"))
    assert main(["pool", str(small), "--data", str(tmp_path), "--work", str(tmp_path / "work")]) == 0
    assert "not read: head.npz; volumes are mr_*.npz, " in capsys.readouterr().out


def test_a_bad_volume_among_those_to_train_on_is_named(tmp_path: Path) -> None:
    write_volume(tmp_path)
    nibabel.save(nibabel.Nifti1Image(0 * VOXELS, np.eye(4)), tmp_path / "empty.nii.gz")
    with pytest.raises(RecordingError, match=r"empty\.nii\.gz: no voxel is above zero"):
        load_volumes(tmp_path)
