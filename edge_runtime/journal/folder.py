"""All scans of a server: those that are written, those that were interrupted, those that are kept, and until when."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.errors import JournalError
from edge_runtime.journal.disk import Disk, Entry, Reader
from edge_runtime.journal.layout import State, scan_of, state_of
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.journal.record import Record, read_record, readouts_at_end
from edge_runtime.journal.writer import ScanJournal

log = logging.getLogger(__name__)

OF_THE_FUTURE_S = 86_400.0
"""A file that is so much younger than now tells that the clock can't be believed, and so does a clock that was set by so much
since the server began; then age lets nothing go."""

EARLIEST = 1_735_689_600.0
"""2025, before this program: a file that is older was written while nobody had set the clock."""


@dataclass(frozen=True, slots=True)
class KeptScan:
    """A scan in the folder."""

    scan_id: str
    state: State
    size_bytes: int
    changed_at: float
    name: str


class Journal:
    """The folder of one server; from any thread.

    Args:
        disk: the folder.
        policy: what the site wants.
        now: seconds since 1970; a clock that may jump.
    """

    def __init__(self, disk: Disk, policy: JournalPolicy, now: Callable[[], float] = time.time) -> None:
        self._disk = disk
        self.policy = policy
        self._now = now
        self._began = now() - time.monotonic()
        self._tidying = threading.Lock()

    def begin(self, scan_id: str) -> ScanJournal:
        """A new scan's journal.

        Raises:
            JournalError: the disk does not take it.
        """
        try:
            file = self._disk.create(scan_id + State.OPEN.value)
        except OSError as error:
            raise JournalError(f"journal of scan {scan_id}: {error.strerror or error}") from None
        return ScanJournal(self._disk, scan_id, file, self.policy, make_room=self.tidy)

    def has(self, scan_id: str) -> bool:
        """Whether there is a file of such a scan, whatever became of it; false where that can't be told."""
        try:
            return any(kept.scan_id == scan_id for kept in kept_scans(self._disk))
        except JournalError:
            return False

    def interrupted(self) -> list[KeptScan]:
        """Scans that a crash or a power cut left open, oldest first."""
        found = sorted(kept_scans(self._disk), key=lambda kept: kept.scan_id)
        return [kept for kept in found if kept.state is State.OPEN]

    def closed(self, most: int) -> list[KeptScan]:
        """The newest of those that have ended, oldest first.

        Raises:
            JournalError: the folder can't be read.
        """
        ended = (State.FINISHED, State.INCOMPLETE)
        found = sorted((kept for kept in kept_scans(self._disk) if kept.state in ended), key=lambda kept: kept.scan_id)
        return found[-most:]

    def readouts_of(self, kept: KeptScan) -> int:
        """How many readouts of a closed scan are on disk; 0 where it can't be read."""
        try:
            return readouts_at_end(self._disk, kept.name, kept.size_bytes)
        except OSError as error:
            log.error("journal %s: %s", kept.name, error.strerror or error)
            return 0

    def read(self, kept: KeptScan, most_groups: int | None = None) -> Record:
        """What a scan's file holds, see `read_record`; of one that was interrupted, what the medium holds.

        Raises:
            OSError: it can't be read.
        """
        if kept.state is State.OPEN:
            # After a sync that failed the kernel's copy may be what the medium never got, and the next sync would call it written.
            self._disk.forget_copies(kept.name)
        return read_record(self._disk, kept.name, kept.size_bytes, most_groups)

    def resume(self, record: Record) -> ScanJournal:
        """Goes on behind what is sound of an interrupted scan; what is torn goes.

        Raises:
            JournalError: it is damaged, or the disk does not take it.
        """
        scan_id = scan_of(record.name)
        if record.damage:
            raise JournalError(f"journal of scan {scan_id}: {record.damage}")
        try:
            file = self._disk.resume(record.name, record.sound_bytes)
        except OSError as error:
            raise JournalError(f"journal of scan {scan_id}: {error.strerror or error}") from None
        return ScanJournal(
            self._disk,
            scan_id,
            file,
            self.policy,
            groups=len(record.groups),
            chain=record.chain,
            readouts=record.readouts,
            make_room=self.tidy,
        )

    def set_aside(self, record: Record) -> None:
        """Closes a scan that is not gone on with. A damaged one is kept for a person to look at; nothing removes it."""
        try:
            state = State.DAMAGED if record.damage else State.INCOMPLETE
            self._disk.rename(record.name, scan_of(record.name) + state.value)
        except OSError as error:
            log.error("journal %s: %s", record.name, error.strerror or error)

    @property
    def disk(self) -> Disk:
        """Where it is."""
        return self._disk

    def tidy(self) -> list[str]:
        """Removes closed scans that are kept no longer, oldest first, and returns their names. Open and damaged ones stay."""
        with self._tidying:
            closed = sorted(
                (kept for kept in kept_scans(self._disk) if kept.state in (State.FINISHED, State.INCOMPLETE)),
                key=lambda kept: kept.scan_id,
            )
            gone = []
            for kept in self._outdated(closed):
                try:
                    self._disk.remove(kept.name)
                except OSError as error:
                    log.error("journal %s: %s", kept.name, error.strerror or error)
                    break
                log.info("journal: %s is kept no longer", kept.name)
                gone.append(kept.name)
            return gone

    def _outdated(self, closed: list[KeptScan]) -> list[KeptScan]:
        """The oldest of the closed scans, up to the last one that must go."""
        policy, now = self.policy, self._now()
        clock_is_sound = abs(now - time.monotonic() - self._began) < OF_THE_FUTURE_S and all(
            EARLIEST <= kept.changed_at <= now + OF_THE_FUTURE_S for kept in closed
        )
        total_bytes = sum(kept.size_bytes for kept in closed)
        lacking_bytes = (policy.leave_free_mb << 20) - self._disk.free_bytes()
        outdated = []
        for kept in closed:
            too_old = clock_is_sound and kept.changed_at < now - policy.retention_h * 3600
            if not too_old and total_bytes <= policy.most_mb << 20 and lacking_bytes <= 0:
                break
            outdated.append(kept)
            total_bytes -= kept.size_bytes
            lacking_bytes -= kept.size_bytes
        return outdated


def kept_scans(disk: Reader) -> list[KeptScan]:
    """What is in a folder; files of others are left alone.

    Raises:
        JournalError: it can't be read.
    """
    try:
        entries: list[Entry] = disk.entries()
    except OSError as error:
        raise JournalError(f"journal: {error.strerror or error}") from None
    found = []
    for entry in entries:
        state = state_of(entry.name)
        if state is not None:
            found.append(KeptScan(scan_of(entry.name), state, entry.size_bytes, entry.changed_at, entry.name))
    return found
