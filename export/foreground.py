"""Where a reference image shows an object: the pixels over which quality is counted; see ``docs/quality-metrics.md``."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from edge_runtime.hil.quality import Magnitude, Mask

FOREGROUND_LEVEL = 0.15
"""Foreground begins at this share of the way from the air's level to the 99th percentile of the reference."""

AIR_PERCENTILE = 10.0
"""The air's level is this percentile of the smoothed reference: a tenth of the field of view or more is air."""

DISC_RADIUS_PIXELS = 3
"""Gaps narrower than this disc are closed, spurs narrower than it are removed."""


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


def _closed_filled_opened(pixels: Mask, radius: int) -> Mask:
    """Closes by a disc, fills holes, opens by the disc; an object that touches the border is not eroded there."""
    reach = np.arange(-radius, radius + 1)
    disc = reach[:, None] ** 2 + reach[None, :] ** 2 <= radius**2
    padded = np.pad(pixels, 2 * radius, mode="edge")
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, disc))
    opened = ndimage.binary_opening(filled, disc)
    return np.asarray(opened[2 * radius : -2 * radius, 2 * radius : -2 * radius], dtype=np.bool_)
