"""What happened in a scan, and where its time went: kept bounded, and written as ``report.json`` (docs/report.md)."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Stages:
    """Seconds by stage: each moment since the start belongs to the one that ended first after it. The clock never steps back."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._began = self._since = time.monotonic()

    def age_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began

    def ended(self, stage: str) -> None:
        now = time.monotonic()
        self.add(stage, now - self._since)
        self._since = now

    def add(self, stage: str, seconds: float) -> None:
        self._seconds[stage] = self._seconds.get(stage, 0.0) + seconds

    def take(self) -> dict[str, float]:
        """The stages since this was last asked."""
        seconds, self._seconds = self._seconds, {}
        return {stage: round(value, 6) for stage, value in seconds.items()}


@dataclass
class ScanReport:
    """What happened, with times in seconds since the first byte; written as ``report.json``, see docs/report.md."""

    scan_id: str
    started_at: float
    configuration: str = ""
    readouts: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    error: str = ""
    last_readout_s: float = 0.0
    images: list[dict[str, Any]] = field(default_factory=list)
    no_image: list[str] = field(default_factory=list)
    no_preview: list[str] = field(default_factory=list)
    degraded: list[str] = field(default_factory=list)
    earlier: dict[str, int] = field(default_factory=dict)


MOST_ENTRIES = 1000
"""Of a list of the report; a scan may go on for ever. Earlier entries are in files of their own."""


class ReportFolder:
    """Keeps a report's lists bounded and writes it into the scan's folder; entries come from several threads.

    Args:
        report: what is kept.
        folder: of the scan, made when something is written; ``None`` to write nothing.
    """

    def __init__(self, report: ScanReport, folder: Path | None) -> None:
        self._report = report
        self._folder = folder
        self._adding = threading.Lock()

    def add(self, name: str, entry: object) -> None:
        """Adds to a list of the report; one that has grown long goes to a file of its own and begins anew."""
        with self._adding:
            entries: list[object] = getattr(self._report, name)
            if len(entries) == MOST_ENTRIES:
                lines = "".join(json.dumps(earlier) + "\n" for earlier in entries)
                self._write(f"earlier_{name}.jsonl", lambda path: _append(path, lines))
                self._report.earlier[name] = self._report.earlier.get(name, 0) + len(entries)
                entries.clear()
            entries.append(entry)

    def write(self) -> None:
        """Writes ``report.json``; a disk that does not take it is logged."""
        text = json.dumps(asdict(self._report), indent=2) + "\n"
        self._write("report.json", lambda path: _replace(path, text))

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        if self._folder is None:
            return
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
        except OSError as error:
            log.error("%s: could not be written: %s", path, error)


def _replace(path: Path, text: str) -> None:
    partial = Path(f"{path}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
