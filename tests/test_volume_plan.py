"""The SENSE plan of volumes against plain transforms, and its solve against plain conjugate gradients."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sense_problems import VOLUMES, assert_close, image_like, sense_plan, volume_plan
from sense_reference import conjugate_gradients
from simulated import complex_noise

from edge_runtime import _kernels
from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import VolumeSensePlan, Workers, instruction_set
from edge_runtime.modalities.mri.fourier import to_image, to_kspace

pytestmark = pytest.mark.usefixtures("kernels_on")


def problem_of(shape, *, seed=0, threads=1):
    """A plan with a random mask that differs from column to column, and what it was given."""
    rng = np.random.default_rng(seed)
    maps, hybrid = complex_noise(shape, rng) / np.float32(np.sqrt(shape[0])), complex_noise(shape, rng)
    mask = rng.random(shape[1:]) < 0.6
    plan = volume_plan(shape, threads)
    plan.set_maps(maps)
    plan.set_samples(hybrid, mask)
    return plan, maps, hybrid, mask


def spectrum_of(images):
    return to_kspace(to_kspace(images, axis=-2), axis=-3)


def gradient_of(maps, hybrid, mask, image):
    residual = mask * (spectrum_of(maps * image) - hybrid)
    return np.sum(maps.conj() * to_image(to_image(residual, axis=-2), axis=-3), axis=0)


@pytest.mark.parametrize("shape", VOLUMES)
def test_the_operator_is_the_plain_one(shape):
    plan, maps, hybrid, mask = problem_of(shape)
    image = image_like(plan)
    assert_close(plan.normal(image), gradient_of(maps, np.zeros_like(hybrid), mask, image))
    assert_close(plan.gradient(image), gradient_of(maps, hybrid, mask, image))


@pytest.mark.parametrize("never_written", [np.inf, np.nan])
def test_samples_outside_the_mask_are_not_looked_at(never_written):
    plan, _, hybrid, mask = problem_of((3, 5, 7, 9))
    image = image_like(plan)
    expected = plan.gradient(image)
    plan.set_samples(np.where(mask, hybrid, np.complex64(complex(never_written, never_written))), mask)
    np.testing.assert_array_equal(plan.gradient(image), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.integers(1, 18))
def test_the_operator_of_any_geometry(coils, partitions, lines, columns):
    plan, maps, hybrid, mask = problem_of((coils, partitions, lines, columns), seed=lines)
    image = image_like(plan)
    expected = gradient_of(maps, hybrid, mask, image)
    assert np.abs(plan.gradient(image) - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("tolerance", [0.0, 0.2, 0.02])
@pytest.mark.parametrize("shape", VOLUMES)
def test_data_consistency_is_conjugate_gradients_in_each_plane(shape, tolerance):
    plan, maps, hybrid, mask = problem_of(shape)
    prior, weight, most = image_like(plan), 0.3, 7
    solved = np.asarray(plan.data_consistent(prior, weight, most, tolerance=tolerance))
    pixels = shape[1] * shape[2]
    points = np.eye(pixels, dtype=np.complex64).reshape(pixels, *shape[1:3], 1)
    transform = spectrum_of(points).reshape(pixels, pixels).T
    for column in range(shape[3]):
        counts = mask[:, :, column].reshape(-1)
        matrix = np.concatenate([counts[:, None] * transform * coil[:, :, column].reshape(-1) for coil in maps])
        samples = (hybrid * mask)[:, :, :, column].reshape(-1)
        start = prior[:, :, column].reshape(-1)
        normal = (matrix.conj().T @ matrix).astype(complex) + weight * np.eye(pixels)
        expected, _ = conjugate_gradients(
            normal, matrix.conj().T @ samples + weight * start, start, min(most, pixels), tolerance
        )
        assert_close(solved[:, :, column].reshape(-1), expected, 1e-4)


@pytest.mark.parametrize("lines", [1, 15, 32, 49])
def test_a_volume_of_one_partition_is_a_slice(lines):
    plan, maps, hybrid, mask = problem_of((3, 1, lines, 11))
    flat = sense_plan((3, lines, 11))
    flat.set_maps(maps[:, 0])
    flat.set_samples(hybrid[:, 0], mask[0])
    image = image_like(plan)
    assert_close(plan.normal(image), np.asarray(flat.normal(image[0]))[None])
    assert_close(plan.gradient(image), np.asarray(flat.gradient(image[0]))[None])
    assert_close(plan.data_consistent(image, 0.1, 5), np.asarray(flat.data_consistent(image[0], 0.1, 5))[None], 1e-5)


def test_axes_may_change_places():
    plan, maps, hybrid, mask = problem_of((3, 6, 20, 9))
    turned = volume_plan((3, 20, 6, 9))
    turned.set_maps(np.ascontiguousarray(maps.swapaxes(1, 2)))
    turned.set_samples(np.ascontiguousarray(hybrid.swapaxes(1, 2)), np.ascontiguousarray(mask.swapaxes(0, 1)))
    image = image_like(plan)
    there = turned.gradient(np.ascontiguousarray(image.swapaxes(0, 1)))
    assert_close(there.transpose(1, 0, 2), plan.gradient(image))


def test_a_plane_that_has_converged_keeps_its_image():
    plan, _, hybrid, mask = problem_of((2, 6, 8, 11))
    mask[:, :, 4] = False  # nothing measured: the prior is the answer
    plan.set_samples(hybrid, mask)
    prior = image_like(plan)
    stopped = np.asarray(plan.data_consistent(prior, 0.3, 20, tolerance=0.1))
    np.testing.assert_array_equal(stopped[:, :, 4], prior[:, :, 4])
    by_steps = [np.asarray(plan.data_consistent(prior, 0.3, steps)) for steps in range(21)]
    for column in range(11):
        assert any(np.array_equal(stopped[:, :, column], image[:, :, column]) for image in by_steps[:20])
    np.testing.assert_array_equal(plan.data_consistent(prior, 0.3, 20, tolerance=0.0), by_steps[20])


def test_the_result_does_not_depend_on_the_threads():
    results = []
    for threads in (1, 2, 3):
        plan, *_ = problem_of((3, 12, 10, 27), threads=threads)
        image = image_like(plan)
        results.append((plan.gradient(image), plan.data_consistent(image, 0.1, 5, tolerance=0.01)))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_the_result_does_not_depend_on_what_computes_it():
    plan, maps, hybrid, mask = problem_of((3, 12, 10, 9))
    image = image_like(plan)
    ours = plan.data_consistent(image, 0.1, 5)
    other = VolumeSensePlan(Workers(threads=1), 3, 12, 10, 9)
    other.set_maps(maps)
    other.set_samples(hybrid, mask)
    chosen = instruction_set()
    for name in _kernels.instruction_sets():
        _kernels.choose_instruction_set(name)
        assert_close(other.data_consistent(image, 0.1, 5), ours)
    _kernels.choose_instruction_set(chosen)


@pytest.mark.parametrize("factor", [1e-15, 1e15])
def test_a_solve_does_not_depend_on_the_units_of_the_samples(factor):
    plan, _, hybrid, mask = problem_of((3, 6, 12, 5))
    prior = image_like(plan)
    expected = plan.data_consistent(prior, 0.1, 12)
    plan.set_samples((hybrid * factor).astype(np.complex64), mask)
    made = plan.data_consistent((prior * factor).astype(np.complex64), 0.1, 12)
    assert_close(np.asarray(made).astype(np.complex128) / factor, expected, 1e-5)


def test_a_plan_writes_where_it_is_told():
    plan, *_ = problem_of((2, 4, 8, 3))
    out = np.empty(plan.shape, np.complex64)
    assert plan.normal(image_like(plan), out) is out
    in_place = image_like(plan)
    expected = plan.data_consistent(in_place.copy(), 0.3, 3)
    plan.data_consistent(in_place, 0.3, 3, out=in_place)
    np.testing.assert_array_equal(in_place, expected)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda plan: plan.normal(np.zeros((4, 8, 4), np.complex64)),
            r"image: shape \(4, 8, 3\) expected, shape \(4, 8, 4\) came",
        ),
        (lambda plan: plan.normal(np.zeros((32, 3), np.complex64)), r"image: shape \(4, 8, 3\) expected"),
        (lambda plan: plan.gradient(np.zeros((4, 8, 3))), "image: dtype complex64 expected, dtype float64 came"),
        (
            lambda plan: plan.normal(np.zeros((8, 4, 3), np.complex64).swapaxes(0, 1)),
            "image: C order without gaps expected",
        ),
        (
            lambda plan: plan.normal(image_like(plan), np.zeros(plan.shape, np.complex128)),
            "out: dtype complex64 expected, dtype complex128 came",
        ),
        (
            lambda plan: plan.set_maps(np.zeros((4, 8, 3), np.complex64)),
            r"sensitivities: shape \(2, 4, 8, 3\) expected",
        ),
        (
            lambda plan: plan.set_samples(np.zeros((2, 4, 8, 3), np.complex64), np.zeros((4, 8), bool)),
            r"mask: shape \(4, 8, 3\) expected, shape \(4, 8\) came",
        ),
        (lambda plan: plan.data_consistent(image_like(plan), 0.1, -1), "steps: a whole number, .* expected, -1 came"),
        (
            lambda plan: plan.data_consistent(image_like(plan), 0.1, 1, tolerance=np.nan),
            "tolerance: 0 or more, finite in single precision expected, nan came",
        ),
    ],
)
def test_an_argument_that_was_not_planned_is_named(call, text):
    plan, *_ = problem_of((2, 4, 8, 3))
    with pytest.raises(ArgumentError, match=text):
        call(plan)


@pytest.mark.parametrize("geometry", [(0, 4, 8, 3), (2, 0, 8, 3), (2, 4, -1, 3), (2, 4, 8, 0)])
def test_an_impossible_geometry_is_named(geometry):
    with pytest.raises(ArgumentError, match="a whole number, 1 to"):
        volume_plan(geometry)
