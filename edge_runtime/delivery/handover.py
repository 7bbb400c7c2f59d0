"""From a written image to the destinations that it is for: what a session knows of delivery."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from edge_runtime.delivery.configuration import DeliverySettings, Destination, Objects, load_delivery
from edge_runtime.delivery.enhanced import enhanced_series
from edge_runtime.delivery.evidence import record_of
from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import ObjectIdentity, Outbox, Wanted
from edge_runtime.delivery.process import SenderProcess
from edge_runtime.delivery.under_way import Note, UnderWay
from edge_runtime.delivery.worklist.binder import Binder
from edge_runtime.delivery.worklist.binding import is_emergency
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
        self._under_way = UnderWay(outbox.folder)
        self._begun: dict[Path, Urgency] = {}
        self.folder = outbox.folder / "scans"
        """Where scans may be written that are to be nowhere else; their files go when the outbox lets go of them."""

    def scan_begins(self, scan: Path, header: ScanHeader) -> ScanHeader:
        """A scan's header as its order has it, or marked as unscheduled; as it is where there is no worklist.

        Args:
            scan: the folder of its images; its name is the scan's id.
        """
        made = header if self._binder is None else self._binder.header_of(scan.name, header)
        self._begun[scan] = urgency_of(made)
        self._note(Note(scan, self._begun[scan]))
        return made

    def _note(self, note: Note) -> None:
        try:
            self._under_way.write(note)
        except DeliveryError as error:  # a full disk; the scan is worth more than what the note is for
            log.error("scan %s: %s", note.scan_id, error)

    def image(self, path: Path, image: Image, header: ScanHeader) -> None:
        """Takes in an image; afterwards it is the outbox's to deliver, by itself or, where a destination wants that, with its
        series when the scan has ended.

        Raises:
            DeliveryError: it was not taken in; names the cause.
        """
        urgency = urgency_of(header)
        label = f"{image.method.value} {image.completeness.value}"
        scan = path.parent.parent
        self.object(path, label, image.method, image.completeness, urgency, "classic", scan_id=scan.name)

    def object(
        self,
        path: Path,
        label: str,
        method: Method,
        completeness: Completeness,
        urgency: Urgency,
        objects: Objects | None = None,
        *,
        scan_id: str = "",
    ) -> None:
        """Takes in the DICOM file of an image, or of something that goes where the images of a method go.

        Args:
            objects: only for destinations that want images in that form; ``None``: for all.
            scan_id: of the scan that it was made of; empty where that is not known.

        Raises:
            OutboxError: it was not taken in; names the cause.
        """
        review = self._settings.outbox.review
        held = review == "all" or (review == "learned" and method is Method.LEARNED)
        state = State.HELD if held else State.QUEUED
        wanted = [Wanted(one.name, state, urgency) for one in self._destinations(method, completeness, objects)]
        if wanted and self._outbox.add(path, identity_of(path, label, scan_id), wanted):
            self._notify()

    def scan_ended(self, scan: Path, *, whole: bool = True) -> None:
        """Makes the objects of a scan's series, where destinations want those, takes them in, and writes the scan's end down.

        Series that can't be one object, such as those whose place is not known, go as they are.

        Args:
            scan: its folder, in which `files.SeriesWriter` has written; its name is the scan's id.
            whole: it was measured to its end.

        Raises:
            DeliveryError: something was not taken in; it is tried again when the next process begins.
        """
        urgency = self._begun.pop(scan, None)
        if urgency is not None:  # else it has ended before
            self._end(Note(scan, urgency, whole))

    def make_up(self, going_on: Collection[str] = ()) -> None:
        """Does what is left to be done of the scans of processes that are gone.

        Args:
            going_on: ids of scans that somebody goes on with.
        """
        for note in self._under_way.left():
            if note.scan_id not in going_on:
                try:
                    self._end(note)
                except DeliveryError as error:
                    log.error("%s", error)

    def _end(self, note: Note) -> None:
        self._note(note)
        try:
            self._gather_scan(note.folder, note.urgency)
        finally:
            if self._binder is not None:
                self._binder.ended(note.folder, whole=note.whole)
        self._under_way.forget(note.scan_id)

    def _gather_scan(self, scan: Path, urgency: Urgency) -> None:
        for series in sorted(scan.iterdir()) if scan.is_dir() else ():
            paths = sorted(series.glob("*.dcm")) if series.is_dir() and series.name != ENHANCED_FOLDER else []
            if paths:
                self._gather(scan, paths, urgency)

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
                self.object(path, label, method, completeness, urgency, "enhanced", scan_id=scan.name)
            return
        path = scan / ENHANCED_FOLDER / f"{series.dataset.SOPInstanceUID}.dcm"
        write_whole(path, series.content())
        with contextlib.suppress(OutboxConflict):  # these frames' object is there, as another version has written it
            self.object(path, f"{label}, enhanced", method, completeness, urgency, "enhanced", scan_id=scan.name)
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
def open_handover(configuration: Path, going_on: Collection[str] = ()) -> Iterator[Handover]:
    """An outbox and a sender beside it.

    Args:
        going_on: ids of scans that an earlier process has begun and this one goes on with.

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
        handover.make_up(going_on)
        yield handover


def urgency_of(header: ScanHeader) -> Urgency:
    """What the scanner or the operator says of a scan; routine where neither says anything that is known."""
    if is_emergency(header):
        return Urgency.EMERGENCY
    said = str(header.parameters.get(URGENCY_PARAMETER, "")).strip().upper()
    return Urgency[said] if said in Urgency.__members__ else Urgency.ROUTINE


def _header(path: Path) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=True)
    except (OSError, InvalidDicomError) as error:
        raise OutboxError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def identity_of(path: Path, label: str, scan_id: str = "") -> ObjectIdentity:
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
    return ObjectIdentity(instance, sop_class, syntax, study, series, label, scan_id)
