"""Adaptive coil combination against plain NumPy, on every instruction set at hand and the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import sense_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import coil_maps, complex_noise, object_image
from test_sensitivity_plan import dominant_eigenvectors

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import AdaptivePlan, Workers
from edge_runtime.modalities.mri.fourier import to_image, to_kspace

pytestmark = pytest.mark.usefixtures("kernels_on")

CELL = 8

SHAPES = [(1, 8, 8), (4, 33, 20), (8, 96, 80), (12, 17, 70), (3, 1, 1)]
"""``(coils, phase_encodes, columns)``."""


def plan_of(shape, threads=1):
    return AdaptivePlan(Workers(threads), *shape, device=sense_problems.running_on)


def combined(images):
    """In double precision, from coil images ``(coils, lines, columns)``."""
    coils, *size = images.shape
    cells = [-(-pixels // CELL) for pixels in size]
    padded = np.zeros((coils, cells[0] * CELL, cells[1] * CELL), complex)
    padded[:, : size[0], : size[1]] = images
    pixels = padded.reshape(coils, cells[0], CELL, cells[1], CELL).transpose(1, 3, 0, 2, 4).reshape(-1, coils, CELL**2)
    vectors = dominant_eigenvectors(pixels @ pixels.conj().transpose(0, 2, 1))
    reference = np.argmax(np.sum(np.abs(images) ** 2, axis=(1, 2)))
    vectors = vectors * np.exp(-1j * np.angle(vectors[:, reference, None]))
    maps = vectors.T.reshape(coils, *cells)
    for axis in (0, 1):
        position = np.clip((np.arange(size[axis]) - (CELL - 1) / 2) / CELL, 0, cells[axis] - 1)
        left = np.minimum(position.astype(int), max(cells[axis] - 2, 0))
        weight = np.expand_dims(position - left, 1 - axis)
        right = np.minimum(left + 1, cells[axis] - 1)
        maps = maps.take(left, axis=axis + 1) * (1 - weight) + maps.take(right, axis=axis + 1) * weight
    return np.sum(maps.conj() * images, axis=0) / np.maximum(np.linalg.norm(maps, axis=0), 1e-6)


def scan(shape, noise, seed=0):
    """Coil images, and hybrid samples as the assembler keeps them: phase encodes first."""
    size = shape[1:]
    images = object_image(*size) * coil_maps(*shape) if min(size) > 1 else np.ones(shape, np.complex64)
    images = images + np.float32(noise) * complex_noise(shape, np.random.default_rng(seed))
    samples = np.ascontiguousarray(to_kspace(images.astype(np.complex64), axis=1).transpose(1, 0, 2))
    return images, samples.transpose(1, 0, 2)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_image_is_that_of_numpy(shape, threads):
    images, samples = scan(shape, 0.02)
    found = plan_of(shape, threads).combine(samples, np.ones(shape[1], bool))
    # Where the eigenvalues lie close, in the air, rounding turns the eigenvector.
    np.testing.assert_allclose(found, combined(images.astype(complex)), atol=1e-4)


def test_lines_that_were_not_measured_count_as_zero():
    shape = (4, 40, 24)
    _, samples = scan(shape, 0.02)
    measured = np.random.default_rng(0).random(40) < 0.6
    spoiled = np.where(measured[:, None], samples, np.nan)
    images = to_image(np.where(measured[:, None], samples, 0).astype(np.complex64), axis=1)
    found = plan_of(shape).combine(spoiled, measured)
    np.testing.assert_allclose(found, combined(images.astype(complex)), atol=1e-4)


def test_it_is_the_object_with_less_noise_than_the_root_sum_of_squares():
    shape = (8, 96, 80)
    images, samples = scan(shape, 0.1)
    found = plan_of(shape).combine(samples, np.ones(96, bool))
    shown = np.abs(object_image(96, 80))
    rss = np.sqrt(np.sum(np.abs(images) ** 2, axis=0))
    assert np.linalg.norm(np.abs(found) - shown) < 0.8 * np.linalg.norm(rss - shown)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1e-9, 1, 1e9]))
def test_it_is_never_brighter_than_the_root_sum_of_squares(coils, lines, columns, unit):
    samples = complex_noise((coils, lines, columns), np.random.default_rng(0)) * np.float32(unit)
    found = plan_of(samples.shape).combine(samples, np.ones(lines, bool))
    images = to_image(samples, axis=1)
    rss = np.sqrt(np.sum(images.real**2 + images.imag**2, axis=0))
    assert (np.abs(found) <= rss * (1 + 1e-4) + 1e-5 * rss.max()).all()


def test_the_same_bits_with_any_number_of_threads():
    _, samples = scan((5, 70, 50), 0.05)
    one, other = (plan_of((5, 70, 50), threads).combine(samples, np.ones(70, bool)) for threads in (1, 3))
    np.testing.assert_array_equal(one, other)


def test_silence_is_black():
    plan = plan_of((2, 10, 10))
    image = plan.combine(np.zeros((2, 10, 10), np.complex64), np.ones(10, bool))
    np.testing.assert_array_equal(image, 0)


def test_an_argument_that_was_not_planned_is_named():
    samples, measured = np.zeros((2, 8, 4), np.complex64), np.ones(8, bool)
    plan = plan_of((2, 8, 4))
    with pytest.raises(ArgumentError, match=r"hybrid: shape \(2, 8, 4\) expected"):
        plan.combine(samples[:1], measured)
    with pytest.raises(ArgumentError, match="hybrid: columns that lie side by side"):
        plan.combine(np.asfortranarray(samples), measured)
    with pytest.raises(ArgumentError, match=r"measured: shape \(8,\) expected"):
        plan.combine(samples, measured[:3])
    with pytest.raises(ArgumentError, match="out: dtype complex64 expected, dtype float32 came"):
        plan.combine(samples, measured, out=np.zeros((8, 4), np.float32))
    with pytest.raises(ArgumentError, match=r"columns: a whole number, .* expected, 0 came"):
        plan_of((2, 8, 0))
