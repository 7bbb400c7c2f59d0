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
from edge_runtime.delivery.configuration import Objects
from edge_runtime.delivery.evidence import record_of
from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.handover import Handover
from edge_runtime.delivery.outbox.states import State
from edge_runtime.delivery.outbox.store import Delivery, Outbox
from edge_runtime.delivery.uids import derived_uid
from edge_runtime.delivery.worklist.binding import UNSCHEDULED
from edge_runtime.delivery.worklist.order import Order
from edge_runtime.delivery.worklist.store import WorklistStore
from edge_runtime.errors import WorklistError
from edge_runtime.scan import Completeness, Method

RECONCILED = "Reconciled with an order after the scan"

NOT_LEFT = frozenset({State.HELD, State.QUEUED, State.DEAD})

_ENHANCED = "1.2.840.10008.5.1.4.1.1.4.1"
_REPLACED = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID",
    "StudyID", "StudyDescription", "ReferringPhysicianName", "SeriesInstanceUID", "SOPInstanceUID", "RequestAttributesSequence",
    "ProcedureCodeSequence",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What was done.

    Attributes:
        corrected: objects that were made and taken in for delivery.
        withdrawn: old ones that will not leave any more.
        elsewhere: old ones that a destination has, by destination.
    """

    corrected: int
    withdrawn: int
    elsewhere: dict[str, list[str]]


def reconcile(handover: Handover, outbox: Outbox, store: WorklistStore, scan_id: str, order: Order) -> Reconciled:
    """Binds an unscheduled scan to an order.

    Raises:
        WorklistError: no such scan, one that has an order, or nothing of it is in the outbox any more.
        NotPossible: one of its objects is being sent; try again.
        DeliveryError: a corrected object could not be written or taken in; doing it again goes on from there.
    """
    bound, began = store.bound(scan_id), store.first_bound(scan_id)
    if bound is None or began is None:
        raise WorklistError(f"scan {scan_id!r}: unknown; 'worklist scans' lists those that are")
    if bound.order is not None and bound.order != order:
        raise WorklistError(f"scan {scan_id}: has an order already, {bound.order.key}")
    if others := [one for one in store.scans_of(began.study_uid) if one != scan_id]:
        raise WorklistError(
            f"scan {scan_id}: its study has other scans too, {', '.join(others[:8])}: the PACS must move them"
        )
    found: dict[str, list[Delivery]] = defaultdict(list)
    for delivery in outbox.deliveries():
        if delivery.identity.study_uid == began.study_uid and delivery.path is not None:
            found[delivery.identity.sop_instance_uid].append(delivery)
    if not found:
        raise WorklistError(
            f"scan {scan_id}: none of its objects is in the outbox any more; correct them where they are"
        )
    elsewhere: dict[str, list[str]] = defaultdict(list)
    going = []
    for uid, deliveries in found.items():
        _take_in(handover, outbox.folder / "scans" / scan_id, deliveries[0], order)
        for delivery in deliveries:
            if delivery.state in NOT_LEFT:
                going.append(delivery.id)
            else:
                elsewhere[delivery.destination].append(uid)
    outbox.remove(going)
    store.bind(
        replace(
            bound,
            how="reconciled",
            order=order,
            study_uid=order.study_uid,
            patient_id=order.patient.identifier,
            remark="by an operator, after the scan",
            bound_at=time.time(),
        )
    )
    return Reconciled(len(found), len(going), dict(elsewhere))


def corrected(dataset: FileDataset, order: Order) -> FileDataset:
    """An object with patient, study and request of an order, and identifiers of its own; the argument is changed."""
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
    add_known(dataset, "StudyDescription", order.procedure_description)
    dataset.ReferringPhysicianName = order.referring_physician
    dataset.SeriesInstanceUID = derived_uid("reconciled series", str(before.SeriesInstanceUID), order.key)
    dataset.SOPInstanceUID = derived_uid("reconciled", str(before.SOPInstanceUID), order.key)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    request = Dataset()
    add_known(request, "RequestedProcedureID", order.procedure_id)
    add_known(request, "RequestedProcedureDescription", order.procedure_description)
    add_known(request, "ScheduledProcedureStepID", order.step_id)
    add_known(request, "ScheduledProcedureStepDescription", order.step_description)
    if order.protocol_codes:
        request.ScheduledProtocolCodeSequence = coded_items(order.protocol_codes)
    if len(request):
        dataset.RequestAttributesSequence = [request]
    if order.procedure_codes:
        dataset.ProcedureCodeSequence = coded_items(order.procedure_codes)
    if "ImageComments" in dataset:
        dataset.ImageComments = str(dataset.ImageComments).replace(UNSCHEDULED, RECONCILED)
    item = Dataset()
    item.ModifiedAttributesSequence = [before]
    item.AttributeModificationDateTime = time.strftime("%Y%m%d%H%M%S")
    item.ModifyingSystem, item.SourceOfPreviousValues = "edge-runtime", ""
    item.ReasonForTheAttributeModification = "CORRECT"
    dataset.OriginalAttributesSequence = [*dataset.get("OriginalAttributesSequence", []), item]
    return dataset


def _take_in(handover: Handover, folder: Path, delivery: Delivery, order: Order) -> None:
    assert delivery.path is not None
    try:
        dataset = dcmread(delivery.path)
    except (OSError, InvalidDicomError) as error:
        raise WorklistError(f"{delivery.path}: can't be read: {error}") from error
    record = record_of(dataset)
    if record is None:
        raise WorklistError(f"{delivery.path}: no image of this runtime; correct it where it is")
    made, content = corrected(dataset, order), io.BytesIO()
    made.save_as(content, enforce_file_format=True)
    path = folder / f"reconciled_{str(made.SeriesInstanceUID)[-12:]}" / f"{made.SOPInstanceUID}.dcm"
    write_whole(path, [content.getvalue()])
    form: Objects = "enhanced" if str(made.SOPClassUID) == _ENHANCED else "classic"
    method, completeness = Method(record["method"]), Completeness(record["completeness"])
    handover.object(path, f"{delivery.identity.label}, reconciled", method, completeness, delivery.urgency, form)
