"""Where the server's time went, stage by stage: from its own reports where they lie on this machine, else from its metrics."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.hil.bench.statistics import quantile

METRIC = "edge_stage_seconds"
MOST_METRICS_BYTES = 1 << 24
MOST_SAMPLES = 100_000


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the images of a run.

    Attributes:
        count: of images, or of what the metrics count.
        mean_ms, p90_ms: None where only the mean is known.
    """

    name: str
    count: int
    mean_ms: float
    p90_ms: float | None


class Reports:
    """Collects stages of final images from the folders that a server keeps, and removes folders that are done with.

    Args:
        output: ``--out`` of the server; None where it can't be read.
    """

    def __init__(self, output: Path | None) -> None:
        self._output = output
        self._seconds: dict[str, list[float]] = {}
        self.readouts = 0
        """That the server says it has taken in."""

    def collect(self) -> None:
        """Takes what has been written since the last time: hours of it would fill the disk."""
        if self._output is None:
            return
        for path in self._output.glob("*/report.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                self.readouts += int(report["readouts"])
                for image in report["images"]:
                    if image["completeness"] == "final":
                        for stage, seconds in image["stages_s"].items():
                            kept = self._seconds.setdefault(str(stage), [])
                            if len(kept) < MOST_SAMPLES:
                                kept.append(float(seconds))
            shutil.rmtree(path.parent, ignore_errors=True)

    def forget(self) -> None:
        """What was collected until now belongs to an earlier phase."""
        self.collect()
        self._seconds.clear()
        self.readouts = 0

    def stages(self) -> list[Stage]:
        """None of them where there are no reports."""
        return [
            Stage(name, len(values), 1000 * sum(values) / len(values), 1000 * quantile(values, 0.9).value)
            for name, values in self._seconds.items()
        ]


def read_metrics(url: str, opener: Callable[..., Any] = urllib.request.urlopen) -> str:
    """The metrics of a server, as text; empty where there are none.

    Args:
        url: ``http://host:port/metrics``.
    """
    try:
        with opener(url, timeout=5) as answer:
            return str(answer.read(MOST_METRICS_BYTES).decode("utf-8", "replace"))
    except (OSError, urllib.error.URLError, ValueError):
        return ""


def stage_sums(text: str) -> dict[str, tuple[float, float]]:
    """Sum of seconds and count by stage of a Prometheus text."""
    found: dict[str, dict[str, float]] = {}
    for kind, labels, value in re.findall(rf"^{METRIC}_(sum|count)\{{([^}}]*)\}} ([0-9.eE+-]+)", text, re.MULTILINE):
        stage = re.search(r'stage="([^"]*)"', labels)
        if stage is not None:
            with contextlib.suppress(ValueError):
                kinds = found.setdefault(stage[1], {})
                kinds[kind] = kinds.get(kind, 0.0) + float(value)
    return {stage: (kinds["sum"], kinds["count"]) for stage, kinds in found.items() if len(kinds) == 2}


def stages_between(before: str, after: str) -> list[Stage]:
    """What was added from one reading of the metrics to another."""
    earlier = stage_sums(before)
    stages = []
    for name, (seconds, count) in stage_sums(after).items():
        seconds_before, count_before = earlier.get(name, (0.0, 0.0))
        if count > count_before:
            more = count - count_before
            stages.append(Stage(name, int(more), 1000 * (seconds - seconds_before) / more, None))
    return stages
