"""From a written image to the destinations that it is for: what a session knows of delivery."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from edge_runtime.delivery.configuration import DeliverySettings, load_delivery
from edge_runtime.delivery.outbox.states import State, Urgency
from edge_runtime.delivery.outbox.store import ObjectIdentity, Outbox, Wanted
from edge_runtime.delivery.process import SenderProcess
from edge_runtime.errors import OutboxError
from edge_runtime.scan import Completeness, Image, Method, ScanHeader

log = logging.getLogger(__name__)

URGENCY_PARAMETER = "edge_urgency"
"""User parameter of an MRD header: routine, urgent or emergency."""

_UID = re.compile(r"[012](\.(0|[1-9][0-9]*))+")
_AFTER_SERIES_UID = 0x0020000F


class Handover:
    """What written images are handed to: it decides where they go and puts them into the outbox.

    Args:
        notify: called when there is something new to send.
    """

    def __init__(self, settings: DeliverySettings, outbox: Outbox, notify: Callable[[], None]) -> None:
        self._settings = settings
        self._outbox = outbox
        self._notify = notify
        self.folder = outbox.folder / "scans"
        """Where scans may be written that are to be nowhere else; their files go when the outbox lets go of them."""

    def image(self, path: Path, image: Image, header: ScanHeader) -> None:
        """Takes in an image; afterwards it is the outbox's to deliver.

        Raises:
            OutboxError: it was not taken in; names the cause.
        """
        label = f"{image.method.value} {image.completeness.value}"
        self.object(path, label, image.method, image.completeness, urgency_of(header))

    def object(self, path: Path, label: str, method: Method, completeness: Completeness, urgency: Urgency) -> None:
        """Takes in the DICOM file of an image, or of something that goes where the images of a method go.

        Raises:
            OutboxError: it was not taken in; names the cause.
        """
        outbox = self._settings.outbox
        held = outbox.review == "all" or (outbox.review == "learned" and method is Method.LEARNED)
        state = State.HELD if held else State.QUEUED
        wanted = [
            Wanted(one.name, state, urgency)
            for one in self._settings.destinations
            if method in one.methods and (one.incomplete or completeness is Completeness.FINAL)
        ]
        if wanted and self._outbox.add(path, identity_of(path, label), wanted):
            self._notify()


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
    ):
        yield Handover(settings, outbox, sender.notify)


def urgency_of(header: ScanHeader) -> Urgency:
    """What the scanner says of a scan; routine where it says nothing that is known."""
    said = str(header.parameters.get(URGENCY_PARAMETER, "")).strip().upper()
    return Urgency[said] if said in Urgency.__members__ else Urgency.ROUTINE


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
