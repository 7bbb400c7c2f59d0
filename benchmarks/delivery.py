"""Images into a PACS: beside dcmtk's storescu on a good link, beside plain TCP on a bad one.

The PACS is Orthanc in a network namespace of its own, which takes root; without it, or without Debian's orthanc and dcmtk, this
breaks with what is missing.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks.peers.pacs import (
    EDGE_AE,
    PACS_AE,
    PACS_PORT,
    Orthanc,
    loopback_only,
    missing_parts,
    running_orthanc,
)
from benchmarks.records import Record, summarise
from edge_runtime.delivery.configuration import DeliverySettings, parse_delivery
from edge_runtime.delivery.handover import identity_of
from edge_runtime.delivery.outbox.sender import Sender
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Outbox, Wanted

IMAGES, SIDE = 100, 256
LARGEST_PDU = 131072
"""Orthanc's most, and storescu's."""

TUNED = {"MaximumPduLength": LARGEST_PDU, "OverwriteInstances": False}

LINK_BYTES_PER_S = 250_000
"""Two megabits a second."""

LINK_SECONDS_TO_CUT = (5.0, 60.0)
"""A connection lives between these; drawn anew for each."""

_CONFIGURATION = """
[outbox]
folder = "outbox"
review = "none"
stop_below_mb = 1
purge_below_mb = 1
[device]
ae_title = "{ae_title}"
[[destination]]
name = "pacs"
confirm = "none"
first_retry_s = 0.2
longest_retry_s = 1
{destination}
"""
_DIMSE = 'kind = "dimse"\nhost = "127.0.0.1"\nport = {port}\nae_title = "' + PACS_AE + '"\nplain = true\n'
_WEB = 'kind = "web"\nurl = "{url}/dicom-web"\n'


def delivery(quick: bool) -> list[Record]:
    """Seconds for 100 images by C-STORE and by STOW-RS, and the share of a bad link that carries whole objects."""
    if reason := missing_parts("Orthanc", "storescu"):
        raise RuntimeError(f"no PACS to deliver to: {reason}")
    runs = 2 if quick else 9
    with loopback_only(), tempfile.TemporaryDirectory(prefix="delivery-") as folder:
        work = Path(folder)
        store, stow, peer = [], [], []
        with running_orthanc(TUNED) as orthanc:
            for run in range(runs + 1):
                taken = {
                    "store": _sent_s(work, orthanc, _DIMSE.format(port=PACS_PORT), 3 * run),
                    "stow": _sent_s(work, orthanc, _WEB.format(url=orthanc.url), 3 * run + 1),
                    "peer": _storescu_s(work, orthanc, 3 * run + 2),
                }
                if run:  # the first one warms caches
                    store.append(taken["store"])
                    stow.append(taken["stow"])
                    peer.append(taken["peer"])
        median_peer = statistics.median(peer)
        note = (
            f"{IMAGES} images of {SIDE}², from claim to recorded answer, two associations for C-STORE, as is the default; "
            "Orthanc with PDUs of 128 kB, loopback"
        )
        records = [
            summarise(
                "delivery.store_100_s", store, unit="s", better="lower", peer="dcmtk storescu, PDUs of 128 kB, TCP_NODELAY",
                peer_samples=peer, target=1.3 * median_peer, note=f"{note}; target: 1.3 times the peer of this run",
            ),
            summarise(
                "delivery.stow_100_s", stow, unit="s", better="lower", peer="dcmtk storescu (C-STORE)", peer_samples=peer,
                target=0.9, note=note,
            ),
        ]  # fmt: skip
        records.append(_bad_link(work, quick))
    return records


def _sent_s(work: Path, orthanc: Orthanc, destination: str, seed: int) -> float:
    """Seconds from the start of a sender until all answers are written down."""
    folder = work / f"run{seed}"
    with _outbox(folder, destination, seed, IMAGES, SIDE) as (settings, outbox, uids):
        sender = Sender(settings, outbox)
        began = time.perf_counter()
        sender.start()
        taken = _until(lambda: outbox.counts()["pacs"].get(State.SENT, 0) == IMAGES) - began
        sender.stop()
        sender.join()
    _expect(orthanc, uids)
    shutil.rmtree(folder)
    return taken


def _storescu_s(work: Path, orthanc: Orthanc, seed: int) -> float:
    folder = work / f"run{seed}"
    paths, uids = _images(folder, seed, IMAGES, SIDE)
    command = [
        "storescu", "-aet", EDGE_AE, "-aec", PACS_AE, "--max-pdu", str(LARGEST_PDU), "--max-send-pdu", str(LARGEST_PDU),
        "127.0.0.1", str(PACS_PORT), *map(str, paths),
    ]  # fmt: skip
    began = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "TCP_NODELAY": "1"})
    taken = time.perf_counter() - began
    _expect(orthanc, uids)
    shutil.rmtree(folder)
    return taken


def _bad_link(work: Path, quick: bool) -> Record:
    """Bytes of whole objects a second, over what plain TCP gets through the same link with the same cuts."""
    count = 12 if quick else IMAGES
    with running_orthanc(TUNED) as orthanc, _outbox(
        work / "bad", _DIMSE.format(port=14301), 10**6, count, SIDE
    ) as (settings, outbox, uids):  # fmt: skip
        size = sum(one.size_bytes for one in outbox.deliveries())
        with _CutLink(14301, PACS_PORT, seed=1) as link:
            sender = Sender(settings, outbox)
            began = time.perf_counter()
            sender.start()
            ours_s = _until(lambda: outbox.counts()["pacs"].get(State.SENT, 0) == count, 600) - began
            sender.stop()
            sender.join()
            cuts, carried = link.cuts, link.carried_bytes
        _expect(orthanc, uids)
    plain_s = _plain_tcp_s(size)
    return Record(
        "delivery.bad_link_goodput", size / ours_s / LINK_BYTES_PER_S, "share", "higher",
        peer="plain TCP with the same cuts, which resumes at the byte where it was cut",
        peer_value=size / plain_s / LINK_BYTES_PER_S,
        target=0.9,
        note=f"bytes of whole objects over what the link can carry; {count} images of {SIDE}², {size / 1e6:.1f} MB by C-STORE over "
        f"two associations at {LINK_BYTES_PER_S * 8 / 1e6:g} Mbit/s, 50 ms there and back, each connection cut after "
        f"{LINK_SECONDS_TO_CUT[0]:g} to {LINK_SECONDS_TO_CUT[1]:g} s: {cuts} cuts, {carried / 1e6:.1f} MB carried",
    )  # fmt: skip


def _plain_tcp_s(size: int) -> float:
    """Seconds that a sender takes which loses nothing at a cut but the time to connect again."""
    sink = socket.create_server(("127.0.0.1", 14302))
    got, lock = [0], threading.Lock()

    def swallow(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            with lock:
                got[0] += len(data)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=swallow, args=(sink.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with _CutLink(14303, 14302, seed=1):
        began = time.perf_counter()
        while got[0] < size:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", 14303)) as connection:
                while got[0] < size:
                    connection.sendall(bytes(min(8192, size - got[0])))
        taken = time.perf_counter() - began
    sink.close()
    return taken


class _CutLink:
    """A link of some bytes a second and 25 ms each way, in user space; it breaks now and then."""

    def __init__(self, port: int, target: int, seed: int) -> None:
        self._target, self._draw = target, random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        self._lock, self._free_at = threading.Lock(), 0.0
        self.cuts = self.carried_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> _CutLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                for one in (near, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ends = time.monotonic() + self._draw.uniform(*LINK_SECONDS_TO_CUT)
                threading.Thread(target=self._carry, args=(near, far, True, ends), daemon=True).start()
                threading.Thread(target=self._carry, args=(far, near, False, ends), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, forward: bool, ends: float) -> None:
        flying: list[tuple[float, bytes]] = []
        arrived = threading.Condition()

        def land() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with arrived:
                        arrived.wait_for(lambda: flying)
                        due, data = flying.pop(0)
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not data:
                        break
                    target.sendall(data)
                    if forward:
                        self.carried_bytes += len(data)
            with contextlib.suppress(OSError):
                target.shutdown(socket.SHUT_RDWR)

        threading.Thread(target=land, daemon=True).start()
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                if time.monotonic() >= ends:
                    self.cuts += forward
                    for one in (source, target):  # at once, with what is on its way: the other end is told by a reset
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        one.close()
                    break
                if forward:
                    with self._lock:
                        self._free_at = max(time.monotonic(), self._free_at) + len(data) / LINK_BYTES_PER_S
                        wait_s = self._free_at - time.monotonic()
                    time.sleep(max(0.0, wait_s))
                with arrived:
                    flying.append((time.monotonic() + 0.025, data))
                    arrived.notify()
        with arrived:
            flying.append((0.0, b""))
            arrived.notify()
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def _outbox(
    folder: Path, destination: str, seed: int, count: int, side: int
) -> Iterator[tuple[DeliverySettings, Outbox, set[str]]]:
    paths, uids = _images(folder / "images", seed, count, side)
    settings = parse_delivery(_CONFIGURATION.format(ae_title=EDGE_AE, destination=destination), "benchmark", folder)
    with Outbox(settings.outbox.folder) as outbox:
        for path in paths:
            outbox.add(path, identity_of(path, "benchmark"), [Wanted("pacs")])
        yield settings, outbox, uids


def _images(folder: Path, seed: int, count: int, side: int) -> tuple[list[Path], set[str]]:
    """Images of noise, the worst for whoever would compress them."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    study, series = generate_uid(), generate_uid()
    paths, uids = [], set()
    for number in range(count):
        dataset = Dataset()
        dataset.SOPClassUID, dataset.SOPInstanceUID = MRImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientID, dataset.PatientName, dataset.Modality = f"BENCH{seed}", "Bench^Mark", "MR"
        dataset.InstanceNumber = number + 1
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.add_new("PixelData", "OW", draw.integers(0, 65536, (side, side), np.uint16).tobytes())
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        paths.append(folder / f"{number:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
        uids.add(str(dataset.SOPInstanceUID))
    return paths, uids


def _expect(orthanc: Orthanc, uids: set[str]) -> None:
    if missing := uids - orthanc.instances():
        raise RuntimeError(f"{len(missing)} of {len(uids)} objects did not arrive")


def _until(what: Callable[[], bool], patience_s: float = 120) -> float:
    """The time at which something is so."""
    deadline = time.perf_counter() + patience_s
    while not what():
        if time.perf_counter() > deadline:
            raise RuntimeError("deliveries do not end")
        time.sleep(0.005)
    return time.perf_counter()
