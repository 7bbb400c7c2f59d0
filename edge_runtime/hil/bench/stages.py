"""Where the server's time went, stage by stage: from its own reports where they lie on this machine, else from its metrics."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_runtime.hil.bench.statistics import quantile

STAGES, READOUTS = "edge_stage_seconds", "edge_readouts_total"
"""Of the server's metrics: see ``docs/service.md``."""

MOST_METRICS_BYTES = 1 << 24
METRICS_TIMEOUT_S = 5.0
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
        """Takes what has been written since the last time: hours of it would fill the disk. What can't be read stays."""
        if self._output is None:
            return
        for path in self._output.glob("*/report.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
                readouts = int(report["readouts"])
                finals = [image["stages_s"] for image in report["images"] if image["completeness"] == "final"]
                seconds = [(str(stage), float(value)) for stages in finals for stage, value in stages.items()]
                self._keep(readouts, seconds)
                shutil.rmtree(path.parent, ignore_errors=True)

    def _keep(self, readouts: int, seconds: list[tuple[str, float]]) -> None:
        self.readouts += readouts
        for stage, value in seconds:
            if math.isfinite(value) and len(kept := self._seconds.setdefault(stage, [])) < MOST_SAMPLES:
                kept.append(value)

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


def parse_metrics_url(text: str) -> str:
    """``http://host:port/metrics``.

    Raises:
        ValueError: something else; files and other schemes are none.
    """
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{text!r}: http://HOST:PORT/metrics")
    return text


def read_metrics(url: str) -> str:
    """The metrics of a server, as text; empty where there are none.

    Args:
        url: ``http://host:port/metrics``; "" for none.
    """
    if not url:
        return ""
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a device is not reached by way of a proxy
    try:
        with straight.open(url, timeout=METRICS_TIMEOUT_S) as answer:
            return str(answer.read(MOST_METRICS_BYTES).decode("utf-8", "replace"))
    except (OSError, HTTPException, ValueError):
        return ""


@dataclass(frozen=True, slots=True)
class Told:
    """What a reading of a server's metrics says, since the server began.

    Attributes:
        stages: sum of seconds and count, by stage.
        readouts: taken in; None where it does not say.
    """

    stages: dict[str, tuple[float, float]]
    readouts: float | None


def told(text: str) -> Told:
    """Parses a Prometheus text; what is none says nothing."""
    from prometheus_client.parser import text_string_to_metric_families

    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    readouts: float | None = None
    with contextlib.suppress(ValueError, KeyError, IndexError, TypeError, AttributeError):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if not math.isfinite(sample.value):
                    continue
                if sample.name == READOUTS:
                    readouts = (readouts or 0.0) + sample.value
                for kind, found in (("sum", sums), ("count", counts)):
                    if sample.name == f"{STAGES}_{kind}" and "stage" in sample.labels:
                        stage = sample.labels["stage"]
                        found[stage] = found.get(stage, 0.0) + sample.value
    return Told({stage: (seconds, counts[stage]) for stage, seconds in sums.items() if stage in counts}, readouts)


def stages_between(before: str, after: str) -> list[Stage]:
    """What was added from one reading of the metrics to another."""
    earlier = told(before).stages
    stages = []
    for name, (seconds, count) in told(after).stages.items():
        seconds_before, count_before = earlier.get(name, (0.0, 0.0))
        if count > count_before:
            more = count - count_before
            stages.append(Stage(name, int(more), 1000 * (seconds - seconds_before) / more, None))
    return stages


def readouts_between(before: str, after: str) -> int | None:
    """Readouts taken in from one reading to another; None where either does not say."""
    first, last = told(before).readouts, told(after).readouts
    return None if first is None or last is None else int(last - first)
