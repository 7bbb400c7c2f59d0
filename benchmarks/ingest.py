"""How fast readouts are taken in from a socket: by a session of ours, by PyPI ``ismrmrd`` and by plain C, from the same sender.

The sender is a process of its own that has its bytes ready before it connects. Every reader listens on loopback with a receive
buffer of the same size. A rate counts from the moment the first readouts have been taken in to the moment the last have.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.peers import plain_receiver
from benchmarks.records import Record, summarise
from edge_runtime.journal.folder import Journal
from edge_runtime.kernels import Plans, Workers
from edge_runtime.links import live, mrd
from edge_runtime.links.mrd_header import format_header
from edge_runtime.links.mrd_messages import ACQUISITION_HEADER, MessageReader
from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_readouts
from edge_runtime.memory import MemoryBudget
from edge_runtime.modalities.mri.fourier import Complex
from edge_runtime.pool import Lane, Priority, ReconstructionPool
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import ModelInUse, Runtime
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
from edge_runtime.session import Session

COILS, SAMPLES, LINES = 8, 256, 256
REPETITIONS = 256
"""65,536 readouts, 1.1 GB."""

RUNS = 7
ID_BYTES = 2
PEER_BUFFER_BYTES = 4 << 20
"""Of the buffered stream that ``ismrmrd`` reads from; the fastest for it of 8 KiB, 64 KiB, 1 MiB and 4 MiB."""

USUAL_BUFFER_BYTES = 8 << 10
"""What ``socket.makefile`` takes by default."""

PLAIN_C_BUFFERS_BYTES = (256 << 10, 4 << 20)
"""Of the receiver in C: one that stays in a core's cache, and ours."""

SHARE_WANTED = 0.8

SPAWN = multiprocessing.get_context("spawn")


def ingest(quick: bool) -> list[Record]:
    """Runs of all readers take turns."""
    repetitions, runs = (24, 2) if quick else (REPETITIONS, RUNS)
    readers: dict[str, Callable[[int], float]] = {
        "assembled": assembled_rate,
        "parsed": parsed_rate,
        "peer": partial(peer_rate, buffer_bytes=PEER_BUFFER_BYTES),
        "peer as usual": partial(peer_rate, buffer_bytes=USUAL_BUFFER_BYTES),
    }
    with plain_receiver.compiled() as program:
        if program is not None:
            for size in PLAIN_C_BUFFERS_BYTES:
                readers[_plain_c(size)] = partial(plain_c_rate, program=program, buffer_bytes=size)
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(runs):
            for name, reader in readers.items():
                rates[name].append(reader(repetitions))
    peer = f"ismrmrd {importlib.import_module('ismrmrd').__version__} ProtocolDeserializer"
    low, high = np.percentile(rates["peer"], (10, 90))
    usual = np.median(rates["peer as usual"])
    common = (
        f"{repetitions} slices of {LINES} readouts, {COILS} coils x {SAMPLES} samples, loopback, sender in a process of its "
        "own; the peer yields one Acquisition a readout and assembles nothing, from a stream buffered by "
        f"{PEER_BUFFER_BYTES >> 20} MiB, its fastest (p10 to p90: {low:,.0f} to {high:,.0f}; by the usual "
        f"{USUAL_BUFFER_BYTES >> 10} KiB: median {usual:,.0f})"
    )
    figures = {
        "ingest.readouts_per_s": (
            "assembled",
            "whole session in MrdServer: receive, parse, check, readout transform, placement in k-space, the hand-over of every "
            "finished slice; no prewhitening, calibration or reconstruction",
        ),
        "ingest.parsed_readouts_per_s": ("parsed", "MessageReader alone: receive, parse, check; what the peer does"),
    }
    return [
        *(
            summarise(
                name,
                rates[samples],
                unit="readouts/s",
                better="higher",
                peer=peer,
                peer_samples=rates["peer"],
                target=float(np.median(rates["peer"])) if samples == "assembled" else None,
                note=f"{what}; {common}",
            )
            for name, (samples, what) in figures.items()
        ),
        share_of_plain_c(rates),
    ]


