"""From a written image to the destinations that it is for: what a session knows of delivery."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from edge_runtime.delivery.configuration import DeliverySettings, Destination, Objects, load_delivery
from edge_runtime.delivery.enhanced import enhanced_series
from edge_runtime.delivery.evidence import record_of
from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.gathering import Gatherings
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import ObjectIdentity, Outbox, Wanted
from edge_runtime.delivery.process import SenderProcess
from edge_runtime.delivery.worklist.binder import Binder
from edge_runtime.delivery.worklist.store import WorklistStore
from edge_runtime.errors import DeliveryError, OutboxConflict, OutboxError
from edge_runtime.scan import Completeness, Image, Method, ScanHeader

log = logging.getLogger(__name__)

URGENCY_PARAMETER = "edge_urgency"
"""User parameter of an MRD header: routine, urgent or emergency."""

ENHANCED_FOLDER = "enhanced"
"""Of a scan's objects that hold a series each."""

_UID = re.compile(r"[012](\.(0|[1-9][0-9]*))+")
_AFTER_SERIES_UID = 0x0020000F


class Handover:
    """What written images are handed to: it decides where they go and puts them into the outbox.

    Args:
        notify: called when there is something new to send.
        binder: knows the worklist's orders; ``None`` where there is no worklist.
    """

    def __init__(
        self, settings: DeliverySettings, outbox: Outbox, notify: Callable[[], None], binder: Binder | None = None
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._notify = notify
        self._binder = binder
        self._gatherings = Gatherings(outbox.folder / "gathering")
        self._gathered: dict[Path, Urgency] = {}  # scans that are noted
        self.folder = outbox.folder / "scans"
        """Where scans may be written that are to be nowhere else; their files go when the outbox lets go of them."""

    def header_of(self, scan_id: str, header: ScanHeader) -> ScanHeader:
        """A scan's header as its order has it, or marked as unscheduled; as it is where there is no worklist."""
        return header if self._binder is None else self._binder.header_of(scan_id, header)

    def image(self, path: Path, image: Image, header: ScanHeader) -> None:
        """Takes in an image; afterwards it is the outbox's to deliver, by itself or, where a destination wants that, with its
        series when the scan has ended.

        Raises:
            DeliveryError: it was not taken in; names the cause.
        """
        urgency = urgency_of(header)
        label = f"{image.method.value} {image.completeness.value}"
        scan = path.parent.parent
        if scan not in self._gathered and self._destinations(image.method, image.completeness, "enhanced"):
            self._gatherings.begin(scan, urgency)
            self._gathered[scan] = urgency
        self.object(path, label, image.method, image.completeness, urgency, "classic")

    def object(
        self,
        path: Path,
        label: str,
        method: Method,
        completeness: Completeness,
        urgency: Urgency,
        objects: Objects | None = None,
    ) -> None:
        """Takes in the DICOM file of an image, or of something that goes where the images of a method go.

        Args:
            objects: only for destinations that want images in that form; ``None``: for all.

        Raises:
            OutboxError: it was not taken in; names the cause.
        """
        review = self._settings.outbox.review
        held = review == "all" or (review == "learned" and method is Method.LEARNED)
        state = State.HELD if held else State.QUEUED
        wanted = [Wanted(one.name, state, urgency) for one in self._destinations(method, completeness, objects)]
        if wanted and self._outbox.add(path, identity_of(path, label), wanted):
            self._notify()

    def scan_ended(self, scan: Path, *, whole: bool = True) -> None:
        """Makes the objects of a scan's series, where destinations want those, and takes them in.

        Series that can't be one object, such as those whose place is not known, go as they are.

        Args:
            scan: its folder, in which `files.SeriesWriter` has written; its name is the scan's id.
            whole: it was measured to its end.

        Raises:
            DeliveryError: something was not taken in; it is tried again when the next process begins.
        """
        urgency = self._gathered.pop(scan, None)
        try:
            if urgency is not None:
                self._gather_scan(scan, urgency)
        finally:
            if self._binder is not None:
                self._binder.ended(scan, whole=whole)

    def make_up(self) -> None:
        """Makes the objects that processes which are gone have left to be made."""
        for scan, urgency in self._gatherings.left():
            try:
                self._gather_scan(scan, urgency)
            except DeliveryError as error:
                log.error("%s", error)

    def _gather_scan(self, scan: Path, urgency: Urgency) -> None:
        for series in sorted(scan.iterdir()) if scan.is_dir() else ():
            paths = sorted(series.glob("*.dcm")) if series.is_dir() and series.name != ENHANCED_FOLDER else []
            if paths:
                self._gather(scan, paths, urgency)
        self._gatherings.end(scan)

    def _gather(self, scan: Path, paths: list[Path], urgency: Urgency) -> None:
        record = record_of(_header(paths[0]))
        if record is None:
            return  # nothing of this runtime
        method, completeness = Method(record["method"]), Completeness(record["completeness"])
        if not self._destinations(method, completeness, "enhanced"):
            return
        label = f"{method.value} {completeness.value}"
        try:
            series = enhanced_series(paths)
        except DeliveryError as error:
            log.warning("a series goes as classic objects: %s", error)
            for path in paths:
                self.object(path, label, method, completeness, urgency, "enhanced")
            return
        path = scan / ENHANCED_FOLDER / f"{series.dataset.SOPInstanceUID}.dcm"
        write_whole(path, series.content())
        with contextlib.suppress(OutboxConflict):  # these frames' object is there, as another version has written it
            self.object(path, f"{label}, enhanced", method, completeness, urgency, "enhanced")
        if scan.parent == self.folder and not self._destinations(method, completeness, "classic"):
            for frame in paths:
                frame.unlink(missing_ok=True)

    def _destinations(self, method: Method, completeness: Completeness, objects: Objects | None) -> list[Destination]:
        return [
            one
            for one in self._settings.destinations
            if method in one.methods
            and (one.incomplete or completeness is Completeness.FINAL)
            and objects in (None, one.objects)
        ]


@contextlib.contextmanager
def open_handover(configuration: Path) -> Iterator[Handover]:
    """An outbox and a sender beside it.

    Raises:
        DeliveryConfigurationError: the configuration is wrong.
        OutboxError: the outbox can't be used.
    """
    settings = load_delivery(configuration)
    with (
        Outbox(settings.outbox.folder, stop_below_bytes=settings.outbox.stop_below_bytes) as outbox,
        contextlib.closing(SenderProcess(configuration)) as sender,
        contextlib.ExitStack() as stack,
    ):
        binder = None
        if settings.worklist is not None or settings.mpps is not None:
            station_ae = settings.device.ae_title if settings.mpps is not None else ""
            binder = Binder(stack.enter_context(WorklistStore(settings.outbox.folder / "worklist")), station_ae)
        handover = Handover(settings, outbox, sender.notify, binder)
        handover.make_up()
        yield handover


def urgency_of(header: ScanHeader) -> Urgency:
    """What the scanner says of a scan; routine where it says nothing that is known."""
    said = str(header.parameters.get(URGENCY_PARAMETER, "")).strip().upper()
    return Urgency[said] if said in Urgency.__members__ else Urgency.ROUTINE


def _header(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        raise OutboxError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def identity_of(path: Path, label: str) -> ObjectIdentity:
    """What the outbox needs to know of a DICOM file.

    Raises:
        OutboxError: not a DICOM file, or one without valid identifiers.
    """
    try:
        with path.open("rb") as file:
            dataset = read_partial(file, stop_when=lambda tag, _vr, _length: tag > _AFTER_SERIES_UID)
    except OSError as error:
        raise OutboxError(f"{path}: {error.strerror or error}") from error
    except (InvalidDicomError, ValueError, EOFError, NotImplementedError) as error:
        raise OutboxError(f"{path}: not a DICOM file: {error}") from error
    values = {
        "SOP Instance UID": dataset.get("SOPInstanceUID"),
        "SOP Class UID": dataset.get("SOPClassUID"),
        "Transfer Syntax UID": dataset.file_meta.get("TransferSyntaxUID"),
        "Study Instance UID": dataset.get("StudyInstanceUID"),
        "Series Instance UID": dataset.get("SeriesInstanceUID"),
    }
    for name, value in values.items():
        if value is None or len(str(value)) > 64 or not _UID.fullmatch(str(value)):
            raise OutboxError(f"{path}: {name} = {str(value)[:80]!r}: a valid UID is expected")
    instance, sop_class, syntax, study, series = (str(value) for value in values.values())
    return ObjectIdentity(instance, sop_class, syntax, study, series, label)
