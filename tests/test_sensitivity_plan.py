"""Sensitivities from the ACS against plain NumPy, for every instruction set at hand and on the GPU."""

from __future__ import annotations

import numpy as np
import pytest
import sense_problems
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.errors import ArgumentError
from edge_runtime.kernels import SensitivityPlan, Workers
from edge_runtime.modalities.mri.fourier import centre_slice

pytestmark = pytest.mark.usefixtures("kernels_on")

THRESHOLD = 0.015

SQUARINGS = 6

TOLERANCE = 2e-6
"""Where the object is. The projection is rounded to single precision, and so is what follows; in the air, where a pixel's
eigenvalues lie close together, more of that shows."""


def plan_of(coils, acs, kernel, grid, image, threads=1):
    return SensitivityPlan(Workers(threads), coils, acs, kernel, grid, image, device=sense_problems.running_on)


def sensitivities(acs, threshold, kernel, grid, image):
    """In double precision throughout, ``(coils, *image)``."""
    coils = len(acs)
    windows = np.lib.stride_tricks.sliding_window_view(acs.astype(np.complex128), kernel, axis=(1, 2))
    calibration = windows.transpose(1, 2, 0, 3, 4).reshape(-1, coils * kernel[0] * kernel[1])
    projection = signal_projection(calibration, threshold).reshape(coils, *kernel, coils, *kernel)
    gram = waves(kernel[0], grid[0]) @ (lag_sums(projection) @ waves(kernel[1], grid[1]).T)
    dominant = dominant_eigenvectors(gram.transpose(2, 3, 0, 1).reshape(-1, coils, coils)).conj()
    maps = (dominant * np.exp(-1j * np.angle(dominant[:, :1]))).T.reshape(coils, *grid)
    full = interpolated(interpolated(maps, image[0], axis=1), image[1], axis=2)
    return full / np.maximum(np.sqrt(np.sum(np.abs(full) ** 2, axis=0)), 1e-6)


def signal_projection(calibration, threshold):
    """``G² (G² + τ²)⁻¹``."""
    gram = calibration.conj().T @ calibration
    gram /= np.linalg.eigvalsh(gram)[-1]
    square = gram @ gram
    return np.linalg.solve(square + threshold**4 * np.eye(len(gram)), square)


def lag_sums(projection):
    """Sums of ``(coils, y, x, coils, y, x)`` over equal lags: ``(coils, coils, 2 y - 1, 2 x - 1)``."""
    coils, kernel_y, kernel_x = projection.shape[:3]
    sums = np.zeros((coils, coils, 2 * kernel_y - 1, 2 * kernel_x - 1), complex)
    for y, x in np.ndindex(kernel_y, kernel_x):  # the second offset runs backwards through the lags of the first
        sums[:, :, y : y + kernel_y, x : x + kernel_x] += projection[:, y, x, :, ::-1, ::-1]
    return sums


