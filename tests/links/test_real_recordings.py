"""Every recorded scan in the data folder opens and makes an image; twix readouts are those of twixtools' own walk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from realdata import MATLAB, RAW, TWIX, needs_recorded_scans

from edge_runtime.links.files import open_recording
from edge_runtime.links.files.slices import is_image
from edge_runtime.modalities.mri.fourier import centre_slice, to_image
from edge_runtime.scan import ReadoutFlag

pytestmark = needs_recorded_scans


def image_of(path: Path, **counters: int) -> npt.NDArray[np.float32]:
    """Root-sum-of-squares image ``(phase_encodes, columns)`` of one slice, oversampling cropped."""
    recording = open_recording(path)
    encoding = recording.header.encoding
    columns, rows, _ = encoding.encoded.matrix
    kspace: npt.NDArray[np.complex64] | None = None
    for batch in recording.readouts():
        chosen = is_image(batch.header)
        for name in ("slice", "contrast", "repetition"):
            chosen &= batch.header[name] == counters.get(name, 0)
        for head, samples in zip(batch.header[chosen], batch.samples[chosen], strict=True):
            if kspace is None:
                kspace = np.zeros((batch.coils, rows, columns), np.complex64)
            kspace[:, head["phase_encode"]] += samples
    assert kspace is not None
    crop = centre_slice(columns, encoding.recon.matrix[0])
    image = to_image(to_image(kspace, 1), 2)[:, :, crop]
    return np.asarray(np.sqrt(np.sum(np.abs(image) ** 2, axis=0)), np.float32)


def corner_brightness(image: npt.NDArray[np.float32]) -> float:
    """Mean of the corners over that of the image: small where a round object lies in the middle, not wrapped around."""
    rows, columns = image.shape[0] // 12, image.shape[1] // 12
    corners = np.roll(image, (rows, columns), axis=(0, 1))[: 2 * rows, : 2 * columns]
    return float(corners.mean() / image.mean())


@pytest.mark.parametrize("path", TWIX, ids=lambda path: path.stem[-30:])
def test_a_twix_file_holds_what_twixtools_finds(path: Path) -> None:
    twixtools = pytest.importorskip("twixtools")
    scan = twixtools.read_twix(str(path), parse_pmu=False, parse_geometry=False, verbose=False)[-1]
    blocks = [block for block in scan["mdb"] if not block.is_flag_set("SYNCDATA")]
    recording = open_recording(path)
    assert recording.readout_count == len(blocks)
    at = 0
    for batch in recording.readouts():
        assert np.isfinite(batch.samples).all()
        for head, samples, block in zip(batch.header, batch.samples, blocks[at : at + len(batch)], strict=True):
            np.testing.assert_array_equal(samples, block.data)
            assert bool(is_image(head[None])[0]) == block.is_image_scan()
            assert bool(head["flags"] & np.uint64(ReadoutFlag.IS_REVERSE)) == block.is_flag_set("REFLECT")
            assert head["scan_counter"] == block.mdh.ScanCounter
            if "pulseq" not in scan["hdr"]["MeasYaps"]["tSequenceFileName"]:
                assert (head["phase_encode"], head["segment"]) == (block.cLin, block.cSeg)
        at += len(batch)
    encoding, header = recording.header.encoding, scan["hdr"]
    fov = header["MeasYaps"]["sSliceArray"]["asSlice"][0]
    assert encoding.recon.field_of_view_mm == (fov["dReadoutFOV"], fov["dPhaseFOV"], fov["dThickness"])
    assert recording.header.scanner.field_strength_t == pytest.approx(header["Meas"]["flMagneticFieldStrength"])
    assert recording.header.patient_position == header["Meas"]["tPatientPosition"]


def test_native_twix_directions_agree_with_the_geometry_of_twixtools() -> None:
    geometry = pytest.importorskip("twixtools.geometry")
    twixtools = pytest.importorskip("twixtools")
    path = RAW / "siemens_twix" / "twixtools_gre.dat"
    scan = twixtools.read_twix(str(path), parse_pmu=False, parse_geometry=False, verbose=False)[-1]
    head = next(open_recording(path).readouts()).header[0]
    phase, read, normal = geometry.Geometry(scan, 0).prs_to_pcs().T
    for ours, theirs in (("read_direction", read), ("phase_direction", phase), ("slice_direction", normal)):
        np.testing.assert_allclose(head[ours], theirs, atol=1e-3)


@pytest.mark.parametrize("path", MATLAB, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_matlab_file_is_read_whole(path: Path) -> None:
    recording = open_recording(path)
    assert recording.header.encoding.encoded.matrix[0] == 128
    count = 0
    for batch in recording.readouts():
        assert batch.samples.shape[1:] == (1, 128)
        assert np.isfinite(batch.samples).all()
        count += len(batch)
    assert count == recording.readout_count


@pytest.mark.parametrize(
    "path",
    [path for path in TWIX + MATLAB if "epi" not in path.stem and "No_RF" not in path.stem],
    ids=lambda path: path.stem[-40:],
)
def test_the_object_lies_in_the_middle_of_the_image(path: Path) -> None:
    assert corner_brightness(image_of(path)) < 0.4


def test_the_unlabelled_centre_out_head_is_one_head(tmp_path: Path) -> None:
    path = next(path for path in TWIX if "163514" in path.stem)
    recording = open_recording(path)
    assert recording.header.encoding.encoded.matrix == (128, 128, 1)
    first = next(recording.readouts()).header["phase_encode"][:5].tolist()
    assert first == [64, 63, 65, 62, 66]
    for repetition in (0, 1):
        image = image_of(path, repetition=repetition)
        assert image[:5].mean() < 0.15 * image[44:84, 44:84].mean()  # nothing folds in from the edge
