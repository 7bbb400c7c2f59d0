"""An unscheduled scan gets its order afterwards: corrected objects in place of those that name nobody.

What the images show stays; patient, study and request are the order's. Each corrected object has identifiers of its own, derived
from the old one and the order, so that doing it twice makes no third object. Old objects that have not left are taken back. Those
that have are for the PACS to merge or delete (IHE Patient Information Reconciliation): they are named, and the corrected ones tell
in their Original Attributes (PS3.3 C.12.1) what they took the place of.
"""

from __future__ import annotations

import io
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError

from edge_runtime.delivery.codes import add_known, coded_items
from edge_runtime.delivery.evidence import change_notes, record_of
from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.handover import identity_of
from edge_runtime.delivery.outbox.states import NOT_LEFT, State
from edge_runtime.delivery.outbox.store import HAD_BEEN_SENT, Delivery, Outbox, Wanted
from edge_runtime.delivery.uids import derived_uid
from edge_runtime.delivery.under_way import UnderWay
from edge_runtime.delivery.worklist.binding import NO_ORDER, UNSCHEDULED
from edge_runtime.delivery.worklist.order import Order
from edge_runtime.delivery.worklist.store import Bound, WorklistStore
from edge_runtime.errors import WorklistError

RECONCILED = "Reconciled with an order after the scan"

WHY = "a corrected object took its place"
LEAVING_S = 10.0
"""How long what is being sent is waited for."""

