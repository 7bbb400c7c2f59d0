"""Recorded scans of every format that can be made here; real files of others are in test_real_recordings.py."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import twixtools.mdh_def
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_runtime.errors import RecordingError
from edge_runtime.links.files import Recording, open_recording, write_mrd_stream
from edge_runtime.links.files.pulseq_order import infer_order
from edge_runtime.links.files.twix import directions
from edge_runtime.links.mrd_header import format_header
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Sequence,
)

LINES, SAMPLES, COILS, SLICES = 12, 16, 3, 2
SPACE = EncodingSpace((SAMPLES, LINES, 1), (160.0, 120.0, 5.0))
HEADER = ScanHeader(
    encoding=MriEncoding(SPACE, SPACE, "cartesian", {"kspace_encoding_step_1": Limit(0, LINES - 1, LINES // 2)}),
    sequence=Sequence(repetition_time_ms=(20.0,)),
    protocol_name="test",
)


def scan_readouts() -> ReadoutBatch:
    """Two slices, line by line, samples that tell line, slice and coil apart."""
    header = np.zeros(LINES * SLICES, READOUT_DTYPE)
    order = np.arange(len(header))
    header["phase_encode"], header["slice"], header["scan_counter"] = order % LINES, order // LINES, order
    header["centre_sample"] = SAMPLES // 2
    header["position"] = (1.0, 2.0, 3.0)
    header["read_direction"], header["phase_direction"], header["slice_direction"] = np.eye(3)
    header["flags"][LINES - 1 :: LINES] = ReadoutFlag.LAST_IN_SLICE
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((len(header), COILS, SAMPLES, 2)).astype(np.float32)
    return ReadoutBatch(header, np.ascontiguousarray(samples).view(np.complex64)[..., 0])


def everything(recording: Recording) -> ReadoutBatch:
    """All readouts of a recording whose readouts have one size."""
    batches = list(recording.readouts())
    return ReadoutBatch(
        np.concatenate([batch.header for batch in batches]), np.concatenate([batch.samples for batch in batches])
    )


def write_ismrmrd(path: Path, batch: ReadoutBatch, group: str = "dataset", header: ScanHeader = HEADER) -> None:
    """As a scanner's converter would: with the reference implementation."""
    file = ismrmrd.Dataset(str(path), group, create_if_needed=True)
    file.write_xml_header(format_header(header).encode())
    for head, samples in zip(batch.header, batch.samples, strict=True):
        acquisition = ismrmrd.Acquisition.from_array(samples)
        acquisition.idx.kspace_encode_step_1 = int(head["phase_encode"])
        acquisition.idx.slice = int(head["slice"])
        acquisition.flags = int(head["flags"])
        acquisition.scan_counter = int(head["scan_counter"])
        acquisition.center_sample = int(head["centre_sample"])
        for theirs, ours in (
            ("position", "position"),
            ("read_dir", "read_direction"),
            ("phase_dir", "phase_direction"),
        ):
            getattr(acquisition, theirs)[:] = head[ours].tolist()
        acquisition.slice_dir[:] = head["slice_direction"].tolist()
        file.append_acquisition(acquisition)
    file.close()


def compare(found: ReadoutBatch, expected: ReadoutBatch) -> None:
    np.testing.assert_array_equal(found.samples, expected.samples)
    for name in READOUT_DTYPE.names or ():
        np.testing.assert_array_equal(found.header[name], expected.header[name], err_msg=name)


# ------------------------------------------------------------------------------------------------------ ISMRMRD HDF5


def test_an_hdf5_file_of_the_reference_implementation_is_read_whole(tmp_path: Path) -> None:
    expected = scan_readouts()
    write_ismrmrd(tmp_path / "scan.anything", expected)
    recording = open_recording(tmp_path / "scan.anything")
    assert (recording.format, recording.readout_count) == ("ISMRMRD HDF5", LINES * SLICES)
    assert recording.seconds_per_readout == pytest.approx(0.02)
    assert recording.header.encoding.encoded == SPACE
    compare(everything(recording), expected)
    compare(everything(recording), expected)  # a second reading is a new one


