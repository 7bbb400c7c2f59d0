"""Counters for the readouts of consoles that send none: numbered in the order in which they arrive."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edge_runtime.errors import ReadoutError
from edge_runtime.modalities.mri.layout import Layout
from edge_runtime.scan import COUNTERS, ReadoutBatch, ReadoutFlag

READOUTS_THAT_TELL = 3
"""With every counter at zero they are a scan without counters; two may be one that came twice."""


class Numbering:
    """Numbers the readouts of consoles that send none.

    A scan whose first three image readouts all have every counter at zero has no counters; its lines are then numbered in the order
    they arrive, slice after slice. Two such readouts before a numbered one are a line that came twice. Readouts with every counter
    at zero wait until that is known, nothing else does.
    """

    def __init__(self, layout: Layout) -> None:
        self.missing: bool | None = False if layout.lines == 1 else None
        self._layout = layout
        self._held: ReadoutBatch | None = None
        self._count = 0

    @property
    def undecided(self) -> bool:
        """Whether image readouts wait here."""
        return self._held is not None

    def repair(self, batch: ReadoutBatch) -> Iterator[ReadoutBatch]:
        if self.missing is None:
            batch = self._with_held(batch)
            zero = _all_zero(batch.header[:READOUTS_THAT_TELL])
            if zero.all() and len(zero) < READOUTS_THAT_TELL:
                self._held = ReadoutBatch(batch.header.copy(), batch.samples.copy())
                return
            self._decide(missing=bool(zero.all()))
        yield self._number(batch) if self.missing else batch

    def flush(self) -> Iterator[ReadoutBatch]:
        if self._held is not None:
            held, self._held = self._held, None
            self._decide(missing=len(held) > 1)
            yield self._number(held) if self.missing else held

    def _with_held(self, batch: ReadoutBatch) -> ReadoutBatch:
        if self._held is None:
            return batch
        if batch.samples.shape[1:] != self._held.samples.shape[1:]:
            raise ReadoutError(
                "number_of_samples",
                batch.samples.shape[2],
                f"the readout before had {self._held.samples.shape[2]}",
            )
        held, self._held = self._held, None
        return ReadoutBatch(np.concatenate([held.header, batch.header]), np.concatenate([held.samples, batch.samples]))

    def _decide(self, *, missing: bool) -> None:
        if missing and self._layout.expected_lines < self._layout.steps:
            raise ReadoutError(
                "idx", "0 in all readouts", "an accelerated scan must say which phase encodes it measures"
            )
        self.missing = missing

    def _number(self, batch: ReadoutBatch) -> ReadoutBatch:
        layout = self._layout
        zero = _all_zero(batch.header)
        if not zero.all():
            culprit = batch.header[int(np.argmin(zero))]
            raise ReadoutError(
                "idx", [int(culprit[name]) for name in COUNTERS],
                "counters appear in a scan that began without any: number all readouts or none",
            )  # fmt: skip
        index = self._count + np.arange(len(batch))
        self._count += len(batch)
        line, rest = index % layout.steps, index // layout.steps
        header = batch.header.copy()
        header["phase_encode"] = layout.first_step + line
        header["slice"] = rest % layout.slices
        header["average"] = rest // layout.slices % layout.averages
        header["repetition"] = rest // (layout.slices * layout.averages)
        header["flags"][line == layout.steps - 1] |= np.uint64(ReadoutFlag.LAST_IN_SLICE)
        return ReadoutBatch(header, batch.samples)


def _all_zero(header: npt.NDArray[np.void]) -> npt.NDArray[np.bool_]:
    nonzero = np.zeros(len(header), np.bool_)
    for name in COUNTERS:
        nonzero |= header[name] != 0
    return ~nonzero
