"""Structure in an image that its reference does not have: scanning Fourier ring correlation.

After Kc, Zeng, Soni and Badano, "sFRC for assessing hallucinations in medical image restoration", arXiv:2603.04673 (2026): small
patches of image and reference are compared ring by ring in Fourier space. Where they part at a frequency as low as `COARSE`, what
the patch shows at that size is not what was there. A blurred image parts late; an invented or a lost structure parts early.

Frequencies, patch and threshold are ours: the paper tunes them to structures that experts marked, of which there are none here. So
the share of flagged patches says something beside that of another method on the same scan, and little alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

EMPTY = 1e-12
"""Share of a patch's power that rounding leaves in rings that hold nothing."""

LEAST_FOREGROUND = 0.75
"""Share of a patch that shows the object; there is no structure to compare in the air."""


def flagged_share(image: Magnitude, reference: Magnitude, where: Mask) -> float:
    """Share of the foreground's patches that are flagged, 0..1.

    Raises:
        ValueError: no patch is inside the foreground.
    """
    flags = flagged_patches(image, reference, where)
    if not flags:
        raise ValueError(
            f"no {PATCH} x {PATCH} pixels lie inside the foreground: there is nothing to compare structure in"
        )
    return float(np.mean([flag for _, _, flag in flags]))


def patches(where: Mask) -> Iterator[tuple[int, int]]:
    """First row and column of every patch of the foreground."""
    rows, columns = where.shape
    for row in range(0, rows - PATCH + 1, STEP):
        for column in range(0, columns - PATCH + 1, STEP):
            if np.mean(where[row : row + PATCH, column : column + PATCH]) >= LEAST_FOREGROUND:
                yield row, column


def flagged_patches(image: Magnitude, reference: Magnitude, where: Mask) -> list[tuple[int, int, bool]]:
    """First row and column of every patch of the foreground, and whether it is flagged."""
    scaled = scale_to(image, reference, where) * np.asarray(image, np.float64)
    found = []
    for row, column in patches(where):
        here = np.s_[row : row + PATCH, column : column + PATCH]
        found.append((row, column, agreement(scaled[here], reference[here]) < COARSE))
    return found


def largest_group(flags: Sequence[tuple[int, int, bool]], but_for: Sequence[tuple[int, int, bool]] = ()) -> int:
    """Patches in the largest group of neighbours that are flagged, but for those that are flagged in another image, too.

    A share of all patches dilutes one structure to nothing; this does not depend on how large the object is.

    Args:
        flags, but_for: of `flagged_patches`, of images with one reference.
    """
    left = {(row, column) for row, column, flag in flags if flag}
    left -= {(row, column) for row, column, flag in but_for if flag}
    largest = 0
    while left:
        group, waiting = 0, [left.pop()]
        while waiting:
            row, column = waiting.pop()
            group += 1
            near = {(row + down, column + right) for down in (-STEP, 0, STEP) for right in (-STEP, 0, STEP)} & left
            left -= near
            waiting += near
        largest = max(largest, group)
    return largest


def agreement(patch: npt.NDArray[np.floating], reference: npt.NDArray[np.floating]) -> float:
    """The frequency up to which every ring of two square patches correlates, as a share of the Nyquist frequency.

    A ring that is empty in one patch alone does not correlate, nor does one with values that are not finite.
    """
    window, ring_of = _window(len(patch)), _rings(len(patch))
    one, other = (np.fft.fft2((part - np.mean(part)) * window) for part in (patch, reference))
    rings = len(patch) // 2

    def summed(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        sums = np.bincount(ring_of.ravel(), weights=values.ravel(), minlength=rings + 1)
        return np.asarray(sums[1 : rings + 1], np.float64)

    both = summed((one * other.conj()).real)
    powers = summed(np.abs(one) ** 2), summed(np.abs(other) ** 2)
    empty, other_empty = (
        power <= EMPTY * np.sum((part * window * len(patch)) ** 2) for power, part in zip(powers, (patch, reference))
    )
    norm = np.sqrt(powers[0] * powers[1])
    correlates = np.isfinite(norm) & (both >= AGREES_FROM * norm)  # False where anything is not a number
    agree = (empty & other_empty) | (~empty & ~other_empty & correlates)
    apart = np.nonzero(~agree)[0]
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