def test_readouts_of_another_size_make_another_batch(tmp_path: Path) -> None:
    expected = scan_readouts()
    narrow = ReadoutBatch(expected.header[:5], np.ascontiguousarray(expected.samples[:5, :2, :8]))
    write_ismrmrd(tmp_path / "scan.h5", narrow)
    file = ismrmrd.Dataset(str(tmp_path / "scan.h5"))
    for samples in expected.samples[:3]:
        file.append_acquisition(ismrmrd.Acquisition.from_array(samples))
    file.close()
    shapes = [batch.samples.shape for batch in open_recording(tmp_path / "scan.h5").readouts()]
    assert shapes == [(5, 2, 8), (3, COILS, SAMPLES)]


def test_the_only_scan_of_another_name_is_found_and_two_must_be_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    write_ismrmrd(path, scan_readouts()[:3], group="first")
    assert open_recording(path).readout_count == 3
    write_ismrmrd(path, scan_readouts()[:4], group="second")
    assert open_recording(path, "second").readout_count == 4
    with pytest.raises(RecordingError, match="first, second; choose one with --dataset NAME"):
        open_recording(path)
    with pytest.raises(RecordingError, match="no scan in group 'third'; the file holds first, second"):
        open_recording(path, "third")


def test_an_hdf5_file_without_a_scan_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["exchange/data"] = np.zeros(3)
    with pytest.raises(RecordingError, match="no group with xml and data"):
        open_recording(tmp_path / "other.h5")
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["dataset/data"] = np.zeros(3)
        file["dataset/xml"] = [format_header(HEADER)]
    with pytest.raises(RecordingError, match="no ISMRMRD raw data"):
        open_recording(tmp_path / "odd.h5")


def test_an_hdf5_readout_that_holds_less_than_it_claims_is_refused(tmp_path: Path) -> None:
    write_ismrmrd(tmp_path / "scan.h5", scan_readouts())
    with h5py.File(tmp_path / "scan.h5", "r+") as file:
        row = file["dataset/data"][7]
        row["head"]["number_of_samples"] = 65535
        file["dataset/data"][7] = row
    recording = open_recording(tmp_path / "scan.h5")
    with pytest.raises(RecordingError, match=r"readout 7 holds 48 samples; its header says 3 x 65535"):
        list(recording.readouts())


