"""One entry of a Modality Worklist (PS3.4 annex K): bytes from a network become an `Order`, or are refused."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydicom.dataset import Dataset

from edge_runtime.delivery.fit import LO, SH, Fit, printable
from edge_runtime.delivery.worklist.character_sets import settle
from edge_runtime.errors import ResponseRefused
from edge_runtime.scan import Code, Patient

MOST_CODES = 16
"""Of one sequence; a procedure has one, a protocol a few."""

_UID = re.compile(r"[012](\.(0|[1-9][0-9]*))+")
_KEY_LETTERS = 10


@dataclass(frozen=True, slots=True)
class Order:
    """One scheduled procedure step.

    Attributes:
        study_uid: Study Instance UID that the hospital gave it.
        accession_number: of the order that it belongs to; several steps may share it.
        step_id: Scheduled Procedure Step ID.
        start_date, start_time: when it is scheduled. DA and TM.
        notes: what of it did not fit and was altered or left out; never a value.
    """

    patient: Patient
    study_uid: str
    accession_number: str
    procedure_id: str
    procedure_description: str
    procedure_codes: tuple[Code, ...]
    step_id: str
    step_description: str
    protocol_codes: tuple[Code, ...]
    modality: str
    station_ae: str
    station_name: str
    start_date: str
    start_time: str
    referring_physician: str
    performing_physician: str
    notes: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Short and stable, made of what tells this step from every other: to name it by on a command line or in a header."""
        identity = [self.patient.identifier, self.patient.issuer, self.study_uid]
        identity += [self.accession_number, self.procedure_id, self.step_id]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:_KEY_LETTERS]

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Order:
        """From what `document` gave."""
        values = dict(document)
        values["patient"] = Patient(**values["patient"])
        for name in ("procedure_codes", "protocol_codes"):
            values[name] = tuple(Code(**one) for one in values[name])
        values["notes"] = tuple(values["notes"])
        return cls(**values)

    def same_visit(self, other: Order) -> bool:
        """Whether both are steps of one order of one patient, whatever the step."""
        mine, theirs = (replace(one, weight_kg=None) for one in (self.patient, other.patient))
        return mine == theirs and (self.study_uid, self.accession_number) == (other.study_uid, other.accession_number)


def parse_order(dataset: Dataset) -> Order:
    """An order from one answer of a worklist.

    Texts are decoded by the answer's own Specific Character Set (where they contradict it: `character_sets`); names keep their
    ideographic and phonetic groups.

    Raises:
        ResponseRefused: it names no patient, no study or no step, or an identifier does not fit its attribute: one that is
            altered may be somebody else's. Says which, never its value.
    """
    fit = Fit()
    try:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            as_declared, doubts = settle(dataset)
            order = _parsed(dataset, fit)
    except ResponseRefused:
        raise
    except (
        Exception
    ) as error:  # pydicom decodes as it is asked, and what a hostile value raises there has no common base
        raise ResponseRefused(f"an entry that can't be decoded ({type(error).__name__})") from None
    fit.notes += doubts
    identifiers = (
        order.patient.identifier,
        order.patient.issuer,
        order.accession_number,
        order.procedure_id,
        order.step_id,
    )
    if not as_declared and not all(one.isascii() for one in identifiers):
        raise ResponseRefused(
            "an entry with an identifier that is not ASCII and does not follow the entry's character set"
        )
    if complaints:
        fit.notes.append(
            "texts of this entry do not follow their character set or value representation; compare the names"
        )
    return replace(order, notes=tuple(dict.fromkeys(fit.notes)))


