"""What systemd is told of a service of ``Type=notify`` (sd_notify(3)), and the watchdog that only progress feeds."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping

from edge_runtime.service.heart import Heart

log = logging.getLogger(__name__)

FEEDS_PER_INTERVAL = 4
"""systemd asks for two at least."""

LONGEST_STATUS = 200


class Notifier:
    """Sends states to the socket that systemd named; does nothing where there is none.

    Args:
        address: ``$NOTIFY_SOCKET``: a path, or a name in the abstract namespace, which begins with ``@``.
    """

    def __init__(self, address: str | None) -> None:
        self._address = b""
        self._socket: socket.socket | None = None
        if not address:
            return
        if address[0] not in "/@":
            log.warning("NOTIFY_SOCKET is neither a path nor an abstract name: systemd is told nothing")
            return
        raw = os.fsencode(address)
        self._address = b"\0" + raw[1:] if raw[:1] == b"@" else raw
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(1.0)

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Notifier:
        """The one that the service manager asked for."""
        return cls(environment.get("NOTIFY_SOCKET"))

    def ready(self, status: str) -> None:
        """Scanners can connect."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(_status(text))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._send("WATCHDOG=1")

    def stopping(self, status: str, extend_s: float) -> None:
        """The server ends; asks for so much time from now."""
        self._send("STOPPING=1", _status(status), f"EXTEND_TIMEOUT_USEC={int(extend_s * 1e6)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, *lines: str) -> None:
        if self._socket is None:
            return
        try:
            self._socket.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:  # a service manager that is busy, or gone
            log.warning("the service manager could not be told: %s", error.strerror or type(error).__name__)


def _status(text: str) -> str:
    return "STATUS=" + text.replace("\n", " ")[:LONGEST_STATUS]


def watchdog_interval_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants to hear from this process; ``None`` where it does not."""
    text = environment.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal() and len(text) < 18 and int(text) > 0):
        return None
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # meant for another process, that started us
    return int(text) / 1e6


class Watchdog:
    """Feeds systemd's watchdog as long as nothing is stuck: a thread of its own, which ends with `stop`.

    What is silent for half of the interval stops the feed, so that systemd acts between a half and one and a half of it after
    the last progress.
    """

    def __init__(self, notifier: Notifier, heart: Heart, interval_s: float) -> None:
        self._notifier = notifier
        self._heart = heart
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._starving: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Feeds no more."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        self._notifier.alive()
        while not self._stop.wait(self._interval_s / FEEDS_PER_INTERVAL):
            stuck = self._heart.stuck(self._interval_s / 2)
            if not stuck:
                if self._starving:
                    log.warning("progress again: the watchdog is fed")
                    self._notifier.status("progress again")
                self._starving = frozenset()
                self._notifier.alive()
                continue
            names = frozenset(one.name for one in stuck)
            if names != self._starving:
                self._starving = names
                log.error("the watchdog is not fed: %s", "; ".join(map(str, stuck)))
                self._notifier.status(f"stuck: {stuck[0]}")
