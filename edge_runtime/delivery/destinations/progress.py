"""Ends connections on which nothing moves any more.

How long an answer may take can't be said beforehand: an object may need minutes on a slow link and a server that hangs will never
answer. So what is watched is whether anything moves: bytes that the kernel has still to send, and objects that were answered.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def watched(
    connection: Callable[[], socket.socket | None], count: Callable[[], int], patience_s: float
) -> Iterator[threading.Event]:
    """Shuts a connection down when nothing has moved for a while.

    Args:
        connection: the socket as it is now; ``None``: there is none yet, or none any more.
        count: something that changes with every step of the conversation.
        patience_s: how long nothing may move.

    Yields:
        An event that is set when the connection was shut down for that.
    """
    ended, gave_up = threading.Event(), threading.Event()

    def watch() -> None:
        seen: object = None
        since = time.monotonic()
        while not ended.wait(min(0.25, patience_s / 4)):
            now = (count(), _unsent_bytes(connection()))
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= patience_s:
                gave_up.set()
                if (open_one := connection()) is not None:
                    with contextlib.suppress(OSError):
                        open_one.shutdown(socket.SHUT_RDWR)
                return

    thread = threading.Thread(target=watch, name="delivery-watch", daemon=True)
    thread.start()
    try:
        yield gave_up
    finally:
        ended.set()
        thread.join()


def tune(connection: socket.socket, bandwidth_bytes_per_s: int | None) -> None:
    """No waiting for full segments; no faster than the cap, which the kernel keeps (SO_MAX_PACING_RATE, socket(7)).

    Args:
        bandwidth_bytes_per_s: of this connection; ``None``: what the link carries.
    """
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if bandwidth_bytes_per_s is not None:
        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, bandwidth_bytes_per_s)
        # Else a buffer of megabytes would hide from the watch, and from emergencies, how far things are.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, max(16 << 10, min(1 << 20, bandwidth_bytes_per_s)))


_SO_MAX_PACING_RATE = 47


def _unsent_bytes(connection: socket.socket | None) -> int:
    """What the other side has not acknowledged (tcp(7), SIOCOUTQ)."""
    if connection is None:
        return -1
    try:
        return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0" * 4))[0])
    except (OSError, ValueError):
        return -1