def share_of_plain_c(rates: Mapping[str, list[float]]) -> Record:
    """What share of plain C's rate a session of ours reaches, turn by turn; without a value where there is no C compiler."""
    name, peer = "ingest.share_of_plain_c", "plain C receiver"
    forms = {size: rates[_plain_c(size)] for size in PLAIN_C_BUFFERS_BYTES if _plain_c(size) in rates}
    if not forms:
        return Record(
            name, 0.0, "", "higher", peer, n=0, note=f"not measured: no C compiler {plain_receiver.COMPILE[0]}"
        )
    best = max(forms, key=lambda size: float(np.median(forms[size])))
    medians = ", ".join(f"{np.median(rate):,.0f} by {size >> 10} KiB" for size, rate in forms.items())
    parsed = np.median([ours / plain for ours, plain in zip(rates["parsed"], forms[best], strict=True)])
    return summarise(
        name,
        [ours / plain for ours, plain in zip(rates["assembled"], forms[best], strict=True)],
        unit="",
        better="higher",
        target=SHARE_WANTED,
        note=f"ingest.readouts_per_s over the readouts/s of {plain_receiver.SOURCE.name} ({' '.join(plain_receiver.COMPILE)}) in "
        "the same turn: recv, message lengths, a copy of each readout to its line, nothing checked or transformed; medians by its "
        f"receive buffer: {medians}; the faster one counts. Received, parsed and checked, but neither transformed nor placed "
        f"(ingest.parsed_readouts_per_s): {parsed:.2f}",
    )


def _plain_c(buffer_bytes: int) -> str:
    return f"plain C, {buffer_bytes} bytes"


class _Meter:
    """The rate between the first and the last call of `took`."""

    def __init__(self) -> None:
        self._first = self._last = 0.0
        self._readouts = -1

    def took(self, readouts: int) -> None:
        self._last = time.perf_counter()
        if self._readouts < 0:
            self._first, self._readouts = self._last, 0
        else:
            self._readouts += readouts

    def rate(self, at_least: int) -> float:
        """Readouts a second.

        Raises:
            RuntimeError: the reader has lost some.
        """
        if self._readouts < at_least:
            raise RuntimeError(f"{self._readouts} readouts were taken in; more than {at_least} were sent")
        return self._readouts / (self._last - self._first)


class _NoReconstruction(ReconstructionPool):
    """Lets slices go as if they had been reconstructed."""

    def lane(self) -> Lane:
        return _NoLane(self)


class _NoLane(Lane):
    def submit(self, priority: Priority, job: Callable[[], None]) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    offer = submit


def assembled_rate(repetitions: int, journal: Journal | None = None) -> float:
    """Readouts a second into a session of ours, which may keep a journal of them."""
    meter = _Meter()

    class TimedSession(Session):
        def readouts(self, batch: ReadoutBatch) -> None:
            super().readouts(batch)
            meter.took(len(batch))

    pool = _NoReconstruction(workers=1, depth=1)
    profile = load_profile(DEFAULT_PROFILE)
    runtime = Runtime(
        profile,
        ModelInUse(None),
        pool,
        Plans(Workers(threads=1)),
        None,
        MemoryBudget(profile.total_bytes),
        previews=(),
        journal=journal,
    )
    with mock.patch.object(live, "Session", TimedSession):
        server = mrd.MrdServer(runtime, port=0)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with _sender(server.port, repetitions):
                pass  # it ends once the server has closed the connection
        finally:
            server.stop()
            thread.join()
            pool.close()
    if server.reports[-1].error or server.reports[-1].readouts != repetitions * LINES:
        raise RuntimeError(f"the session did not take the scan in: {server.reports[-1]}")
    return meter.rate(at_least=(repetitions - 1) * LINES)


