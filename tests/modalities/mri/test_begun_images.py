"""Runs of the network that are made while samples still come: the same image, or made at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_runtime.demo.run import SCAN
from edge_runtime.kernels import Plans, Workers
from edge_runtime.links.files import open_recording
from edge_runtime.modalities.mri.ahead import NOISE_DRIFT, foretold_difference, goes_on
from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.noise import NoiseLevel
from edge_runtime.modalities.mri.offline import load_models
from edge_runtime.modalities.mri.proposal import Begun, Stepwise
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples, begin, calibrate, compress, reconstruct
from edge_runtime.scan import Method
from edge_runtime.trust.heldout import FEWEST_LINES, choose_held_out

PLANS = Plans(Workers(threads=2))
SLICE = 1


@dataclass(frozen=True)
class Case:
    """A slice of the demo's scan, its network and the image that is made at once."""

    samples: SliceSamples
    calibration: Calibration
    learned: Stepwise
    order: np.ndarray
    at_once: np.ndarray


@pytest.fixture(scope="module", params=["int8", "fp32"])
def case(request) -> Case:
    learned = load_models()[request.param].reconstruction
    assert isinstance(learned, Stepwise)
    recording = open_recording(SCAN)
    lines, samples = recording.header.encoding.encoded.matrix[1], recording.header.encoding.encoded.matrix[0]
    kspace = np.zeros((8, lines, samples), np.complex64)
    order = []
    for batch in recording.readouts():
        for header, readout in zip(batch.header, batch.samples, strict=True):
            if header["slice"] == SLICE and not header["flags"] & (1 << 18):
                kspace[:, header["phase_encode"]] = readout
                order.append(int(header["phase_encode"]))
    measured = np.zeros(lines, bool)
    measured[order] = True
    columns = recording.header.encoding.recon.matrix[0]
    crop = slice(samples // 2 - columns // 2, samples // 2 + columns // 2)
    hybrid = np.ascontiguousarray(to_image(kspace, axis=2)[:, :, crop])
    slice_samples = SliceSamples(hybrid, measured, None, (0, SLICE, 0, 0, 0))
    calibration = calibrate(hybrid, measured, PLANS)
    outer = np.array([line for line in order if not calibration.acs.start <= line < calibration.acs.stop])
    return Case(slice_samples, calibration, learned, outer, image_of(slice_samples, calibration, learned))


def image_of(samples, calibration, learned, begun=None) -> np.ndarray:
    method, made = next(reconstruct(samples, calibration, learned, PLANS, begun=begun))
    assert method is Method.LEARNED
    return made.image


def without(samples: SliceSamples, late) -> SliceSamples:
    measured = samples.measured.copy()
    measured[late] = False
    return replace(samples, measured=measured, hybrid=samples.hybrid * measured[None, :, None])


def begun_with(case: Case, *lates) -> Begun:
    begun = None
    for late in lates:
        begun = begin(without(case.samples, late), case.calibration, case.learned, PLANS, begun)
    assert begun is not None
    return begun


def counted(learned, monkeypatch) -> list[int]:
    runs: list[int] = []
    run = type(learned.regulariser).run

    def watched(self, batch):
        runs.append(1)
        return run(self, batch)

    monkeypatch.setattr(type(learned.regulariser), "run", watched)
    return runs


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_with_all_samples_the_image_is_the_same_to_the_last_bit(case, runs, monkeypatch):
    none = np.array([], int)
    begun = begun_with(case, *[none] * runs)
    made = counted(case.learned, monkeypatch)
    np.testing.assert_array_equal(image_of(case.samples, case.calibration, case.learned, begun), case.at_once)
    assert len(made) == case.learned.runs - runs


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 1 << 30), st.tuples(st.integers(0, 24), st.integers(0, 24), st.integers(0, 24)), st.integers(1, 3)
)
@example(seed=-1, lags=(6, 4, 2), runs=3)  # edge to edge, as the demo's readouts come
@example(seed=-1, lags=(24, 12, 4), runs=3)
def test_whatever_came_late_the_image_is_within_the_golden_tolerance(case, seed, lags, runs):
    order = case.order if seed < 0 else np.random.default_rng(seed).permutation(case.order)
    lates = [order[len(order) - lag :] for lag in sorted(lags, reverse=True)[:runs]]
    image = image_of(case.samples, case.calibration, case.learned, begun_with(case, *lates))
    difference = np.linalg.norm(image - case.at_once) / np.linalg.norm(case.at_once)
    assert difference <= case.learned.tolerance


def test_a_few_late_lines_do_not_make_the_network_run_again(case, monkeypatch):
    """But for FP32, whose golden tolerance allows no difference that a line makes."""
    begun = begun_with(case, case.order[-6:], case.order[-4:], case.order[-2:])
    made = counted(case.learned, monkeypatch)
    image_of(case.samples, case.calibration, case.learned, begun)
    assert len(made) == (0 if case.learned.tolerance > 0.01 else case.learned.runs)