@pytest.mark.skipif(
    shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None,
    reason="ismrmrd_generate_cartesian_shepp_logan (Debian ismrmrd-tools) is not on PATH",
)
def test_the_file_of_the_reference_phantom_makes_its_image(tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    command = [
        "ismrmrd_generate_cartesian_shepp_logan",
        "-m",
        "32",
        "-c",
        "2",
        "-r",
        "1",
        "-O",
        "2",
        "-n",
        "0",
        "-o",
        str(path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    recording = open_recording(path)
    assert recording.readout_count == 32
    batch = everything(recording)
    kspace = batch.samples.transpose(1, 0, 2)
    image = np.sqrt(np.sum(np.abs(to_image(to_image(kspace, 1), 2)) ** 2, axis=0))[:, 16:48]
    assert image[0].max() < 0.1 * image.max() < image[16].mean()  # empty above the head, not within


# -------------------------------------------------------------------------------------------------------- MRD stream


def test_a_format_of_one_scan_knows_no_datasets(tmp_path: Path) -> None:
    write_mrd_stream(tmp_path / "scan.mrd", HEADER, [scan_readouts()])
    with pytest.raises(RecordingError, match="no dataset 'second'"):
        open_recording(tmp_path / "scan.mrd", "second")


def test_a_stream_holds_what_was_written(tmp_path: Path) -> None:
    expected = scan_readouts()
    written = write_mrd_stream(tmp_path / "scan.mrd", HEADER, [expected[:7], expected[7:]])
    recording = open_recording(tmp_path / "scan.mrd")
    assert (written, recording.readout_count, recording.format) == (LINES * SLICES, LINES * SLICES, "MRD stream")
    assert recording.header.encoding.encoded == SPACE
    limit = "kspace_encoding_step_1"
    assert recording.header.encoding.limits[limit] == HEADER.encoding.limits[limit]
    assert recording.header.protocol_name == "test"
    compare(everything(recording), expected)
    assert [entry.name for entry in tmp_path.iterdir()] == ["scan.mrd"]


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> object:
        yield scan_readouts()
        raise RecordingError("the source broke")

    with pytest.raises(RecordingError, match="the source broke"):
        write_mrd_stream(tmp_path / "scan.mrd", HEADER, broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(RecordingError, match="can't be written"):
        write_mrd_stream(tmp_path / "nowhere" / "scan.mrd", HEADER, [])


def test_a_stream_without_readouts_or_with_readouts_first_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "scan.mrd"
    write_mrd_stream(path, HEADER, [])
    with pytest.raises(RecordingError, match="without readouts"):
        open_recording(path)
    write_mrd_stream(path, HEADER, [scan_readouts()])
    whole = path.read_bytes()
    start = whole.index(struct.pack("<H", 3), 1026)
    (length,) = struct.unpack_from("<I", whole, start + 2)
    path.write_bytes(whole[:start] + whole[start + 6 + length :])
    with pytest.raises(RecordingError, match="readouts before the header"):
        open_recording(path)


# ------------------------------------------------------------------------------------------------------- MATLAB files


def kspace_of(shape: tuple[int, ...]) -> npt.NDArray[np.complex128]:
    rng = np.random.default_rng(2)
    return rng.standard_normal(shape) + 1j * rng.standard_normal(shape)


@pytest.mark.parametrize("newest", [False, True], ids=["level 5", "7.3"])
def test_a_matlab_array_becomes_slices_of_averages_of_lines(tmp_path: Path, newest: bool) -> None:
    kspace = kspace_of((128, 5, 3, 2))
    path = tmp_path / "scan.mat"
    if newest:
        write_matlab_73(path, kspace)
    else:
        scipy.io.savemat(path, {"ksp": kspace, "note": "x"})
    recording = open_recording(path)
    assert recording.header.encoding.encoded.matrix == (128, 5, 1)
    assert recording.seconds_per_readout is None
    batch = everything(recording)
    assert len(batch) == recording.readout_count == 30
    head = batch.header[13]  # slice 1, average 0, line 3
    assert (head["slice"], head["average"], head["phase_encode"]) == (1, 0, 3)
    np.testing.assert_allclose(batch.samples[13, 0], kspace[:, 3, 1, 0].astype(np.complex64))
    assert np.flatnonzero(batch.header["flags"] & np.uint64(ReadoutFlag.LAST_IN_SLICE)).tolist() == [9, 19, 29]
    assert not batch.header["read_direction"].any()
    assert any("field of view" in note for note in recording.header.notes)


def write_matlab_73(path: Path, kspace: npt.NDArray[np.complex128]) -> None:
    """HDF5 behind a text of 512 bytes, as MATLAB writes it."""
    with h5py.File(path, "w", userblock_size=512) as file:
        stored = np.zeros(kspace.T.shape, [("real", "<f8"), ("imag", "<f8")])
        stored["real"], stored["imag"] = kspace.T.real, kspace.T.imag
        file["kspace"] = stored
    with open(path, "r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM")


def test_the_readout_of_128_samples_is_found_on_the_second_axis(tmp_path: Path) -> None:
    kspace = kspace_of((6, 128))
    scipy.io.savemat(tmp_path / "scan.mat", {"kspace": kspace})
    recording = open_recording(tmp_path / "scan.mat")
    batch = everything(recording)
    np.testing.assert_allclose(batch.samples[:, 0], kspace.astype(np.complex64))
    assert any("axes swapped" in note for note in recording.header.notes)


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"a": kspace_of((4, 4)), "b": kspace_of((4, 4))}, "choose one with --dataset NAME"),
        ({"ksp": np.zeros((4, 4))}, "is float64 of shape"),
        ({"ksp": kspace_of((2, 2, 2, 2, 2))}, "two to four axes"),
        ({"text": "x"}, "holds nothing"),
        ({"ksp": np.full((128, 4), np.nan + 0j)}, "NaN or infinite"),
        ({"ksp": np.full((128, 4), 1e300 + 0j)}, "NaN or infinite"),
    ],
)
def test_a_matlab_file_without_one_kspace_is_refused(tmp_path: Path, arrays: dict[str, object], text: str) -> None:
    scipy.io.savemat(tmp_path / "scan.mat", arrays)
    with pytest.raises(RecordingError, match=text):
        list(open_recording(tmp_path / "scan.mat").readouts())


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_a_matlab_array_of_any_precision_is_read(tmp_path: Path, dtype: type, compress: bool) -> None:
    kspace = kspace_of((128, 3)).astype(dtype)
    path = tmp_path / "scan.mat"
    scipy.io.savemat(path, {"first": np.arange(3.0), "ksp": kspace, "whole": np.arange(6)}, do_compression=compress)
    np.testing.assert_array_equal(everything(open_recording(path)).samples[:, 0].T, kspace.astype(np.complex64))


