"""How far a magnitude image is from the reference: NRMSE, PSNR and SSIM, the same way for every method.

The formulas and the reasons are in ``docs/quality-metrics.md``. In short: every image is first multiplied by the one
factor that brings it closest to the reference, and everything is counted over the reference's foreground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Magnitude = npt.NDArray[np.floating]
"""A real, non-negative image ``(rows, columns)`` in arbitrary units."""

Mask = npt.NDArray[np.bool_]

FOREGROUND_LEVEL = 0.15
"""Foreground begins at this share of the way from the air's level to the 99th percentile of the reference."""

AIR_PERCENTILE = 10.0
"""The air's level is this percentile of the smoothed reference: a tenth of the field of view or more is air."""

DISC_RADIUS_PIXELS = 3
"""Gaps narrower than this disc are closed, spurs narrower than it are removed."""

PEAK_PERCENTILE = 99.9
"""The peak, also SSIM's data range, is this percentile of the reference's foreground: no one vessel sets it."""

WINDOW_SIGMA_PIXELS = 1.5
WINDOW_RADIUS_PIXELS = 5
"""SSIM's Gaussian window: 11 x 11 (Wang et al., IEEE Trans Image Process 13:600, 2004)."""

K1, K2 = 0.01, 0.03
"""SSIM's stabilising constants, of the same paper."""


@dataclass(frozen=True)
class Quality:
    """An image against the reference.

    Attributes:
        nrmse: root of the squared error over the root of the squared reference; 0 for equal images.
        psnr_db: peak over root-mean-square error in decibels; infinite for equal images.
        ssim: mean structural similarity; 1 for equal images.
    """

    nrmse: float
    psnr_db: float
    ssim: float


def root_sum_of_squares(coil_images: npt.NDArray[np.complex64]) -> npt.NDArray[np.float32]:
    """``(coils, rows, columns)`` to ``(rows, columns)``; that of the fully sampled coil images is the reference."""
    return np.asarray(np.sqrt(np.sum(coil_images.real**2 + coil_images.imag**2, axis=0)), dtype=np.float32)


def foreground(reference: Magnitude) -> Mask:
    """Where the reference shows an object, ``(rows, columns)``.

    With ``s`` the reference smoothed by a Gaussian of one pixel and ``a`` the 10th percentile of ``s``: the pixels
    where ``s > a + 0.15 (p99(s) - a)``, closed by a disc, holes filled, opened by the same disc, and of these the
    largest connected part. Without noise ``a`` is about 0; in a noisy scan it is the floor of the magnitude, which may
    lie above a tenth of p99.

    Raises:
        ValueError: nothing stands out, as in a constant image.
    """
    smoothed = ndimage.gaussian_filter(np.asarray(reference, np.float64), 1.0)
    air, bright = np.percentile(smoothed, [AIR_PERCENTILE, 99.0])
    object_pixels = smoothed > air + FOREGROUND_LEVEL * (bright - air)
    parts, count = ndimage.label(_closed_filled_opened(object_pixels, DISC_RADIUS_PIXELS))
    if count == 0:
        raise ValueError("nothing in the reference stands out as foreground")
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == int(np.argmax(sizes)))


def scale_to(image: Magnitude, reference: Magnitude, where: Mask) -> float:
    """The factor ``sum(image reference) / sum(image^2)`` of least squared error over ``where``; 0 for no image."""
    power = float(np.sum(image[where] ** 2, dtype=np.float64))
    return float(np.sum(image[where] * reference[where], dtype=np.float64)) / power if power > 0 else 0.0


def compare(image: Magnitude, reference: Magnitude) -> Quality:
    """Quality of ``image`` against ``reference``, both ``(rows, columns)``; the image's scale does not matter."""
    if image.shape != reference.shape:
        raise ValueError(f"image {image.shape} and reference {reference.shape} differ in shape")
    reference = np.asarray(reference, np.float64)
    image = np.asarray(image, np.float64)
    where = foreground(reference)
    scaled = scale_to(image, reference, where) * image
    squared_error = float(np.mean((scaled[where] - reference[where]) ** 2))
    peak = float(np.percentile(reference[where], PEAK_PERCENTILE))
    return Quality(
        nrmse=float(np.sqrt(squared_error / np.mean(reference[where] ** 2))),
        psnr_db=float(10 * np.log10(peak**2 / squared_error)) if squared_error > 0 else float("inf"),
        ssim=float(np.mean(structural_similarity(scaled, reference, peak)[where])),
    )


def structural_similarity(image: Magnitude, reference: Magnitude, data_range: float) -> npt.NDArray[np.float64]:
    """SSIM at every pixel ``(rows, columns)``, -1..1; images are mirrored at their borders.

    ``(2 mx my + c1) (2 sxy + c2) / ((mx^2 + my^2 + c1) (sx^2 + sy^2 + c2))`` with Gaussian-weighted means, variances
    and covariance, ``c1 = (K1 data_range)^2`` and ``c2 = (K2 data_range)^2``.
    """
    x, y = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    mean_x, mean_y = _window(x), _window(y)
    variance_x = _window(x * x) - mean_x**2
    variance_y = _window(y * y) - mean_y**2
    covariance = _window(x * y) - mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return np.asarray(luminance * structure)


def _window(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Gaussian-weighted local mean over 11 x 11 pixels."""
    return np.asarray(ndimage.gaussian_filter(image, WINDOW_SIGMA_PIXELS, radius=WINDOW_RADIUS_PIXELS))


def _closed_filled_opened(pixels: Mask, radius: int) -> Mask:
    """Closes by a disc, fills holes, opens by the disc; an object that touches the border is not eroded there."""
    reach = np.arange(-radius, radius + 1)
    disc = reach[:, None] ** 2 + reach[None, :] ** 2 <= radius**2
    padded = np.pad(pixels, 2 * radius, mode="edge")
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, disc))
    opened = ndimage.binary_opening(filled, disc)
    return np.asarray(opened[2 * radius : -2 * radius, 2 * radius : -2 * radius], dtype=np.bool_)
