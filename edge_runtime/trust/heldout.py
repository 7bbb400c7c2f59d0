"""Which measured samples the learned reconstruction may not see.

They say afterwards how far it was right, and how far it is believed: one number for the whole slice, of hundreds of samples.

Each band of readout columns gives up one measured line outside the calibration lines, another line in each band. Every column thus
loses one line, at a spatial frequency that changes along the image, and no column's neighbourhood knows the line that it lost.

What is held out hangs on what was measured and on the scan's identity alone, not on the order in which readouts came; and a line
that comes late seldom changes it, and never lets the network have what it has done without (`choose_held_out`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

BANDS = 8
"""Bands along the readout, so that evidence is gathered at this many spatial frequencies."""

FEWEST_LINES = 8
"""With fewer measured lines outside the calibration lines nothing is held out: the loss would outweigh the evidence."""

CHOSEN = "chosen by the held-out samples"
NONE_HELD_OUT = "applied in full, unconfirmed: no samples could be held out"
NONE_CHANGED = "applied in full, unconfirmed: it changes none of the held-out samples"

Pick: TypeAlias = Callable[[npt.NDArray[np.intp]], int]
"""Chooses one of some lines."""


def choose_held_out(
    measured: npt.NDArray[np.bool_], calibration: slice, columns: int, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Held-out samples in hybrid space: of each band the measured line that comes first in an order drawn for it.

    Another measured line takes the place of the held-out one where it comes before it, with a chance of one in the number of lines,
    and changes nothing else.

    Args:
        measured: ``(phase_encodes,)``.
        calibration: lines that the sensitivities were estimated from, by which the network has seen them already.
        columns: readout columns of the image.
        rng: seeded from the scan's identity, so that a repeated reconstruction holds out the same samples.

    Returns:
        ``(phase_encodes, columns)``; all false where there are too few lines to spare one.
    """

    def first_in_order(candidates: npt.NDArray[np.intp]) -> int:
        rank = rng.permutation(measured.size)
        return int(candidates[np.argmin(rank[candidates])])

    return hold_out(measured, calibration, columns, first_in_order)


def hold_out(measured: npt.NDArray[np.bool_], calibration: slice, columns: int, pick: Pick) -> npt.NDArray[np.bool_]:
    """One line of each band, by a choice of the caller's; arguments and what is returned as `choose_held_out`'s.

    Args:
        pick: asked once a band.
    """
    held_out = np.zeros((measured.size, columns), np.bool_)
    outer = measured.copy()
    outer[calibration] = False
    candidates = np.flatnonzero(outer)
    if candidates.size < FEWEST_LINES:
        return held_out
    edges = np.linspace(0, columns, BANDS + 1).round().astype(int)
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        held_out[pick(candidates), start:stop] = True
    return held_out


def believed_share(best_step: float | None) -> float:
    """How much of the network's correction goes into the image: the share that agrees best with the held-out samples, 0..1.

    A network does most where much is missing. Where little is, and that noisy, it adds an error of its own, which a smaller step
    avoids.

    Args:
        best_step: from the image that the network started from towards the one it made; ``None`` where no sample can tell, then
            the network is believed, and `share_source` says so.
    """
    return 1.0 if best_step is None else min(max(best_step, 0.0), 1.0)


def share_source(best_step: float | None, held_out: int) -> str:
    """How that share came about, in words for the evidence.

    Args:
        best_step: as in `believed_share`.
        held_out: number of held-out samples.
    """
    if best_step is not None:
        return CHOSEN
    return NONE_CHANGED if held_out else NONE_HELD_OUT
