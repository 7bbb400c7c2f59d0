"""Coil compression keeps white noise white; sensitivities are those the samples were made with."""

from __future__ import annotations

import numpy as np
import pytest
from simulated import coil_maps, complex_noise, kspace_of, object_image

from edge_runtime.kernels import Plans, Workers
from edge_runtime.modalities.mri import coils as coils_module
from edge_runtime.modalities.mri.coils import compression_matrix
from edge_runtime.modalities.mri.fourier import centre_slice

LINES, COLUMNS = 40, 36
PLANS = Plans(Workers(threads=2))


def estimate_sensitivities(acs_kspace, phase_encodes, columns):
    return coils_module.estimate_sensitivities(acs_kspace, phase_encodes, columns, PLANS)


def acs_of(coils: int, lines: int, noise: float = 0.0):
    """The central lines of a simulated scan, in k-space ``(coils, lines, COLUMNS)``."""
    kspace = kspace_of(object_image(LINES, COLUMNS), coil_maps(coils, LINES, COLUMNS), noise=noise)
    return kspace[:, centre_slice(LINES, lines)]


def bright():
    image = np.abs(object_image(LINES, COLUMNS))
    return image > 0.3 * image.max()


@pytest.mark.parametrize(("coils", "virtual"), [(1, 8), (4, 8), (4, 2), (12, 8)])
def test_compression_has_orthonormal_rows(coils, virtual):
    matrix = compression_matrix(complex_noise((coils, 6, 20), np.random.default_rng(0)), virtual)
    assert matrix.shape == (min(coils, virtual), coils)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(len(matrix)), atol=1e-5)


def test_the_strongest_virtual_coil_comes_first():
    acs = acs_of(6, 12)
    virtual = np.tensordot(compression_matrix(acs, 6), acs, axes=1)
    energy = np.linalg.norm(virtual.reshape(6, -1), axis=1)
    assert (np.diff(energy) <= 1e-4 * energy[0]).all()


def test_dropping_weak_virtual_coils_keeps_nearly_all_energy():
    acs = acs_of(12, 12)
    virtual = np.tensordot(compression_matrix(acs, 8), acs, axes=1)
    assert np.linalg.norm(virtual) > 0.99 * np.linalg.norm(acs)


@pytest.mark.parametrize("coils", [2, 4, 8])
def test_known_smooth_maps_are_recovered_up_to_the_phase_of_the_first(coils):
    maps = coil_maps(coils, LINES, COLUMNS)
    found = estimate_sensitivities(acs_of(coils, 24), LINES, COLUMNS)
    alignment = np.abs(np.sum(maps.conj() * found, axis=0))  # 1 where they are the same vector up to phase
    assert alignment[bright()].min() > 0.98


@pytest.mark.parametrize("lines", [1, 2, 3, 4, 12, 24])
@pytest.mark.parametrize("coils", [2, 5])
def test_maps_have_unit_root_sum_of_squares_everywhere(coils, lines):
    found = estimate_sensitivities(acs_of(coils, lines, noise=0.01), LINES, COLUMNS)
    assert found.shape == (coils, LINES, COLUMNS)
    np.testing.assert_allclose(np.sqrt(np.sum(np.abs(found) ** 2, axis=0)), 1, atol=1e-3)


def test_no_rounding_moves_a_kernel_in_or_out_of_the_subspace(monkeypatch):
    """A hard threshold gave other maps on either side of any singular value; which side it fell on, the BLAS's threads decided."""
    acs = acs_of(3, 12, noise=0.01)
    block = acs[:, :, centre_slice(COLUMNS, coils_module.CALIBRATION_COLUMNS)]
    windows = (
        np.lib.stride_tricks.sliding_window_view(block, (4, 4), axis=(1, 2)).transpose(1, 2, 0, 3, 4).reshape(-1, 48)
    )
    singular = np.linalg.svd(windows.astype(np.complex128), compute_uv=False)
    shares = singular / singular[0]
    for share in shares[(shares > 0.005) & (shares < 0.2)]:
        found = []
        for nearly in (share * (1 - 1e-6), share * (1 + 1e-6)):
            monkeypatch.setattr(coils_module, "SUBSPACE_THRESHOLD", nearly)
            found.append(estimate_sensitivities(acs, LINES, COLUMNS))
        np.testing.assert_allclose(found[0] * bright(), found[1] * bright(), atol=1e-4)


def test_one_coil_has_a_map_of_ones():
    np.testing.assert_allclose(estimate_sensitivities(acs_of(1, 12), LINES, COLUMNS), 1, rtol=3e-7)


def test_maps_from_silence_are_finite():
    assert np.isfinite(estimate_sensitivities(np.zeros((3, 8, COLUMNS), np.complex64), LINES, COLUMNS)).all()


@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (5, 3), (49, 97)])
def test_maps_come_in_any_size(lines, columns):
    acs = complex_noise((3, min(lines, 4), columns), np.random.default_rng(0))
    assert np.isfinite(estimate_sensitivities(acs, lines, columns)).all()


def test_a_large_map_is_the_small_one_interpolated():
    acs = acs_of(4, 24)
    small, large = estimate_sensitivities(acs, 48, 48), estimate_sensitivities(acs, 96, 96)
    alignment = np.abs(np.sum(small.conj() * large[:, ::2, ::2], axis=0))
    assert alignment.min() > 0.99
