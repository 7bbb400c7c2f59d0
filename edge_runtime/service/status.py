"""What a running server says of itself: to its owner by the control socket, to a supervisor by ``/healthz`` and ``/readyz``."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.service.audit_trail import identity_of
from edge_runtime.service.observers import Observer

if TYPE_CHECKING:
    from edge_runtime.links.mrd import MrdServer
    from edge_runtime.report import ScanReport
    from edge_runtime.runtime import Model, Runtime


class Status(Observer):
    """Counts since the start, and looks at the rest when it is asked."""

    def __init__(self, runtime: Runtime, server: MrdServer, version: str) -> None:
        self._runtime = runtime
        self._server = server
        self._version = version
        self._began = time.monotonic()
        self._counting = threading.Lock()
        self._counts: Counter[str] = Counter()

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        runtime, server = self._runtime, self._server
        with self._counting:
            counts = dict(self._counts)
        return {
            "state": "stopping" if server.stopping else "serving",
            "version": self._version,
            "profile": runtime.profile.name,
            "listens": f"{server.host}:{server.port}",
            "uptime_s": round(time.monotonic() - self._began, 1),
            "model": identity_of(runtime.model),
            "sessions": server.sessions,
            "sessions_limit": runtime.profile.sessions,
            "scans": counts.get("scans", 0),
            "readouts": counts.get("readouts", 0),
            "images": counts.get("images", 0),
            "queued_jobs": runtime.pool.jobs_waiting,
            "memory_reserved_mb": runtime.memory.reserved_bytes >> 20,
            "memory_limit_mb": runtime.memory.total_bytes >> 20,
            "stuck": [str(one) for one in runtime.heart.stuck()],
        }

    def unhealthy(self) -> str:
        """Why the process should be started anew; empty where all goes on."""
        return "; ".join(map(str, self._runtime.heart.stuck()))

    def unready(self) -> str:
        """Why a scanner should not come now; empty where one may."""
        if self._server.stopping:
            return "stopping"
        if self._server.sessions >= self._runtime.profile.sessions:
            return f"all {self._runtime.profile.sessions} sessions are taken"
        return self.unhealthy()

    def readouts_received(self, count: int) -> None:
        with self._counting:
            self._counts["readouts"] += count

    def image_made(self, scan_id: str, record: Mapping[str, Any]) -> None:
        with self._counting:
            self._counts["images"] += 1

    def scan_ended(self, report: ScanReport, model: Model | None) -> None:
        with self._counting:
            self._counts["scans"] += bool(report.readouts)


def status_lines(record: Mapping[str, Any]) -> list[str]:
    """The record for people."""
    model = record["model"]
    lines = [
        f"{record['state']} on {record['listens']} for {record['uptime_s']:.0f} s",
        f"runtime   edge-runtime {record['version']}, profile {record['profile']}",
    ]
    if model:
        lines.append(f"model     {model['bundle']} {model['version']} {model['precision']} on {model['engine']}")
        lines.append(f"          SHA-256 {model['digest']}, signed by {model['signed_by']}")
    else:
        lines.append("model     none, classical only")
    lines += [
        f"sessions  {record['sessions']} of {record['sessions_limit']}, {record['queued_jobs']} reconstructions wait",
        f"served    {record['scans']} scans, {record['readouts']} readouts, {record['images']} images",
        f"memory    {record['memory_reserved_mb']} of {record['memory_limit_mb']} MB reserved",
    ]
    if record.get("swap"):
        lines.append(f"swap      {record['swap']}")
    if record.get("audit"):
        lines.append(f"audit     line {record['audit']['sequence']}, SHA-256 {record['audit']['digest']}")
    lines += [f"STUCK     {one}" for one in record["stuck"]]
    return lines