def waves(kernel, grid):
    position = (np.arange(grid) - grid // 2) / grid
    return np.exp(-2j * np.pi * position[:, None] * np.arange(1 - kernel, kernel))


def dominant_eigenvectors(gram):
    """Unit eigenvectors ``(pixels, n)`` of the largest eigenvalues of Hermitian ``(pixels, n, n)``, by squaring."""
    for _ in range(SQUARINGS):
        gram = gram / np.einsum("pii->p", gram).real[:, None, None]
        gram = gram @ gram
    largest = np.argmax(np.einsum("pii->pi", gram).real, axis=1)
    column = np.take_along_axis(gram, largest[:, None, None], axis=2)[:, :, 0]
    return column / np.linalg.norm(column, axis=1, keepdims=True)


def interpolated(maps, size, axis):
    """Linearly, of a centred grid, to ``size`` points over the same field of view."""
    grid = maps.shape[axis]
    if grid == size:
        return maps
    position = np.clip((np.arange(size) - size // 2) * (grid / size) + grid // 2, 0, grid - 1)
    left = np.minimum(position.astype(np.intp), grid - 2)
    weight = (position - left).reshape([-1 if a == axis else 1 for a in range(maps.ndim)])
    return maps.take(left, axis=axis) * (1 - weight) + maps.take(left + 1, axis=axis) * weight


def acs_of(coils, acs, image, noise=0.01):
    """Calibration samples, and where the object is."""
    shown = object_image(*image)
    kspace = kspace_of(shown, coil_maps(coils, *image), noise=noise)
    acs = kspace[:, centre_slice(image[0], acs[0]), centre_slice(image[1], acs[1])]
    return np.ascontiguousarray(acs), np.abs(shown) > 0.3 * np.abs(shown).max()


@pytest.mark.parametrize(
    ("coils", "acs", "kernel", "grid", "image"),
    [
        (8, (24, 24), (4, 4), (48, 48), (96, 80)),
        (4, (12, 24), (4, 4), (40, 36), (40, 36)),  # no interpolation
        (3, (5, 24), (3, 4), (48, 48), (49, 97)),
        (5, (1, 20), (1, 4), (30, 20), (30, 20)),  # one line
        (2, (7, 3), (4, 3), (17, 9), (64, 9)),
        (11, (9, 8), (2, 3), (12, 13), (33, 14)),
    ],
)
def test_maps_are_those_of_numpy(coils, acs, kernel, grid, image):
    samples, inside = acs_of(coils, acs, image)
    expected = sensitivities(samples, THRESHOLD, kernel, grid, image)
    found = np.asarray(plan_of(coils, acs, kernel, grid, image, threads=2).estimate(samples, THRESHOLD))
    np.testing.assert_allclose(found[:, inside], expected[:, inside], atol=TOLERANCE)
    np.testing.assert_allclose(found, expected, atol=20 * TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_maps_of_any_geometry_have_unit_length_and_a_real_first_coil(data):
    acs = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    image = data.draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    kernel = data.draw(st.tuples(st.integers(1, acs[0]), st.integers(1, acs[1])))
    grid = data.draw(st.tuples(st.integers(1, image[0]), st.integers(1, image[1])))
    coils = data.draw(st.integers(1, 6))
    acs_samples = complex_noise((coils, *acs), np.random.default_rng(0)) * np.float32(
        data.draw(st.sampled_from([1e-12, 1, 1e12]))
    )
    found = np.asarray(plan_of(coils, acs, kernel, grid, image).estimate(acs_samples, THRESHOLD))
    assert np.isfinite(found).all()
    length = np.sqrt(np.sum(np.abs(found) ** 2, axis=0))
    assert (np.isclose(length, 1, atol=1e-5) | (length < 0.1)).all()  # opposite neighbours can cancel between them
    assert np.abs(found[0].imag).max() < 1e-5
    assert found[0].real.min() > -1e-5


def test_the_same_bits_with_any_number_of_threads():
    samples, _ = acs_of(6, (16, 24), (70, 50))
    results = [
        plan_of(6, (16, 24), (4, 4), (48, 48), (70, 50), threads).estimate(samples, THRESHOLD) for threads in (1, 2, 5)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_an_estimate_does_not_depend_on_the_one_before():
    plan = plan_of(3, (8, 8), (3, 3), (20, 20), (20, 20), threads=2)
    samples, _ = acs_of(3, (8, 8), (20, 20))
    first = plan.estimate(samples, THRESHOLD)
    plan.estimate(complex_noise(samples.shape, np.random.default_rng(0)), 0.1)
    out = np.full((3, 20, 20), np.nan, np.complex64)
    np.testing.assert_array_equal(plan.estimate(samples, THRESHOLD, out=out), first)
    assert plan.estimate(samples, THRESHOLD, out=out) is out


def test_weights_multiply_the_maps():
    plan = plan_of(3, (8, 8), (3, 3), (20, 19), (20, 19))
    samples, _ = acs_of(3, (8, 8), (20, 19))
    weight = np.random.default_rng(0).random((20, 19), np.float32)
    expected = plan.estimate(samples, THRESHOLD) * weight
    np.testing.assert_allclose(plan.estimate(samples, THRESHOLD, weight), expected, atol=1e-6)


@pytest.mark.parametrize("value", [0, np.nan])
def test_without_signal_there_are_no_maps(value):
    plan = plan_of(3, (8, 8), (3, 3), (20, 20), (20, 20))
    assert not np.any(plan.estimate(np.full((3, 8, 8), value, np.complex64), THRESHOLD))


@pytest.mark.parametrize(
    ("name", "changed", "text"),
    [
        ("acs", lambda a: a[:, :5], r"acs: shape \(2, 6, 7\) expected, shape \(2, 5, 7\) came"),
        ("acs", lambda a: a.astype(np.complex128), "acs: dtype complex64 expected, dtype complex128 came"),
        ("acs", lambda a: np.asfortranarray(a), "acs: C order without gaps expected"),
        ("threshold", lambda _: 0.0, "threshold: a positive number of single precision expected, 0.0 came"),
        ("threshold", lambda _: 1.5, "threshold: a share above 0, at most 1 expected, 1.5 came"),
        ("threshold", lambda _: "half", "threshold: a positive number of single precision expected, half came"),
        ("weight", lambda a: a.T, r"weight: shape \(12, 10\) expected, shape \(10, 12\) came"),
        ("weight", lambda a: a.astype(np.float64), "weight: dtype float32 expected"),
        ("out", lambda a: a[:1], r"out: shape \(2, 12, 10\) expected"),
        ("out", lambda a: np.frombuffer(a.tobytes(), np.complex64).reshape(a.shape), "out: one that can be written"),
    ],
)
def test_an_argument_that_was_not_planned_is_named(name, changed, text):
    arguments = {
        "acs": complex_noise((2, 6, 7), np.random.default_rng(0)),
        "threshold": THRESHOLD,
        "weight": np.ones((12, 10), np.float32),
        "out": np.zeros((2, 12, 10), np.complex64),
    }
    arguments[name] = changed(arguments[name])
    with pytest.raises(ArgumentError, match=text):
        plan_of(2, (6, 7), (4, 4), (8, 8), (12, 10)).estimate(**arguments)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"coils": 0}, "coils: a whole number, .* expected, 0 came"),
        ({"kernel": (7, 4)}, r"kernel: at least 1, at most the ACS's \(6, 7\) expected, \(7, 4\) came"),
        ({"kernel": (0, 4)}, "kernel: a whole number, 1 to .* expected, 0 came"),
        ({"kernel": (4, 4, 4)}, r"kernel: two sizes expected, \(4, 4, 4\) came"),
        ({"acs": 4}, "acs: two sizes expected, 4 came"),
        ({"grid": (8, 11)}, r"grid: at least 1, at most the image's \(12, 10\) expected, \(8, 11\) came"),
    ],
)
def test_an_impossible_geometry_is_named(changed, text):
    geometry = {"coils": 2, "acs": (6, 7), "kernel": (4, 4), "grid": (8, 8), "image": (12, 10), **changed}
    with pytest.raises(ArgumentError, match=text):
        plan_of(**geometry)
