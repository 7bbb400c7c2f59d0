"""What the journal costs, how soon a server that was killed serves again, and whether it keeps what it promised."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.ingest import COILS, LINES, RUNS, SAMPLES, assembled_rate
from benchmarks.records import Record, summarise
from benchmarks.server import ROOT, serving
from edge_runtime.hil.player import Event, ReadoutsSent, Resumed, play
from edge_runtime.journal.disk import RealDisk
from edge_runtime.journal.folder import Journal
from edge_runtime.journal.policy import JournalPolicy
from edge_runtime.journal.writer import BUFFER_BYTES, ScanJournal
from edge_runtime.links.files import open_recording
from edge_runtime.links.files.recording import Recording
from edge_runtime.links.mrd_messages import ACQUISITION_HEADER
from edge_runtime.scan import (
    READOUT_DTYPE,
    EncodingSpace,
    Limit,
    MriEncoding,
    ReadoutBatch,
    ReadoutFlag,
    ScanHeader,
    Scanner,
)

SHARE_WANTED = 0.8
RECOVERY_TARGET_MS = 1000.0
READOUT_BYTES = 2 + ACQUISITION_HEADER.itemsize + 8 * COILS * SAMPLES
REPETITIONS = 64
"""16,384 readouts, 0.27 GB: what goes to the disk in one turn."""

KILLS, READOUTS = 5, 50_000
"""Of the benchmark; ``make test-soak`` kills fifty times in a million."""

BATCH = 500
CONTINUED_TIMEOUT_S = 120.0


def journal_share_of_disk(quick: bool) -> list[Record]:
    """Ingest into a session that keeps a journal, beside the same bytes written to the same disk, synced as often; in turn."""
    repetitions, runs = (8, 2) if quick else (REPETITIONS, RUNS)
    shares, ours, disks, whole = [], [], [], []
    size_bytes = repetitions * LINES * READOUT_BYTES
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="journal-") as name:
        for run in range(runs):
            disk = RealDisk(Path(name) / str(run))
            try:
                journal = _Watched(disk, JournalPolicy())
                assembled_rate(repetitions, journal)
                rate = journal.bytes_per_s / 1e6
            finally:
                disk.close()
            ours.append(rate)
            disks.append(_written(Path(name) / "plain", size_bytes, BUFFER_BYTES))
            whole.append(_written(Path(name) / "plain", size_bytes, size_bytes))
            shares.append(rate / disks[-1])
    note = (
        f"MB/s of readouts of {COILS} coils x {SAMPLES} into a session that journals them, to the last fsync "
        f"({np.median(ours):.0f}), "
        f"over those of the same bytes in a file of the same disk, {BUFFER_BYTES >> 20} MiB and an fdatasync in turn "
        f"({np.median(disks):.0f}; with one sync at the end {np.median(whole):.0f}); {size_bytes / 1e9:.2f} GB a turn, sender in a "
        "process of its own"
    )
    return [
        summarise(
            "ingest.journal_share_of_disk", shares, unit="", better="higher", target=SHARE_WANTED, note=note
        )
    ]  # fmt: skip


class _Watched(Journal):
    """Knows how fast readouts of its only scan reach the disk: from the scan's first message to the last fsync."""

    bytes_per_s = 0.0

    def begin(self, scan_id: str) -> ScanJournal:
        began = time.perf_counter()

        def durable(readouts: int) -> None:
            self.bytes_per_s = readouts * READOUT_BYTES / (time.perf_counter() - began)

        journal = super().begin(scan_id)
        journal.on_durable = durable
        return journal


def recovery(quick: bool) -> list[Record]:
    """A scanner that goes on while its server is killed again and again."""
    kills, readouts = (2, 4_000) if quick else (KILLS, READOUTS)
    found = killed_again_and_again(kills, readouts, seed=1)
    note = (
        f"{kills} times 'kill -9' at random points of a scan of {readouts} readouts, each followed by a start; to the announced "
        f"address, while the scan is read back already; its scanner went on {np.median(found.resumed_ms):.0f} ms (at most "
        f"{max(found.resumed_ms):.0f}) after the kill, with its own pauses between tries"
    )
    return [
        summarise(
            "start.recover_ms", found.serving_ms, unit="ms", better="lower", target=RECOVERY_TARGET_MS, note=note
        ),
        Record(
            "faults.durable_readouts_lost", float(found.lost), "readouts", "lower", n=kills, target=0.0,
            note=f"of {readouts}, in the same run: acknowledged and gone after a kill, or missing or twice in the journal",
        ),
    ]  # fmt: skip


@dataclass
class Killed:
    """What a scan went through.

    Attributes:
        serving_ms: from each kill to the announced address of the next server.
        resumed_ms: from each kill until the scanner was told where to go on.
        lost: readouts that were acknowledged and forgotten, and those that the journal lacks or has twice at the end.
        kept: scan counters in the journal at the end.
    """

    serving_ms: list[float] = field(default_factory=list)
    resumed_ms: list[float] = field(default_factory=list)
    lost: int = 0
    kept: int = 0


