"""Properties and known values of the quality figures."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.metrics import compare, root_sum_of_squares
from edge_runtime.hil.quality import scale_to, structural_similarity
from export.foreground import foreground

Image = npt.NDArray[np.float64]


def disc(size: int = 96, radius: float = 30.0) -> Image:
    """A textured disc on air, ``(size, size)``, values 0..about 1."""
    y, x = np.mgrid[:size, :size] - size // 2
    texture = 0.7 + 0.2 * np.sin(x / 5.0) + 0.1 * np.cos(y / 3.0)
    return np.asarray(texture * (x**2 + y**2 < radius**2), np.float64)


def noisy(image: Image, level: float, seed: int = 0) -> Image:
    return np.abs(image + level * np.random.default_rng(seed).standard_normal(image.shape))


def test_identical_images() -> None:
    quality = compare(disc(), disc())
    assert quality.nrmse == 0
    assert quality.psnr_db == float("inf")
    assert quality.ssim == pytest.approx(1)


@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e5])
def test_the_images_scale_does_not_matter(factor: float) -> None:
    image = noisy(disc(), 0.05)
    scaled, plain = compare(factor * image, disc()), compare(image, disc())
    assert scaled.nrmse == pytest.approx(plain.nrmse)
    assert scaled.psnr_db == pytest.approx(plain.psnr_db)
    assert scaled.ssim == pytest.approx(plain.ssim)


@pytest.mark.parametrize("factor", [1e-6, 1e5])
def test_the_common_scale_of_image_and_reference_does_not_matter(factor: float) -> None:
    image = noisy(disc(), 0.05)
    scaled, plain = compare(factor * image, factor * disc()), compare(image, disc())
    assert (scaled.nrmse, scaled.psnr_db, scaled.ssim) == pytest.approx((plain.nrmse, plain.psnr_db, plain.ssim))


def test_an_empty_image_loses_everything() -> None:
    assert compare(np.zeros((96, 96)), disc()).nrmse == pytest.approx(1)


def test_more_noise_is_worse_in_every_figure() -> None:
    figures = [compare(noisy(disc(), level), disc()) for level in (0.02, 0.05, 0.1)]
    assert [f.nrmse for f in figures] == sorted(f.nrmse for f in figures)
    assert [f.psnr_db for f in figures] == sorted((f.psnr_db for f in figures), reverse=True)
    assert [f.ssim for f in figures] == sorted((f.ssim for f in figures), reverse=True)


def test_known_error() -> None:
    """An error orthogonal to the image leaves the scale at 1 / (1 + e^2): NRMSE is e / sqrt(1 + e^2)."""
    reference = disc()
    where = foreground(reference)
    error = np.random.default_rng(1).standard_normal(reference.shape) * where
    error -= reference * where * np.sum(error * reference * where) / np.sum((reference * where) ** 2)
    error *= 0.2 * np.linalg.norm(reference[where]) / np.linalg.norm(error)
    assert compare(reference + error, reference).nrmse == pytest.approx(0.2 / np.sqrt(1 + 0.2**2))


def test_psnr_and_nrmse_share_one_error() -> None:
    reference, image = disc(), noisy(disc(), 0.05)
    quality = compare(image, reference)
    inside = reference[foreground(reference)]
    error = quality.nrmse * np.sqrt(np.mean(inside**2))
    assert quality.psnr_db == pytest.approx(20 * np.log10(np.percentile(inside, 99.9) / error))


def test_background_does_not_count() -> None:
    reference, image = disc(), noisy(disc(), 0.05)
    changed = image.copy()
    changed[:8, :8] += 5.0  # in the air, farther than SSIM's window from the disc
    assert compare(changed, reference) == compare(image, reference)


def test_least_squares_scale() -> None:
    reference, image = disc(), noisy(disc(), 0.1)
    everywhere = np.ones(reference.shape, np.bool_)
    best = scale_to(image, reference, everywhere)
    errors = [np.sum((factor * image - reference) ** 2) for factor in (0.99 * best, best, 1.01 * best)]
    assert errors[1] == min(errors)


def test_foreground_of_a_noisy_disc_is_the_disc() -> None:
    """The magnitude's noise floor, above a tenth of the image, is not foreground; a hole inside the object is."""
    truth = disc() > 0
    image = disc()
    image[44:50, 44:50] = 0
    rng = np.random.default_rng(2)
    noise = (rng.standard_normal((2, 96, 96)) + 1j * rng.standard_normal((2, 96, 96))) * 0.07
    found = foreground(root_sum_of_squares(np.asarray(noise + image / np.sqrt(2), np.complex64)))
    assert np.mean(found != truth) < 0.03
    assert found[44:50, 44:50].all()


def test_an_object_at_the_border_is_foreground_up_to_the_border() -> None:
    image = np.zeros((64, 64))
    image[20:, :] = 1
    assert foreground(image)[21:].all()
    assert not foreground(image)[:18].any()


def test_nothing_stands_out() -> None:
    with pytest.raises(ValueError, match="foreground"):
        foreground(np.ones((32, 32)))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shape"):
        compare(np.ones((32, 32)), disc())


def test_ssim_against_the_direct_sum() -> None:
    """One pixel by Wang's definition: an 11 x 11 Gaussian window, sigma 1.5, K1 0.01, K2 0.03."""
    rng = np.random.default_rng(3)
    x, y = rng.random((21, 21)), rng.random((21, 21))
    reach = np.arange(-5, 6)
    window = np.exp(-(reach[:, None] ** 2 + reach[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    a, b = x[5:16, 5:16], y[5:16, 5:16]
    mean_a, mean_b = np.sum(window * a), np.sum(window * b)
    variance_a, variance_b = np.sum(window * (a - mean_a) ** 2), np.sum(window * (b - mean_b) ** 2)
    covariance = np.sum(window * (a - mean_a) * (b - mean_b))
    c1, c2 = (0.01 * 0.8) ** 2, (0.03 * 0.8) ** 2
    expected = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    expected /= (mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2)
    assert structural_similarity(x, y, 0.8)[10, 10] == pytest.approx(expected)


def test_ssim_of_a_constant_shift_has_only_the_luminance_term() -> None:
    constant = np.full((32, 32), 0.5)
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert structural_similarity(constant + 0.2, constant, 1.0) == pytest.approx(np.full((32, 32), expected))
