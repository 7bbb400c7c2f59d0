"""The SENSE operator against its dense matrix, and the solves against the dense solution."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from simulated import coil_maps, complex_noise

from edge_runtime.modalities.mri import sense
from edge_runtime.modalities.mri.fourier import to_kspace
from edge_runtime.modalities.mri.sense import SenseProblem

SHAPES = [(1, 8, 3), (1, 7, 1), (2, 6, 5), (3, 9, 4), (4, 16, 3), (8, 5, 2)]
"""``(coils, phase_encodes, columns)``; even and odd."""


def problem_of(shape, *, seed=0, executor=None, full=False):
    """A problem with a random mask that differs from column to column, and its samples."""
    coils, lines, columns = shape
    rng = np.random.default_rng(seed)
    mask = np.ones((lines, columns), bool) if full else rng.random((lines, columns)) < 0.6
    hybrid = complex_noise(shape, rng) * mask
    return SenseProblem(hybrid, coil_maps(coils, lines, columns), mask, executor), hybrid, mask


def image_like(problem, seed=1):
    return complex_noise(problem.shape, np.random.default_rng(seed))


def forward(problem, mask, image):
    """``M F S x``, by way of the residual with samples of zero."""
    return mask * problem.residuals(image, np.zeros((problem.sensitivities.shape[1], *mask.shape), np.complex64))


def dense_matrix(shape, mask, column):
    """``M F S`` of one column, ``(coils * phase_encodes, phase_encodes)``."""
    coils, lines, _ = shape
    maps = coil_maps(*shape)[:, :, column]
    transform = to_kspace(np.eye(lines, dtype=np.complex64), axis=0).astype(np.complex128)
    return np.concatenate([mask[:, column, None] * transform * maps[coil] for coil in range(coils)])


def dense_solution(shape, hybrid, mask, penalty):
    """``(Aᴴ A + penalty) x = Aᴴ y + …`` column by column; ``penalty(column)`` is a matrix and a right side."""
    solved = []
    for column in range(shape[2]):
        matrix = dense_matrix(shape, mask, column)
        extra, right = penalty(column)
        samples = hybrid[:, :, column].reshape(-1)
        solved.append(np.linalg.solve(matrix.conj().T @ matrix + extra, matrix.conj().T @ samples + right))
    return np.array(solved)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_adjoint_is_the_adjoint(shape):
    problem, hybrid, mask = problem_of(shape)
    image = image_like(problem)
    in_samples = np.vdot(forward(problem, mask, image), hybrid)
    in_images = np.vdot(image, problem.adjoint)
    assert in_images == pytest.approx(in_samples, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_normal_operator_is_its_own_adjoint(shape):
    problem, _, _ = problem_of(shape)
    x, y = image_like(problem, 1), image_like(problem, 2)
    assert np.vdot(problem.normal(x), y) == pytest.approx(np.vdot(x, problem.normal(y)), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_normal_operator_is_the_dense_one(shape):
    problem, _, mask = problem_of(shape)
    image = image_like(problem)
    matrices = [dense_matrix(shape, mask, column) for column in range(shape[2])]
    expected = np.array([a.conj().T @ a @ x for a, x in zip(matrices, image, strict=True)])
    np.testing.assert_allclose(problem.normal(image), expected, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_residuals_are_predicted_minus_measured(shape):
    problem, hybrid, mask = problem_of(shape)
    image = image_like(problem)
    expected = [dense_matrix(shape, np.ones_like(mask), c) @ image[c] for c in range(shape[2])]
    predicted = np.array(expected).reshape(shape[2], *shape[:2]).transpose(1, 2, 0)
    np.testing.assert_allclose(problem.residuals(image, hybrid), predicted - hybrid, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_data_consistency_reaches_the_dense_solution(shape):
    problem, hybrid, mask = problem_of(shape)
    prior, weight = image_like(problem), 0.3
    solved = problem.data_consistent(prior, weight, steps=30)
    expected = dense_solution(shape, hybrid, mask, lambda c: (weight * np.eye(shape[1]), weight * prior[c]))
    np.testing.assert_allclose(solved, expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_regularised_sense_reaches_the_dense_solution(shape):
    problem, hybrid, mask = problem_of(shape)
    weights = np.random.default_rng(3).uniform(0.05, 1.0, problem.shape).astype(np.float32)
    transform = to_kspace(np.eye(shape[1], dtype=np.complex64), axis=0).astype(np.complex128)

    def penalty(column):
        return transform.conj().T @ (weights[column, :, None] * transform), 0

    solved = problem.regularised(weights, steps=60)
    np.testing.assert_allclose(solved, dense_solution(shape, hybrid, mask, penalty), atol=2e-4)


def test_a_prior_that_already_agrees_is_left_alone():
    shape = (3, 12, 5)
    problem, _, mask = problem_of(shape)
    image = image_like(problem)
    agreeing = problem.with_mask(forward(problem, mask, image), mask)
    np.testing.assert_allclose(agreeing.data_consistent(image, 0.1, steps=4), image, atol=1e-5)


def test_with_all_samples_and_unit_maps_the_adjoint_is_the_image():
    problem, _, mask = problem_of((4, 16, 6), full=True)
    image = image_like(problem)
    measured = problem.with_mask(forward(problem, mask, image), mask)
    np.testing.assert_allclose(measured.adjoint, image, atol=1e-5)


def test_another_mask_leaves_the_first_problem_alone():
    problem, hybrid, mask = problem_of((2, 8, 3))
    before = problem.adjoint.copy()
    problem.with_mask(hybrid, np.zeros_like(mask))
    np.testing.assert_array_equal(problem.adjoint, before)


@pytest.mark.parametrize("block_samples", [1, 100, 1 << 20])
def test_the_result_does_not_depend_on_the_blocks(monkeypatch, block_samples):
    shape = (4, 16, 11)
    usual, _, _ = problem_of(shape)
    monkeypatch.setattr(sense, "BLOCK_SAMPLES", block_samples)
    cut, _, _ = problem_of(shape)
    prior = image_like(usual)
    np.testing.assert_allclose(cut.data_consistent(prior, 0.1, 5), usual.data_consistent(prior, 0.1, 5), atol=1e-6)


def test_the_result_does_not_depend_on_the_threads(monkeypatch):
    monkeypatch.setattr(sense, "BLOCK_SAMPLES", 64)
    shape = (4, 16, 11)
    alone, hybrid, _ = problem_of(shape)
    with ThreadPoolExecutor(2) as executor:
        shared, _, _ = problem_of(shape, executor=executor)
        prior = image_like(alone)
        np.testing.assert_array_equal(shared.residuals(prior, hybrid), alone.residuals(prior, hybrid))
        np.testing.assert_array_equal(shared.data_consistent(prior, 0.1, 5), alone.data_consistent(prior, 0.1, 5))


def test_an_empty_column_stays_finite():
    shape = (2, 8, 3)
    problem, hybrid, mask = problem_of(shape)
    empty = problem.with_mask(hybrid, np.zeros_like(mask))
    solved = empty.regularised(np.full(problem.shape, 0.1, np.float32), steps=5)
    np.testing.assert_array_equal(solved, 0)