# --------------------------------------------------------------------------------------------------------- twix files

ASCCONV = """### ASCCONV BEGIN ###
tSequenceFileName\t = \t"%SiemensSeq%\\gre"
tProtocolName = "test"
sKSpace.lBaseResolution = 8
sKSpace.lPhaseEncodingLines = 6
sSliceArray.asSlice[0].dReadoutFOV = 200.0
sSliceArray.asSlice[0].dPhaseFOV = 150.0
sSliceArray.asSlice[0].dThickness = 4.0
alTR[0] = 10000
alTE[0] = 3000
sPat.lAccelFactPE = 0x1
sRXSPEC.alDwellTime[0] = 11600
### ASCCONV END ###
"""
MEAS = '<ParamDouble."flReadoutOSFactor">  { <Precision> 16  2.0 }\n<ParamString."tPatientPosition"> { "HFS" }\n'


def twix_bytes(generation: str, phase_encodes: list[int], flags: list[int] | None = None) -> bytes:
    """A twix file with readouts of 2 channels × 16 samples whose value is their number plus i × channel."""
    buffers = b"".join(
        name + b"\0" + struct.pack("<I", len(text)) + text.encode()
        for name, text in ((b"MeasYaps", ASCCONV), (b"Meas", MEAS), (b"Dicom", "".ljust(20000)))
    )
    header = struct.pack("<II", 8 + len(buffers), 3) + buffers
    kind = twixtools.mdh_def.Scan_header if generation == "VD" else twixtools.mdh_def.VB17_header
    body = bytearray()
    for i, line in enumerate(phase_encodes):
        head = kind(SamplesInScan=16, UsedChannels=2, CenterCol=8, CenterLin=3, TimeStamp=4 * i)
        head.EvalInfoMask = flags[i] if flags else 0
        head.Counter.Lin = line
        head.SliceData.SlicePos = (1.0, 2.0, 3.0)
        head.SliceData.Quaternion = (0.5**0.5, 0, 0, 0.5**0.5)
        data = [np.full(16, i + 1j * channel, np.complex64).tobytes() for channel in range(2)]
        if generation == "VD":
            body += bytes(head) + b"".join(bytes(32) + channel for channel in data)
        else:
            body += b"".join(bytes(head) + channel for channel in data)
    body += bytes(kind(EvalInfoMask=1))
    measurement = header + bytes(body)
    if generation == "VB":
        return measurement
    entry = struct.pack("<IIQQ", 7, 8, 10240, len(measurement))
    return (struct.pack("<II", 0, 1) + entry).ljust(10240, b"\0") + measurement


