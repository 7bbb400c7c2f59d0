"""Noise and coil statistics on scans whose truth is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from realdata import DATA, needs_recorded_scans

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from edge_runtime.errors import RecordingError
from edge_runtime.modalities.mri.fourier import to_kspace
from export.simulate import fidelity
from export.simulate.receive import complex_noise
from export.simulate.statistics import FullScan, coil_statistics, load_full_scan, noise_statistics


def noise_scan(coils: int = 4, seed: int = 0) -> np.ndarray:
    return complex_noise((2, coils, 96, 80), np.random.default_rng(seed))


def scan_of(kspace: np.ndarray) -> FullScan:
    return FullScan(np.asarray(kspace, np.complex64), 80, (160.0, 192.0))


def test_white_noise_is_white_and_gaussian() -> None:
    found = noise_statistics(scan_of(3 * noise_scan()))
    assert found.samples == 2 * 4 * 24 * 20
    assert abs(found.excess_kurtosis) < 0.15
    assert found.gaussian_distance < found.gaussian_limit
    assert found.level == pytest.approx(3, rel=0.03)
    for ratio in (found.real_over_imaginary, found.edge_over_centre):
        assert ratio == pytest.approx(1, abs=0.06)
    assert 1 <= found.corners < 1.1 and 1 <= found.spread < 1.1
    assert found.correlation < 0.03


def test_the_limit_is_passed_by_five_gaussian_scans_in_a_hundred() -> None:
    found = [noise_statistics(scan_of(noise_scan(coils=2, seed=seed))) for seed in range(200)]
    over = sum(one.gaussian_distance > one.gaussian_limit for one in found)
    assert 3 <= over <= 18  # of what independent draws give, in 99 % of cases


def test_what_is_not_white_or_not_gaussian_is_seen() -> None:
    noise = noise_scan()
    mixed = noise.copy()
    mixed[:, 1] = 3 * (0.6 * noise[:, 0] + 0.8 * noise[:, 1])
    found = noise_statistics(scan_of(mixed))
    assert found.largest_correlation == pytest.approx(0.6, abs=0.05)
    assert found.correlation == pytest.approx(np.sqrt(0.36 / 6), abs=0.03)
    assert found.spread == pytest.approx(3, rel=0.05)
    spikes = noise * (1 + 4 * (np.random.default_rng(1).random(noise.shape) < 0.02))
    assert noise_statistics(scan_of(spikes)).excess_kurtosis > 1
    one_sided = noise.copy()
    one_sided[:, :, :48] *= 0.1
    assert noise_statistics(scan_of(one_sided)).corners > 8


def test_coils_and_phase_of_a_known_object() -> None:
    """Two coils, one the other times a number, are one virtual coil; the phase's slope and the size are read off."""
    y, x = np.meshgrid(np.linspace(-1, 1, 96), np.linspace(-1, 1, 80), indexing="ij")
    disc = np.clip((0.6 - np.hypot(y * 1.2, x)) * 40 + 0.5, 0, 1)  # 96 mm across, in pixels of 2 mm
    image = disc * np.exp(1j * np.pi * x)
    coils = np.stack([image, (0.5 + 0.5j) * image]).astype(np.complex64)
    kspace = to_kspace(to_kspace(coils, axis=1), axis=2)[None]
    found = coil_statistics(scan_of(kspace + 0.01 * complex_noise(kspace.shape, np.random.default_rng(0))), 0.01)
    assert (found.coils, found.coils_95, found.coils_99) == (2, 1, 1)
    assert found.singular_values[1] < 0.01 and found.sensitivity_change < 0.1
    assert found.diameter_mm == pytest.approx(96, rel=0.05)
    # 2 pi over the whole view along columns, nothing along rows.
    assert 0.2 < found.phase_change_rad < 0.5
    assert found.snr == pytest.approx(100 * np.sqrt(1.5), rel=0.1)


def test_correlation_of_neighbours_that_gives_that_of_all() -> None:
    assert fidelity._neighbours(0.3, 2) == pytest.approx(0.3, abs=1e-3)
    assert fidelity._neighbours(0.3, 1) == 0
    assert fidelity._neighbours(0.2, 8) > 0.2


def test_tables_go_between_the_marks_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{fidelity.BEGIN}\nold\n{fidelity.END}\nafter\n")
    fidelity.write_into(page, "new\n")
    assert page.read_text() == f"before\n{fidelity.BEGIN}\n\nnew\n\n{fidelity.END}\nafter\n"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="marks"):
        fidelity.write_into(page, "new")


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="not found; --data is the folder"):
        next(fidelity.compare(tmp_path))


@pytest.mark.full
@needs_recorded_scans
def test_a_real_scan_and_the_simulated_one_beside_it() -> None:
    """The noise that was set is the noise that is measured."""
    one = fidelity.compare_one(fidelity.REAL_SCANS[2], DATA)
    (noise, coils), (made_noise, made_coils) = one.real, one.simulated
    assert made_coils.snr == pytest.approx(coils.snr, rel=0.03)
    assert made_noise.correlation == pytest.approx(noise.correlation, abs=0.05)
    assert made_noise.spread == pytest.approx(noise.spread, rel=0.1)
    assert made_noise.edge_over_centre == pytest.approx(noise.edge_over_centre, abs=0.03)
    assert made_coils.coils_95 == coils.coils_95
    assert fidelity.tables([one]).count("ACR phantom, 2 coils, 3 T") == 7


def test_a_scan_that_is_not_full_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    from made_source import made_source, small

    from export.simulate.acquisition import Scanner
    from export.simulate.scan_file import write_scan

    write_scan(Scanner(made_source(), small(mask="uniform")), tmp_path / "scan.mrd")
    with pytest.raises(RecordingError, match="fully sampled scans are compared"):
        load_full_scan(tmp_path / "scan.mrd")
