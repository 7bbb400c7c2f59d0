"""What the hospital is told of the steps that scans perform (Modality Performed Procedure Step, PS3.4 annex F).

A message for each scan that begins (N-CREATE, in progress) and one for its end (N-SET, completed or discontinued), with the series
and images that were made. They wait in the worklist's file until the hospital has taken them, in the order in which it happened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from edge_runtime.delivery.codes import coded_items
from edge_runtime.delivery.fit import LO, SH, Fit
from edge_runtime.delivery.identity import add_patient_and_study
from edge_runtime.delivery.uids import derived_uid, scan_uids
from edge_runtime.scan import ScanHeader

Kind = Literal["begun", "ended"]

UNICODE = "ISO_IR 192"


@dataclass(frozen=True, slots=True)
class Made:
    """An image that a step has made, as its file says."""

    series_uid: str
    series_description: str
    protocol_name: str
    sop_class_uid: str
    sop_instance_uid: str


def begun(header: ScanHeader, station_ae: str) -> Dataset:
    """The attributes of a step that is in progress (PS3.4 table F.7.2-1, N-CREATE), by the same rules as those of the images.

    Args:
        header: of the scan, as its order has it or marked as unscheduled.
        station_ae: this device's AE title.
    """
    fit, request, said = Fit(), header.request, Dataset()
    assert request is not None
    add_patient_and_study(said, header, scan_uids(header), fit)
    study = Dataset()
    study.StudyInstanceUID, study.ReferencedStudySequence = header.study.instance_uid, []
    study.AccessionNumber = said.AccessionNumber
    study.RequestedProcedureID = fit.identifier("Requested Procedure ID", request.procedure_id, SH)
    study.RequestedProcedureDescription = fit.text("Requested procedure", request.procedure_description, LO)
    study.ScheduledProcedureStepID = fit.identifier("Scheduled step ID", request.step_id, SH)
    study.ScheduledProcedureStepDescription = fit.text("Scheduled step", request.step_description, LO)
    study.ScheduledProtocolCodeSequence = coded_items(request.protocol_codes)
    step = Dataset()
    step.SpecificCharacterSet = UNICODE
    for keyword in ("Modality", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID"):
        setattr(step, keyword, said.get(keyword, ""))
    step.ScheduledStepAttributesSequence = [study]
    step.PerformedProcedureStepID = request.performed_id
    step.PerformedStationAETitle = station_ae
    step.PerformedStationName = fit.text("Station name", header.scanner.station, SH)
    step.PerformedProcedureStepStartDate = request.started_date
    step.PerformedProcedureStepStartTime = request.started_time
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.PerformedProcedureStepDescription = study.ScheduledProcedureStepDescription
    step.ProcedureCodeSequence = coded_items(request.procedure_codes)
    for keyword in (
        "PerformedLocation", "PerformedProcedureTypeDescription", "PerformedProcedureStepEndDate",
        "PerformedProcedureStepEndTime",
    ):  # fmt: skip
        setattr(step, keyword, "")
    step.ReferencedPatientSequence, step.PerformedProtocolCodeSequence, step.PerformedSeriesSequence = [], [], []
    return step


def ended(step_uid: str, made: Iterable[Made], date: str, time: str, *, whole: bool) -> Dataset:
    """What changes when a step is over (the same table, N-SET).

    Args:
        step_uid: of the step. One that has made nothing has a series without images, as the table wants one.
    """
    step = Dataset()
    step.SpecificCharacterSet = UNICODE
    step.PerformedProcedureStepStatus = "COMPLETED" if whole else "DISCONTINUED"
    step.PerformedProcedureStepEndDate, step.PerformedProcedureStepEndTime = date, time
    series: dict[str, Dataset] = {}
    for image in made:
        if image.series_uid not in series:
            series[image.series_uid] = _series(image.series_uid, image.series_description, image.protocol_name)
        reference = Dataset()
        reference.ReferencedSOPClassUID = image.sop_class_uid
        reference.ReferencedSOPInstanceUID = image.sop_instance_uid
        series[image.series_uid].ReferencedImageSequence.append(reference)
    step.PerformedSeriesSequence = list(series.values()) or [
        _series(derived_uid("series of nothing", step_uid), "", "")
    ]
    return step


def _series(uid: str, description: str, protocol_name: str) -> Dataset:
    item = Dataset()
    item.SeriesInstanceUID, item.SeriesDescription = uid, description
    item.ProtocolName = protocol_name or description or "MR"
    item.PerformingPhysicianName = item.OperatorsName = item.RetrieveAETitle = ""
    item.ReferencedImageSequence, item.ReferencedNonImageCompositeSOPInstanceSequence = [], []
    return item


def images_in(scan: Path) -> list[Made]:
    """The images that lie in a scan's folder, whatever else does."""
    made = []
    for path in sorted(scan.glob("*/*.dcm")):
        try:
            dataset = dcmread(path, stop_before_pixels=True)
            made.append(
                Made(
                    str(dataset.SeriesInstanceUID),
                    str(dataset.get("SeriesDescription", "")),
                    str(dataset.get("ProtocolName", "")),
                    str(dataset.SOPClassUID),
                    str(dataset.SOPInstanceUID),
                )
            )
        except (OSError, InvalidDicomError, AttributeError):
            continue  # nothing of ours
    return made
