"""What a server counts and times, for Prometheus (docs/service.md names every metric).

Labels hold no identity of a scan, and values of a handful: their number is bounded whatever scanners send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.scan import Completeness
from edge_runtime.service.observers import Observer

if TYPE_CHECKING:
    from edge_runtime.report import ScanReport
    from edge_runtime.runtime import Model, Runtime

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histograms' buckets."""

MOST_VALUES = 24
"""Of a label whose values are not counted by an enumeration; those beyond are ``other``."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Bounded:
    """Values of a label, the first few by name."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._adding = threading.Lock()

    def __call__(self, value: str) -> str:
        with self._adding:
            if value not in self._known and len(self._known) >= MOST_VALUES:
                return "other"
            self._known.add(value)
            return value


class _State(Collector):
    """What is so at the moment it is asked for."""

    def __init__(self, gauges: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(name, text, value=value())


class Metrics(Observer):
    """Counts what a runtime tells.

    Args:
        sessions: how many connections are open.
        stuck: how many threads make no progress.
    """

    def __init__(self, runtime: Runtime, version: str, sessions: Callable[[], int], stuck: Callable[[], int]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, that nobody asks for
        self._registry = registry = CollectorRegistry()
        self._step, self._stage, self._kind, self._missed = _Bounded(), _Bounded(), _Bounded(), _Bounded()
        ProcessCollector(registry=registry)
        self._begun = Counter("edge_scans_begun", "Scans whose header was accepted", registry=registry)
        self._scans = Counter("edge_scans", "Scans that have ended", ["outcome"], registry=registry)
        for outcome in ("complete", "ended_early", "refused"):
            self._scans.labels(outcome)
        self._readouts = Counter("edge_readouts", "Readouts taken in", registry=registry)
        self._images = Counter("edge_images", "Images sent", ["method", "completeness"], registry=registry)
        self._no_images = Counter("edge_no_image", "Slices or scans of which no image could be made", registry=registry)
        self._latency = Histogram(
            "edge_last_readout_to_image_seconds",
            "From the last readout of a slice to its final image, queued to be sent",
            ["method"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "edge_stage_seconds", "Time in a stage of an image (docs/report.md)", ["stage"], buckets=SECONDS, registry=registry
        )  # fmt: skip
        self._degradations = Counter("edge_degradations", "Steps of degradation taken", ["step"], registry=registry)
        self._deadlines = Counter(
            "edge_deadline_misses", "Stages that took longer than their budget", ["stage"], registry=registry
        )
        self._errors = Counter("edge_errors", "What failed in scans, by the error's class", ["kind"], registry=registry)
        self._quarantines = Counter(
            "edge_quarantines", "Engines that were put out of use", ["engine"], registry=registry
        )
        self._swaps = Counter("edge_model_changes", "Swaps and roll-backs of the model", registry=registry)
        self._refused = Counter("edge_swaps_refused", "Bundles that were not taken into use", registry=registry)
        build = Gauge(
            "edge_build_info", "Version and hardware profile; always 1", ["version", "profile"], registry=registry
        )
        build.labels(version, runtime.profile.name).set(1)
        self._model = Gauge(
            "edge_model_info",
            "The model that scans take which begin now; always 1",
            ["bundle", "version", "digest", "precision", "engine"], registry=registry,
        )  # fmt: skip
        self._show_model(runtime.model)
        memory, pool, heart_stuck = runtime.memory, runtime.pool, stuck
        registry.register(
            _State(
                {
                    "edge_sessions": ("Connections that are open", sessions),
                    "edge_sessions_limit": ("Connections that may be", lambda: runtime.profile.sessions),
                    "edge_reconstruction_queue_jobs": ("Jobs that wait for a thread", lambda: pool.jobs_waiting),
                    "edge_memory_reserved_bytes": ("Memory that scans hold", lambda: memory.reserved_bytes),
                    "edge_memory_limit_bytes": ("Memory that all scans may hold", lambda: memory.total_bytes),
                    "edge_threads_stuck": ("Threads that make no progress", heart_stuck),
                }
            )
        )

    def exposition(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)

    def scan_begun(self, scan_id: str, configuration: str, model: Model | None) -> None:
        self._begun.inc()

    def readouts_received(self, count: int) -> None:
        self._readouts.inc(count)

    def image_made(self, scan_id: str, record: Mapping[str, Any]) -> None:
        method, completeness = record["method"], record["completeness"]
        self._images.labels(method, completeness).inc()
        if completeness == Completeness.FINAL.value:
            self._latency.labels(method).observe(record["latency_s"])
        for stage, seconds in record["stages_s"].items():
            self._stages.labels(self._stage(stage)).observe(seconds)

    def failed(self, scan_id: str, model: Model | None, error: Exception) -> None:
        kind = type(error).__name__ if isinstance(error, EdgeRuntimeError) else "internal"
        self._errors.labels(self._kind(kind)).inc()

    def scan_ended(self, report: ScanReport, model: Model | None) -> None:
        self._scans.labels(outcome_of(report)).inc()
        self._no_images.inc(len(report.no_image))

    def degraded(self, scan_id: str, step: str) -> None:
        self._degradations.labels(self._step(step)).inc()

    def deadline_missed(self, scan_id: str, stage: str) -> None:
        self._deadlines.labels(self._missed(stage)).inc()

    def quarantined(self, engine: str, precision: str, why: str) -> None:
        self._quarantines.labels(self._kind(engine)).inc()

    def model_changed(self, model: Model, before: Model, why: str) -> None:
        self._swaps.inc()
        self._show_model(model)

    def swap_refused(self, bundle_digest: str, why: str) -> None:
        self._refused.inc()

    def _show_model(self, model: Model | None) -> None:
        self._model.clear()
        if model is not None:
            bundle = model.bundle
            self._model.labels(bundle.name, bundle.version, bundle.digest, model.precision, model.engine).set(1)


def outcome_of(report: ScanReport) -> str:
    """``refused``: nothing of it was measured here; ``ended_early``: an error, the rest was saved; else ``complete``."""
    if report.error:
        return "ended_early" if report.readouts else "refused"
    return "complete" if report.readouts else "refused"
