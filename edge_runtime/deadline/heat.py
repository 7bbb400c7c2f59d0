"""Heat and power: how far work is lowered so that the device does not slow itself down, and when it is raised again."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from edge_runtime.counters import Counters
from edge_runtime.deadline.policy import Thermal
from edge_runtime.machine import power_mode, temperatures_c, throttlings, undervoltage

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reading:
    """What the device says of itself.

    Attributes:
        hottest_c: of all sensors; ``None`` where there is none.
        throttled: it has slowed itself down since the last reading, or its supply is too weak.
    """

    hottest_c: float | None
    throttled: bool = False

    def __str__(self) -> str:
        degrees = "" if self.hottest_c is None else f"{self.hottest_c:.0f} C"
        slowed = "it has slowed itself down" if self.throttled else ""
        return ", ".join(part for part in (degrees, slowed) if part)


@dataclass(frozen=True, slots=True)
class Heat:
    """How far work is lowered.

    Attributes:
        level: 0 not at all; from 1 on no previews, from 2 on one step after the other.
        changed_s: when the level last changed, on a clock that never steps back.
        hot_s: when it was last hot.
        why: what was read when the level last rose.
    """

    level: int = 0
    changed_s: float = -math.inf
    hot_s: float = -math.inf
    why: str = ""

    @property
    def floor(self) -> int:
        """Index of the step that is the most work."""
        return max(0, self.level - 1)


def after_reading(heat: Heat, now_s: float, reading: Reading, thermal: Thermal, most: int) -> Heat:
    """One level more while it is hot, one less when it has cooled down for a while; in between nothing changes.

    Args:
        most: of levels.
    """
    degrees = -math.inf if reading.hottest_c is None else reading.hottest_c
    urgent = reading.throttled or degrees >= thermal.throttles_c
    if urgent or degrees >= thermal.lower_at_c:
        if heat.level < most and (urgent or heat.level == 0 or now_s - heat.changed_s >= thermal.hold_s):
            return Heat(heat.level + 1, now_s, now_s, str(reading))
        return replace(heat, hot_s=now_s)
    cool_since_s = max(heat.changed_s, heat.hot_s)
    if degrees <= thermal.recover_at_c and heat.level > 0 and now_s - cool_since_s >= thermal.cool_s:
        return replace(heat, level=heat.level - 1, changed_s=now_s)
    return heat


class HeatWatch:
    """Looks at the device now and then, in a thread of its own, from `start` to `stop`.

    Args:
        most: of levels.
        on_power_mode: is told when a Jetson's power mode has changed: what was measured before was another device.
        root: where ``/sys`` and the like are.
    """

    def __init__(
        self,
        thermal: Thermal,
        counters: Counters,
        most: int,
        on_power_mode: Callable[[], None],
        root: Path = Path("/"),
    ) -> None:
        self._thermal, self._counters, self._most, self._root = thermal, counters, most, root
        self._on_power_mode = on_power_mode
        self._throttlings = throttlings(root)
        self._power_mode = power_mode(root)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heat", daemon=True)
        self.heat = Heat()

    def start(self) -> None:
        """Looks for the first time, and goes on."""
        self.look()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Reads the sensors once."""
        count = throttlings(self._root)
        degrees = max(temperatures_c(self._root).values(), default=None)
        reading = Reading(degrees, count > self._throttlings or undervoltage(self._root))
        self._throttlings = count
        before, self.heat = (
            self.heat,
            after_reading(self.heat, time.monotonic(), reading, self._thermal, self._most),
        )
        if degrees is not None:
            self._counters.set("hottest_c", degrees)
        self._counters.set("heat_level", self.heat.level)
        if self.heat.level != before.level:
            word = "lowered" if self.heat.level > before.level else "raised"
            log.warning("work is %s to heat level %d: %s", word, self.heat.level, reading or "no sensor says anything")
        mode = power_mode(self._root)
        if mode != self._power_mode:
            log.warning("power mode is %s, it was %s: times are measured anew", mode, self._power_mode)
            self._power_mode = mode
            self._on_power_mode()

    def _work(self) -> None:
        while not self._ending.wait(self._thermal.poll_s):
            try:
                self.look()
            except Exception:  # a sensor that surprises us must not end the watch
                log.exception("sensors can't be read")
