"""Magnitudes as the 16-bit pixels that a file stores, and the scale that leads back; the reasons are in `dicom`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DeliveryError

LARGEST_STORED = 0xFFFF
_SERIES_PEAK_BITS = 13  # of a series' first image: fine enough for MRI, with room for images eight times as bright
_SMALLEST_PEAK = 256  # darker than this under the series' slope, rounding would show: the image gets its own
_LARGEST_EXACT_EXPONENT = 100
_WINDOW_PERCENTS = (1.0, 99.5)


def stored_pixels(pixels: npt.NDArray[np.float32], slope: float | None) -> tuple[npt.NDArray[np.uint16], float]:
    """Pixels as uint16 and the scanner's units per stored value: ``slope`` if the image fits it, else the image's own.

    Raises:
        DeliveryError: a pixel is negative or not finite, and so no magnitude.
    """
    least, peak = float(np.min(pixels)), float(np.max(pixels))
    if not 0 <= least <= peak < math.inf:  # so written that NaN is refused, too
        raise DeliveryError("image has pixels that are negative or not finite: expected magnitudes")
    if peak == 0:
        slope = slope or 1.0
    elif slope is None or not _SMALLEST_PEAK <= peak / slope <= LARGEST_STORED:
        _, exponent = math.frexp(peak)  # peak < 2 ** exponent
        slope = 2.0 ** (exponent - _SERIES_PEAK_BITS)
    # A power of two that float32 has divides float32 as exactly as float64.
    mantissa, exponent = math.frexp(slope)
    exact = mantissa == 0.5 and abs(exponent) < _LARGEST_EXACT_EXPONENT
    scaled = pixels * np.float32(1 / slope) if exact else pixels.astype(np.float64) / slope
    return np.rint(scaled, out=scaled).astype("<u2", order="C"), slope


def window_of(stored: npt.NDArray[np.uint16]) -> tuple[float, float]:
    """Centre and width of the window in which stored pixels show well.

    It spans the percentiles 1 and 99.5, so that a single bright voxel (an artefact, a vessel) does not darken the whole image. They
    are counted in a histogram, several times as fast as selecting them.
    """
    counts = np.cumsum(np.bincount(stored.ravel()))
    low, high = (_percentile(counts, percent) for percent in _WINDOW_PERCENTS)
    width = max(1.0, high - low)
    return low + width / 2, width


def _percentile(counts: npt.NDArray[np.int64], percent: float) -> float:
    """As `numpy.percentile` interpolates it.

    Args:
        counts: how many pixels are at most 0, 1, 2, …
    """
    position = percent / 100 * (int(counts[-1]) - 1)
    below = math.floor(position)
    lower, upper = np.searchsorted(counts, (below, min(below + 1, int(counts[-1]) - 1)), side="right")
    return float(lower + (position - below) * (upper - lower))
