"""Hours of the day in which a destination is sent to, in the device's local time."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

_WINDOW = re.compile(r"(?:([A-Za-z,]+) )?([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_DAY_MINUTES = 24 * 60


@dataclass(frozen=True, slots=True)
class TimeWindow:
    """From one minute of the day to another; past midnight where the end comes first, and then it belongs to the day it begins.

    Attributes:
        days: on which it begins, Monday is 0.
        begin, end: minutes since midnight; ``end`` is outside.
    """

    days: frozenset[int]
    begin: int
    end: int

    def contains(self, moment: datetime.datetime) -> bool:
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if self.begin < self.end:
            return day in self.days and self.begin <= minute < self.end
        began_today = day in self.days and minute >= self.begin
        return began_today or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class TimeWindows:
    """Open while any of the windows is; without windows always."""

    windows: tuple[TimeWindow, ...] = ()

    def open_at(self, moment: datetime.datetime) -> bool:
        return not self.windows or any(window.contains(moment) for window in self.windows)


ALWAYS = TimeWindows()


def parse_windows(texts: Sequence[str]) -> TimeWindows:
    """Windows from texts such as ``22:00-06:00`` or ``Sat,Sun 00:00-24:00``.

    Raises:
        ValueError: says what is expected.
    """
    return TimeWindows(tuple(_window(text) for text in texts))


def _window(text: str) -> TimeWindow:
    expected = "windows such as '22:00-06:00' or 'Sat,Sun 00:00-24:00'"
    found = _WINDOW.fullmatch(text)
    if found is None:
        raise ValueError(expected)
    names = found[1].split(",") if found[1] else DAYS
    if not set(names) <= set(DAYS):
        raise ValueError(f"{expected}; days are {', '.join(DAYS)}")
    begin, end = (int(found[i]) * 60 + int(found[i + 1]) for i in (2, 4))
    if int(found[3]) > 59 or int(found[5]) > 59 or begin >= _DAY_MINUTES or end > _DAY_MINUTES or begin == end:
        raise ValueError(f"{expected}, from 00:00 to 24:00 and not empty")
    return TimeWindow(frozenset(DAYS.index(name) for name in names), begin, end)
