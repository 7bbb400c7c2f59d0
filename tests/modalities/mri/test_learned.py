"""The unrolled loop around a regulariser: what it is fed, and what it makes of a correction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated import coil_maps, complex_noise

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.bundle.manifest import LARGEST_LOG_WEIGHT
from edge_runtime.errors import Abandoned
from edge_runtime.kernels import Plans, SensePlan, Workers
from edge_runtime.modalities.mri.learned import LearnedReconstruction, condition_of_noise
from edge_runtime.modalities.mri.phase import slow_phase

LINES, COLUMNS, SCALE, SHARE = 10, 7, 4.0, 0.7
PLANS = Plans(Workers(threads=1))
SETTINGS = UnrolledSettings(iterations=3, cg_steps=4, log_weights=((-2.0, 0.5, 0.3),) * 3, multiple=4)


class Regulariser:
    """Answers with a constant correction and remembers what it was fed."""

    def __init__(self, correction: float = 0.0) -> None:
        self.fed: list[np.ndarray] = []
        self._correction = correction

    def run(self, batch):
        self.fed.append(batch.copy())
        return np.full((1, 2, *batch.shape[2:]), self._correction, np.float32)


@pytest.fixture
def plan():
    rng = np.random.default_rng(0)
    mask = rng.random((LINES, COLUMNS)) < 0.7
    plan = SensePlan(Workers(threads=1), 3, LINES, COLUMNS)
    plan.set_maps(coil_maps(3, LINES, COLUMNS))
    plan.set_samples(complex_noise((3, LINES, COLUMNS), rng), mask)
    return plan


@pytest.fixture
def first(plan):
    return complex_noise(plan.shape, np.random.default_rng(1))


def run(plan, first, regulariser, noise=0.1):
    return LearnedReconstruction(SETTINGS, regulariser).run(
        plan, first, slow_phase(first, 8), SCALE, noise, SHARE, PLANS
    )


def test_it_runs_once_an_iteration_on_sizes_that_the_graph_takes(plan, first):
    regulariser = Regulariser()
    run(plan, first, regulariser)
    assert [batch.shape for batch in regulariser.fed] == [(1, 6, 12, 8)] * SETTINGS.iterations


def test_the_padding_is_zero(plan, first):
    regulariser = Regulariser()
    run(plan, first, regulariser)
    assert not regulariser.fed[-1][0, :, LINES:].any()
    assert not regulariser.fed[-1][0, :, :, COLUMNS:].any()


def test_it_is_fed_the_estimate_the_first_estimate_the_noise_and_the_progress(plan, first):
    regulariser = Regulariser()
    run(plan, first, regulariser)
    inside = regulariser.fed[1][0, :, :LINES, :COLUMNS]
    turned_back = first * slow_phase(first, 8).conj()
    np.testing.assert_allclose(inside[2], turned_back.real / SCALE, atol=1e-6)
    np.testing.assert_allclose(inside[3], turned_back.imag / SCALE, atol=1e-6)
    np.testing.assert_allclose(inside[4], condition_of_noise(0.1 / SCALE), rtol=1e-6)
    np.testing.assert_allclose(inside[5], 1 / 3, rtol=1e-6)


def test_without_corrections_it_is_repeated_data_consistency(plan, first):
    reconstruction = LearnedReconstruction(SETTINGS, Regulariser())
    expected = first
    for weight in reconstruction.weights(SCALE, 0.1, SHARE):
        expected = plan.data_consistent(expected, weight, SETTINGS.cg_steps)
    np.testing.assert_allclose(run(plan, first, Regulariser()), expected, atol=1e-6)


def test_a_correction_is_in_units_of_the_scale(plan, first):
    (weight, *_) = LearnedReconstruction(SETTINGS, Regulariser()).weights(SCALE, 0.1, SHARE)
    regulariser = Regulariser(correction=0.5)
    run(plan, first, regulariser)
    phase = slow_phase(first, 8)
    prior = first + np.complex64(0.5 + 0.5j) * SCALE * phase
    expected = plan.data_consistent(prior, weight, SETTINGS.cg_steps) * phase.conj()
    np.testing.assert_allclose(regulariser.fed[1][0, 0, :LINES, :COLUMNS], expected.real / SCALE, atol=1e-5)


def test_a_phase_of_the_whole_object_is_nothing_to_the_network(plan, first):
    """Coils that turn the image by as much the other way foretell the same samples, and the network is fed the same pictures."""
    turn, fed = np.complex64(np.exp(0.7j)), []
    hybrid = complex_noise((3, LINES, COLUMNS), np.random.default_rng(0))
    for factor in (np.complex64(1), turn):
        plan.set_maps(coil_maps(3, LINES, COLUMNS) / factor)
        plan.set_samples(hybrid, np.ones(plan.shape, np.bool_))
        regulariser = Regulariser(correction=0.5)
        run(plan, first * factor, regulariser)
        fed.append(np.concatenate(regulariser.fed))
    np.testing.assert_allclose(fed[1], fed[0], atol=1e-5)


def test_the_first_estimate_is_not_written_to(plan, first):
    before = first.copy()
    run(plan, first, Regulariser(correction=0.5))
    np.testing.assert_array_equal(first, before)


@pytest.mark.parametrize("answers", [0, 1, 2, 3])
def test_it_stops_where_nobody_wants_the_image_any_more(plan, first, answers):
    """Before the next step that takes long: a regulariser's run, then data consistency."""
    regulariser, left = Regulariser(), iter([True] * answers)
    with pytest.raises(Abandoned):
        LearnedReconstruction(SETTINGS, regulariser).run(
            plan, first, None, SCALE, 0.1, SHARE, PLANS, lambda: next(left, False)
        )
    assert len(regulariser.fed) == (answers + 1) // 2


def test_the_more_is_measured_the_more_its_network_is_believed():
    """The law's third number is the logarithm of λ's change by a doubling of the share; at a quarter it changes nothing."""
    reconstruction = LearnedReconstruction(SETTINGS, Regulariser())
    quarter, half = (reconstruction.weights(SCALE, 0.1, share) for share in (0.25, 0.5))
    np.testing.assert_allclose(quarter, [np.exp(-2.0 + 0.5 * condition_of_noise(0.1 / SCALE))] * 3)
    np.testing.assert_allclose(half, np.array(quarter) * np.exp(0.3))


def test_the_largest_law_is_a_finite_weight_in_single_precision_whatever_is_measured():
    for sign in (-1, 1):
        law = (float(LARGEST_LOG_WEIGHT), float(LARGEST_LOG_WEIGHT), sign * float(LARGEST_LOG_WEIGHT))
        reconstruction = LearnedReconstruction(replace(SETTINGS, log_weights=(law,) * 3), Regulariser())
        for share in (0.0, 1e-3, 1.0):
            assert np.isfinite(np.float32(reconstruction.weights(SCALE, SCALE, share))).all()


def test_no_noise_at_all_is_a_finite_condition():
    assert np.isfinite(condition_of_noise(0.0))