def parsed_rate(repetitions: int) -> float:
    """Readouts a second out of our parser."""
    meter = _Meter()
    with _accepted(repetitions) as connection:
        for message in MessageReader(connection.recv_into):
            if isinstance(message, ReadoutBatch):
                meter.took(len(message))
    return meter.rate(at_least=(repetitions - 1) * LINES)


def peer_rate(repetitions: int, buffer_bytes: int) -> float:
    """Readouts a second out of ``ismrmrd``."""
    ismrmrd = importlib.import_module("ismrmrd")
    meter = _Meter()
    with _accepted(repetitions) as connection, connection.makefile("rb", buffering=buffer_bytes) as stream:
        for message in ismrmrd.ProtocolDeserializer(stream).deserialize():
            if isinstance(message, ismrmrd.Acquisition):
                meter.took(1)
    return meter.rate(at_least=(repetitions - 1) * LINES)


def plain_c_rate(repetitions: int, program: Path, buffer_bytes: int) -> float:
    """Readouts a second into the slice of a receiver in C."""
    with _accepted(repetitions) as connection:
        received = plain_receiver.receive(program, connection, (LINES, COILS, SAMPLES), buffer_bytes)
    if received.readouts != repetitions * LINES or received.slice_sum != plain_receiver.slice_sum(_samples()):
        raise RuntimeError(f"{received} is not what was sent")
    return received.readouts_per_s


@contextlib.contextmanager
def _accepted(repetitions: int) -> Iterator[socket.socket]:
    """A connection from which the sender's bytes come."""
    with socket.create_server(("127.0.0.1", 0)) as listener, _sender(listener.getsockname()[1], repetitions):
        listener.settimeout(60)
        connection, _ = listener.accept()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, mrd.RECEIVE_BUFFER_BYTES)
        with connection:
            yield connection


@contextlib.contextmanager
def _sender(port: int, repetitions: int) -> Iterator[None]:
    process = SPAWN.Process(target=send, args=(port, repetitions), daemon=True)
    process.start()
    try:
        yield
        process.join(120)
        if process.exitcode != 0:
            raise RuntimeError(f"the sender ended with exit code {process.exitcode}")
    finally:
        process.kill()
        process.join()


def send(port: int, repetitions: int) -> None:
    """Sends a whole scan, and waits until the reader closes the connection. One slice's bytes are sent again and again; only the
    repetition counter changes."""
    opening, message_bytes = _prepared()
    size = len(message_bytes) // LINES
    headers: np.ndarray[tuple[int], np.dtype[np.void]] = np.ndarray(
        (LINES,), ACQUISITION_HEADER, message_bytes, ID_BYTES, (size,)
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(opening)
        for repetition in range(repetitions):
            headers["repetition"] = repetition
            connection.sendall(message_bytes)
        connection.sendall(pack_close())
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while connection.recv(1 << 16):
                continue


def _prepared() -> tuple[bytes, bytearray]:
    """Configuration and header; one slice."""
    space = EncodingSpace((SAMPLES, LINES, 1), (256.0, 256.0, 5.0))
    limits = {"kspace_encoding_step_1": Limit(0, LINES - 1, LINES // 2), "repetition": Limit(0, REPETITIONS - 1, 0)}
    header = ScanHeader(MriEncoding(space, space, "cartesian", limits), Scanner(receiver_coils=COILS), simulated=True)
    readouts = np.zeros(LINES, READOUT_DTYPE)
    readouts["phase_encode"] = np.arange(LINES)
    readouts["centre_sample"] = SAMPLES // 2
    readouts["sample_time_us"] = 10.0
    readouts["flags"][-1] = ReadoutFlag.LAST_IN_SLICE
    batch = ReadoutBatch(readouts, _samples())
    return pack_config_file("edge-classical") + pack_header(format_header(header)), bytearray(pack_readouts(batch))


def _samples() -> Complex:
    """Of a slice, ``(lines, coils, samples)``."""
    pairs = np.random.default_rng(0).standard_normal((LINES, COILS, SAMPLES, 2), dtype=np.float32)
    return np.asarray(pairs.view(np.complex64)[..., 0])
