"""INT8 is calibrated on recorded scans, too: slice by slice, in bounded memory, and the bundle says on which."""

from __future__ import annotations

import gc
import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from made_search import made_search, small_matrices, small_network
from realdata import RAW, needs_recorded_scans
from simulated import coil_maps, header_of, kspace_of, object_image, readouts_of

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.engines.onnxruntime import OnnxRuntimeEngine
from edge_runtime.errors import RecordingError
from edge_runtime.links.files import write_mrd_stream
from export.quantization.calibration import CalibrationData, gathered_ranges
from export.quantization.run import settings_of
from export.recordings import FullySampled, open_fully_sampled
from export.split import regulariser_onnx
from export.states import recorded_states

pytestmark = pytest.mark.full

HEAD = RAW / "siemens_twix" / "tutorials_04_hardware_and_imprefections_data_2024-02-06-164120.dat"
LINES, COLUMNS = 64, 48


def recording(path: Path, slices: int, *, interleaved: bool = False) -> Path:
    """A fully sampled scan of slices of different noise, one after another or line by line in turn."""
    batches = []
    for number in range(slices):
        image, maps = object_image(LINES, COLUMNS), coil_maps(4, LINES, COLUMNS)
        batch = readouts_of(kspace_of(image, maps, noise=0.01, seed=number))
        batch.header["slice"] = number
        batches.append(batch)
    if interleaved:
        batches = [batch[np.array([line])] for line in range(LINES) for batch in batches]
    write_mrd_stream(path, header_of(LINES, COLUMNS, COLUMNS), batches)
    return path


def states_of(scan: FullySampled, slices: list[int], seed: int = 0) -> list[np.ndarray]:
    network = small_network()
    session = OnnxRuntimeEngine().plan(regulariser_onnx(network), threads=1)
    return list(recorded_states(scan, slices, settings_of(network), session, seed))


def test_every_iteration_of_every_slice_gives_a_state(tmp_path: Path) -> None:
    scan = open_fully_sampled(recording(tmp_path / "scan.mrd", 3))
    states = states_of(scan, [0, 2])
    assert [state.shape for state in states] == [(1, 6, LINES, COLUMNS)] * 4
    assert all(np.isfinite(state).all() for state in states)
    assert [float(state[0, 5].max()) for state in states] == [0.0, 0.5, 0.0, 0.5]  # progress
    brightness = [np.percentile(np.hypot(*state[0, 2:4]), 99) for state in states]
    assert all(0.3 < one < 3 for one in brightness)  # normalised as the device does
    for one, other in zip(states, states_of(scan, [0, 2]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(states[0], states_of(scan, [0], seed=1)[0])  # another mask


def test_slices_in_turn_and_one_after_another_are_the_same(tmp_path: Path) -> None:
    """Most scanners measure slices interleaved."""
    for index in range(2):
        (one,), (other,) = (
            open_fully_sampled(recording(tmp_path / "scan.mrd", 2, interleaved=interleaved)).kspaces([index])
            for interleaved in (False, True)
        )
        np.testing.assert_array_equal(one, other)


def test_no_more_than_a_slice_of_a_recording_is_held(tmp_path: Path) -> None:
    """Beside what its reader hands on at once, all 48 take no more memory than one."""

    def peak(work: Callable[[], object]) -> int:
        gc.collect()
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def states(path: Path, slices: int) -> None:
        for _ in recorded_states(open_fully_sampled(path), range(slices), settings_of(network), session, 0):
            pass

    network = small_network()
    session = OnnxRuntimeEngine().plan(regulariser_onnx(network), threads=1)
    one, many = (recording(tmp_path / f"{count}.mrd", count, interleaved=True) for count in (1, 48))
    states(one, 1)  # whatever is made once
    assert peak(partial(states, many, 48)) < peak(partial(open_fully_sampled, many)) + peak(partial(states, one, 1))


def test_slices_are_taken_evenly_and_no_more_than_scans_are_drawn(tmp_path: Path) -> None:
    scan = open_fully_sampled(recording(tmp_path / "scan.mrd", 10))
    data = CalibrationData(tmp_path, 4, 0, (scan,))
    assert data.slices(scan) == [0, 2, 5, 7]
    assert replace(data, scans=100).slices(scan) == list(range(10))
    assert data.count(settings_of(small_network())) == 2 * (4 + 4)


def test_ranges_hang_on_recordings_and_their_provenance_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_matrices(monkeypatch)
    made = made_search(small_network(), tmp_path)
    session = OnnxRuntimeEngine().plan(made.fp32, threads=1)
    path = recording(tmp_path / "someone.mrd", 2)
    said: list[str] = []

    def gathered(*recordings: FullySampled) -> tuple[bytes, dict]:
        data = CalibrationData(tmp_path / "pool", 2, 3, recordings)
        ranges, provenance = gathered_ranges(
            tmp_path / "prepared.onnx", data, made.settings, session, tmp_path, said.append
        )
        return ranges.read_bytes(), provenance

    without, _ = gathered()
    with_it, provenance = gathered(open_fully_sampled(path))
    assert with_it != without
    assert provenance["recordings"] == [{"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "slices": [0, 1]}]
    assert "someone" not in repr(provenance)
    assert "begins anew, since its results are of another calibration" in " ".join(said)
    assert said[-1] == "states for ranges: 8 of 8"


def test_a_recording_that_is_not_fully_sampled_is_refused(tmp_path: Path) -> None:
    image, maps = object_image(LINES, COLUMNS), coil_maps(4, LINES, COLUMNS)
    batch = readouts_of(kspace_of(image, maps), list(range(0, LINES, 2)))
    write_mrd_stream(tmp_path / "half.mrd", header_of(LINES, COLUMNS, COLUMNS), [batch])
    with pytest.raises(RecordingError, match=r"half\.mrd: 32 of 64 phase encodes of slice 0 are not measured once"):
        open_fully_sampled(tmp_path / "half.mrd")


@needs_recorded_scans
def test_a_measured_head_gives_states_of_the_shipped_network() -> None:
    bundle = load_bundle(DEFAULT_BUNDLE)
    session = OnnxRuntimeEngine().plan(bundle.forms["fp32"].onnx, threads=1)
    scan = open_fully_sampled(HEAD)
    states = list(recorded_states(scan, [len(scan.keys) // 2], bundle.settings, session, 99))
    assert len(states) == bundle.settings.iterations
    assert all(np.isfinite(state).all() and 0.3 < np.percentile(np.hypot(*state[0, :2]), 99) < 3 for state in states)