@pytest.mark.parametrize("generation", ["VD", "VB"])
def test_a_twix_file_is_read(tmp_path: Path, generation: str) -> None:
    noise, phase_correction, reflect = 1 << 25, 1 << 21, 1 << 24
    path = tmp_path / "meas.dat"
    path.write_bytes(twix_bytes(generation, [0, 0, 0, 1, 2, 3, 4, 5], [noise, phase_correction | reflect, *[0] * 6]))
    recording = open_recording(path)
    encoding = recording.header.encoding
    assert (encoding.encoded.matrix, encoding.recon.matrix) == ((16, 6, 1), (8, 6, 1))
    assert (encoding.encoded.field_of_view_mm, encoding.recon.field_of_view_mm) == ((400, 150, 4), (200, 150, 4))
    assert encoding.limits["kspace_encoding_step_1"] == Limit(0, 5, 3)
    assert recording.header.patient_position == "HFS"
    assert (recording.header.sequence.repetition_time_ms, recording.header.sequence.echo_time_ms) == ((10.0,), (3.0,))
    assert recording.seconds_per_readout == pytest.approx(0.01)
    batch = everything(recording)
    np.testing.assert_array_equal(batch.samples[:, :, 5], np.arange(8)[:, None] + 1j * np.arange(2))
    flags = [ReadoutFlag(int(value)) for value in batch.header["flags"]]
    assert flags[0] == ReadoutFlag.IS_NOISE_MEASUREMENT
    assert flags[1] == ReadoutFlag.IS_PHASECORR_DATA | ReadoutFlag.IS_REVERSE
    assert flags[2:] == [0, 0, 0, 0, 0, ReadoutFlag.LAST_IN_SLICE]
    np.testing.assert_allclose(batch.header["sample_time_us"], 11.6)
    # A transverse slice: columns run to the left, rows to the front (against Siemens' read and phase axes).
    np.testing.assert_allclose(batch.header["read_direction"][0], (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(batch.header["phase_direction"][0], (0, -1, 0), atol=1e-6)
    np.testing.assert_allclose(batch.header["slice_direction"][0], (0, 0, 1), atol=1e-6)


def test_directions_are_orthonormal_and_zero_where_unknown() -> None:
    rng = np.random.default_rng(3)
    quaternion = rng.standard_normal((50, 4))
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    axes = np.stack(directions(quaternion.astype(np.float32)), axis=1)
    np.testing.assert_allclose(axes @ axes.transpose(0, 2, 1), np.broadcast_to(np.eye(3), axes.shape), atol=1e-5)
    assert not np.stack(directions(np.zeros((1, 4), np.float32))).any()


@pytest.mark.parametrize(
    ("place", "offset", "value", "text"),
    [
        ("readout", 48, struct.pack("<HH", 65535, 256), "too small"),
        ("readout", 48, struct.pack("<HH", 0, 2), "without samples"),
        ("readout", 40, struct.pack("<QHH", 1 << 5, 16, 2), "too small"),  # synchronisation data of the wrong length
        ("readout", 40, struct.pack("<Q", 1), "no readouts"),
        ("header", 0, struct.pack("<I", 1 << 30), "truncated"),
        ("table", 24, struct.pack("<Q", 1 << 62), "truncated"),
        ("table", 16, struct.pack("<Q", 1 << 13), "no complete Siemens twix file"),
    ],
)
def test_a_damaged_twix_file_ends_in_an_error(tmp_path: Path, place: str, offset: int, value: bytes, text: str) -> None:
    damaged = bytearray(twix_bytes("VD", [0, 1, 2]))
    (header_length,) = struct.unpack_from("<I", damaged, 10240)
    offset += {"readout": 10240 + header_length, "header": 10240, "table": 0}[place]
    damaged[offset : offset + len(value)] = value
    path = tmp_path / "meas.dat"
    path.write_bytes(damaged)
    with pytest.raises(RecordingError, match=rf"meas\.dat: .*{text}.*copy it again"):
        open_recording(path)


def test_a_twix_readout_of_no_length_does_not_hold_the_walk(tmp_path: Path) -> None:
    path = tmp_path / "meas.dat"
    for generation, head_bytes, mask_offset in (("VD", 192, 40), ("VB", 128, 20)):
        damaged = bytearray(twix_bytes(generation, [0, 1, 2]))
        end = len(damaged) - head_bytes
        damaged[end : end + 4] = bytes(4)
        damaged[end + mask_offset : end + mask_offset + 8] = struct.pack("<Q", 1 << 5)
        path.write_bytes(damaged)
        with pytest.raises(RecordingError, match="a readout of 0 bytes"):
            open_recording(path)


def test_a_twix_file_needs_twixtools_and_an_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("meas", "meas.dat"):
        (tmp_path / name).write_bytes(twix_bytes("VD", [0, 1, 2]))
    with pytest.raises(RecordingError, match=r"rename it to meas\.dat"):
        open_recording(tmp_path / "meas")
    monkeypatch.setitem(sys.modules, "twixtools", None)
    with pytest.raises(RecordingError, match=r"needs twixtools: pip install -e '\.\[twix\]' in"):
        open_recording(tmp_path / "meas.dat")


def test_a_single_measurement_of_unknown_length_is_read_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = bytearray(twix_bytes("VD", [0, 1, 2]))
    whole[24:32] = bytes(8)
    (tmp_path / "meas.dat").write_bytes(whole)
    assert open_recording(tmp_path / "meas.dat").readout_count == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("repetitions", [1, 2])
@pytest.mark.parametrize("centre_out", [False, True])
def test_the_order_of_unlabelled_readouts_is_inferred(repetitions: int, centre_out: bool) -> None:
    lines = 64
    offsets = np.arange(lines) - lines // 2
    if centre_out:
        offsets = np.array([(-1) ** i * ((i + 1) // 2) for i in range(lines)])
    strength = np.tile(1.0 / (1 + offsets**2), repetitions).astype(np.float32)
    pauses = np.repeat(np.arange(repetitions) * 10.0, lines)
    seconds = (np.arange(lines * repetitions) * 0.01 + pauses).astype(np.float64)
    order = infer_order(strength, seconds)
    assert order.lines == lines
    np.testing.assert_array_equal(order.phase_encode, np.tile(offsets + lines // 2, repetitions))
    np.testing.assert_array_equal(order.repetition, np.repeat(np.arange(repetitions), lines))


# ----------------------------------------------------------------------------------------------------- damaged files


def test_what_is_no_recording_is_named(tmp_path: Path) -> None:
    for content in (b"", b"\x00", b"hello world, this is no scan at all", bytes(20000)):
        path = tmp_path / "file.mrd"
        path.write_bytes(content)
        with pytest.raises(RecordingError, match=r"file\.mrd: .*known are"):
            open_recording(path)
    with pytest.raises(RecordingError, match="No such file"):
        open_recording(tmp_path / "missing")
    with pytest.raises(RecordingError, match="directory"):
        open_recording(tmp_path)


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    write_ismrmrd(folder / "hdf5", scan_readouts())
    write_mrd_stream(folder / "stream", HEADER, [scan_readouts()])
    scipy.io.savemat(folder / "mat.mat", {"ksp": kspace_of((128, 4))})
    write_matlab_73(folder / "mat 7.3", kspace_of((128, 4)))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, "twix VD": twix_bytes("VD", [0, 1, 2]), "twix VB": twix_bytes("VB", [0, 1, 2])}


@pytest.mark.parametrize("share", [0.001, 0.3, 0.6, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["mat.mat", "mat 7.3", "twix VD", "twix VB"])
def test_a_file_cut_short_gives_an_error(
    whole_files: dict[str, bytes], tmp_path: Path, kind: str, share: float
) -> None:
    whole = whole_files[kind]
    path = tmp_path / "cut.dat"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(RecordingError, match=r"cut\.dat: "):
        list(open_recording(path).readouts())


@pytest.mark.parametrize("kind", ["hdf5", "stream"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_file_gives_an_error_and_nothing_else(
    whole_files: dict[str, bytes], tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    whole = whole_files[kind]
    length = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "cut"
    path.write_bytes(whole[:length])
    with pytest.raises(RecordingError, match="cut: "):
        list(open_recording(path).readouts())


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_bytes_give_an_error_or_a_scan(
    whole_files: dict[str, bytes], tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(whole_files["stream"])
    for position, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=8)
    ):
        damaged[position] = value
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        for batch in open_recording(path).readouts():
            assert np.isfinite(batch.samples).all()
    except RecordingError as error:
        said = str(error)
        assert str(path) in said
