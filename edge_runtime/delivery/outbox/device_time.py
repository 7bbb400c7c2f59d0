"""Time that nobody can set: leases, waits and ages are counted in it, so that a clock that is wrong by a year changes nothing.

Device time is how long the device has been running since its outbox was made. Within a boot it follows CLOCK_BOOTTIME, which
steps neither back nor forth; a new boot goes on where the outbox last wrote. Time without power does not count. The time of day is
used for two things only: to be shown to people, and for the hours in which a destination is sent to.
"""

from __future__ import annotations

import datetime
import sqlite3
import threading
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Where time comes from; tests have their own."""

    def boot(self) -> str:
        """Identifies the boot that `running_s` belongs to."""

    def running_s(self) -> float:
        """Seconds since the boot."""

    def local(self) -> datetime.datetime:
        """The time of day, as the device believes it to be, with its offset."""

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Waits for an event, at most so long; whether it came."""


class SystemClock:
    """This machine's."""

    def boot(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    def running_s(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def local(self) -> datetime.datetime:
        return datetime.datetime.now().astimezone()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)


class DeviceTime:
    """Device time as an outbox keeps it.

    Args:
        clock: of this boot.
        database: of the outbox, within a transaction.
    """

    def __init__(self, clock: Clock, database: sqlite3.Connection) -> None:
        self.clock = clock
        boot, running = clock.boot(), clock.running_s()
        row = database.execute("SELECT boot, offset_s, seen_s FROM device_time").fetchone()
        if row is not None and row[0] == boot:
            self._offset_s = float(row[1])
            return
        self._offset_s = (0.0 if row is None else float(row[2])) - running
        database.execute("DELETE FROM device_time")
        database.execute("INSERT INTO device_time VALUES (?, ?, ?)", (boot, self._offset_s, running + self._offset_s))

    def now_s(self) -> float:
        """Seconds of device time."""
        return self.clock.running_s() + self._offset_s

    def keep(self, database: sqlite3.Connection) -> None:
        """Writes down how late it is, for the next boot."""
        database.execute("UPDATE device_time SET seen_s = MAX(seen_s, ?)", (self.now_s(),))
