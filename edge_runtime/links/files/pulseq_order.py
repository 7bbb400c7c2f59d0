"""The order of lines in a twix file that was measured with a Pulseq sequence without labels.

Such a file counts every readout as one more line of one image. What the sequence did instead shows in the data: pauses
separate images, and the lines near the centre of k-space are orders of magnitude stronger than the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

PAUSE_FACTOR = 50
"""A pause separates two images where it lasts this many usual intervals."""

PAUSE_LINES = 16
"""Fewest lines between pauses that are taken for an image."""

CENTRE_SHARE = 1 / 8
"""How far from the middle of the order, as a share of the lines, the strongest line of a linear order may lie."""

EPI_SECONDS = 0.002
"""Readouts that follow each other faster than any excitation could be repeated."""


@dataclass(frozen=True)
class Order:
    """What was inferred.

    Attributes:
        lines: phase encodes of one image.
        phase_encode: ``(readouts,)``.
        repetition: ``(readouts,)``.
        notes: each inference in plain words.
    """

    lines: int
    phase_encode: npt.NDArray[np.int64]
    repetition: npt.NDArray[np.int64]
    notes: tuple[str, ...]


def infer_order(strength: npt.NDArray[np.float32], seconds: npt.NDArray[np.float64]) -> Order:
    """Find images and line numbers.

    Args:
        strength: ``(readouts,)``, the largest sample of each readout.
        seconds: ``(readouts,)``, when each was measured.
    """
    count = len(strength)
    lines = _lines_between_pauses(seconds)
    repetitions = count // lines
    notes: list[str] = []
    if repetitions > 1:
        notes.append(f"pauses split {count} unlabelled readouts into {repetitions} repetitions of {lines} lines")
    position = np.arange(count) % lines
    profile = strength.reshape(repetitions, lines).sum(axis=0)
    peak = int(np.argmax(profile))
    middle = lines // 2
    if peak <= max(2, lines // 32):
        sign = np.where(position % 2 == 1, -1, 1)
        phase_encode = middle + sign * ((position + 1) // 2)
        notes.append(
            "the strongest lines come first: taken for the centre-out order 0, -1, +1, -2, …; "
            "were it 0, +1, -1, the image would be mirrored"
        )
    else:
        phase_encode = position
        if abs(peak - middle) > CENTRE_SHARE * lines:
            notes.append(f"the strongest line is number {peak} of {lines}: the order of phase encodes is not known")
    return Order(lines, phase_encode, np.arange(count) // lines, tuple(notes))


def _lines_between_pauses(seconds: npt.NDArray[np.float64]) -> int:
    """Lines of one image; all of them unless pauses cut the scan into equal parts."""
    count = len(seconds)
    intervals = np.diff(seconds)
    if count < 2 * PAUSE_LINES:
        return count
    usual = max(float(np.median(intervals)), 1e-3)
    starts = np.concatenate([[0], np.flatnonzero(intervals > PAUSE_FACTOR * usual) + 1, [count]])
    parts = np.diff(starts)
    return int(parts[0]) if len(parts) > 1 and np.all(parts == parts[0]) and parts[0] >= PAUSE_LINES else count
