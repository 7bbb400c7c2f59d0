"""Asking the hospital's worklist (C-FIND of the Modality Worklist Information Model, PS3.4 annex K)."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset

from edge_runtime.delivery.configuration import DicomPeer
from edge_runtime.delivery.destinations.association import Association, associated, require_pynetdicom
from edge_runtime.delivery.worklist.order import Order, parse_order
from edge_runtime.errors import NotTaken, ResponseRefused, Unreachable, WorklistError

MOST_ORDERS = 500
"""That are taken from one answer; a scanner has some tens a day."""

MOST_BYTES = 32 << 20
"""Of one answer as a whole: an order takes some kB."""

LONGEST_S = 120.0
"""For one answer as a whole, however steadily it drips."""

_CANCELLED, _SUCCESS, _PENDING = 0xFE00, 0x0000, (0xFF00, 0xFF01)
_DATES = re.compile(r"([0-9]{8})?(-([0-9]{8})?)?")


@dataclass(frozen=True, slots=True)
class Matching:
    """What is asked for; empty: whatever there is. Texts may hold the wildcards ``*`` and ``?``.

    Attributes:
        dates: of the scheduled start: YYYYMMDD, or a range YYYYMMDD-YYYYMMDD, either end of which may be left out.
        station_ae: Scheduled Station AE Title.
    """

    modality: str = "MR"
    dates: str = ""
    station_ae: str = ""
    patient_id: str = ""
    patient_name: str = ""
    accession_number: str = ""

    def __post_init__(self) -> None:
        if not _DATES.fullmatch(self.dates):
            raise WorklistError(f"dates {self.dates!r}: YYYYMMDD or YYYYMMDD-YYYYMMDD is expected")
        longest = {"modality": 16, "station_ae": 16, "patient_id": 64, "patient_name": 64, "accession_number": 16}
        for name, most in longest.items():
            value = getattr(self, name)
            if len(value) > most or "\\" in value or not value.isprintable():
                raise WorklistError(
                    f"{name.replace('_', ' ')} {value[:80]!r}: at most {most} printable characters, no backslash"
                )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worklist said.

    Attributes:
        refused: why entries were left out, one sentence an entry, without their values.
        truncated: there were more than are taken; ask for less.
    """

    orders: tuple[Order, ...]
    refused: tuple[str, ...]
    truncated: bool


def query(calling: str, peer: DicomPeer, matching: Matching, *, most: int = MOST_ORDERS) -> Answer:
    """Asks a worklist.

    Args:
        calling: this device's AE title.

    Raises:
        Unreachable: nobody answers, or it stopped in the middle.
        NotAdmitted: it does not want this device.
        NotTaken: it refuses this query.
        DeliveryConfigurationError: pynetdicom is not installed.
    """
    library = require_pynetdicom()
    from pynetdicom.presentation import build_context
    from pynetdicom.sop_class import ModalityWorklistInformationFind  # type: ignore[attr-defined]

    meter = _Meter()
    orders: dict[str, Order] = {}
    refused: list[str] = []
    truncated = False
    handlers = [(library.evt.EVT_CONN_OPEN, meter.opened), (library.evt.EVT_DATA_RECV, meter.received)]
    try:
        with associated(
            calling, peer, [build_context(ModalityWorklistInformationFind)], handlers=handlers
        ) as association:
            for dataset in _answers(association, peer, matching, ModalityWorklistInformationFind):
                if len(orders) + len(refused) >= most:
                    truncated = True
                    # The rest is not waited for: an association costs less than answers that nobody bounds.
                    association.pynetdicom.abort()
                    break
                try:
                    order = parse_order(dataset)
                    orders.setdefault(order.key, order)
                except ResponseRefused as error:
                    refused.append(str(error))
    except Unreachable:
        if meter.exceeded:
            raise NotTaken(
                f"{peer.ae_title} at {peer.host} port {peer.port}: its answer is larger than {MOST_BYTES >> 20} MB: ask for less"
            ) from None
        if not truncated:
            raise
    return Answer(tuple(orders.values()), tuple(refused), truncated)


def identifier(matching: Matching) -> Dataset:
    """The query itself: keys to match by, and everything that is wanted in return (PS3.4 table K.6-1)."""
    step = Dataset()
    step.Modality = matching.modality
    step.ScheduledStationAETitle = matching.station_ae
    step.ScheduledProcedureStepStartDate = matching.dates
    for keyword in (
        "ScheduledProcedureStepStartTime", "ScheduledPerformingPhysicianName", "ScheduledProcedureStepDescription",
        "ScheduledStationName", "ScheduledProcedureStepID",
    ):  # fmt: skip
        setattr(step, keyword, "")
    step.ScheduledProtocolCodeSequence = [_code_keys()]
    dataset = Dataset()
    # What it is asked in; answers name their own. Names beyond ASCII are matched as UTF-8.
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.AccessionNumber = matching.accession_number
    dataset.PatientName = matching.patient_name
    dataset.PatientID = matching.patient_id
    for keyword in (
        "ReferringPhysicianName", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientWeight", "StudyInstanceUID",
        "RequestedProcedureDescription", "RequestedProcedureID",
    ):  # fmt: skip
        setattr(dataset, keyword, None if keyword == "PatientWeight" else "")
    dataset.RequestedProcedureCodeSequence = [_code_keys()]
    dataset.ScheduledProcedureStepSequence = [step]
    return dataset


def _code_keys() -> Dataset:
    item = Dataset()
    item.CodeValue = item.CodingSchemeDesignator = item.CodeMeaning = ""
    return item


def _answers(association: Association, peer: DicomPeer, matching: Matching, model: Any) -> Iterator[Dataset]:
    """Entries as they come; ends with the worklist's own success.

    Raises:
        NotTaken: it refuses the query.
        Unreachable: it stopped in the middle, or takes for ever.
    """
    where = f"{peer.ae_title} at {peer.host} port {peer.port}"
    began = time.monotonic()
    for status, dataset in association.pynetdicom.send_c_find(identifier(matching), model):
        association.steps()
        code = status.get("Status")
        if code is None:  # how pynetdicom says that the connection broke or that what came was no answer
            raise Unreachable(f"{where}: it stopped in the middle of its answer")
        if code in _PENDING:
            if dataset is not None:
                yield dataset
            if time.monotonic() - began > LONGEST_S:
                raise Unreachable(f"{where}: its answer took longer than {LONGEST_S:g} s")
            continue
        if code == _SUCCESS:
            return
        comment = str(status.get("ErrorComment", "")).strip()
        reason = f": {comment[:64]}" if comment.isprintable() and comment else ""
        raise NotTaken(f"{where}: it refuses the query with status 0x{code:04X}{reason}")
    raise Unreachable(f"{where}: it stopped in the middle of its answer")


class _Meter:
    """Counts what comes in, and cuts the connection when that is too much to be an answer."""

    def __init__(self) -> None:
        self.exceeded = False
        self._received = 0
        self._socket: Any = None

    def opened(self, event: Any) -> None:
        self._socket = event.assoc.dul.socket.socket

    def received(self, event: Any) -> None:
        self._received += len(event.data)
        if self._received > MOST_BYTES and not self.exceeded:
            self.exceeded = True
            self._socket.shutdown(2)
