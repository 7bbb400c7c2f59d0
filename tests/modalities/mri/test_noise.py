"""Whitening makes noise white; the estimate without a noise scan is close to the truth."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.modalities.mri.fourier import to_image
from edge_runtime.modalities.mri.noise import estimate_noise, noise_model

COILS = 4


def correlated_noise(count=20000, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.eye(COILS) + 0.3 * complex_noise((COILS, COILS), rng)
    return (mixing @ complex_noise((COILS, count), rng)).astype(np.complex64)


def test_whitened_noise_has_the_identity_for_covariance():
    samples = correlated_noise()
    white = noise_model(samples, 10.0).whitening_for(10.0) @ samples
    np.testing.assert_allclose(white @ white.conj().T / white.shape[1], np.eye(COILS), atol=1e-3)


def test_a_constant_offset_is_no_noise():
    samples = correlated_noise()
    shifted = noise_model(samples + np.complex64(100), 10.0)
    np.testing.assert_allclose(shifted.whitening, noise_model(samples, 10.0).whitening, rtol=1e-3)


def test_noise_of_half_the_bandwidth_has_half_the_variance():
    model = noise_model(correlated_noise(), 10.0)
    np.testing.assert_allclose(model.whitening_for(20.0), np.sqrt(2) * model.whitening, rtol=1e-5)


@pytest.mark.parametrize(("noise_us", "image_us"), [(0.0, 10.0), (10.0, 0.0)])
def test_an_unknown_dwell_time_scales_nothing(noise_us, image_us):
    model = noise_model(correlated_noise(), noise_us)
    np.testing.assert_array_equal(model.whitening_for(image_us), model.whitening)


def test_too_few_noise_samples_are_refused():
    with pytest.raises(ValueError, match="31 noise samples for 4 coils; at least 32"):
        noise_model(correlated_noise(31), 10.0)


def test_a_silent_coil_is_named():
    samples = correlated_noise()
    samples[2] = 0
    with pytest.raises(ValueError, match="coil 2 has no noise"):
        noise_model(samples, 10.0)


def test_two_coils_with_one_signal_are_refused():
    samples = correlated_noise()
    samples[1] = samples[0]
    with pytest.raises(ValueError, match=r"singular|same signal"):
        noise_model(samples, 10.0)


@pytest.mark.parametrize("level", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("coils", [1, 4])
def test_the_estimate_without_a_noise_scan_is_within_15_percent(level, coils):
    kspace = kspace_of(object_image(64, 64), coil_maps(coils, 64, 64), noise=level, seed=3)
    found = estimate_noise(to_image(kspace, axis=2), np.ones(64, bool))
    assert found.standard_deviation == pytest.approx(level, rel=0.15)


def test_the_estimate_is_within_15_percent_of_an_asymmetric_echo():
    """A quarter of the readout was not measured and holds zeros, which are no noise."""
    kspace = kspace_of(object_image(64, 64), coil_maps(4, 64, 64), noise=0.1, seed=3)
    kspace[:, :, :16] = 0
    found = estimate_noise(to_image(kspace, axis=2), np.ones(64, bool))
    assert found.standard_deviation == pytest.approx(0.1, rel=0.15)


def test_the_estimate_is_within_15_percent_of_every_fourth_line():
    measured = np.arange(64) % 4 == 0
    kspace = kspace_of(object_image(64, 64), coil_maps(4, 64, 64), noise=0.1) * measured[:, None]
    found = estimate_noise(to_image(kspace, axis=2), measured)
    assert found.standard_deviation == pytest.approx(0.1, rel=0.15)
