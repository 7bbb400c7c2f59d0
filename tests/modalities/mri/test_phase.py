"""The slow phase: what is taken for it, and what is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from simulated import complex_noise

from edge_runtime.modalities.mri.phase import WIDTH, slow_phase


def head(lines, columns):
    """An ellipse with some structure, and what is around it."""
    y, x = np.meshgrid(np.linspace(-1, 1, lines), np.linspace(-1, 1, columns), indexing="ij")
    return ((y / 0.8) ** 2 + (x / 0.7) ** 2 < 1) * (1 + 0.3 * np.cos(9 * x) * np.cos(7 * y)), y, x


@pytest.mark.parametrize("shape", [(64, 48), (101, 96), (256, 320)])
def test_it_is_that_of_the_image_under_a_gaussian(shape):
    image = complex_noise(shape, np.random.default_rng(0)) + 2
    sigma = [size / (2 * np.pi * WIDTH) for size in shape]
    parts = (ndimage.gaussian_filter(part, sigma, mode="wrap") for part in (image.real, image.imag))
    low = next(parts) + 1j * next(parts)
    np.testing.assert_allclose(slow_phase(image, 8), low / np.abs(low), atol=0.02)  # the window ends at three widths


@pytest.mark.parametrize(("lines", "columns"), [(128, 128), (256, 160)])
def test_air_in_the_sinuses_is_told_from_the_brain(lines, columns):
    """Two turns over a third of the head: of the phase that is there, little is left."""
    magnitude, y, x = head(lines, columns)
    turn = 12 * np.exp(-(((y + 0.6) / 0.4) ** 2) - (x / 0.5) ** 2)
    image = (magnitude * np.exp(1j * turn)).astype(np.complex64)
    left = image * slow_phase(image, 8).conj()
    inside = magnitude > 0
    assert np.sqrt(np.mean(np.angle(image[inside]) ** 2)) > 1.3
    assert np.sqrt(np.mean(np.angle(left[inside]) ** 2)) < 0.35


def test_fine_phase_stays():
    """A vessel's, of two pixels: it is the image's own."""
    magnitude, _, _ = head(128, 128)
    turn = np.zeros((128, 128))
    turn[60:62, 70:72] = 2.0
    image = (magnitude * np.exp(1j * turn)).astype(np.complex64)
    left = np.angle(image * slow_phase(image, 8).conj())
    np.testing.assert_allclose(left[60:62, 70:72], 2.0, atol=0.1)


@pytest.mark.parametrize("acs_lines", [1, 3, 5])
def test_few_calibration_lines_leave_fast_aliasing_in_the_image(acs_lines):
    """A ghost of six turns over the head, as missing lines beside the centre make, is more than they can tell from phase."""
    magnitude, y, _ = head(128, 128)
    image = (magnitude * np.exp(6j * np.pi * y)).astype(np.complex64) + np.complex64(0.5) * magnitude.astype(np.float32)
    few, many = (np.abs(np.angle(slow_phase(image, lines)[magnitude > 0])) for lines in (acs_lines, 32))
    assert few.mean() < many.mean() / 2


@settings(max_examples=50, deadline=None)
@given(lines=st.integers(1, 40), columns=st.integers(1, 40), scale=st.floats(1e-12, 1e12), seed=st.integers(0, 1000))
def test_it_has_modulus_one_whatever_the_image(lines, columns, scale, seed):
    image = complex_noise((lines, columns), np.random.default_rng(seed)) * np.float32(scale)
    image[: lines // 2] = 0
    phase = slow_phase(image, 8)
    assert phase.dtype == np.complex64
    np.testing.assert_allclose(np.abs(phase), 1, atol=1e-5)


@pytest.mark.parametrize("scale", [1e-36, 1e-38, 1e-40, 1e-44])
def test_next_to_nothing_has_a_finite_one(scale):
    assert np.isfinite(slow_phase(complex_noise((16, 12), np.random.default_rng(0)) * np.float32(scale), 8)).all()


def test_an_image_of_nothing_has_none():
    np.testing.assert_array_equal(
        slow_phase(np.zeros((16, 12), np.complex64), acs_lines=8), np.ones((16, 12), np.complex64)
    )
