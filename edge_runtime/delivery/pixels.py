"""Magnitudes as the 16-bit pixels that a file stores, and the scale that leads back; the reasons are in `dicom`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import DeliveryError

LARGEST_STORED = 0xFFFF
_SERIES_PEAK_BITS = 13  # of a series' first image: fine enough for MRI, with room for images eight times as bright
_SMALLEST_PEAK = 256  # darker than this under the series' slope, rounding would show: the image gets its own


def stored_pixels(pixels: npt.NDArray[np.float32], slope: float | None) -> tuple[npt.NDArray[np.uint16], float]:
    """Pixels as uint16 and the scanner's units per stored value: ``slope`` if the image fits it, else the image's own.

    Raises:
        DeliveryError: a pixel is negative or not finite, and so no magnitude.
    """
    if not np.all(np.isfinite(pixels)) or np.min(pixels) < 0:
        raise DeliveryError("image has pixels that are negative or not finite: expected magnitudes")
    peak = float(np.max(pixels))
    if peak == 0:
        slope = slope or 1.0
    elif slope is None or not _SMALLEST_PEAK <= peak / slope <= LARGEST_STORED:
        _, exponent = math.frexp(peak)  # peak < 2 ** exponent
        slope = 2.0 ** (exponent - _SERIES_PEAK_BITS)
    return np.rint(pixels.astype(np.float64) / slope).astype("<u2"), slope
