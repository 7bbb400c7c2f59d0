"""Recorded scans from file to DICOM: played over a socket, reconstructed by the shipped bundle, checked by dciodvfy."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
from conftest import attribute
from dicom_check import complaints
from realdata import DATA, RAW, needs_recorded_scans

from edge_runtime.bundle import DEFAULT_BUNDLE
from edge_runtime.hil import play
from edge_runtime.hil.quality import compare_within
from edge_runtime.links.files import open_recording
from edge_runtime.links.mrd import MrdServer
from edge_runtime.modalities.mri.offline import load_models, reconstruct_scan
from edge_runtime.modalities.mri.sampling import ACS_FRACTION_BY_ACCELERATION, variable_density
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import open_runtime
from export.foreground import foreground

HEAD = RAW / "siemens_twix" / "tutorials_04_hardware_and_imprefections_data_2024-02-06-164120.dat"
SPHERE_16 = RAW / "siemens_twix" / "tutorials_04_hardware_and_imprefections_data_2024-02-06-160052.dat"
SPHERE_32 = RAW / "siemens_twix" / "tutorials_02_rf_pulses_data_meas_MID00243_FID33257_pulseq.dat"
EPI = RAW / "siemens_twix" / "twixtools_epi.dat"
LOW_FIELD = RAW / "hku_0.055T_volunteer" / "0.055T_3DGRE_Sagittal_2D_kspace.mat"

METHODS = ["learned", "classical", "zero_filled"]


@dataclass(frozen=True)
class Player:
    """Plays recordings into a server of the shipped runtime, which writes to ``folder``."""

    server: MrdServer
    folder: Path

    def images(self, path: Path, keep: npt.NDArray[np.bool_] | None = None) -> dict[str, list[npt.NDArray[np.float32]]]:
        """The final images ``(rows, columns)`` of every slice, by method; every one of them is a sound DICOM file."""
        recording = open_recording(path)
        before = set(self.folder.rglob("*.dcm"))
        result = play(recording, self.server.host, self.server.port, config="edge-all", keep=keep)
        assert not [text for text in result.texts if text.text.startswith(("error:", "no image:"))]
        assert (result.readouts_sent, result.closed_early) == (result.readout_count, False)
        images: dict[str, list[npt.NDArray[np.float32]]] = {method: [] for method in METHODS}
        for image in result.images:
            if attribute(image.message, "EdgeCompleteness") != "preview":
                assert attribute(image.message, "EdgeCompleteness") == "final"
                pixels = image.message.pixels[0, 0]
                assert np.isfinite(pixels).all() and pixels.max() > 0
                images[attribute(image.message, "EdgeMethod")].append(pixels)
        files = set(self.folder.rglob("*.dcm")) - before
        assert len(files) == sum(map(len, images.values()))
        for file in files:
            assert complaints(file) == []
            comments = pydicom.dcmread(file).ImageComments
            assert all(note in comments for note in recording.header.notes)
        return images


@pytest.fixture(scope="module")
def player(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Player]:
    folder = tmp_path_factory.mktemp("images")
    with contextlib.ExitStack() as stack:
        runtime = stack.enter_context(
            open_runtime(load_profile(DEFAULT_PROFILE), bundle=DEFAULT_BUNDLE, output=folder, previews=(0.5,))
        )
        server = MrdServer(runtime, port=0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.stop)
        yield Player(server, folder)


@needs_recorded_scans
def test_a_twix_head_at_half_its_lines_resembles_the_whole(player: Player) -> None:
    """No worse than filling with zeros, and next to no worse than without a network."""
    reference = np.asarray(player.images(HEAD)["zero_filled"][0], np.float64)
    acs = ACS_FRACTION_BY_ACCELERATION[2]
    keep = variable_density(reference.shape[0], 2, acs, np.random.default_rng(0))
    images = player.images(HEAD, keep)
    assert {method: len(made) for method, made in images.items()} == dict.fromkeys(METHODS, 1)
    where = foreground(reference)
    nrmse = {method: compare_within(made[0], reference, where).nrmse for method, made in images.items()}
    assert nrmse["classical"] < nrmse["zero_filled"]
    assert nrmse["classical"] < 0.13
    assert nrmse["learned"] <= nrmse["zero_filled"]
    assert nrmse["learned"] <= nrmse["classical"] + 0.005


@needs_recorded_scans
@pytest.mark.parametrize("path", [SPHERE_16, SPHERE_32], ids=["16 coils", "32 coils"])
def test_a_twix_phantom_of_many_coils_at_half_its_lines_resembles_the_whole(player: Player, path: Path) -> None:
    """Sensitivities of many coils, compressed."""
    reference = np.asarray(player.images(path)["zero_filled"][0], np.float64)
    keep = variable_density(reference.shape[0], 2, ACS_FRACTION_BY_ACCELERATION[2], np.random.default_rng(0))
    images = player.images(path, keep)
    assert {method: len(made) for method, made in images.items()} == dict.fromkeys(METHODS, 1)
    where = foreground(reference)
    nrmse = {method: compare_within(made[0], reference, where).nrmse for method, made in images.items()}
    assert nrmse["classical"] < 0.5 * nrmse["zero_filled"]
    assert nrmse["learned"] <= nrmse["classical"] + 0.005


@needs_recorded_scans
@pytest.mark.full
@pytest.mark.parametrize("acceleration", [2, 4, 6])
@pytest.mark.parametrize("name", ["head-2ch", "phantom-16ch", "phantom-32ch", "phantom-2ch"])
def test_int8_loses_at_most_a_tenth_of_a_decibel_on_a_real_scan(name: str, acceleration: int) -> None:
    from benchmarks import scans  # what `make bench` measures, with its masks

    scan = scans.load(name, DATA)
    mask = scans.undersampling_mask(scan.kspace.shape[1], acceleration, seed=0)
    images = reconstruct_scan(scan.kspace, mask, load_models())
    where = foreground(scan.reference)
    fp32, int8 = (compare_within(images[f"learned {form}"], scan.reference, where) for form in ("FP32", "INT8"))
    assert fp32.psnr_db is not None and int8.psnr_db is not None
    assert int8.psnr_db >= fp32.psnr_db - 0.1


@needs_recorded_scans
def test_a_recorded_epi_scan_is_refused_by_name(player: Player) -> None:
    recording = open_recording(EPI)
    result = play(recording, player.server.host, player.server.port, config="edge-all")
    texts = [text.text for text in result.texts]
    assert any(
        text.startswith("error: trajectory = epi: this version reconstructs cartesian scans only") for text in texts
    )
    assert not result.images


@needs_recorded_scans
def test_a_low_field_file_becomes_images(player: Player) -> None:
    images = player.images(LOW_FIELD)
    slices = open_recording(LOW_FIELD).header.encoding.limits["slice"].maximum + 1
    assert slices > 1
    assert {method: len(made) for method, made in images.items()} == dict.fromkeys(METHODS, slices)


@pytest.mark.skipif(
    shutil.which("ismrmrd_generate_cartesian_shepp_logan") is None,
    reason="ismrmrd_generate_cartesian_shepp_logan (Debian ismrmrd-tools) is not on PATH",
)
def test_an_ismrmrd_file_becomes_images(player: Player, tmp_path: Path) -> None:
    path = tmp_path / "phantom.h5"
    command = ["ismrmrd_generate_cartesian_shepp_logan", "-m", "96", "-c", "4", "-n", "0.02", "-o", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    images = player.images(path)
    assert {method: len(made) for method, made in images.items()} == dict.fromkeys(METHODS, 1)
    classical, zero_filled = images["classical"][0], np.asarray(images["zero_filled"][0], np.float64)
    assert classical.shape == (96, 96)
    assert compare_within(classical, zero_filled, zero_filled > 0.1 * zero_filled.max()).nrmse < 0.1  # all is measured
