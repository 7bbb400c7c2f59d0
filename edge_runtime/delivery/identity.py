"""Who was scanned, for which order, and what the image is: patient, study, series and image in general."""

from __future__ import annotations

from pydicom.dataset import Dataset

from edge_runtime.delivery.codes import add_known, coded_items
from edge_runtime.delivery.fit import LO, SH, Fit
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.uids import ScanUids
from edge_runtime.scan import Completeness, Request, ScanHeader

ModalityPerformedProcedureStep = "1.2.840.10008.3.1.2.3.3"

SYNTHETIC_DATA = 0x0008001C  # by tag: its keyword is unknown to dictionaries older than DICOM 2023e

# PS3.3 C.7.3.1.1.2, the positions of a human patient.
_PATIENT_POSITIONS = frozenset(
    """
    HFP HFS HFDR HFDL HFV HFI FFDR FFDL FFP FFS FFV FFI LFP LFS RFP RFS AFDR AFDL AFP AFS PFDR PFDL PFP PFS
    """.split()
)

# PS3.16 annex L. A part that is not listed may be one of a pair.
_UNPAIRED_BODY_PARTS = frozenset(
    """
    ABDOMEN ABDOMENPELVIS AORTA BLADDER BRAIN CHEST CHESTABDOMEN CHESTABDPELVIS COCCYX CSPINE CTSPINE FACE HEAD
    HEADNECK HEART JAW LIVER LSPINE LSSPINE MAXILLA MEDIASTINUM NECK NECKCHEST NOSE PANCREAS PELVIS PROSTATE RECTUM
    SKULL SPINE SPLEEN SSPINE STERNUM STOMACH THYROID TLSPINE TSPINE UTERUS WHOLEBODY
    """.split()
)


def add_patient_and_study(dataset: Dataset, header: ScanHeader, uids: ScanUids, fit: Fit) -> None:
    """Patient and General Study modules (PS3.3 C.7.1.1, C.7.2.1), the order, and what the series is of (C.7.3.1)."""
    patient, study = header.patient, header.study
    dataset.PatientName = fit.person_name("Patient's name", patient.name)
    dataset.PatientID = fit.identifier("Patient ID", patient.identifier, LO)
    add_known(dataset, "IssuerOfPatientID", fit.identifier("Issuer of patient ID", patient.issuer, LO))
    dataset.PatientBirthDate = fit.date("Patient's birth date", patient.birth_date)
    dataset.PatientSex = fit.one_of("Patient's sex", patient.sex, frozenset("MFO"))
    add_known(dataset, "PatientWeight", fit.decimal("Patient's weight", patient.weight_kg))

    dataset.StudyInstanceUID = uids.study
    dataset.StudyDate = fit.date("Study date", study.date)
    dataset.StudyTime = fit.time("Study time", study.time)
    dataset.StudyID = fit.identifier("Study ID", study.identifier, SH)
    dataset.AccessionNumber = fit.identifier("Accession number", study.accession_number, SH)
    dataset.ReferringPhysicianName = fit.person_name("Referring physician's name", study.referring_physician)
    add_known(dataset, "StudyDescription", fit.text("Study description", study.description, LO))

    if header.request is not None:
        _add_request(dataset, header.request, fit)

    dataset.Modality = "MR"
    add_known(dataset, "ProtocolName", fit.text("Protocol name", header.protocol_name, LO))
    body_part = fit.code("Body part", header.body_part)
    add_known(dataset, "BodyPartExamined", body_part)
    if body_part not in _UNPAIRED_BODY_PARTS:
        dataset.Laterality = None  # Type 2C, for paired body parts; the header does not say which side
    if header.simulated:
        dataset.add_new(SYNTHETIC_DATA, "CS", "YES")


def add_identity(dataset: Dataset, header: ScanHeader, kind: Kind, uids: ScanUids, fit: Fit) -> None:
    """Those modules, and what else images of a kind say in General Series and General Image (PS3.3 C.7.3.1, C.7.6.1)."""
    add_patient_and_study(dataset, header, uids, fit)
    position = fit.one_of("Patient position", header.patient_position, _PATIENT_POSITIONS)
    dataset.PatientPosition = position if kind.placed else None

    image_type = ["ORIGINAL", "PRIMARY", "OTHER", kind.method.value.upper()]
    if kind.completeness is not Completeness.FINAL:
        image_type.append(kind.completeness.value.upper())
    dataset.ImageType = image_type
    dataset.ContentQualification = "RESEARCH"
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def _add_request(dataset: Dataset, request: Request, fit: Fit) -> None:
    """The order that is answered, and the step that was performed for it (PS3.3 C.7.3.1, tables 10-9 and 10-16)."""
    if not request.unscheduled:
        item = Dataset()
        add_known(item, "RequestedProcedureID", fit.identifier("Requested Procedure ID", request.procedure_id, SH))
        description = fit.text("Requested procedure", request.procedure_description, LO)
        add_known(item, "RequestedProcedureDescription", description)
        if request.procedure_codes:
            item.RequestedProcedureCodeSequence = coded_items(request.procedure_codes)
        add_known(item, "ScheduledProcedureStepID", fit.identifier("Scheduled step ID", request.step_id, SH))
        add_known(item, "ScheduledProcedureStepDescription", fit.text("Scheduled step", request.step_description, LO))
        if request.protocol_codes:
            item.ScheduledProtocolCodeSequence = coded_items(request.protocol_codes)
        if len(item):
            dataset.RequestAttributesSequence = [item]
        if request.procedure_codes:
            dataset.ProcedureCodeSequence = coded_items(request.procedure_codes)
    if request.performed_uid:
        reference = Dataset()
        reference.ReferencedSOPClassUID = ModalityPerformedProcedureStep
        reference.ReferencedSOPInstanceUID = request.performed_uid
        dataset.ReferencedPerformedProcedureStepSequence = [reference]
        dataset.PerformedProcedureStepID = request.performed_id
        add_known(dataset, "PerformedProcedureStepStartDate", request.started_date)
        add_known(dataset, "PerformedProcedureStepStartTime", request.started_time)
        if request.protocol_codes:
            dataset.PerformedProtocolCodeSequence = coded_items(request.protocol_codes)
