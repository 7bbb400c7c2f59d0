"""The samples of the latest slices, kept in memory for a new model to show what it makes of them.

They are raw samples of patients: they stay in this process's memory, are never written, and give way to newer ones.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace

from edge_runtime.memory import MemoryBudget, Reservation
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples

MOST_SLICES = 4
MOST_BYTES = 48 << 20
"""Of all slices that are kept."""


@dataclass(frozen=True)
class KeptSlice:
    """What a slice's images were made of, in arrays of its own."""

    scan_id: str
    samples: SliceSamples
    calibration: Calibration

    @property
    def size_bytes(self) -> int:
        return _size_bytes(self.samples, self.calibration)


class RecentSlices:
    """The latest few, within a bound and the memory that scans leave free.

    Args:
        memory: where their room is reserved, with as much left free as `leaving_bytes`.
    """

    def __init__(
        self, memory: MemoryBudget, leaving_bytes: int, most_slices: int = MOST_SLICES, most_bytes: int = MOST_BYTES
    ) -> None:
        self._room = Reservation(memory)
        self._leaving_bytes = leaving_bytes
        self._most_slices = most_slices
        self._most_bytes = most_bytes
        self._kept: deque[KeptSlice] = deque()
        self._changing = threading.Lock()

    def keep(self, scan_id: str, samples: SliceSamples, calibration: Calibration) -> bool:
        """Copies a slice; false where it is too large, or scans need the memory."""
        size_bytes = _size_bytes(samples, calibration)
        with self._changing:
            while self._kept and (
                len(self._kept) >= self._most_slices or self._held_bytes() + size_bytes > self._most_bytes
            ):
                self._kept.popleft()
            fits = size_bytes <= self._most_bytes
            if not self._room.resize(self._held_bytes() + (size_bytes if fits else 0), self._leaving_bytes) or not fits:
                return False
            copied = replace(samples, hybrid=samples.hybrid.copy(), measured=samples.measured.copy())
            # a calibration is made anew for each slice and never changed
            self._kept.append(KeptSlice(scan_id, copied, calibration))
            return True

    def latest(self) -> list[KeptSlice]:
        """Newest first."""
        with self._changing:
            return list(reversed(self._kept))

    def forget(self) -> None:
        """Keeps none, and gives their room back."""
        with self._changing:
            self._kept.clear()
            self._room.release()

    def _held_bytes(self) -> int:
        return sum(one.size_bytes for one in self._kept)


def _size_bytes(samples: SliceSamples, calibration: Calibration) -> int:
    arrays = (samples.hybrid, samples.measured, calibration.compression, calibration.sensitivities)
    return sum(int(array.nbytes) for array in arrays)
