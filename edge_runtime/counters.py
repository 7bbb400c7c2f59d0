"""Numbers that a process counts, for whoever shows them: metrics, the doctor, a test. They hold nothing about patients."""

from __future__ import annotations

import logging
import threading

log = logging.getLogger(__name__)

Labels = tuple[tuple[str, str], ...]

MOST_SERIES = 1000
"""Names with their labels; more are not counted, and that is logged once."""


class Counters:
    """Counts that only grow, and gauges that are set; from any thread.

    Counts: ``deadline_images`` (``outcome``: met, missed), ``degraded`` (``step``: iterations, precision, classical; ``cause``:
    deadline, heat, engine), ``stages_over_budget`` (``stage``), ``previews_left_out`` (``cause``), ``engine_failures`` and
    ``engines_out_of_service`` (``engine``, ``kind``). Gauges: ``heat_level``, ``hottest_c``.
    """

    def __init__(self) -> None:
        self._values: dict[tuple[str, Labels], float] = {}
        self._counting = threading.Lock()
        self._full_said = False

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Counts."""
        with self._counting:
            key = self._key(name, labels)
            if key is not None:
                self._values[key] = self._values.get(key, 0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Sets a gauge."""
        with self._counting:
            key = self._key(name, labels)
            if key is not None:
                self._values[key] = value

    def value(self, name: str, **labels: str) -> float:
        """Of one series; 0 where nothing was counted."""
        return self._values.get((name, tuple(sorted(labels.items()))), 0)

    def snapshot(self) -> dict[tuple[str, Labels], float]:
        """Every series, by its name and its labels."""
        with self._counting:
            return dict(self._values)

    def _key(self, name: str, labels: dict[str, str]) -> tuple[str, Labels] | None:
        key = name, tuple(sorted(labels.items()))
        if key in self._values or len(self._values) < MOST_SERIES:
            return key
        if not self._full_said:
            self._full_said = True
            log.warning("more than %d counters: %s is not counted", MOST_SERIES, key)
        return None
