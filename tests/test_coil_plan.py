"""Coil compression and combination against plain NumPy, for every instruction set at hand."""

from __future__ import annotations

import numpy as np
import pytest
import sense_problems
from simulated import complex_noise

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import CoilPlan, Workers
from edge_runtime.modalities.mri.fourier import to_image

pytestmark = pytest.mark.usefixtures("kernels_on")

SHAPES = [(1, 8, 3), (2, 9, 8), (5, 16, 17), (12, 30, 9), (3, 1, 1)]
"""``(coils, phase_encodes, columns)``."""


def samples_of(shape):
    """As the assembler keeps them: phase encodes first, anything where nothing was measured."""
    rng = np.random.default_rng(0)
    coils, lines, columns = shape
    measured = rng.random(lines) < 0.6
    samples = complex_noise((lines, coils, columns), rng)
    samples[~measured] = np.nan
    return samples.transpose(1, 0, 2), measured, np.where(measured[:, None], samples.transpose(1, 0, 2), 0)


@pytest.mark.parametrize("virtual", [1, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_compression_mixes_the_coils_of_measured_lines(shape, virtual):
    samples, measured, clean = samples_of(shape)
    matrix = complex_noise((virtual, shape[0]), np.random.default_rng(1))
    made = CoilPlan(Workers(threads=2), *shape, device=sense_problems.running_on).compress(samples, measured, matrix)
    expected = np.einsum("vc,cyx->vyx", matrix.astype(complex), clean)
    np.testing.assert_allclose(made, expected, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_root_sum_of_squares(shape, threads):
    samples, measured, clean = samples_of(shape)
    image = CoilPlan(Workers(threads), *shape, device=sense_problems.running_on).root_sum_of_squares(samples, measured)
    expected = np.sqrt(np.sum(np.abs(to_image(clean.astype(np.complex64), axis=1)) ** 2, axis=0))
    np.testing.assert_allclose(image, expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_result_does_not_depend_on_the_threads(shape):
    samples, measured, _ = samples_of(shape)
    matrix = complex_noise((3, shape[0]), np.random.default_rng(1))
    plans = [CoilPlan(Workers(threads), *shape, device=sense_problems.running_on) for threads in (1, 2, 5)]
    first, *others = [
        (plan.compress(samples, measured, matrix), plan.root_sum_of_squares(samples, measured)) for plan in plans
    ]
    for other in others:
        for ours, theirs in zip(first, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_an_argument_that_was_not_planned_is_named():
    samples, measured, _ = samples_of((2, 8, 4))
    plan = CoilPlan(Workers(threads=1), 2, 8, 4, device=sense_problems.running_on)
    with pytest.raises(ArgumentError, match=r"hybrid: shape \(2, 8, 4\) expected"):
        plan.root_sum_of_squares(samples[:, :, :3], measured)
    with pytest.raises(ArgumentError, match="hybrid: columns that lie side by side"):
        plan.root_sum_of_squares(np.asfortranarray(samples), measured)
    with pytest.raises(ArgumentError, match=r"measured: shape \(8,\) expected"):
        plan.root_sum_of_squares(samples, measured[:3])
    with pytest.raises(ArgumentError, match=r"matrix: shape \(any, 2\) expected"):
        plan.compress(samples, measured, np.eye(3, dtype=np.complex64))