def _parsed(dataset: Dataset, fit: Fit) -> Order:
    steps = dataset.get("ScheduledProcedureStepSequence")
    if not steps:
        raise ResponseRefused("an entry without Scheduled Procedure Step Sequence (0040,0100)")
    if len(steps) > 1:
        fit.notes.append("several Scheduled Procedure Step items in one entry: the first is used")
    step = steps[0]
    weight = _text(dataset, "PatientWeight")
    order = Order(
        patient=Patient(
            identifier=_identifier(dataset, "PatientID", LO),
            name=fit.person_name("Patient's name", _text(dataset, "PatientName")),
            birth_date=fit.date("Patient's birth date", _text(dataset, "PatientBirthDate").replace(".", "")),
            sex=fit.one_of("Patient's sex", _text(dataset, "PatientSex"), frozenset("MFO")),
            weight_kg=_positive(weight),
            issuer=_identifier(dataset, "IssuerOfPatientID", LO),
        ),
        study_uid=_uid(dataset, "StudyInstanceUID"),
        accession_number=_identifier(dataset, "AccessionNumber", SH),
        procedure_id=_identifier(dataset, "RequestedProcedureID", SH),
        procedure_description=fit.text("Requested procedure", _text(dataset, "RequestedProcedureDescription"), LO),
        procedure_codes=_codes(dataset, "RequestedProcedureCodeSequence", fit),
        step_id=_identifier(step, "ScheduledProcedureStepID", SH),
        step_description=fit.text("Scheduled step", _text(step, "ScheduledProcedureStepDescription"), LO),
        protocol_codes=_codes(step, "ScheduledProtocolCodeSequence", fit),
        modality=fit.code("Modality", _text(step, "Modality")),
        station_ae=fit.text("Station AE title", _text(step, "ScheduledStationAETitle"), 16),
        station_name=fit.text("Station name", _text(step, "ScheduledStationName"), SH),
        start_date=fit.date("Start date", _text(step, "ScheduledProcedureStepStartDate").replace(".", "")),
        start_time=fit.time("Start time", _text(step, "ScheduledProcedureStepStartTime")),
        referring_physician=fit.person_name("Referring physician", _text(dataset, "ReferringPhysicianName")),
        performing_physician=fit.person_name("Performing physician", _text(step, "ScheduledPerformingPhysicianName")),
    )
    for name, value in (("Patient ID", order.patient.identifier), ("Patient's Name", order.patient.name)):
        if not value:
            raise ResponseRefused(f"an entry without {name}: a scan bound to it would be nobody's")
    if not (order.step_id or order.procedure_id or order.accession_number):
        raise ResponseRefused(
            "an entry without accession number, Requested Procedure ID and Scheduled Procedure Step ID"
        )
    return order


def _text(dataset: Dataset, keyword: str) -> str:
    """One value as text; empty where there is none. The first of several."""
    value = dataset.get(keyword)
    if value is None:
        return ""
    if (
        not isinstance(value, str)
        and hasattr(value, "__len__")
        and hasattr(value, "__getitem__")
        and not hasattr(value, "components")
    ):
        value = value[0] if len(value) else ""
    return str(value).strip(" \0")


def _identifier(dataset: Dataset, keyword: str, longest: int) -> str:
    text = _text(dataset, keyword)
    if len(text) > longest or "\\" in text or "�" in text or printable(text) != text:
        raise ResponseRefused(f"an entry whose {keyword} does not fit DICOM ({longest} plain characters)")
    return text


def _uid(dataset: Dataset, keyword: str) -> str:
    text = _text(dataset, keyword)
    if len(text) > 64 or not _UID.fullmatch(text):
        raise ResponseRefused(f"an entry whose {keyword} is {'missing' if not text else 'no valid UID'}")
    return text


def _positive(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if 0 < number < 1000 else None


def _codes(dataset: Dataset, keyword: str, fit: Fit) -> tuple[Code, ...]:
    """Coded terms that are whole; others are left out and noted."""
    items = dataset.get(keyword) or []
    codes = []
    for item in items[:MOST_CODES]:
        value, scheme = _text(item, "CodeValue"), _text(item, "CodingSchemeDesignator")
        meaning = fit.text("Code meaning", _text(item, "CodeMeaning"), LO)
        if (
            value
            and scheme
            and meaning
            and len(value) <= SH
            and len(scheme) <= SH
            and printable(value + scheme) == value + scheme
        ):
            codes.append(Code(value, scheme, meaning))
        else:
            fit.notes.append(f"{keyword}: a code that is not whole was left out")
    if len(items) > MOST_CODES:
        fit.notes.append(f"{keyword}: more than {MOST_CODES} codes; the rest was left out")
    return tuple(codes)
