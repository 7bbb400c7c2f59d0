"""What INT8's ranges are gathered on, and gathering them once for all that they hang on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.bundle import UnrolledSettings
from edge_runtime.engines import Session
from export.digest import file_digest, files_digest, made_by
from export.progress import Progress
from export.quantization.ranges import Tensor, write_ranges
from export.recordings import FullySampled
from export.remembered import made_once
from export.simulate.pool import Pool
from export.states import reconstruction_states, recorded_states


@dataclass(frozen=True)
class CalibrationData:
    """Scans whose reconstruction states are what ranges are gathered on.

    Attributes:
        pool: folder of simulated acquisitions.
        scans: how many are drawn from it, and at most how many slices are taken of a recording.
        seed: of draws and masks.
        recordings: fully sampled scans.
    """

    pool: Path
    scans: int
    seed: int
    recordings: tuple[FullySampled, ...] = ()

    def slices(self, scan: FullySampled) -> list[int]:
        """Those that are taken of a recording, evenly over all of it."""
        count = len(scan.keys)
        taken = min(count, self.scans)
        return [number * count // taken for number in range(taken)]

    def states(self, settings: UnrolledSettings, session: Session) -> Iterator[Tensor]:
        """The regulariser's input at every iteration of every scan, ``(1, 6, rows, columns)``; one scan or slice in memory
        at a time.

        Raises:
            RecordingError: a recording turns out to be damaged.
        """
        yield from reconstruction_states(self.pool, settings, session, self.scans, self.seed)
        for scan in self.recordings:
            yield from recorded_states(scan, self.slices(scan), settings, session, self.seed)

    def count(self, settings: UnrolledSettings) -> int:
        """How many states there are at most."""
        return settings.iterations * (self.scans + sum(len(self.slices(scan)) for scan in self.recordings))

    def provenance(self) -> dict[str, Any]:
        """What a bundle says of it; reads pool and recordings once. Files' names may be people's, and are not told."""
        return {
            "scans": self.scans,
            "seed": self.seed,
            "pool_sha256": files_digest(Pool(self.pool).files, self.pool),
            "recordings": [{"sha256": file_digest(scan.path), "slices": self.slices(scan)} for scan in self.recordings],
        }


def gathered_ranges(
    prepared: Path,
    data: CalibrationData,
    settings: UnrolledSettings,
    session: Session,
    folder: Path,
    report: Callable[[str], None],
) -> tuple[Path, dict[str, Any]]:
    """The file of ranges in a folder, gathered anew where graph, data, settings, code or libraries are others than it was made of,
    and the provenance of its data.

    Args:
        prepared: graph of `forms.write_prepared`.
        settings, session: of the reconstruction whose states are calibrated on.
        report: told in words how far it is.

    Raises:
        RecordingError: a recording turns out to be damaged.
    """
    provenance = data.provenance()
    identity = {
        "graph": file_digest(prepared),
        "settings": hashlib.sha256(repr(settings).encode()).hexdigest(),
        "calibration": hashlib.sha256(repr(provenance).encode()).hexdigest(),
        **made_by(__name__),
    }

    def gather(out: Path) -> None:
        progress = Progress("states for ranges", report)
        write_ranges(prepared, _shown(data.states(settings, session), data.count(settings), progress), out)

    return made_once(folder / "ranges.json", identity, gather, report), provenance


def _shown(states: Iterable[Tensor], count: int, progress: Progress) -> Iterator[Tensor]:
    for number, state in enumerate(states, start=1):
        yield state
        progress(number, count)
