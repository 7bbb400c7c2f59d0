"""One scan on its way to the disk. Messages gather in one buffer while another is written; what is on disk is acknowledged.

The scan's thread copies and goes on. It waits only where both buffers are full, which is how a slow disk slows the scanner down,
and not for longer than the policy's patience: then the scan goes on without its journal. After an error of the disk nothing of the
file is trusted any more: a second fsync would succeed without having written what the first one failed to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from edge_runtime.errors import JournalError
from edge_runtime.journal.disk import Disk, JournalFile
from edge_runtime.journal.layout import NOTHING_BEFORE, Buffer, Origin, State, pack_head
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.links.mrd_pack import pack_close, pack_text

log = logging.getLogger(__name__)

BUFFER_BYTES = 4 << 20
"""Of each of the two; a larger group gains nothing on the disks that were tried."""

ROOM_BYTES = 64 << 20

SCAN_BYTES = 2 * BUFFER_BYTES
"""What a scan's journal takes of memory."""


class ScanJournal:
    """Writes one scan; `keep` and `close` are for one thread, `mark` for any.

    Args:
        file: at whose end the scan goes on.
        groups, chain, readouts: that the file holds.
        on_durable: told, from the writer's thread, how many readouts are on disk.
        on_failed: told once, from any thread, why nothing more will be.
        make_room: called by the writer's thread each time that it has written `ROOM_BYTES`.
    """

    def __init__(
        self,
        disk: Disk,
        scan_id: str,
        file: JournalFile,
        policy: JournalPolicy,
        *,
        groups: int = 0,
        chain: int = NOTHING_BEFORE,
        readouts: int = 0,
        on_durable: Callable[[int], None] = lambda readouts: None,
        on_failed: Callable[[str], None] = lambda reason: None,
        make_room: Callable[[], object] = lambda: None,
    ) -> None:
        self.scan_id = scan_id
        self.durable = readouts
        self.failed = ""
        self.on_durable, self.on_failed = on_durable, on_failed
        self._disk, self._file, self._policy = disk, file, policy
        self._groups, self._chain = groups, chain
        self._make_room, self._since_room_bytes = make_room, 0
        self._changed = threading.Condition()
        self._filling, self._spare = bytearray(BUFFER_BYTES), bytearray(BUFFER_BYTES)
        self._filled_bytes = 0
        self._large: Sequence[Buffer] = ()  # one message that fits no buffer; its sender waits
        self._readouts = readouts
        self._marks: list[bytes] = []
        self._writing = self._hurried = self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"journal-{scan_id}", daemon=True)
        self._thread.start()

    def keep(self, parts: Sequence[Buffer], readouts: int) -> None:
        """Takes whole messages; returns when they are copied.

        Args:
            parts: their bytes, which need not last.
            readouts: how many they are, 0 for other messages.

        Raises:
            JournalError: the disk failed or takes nothing, and the policy lets no scan go on without.
        """
        views = [memoryview(part).cast("B") for part in parts]
        size_bytes = sum(len(view) for view in views)
        with self._changed:
            if size_bytes > BUFFER_BYTES:
                self._pass_through(views, readouts)
            elif self._wait(lambda: self._filled_bytes + size_bytes <= BUFFER_BYTES):
                for view in views:
                    self._filling[self._filled_bytes : self._filled_bytes + len(view)] = view
                    self._filled_bytes += len(view)
                self._readouts += readouts
                self._changed.notify_all()
        self._refuse()

    def mark(self, text: str) -> None:
        """Adds a text of the runtime's own, behind the messages that have come."""
        with self._changed:
            self._marks.append(pack_text(text))
            self._changed.notify_all()

    def flush(self) -> int:
        """Returns how many readouts are on disk, when all are that were taken.

        Raises:
            JournalError: not all are.
        """
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            self._wait(lambda: not self._filled_bytes and not self._marks and not self._writing)
            self._hurried = False
        if self.failed:
            raise JournalError(f"journal of scan {self.scan_id}: {self.failed}")
        return self.durable

    def close(self, state: State) -> None:
        """Ends the file with a CLOSE, and gives it the name that says what became of the scan; an error is logged."""
        with self._changed:
            self._marks.append(pack_close())
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._policy.patience_s)
        if self._thread.is_alive():
            self._fail(f"the disk took nothing for {self._policy.patience_s:g} s")
            return  # the thread has the file, and no one can take it away
        try:
            self._file.close()
            ends = State.INCOMPLETE if self.failed and state is State.FINISHED else state
            self._disk.rename(self.scan_id + State.OPEN.value, self.scan_id + ends.value)
        except OSError as error:
            log.error("journal of scan %s: %s", self.scan_id, error.strerror or error)

    def discard(self) -> None:
        """Ends without a trace; an error is logged."""
        self.abandon()
        try:
            self._disk.remove(self.scan_id + State.OPEN.value)
        except OSError as error:
            log.error("journal of scan %s: %s", self.scan_id, error.strerror or error)

    def abandon(self) -> None:
        """Stops where it is, as a power cut would; the next start finds the scan."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._policy.patience_s)
        if not self._thread.is_alive():
            self._file.close()

    # In the scan's thread

    def _pass_through(self, views: list[memoryview], readouts: int) -> None:
        if self._wait(lambda: not self._filled_bytes):
            self._large, self._readouts = views, self._readouts + readouts
            self._changed.notify_all()
            self._wait(lambda: not self._large)

    def _wait(self, condition: Callable[[], bool]) -> bool:
        """Whether it came true before the disk had failed, or taken nothing for too long. Holds the lock."""
        if not self._changed.wait_for(lambda: condition() or bool(self.failed), self._policy.patience_s):
            self._fail(f"the disk took nothing for {self._policy.patience_s:g} s")
        return not self.failed

    def _refuse(self) -> None:
        if self.failed and self._policy.required:
            raise JournalError(
                f"journal of scan {self.scan_id}: {self.failed}; the profile's journal.required lets no scan go on without"
            )

    def _fail(self, reason: str) -> None:
        with self._changed:
            if self.failed:
                return
            self.failed = reason
            self._filled_bytes, self._large = 0, ()
            self._marks.clear()
            self._changed.notify_all()
        log.error("journal of scan %s: %s", self.scan_id, reason)
        self.on_failed(reason)

    # In the writer's thread

    def _work(self) -> None:
        due_s = 0.0
        while self._gather(due_s):
            due_s = time.monotonic() + self._policy.interval_s
            with self._changed:
                body = self._large or [memoryview(self._filling)[: self._filled_bytes]]
                self._filling, self._spare = self._spare, self._filling
                marks, self._marks = b"".join(self._marks), []
                readouts, self._filled_bytes, self._writing = self._readouts, 0, True
                self._changed.notify_all()
            try:
                self._write(body, readouts, marks)
            except OSError as error:
                self._fail(error.strerror or str(error))
            with self._changed:
                self._writing, self._large = False, ()
                if not self.failed:
                    self.durable = readouts
                self._changed.notify_all()
            if self.failed:
                return
            self.on_durable(readouts)

    def _gather(self, due_s: float) -> bool:
        """Returns when there is something to write, and as much as should go together; false at the end."""

        def any_there() -> bool:
            return bool(self._filled_bytes or self._marks or self._large)

        def enough() -> bool:
            return (
                bool(self._large)
                or self._hurried
                or self._closing
                or self._filled_bytes > BUFFER_BYTES // 2
                or bool(self.failed)
            )

        with self._changed:
            self._changed.wait_for(lambda: any_there() or self._closing or bool(self.failed))
            self._changed.wait_for(enough, max(0.0, due_s - time.monotonic()))
            return any_there() and not self.failed

    def _write(self, body: Sequence[Buffer], readouts: int, marks: bytes) -> None:
        parts: list[Buffer] = []
        for origin, content in ((Origin.SCANNER, body), (Origin.RUNTIME, [marks])):
            if any(len(part) for part in content):
                head, self._chain = pack_head(origin, self._groups, content, readouts, self._chain)
                self._groups += 1
                parts += [head, *content]
        self._since_room_bytes += sum(len(part) for part in parts)
        if self._since_room_bytes >= ROOM_BYTES:
            self._since_room_bytes = 0
            self._make_room()
        self._file.append(parts)
        self._file.sync()
