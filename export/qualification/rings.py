"""Structure in an image that its reference does not have: scanning Fourier ring correlation.

After Kc, Zeng, Soni and Badano, "sFRC for assessing hallucinations in medical image restoration", arXiv:2603.04673 (2026): small
patches of image and reference are compared ring by ring in Fourier space. Where they part at a frequency as low as `COARSE`, what
the patch shows at that size is not what was there. A blurred image parts late; an invented or a lost structure parts early.

Frequencies, patch and threshold are ours: the paper tunes them to structures that experts marked, of which there are none here. So
the share of flagged patches says something beside that of another method on the same scan, and little alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from edge_runtime.hil.quality import Magnitude, Mask, scale_to

PATCH = 24
"""Pixels; a ring is then a twelfth of the way to the Nyquist frequency."""

STEP = 6
AGREES_FROM = 0.5
"""Correlation of a ring from which on image and reference agree in it."""

COARSE = 1 / 3
"""Share of the Nyquist frequency up to which they must: structures of six pixels and more."""

LEAST_FOREGROUND = 0.75
"""Share of a patch that shows the object; there is no structure to compare in the air."""


def flagged_share(image: Magnitude, reference: Magnitude, where: Mask) -> float:
    """Share of the foreground's patches that are flagged, 0..1; 0 where none is inside it."""
    flags = flagged_patches(image, reference, where)
    return float(np.mean([flag for _, _, flag in flags])) if flags else 0.0


def flagged_patches(image: Magnitude, reference: Magnitude, where: Mask) -> list[tuple[int, int, bool]]:
    """First row and column of every patch of the foreground, and whether it is flagged."""
    scaled = scale_to(image, reference, where) * np.asarray(image, np.float64)
    rows, columns = reference.shape
    found = []
    for row in range(0, rows - PATCH + 1, STEP):
        for column in range(0, columns - PATCH + 1, STEP):
            here = np.s_[row : row + PATCH, column : column + PATCH]
            if np.mean(where[here]) >= LEAST_FOREGROUND:
                found.append((row, column, agreement(scaled[here], reference[here]) < COARSE))
    return found


def agreement(patch: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """The frequency up to which every ring of two square patches correlates, as a share of the Nyquist frequency."""
    window, ring_of = _window(len(patch)), _rings(len(patch))
    one, other = (np.fft.fft2((part - np.mean(part)) * window) for part in (patch, reference))
    rings = len(patch) // 2

    def summed(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        sums = np.bincount(ring_of.ravel(), weights=values.ravel(), minlength=rings + 1)
        return np.asarray(sums[1 : rings + 1], np.float64)

    both = summed((one * other.conj()).real)
    norm = np.sqrt(summed(np.abs(one) ** 2) * summed(np.abs(other) ** 2))
    correlation = np.where(norm > 0, both / np.where(norm > 0, norm, 1), 1.0)
    apart = np.nonzero(correlation < AGREES_FROM)[0]
    return float(apart[0] / rings) if len(apart) else 1.0


@cache
def _window(size: int) -> npt.NDArray[np.float64]:
    """A Hann window ``(size, size)``, so that a patch's borders correlate with nothing."""
    one = np.hanning(size + 2)[1:-1]
    return np.asarray(one[:, None] * one[None, :])


@cache
def _rings(size: int) -> npt.NDArray[np.intp]:
    """Which ring a frequency belongs to, ``(size, size)``; those beyond the Nyquist frequency share one that is not looked at."""
    frequency = np.fft.fftfreq(size) * size
    radius = np.rint(np.hypot(frequency[:, None], frequency[None, :])).astype(np.intp)
    beyond: npt.NDArray[np.intp] = np.minimum(radius, size // 2 + 1)
    return beyond
