"""Whether everything that should go on does: the accept loop, the reconstruction threads, every session.

Each has a `Pulse` and beats when it has made progress, not when a timer says so. One that rests (a worker without a job, a session
between two messages) need not; nor one that waits for what has a pulse of its own (a session for the reconstruction of its
slices), as long as that works. So a server without scanners is alive, and one whose engine hangs, or whose session is locked
up, is not.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

PATIENCE_S = 30.0
"""How long one may make no progress where nobody says otherwise. The longest step without a beat is one run of a network, or one
solve of a slice."""


@dataclass(frozen=True)
class Stuck:
    """Somebody that makes no progress, and for how long."""

    name: str
    silent_s: float

    def __str__(self) -> str:
        return f"{self.name} has made no progress for {self.silent_s:.0f} s"


class Pulse:
    """Of one thread's work; from that thread, but for `Heart`, which reads. It rests at first.

    Args:
        works: for others, which may wait for it (`waiting_for_work`).
    """

    def __init__(self, heart: Heart, name: str, *, works: bool = False) -> None:
        self.name = name
        self.works = works
        self.waits_for_work = 0
        self._at_work = 0
        self._waiting = 0
        self.last_beat_s = time.monotonic()
        self._heart = heart

    def beat(self) -> None:
        """Progress was made."""
        self.last_beat_s = time.monotonic()

    @property
    def excused(self) -> bool:
        """Rests, or waits for what has a time limit of its own."""
        return not self._at_work or bool(self._waiting)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Must make progress meanwhile."""
        self.beat()
        self._at_work += 1
        try:
            yield
        finally:
            self.beat()
            self._at_work -= 1

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Waits for a peer, which has a time limit of its own."""
        self.beat()
        self._waiting += 1
        try:
            yield
        finally:
            self.beat()
            self._waiting -= 1

    @contextlib.contextmanager
    def waiting_for_work(self) -> Iterator[None]:
        """Waits for what others work at, which is excused as long as one of them does."""
        self.beat()
        self.waits_for_work += 1
        try:
            yield
        finally:
            self.beat()
            self.waits_for_work -= 1

    def end(self) -> None:
        """Is over; again is no error."""
        self._heart.forget(self)


class Heart:
    """All pulses of a process."""

    def __init__(self) -> None:
        self._pulses: set[Pulse] = set()
        self._changing = threading.Lock()

    def pulse(self, name: str, *, works: bool = False) -> Pulse:
        """A new one, which beats once by being made."""
        pulse = Pulse(self, name, works=works)
        with self._changing:
            self._pulses.add(pulse)
        return pulse

    def forget(self, pulse: Pulse) -> None:
        with self._changing:
            self._pulses.discard(pulse)

    def stuck(self, patience_s: float = PATIENCE_S) -> list[Stuck]:
        """Who has made no progress for longer, longest first."""
        with self._changing:
            pulses = list(self._pulses)
        now = time.monotonic()
        workers = [pulse for pulse in pulses if pulse.works]
        at_work = any(not pulse.excused for pulse in workers)
        worked_s = max((pulse.last_beat_s for pulse in workers), default=-math.inf)
        found = []
        for pulse in pulses:
            if pulse.excused or (pulse.waits_for_work and at_work):
                continue
            since_s = max(pulse.last_beat_s, worked_s) if pulse.waits_for_work else pulse.last_beat_s
            if now - since_s > patience_s:
                found.append(Stuck(pulse.name, now - since_s))
        return sorted(found, key=lambda one: -one.silent_s)


_of_thread = threading.local()


@contextlib.contextmanager
def a_job(pulse: Pulse) -> Iterator[None]:
    """Works, and `progress` in this thread is the pulse's meanwhile."""
    _of_thread.pulse = pulse
    try:
        with pulse.working():
            yield
    finally:
        _of_thread.pulse = None


def progress() -> None:
    """A step of a job has ended; for what runs in a reconstruction thread, which need not know whose."""
    pulse = getattr(_of_thread, "pulse", None)
    if pulse is not None:
        pulse.beat()