_REPLACED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
    "StudyID", "StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName", "SeriesInstanceUID", "SOPInstanceUID",
    "RequestAttributesSequence", "ProcedureCodeSequence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done.

    Attributes:
        corrected: objects that were made and taken in for delivery.
        withdrawn: old ones that will not leave any more.
        untouched: objects of the scan that are no images.
        elsewhere: old ones that a destination has, by destination.
        leaving: old deliveries that were being sent all the while; doing it again takes them back, or tells that they have left.
    """

    corrected: int
    withdrawn: int
    untouched: int
    elsewhere: dict[str, list[str]]
    leaving: list[int]


def reconcile(
    outbox: Outbox, store: WorklistStore, scan_id: str, order: Order, *, other_patient: bool = False
) -> Reconciled:
    """Binds an unscheduled scan to an order.

    Args:
        other_patient: somebody has made sure that the scan is of the order's patient, though its header names another.

    Raises:
        WorklistError: no such scan, one that goes on, has an order or names another patient, or nothing of it is in the outbox.
        DeliveryError: a corrected object could not be written or taken in; doing it again goes on from there.
    """
    began = _unscheduled(outbox.folder, store, scan_id, order)
    alone = store.scans_of(began.study_uid) == [scan_id]
    found: dict[str, list[Delivery]] = defaultdict(list)
    old: dict[int, Delivery] = {}  # whether its file is still here or not
    known = set()
    for delivery in outbox.deliveries():
        known.add(delivery.identity.sop_instance_uid)
        if _is_of(delivery, scan_id, began, alone=alone):
            if delivery.path is not None:
                found[delivery.identity.sop_instance_uid].append(delivery)
            old[delivery.id] = delivery
    images = {uid: image for uid, deliveries in found.items() if (image := _image(deliveries[0])) is not None}
    done_before = store.bound(scan_id) != began
    if not images and not done_before:
        raise WorklistError(
            f"scan {scan_id}: none of its images is in the outbox any more; correct them where they are"
        )
    for image in images.values():
        _same_patient(scan_id, str(image.PatientID), order, other_patient)
    for uid, image in images.items():
        if (
            _identifier(uid, order) not in known
        ):  # else it was taken in before; a second version would be another object
            _take_in(outbox, scan_id, image, found[uid], order, store.study_began(order.study_uid))
    if not done_before:
        remark, now = "by an operator, after the scan", time.time()
        store.bind(
            replace(
                began, how="reconciled", order=order, study_uid=order.study_uid, patient_id=order.patient.identifier,
                remark=remark, bound_at=now,
            )
        )  # fmt: skip
    states = _taken_back(outbox, [number for number, one in old.items() if one.identity.sop_instance_uid in images])
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for number, one in old.items():
        had_been_sent = one.state is State.WITHDRAWN and one.reason.startswith(HAD_BEEN_SENT)
        if had_been_sent or states.get(number, one.state) in (State.SENT, State.COMMITTED):
            elsewhere[one.destination].append(one.identity.sop_instance_uid)
    return Reconciled(
        corrected=len(images),
        withdrawn=sum(state in NOT_LEFT for state in states.values()),
        untouched=len(found) - len(images),
        elsewhere=dict(elsewhere),
        leaving=[number for number, state in states.items() if state is State.SENDING],
    )


def _taken_back(outbox: Outbox, numbers: list[int]) -> dict[int, State]:
    """Withdraws deliveries; waits a while for those that are on a connection just now. The state that each was in."""
    until = time.monotonic() + LEAVING_S
    states = outbox.withdraw(numbers, WHY)
    while (leaving := [number for number, state in states.items() if state is State.SENDING]) and (
        time.monotonic() < until
    ):
        time.sleep(0.1)
        states |= outbox.withdraw(leaving, WHY)
    return states


def _unscheduled(outbox: Path, store: WorklistStore, scan_id: str, order: Order) -> Bound:
    """What the scan was when it began.

    Raises:
        WorklistError: it can't be given this order.
    """
    bound, began = store.bound(scan_id), store.first_bound(scan_id)
    if bound is None or began is None:
        raise WorklistError(f"scan {scan_id!r}: unknown; 'worklist scans' lists those that are")
    if not bound.ended or scan_id in UnderWay(outbox).scans():
        raise WorklistError(
            f"scan {scan_id}: goes on, or objects of it are still to be made; wait for its end, or for the next start of the server"
        )
    if bound.order is not None and (bound.order != order or bound.how != "reconciled"):
        raise WorklistError(f"scan {scan_id}: has an order already, {bound.order.key}")
    return began


def _is_of(delivery: Delivery, scan_id: str, began: Bound, *, alone: bool) -> bool:
    """Whether an object was made of a scan, by its record; where that does not say, by a study that no other scan has."""
    identity = delivery.identity
    if identity.study_uid != began.study_uid:
        return False
    return identity.scan_id == scan_id or (not identity.scan_id and alone)


def _same_patient(scan_id: str, identifier: str, order: Order, other_patient: bool) -> None:
    made_up = identifier.startswith(("UNSCHEDULED-", "EMERGENCY-"))
    if identifier != order.patient.identifier and not made_up and not other_patient:
        raise WorklistError(
            f"scan {scan_id}: its header names another patient than the order; --other-patient says that you have made sure"
        )


def _image(delivery: Delivery) -> FileDataset | None:
    """An object with its pixels; None where it is no image of this runtime, such as a raw scan."""
    assert delivery.path is not None
    try:
        dataset = dcmread(delivery.path)
    except (OSError, InvalidDicomError) as error:
        raise WorklistError(f"{delivery.path}: can't be read: {error}") from error
    return dataset if record_of(dataset) is not None else None


def corrected(dataset: FileDataset, order: Order, study_began: tuple[str, str] | None = None) -> FileDataset:
    """An object with patient, study and request of an order, and identifiers of its own; the argument is changed.

    Args:
        study_began: date and time of the order's study, where it has scans already.
    """
    before = Dataset()
    for keyword in _REPLACED:
        if keyword in dataset:
            before.add(dataset[keyword])
            del dataset[keyword]
    patient = order.patient
    dataset.PatientName, dataset.PatientID = patient.name, patient.identifier
    add_known(dataset, "IssuerOfPatientID", patient.issuer)
    dataset.PatientBirthDate, dataset.PatientSex = patient.birth_date, patient.sex
    dataset.AccessionNumber, dataset.StudyInstanceUID = order.accession_number, order.study_uid
    dataset.StudyID = order.procedure_id
    if study_began is None:
        dataset.StudyDate, dataset.StudyTime = before.get("StudyDate", ""), before.get("StudyTime", "")
    else:
        dataset.StudyDate, dataset.StudyTime = study_began
    add_known(dataset, "StudyDescription", order.procedure_description)
    dataset.ReferringPhysicianName = order.referring_physician
    dataset.SeriesInstanceUID = derived_uid("reconciled series", str(before.SeriesInstanceUID), order.key)
    dataset.SOPInstanceUID = _identifier(str(before.SOPInstanceUID), order)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    request = Dataset()
    add_known(request, "RequestedProcedureID", order.procedure_id)
    add_known(request, "RequestedProcedureDescription", order.procedure_description)
    add_known(request, "ScheduledProcedureStepID", order.step_id)
    add_known(request, "ScheduledProcedureStepDescription", order.step_description)
    if order.procedure_codes:
        request.RequestedProcedureCodeSequence = coded_items(order.procedure_codes)
    if order.protocol_codes:
        request.ScheduledProtocolCodeSequence = coded_items(order.protocol_codes)
    if len(request):
        dataset.RequestAttributesSequence = [request]
    if order.procedure_codes:
        dataset.ProcedureCodeSequence = coded_items(order.procedure_codes)
    doubts = [f"the order: {note}" for note in order.notes]

    def told_otherwise(notes: list[str]) -> list[str]:
        kept = [RECONCILED if note == UNSCHEDULED else note for note in notes if not note.startswith(NO_ORDER)]
        return [*kept, *doubts]

    _say(dataset, "ImageComments")
    change_notes(dataset, told_otherwise)
    for frame in dataset.get("PerFrameFunctionalGroupsSequence", []):
        for content in frame.get("FrameContentSequence", []):
            _say(content, "FrameComments")
        change_notes(frame, told_otherwise)
    item = Dataset()
    item.ModifiedAttributesSequence = [before]
    item.AttributeModificationDateTime = time.strftime("%Y%m%d%H%M%S")
    item.ModifyingSystem, item.SourceOfPreviousValues = "edge-runtime", ""
    item.ReasonForTheAttributeModification = "CORRECT"
    dataset.OriginalAttributesSequence = [*dataset.get("OriginalAttributesSequence", []), item]
    return dataset


def _say(dataset: Dataset, keyword: str) -> None:
    """Changes the lines of a comment that hold notes; see `labels.comments_of`."""
    if keyword in dataset:
        lines = str(dataset.get(keyword)).splitlines()
        kept = [line.replace(UNSCHEDULED, RECONCILED) for line in lines if not line.startswith(f"Note: {NO_ORDER}")]
        setattr(dataset, keyword, "\r\n".join(kept))


def _identifier(sop_instance_uid: str, order: Order) -> str:
    """Of the object that takes another's place."""
    return derived_uid("reconciled", sop_instance_uid, order.key)


def _take_in(
    outbox: Outbox,
    scan_id: str,
    image: FileDataset,
    before: list[Delivery],
    order: Order,
    study_began: tuple[str, str] | None,
) -> None:
    """A corrected object, for the destinations of the old one."""
    made, content = corrected(image, order, study_began), io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    folder = outbox.folder / "scans" / scan_id / f"reconciled_{str(made.SeriesInstanceUID)[-12:]}"
    path = folder / f"{made.SOPInstanceUID}.dcm"
    write_whole(path, [content.getvalue()])
    wanted = [
        Wanted(one.destination, State.HELD if one.state is State.HELD else State.QUEUED, one.urgency)
        for one in before
        if one.state is not State.WITHDRAWN
    ]
    outbox.add(path, identity_of(path, f"{before[0].identity.label}, reconciled", scan_id), wanted)
