"""The peak of calibrating is measured in a process of its own and held against that of a tenth of the scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from benchmarks import calibration, made_scans
from benchmarks.calibration import Calibration

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("peak_mb", "met"), [(200.0, True), (219.0, True), (221.0, False)])
def test_a_tenth_more_is_flat(peak_mb: float, met: bool) -> None:
    record = calibration.record(5, Calibration(200.0, 1000, 1000), Calibration(peak_mb, 1000, 1000), "drawings")
    assert (record.value, record.target, record.met) == (peak_mb, pytest.approx(220.0), met)
    assert "over 50 scans simulated of drawings; over 5 of them 200 MB; every state has 1000" in record.note


def test_peaks_over_states_of_other_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"states of \[1000, 1200\] elements"):
        calibration.record(5, Calibration(200.0, 1000, 1000), Calibration(210.0, 1000, 1200), "drawings")


def test_a_pool_without_the_data_folder_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_DATA", str(tmp_path / "nowhere"))
    assert "drawn phantoms" in made_scans.write_training_pool(tmp_path / "pool", 1, calibration._square_seed())
    (file,) = (tmp_path / "pool").glob("*.npy")
    _, lines, samples = np.load(file).shape
    assert lines == samples
    measured = calibration._in_a_process(tmp_path / "pool", 4)  # with either axis turned
    assert 50 < measured.peak_mb < 2000
    assert measured.smallest == measured.largest >= 6 * 96 * 96


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"benchmarks\.calibration .*exit code 1"):
        calibration._in_a_process(tmp_path, 1)
