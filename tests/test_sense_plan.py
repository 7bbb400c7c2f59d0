"""The SENSE plan against its dense matrix, its solves against the dense solution, on every instruction set at hand and the GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sense_problems import SLICES, assert_close, image_like, sense_plan
from sense_reference import conjugate_gradients
from simulated import coil_maps, complex_noise

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri.fourier import to_image, to_kspace

pytestmark = pytest.mark.usefixtures("kernels_on")


def problem_of(shape, *, seed=0, threads=1, full=False):
    """A plan with a random mask that differs from column to column, and what it was given."""
    coils, lines, columns = shape
    rng = np.random.default_rng(seed)
    mask = np.ones((lines, columns), bool) if full else rng.random((lines, columns)) < 0.6
    hybrid = complex_noise(shape, rng)
    maps = coil_maps(coils, lines, columns)
    plan = sense_plan(shape, threads)
    plan.set_maps(maps)
    plan.set_samples(hybrid, mask)
    return plan, maps, hybrid, mask


def dense_matrix(maps, mask, column):
    """``M F S`` of one column, ``(coils * phase_encodes, phase_encodes)``, in double precision."""
    transform = to_kspace(np.eye(mask.shape[0], dtype=np.complex128), axis=0).astype(np.complex128)
    return np.concatenate([mask[:, column, None] * transform * coil[:, column] for coil in maps])


def dense_solution(maps, hybrid, mask, penalty):
    """``(Aᴴ A + penalty) x = Aᴴ y + …`` column by column; ``penalty(column)`` is a matrix and a right side."""
    solved = []
    for column in range(mask.shape[1]):
        matrix = dense_matrix(maps, mask, column)
        extra, right = penalty(column)
        samples = (hybrid * mask)[:, :, column].reshape(-1)
        solved.append(np.linalg.solve(matrix.conj().T @ matrix + extra, matrix.conj().T @ samples + right))
    return np.stack(solved, axis=1)


@pytest.mark.parametrize("shape", SLICES)
def test_the_normal_operator_is_the_dense_one(shape):
    plan, maps, _, mask = problem_of(shape)
    image = image_like(plan)
    matrices = [dense_matrix(maps, mask, column) for column in range(shape[2])]
    expected = np.stack([a.conj().T @ a @ x for a, x in zip(matrices, image.T, strict=True)], axis=1)
    assert_close(plan.normal(image), expected)


@pytest.mark.parametrize("shape", SLICES)
def test_the_gradient_is_that_of_the_squared_disagreement(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    image = image_like(plan)
    residual = mask * (to_kspace(maps * image, axis=1) - hybrid)
    expected = np.sum(maps.conj() * to_image(residual, axis=1), axis=0)
    assert_close(plan.gradient(image), expected)


@pytest.mark.parametrize("shape", SLICES)
def test_data_consistency_reaches_the_dense_solution(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    prior, weight = image_like(plan), 0.3
    expected = dense_solution(maps, hybrid, mask, lambda c: (weight * np.eye(shape[1]), weight * prior[:, c]))
    assert_close(plan.data_consistent(prior, weight, steps=40), expected, 1e-4)


@pytest.mark.parametrize("tolerance", [0.15, 0.05, 0.003])
def test_a_column_that_has_converged_keeps_its_image(tolerance):
    shape = (2, 13, 11)
    plan, maps, hybrid, mask = problem_of(shape)
    prior, weight, most = image_like(plan), 0.1, 6
    by_steps = [np.asarray(plan.data_consistent(prior, weight, steps)) for steps in range(most + 1)]
    stopped = np.asarray(plan.data_consistent(prior, weight, most, tolerance=tolerance))
    ends = set()
    for column in range(shape[2]):
        matrix = dense_matrix(maps, mask, column)
        normal = matrix.conj().T @ matrix + weight * np.eye(shape[1])
        right = matrix.conj().T @ (hybrid * mask)[:, :, column].reshape(-1) + weight * prior[:, column]
        expected, steps = conjugate_gradients(normal, right, prior[:, column], most, tolerance)
        np.testing.assert_array_equal(stopped[:, column], by_steps[steps][:, column])
        assert_close(stopped[:, column], expected, 1e-4)
        ends.add(steps)
    assert len(ends) > 1, "every column stops by itself"


def test_regularised_sense_stops_at_its_tolerance():
    plan, *_ = problem_of((3, 24, 9))
    weights = np.full(plan.shape, 0.2, np.float32)
    solved = plan.regularised(weights, steps=60)
    np.testing.assert_array_equal(plan.regularised(weights, steps=60, tolerance=1.0), 0)  # zero is near enough
    close = plan.regularised(weights, steps=60, tolerance=1e-3)
    assert_close(close, solved, 1e-2)
    assert np.abs(close - solved).max() > 1e-5 * np.abs(solved).max()


@pytest.mark.parametrize("shape", SLICES)
def test_regularised_sense_reaches_the_dense_solution(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    weights = np.random.default_rng(3).uniform(0.05, 1.0, plan.shape).astype(np.float32)
    transform = to_kspace(np.eye(shape[1], dtype=np.complex128), axis=0).astype(np.complex128)

    def penalty(column):
        return transform.conj().T @ (weights[:, column, None] * transform), 0

    assert_close(plan.regularised(weights, steps=60), dense_solution(maps, hybrid, mask, penalty), 2e-4)


@pytest.mark.parametrize("shape", SLICES)
def test_substitution_puts_measured_samples_in_their_place(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    image = image_like(plan)
    model = to_kspace(maps * image, axis=1)
    expected = np.sqrt(np.sum(np.abs(to_image(np.where(mask, hybrid, model), axis=1)) ** 2, axis=0))
    magnitude, power = plan.substituted(image, hybrid, mask)
    assert_close(magnitude, expected)
    assert_close(power, np.mean(np.abs(mask * (model - hybrid)) ** 2, axis=0), 1e-5)


@pytest.mark.parametrize("shape", SLICES)
def test_the_line_search_ends_where_the_samples_agree_best(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    image, direction = image_like(plan, 1), image_like(plan, 2)
    left = mask * (hybrid - to_kspace(maps * image, axis=1))
    change = mask * to_kspace(maps * direction, axis=1)
    best = np.vdot(change, left).real / np.vdot(change, change).real
    towards = image + direction
    assert plan.line_search(image, towards, hybrid, mask) == pytest.approx(best, rel=1e-4, abs=1e-5)
    assert plan.line_search(image, towards, hybrid, np.zeros_like(mask)) is None
    assert plan.line_search(image, image, hybrid, mask) is None
    assert_close(plan.between(image, towards, 0.3), image + np.float32(0.3) * direction)


@pytest.mark.parametrize("shape", SLICES)
def test_the_power_of_samples_is_summed_over_the_coils(shape):
    plan = sense_plan(shape)
    hybrid = complex_noise(shape, np.random.default_rng(0))
    assert_close(plan.sample_power(hybrid), np.sum(np.abs(hybrid) ** 2, axis=0))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 130), st.integers(1, 20))
def test_the_operator_of_any_geometry(coils, lines, columns):
    plan, maps, hybrid, mask = problem_of((coils, lines, columns), seed=lines)
    image = image_like(plan)
    residual = mask * (to_kspace(maps * image, axis=1) - hybrid)
    expected = np.sum(maps.conj() * to_image(residual, axis=1), axis=0)
    assert np.abs(plan.gradient(image) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


def test_a_prior_that_already_agrees_is_left_alone():
    plan, maps, _, mask = problem_of((3, 12, 5))
    image = image_like(plan)
    plan.set_samples(to_kspace(maps * image, axis=1), mask)
    np.testing.assert_allclose(plan.data_consistent(image, 0.1, steps=4), image, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-15, 1e-9, 1e9, 1e15])
def test_solves_do_not_depend_on_the_units_of_the_samples(factor):
    plan, _, hybrid, mask = problem_of((3, 24, 9))
    prior, weights = image_like(plan), np.full(plan.shape, 0.2, np.float32)
    solved = plan.data_consistent(prior, 0.1, 20), plan.regularised(weights, 20)
    plan.set_samples((hybrid * factor).astype(np.complex64), mask)
    scaled = plan.data_consistent((prior * factor).astype(np.complex64), 0.1, 20), plan.regularised(weights, 20)
    for made, expected in zip(scaled, solved, strict=True):
        assert_close(np.asarray(made).astype(np.complex128) / factor, expected, 1e-5)


@pytest.mark.parametrize("never_written", [1e9, np.inf, np.nan])
def test_samples_outside_the_mask_are_not_looked_at(never_written):
    plan, _, hybrid, mask = problem_of((2, 8, 3))
    image, towards = image_like(plan, 1), image_like(plan, 2)

    def answers(hybrid):
        plan.set_samples(hybrid, mask)
        return (
            plan.gradient(image),
            *plan.substituted(image, hybrid, mask),
            plan.line_search(image, towards, hybrid, mask),
        )

    expected = answers(hybrid)
    holes = np.where(mask, hybrid, np.complex64(complex(never_written, never_written)))
    for made, wanted in zip(answers(holes), expected, strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_what_a_plan_needs_first_is_said():
    plan = sense_plan((2, 8, 3))
    image, hybrid, mask = image_like(plan), np.zeros((2, 8, 3), np.complex64), np.ones((8, 3), bool)
    for early in (
        lambda: plan.set_samples(hybrid, mask),
        lambda: plan.normal(image),
        lambda: plan.substituted(image, hybrid, mask),
        lambda: plan.line_search(image, image, hybrid, mask),
    ):
        with pytest.raises(ArgumentError, match=r"sensitivities: those of set_maps, called first expected, none came"):
            early()
    plan.set_maps(hybrid)
    for early in (
        lambda: plan.gradient(image),
        lambda: plan.data_consistent(image, 1.0, 1),
        lambda: plan.regularised(np.ones((8, 3), np.float32), 1),
    ):
        with pytest.raises(ArgumentError, match="hybrid: those of set_samples, called first expected"):
            early()
    plan.set_samples(hybrid, mask)
    plan.set_maps(hybrid)
    with pytest.raises(ArgumentError, match="no samples since the maps were set came"):
        plan.normal(image)


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ({"weight": np.nan}, "weight: 0 or more, finite in single precision expected, nan came"),
        ({"weight": -0.1}, "weight: 0 or more, finite in single precision expected, -0.1 came"),
        ({"weight": np.inf}, "weight: 0 or more, finite"),
        ({"weight": 1e39}, "weight: 0 or more, finite in single precision expected, 1e.39 came"),
        ({"weight": "1"}, "weight: 0 or more, finite"),
        ({"steps": -1}, "steps: a whole number, 0 to 2147483647 expected, -1 came"),
        ({"steps": 2**31}, "steps: a whole number"),
        ({"steps": 1.5}, "steps: a whole number"),
        ({"tolerance": np.nan}, "tolerance: 0 or more, finite"),
    ],
)
def test_numbers_that_no_solve_can_have_are_named(numbers, text):
    plan, *_ = problem_of((2, 8, 3))
    with pytest.raises(ArgumentError, match=text):
        plan.data_consistent(image_like(plan), **{"weight": 0.1, "steps": 2, **numbers})


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_spectral_weight_that_is_none_is_named(bad):
    plan, *_ = problem_of((2, 8, 3))
    weights = np.ones(plan.shape, np.float32)
    weights[3, 1] = bad
    with pytest.raises(ArgumentError, match="spectral_weight: positive and finite weights expected"):
        plan.regularised(weights, 3)


def test_the_result_does_not_depend_on_the_threads():
    shape = (4, 48, 75)
    results = []
    for threads in (1, 2, 3):
        plan, _, hybrid, mask = problem_of(shape, threads=threads)
        prior = image_like(plan)
        weights = np.full(plan.shape, 0.1, np.float32)
        solved = (
            plan.data_consistent(prior, 0.1, 5),
            plan.regularised(weights, 5),
            *plan.substituted(prior, hybrid, mask),
            plan.line_search(prior, image_like(plan, 2), hybrid, mask),
        )
        results.append(solved)
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_plan_writes_where_it_is_told():
    plan, _, _, _ = problem_of((2, 8, 3))
    out = np.empty(plan.shape, np.complex64)
    assert plan.normal(image_like(plan), out) is out
    in_place = image_like(plan)
    expected = plan.data_consistent(in_place.copy(), 0.3, 3)
    plan.data_consistent(in_place, 0.3, 3, out=in_place)
    np.testing.assert_array_equal(in_place, expected)


def test_an_empty_column_stays_finite():
    plan, _, hybrid, mask = problem_of((2, 8, 3))
    plan.set_samples(hybrid, np.zeros_like(mask))
    np.testing.assert_array_equal(plan.regularised(np.full(plan.shape, 0.1, np.float32), steps=5), 0)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda plan: plan.normal(np.zeros((8, 4), np.complex64)),
            r"image: shape \(8, 3\) expected, shape \(8, 4\) came",
        ),
        (lambda plan: plan.normal(np.zeros((8, 3))), "image: dtype complex64 expected, dtype float64 came"),
        (lambda plan: plan.normal(np.zeros((3, 8), np.complex64).T), "image: C order without gaps expected"),
        (lambda plan: plan.set_maps(np.zeros((1, 8, 3), np.complex64)), r"sensitivities: shape \(2, 8, 3\) expected"),
        (
            lambda plan: plan.set_samples(np.zeros((2, 8, 3), np.complex64), np.zeros((8, 3))),
            "mask: dtype bool expected, dtype float64 came",
        ),
        (lambda plan: plan.regularised(np.zeros((8, 3)), 3), "spectral_weight: dtype float32 expected"),
        (lambda plan: plan.data_consistent(image_like(plan), 0.1, -1), "steps: a whole number, .* expected, -1 came"),
        (
            lambda plan: plan.data_consistent(image_like(plan), 0.1, 3, tolerance=-0.1),
            "tolerance: 0 or more, finite in single precision expected, -0.1 came",
        ),
        (
            lambda plan: plan.regularised(np.ones(plan.shape, np.float32), 3, tolerance=np.nan),
            "tolerance: 0 or more, finite in single precision expected, nan came",
        ),
    ],
)
def test_an_argument_that_was_not_planned_is_named(call, text):
    plan, _, _, _ = problem_of((2, 8, 3))
    with pytest.raises(ArgumentError, match=text):
        call(plan)


def test_plans_are_used_again_but_never_by_two_at_once():
    plans = Plans(Workers(threads=1))
    with plans.sense(2, 8, 3) as first, plans.sense(2, 8, 3) as second:
        assert first is not second
    with plans.sense(2, 8, 3) as again:
        assert again in (first, second)
    with plans.sense(2, 8, 4) as other:
        assert other.shape == (8, 4)
