"""Ten scanners at once on one small computer: whether any readout or image is lost, and how long images take."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.brain_phantom import Phantom, phantom
from benchmarks.records import Record, summarise
from benchmarks.server import RunningServer, serving
from edge_runtime.hil.player import PlaybackError, play
from edge_runtime.links.mrd_pack import parse_meta_attributes
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.scan import Completeness, Method

SCANNERS = 10
CORES = 2
SCANS = 10
"""Of each scanner, one after another."""

REPETITION_TIME_MS = 100.0
"""Of a scan at low field: an image every six seconds and a half from each scanner."""

METHODS = (Method.LEARNED, Method.CLASSICAL)


@dataclass
class _Scanner:
    """What one scanner sent and got.

    Attributes:
        lateness_ms: the largest of its own readouts: how well the machine kept the scanner's time.
    """

    readouts_sent: int = 0
    images: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    lateness_ms: float = 0.0
    failures: list[str] = field(default_factory=list)


def load(quick: bool) -> list[Record]:
    """The scanners are threads of this process; it and the server's share two cores."""
    scans = 1 if quick else SCANS
    repetition_time_ms = 10.0 if quick else REPETITION_TIME_MS
    scan = phantom()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:CORES]))  # what is started from here inherits it
    try:
        with serving() as server:
            scanners = _play_all(server, scan, scans, repetition_time_ms)
            reports = server.reports()
    finally:
        os.sched_setaffinity(0, before)
    sent = sum(one.readouts_sent for one in scanners)
    due = SCANNERS * scans * scan.recording.readout_count
    arrived = sum(report["readouts"] for report in reports)
    images_due = SCANNERS * scans * len(METHODS)
    images = sum(one.images for one in scanners)
    latencies_ms = [latency for one in scanners for latency in one.latencies_ms]
    degraded = sum(
        bool(image["provenance"].get("degraded"))
        for report in reports
        for image in report["images"]
        if image["completeness"] == Completeness.FINAL.value and image["method"] == Method.LEARNED.value
    )
    how = (
        f"{SCANNERS} simulated scanners at once, {scans} scans each of 256 x 256, 8 coils, R = 4, a line every "
        f"{repetition_time_ms:g} ms, begun at random within the first scan; scanners and server share {CORES} cores; the server's "
        f"default options: previews, learned and classical images, DICOM; {sent} of {due} readouts sent, {arrived} taken in, "
        f"{images} of {images_due} final images delivered, {degraded} of the learned ones made with less work; readouts left at "
        f"most {max(one.lateness_ms for one in scanners):.0f} ms late"
    )
    for failure in sorted({failure for one in scanners for failure in one.failures}):
        how += f"; {failure}"
    threads = load_profile(DEFAULT_PROFILE).threads
    if not latencies_ms:
        raise RuntimeError(f"no image came: {how}")

    def record(name: str, samples: Sequence[float], unit: str, target: float | None, note: str) -> Record:
        return summarise(
            f"load.ten_scanners.{name}", samples, unit=unit, better="lower", threads=threads, target=target, note=note
        )

    p99_ms = float(np.percentile(latencies_ms, 99))
    latency = f"last readout's hand-over to the socket to the learned image at the scanner, of {len(latencies_ms)} images; {how}"
    return [
        record("readouts_lost", [float(due - arrived)], "readouts", 0.0, how),
        record("images_lost", [float(images_due - images)], "images", 0.0, how),
        record("p99_ms", [p99_ms], "ms", None, f"99th percentile: {latency}"),
        record("median_ms", latencies_ms, "ms", None, f"median: {latency}"),
    ]


def _play_all(server: RunningServer, scan: Phantom, scans: int, repetition_time_ms: float) -> list[_Scanner]:
    rng = np.random.default_rng(1)
    scan_s = scan.recording.readout_count * repetition_time_ms / 1000
    scanners = [_Scanner() for _ in range(SCANNERS)]
    go = threading.Event()

    def work(one: _Scanner, delay_s: float) -> None:
        go.wait()
        threading.Event().wait(delay_s)
        for _ in range(scans):
            _play(server, scan, repetition_time_ms, one)

    delays_s = rng.uniform(0, scan_s, SCANNERS)
    threads = [
        threading.Thread(target=work, args=(one, delay_s)) for one, delay_s in zip(scanners, delays_s, strict=True)
    ]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join()
    return scanners


def _play(server: RunningServer, scan: Phantom, repetition_time_ms: float, into: _Scanner) -> None:
    try:
        result = play(scan.recording, server.host, server.port, repetition_time_ms=repetition_time_ms)
    except PlaybackError as error:
        into.failures.append(str(error))
        if error.result is None:
            return
        result = error.result
    into.readouts_sent += result.readouts_sent
    into.lateness_ms = max(into.lateness_ms, result.pacing.max_lateness_ms)
    for image in result.images:
        said = parse_meta_attributes(image.message.attributes)
        method, completeness = said["EdgeMethod"][0], said["EdgeCompleteness"][0]
        if completeness == Completeness.FINAL.value and method in {one.value for one in METHODS}:
            into.images += 1
            if method == Method.LEARNED.value:
                into.latencies_ms.append(1e3 * image.since_last_readout_s)
