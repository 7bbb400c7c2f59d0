"""The peak of calibrating is measured in a process of its own and held against that of a tenth of the scans."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the extra 'export' is not installed")

from benchmarks import calibration, made_scans
from benchmarks.calibration import Calibration
from benchmarks.server import ROOT
from export.simulate.pool import Pool

pytestmark = pytest.mark.full


def measured(peak_mb: float, pool_mb: float, states: int = 1000) -> Calibration:
    return Calibration(peak_mb, pool_mb, states, states)


@pytest.mark.parametrize(("peak_mb", "met"), [(200.0, True), (219.0, True), (221.0, False)])
def test_a_tenth_more_is_flat(peak_mb: float, met: bool) -> None:
    record = calibration.record(5, measured(200.0, 6.0), measured(peak_mb, 60.0), "drawings")
    assert (record.value, record.target, record.met) == (peak_mb, pytest.approx(220.0), met)
    assert "over 50 scans simulated of drawings; over 5 of them 200 MB; " in record.note
    assert "as many acquisitions as scans, of 60 and 6 MB; every state has 1000" in record.note


def test_peaks_over_states_of_other_sizes_are_not_compared() -> None:
    with pytest.raises(ValueError, match=r"states of \[1000, 1200\] elements"):
        calibration.record(5, measured(200.0, 6.0), measured(210.0, 60.0, 1200), "drawings")


def test_acquisitions_that_could_all_be_held_unseen_measure_nothing() -> None:
    with pytest.raises(ValueError, match=r"20\.0 more than of 5 scans: a peak that may grow by 20\.0 MB does not show"):
        calibration.record(5, measured(200.0, 2.0), measured(200.0, 22.0), "drawings")


HELD = """
import json, sys
from pathlib import Path
import numpy as np
from benchmarks import calibration
from export import states
from export.simulate.pool import Pool
class Held(Pool):
    def __init__(self, folder):
        super().__init__(folder)
        self.held = [np.load(path) for path in self.files]
states.Pool = Held
print(json.dumps(vars(calibration._calibrate(Path(sys.argv[1]), 1))))
"""


@pytest.fixture
def acquisitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty drawn phantoms, as there is no data folder."""
    monkeypatch.setenv("EDGE_DATA", str(tmp_path / "nowhere"))
    source = made_scans.write_square_pool(tmp_path / "pool", 20, calibration.MATRIX, calibration.SEED)
    assert "drawn phantoms" in source
    return tmp_path / "pool"


def test_acquisitions_are_square_and_no_two_alike(acquisitions: Path) -> None:
    kspaces = [np.load(path) for path in sorted(acquisitions.glob("*.npy"))]
    assert {one.shape[1:] for one in kspaces} == {(calibration.MATRIX, calibration.MATRIX)}
    assert len({one.tobytes() for one in kspaces}) == 20
    coils = [len(one) for one in kspaces]
    assert coils == sorted(coils, reverse=True) and coils[0] > coils[-1]
    made_scans.keep_first(acquisitions, 2)
    assert [path.name for path in Pool(acquisitions).files] == ["00000.npy", "00001.npy"]


def test_the_peak_is_that_of_a_process_and_shows_acquisitions_that_are_held(acquisitions: Path) -> None:
    plain = calibration._in_a_process(acquisitions, 1)
    assert 50 < plain.peak_mb < 2000
    assert plain.smallest == plain.largest >= 6 * 96 * calibration.MATRIX
    done = subprocess.run(
        [sys.executable, "-c", HELD, str(acquisitions)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    held = Calibration(**json.loads(done.stdout.splitlines()[-1]))
    assert held.peak_mb - plain.peak_mb > 0.7 * plain.pool_mb > 0.07 * plain.peak_mb


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"benchmarks\.calibration .*exit code 1"):
        calibration._in_a_process(tmp_path, 1)