def test_a_run_that_lacked_much_is_made_again(case, monkeypatch):
    late = case.order[:-FEWEST_LINES]
    begun = begun_with(case, late, late, late)
    made = counted(case.learned, monkeypatch)
    np.testing.assert_array_equal(image_of(case.samples, case.calibration, case.learned, begun), case.at_once)
    assert len(made) == case.learned.runs


# ------------------------------------------------------------------------------------------------- whether it goes on

SEEN = np.array([[True, True], [True, True], [True, False], [False, False]])
NOW = np.array([[True, True], [True, True], [True, True], [False, False]])
POWER = np.where(NOW, np.float32(1), 0)
BEGUN = Begun(None, None, 0.1, 0.1, 2.0, (SEEN, SEEN))  # type: ignore[arg-type]


def goes(begun=BEGUN, runs=2, visible=NOW, power=POWER, scale=2.0, noise=0.1, tolerance=0.5):
    return goes_on(begun, runs, visible, power, scale, NoiseLevel(noise, "estimated"), tolerance)


def test_what_a_run_did_not_know_counts_by_its_power():
    assert foretold_difference(BEGUN, 2, NOW, POWER) == pytest.approx(np.sqrt(1 / 6))
    assert foretold_difference(BEGUN, 2, SEEN, POWER * SEEN) == 0
    assert foretold_difference(replace(BEGUN, visible=(SEEN, NOW)), 2, NOW, POWER) == pytest.approx(np.sqrt(1 / 6) / 2)
    assert foretold_difference(replace(BEGUN, visible=(SEEN,)), 3, NOW, POWER) == pytest.approx(np.sqrt(1 / 6) / 4)
    assert foretold_difference(replace(BEGUN, visible=(SEEN,)), 1, NOW, POWER) == pytest.approx(np.sqrt(1 / 6))


def test_it_goes_on_within_the_tolerance_only():
    assert goes(tolerance=0.41)
    assert not goes(tolerance=0.40)


def test_a_sample_that_is_held_out_now_and_was_known_before_starts_it_anew():
    assert not goes(visible=NOW & ~np.eye(4, 2, dtype=bool))


def test_other_noise_or_brightness_start_it_anew():
    assert goes(noise=0.1 * (1 + 0.9 * NOISE_DRIFT))
    assert not goes(noise=0.1 * (1 + 1.1 * NOISE_DRIFT))
    assert not goes(noise=float("nan"))
    assert not goes(scale=2.1)


@pytest.mark.parametrize("power", [0.0, np.inf, np.nan])
def test_without_signal_nothing_can_be_foretold(power):
    assert not goes(power=np.where(NOW, np.float32(power), np.float32(0)))


# ---------------------------------------------------------------------------------------------------------- held out


@settings(deadline=None)
@given(st.integers(0, 1 << 30), st.integers(12, 64), st.data())
def test_lines_that_come_later_show_the_network_nothing_that_it_did_without(seed, lines, data):
    """So that runs of a part of the samples have never known what is held out of all of them."""
    order = np.random.default_rng(seed).permutation(lines)
    acs = slice(lines // 2 - 2, lines // 2 + 2)
    outer = [line for line in order if not acs.start <= line < acs.stop]
    come = data.draw(st.integers(min(FEWEST_LINES, len(outer)), len(outer)))
    part, whole = np.zeros(lines, bool), np.ones(lines, bool)
    part[acs] = part[outer[:come]] = True
    early, late = (choose_held_out(one, acs, 16, np.random.default_rng(seed + 1)) for one in (part, whole))
    seen = part[:, None] & ~early
    assert not (seen & late).any()


def test_a_late_line_changes_what_is_held_out_once_in_so_many_times():
    changed = 0
    for seed in range(400):
        measured = np.ones(40, bool)
        measured[seed % 16] = False
        early, late = (
            choose_held_out(one, slice(18, 22), 1, np.random.default_rng(seed)) for one in (measured, np.ones(40, bool))
        )
        changed += bool((early != late).any())
    assert 2 <= changed <= 30  # of 400 / 36 expected


def test_training_holds_out_other_lines_of_the_same_kind(case):
    """The compressed samples are the same whoever chooses."""
    chosen = compress(case.samples, case.calibration, PLANS, lambda *_: np.zeros(case.samples.hybrid.shape[1:], bool))
    usual = compress(case.samples, case.calibration, PLANS)
    np.testing.assert_array_equal(chosen.hybrid, usual.hybrid)
    assert usual.held_out.any() and not chosen.held_out.any()
