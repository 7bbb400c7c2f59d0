"""Figures of a run, made of what its scanners saw."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_runtime.hil.bench.golden import Difference, Golden
from edge_runtime.hil.bench.protocol import ScanStep
from edge_runtime.hil.bench.record import ImageSeen, ScanSeen
from edge_runtime.hil.bench.scanner import FINAL, PREVIEW, UNNAMED
from edge_runtime.hil.bench.statistics import (
    EarlyStopping,
    Quantile,
    Share,
    autocorrelation,
    early_stopping,
    quantile,
    share,
)
from edge_runtime.hil.bench.wire import Key

QUANTILES = (0.5, 0.9, 0.99, 0.999)
STOPPING = (0.9, 0.99, 0.999)


@dataclass(frozen=True, slots=True)
class Latency:
    """Latencies in the order in which they were measured, and what they come to.

    Attributes:
        at_s: since the run's beginning, of each.
        samples_ms: as many.
        quantiles: with bounds, see `edge_runtime.hil.bench.statistics`.
        longest_ms: None without samples.
        stopping: MLPerf's estimates.
        autocorrelation: of one with the next.
    """

    at_s: tuple[float, ...]
    samples_ms: tuple[float, ...]
    quantiles: tuple[Quantile, ...] = ()
    longest_ms: float | None = None
    stopping: tuple[EarlyStopping, ...] = ()
    autocorrelation: float = 0.0


def latency(timed: Sequence[tuple[float, float]]) -> Latency:
    """Of ``(when, milliseconds)``."""
    ordered = sorted(timed)
    at, samples = tuple(when for when, _ in ordered), tuple(value for _, value in ordered)
    if not samples:
        return Latency((), ())
    return Latency(
        at,
        samples,
        tuple(quantile(samples, p) for p in QUANTILES),
        max(samples),
        tuple(early_stopping(samples, p) for p in STOPPING),
        autocorrelation(samples),
    )


@dataclass(frozen=True, slots=True)
class Pacing:
    """How well the simulated scanners kept their own time; lateness that the server caused is not in it.

    Attributes:
        readouts: that were timed.
        p50_ms, p99_ms, longest_ms: by which readouts left late.
        held_up_s: longest time for which a server took nothing.
        overruns: scans whose answer outlasted the pause after them, so that the next one had to wait for the server.
        pace: share of the protocol's at which scans began, by each scanner's first and last.
    """

    readouts: int
    p50_ms: float
    p99_ms: float
    longest_ms: float
    held_up_s: float
    overruns: int
    pace: float


@dataclass(frozen=True, slots=True)
class Quality:
    """Images under load against the golden ones.

    Attributes:
        compared, identical: how many; identical to the last bit.
        nrmse, largest: of the worst; None where none were compared.
        worst: which that is; "" where all are identical.
        differing: how many are not identical, by method.
        uncompared: images that the deadlines are about and that had no golden one.
    """

    compared: int
    identical: int
    nrmse: float | None
    largest: float | None
    worst: str = ""
    differing: dict[str, int] = field(default_factory=dict)
    uncompared: int = 0


@dataclass(frozen=True, slots=True)
class Measures:
    """Figures of a run.

    Attributes:
        image: last readout to the image that the deadlines are about, all steps together.
        steps: the same, by step.
        methods: last readout to image, by method.
        preview: first readout to the scan's first preview.
        misses: images that came after their deadline or never, of those with one; None where no step has one.
        lost: images that never came, as text, the first of them.
        scans, completed: that began and that the server answered in full.
        scanners: with at least one scan that was answered in full.
        attempts_cut: connections that ended early.
        errors: what scanners saw otherwise, with its number.
        seconds: from the first scan's beginning to the last one's end.
        bundles: digests of the models that made the images.
    """

    image: Latency
    steps: dict[str, Latency]
    methods: dict[str, Latency]
    preview: Latency
    misses: Share | None
    images_expected: int
    images_lost: int
    lost: tuple[str, ...]
    scans: int
    completed: int
    scanners: int
    attempts_cut: int
    readouts: int
    errors: dict[str, int]
    pacing: Pacing
    quality: Quality
    seconds: float
    bundles: tuple[str, ...] = field(default=())

    @property
    def scans_per_minute(self) -> float:
        return 60 * self.completed / self.seconds if self.seconds > 0 else 0.0


MOST_NAMED = 20


def measure(
    played: Sequence[ScanSeen], steps: Sequence[ScanStep], golden: Golden, spool: Path, since_s: float = -math.inf
) -> Measures:
    """Figures of what scanners saw; attempts at one scan count as one.

    Args:
        since_s: scans that began before count only by their readouts, which the server took in.
    """
    before = {(scan.scanner, scan.number) for scan in played if scan.started_s < since_s}
    scans = [scan for scan in played if (scan.scanner, scan.number) not in before]
    by_name = {step.name: step for step in steps}
    named = any(image.method != UNNAMED for scan in scans for image in scan.images)
    everything: list[tuple[float, float]] = []
    by_step: dict[str, list[tuple[float, float]]] = {step.name: [] for step in steps}
    by_method: dict[str, list[tuple[float, float]]] = defaultdict(list)
    previews: list[tuple[float, float]] = []
    lost: list[str] = []
    scanners: set[int] = set()
    errors: dict[str, int] = defaultdict(int)
    expected = missing = late = with_deadline = completed = cut = uncompared = 0
    compared: list[tuple[Difference, str, str]] = []
    for attempts in _by_scan(scans):
        step, last = by_name[attempts[-1].name], attempts[-1]
        wanted = step.image if named else UNNAMED
        cut += sum(1 for one in attempts if one.error)
        for one in attempts:
            for text in [
                *([one.error] if one.error else []),
                *(t for t in one.texts if t.startswith(("error:", "no image:"))),
            ]:
                errors[text[:200]] += 1
        if last.closed and not last.error:
            completed += 1
            scanners.add(last.scanner)
        finals = _finals(last)
        first = [image.since_start_s for image in last.images if image.completeness == PREVIEW]
        if first:
            previews.append((last.started_s + min(first), 1000 * min(first)))
        for (method, key), image in finals.items():
            sample = (last.started_s + image.since_start_s, 1000 * image.since_last_readout_s)
            by_method[method].append(sample)
            difference = golden.difference((step.name, method, key), image, spool)
            if difference is not None:
                compared.append((difference, method, f"{step.name}, {method}, {key}"))
        # What a scan that was never sent whole owes is counted, too: nothing may be lost.
        for key in last.expected:
            expected += 1
            with_deadline += step.deadline_ms is not None
            image_seen = finals.get((wanted, key))
            if image_seen is None:
                missing += 1
                late += step.deadline_ms is not None
                lost.append(f"scanner {last.scanner}, scan {last.number} ({step.name}), {key}: no {wanted} image")
                continue
            sample = (last.started_s + image_seen.since_start_s, 1000 * image_seen.since_last_readout_s)
            everything.append(sample)
            uncompared += (step.name, wanted, key) not in golden.pictures
            by_step[step.name].append(sample)
            late += step.deadline_ms is not None and sample[1] > step.deadline_ms
    began = min((scan.started_s for scan in scans), default=0.0)
    ended = max((scan.started_s + scan.duration_s for scan in scans), default=0.0)
    return Measures(
        image=latency(everything),
        steps={name: latency(samples) for name, samples in by_step.items()},
        methods={name: latency(samples) for name, samples in sorted(by_method.items())},
        preview=latency(previews),
        misses=share(late, with_deadline) if with_deadline else None,
        images_expected=expected,
        images_lost=missing,
        lost=tuple(lost[:MOST_NAMED]),
        scans=len({(scan.scanner, scan.number) for scan in scans}),
        completed=completed,
        scanners=len(scanners),
        attempts_cut=cut,
        readouts=sum(scan.sent for scan in played),
        errors=dict(errors),
        pacing=_pacing(scans),
        quality=_quality(compared, uncompared),
        seconds=ended - began,
        bundles=tuple(sorted({image.bundle for scan in scans for image in scan.images if image.bundle})),
    )


def _quality(compared: Sequence[tuple[Difference, str, str]], uncompared: int) -> Quality:
    """Of images: how each differs, its method, and what it is called."""
    if not compared:
        return Quality(0, 0, None, None, uncompared=uncompared)
    differing = Counter(method for difference, method, _ in compared if difference.largest != 0.0)
    worst, _, name = max(compared, key=lambda one: (one[0].nrmse, one[0].largest))
    identical = len(compared) - sum(differing.values())
    return Quality(
        len(compared),
        identical,
        worst.nrmse,
        worst.largest,
        name if differing else "",
        dict(differing),
        uncompared,
    )


def _by_scan(scans: Sequence[ScanSeen]) -> list[list[ScanSeen]]:
    grouped: dict[tuple[int, int], list[ScanSeen]] = defaultdict(list)
    for scan in scans:
        grouped[scan.scanner, scan.number].append(scan)
    return [sorted(attempts, key=lambda one: one.attempt) for attempts in grouped.values()]


def _finals(scan: ScanSeen) -> dict[tuple[str, Key], ImageSeen]:
    """The first final image of each method and counters."""
    found: dict[tuple[str, Key], ImageSeen] = {}
    for image in scan.images:
        if image.completeness == FINAL:
            found.setdefault((image.method, image.key), image)
    return found


def _pacing(scans: Sequence[ScanSeen]) -> Pacing:
    late = [value / 1000 for scan in scans for value in scan.lateness_us]
    held_up = max((scan.held_up_s for scan in scans), default=0.0)
    overruns = sum(scan.overrun_s > 0 for scan in scans)
    pace = _pace(scans)
    if not late:
        return Pacing(0, 0.0, 0.0, 0.0, held_up, overruns, pace)
    return Pacing(len(late), quantile(late, 0.5).value, quantile(late, 0.99).value, max(late), held_up, overruns, pace)


def _pace(scans: Sequence[ScanSeen]) -> float:
    planned = taken = 0.0
    for scanner in {scan.scanner for scan in scans}:
        begun = [scan for scan in scans if scan.scanner == scanner]
        first, last = (find(begun, key=lambda scan: (scan.number, -scan.attempt)) for find in (min, max))
        planned += last.planned_s - first.planned_s
        taken += last.started_s - first.started_s
    return planned / taken if taken > 0 else 1.0
