"""Centre maps to centre, energy is kept, and the inverse is the inverse, for even and odd lengths alike."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import complex_noise

from edge_runtime.modalities.mri.fourier import centre_slice, to_image, to_kspace

LENGTHS = [1, 2, 5, 6, 8, 9, 48]


@pytest.fixture(params=LENGTHS)
def signal(request):
    return complex_noise((3, request.param), np.random.default_rng(request.param))


def test_the_inverse_undoes_the_transform(signal):
    np.testing.assert_allclose(to_image(to_kspace(signal, axis=1), axis=1), signal, atol=1e-6)


def test_energy_is_kept(signal):
    assert np.linalg.norm(to_kspace(signal, axis=1)) == pytest.approx(np.linalg.norm(signal), rel=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_constant_image_is_a_point_in_the_centre_of_kspace(length):
    kspace = to_kspace(np.ones((1, length), np.complex64), axis=1)
    expected = np.zeros(length)
    expected[length // 2] = np.sqrt(length)
    np.testing.assert_allclose(kspace[0], expected, atol=1e-5)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_point_in_the_centre_of_the_image_has_constant_kspace(length):
    image = np.zeros((1, length), np.complex64)
    image[0, length // 2] = 1
    np.testing.assert_allclose(to_kspace(image, axis=1), np.full((1, length), 1 / np.sqrt(length)), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("length", LENGTHS)
def test_both_transforms_are_those_of_shifted_arrays(axis, length):
    shape = [3, 4, 5]
    shape[axis] = length
    array = complex_noise(shape, np.random.default_rng(length))
    before = array.copy()
    shifted = np.fft.ifftshift(array, axes=axis)
    for ours, plain in ((to_kspace, np.fft.fft), (to_image, np.fft.ifft)):
        expected = np.fft.fftshift(plain(shifted, axis=axis, norm="ortho"), axes=axis)
        np.testing.assert_allclose(ours(array, axis), expected, atol=2e-6)
    np.testing.assert_array_equal(array, before)


def test_single_precision_stays_single(signal):
    assert to_kspace(signal, axis=0).dtype == to_image(signal, axis=0).dtype == np.complex64


@pytest.mark.parametrize(("length", "wanted"), [(8, 4), (8, 5), (9, 4), (9, 5), (7, 7), (1, 1)])
def test_a_central_slice_keeps_the_centre_in_the_centre(length, wanted):
    kept = np.arange(length)[centre_slice(length, wanted)]
    assert len(kept) == wanted
    assert kept[wanted // 2] == length // 2
