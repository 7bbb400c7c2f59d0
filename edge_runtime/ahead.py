"""When the runs of a network are made whose image is not due yet: as late as leaves each of them time to end before the last
readout, since the fewer samples a run lacks, the more surely it may stay."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edge_runtime.modalities.mri.proposal import Begun
from edge_runtime.modalities.mri.reconstruct import Calibration


@dataclass(frozen=True)
class Pace:
    """How fast the readouts of a slice come.

    Attributes:
        left_s: until the last one, as far as one can tell.
        interval_s: between two.
    """

    left_s: float
    interval_s: float

    @classmethod
    def of(cls, passed_s: float, readouts: int, share: float) -> Pace:
        """Of a slice whose readouts go on to come as they did.

        Args:
            passed_s: since the first of them.
            readouts: that have come.
            share: of all, above 0.
        """
        return cls(max(0.0, passed_s * (1 / share - 1)), passed_s / max(1, readouts - 1))


class Took:
    """How long a kind of work takes on this device, lately: kept for the process, so that a scan need not find out anew what the
    last one of its geometry showed. From any thread."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[object, ...], float] = {}
        self._noting = threading.Lock()

    def note(self, seconds: float, *what: object) -> None:
        """Work ended. What is known follows at once where it took longer, and slowly where it took less."""
        with self._noting:
            before = self._seconds.pop(what, seconds)
            self._seconds[what] = max(seconds, 0.75 * before + 0.25 * seconds)
            if len(self._seconds) > MOST_KINDS:
                del self._seconds[next(iter(self._seconds))]

    def seconds(self, *what: object) -> float | None:
        """``None`` where it was never done."""
        return self._seconds.get(what)


MOST_KINDS = 256
"""Of work that is remembered; what was noted longest ago goes first."""


class Steps:
    """When the runs of one scan's images are due; its slices are all alike.

    Args:
        runs: of the network, that an image takes.
        took: where their times are kept.
        geometry: of the scan, as far as times hang on it.
    """

    def __init__(self, runs: int, took: Took, *geometry: int) -> None:
        self.runs = runs
        self._took = took
        self._what = ("run", runs, *geometry)

    def ended(self, seconds: float) -> None:
        """A run took so long, with what is around it."""
        self._took.note(seconds, *self._what)

    def lead_s(self, pace: Pace, done: int = 0) -> float:
        """How long before the last readout the next run must begin: each that is left takes its time and waits for a readout,
        whose samples it takes with it, and a last readout may come early by one."""
        took_s = self._took.seconds(*self._what) or 0.0
        return (self.runs - done) * (took_s + pace.interval_s) + pace.interval_s

    def is_due(self, pace: Pace, done: int) -> bool:
        """Whether the run after those that are done begins now. A first one always does: it shows how long they take."""
        return self._took.seconds(*self._what) is None or pace.left_s <= self.lead_s(pace, done)

    def begins_anew(self, pace: Pace) -> bool:
        """Whether there is time to make all runs again, of what has come since."""
        return pace.left_s >= self.lead_s(pace) - pace.interval_s


@dataclass
class Ahead:
    """The runs of one slice that were made, and the one that is being made.

    Attributes:
        running: held while a run is made.
        begun: what they made.
        calibration: that they were made with.
        counts: averages of each line that the first of them knew, ``(phase_encodes,)``.
        seconds: that they took.
    """

    running: threading.Lock = field(default_factory=threading.Lock)
    begun: Begun | None = None
    calibration: Calibration | None = None
    counts: npt.NDArray[np.int32] | None = None
    seconds: float = 0.0

    def finished_with(self, calibration: Calibration, counts: npt.NDArray[np.int32]) -> Begun | None:
        """What an image may go on from; waits for a run that is being made. Nothing where they were made with another calibration,
        or where a line that they knew has been measured again.

        Args:
            counts: averages of each line of the finished slice, ``(phase_encodes,)``.
        """
        with self.running:
            if self.begun is None or self.calibration is not calibration or self.counts is None:
                return None
            return self.begun if np.array_equal(counts[self.counts > 0], self.counts[self.counts > 0]) else None
