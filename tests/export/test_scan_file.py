"""A simulated scan as a file: the same bytes every time, everything in its header, played through the real server."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import StartServer
from made_source import made_source, small

pytest.importorskip("scipy", reason="the extra 'export' is not installed")
pytest.importorskip("h5py", reason="the extra 'replay' is not installed")

from edge_runtime.hil import play
from edge_runtime.links.files import open_recording
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.scan import READOUT_DTYPE, ReadoutFlag
from export.config import ConfigError
from export.simulate.acquisition import Scanner
from export.simulate.scan_file import write_reference, write_scan
from export.simulate.settings import from_parameters

RICH = {
    "seed": 5,
    "slices": 2,
    "snr": 30.0,
    "phase": "tissue",
    "mask": "variable_density",
    "acceleration": 2.0,
    "off_resonance_hz": 50.0,
    "motion_mm": 2.0,
    "motion_deg": 2.0,
    "dropout_share": 0.1,
    "partial_echo": 0.8,
    "line_order": "centre_out",
}


def write(path: Path, **values: object) -> Path:
    write_scan(Scanner(made_source(), small(**values)), path)
    return path


def everything(path: Path) -> tuple[np.ndarray, np.ndarray]:
    batches = list(open_recording(path).readouts())
    return np.concatenate([b.header for b in batches]), np.concatenate([b.samples for b in batches])


@pytest.mark.parametrize("suffix", [".mrd", ".h5"])
def test_the_same_configuration_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    first = write(tmp_path / f"first{suffix}", **RICH).read_bytes()
    assert write(tmp_path / f"second{suffix}", **RICH).read_bytes() == first
    assert write(tmp_path / f"third{suffix}", **{**RICH, "seed": 6}).read_bytes() != first


def test_the_header_tells_how_the_scan_was_made(tmp_path: Path) -> None:
    header = open_recording(write(tmp_path / "scan.mrd", **RICH)).header
    assert header.simulated
    assert from_parameters(header.parameters) == small(**RICH)
    assert header.parameters["edge_simulation_source_sha256"] == "0" * 64
    assert header.parameters["edge_simulation_noise_level"] == repr(1 / 30)
    assert header.encoding.recon.matrix == (32, 40, 1) and header.encoding.encoded.matrix == (64, 40, 1)
    assert header.encoding.encoded.field_of_view_mm == (320.0, 200.0, 5.0)


def test_both_formats_hold_the_same_scan(tmp_path: Path) -> None:
    stream, hdf5 = write(tmp_path / "scan.mrd", **RICH), write(tmp_path / "scan.h5", **RICH)
    (header, samples), (other_header, other_samples) = everything(stream), everything(hdf5)
    np.testing.assert_array_equal(samples, other_samples)
    for name in READOUT_DTYPE.names or ():
        np.testing.assert_array_equal(header[name], other_header[name], err_msg=name)
    assert open_recording(stream).header == open_recording(hdf5).header


def test_the_ismrmrd_library_reads_the_hdf5_file(tmp_path: Path) -> None:
    ismrmrd = pytest.importorskip("ismrmrd")
    path = write(tmp_path / "scan.h5", **RICH)
    header, samples = everything(path)
    dataset = ismrmrd.Dataset(str(path), "dataset", create_if_needed=False)
    assert dataset.number_of_acquisitions() == len(header)
    for number in (0, len(header) - 1):
        acquisition = dataset.read_acquisition(number)
        np.testing.assert_array_equal(acquisition.data, samples[number])
        assert acquisition.idx.kspace_encode_step_1 == header["phase_encode"][number]
        assert acquisition.center_sample == header["centre_sample"][number]
    ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())


def test_flags_and_counters_follow_the_protocol(tmp_path: Path) -> None:
    header, _ = everything(write(tmp_path / "scan.mrd", slices=2, snr=30.0, noise_readouts=4))
    flags = header["flags"]

    def at(flag: ReadoutFlag) -> list[int]:
        return np.flatnonzero(flags & np.uint64(flag)).tolist()

    assert at(ReadoutFlag.IS_NOISE_MEASUREMENT) == [0, 1, 2, 3]
    assert at(ReadoutFlag.FIRST_IN_SLICE) == [4, 44] and at(ReadoutFlag.LAST_IN_SLICE) == [43, 83]
    assert at(ReadoutFlag.LAST_IN_MEASUREMENT) == [83]
    assert header["scan_counter"].tolist() == list(range(84))
    assert np.diff(header["time_stamp"]).tolist() == [200] * 83  # 500 ms
    np.testing.assert_allclose(header["sample_time_us"], 1e6 / (260 * 64))


def test_a_stopped_scan_has_no_end(tmp_path: Path) -> None:
    header, _ = everything(write(tmp_path / "scan.mrd", slices=2, stop_after_share=0.75, snr=30.0, noise_readouts=0))
    assert len(header) == 60 and header["slice"][-1] == 1
    assert not np.any(header["flags"] & np.uint64(ReadoutFlag.LAST_IN_MEASUREMENT))
    assert np.flatnonzero(header["flags"] & np.uint64(ReadoutFlag.LAST_IN_SLICE)).tolist() == [39]


def test_the_reference_has_every_slice(tmp_path: Path) -> None:
    one = Scanner(made_source(), small(slices=3))
    write_reference(one, tmp_path / "reference.npz")
    with np.load(tmp_path / "reference.npz") as archive:
        images = archive["images"]
    assert images.shape == (3, 40, 32) and images.dtype == np.float32
    np.testing.assert_array_equal(images[2], one.reference(2))


@pytest.mark.parametrize(("name", "complaint"), [("scan.dat", "the name decides"), ("none/scan.mrd", "no folder")])
def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        write(tmp_path / name)


# --------------------------------------------------------------------------------------------- through the real server


def images_of(path: Path, serve: StartServer) -> list[tuple[str, str, int, np.ndarray]]:
    """Method, completeness, slice and pixels ``(rows, columns)`` of every final image."""
    result = play(open_recording(path), "127.0.0.1", serve().server.port, config="edge-classical")
    found = []
    for played in result.images:
        attributes = parse_meta_attributes(played.message.attributes)
        if attributes["EdgeCompleteness"][0] != "preview":
            pixels = np.asarray(played.message.pixels, np.float64).reshape(played.message.pixels.shape[-2:])
            index = int(played.message.header["slice"])
            found.append((attributes["EdgeMethod"][0], attributes["EdgeCompleteness"][0], index, pixels))
            assert attributes["EdgeSimulated"] == ["1"]
    return found


def error(image: np.ndarray, reference: np.ndarray) -> float:
    """NRMSE after the best scale."""
    scale = np.sum(image * reference) / np.sum(image**2)
    return float(np.linalg.norm(scale * image - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({}, 0.06),
        ({"mask": "variable_density", "acceleration": 2.0, "acs_fraction": 0.25}, 0.15),
        ({"slice_order": "interleaved", "line_order": "centre_out"}, 0.06),
        ({"partial_echo": 0.9}, 0.1),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_played_scan_gives_the_reference_upright(
    tmp_path: Path, serve: StartServer, values: dict[str, object], limit: float
) -> None:
    # Coils with noise of one level: whitening by another weights them differently than the reference does.
    white = {"snr": 100.0, "noise_spread": 1.0, "noise_correlation": 0.0}
    one = Scanner(made_source(), small(slices=2, phase="smooth", **white, **values))
    write_scan(one, tmp_path / "scan.mrd")
    images = images_of(tmp_path / "scan.mrd", serve)
    assert {(kind, index) for _, kind, index, _ in images} == {("final", 0), ("final", 1)}
    for method, _, index, pixels in images:
        if method == "classical":
            reference = one.reference(index)
            assert error(pixels, reference) < limit
            for flipped in (pixels[::-1], pixels[:, ::-1], pixels[::-1, ::-1]):
                assert error(flipped, reference) > 2 * error(pixels, reference)


def test_a_scan_that_lost_readouts_is_called_incomplete(tmp_path: Path, serve: StartServer) -> None:
    path = write(tmp_path / "scan.mrd", snr=100.0, stop_after_share=0.8, line_order="centre_out")
    images = images_of(path, serve)
    assert images and {kind for _, kind, _, _ in images} == {"incomplete"}