def killed_again_and_again(kills: int, readouts: int, seed: int) -> Killed:
    """Plays a durable scan into a server that is killed when so and so many readouts have been sent, at random, and started anew.

    Raises:
        RuntimeError: the scan did not end.
    """
    found, due = Killed(), sorted(np.random.default_rng(seed).integers(1, readouts, kills).tolist())
    sent, changed = 0, threading.Condition()
    killed_at: list[float] = []

    def told(event: Event) -> None:
        nonlocal sent
        with changed:
            if isinstance(event, ReadoutsSent):
                sent = max(sent, event.sent)
                changed.notify_all()
            elif isinstance(event, Resumed) and len(found.resumed_ms) < len(killed_at):
                found.resumed_ms.append(1e3 * (time.perf_counter() - killed_at[-1]))

    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="journal-") as name:
        folder, port = Path(name) / "journal", _free_port()
        options = ("--port", str(port), "--journal", str(folder), "--classical-only")
        results = []

        def scan() -> None:
            results.append(
                play(
                    navigators(readouts), "127.0.0.1", port,
                    config="edge-classical", durable="killed", resume_s=CONTINUED_TIMEOUT_S, on_event=told,
                )
            )  # fmt: skip

        scanner = threading.Thread(target=scan, daemon=True)
        for index in range(kills + 1):
            with serving(*options) as server:
                if killed_at:
                    found.serving_ms.append(1e3 * (time.perf_counter() - killed_at[-1]))
                if index == 0:
                    scanner.start()
                if index == kills:
                    scanner.join(CONTINUED_TIMEOUT_S)
                    break
                point = due[index]

                def far_enough() -> bool:
                    return sent >= point or not scanner.is_alive()  # noqa: B023 - called at once

                with changed:
                    changed.wait_for(far_enough, CONTINUED_TIMEOUT_S)
                killed_at.append(time.perf_counter())
                os.kill(server.process_id, signal.SIGKILL)
        if not results:
            raise RuntimeError(f"the scan did not end: {sent} of {readouts} readouts were sent")
        # A kill before the header was on disk leaves a file that holds no scan, and of which nothing was acknowledged.
        kept = max(folder.glob("*.mrd"), key=lambda path: path.stat().st_size)
        counters = np.concatenate([batch.header["scan_counter"] for batch in open_recording(kept, None).readouts()])
        found.kept = len(counters)
        found.lost = (
            results[0].forgotten + readouts - len(np.unique(counters)) + len(counters) - len(np.unique(counters))
        )
        if not np.array_equal(counters, np.arange(readouts)):
            found.lost = max(found.lost, 1)
    return found


def navigators(readouts: int, coils: int = 2, samples: int = 32) -> Recording:
    """A scan of readouts that are taken in, checked and kept, and of which no image is made."""
    space = EncodingSpace((samples, samples, 1), (200.0, 200.0, 5.0))
    limits = {"kspace_encoding_step_1": Limit(0, samples - 1, samples // 2)}
    header = ScanHeader(MriEncoding(space, space, "cartesian", limits), scanner=Scanner(receiver_coils=coils))
    noise = np.random.default_rng(0).standard_normal((BATCH, coils, samples, 2)).astype(np.float32)
    values = np.ascontiguousarray(noise).view(np.complex64)[..., 0]

    def batches() -> Iterator[ReadoutBatch]:
        for first in range(0, readouts, BATCH):
            count = min(BATCH, readouts - first)
            heads = np.zeros(count, READOUT_DTYPE)
            heads["flags"] = int(ReadoutFlag.IS_NAVIGATION_DATA)
            heads["scan_counter"] = np.arange(first, first + count)
            heads["sample_time_us"] = 10.0
            heads["read_direction"], heads["phase_direction"], heads["slice_direction"] = np.eye(3)
            yield ReadoutBatch(heads, values[:count])

    return Recording(Path("navigators"), "made", header, readouts, None, batches)


def _written(path: Path, size_bytes: int, group_bytes: int) -> float:
    """MB/s into a new file, synced after each group."""
    group = memoryview(np.random.default_rng(0).bytes(min(group_bytes, 4 * BUFFER_BYTES)))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    began, left, unsynced = time.perf_counter(), size_bytes, 0
    try:
        while left:
            written = os.write(descriptor, group[: min(left, len(group))])
            left, unsynced = left - written, unsynced + written
            if unsynced >= group_bytes or not left:
                os.fdatasync(descriptor)
                unsynced = 0
        return size_bytes / 1e6 / (time.perf_counter() - began)
    finally:
        os.close(descriptor)
        with contextlib.suppress(OSError):
            path.unlink()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
