"""How far a magnitude image is from a reference: NRMSE, PSNR and SSIM, the same way for every method.

The formulas and the reasons are in ``docs/quality-metrics.md``. In short: every image is first multiplied by the one factor that
brings it closest to the reference, and everything is counted over the reference's foreground.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Magnitude = npt.NDArray[np.floating]
"""A real, non-negative image ``(rows, columns)`` in arbitrary units."""

Mask = npt.NDArray[np.bool_]

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


def scale_to(image: Magnitude, reference: Magnitude, where: Mask) -> float:
    """The factor ``sum(image reference) / sum(image^2)`` of least squared error over ``where``; 0 for no image."""
    power = float(np.sum(image[where] ** 2, dtype=np.float64))
    return float(np.sum(image[where] * reference[where], dtype=np.float64)) / power if power > 0 else 0.0


def compare_within(image: Magnitude, reference: Magnitude, where: Mask) -> Quality:
    """Quality of ``image`` against ``reference`` over a foreground, all ``(rows, columns)``; the image's scale does not matter.

    Raises:
        ValueError: the shapes differ.
    """
    if image.shape != reference.shape or where.shape != reference.shape:
        raise ValueError(f"image {image.shape}, reference {reference.shape} and mask {where.shape} differ in shape")
    reference = np.asarray(reference, np.float64)
    image = np.asarray(image, np.float64)
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
    reach = np.arange(-WINDOW_RADIUS_PIXELS, WINDOW_RADIUS_PIXELS + 1)
    weights = np.exp(-0.5 * (reach / WINDOW_SIGMA_PIXELS) ** 2)
    weights /= weights.sum()
    padded = np.pad(image, WINDOW_RADIUS_PIXELS, mode="symmetric")
    rows, columns = image.shape
    down = sum((w * padded[i : i + rows] for i, w in enumerate(weights)), np.zeros((rows, padded.shape[1])))
    return np.asarray(sum((w * down[:, i : i + columns] for i, w in enumerate(weights)), np.zeros((rows, columns))))
