"""What is held of a slice while its readouts arrive, and what its calibration is made from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge_runtime.kernels import LineBook
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.scan import Geometry


@dataclass(frozen=True)
class SeparateAcs:
    """Lines that are measured for calibration only; they serve their slice until a later repetition or phase brings others.

    Attributes:
        repetition, phase: of which they are.
        samples: sums over averages of the central lines, all that calibration looks at, ``(acs_lines, coils, columns)``.
        counts: averages summed, ``(acs_lines,)``.
    """

    repetition: int
    phase: int
    samples: Complex
    counts: npt.NDArray[np.int32]


class AcsState(NamedTuple):
    """How many lines a slice can be calibrated from, and how many readouts brought them; grows with every one that does."""

    lines: int
    readouts: int


NO_ACS = AcsState(0, 0)


@dataclass
class SliceBuffer:
    """One slice being filled.

    Attributes:
        samples: sums over averages, ``(phase_encodes, coils, columns)``: a readout is contiguous. Lines that are not measured
            hold anything: clearing all, most of which are overwritten, would take time.
        book: which lines have come.
        geometry: of the first image line.
        highest_average: that a line has come of.
        ended_by: what ended the slice.
        ended_by_flag: whether that was the scanner's word, not a conclusion.
        calibration: the separate ACS that serves the slice.
        central: the counts that `acs` was made of.
        acs: what the slice can be calibrated from.
    """

    samples: Complex
    book: LineBook
    geometry: Geometry
    calibration: SeparateAcs | None
    highest_average: int = 0
    ended_by: str = ""
    ended_by_flag: bool = False
    central: bytes = b""
    acs: AcsState = NO_ACS

    @property
    def counts(self) -> npt.NDArray[np.int32]:
        """Averages summed, ``(phase_encodes,)``."""
        return self.book.counts

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        return self.counts > 0

    @property
    def lines_measured(self) -> int:
        return int(np.count_nonzero(self.counts))


@dataclass(frozen=True)
class CalibrationSamples:
    """What `calibrate` needs of a slice.

    Attributes:
        acs: averaged samples of the calibration lines, ``(acs_lines, coils, columns)``.
        lines: which lines those are.
        measured: ``(phase_encodes,)``; image and calibration lines count.
        notes: where the lines come from, if not from the slice's own repetition.
    """

    acs: Complex
    lines: slice
    measured: npt.NDArray[np.bool_]
    notes: tuple[str, ...] = ()

    def hybrid(self) -> Complex:
        """``(coils, phase_encodes, columns)``, zero outside the ACS."""
        _, coils, columns = self.acs.shape
        hybrid = np.zeros((coils, self.measured.size, columns), np.complex64)
        hybrid[:, self.lines] = self.acs.transpose(1, 0, 2)
        return hybrid

    def identity(self) -> bytes:
        """Tells whether two calibrations would see the same samples."""
        return hashlib.blake2b(self.acs.tobytes() + repr(self.lines).encode()).digest()
