"""Scans that have begun and are not wholly in the outbox yet, remembered across crashes.

A scan is noted in a file of its own before anything of it counts as handed over, and forgotten when its objects are in the outbox
and its end is written down. Until then no file of it may go, and nobody may give it another order. What a process that is gone has
noted is made up for by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.outbox.processes import is_running, this_process
from edge_runtime.delivery.outbox.states import Urgency

LARGEST_NOTE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Note:
    """What is remembered of a scan.

    Attributes:
        folder: its images', named by its id.
        whole: it was measured to its end; not known while it goes on.
    """

    folder: Path
    urgency: Urgency
    whole: bool = False

    @property
    def scan_id(self) -> str:
        return self.folder.name


class UnderWay:
    """The notes of an outbox.

    Args:
        outbox: its folder.
    """

    def __init__(self, outbox: Path) -> None:
        self._folder = outbox / "under_way"

    def write(self, note: Note) -> None:
        """Notes a scan; takes the place of what was noted of it.

        Raises:
            DeliveryError: it could not be written; names path and cause.
        """
        content = {
            "folder": str(note.folder.absolute()),
            "urgency": note.urgency.name,
            "whole": note.whole,
            "process": this_process(),
        }
        write_whole(self._path(note.scan_id), [json.dumps(content).encode("utf-8")])

    def forget(self, scan_id: str) -> None:
        self._path(scan_id).unlink(missing_ok=True)

    def scans(self) -> frozenset[str]:
        """Ids of all that are noted."""
        return frozenset(path.stem for path in self._folder.glob("*.json"))

    def left(self) -> Iterator[Note]:
        """What processes have noted that are gone."""
        for path in sorted(self._folder.glob("*.json")):
            try:
                with path.open("rb") as file:
                    content = json.loads(file.read(LARGEST_NOTE_BYTES))
                note = Note(Path(content["folder"]), Urgency[content["urgency"]], content["whole"] is True)
                process = str(content["process"])
            except (OSError, ValueError, KeyError, TypeError):
                continue  # nothing that this class has written
            if not is_running(process):
                yield note

    def _path(self, scan_id: str) -> Path:
        return self._folder / f"{scan_id}.json"
