"""Readings of the server's machine during a run, as they come from `edge_runtime.hil.bench.watch`, and what they come to."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from types import TracebackType
from typing import IO, Any

from edge_runtime.hil.bench.sensors import Reading

START_TIMEOUT_S = 10.0
"""For which a run waits for its first reading."""

MOST_LINE_BYTES = 1 << 18

MOST_READINGS = 20_000
"""Then every second one is forgotten, and from then on every second one kept."""


@dataclass(frozen=True, slots=True)
class Sensed:
    """What the server's machine told.

    Attributes:
        machine: what it is; empty where nobody could ask.
        process: whether the server's own process was found there.
        readings: each with ``at_s`` since the run's beginning.
    """

    machine: dict[str, Any]
    process: bool
    readings: tuple[dict[str, Any], ...]

    def between(self, first_s: float, last_s: float) -> list[dict[str, Any]]:
        """Readings of a part of the run."""
        return [one for one in self.readings if first_s <= one["at_s"] <= last_s]


NOTHING_SENSED = Sensed({}, False, ())


class Watcher:
    """Collects readings until it is closed.

    Args:
        command: that prints them; None where nobody can ask.
        zero_s: the run's beginning, by `time.perf_counter`.
    """

    def __init__(self, command: Sequence[str] | None, zero_s: float) -> None:
        self._zero_s = zero_s
        self._machine: dict[str, Any] = {}
        self._found = False
        self._readings: list[dict[str, Any]] = []
        self._skip, self._counted = 1, 0
        self._begun = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        if command is not None:
            with contextlib.suppress(OSError):
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        self._thread = threading.Thread(target=self._read, name="bench-watcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def await_first(self) -> None:
        """Until there is a reading, or it is clear that there will be none; not for longer than `START_TIMEOUT_S`."""
        self._begun.wait(START_TIMEOUT_S)

    def _read(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._read_lines(self._process.stdout)
        self._begun.set()

    def _read_lines(self, stream: IO[bytes]) -> None:
        while line := stream.readline(MOST_LINE_BYTES):
            now = time.perf_counter() - self._zero_s
            with contextlib.suppress(ValueError, TypeError, KeyError):
                said = dict(json.loads(line))
                if "machine" in said:
                    self._machine, self._found = dict(said["machine"]), said["process"] is not None
                    continue
                self._counted += 1
                if self._counted % self._skip == 0:
                    self._readings.append(checked_reading(said, now))
                    self._begun.set()
                if len(self._readings) > MOST_READINGS:
                    self._readings, self._skip = self._readings[::2], 2 * self._skip

    def close(self) -> None:
        """Ends it; what was read stays."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def sensed(self) -> Sensed:
        """What was read until now."""
        return Sensed(self._machine, self._found, tuple(self._readings))


def checked_reading(said: dict[str, Any], now_s: float) -> dict[str, Any]:
    """A reading with all of its keys; what is no finite number was not measured.

    Args:
        said: `edge_runtime.hil.bench.sensors.Reading` and ``tegrastats``, as another machine tells them.
        now_s: since the run's beginning: its ``at_s``; that of the machine's own clock becomes ``clock_s``.

    Raises:
        KeyError, TypeError, ValueError: it is no reading.
    """
    reading: dict[str, Any] = {name: _number_or_none(said.get(name)) for name in (one.name for one in fields(Reading))}
    for name in ("temperatures_c", "power_w", "tegrastats"):
        numbers = ((str(key), _number_or_none(value)) for key, value in dict(said.get(name) or {}).items())
        reading[name] = {key: value for key, value in numbers if value is not None}
    if reading["at_s"] is None:
        raise ValueError("a reading without its time")
    return {**reading, "clock_s": reading["at_s"], "at_s": now_s}


def _number_or_none(value: Any) -> float | None:
    return value if type(value) in (int, float) and math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Usage:
    """What the server and its machine did in a part of the run; None: not measured.

    Attributes:
        cpu_cores: processors that the server kept busy, mean.
        waited_share: of the time for which one of its threads was ready and had no processor, per second of the run.
        throttled_share: of the periods of its control group's CPU limit in which it was held up.
        resident_mb: the most.
        temperature_c, clock_mhz: the highest, and the lowest mean of all processors.
        power_w: mean by rail.
        load: highest.
    """

    cpu_cores: float | None = None
    waited_share: float | None = None
    throttled_share: float | None = None
    throttled_s: float | None = None
    quota_cores: float | None = None
    resident_mb: float | None = None
    temperature_c: float | None = None
    clock_mhz: float | None = None
    power_w: dict[str, float] | None = None
    load: float | None = None


def usage(readings: Sequence[dict[str, Any]]) -> Usage:
    """Of readings in order."""
    if not readings:
        return Usage()
    seconds = readings[-1]["clock_s"] - readings[0]["clock_s"]
    gained = _gained(readings)
    periods, throttled = gained("periods"), gained("throttled_periods")
    rails: dict[str, list[float]] = {}
    for one in readings:
        stats = {name: value for name, value in one.get("tegrastats", {}).items() if name.endswith("_w")}
        for name, value in {**one["power_w"], **stats}.items():
            rails.setdefault(name, []).append(value)

    def rate(name: str) -> float | None:
        value = gained(name)
        return None if value is None or seconds <= 0 else value / seconds

    def values(name: str) -> list[float]:
        return [one[name] for one in readings if one[name] is not None]

    hottest = [max(one["temperatures_c"].values()) for one in readings if one["temperatures_c"]]
    return Usage(
        cpu_cores=rate("cpu_s"),
        waited_share=rate("waited_s"),
        throttled_share=throttled / periods if periods and throttled is not None else None,
        throttled_s=gained("throttled_s"),
        quota_cores=readings[-1]["quota_cores"],
        resident_mb=max(values("resident_mb"), default=None),
        temperature_c=max(hottest, default=None),
        clock_mhz=min(values("clock_mhz"), default=None),
        power_w={name: sum(one) / len(one) for name, one in rails.items()} or None,
        load=max(values("load"), default=None),
    )


def _gained(readings: Sequence[dict[str, Any]]) -> Callable[[str], float | None]:
    def gained(name: str) -> float | None:
        known = [one[name] for one in readings if one[name] is not None]
        return known[-1] - known[0] if len(known) > 1 else None

    return gained
