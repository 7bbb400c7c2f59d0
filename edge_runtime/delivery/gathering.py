"""Scans whose series are still to become one object each, remembered across crashes.

A scan is noted in a file of its own before its first image counts as handed over, and forgotten when all of its objects are in the
outbox. What a process that is gone has noted is made up for by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.outbox.processes import is_running, this_process
from edge_runtime.delivery.outbox.states import Urgency

LARGEST_NOTE_BYTES = 64 << 10


class Gatherings:
    """The notes of an outbox.

    Args:
        folder: of the notes; made when there is one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def begin(self, scan: Path, urgency: Urgency) -> None:
        """Notes a scan's folder; again is no harm.

        Raises:
            DeliveryError: it could not be written; names path and cause.
        """
        note = {"folder": str(scan.absolute()), "urgency": urgency.name, "process": this_process()}
        write_whole(self._path(scan), [json.dumps(note).encode("utf-8")])

    def end(self, scan: Path) -> None:
        """Forgets it."""
        self._path(scan).unlink(missing_ok=True)

    def left(self) -> Iterator[tuple[Path, Urgency]]:
        """What processes have noted that are gone."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                with path.open("rb") as file:
                    note = json.loads(file.read(LARGEST_NOTE_BYTES))
                folder, urgency, process = Path(note["folder"]), Urgency[note["urgency"]], str(note["process"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing that this class has written
            if not is_running(process):
                yield folder, urgency

    def _path(self, scan: Path) -> Path:
        return self._folder / f"{scan.name}.json"
