"""Messages on their way to a scanner, which may be slow to take them."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import deque

from edge_runtime.memory import MemoryBudget, Reservation
from edge_runtime.profile import Profile

log = logging.getLogger(__name__)

SLOWEST_BYTES_PER_S = 128 << 10
"""What must at least come of a message that a scanner has begun to send, or to take."""


class Sender:
    """Sends messages in the order they were given, from a thread of its own: a scanner that is slow to take its images holds up
    nobody but itself. Who makes images asks for room before, since `put` takes whatever it is given.

    Args:
        profile: says how long a scanner may take for a message, beside what `SLOWEST_BYTES_PER_S` allows for its size, before it
            has gone and nothing more is sent; and how much should wait.
        memory: where room for that is reserved.
    """

    def __init__(self, peer: socket.socket, address: str, profile: Profile, memory: MemoryBudget) -> None:
        self._peer = peer
        self._address = address
        self._patience_s = profile.send_timeout_s
        self._most_bytes = profile.link_bytes
        self._leaving_bytes = profile.share_bytes
        self._room = Reservation(memory)
        self._changed = threading.Condition()
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._held_bytes = 0
        self._gone = False
        self._complete = False
        self._thread = threading.Thread(target=self._work, name=f"{threading.current_thread().name}-send", daemon=True)
        self._thread.start()

    def put(self, data: bytes, *, lasting: bool = True) -> None:
        """Adds a whole message, at once; a scanner that has gone is no error.

        Args:
            lasting: the message is worth something to the scanner later too.
        """
        with self._changed:
            if not self._gone:
                self._waiting.append((data, lasting))
                self._held_bytes += len(data)
                self._changed.notify_all()

    def has_room(self, size_bytes: int) -> bool:
        """Reserves it, where there is. What waits alone, the session has room for."""
        needed_bytes = self._held_bytes + size_bytes
        return self._gone or (needed_bytes <= self._most_bytes and self._room.resize(needed_bytes, self._leaving_bytes))

    def wait_for_room(self, size_bytes: int) -> None:
        """Returns when there is room, when nothing waits, or when the scanner has gone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held_bytes or self.has_room(size_bytes))

    def give_up(self) -> None:
        """Sends nothing more."""
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def unsent(self) -> list[bytes]:
        """Lasting messages that a scanner that has gone did not take whole."""
        with self._changed:
            unsent = [data for data, lasting in self._waiting if lasting]
            self._waiting.clear()
            return unsent

    def finish(self) -> None:
        """Returns when all is sent, or the scanner has gone."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()
        self._thread.join()
        self._room.release()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._complete or self._gone)
                if self._gone or not self._waiting:
                    return
                data, _ = self._waiting[0]
            try:
                self._send(data)
            except OSError as error:
                log.warning("%s no longer takes what is sent to it: %s", self._address, error)
                self.give_up()
                return
            with self._changed:
                if self._waiting:  # else they were taken away meanwhile
                    self._waiting.popleft()
                self._held_bytes -= len(data)
                self._changed.notify_all()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        deadline = time.monotonic() + self._patience_s + len(data) / SLOWEST_BYTES_PER_S
        while view:
            with contextlib.suppress(TimeoutError):
                view = view[self._peer.send(view) :]
            if view and (self._gone or time.monotonic() > deadline):
                raise TimeoutError(f"{len(view)} of a message's {len(data)} bytes were not taken in time")
