"""Writes what a runtime tells into the audit log: what ran with what, and what came of it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EdgeRuntimeError
from edge_runtime.scan import Completeness
from edge_runtime.service.audit import AuditLog
from edge_runtime.service.observers import Observer

if TYPE_CHECKING:
    from edge_runtime.report import ScanReport
    from edge_runtime.runtime import Model, Runtime


def identity_of(model: Model | None) -> dict[str, str] | None:
    """Of a model, for the log; ``None`` where there is none."""
    if model is None:
        return None
    name, key_id = model.bundle.signed_by
    return {
        "bundle": model.bundle.name,
        "version": model.bundle.version,
        "digest": model.bundle.digest,
        "precision": model.precision,
        "engine": model.engine,
        "signed_by": name,
        "key": key_id,
        "override": model.bundle.override.reason if model.bundle.override else "",
    }


class AuditTrail(Observer):
    """Begins with ``start`` and ends with ``stop``."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._of_scans: dict[str, tuple[Counter[str], set[str]]] = {}
        self._changing = threading.Lock()

    def started(self, runtime: Runtime, version: str, versions: Mapping[str, str]) -> None:
        """The server listens."""
        profile, model = runtime.profile, identity_of(runtime.model)
        self._log.write("start", runtime=version, versions=dict(versions), profile=profile.name, model=model)

    def stopped(self, why: str) -> None:
        self._log.write("stop", reason=why)

    def scan_begun(self, scan_id: str, configuration: str, model: Model | None) -> None:
        with self._changing:
            self._of_scans[scan_id] = (Counter(), set())
        self._log.write("scan_begun", scan=scan_id, configuration=configuration, model=identity_of(model))

    def image_made(self, scan_id: str, record: Mapping[str, Any]) -> None:
        with self._changing:
            if scan_id in self._of_scans and record["completeness"] != Completeness.PREVIEW.value:
                self._of_scans[scan_id][0][f"{record['method']} {record['completeness']}"] += 1

    def failed(self, scan_id: str, model: Model | None, error: Exception) -> None:
        with self._changing:
            if scan_id in self._of_scans:
                kind = type(error).__name__ if isinstance(error, EdgeRuntimeError) else "internal"
                self._of_scans[scan_id][1].add(kind)

    def scan_ended(self, report: ScanReport, model: Model | None) -> None:
        with self._changing:
            known = self._of_scans.pop(report.scan_id, None)
        if known is None:  # a connection that never became a scan
            return
        images, errors = known
        self._log.write(
            "scan_ended",
            scan=report.scan_id,
            outcome="ended_early" if report.error else "complete",
            readouts=report.readouts,
            images=dict(images),
            no_image=len(report.no_image),
            errors=sorted(errors),
        )

    def degraded(self, scan_id: str, step: str) -> None:
        self._log.write("degraded", scan=scan_id, step=step)

    def quarantined(self, engine: str, precision: str, why: str) -> None:
        self._log.write("quarantined", engine=engine, precision=precision, reason=why)

    def model_changed(self, model: Model, before: Model, why: str) -> None:
        event = "swap" if why == "swap" else "roll_back"
        self._log.write(event, model=identity_of(model), before=identity_of(before), reason=why)

    def swap_refused(self, bundle_digest: str, why: str) -> None:
        self._log.write("swap_refused", digest=bundle_digest, reason=why)
