"""Objects, configurations and clocks for the tests of the outbox."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from benchmarks.peers.pacs import EDGE_AE, EDGE_PORT, PACS_AE, PACS_PORT
from edge_runtime.delivery.configuration import DeliverySettings, parse_delivery
from edge_runtime.delivery.handover import identity_of
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import Outbox, Wanted

HEAD = """
[outbox]
folder = "outbox"
review = "none"
stop_below_mb = 1
purge_below_mb = 1
[device]
ae_title = "{ae_title}"
"""
CALLBACK = """
[device.callback]
host = "127.0.0.1"
port = {port}
callers = ["{caller}"]
plain = true
"""
DIMSE = f"""
[[destination]]
name = "pacs"
kind = "dimse"
host = "127.0.0.1"
port = {PACS_PORT}
ae_title = "{PACS_AE}"
plain = true
timeout_s = 5
first_retry_s = 0.1
longest_retry_s = 0.5
"""


def settings_of(folder: Path, destinations: str, *, callback: bool = False, caller: str = PACS_AE) -> DeliverySettings:
    """Settings of an outbox below a folder."""
    return parse_delivery(settings_text(destinations, callback=callback, caller=caller), "test", folder)


def settings_text(destinations: str, *, callback: bool = False, caller: str = PACS_AE) -> str:
    back = CALLBACK.format(port=EDGE_PORT, caller=caller) if callback else ""
    return HEAD.format(ae_title=EDGE_AE) + back + destinations


def write_images(folder: Path, count: int, side: int = 32, seed: int = 0) -> list[Path]:
    """MR images of noise, one series; the same each time but for their identifiers' seed."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(seed)
    study, series = (generate_uid(entropy_srcs=[what, str(seed)]) for what in ("study", "series"))
    paths = []
    for number in range(count):
        dataset = Dataset()
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = generate_uid(entropy_srcs=["image", str(seed), str(number)])
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientID, dataset.PatientName = f"ID{seed}", "Nobody^Test"
        dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20260101", "120000", "1", "A1"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "MR", 1, number + 1
        dataset.Rows = dataset.Columns = side
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation = 15, 0
        dataset.add_new("PixelData", "OW", draw.integers(0, 65536, (side, side), np.uint16).tobytes())
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / f"{number:04d}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def add_images(
    outbox: Outbox,
    paths: list[Path],
    destination: str = "pacs",
    state: State = State.QUEUED,
    urgency: Urgency = Urgency.ROUTINE,
) -> list[str]:
    """Puts files into an outbox; their SOP Instance UIDs."""
    uids = []
    for path in paths:
        identity = identity_of(path, "learned final")
        outbox.add(path, identity, [Wanted(destination, state, urgency)])
        uids.append(identity.sop_instance_uid)
    return uids


class MadeClock:
    """A clock that runs when it is waited for, and by itself not at all; its time of day may be anything."""

    def __init__(self, local: datetime.datetime | None = None) -> None:
        self._local = local or datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)
        self.boot_name = "first"
        self.elapsed_s = 0.0
        self._since_boot_s = 100.0

    def boot(self) -> str:
        return self.boot_name

    def running_s(self) -> float:
        return self._since_boot_s

    def local(self) -> datetime.datetime:
        return self._local

    def wait(self, event: threading.Event, seconds: float) -> bool:
        self.pass_s(seconds)
        return event.is_set()

    def pass_s(self, seconds: float) -> None:
        self.elapsed_s += seconds
        self._since_boot_s += seconds
        self._local += datetime.timedelta(seconds=seconds)

    def set_local(self, local: datetime.datetime) -> None:
        """Somebody sets the clock."""
        self._local = local

    def reboot(self) -> None:
        """The device was without power for nobody knows how long."""
        self.boot_name += "'"
        self._since_boot_s = 3.0
