"""Which order a scan answers, told by what the MRD header says; and the scan's header as that order has it.

A header is looked at in this order; the first that it has decides:

1. the user parameter ``edge_order``: the key that `edge-runtime worklist show` prints, or a Scheduled Procedure Step ID;
2. ``studyInformation.accessionNumber`` (or, as the schema wants that to be a number, the user parameter ``edge_accession_number``);
3. ``studyInformation.studyInstanceUID``;
4. ``subjectInformation.patientID``, where exactly one order of that patient is kept that is scheduled for about now: patients come
   again, and last month's order is not today's.

Several steps of one order are told apart by ``measurementInformation.protocolName``, which must then be the step's id, its
description or a code of its protocol; where that does not help, the scan is bound to the order and to none of its steps. What
contradicts itself is never bound: a header that names another patient than the order, or orders of two patients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edge_runtime.delivery.uids import derived_uid, is_uid
from edge_runtime.delivery.worklist.order import Order
from edge_runtime.scan import Patient, Request, ScanHeader, Study

ORDER_PARAMETER = "edge_order"
EMERGENCY_PARAMETERS = ("edge_emergency", "edge_urgency")
"""User parameters of an MRD header: ``edge_emergency`` 1 or true, or ``edge_urgency`` emergency."""

UNSCHEDULED = "UNSCHEDULED SCAN: patient and study are not confirmed by an order"
NO_ORDER = "no order: "
"""How the note begins that says why."""


@dataclass(frozen=True, slots=True)
class Match:
    """What was found.

    Attributes:
        order: ``None`` where the scan is unscheduled.
        remark: how it was found, or why it was not; names no patient.
        contradicts: the header names an order and says something else than it: nothing of what it says of the examination is
            believed.
    """

    order: Order | None
    remark: str
    contradicts: bool = False


def match(header: ScanHeader, orders: Sequence[Order], due: Callable[[Order], bool] = lambda _: True) -> Match:
    """The order that a header means; see the module's text.

    Args:
        due: whether an order is scheduled for about now.
    """
    wanted: tuple[tuple[str, str, Callable[[Order, str], bool]], ...] = (
        (f"user parameter {ORDER_PARAMETER}", header.parameters.get(ORDER_PARAMETER, "").strip(), _is_named),
        ("accessionNumber", header.study.accession_number, lambda order, value: order.accession_number == value),
        ("studyInstanceUID", header.study.instance_uid, lambda order, value: order.study_uid == value),
        ("patientID", header.patient.identifier, lambda order, value: order.patient.identifier == value and due(order)),
    )
    for name, value, is_meant in wanted:
        if not value:
            continue
        found = [order for order in orders if is_meant(order, value)]
        if not found:
            if name == "patientID":
                break
            return Match(None, f"no order that is kept here has the {name} of the header")
        visits = [found[0], *(one for one in found[1:] if not one.same_visit(found[0]))]
        if len(visits) > 1:
            return Match(None, f"{len(found)} orders of different visits have the {name} of the header", True)
        if complaint := contradiction(header, found[0]):
            return Match(None, f"the {name} of the header names an order, but {complaint}", True)
        return _step(header, found, f"by the header's {name}")
    return Match(None, "the header names no order that is kept here")


def contradiction(header: ScanHeader, order: Order) -> str:
    """What a header says against an order; empty where nothing does."""
    said, ordered = header.patient, order.patient
    if said.identifier and said.identifier != ordered.identifier:
        return "its patientID is another's than the order's"
    if said.birth_date and ordered.birth_date and said.birth_date != ordered.birth_date:
        return "its patientBirthdate is another than the order's"
    accession = header.study.accession_number
    if accession and order.accession_number and accession != order.accession_number:
        return "its accessionNumber is another than the order's"
    return ""


def _is_named(order: Order, value: str) -> bool:
    return value in (order.key, order.step_id)


def _step(header: ScanHeader, found: Sequence[Order], remark: str) -> Match:
    """One of the steps of one order, or the order without a step."""
    if len(found) == 1:
        return Match(found[0], remark)
    protocol = header.protocol_name.strip().casefold()

    def names(order: Order) -> set[str]:
        codes = [text for code in order.protocol_codes for text in (code.value, code.meaning)]
        return {text.casefold() for text in (order.step_id, order.step_description, *codes) if text}

    fitting = [order for order in found if protocol and protocol in names(order)]
    if len(fitting) == 1:
        return Match(fitting[0], f"{remark}, its step by protocolName")
    whole = replace(found[0], step_id="", step_description="", protocol_codes=())
    return Match(whole, f"{remark}; which of its {len(found)} steps it answers is not known")


def is_emergency(header: ScanHeader) -> bool:
    """Whether the scanner calls it one."""
    flag, urgency = (header.parameters.get(name, "").strip().lower() for name in EMERGENCY_PARAMETERS)
    return flag in ("1", "true") or urgency == "emergency"


def ordered_header(header: ScanHeader, order: Order, request: Request, began: tuple[str, str]) -> ScanHeader:
    """A scan's header as its order has it: patient and study are the hospital's, the measurement is the scanner's.

    Args:
        request: of this scan; what is the order's own is filled in.
        began: date and time of the study's first scan.
    """
    patient, study = order.patient, header.study
    return replace(
        header,
        notes=(*(f"the order: {note}" for note in order.notes), *header.notes),
        patient=replace(patient, weight_kg=patient.weight_kg or header.patient.weight_kg),
        study=Study(
            instance_uid=order.study_uid,
            identifier=order.procedure_id or study.identifier,
            description=order.procedure_description or study.description,
            accession_number=order.accession_number,
            date=began[0],
            time=began[1],
            referring_physician=order.referring_physician or study.referring_physician,
        ),
        request=replace(
            request,
            procedure_id=order.procedure_id,
            procedure_description=order.procedure_description,
            procedure_codes=order.procedure_codes,
            step_id=order.step_id,
            step_description=order.step_description,
            protocol_codes=order.protocol_codes,
        ),
    )


def unscheduled_header(
    header: ScanHeader,
    scan_id: str,
    request: Request,
    began: tuple[str, str],
    *,
    emergency: bool,
    believed: bool = True,
) -> ScanHeader:
    """A scan's header without an order: what the scanner says stays, what it does not say is made, and both are marked.

    The study is the scan's own, unless the scanner gives patient and study. A patient without an identifier gets one that no
    hospital gives, so that no PACS files the images under whoever else has none.

    Args:
        believed: what the header says of the examination contradicts no order. Else the study is the scan's own and without an
            accession number, under which it would come to another's images.
    """
    patient = header.patient
    believed = believed and bool(patient.identifier)
    if not patient.identifier:
        word = "EMERGENCY" if emergency else "UNSCHEDULED"
        mark = hashlib.sha256(scan_id.encode("utf-8", "surrogatepass")).hexdigest()[:12].upper()
        name = patient.name or f"{word}^{began[0]} {began[1][:4]}"
        patient = Patient(f"{word}-{mark}", name, patient.birth_date, patient.sex, patient.weight_kg)
    study = replace(
        header.study,
        instance_uid=header.study.instance_uid
        if believed and is_uid(header.study.instance_uid)
        else derived_uid("unscheduled study", scan_id, patient.identifier),
        accession_number=header.study.accession_number if believed else "",
        date=header.study.date or began[0],
        time=header.study.time or began[1],
    )
    return replace(
        header,
        patient=patient,
        study=study,
        request=replace(request, unscheduled=True),
        parameters={**header.parameters, EMERGENCY_PARAMETERS[1]: "emergency"} if emergency else header.parameters,
        notes=(UNSCHEDULED, *header.notes),
    )
