r"""Images as classic MR Image Storage (DICOM PS3.3 A.4), the form that ordinary PACS take.

`build_dataset` turns one image into a dataset and touches nothing else; `SeriesWriter` writes datasets as files.

What a file says of itself, so that it can't be mistaken for something it is not:

- ImageType is ``ORIGINAL\PRIMARY\OTHER`` (pixels made from source data, PS3.3 C.7.6.1.1.2), then ``LEARNED``,
  ``CLASSICAL`` or ``ZERO_FILLED``, then ``PREVIEW`` or ``INCOMPLETE`` where so.
- ContentQualification is ``RESEARCH``; SyntheticData is ``YES`` where the scan was simulated. The classic MR IOD lists
  neither, which makes this a Standard Extended SOP Class (PS3.2): readers of MR images take it.
- SeriesDescription starts with a plain label. ImageComments carry the same in full, the evidence, and every note, among
  them each value from outside that did not fit its attribute and was altered or left out.
- ContributingEquipmentSequence names this runtime and, for learned images, the model, its digest, engine and precision.

**Pixels** are stored as uint16. The classic MR IOD has no RescaleSlope, so a Real World Value Mapping (PS3.3
C.7.6.16.2.11) leads back: pixel in the scanner's units = stored value × RealWorldValueSlope, a power of two and thus
exact. A stream does not know its brightest image in advance. The first image of a series therefore sets the slope so
that its peak needs 13 of the 16 bits, and the images after it share that slope, so that one window suits them all. As
noise is the same in all images of a scan, a dimmer image loses nothing to that. An image that would be clipped (eight
times brighter, at least) or too coarse gets its own slope and says so.

**Geometry.** ImagePositionPatient is the centre of the first voxel (PS3.3 C.7.6.2.1.1). An image whose directions the
scanner did not send, or that are no directions, can't leave out the Image Plane, whose attributes are Type 1. It gets
the identity orientation about the centre that was sent, with ``GEOMETRY UNKNOWN`` in SeriesDescription and at the top
of ImageComments, and an empty PatientPosition. It goes to a series and a Frame of Reference apart, so that no viewer
relates it to images whose place is known.

**Evidence** is machine-readable in private elements (group 0021, private creator ``EDGE RUNTIME``). Elements are absent
where the value is unknown:

=========== == =====================================================================
(0021,xx01) FD held-out residual, RMS, scanner's units after whitening
(0021,xx02) FD fitted residual, likewise
(0021,xx03) FD noise floor, likewise
(0021,xx04) UL number of held-out samples
(0021,xx05) UL number of fitted samples
(0021,xx06) LT where the noise floor comes from
(0021,xx07) FD RMS of the held-out samples themselves, units as above: the residual of an empty image
(0021,xx10) UT JSON: all of the above, method, completeness, key, provenance, notes
(0021,xx11) FD slope that the series began with; see Pixels
=========== == =====================================================================

**Identifiers.** The same scan, image and pixels always give the same UIDs, other pixels never do: writing again after a
crash makes no duplicate, and no PACS keeps old pixels under a UID that it has seen.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import io
import json
import math
import os
import re
import secrets
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from edge_runtime.delivery.fit import LO, LT, SH, ST, Fit, decimal, printable
from edge_runtime.delivery.pixels import LARGEST_STORED, stored_pixels
from edge_runtime.delivery.plane import Plane, plane_of
from edge_runtime.errors import DeliveryError
from edge_runtime.scan import Completeness, Evidence, Image, Limit, Method, Provenance, ScanHeader, Sequence

RUNTIME_NAME = "edge-runtime"
PRIVATE_GROUP = 0x0021
PRIVATE_CREATOR = "EDGE RUNTIME"
_SERIES_SLOPE = 0x11

_SYNTHETIC_DATA = 0x0008001C  # by tag: its keyword is unknown to dictionaries older than DICOM 2023e

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

# ScanningSequence and SequenceVariant (PS3.3 C.8.3.1) by what headers call a sequence. Anything else is RM, "research
# mode", and NONE: nothing is claimed that the scanner did not say.
_SPIN_ECHO = ("SE", "NONE")
_TURBO_SPIN_ECHO = ("SE", "SK")
_GRADIENT_ECHO = ("GR", "NONE")
_SPOILED_GRADIENT_ECHO = ("GR", "SP")
_SEQUENCES = {
    "SE": _SPIN_ECHO,
    "SPINECHO": _SPIN_ECHO,
    "TSE": _TURBO_SPIN_ECHO,
    "FSE": _TURBO_SPIN_ECHO,
    "RARE": _TURBO_SPIN_ECHO,
    "TURBOSPINECHO": _TURBO_SPIN_ECHO,
    "FASTSPINECHO": _TURBO_SPIN_ECHO,
    "GR": _GRADIENT_ECHO,
    "GRE": _GRADIENT_ECHO,
    "GRADIENTECHO": _GRADIENT_ECHO,
    "FLASH": _SPOILED_GRADIENT_ECHO,
    "SPGR": _SPOILED_GRADIENT_ECHO,
}

_METHODS = {
    Method.LEARNED: "AI image: a trained neural network estimated what was not measured",
    Method.CLASSICAL: "Classical image: reconstructed without a trained network",
    Method.ZERO_FILLED: "Zero-filled image: what was not measured is taken as zero",
}
# Stable numbers, so that a viewer lists the series of a scan in this order.
_METHOD_NUMBERS = {Method.LEARNED: 1, Method.CLASSICAL: 2, Method.ZERO_FILLED: 3}
_COMPLETENESS_NUMBERS = {Completeness.FINAL: 0, Completeness.INCOMPLETE: 1, Completeness.PREVIEW: 2}


@dataclasses.dataclass(frozen=True, slots=True)
class ScanUids:
    """The identifiers that all images of a scan share, and the seed of those they don't.

    Attributes:
        study: Study Instance UID.
        frame_of_reference: Frame of Reference UID of images whose place is known.
        seed: the scan's identity; series and images derive their UIDs from it.
        notes: what of the header's UIDs could not be used.
    """

    study: str
    frame_of_reference: str
    seed: str
    notes: tuple[str, ...] = ()


class SeriesWriter:
    """Writes the images of one scan as DICOM files.

    Images of one method, completeness, contrast, set, model and known or unknown place make one series, in one folder:
    ``<method>_<completeness>_<end of the series UID>/<SOP Instance UID>.dcm``. A file has its name only when it is
    whole and on disk; one that a power cut left unfinished begins with a dot and ends in ``.partial``. Files are
    readable by their owner only, as they name a patient.

    One writer belongs to one thread.

    Args:
        folder: where the series folders are made; missing parents are created.
        header: of the scan.
        scan_id: any text that is unique to this scan and the same after a restart, such as its journal's name. Without
            it, and without a Study Instance UID and measurement ID in the header, UIDs are stable for the life of this
            writer only.
    """

    def __init__(self, folder: Path, header: ScanHeader, *, scan_id: str = "") -> None:
        self.folder = folder
        self.header = header
        self.uids = scan_uids(header, scan_id)
        self._slopes: dict[str, float] = {}  # by series UID

    def write(self, image: Image, instance_number: int) -> Path:
        """Write an image; writing it again replaces the same file.

        Args:
            image: of this writer's scan.
            instance_number: its place in the series, from 1.

        Returns:
            The path of the file, which is on disk in full.

        Raises:
            DeliveryError: the image has no valid pixels, or the file could not be written; names path and cause.
        """
        series = series_uid(self.uids, image)
        folder = self.folder / f"{image.method.value}_{image.completeness.value}_{series[-12:]}"
        slope = self._slopes.get(series) or _slope_of_folder(folder)
        dataset = build_dataset(self.header, image, uids=self.uids, instance_number=instance_number, slope=slope)
        slope = _slope_of_series(dataset)
        if slope is not None:
            self._slopes[series] = slope
        encoded = io.BytesIO()
        dataset.save_as(encoded, enforce_file_format=True)
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        _write_whole(path, encoded.getvalue())
        return path


def scan_uids(header: ScanHeader, scan_id: str = "") -> ScanUids:
    """Identifiers of a scan: the header's where they are valid, else derived from what identifies the scan.

    A Study UID that the header does not give is shared with the examination's other scans only if patient and
    examination are named (patient ID with accession number, or with study ID and date). Otherwise every scan is a study
    of its own: images of two patients in one study would be worse than one examination in two.

    Args:
        header: of the scan.
        scan_id: see `SeriesWriter`. Where neither it nor the header tells this scan from others, it is drawn at random.
    """
    patient, study = header.patient, header.study
    notes = []
    if study.instance_uid and not _is_uid(study.instance_uid):
        notes.append("Study Instance UID: not a valid UID; another was made")
    if header.frame_of_reference_uid and not _is_uid(header.frame_of_reference_uid):
        notes.append("Frame of Reference UID: not a valid UID; another was made")
    if not scan_id and not (_is_uid(study.instance_uid) and header.measurement_id):
        scan_id = secrets.token_hex(16)
    examination = [study.instance_uid, study.accession_number, study.identifier, study.date]
    person = [patient.identifier, patient.name, patient.birth_date]
    scan = [scan_id, header.measurement_id, header.protocol_name, study.time, header.scanner.device_serial_number]
    seed = json.dumps([*scan, *examination, *person])
    if _is_uid(study.instance_uid):
        study_uid = study.instance_uid
    elif patient.identifier and (study.accession_number or (study.identifier and study.date)):
        study_uid = _derived_uid("study", header.scanner.institution, *examination, *person)
    else:
        study_uid = _derived_uid("study", seed)
    frame = header.frame_of_reference_uid
    return ScanUids(study_uid, frame if _is_uid(frame) else _derived_uid("frame", seed), seed, tuple(notes))


def series_uid(uids: ScanUids, image: Image) -> str:
    """Series Instance UID: one for each method, completeness, contrast, set, model and known or unknown place.

    Raises:
        DeliveryError: the image has no valid geometry.
    """
    return _derived_uid(
        "series",
        uids.study,
        uids.seed,
        image.method.value,
        image.completeness.value,
        image.key.contrast,
        image.key.set,
        image.provenance.bundle_digest,
        plane_of(image).known,  # a series has one Frame of Reference (PS3.3 C.7.4.1)
    )


def build_dataset(
    header: ScanHeader, image: Image, *, uids: ScanUids, instance_number: int, slope: float | None = None
) -> Dataset:
    """An image as an MR Image Storage dataset with file meta information, explicit VR little endian.

    Pure but for the time zone in which acquisition date and time are written.

    Args:
        header: of the scan.
        image: to be stored; ``pixels`` finite and not negative, ``(rows, columns)``.
        uids: from `scan_uids`.
        instance_number: its place in the series, from 1.
        slope: scanner's units per stored value that the series began with; None for its first image. An image that
            would be clipped or coarse gets its own.

    Raises:
        DeliveryError: pixels or field of view that no image can have.
    """
    plane = plane_of(image)
    stored, used_slope = stored_pixels(image.pixels, slope)
    series = series_uid(uids, image)
    # An empty image does not tell how bright its series is.
    shared_slope = slope or (used_slope if stored.any() else None)
    fit = Fit()
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    _add_identity(dataset, header, image, uids, plane, fit)
    _add_equipment(dataset, header, image.provenance, image.method, fit)
    _add_sequence(dataset, header, image, fit)
    _add_plane(dataset, image, plane, fit)
    _add_pixels(dataset, stored, used_slope)

    dataset.SeriesInstanceUID = series
    place = (*dataset.ImagePositionPatient, *dataset.ImageOrientationPatient, *dataset.PixelSpacing)
    digest = hashlib.sha256(stored.tobytes()).hexdigest()
    dataset.SOPInstanceUID = _derived_uid(
        "image", series, dataclasses.astuple(image.key), stored.shape, digest, used_slope.hex(), [str(x) for x in place]
    )
    dataset.SOPClassUID = MRImageStorage
    dataset.FrameOfReferenceUID = uids.frame_of_reference if plane.known else _derived_uid("frame", series)
    dataset.PositionReferenceIndicator = None
    dataset.InstanceNumber = instance_number
    dataset.AcquisitionNumber = image.key.repetition + 1
    dataset.SeriesNumber = (
        1000 * image.key.set
        + 100 * image.key.contrast
        + 10 * _METHOD_NUMBERS[image.method]
        + _COMPLETENESS_NUMBERS[image.completeness]
    )
    dataset.SeriesDescription = _series_description(header, image, plane, fit)
    _add_acquisition_time(dataset, image.acquired_at, fit)

    # Last, as fit knows all values by now. An image's notes repeat its header's.
    notes = list(dict.fromkeys([*image.notes, *header.notes, *uids.notes, *plane.notes, *fit.notes]))
    if shared_slope is not None and used_slope != shared_slope:
        notes.append("Stored values are not scaled as in the rest of this series: see Real World Value Slope")
    dataset.ImageComments = _comments(header, image, plane, notes)
    _add_evidence(dataset, header, image, shared_slope, notes)

    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _add_identity(dataset: Dataset, header: ScanHeader, image: Image, uids: ScanUids, plane: Plane, fit: Fit) -> None:
    """Patient, General Study, General Series and General Image modules (PS3.3 C.7.1.1, C.7.2.1, C.7.3.1, C.7.6.1)."""
    patient, study = header.patient, header.study
    dataset.PatientName = fit.person_name("Patient's name", patient.name)
    dataset.PatientID = fit.identifier("Patient ID", patient.identifier, LO)
    dataset.PatientBirthDate = fit.date("Patient's birth date", patient.birth_date)
    dataset.PatientSex = fit.one_of("Patient's sex", patient.sex, frozenset("MFO"))
    _add_known(dataset, "PatientWeight", fit.decimal("Patient's weight", patient.weight_kg))

    dataset.StudyInstanceUID = uids.study
    dataset.StudyDate = fit.date("Study date", study.date)
    dataset.StudyTime = fit.time("Study time", study.time)
    dataset.StudyID = fit.identifier("Study ID", study.identifier, SH)
    dataset.AccessionNumber = fit.identifier("Accession number", study.accession_number, SH)
    dataset.ReferringPhysicianName = fit.person_name("Referring physician's name", study.referring_physician)
    _add_known(dataset, "StudyDescription", fit.text("Study description", study.description, LO))

    dataset.Modality = "MR"
    _add_known(dataset, "ProtocolName", fit.text("Protocol name", header.protocol_name, LO))
    body_part = fit.code("Body part", header.body_part)
    _add_known(dataset, "BodyPartExamined", body_part)
    if body_part not in _UNPAIRED_BODY_PARTS:
        dataset.Laterality = None  # Type 2C, for paired body parts; the header does not say which side
    position = fit.one_of("Patient position", header.patient_position, _PATIENT_POSITIONS)
    dataset.PatientPosition = position if plane.known else None

    image_type = ["ORIGINAL", "PRIMARY", "OTHER", image.method.value.upper()]
    if image.completeness is not Completeness.FINAL:
        image_type.append(image.completeness.value.upper())
    dataset.ImageType = image_type
    dataset.ContentQualification = "RESEARCH"
    if header.simulated:
        dataset.add_new(_SYNTHETIC_DATA, "CS", "YES")
    dataset.BurnedInAnnotation = "NO"
    dataset.LossyImageCompression = "00"


def _add_equipment(dataset: Dataset, header: ScanHeader, provenance: Provenance, method: Method, fit: Fit) -> None:
    """General Equipment, what measured (PS3.3 C.7.5.1), and Contributing Equipment, what reconstructed (C.12.1)."""
    scanner = header.scanner
    dataset.Manufacturer = fit.text("Manufacturer", scanner.manufacturer, LO)
    _add_known(dataset, "ManufacturerModelName", fit.text("Scanner model", scanner.model, LO))
    _add_known(dataset, "InstitutionName", fit.text("Institution", scanner.institution, LO))
    _add_known(dataset, "StationName", fit.text("Station", scanner.station, SH))
    _add_known(dataset, "DeviceSerialNumber", fit.text("Serial number", scanner.device_serial_number, LO))

    equipment = [_processing_equipment(RUNTIME_NAME, provenance.runtime_version, "Reconstruction runtime", fit)]
    if method is Method.LEARNED:
        description = f"Trained model; {_model_identity(provenance)}"
        equipment.append(_processing_equipment(provenance.bundle_name, provenance.bundle_version, description, fit))
    dataset.ContributingEquipmentSequence = equipment


def _processing_equipment(model: str, version: str, description: str, fit: Fit) -> Dataset:
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = [_code("109102", "DCM", "Processing Equipment")]
    item.Manufacturer = RUNTIME_NAME
    _add_known(item, "ManufacturerModelName", fit.text("Model name", model, LO))
    _add_known(item, "SoftwareVersions", fit.text("Model version", version, LO))
    item.ContributionDescription = fit.text("Contribution", description, ST)
    return item


def _add_sequence(dataset: Dataset, header: ScanHeader, image: Image, fit: Fit) -> None:
    """MR Image module (PS3.3 C.8.3.1): how the contrast came about, as far as the header says."""
    sequence, contrast = header.sequence, image.key.contrast
    scanning, variant = _scanning_sequence(sequence)
    # Zero is how headers say "no inversion pulse".
    inversion_time = fit.decimal("Inversion time", _of_contrast(sequence.inversion_time_ms, contrast) or None)
    dataset.ScanningSequence = [scanning, "IR"] if inversion_time else scanning
    _add_known(dataset, "InversionTime", inversion_time)
    dataset.SequenceVariant = variant
    dataset.ScanOptions = None
    partitions = header.encoding.limits.get("kspace_encoding_step_2", Limit())
    dataset.MRAcquisitionType = "3D" if partitions.maximum > 0 else "2D"
    dataset.RepetitionTime = fit.decimal("Repetition time", _of_contrast(sequence.repetition_time_ms, contrast))
    dataset.EchoTime = fit.decimal("Echo time", _of_contrast(sequence.echo_time_ms, contrast))
    dataset.EchoTrainLength = None
    dataset.EchoNumbers = contrast + 1
    _add_known(dataset, "FlipAngle", fit.decimal("Flip angle", _of_contrast(sequence.flip_angle_deg, contrast)))
    _add_known(dataset, "SequenceName", fit.text("Sequence type", sequence.sequence_type, SH))
    _add_known(dataset, "MagneticFieldStrength", fit.decimal("Field strength", header.scanner.field_strength_t))
    frequency_hz = header.scanner.resonance_frequency_hz
    frequency_mhz = None if frequency_hz is None else frequency_hz / 1e6
    _add_known(dataset, "ImagingFrequency", fit.decimal("Resonance frequency", frequency_mhz))
    dataset.InPlanePhaseEncodingDirection = "COL"  # rows are phase encodes, so phase encoding runs along columns
    _add_known(dataset, "PercentSampling", fit.decimal("Measured share", 100 * image.measured_share))


def _scanning_sequence(sequence: Sequence) -> tuple[str, str]:
    name = re.sub(r"[^A-Z]", "", sequence.sequence_type.upper())
    return _SEQUENCES.get(name, ("RM", "NONE"))


def _of_contrast(values: tuple[float, ...], contrast: int) -> float | None:
    """The value of a contrast; a single value holds for all of them."""
    if len(values) == 1:
        return values[0]
    return values[contrast] if contrast < len(values) else None


def _add_plane(dataset: Dataset, image: Image, plane: Plane, fit: Fit) -> None:
    """Image Plane module (PS3.3 C.7.6.2).

    SpacingBetweenSlices is left out: one image of a stream does not tell it, and the positions do.
    """
    dataset.PixelSpacing = [decimal(plane.row_spacing), decimal(plane.column_spacing)]
    dataset.ImageOrientationPatient = [decimal(value) for value in (*plane.row, *plane.column)]
    dataset.ImagePositionPatient = [decimal(value) for value in plane.position]
    thickness = image.geometry.field_of_view_mm[2]
    dataset.SliceThickness = fit.decimal("Slice thickness", thickness) if thickness else None
    if plane.known:
        dataset.SliceLocation = decimal(float(np.cross(plane.row, plane.column) @ plane.position))


def _add_pixels(dataset: Dataset, stored: npt.NDArray[np.uint16], slope: float) -> None:
    """Image Pixel (PS3.3 C.7.6.3), VOI LUT (C.11.2) and Real World Value Mapping (C.7.6.16.2.11)."""
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0
    dataset.add_new("PixelData", "OW", stored.tobytes())

    # Percentiles, as a single bright voxel (an artefact, a vessel) must not darken the whole image.
    low, high = np.percentile(stored, (1.0, 99.5))
    width = max(1.0, float(high - low))
    dataset.WindowCenter = decimal(float(low) + width / 2)
    dataset.WindowWidth = decimal(width)

    mapping = Dataset()
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", LARGEST_STORED)
    mapping.RealWorldValueIntercept = 0.0
    mapping.RealWorldValueSlope = slope
    mapping.LUTExplanation = "Magnitude in the scanner's units"
    mapping.LUTLabel = "MAGNITUDE"
    mapping.MeasurementUnitsCodeSequence = [_code("[arb'U]", "UCUM", "arbitrary unit")]
    dataset.RealWorldValueMappingSequence = [mapping]


def _add_acquisition_time(dataset: Dataset, acquired_at: float, fit: Fit) -> None:
    """When the last readout arrived.

    Date and time are local, as on the scanner's own screen; the date-time carries its offset and is unambiguous. An
    offset for all dates (0008,0201) would claim to know the clock that gave study date and time.
    """
    try:
        moment = datetime.datetime.fromtimestamp(acquired_at, tz=datetime.timezone.utc)
        local = moment.astimezone()
    except (ValueError, OverflowError, OSError):
        fit.notes.append("Acquisition time: not a valid time and was left out")
        dataset.ContentDate = dataset.ContentTime = None
        return
    dataset.AcquisitionDateTime = moment.strftime("%Y%m%d%H%M%S.%f+0000")
    dataset.AcquisitionDate = dataset.ContentDate = local.strftime("%Y%m%d")
    dataset.AcquisitionTime = dataset.ContentTime = local.strftime("%H%M%S.%f")


def _series_description(header: ScanHeader, image: Image, plane: Plane, fit: Fit) -> str:
    """Labels, then the scanner's own description as far as there is room: a label is never cut."""
    labels = ["SIMULATED"] if header.simulated else []
    labels.append(image.method.label)
    if image.completeness is not Completeness.FINAL:
        labels.append(image.completeness.value.upper())
    if not plane.known:
        labels.append("GEOMETRY UNKNOWN")
    label = " ".join(labels)
    description = fit.text("Series description", header.series_description, LO - len(label) - 2)
    return f"{label}: {description}" if description else label


def _comments(header: ScanHeader, image: Image, plane: Plane, notes: list[str]) -> str:
    """ImageComments, the most important first; what does not fit is not dropped in silence."""
    provenance = image.provenance
    lines = ["RESEARCH: not for clinical use"]
    if header.simulated:
        lines.append("SIMULATED DATA: no patient was measured")
    if not plane.known:
        lines.append("GEOMETRY UNKNOWN: position, orientation and sides of this image are not those of the patient")
    lines.append(_METHODS[image.method])
    measured = f"{math.floor(100 * image.measured_share + 1e-6)} % of phase encodes measured"  # 99.9 % is not 100 %
    lines.append(
        {
            Completeness.PREVIEW: f"PARTIAL PREVIEW: {measured}; the scan was still running",
            Completeness.INCOMPLETE: f"INCOMPLETE SCAN: {measured}; the scan ended early",
            Completeness.FINAL: f"Complete scan: {measured}",
        }[image.completeness]
        + f"; acceleration {image.acceleration:.3g}"
    )
    lines.append(_evidence_line(image.evidence))
    lines.append(f"Made by {RUNTIME_NAME} {provenance.runtime_version}".rstrip())
    if image.method is Method.LEARNED:
        lines[-1] += f"; {_model_identity(provenance)}"
    already_said = image.evidence.unconfirmed if image.evidence else ""
    lines += [f"Note: {note}" for note in notes if note != already_said]

    lines = [printable(line) for line in lines]
    comments = "\r\n".join(lines)
    if len(comments) <= LT:
        return comments
    ending = " ...\r\nThe rest did not fit; all notes are in private element EDGE RUNTIME 10"
    return comments[: LT - len(ending)] + ending


def _evidence_line(evidence: Evidence | None) -> str:
    if evidence is None:
        return "EVIDENCE: none; how well this image agrees with the measurement was not determined"
    parts = []
    if evidence.held_out_residual is None and not evidence.unconfirmed:
        parts.append("no samples held out")
    elif evidence.held_out_residual is not None:
        ratio = evidence.held_out_ratio
        in_noise = "" if ratio is None else f" = {ratio:.2f} x noise"
        empty = "" if evidence.held_out_rms is None else f" (an empty image: {evidence.held_out_rms:.4g})"
        parts.append(
            f"held-out residual {evidence.held_out_residual:.4g}{in_noise}{empty} over {evidence.held_out_samples} samples "
            "that the network did not see"
        )
    if evidence.unconfirmed:
        parts.append(evidence.unconfirmed)
    elif evidence.learned_share is not None:
        parts.append(f"{evidence.learned_share:.0%} of the network's correction applied, as they chose")
    parts.append(f"fitted residual {evidence.fitted_residual:.4g} over {evidence.fitted_samples} samples")
    floor = "unknown" if evidence.noise_floor is None else f"{evidence.noise_floor:.4g}"
    parts.append(f"noise floor {floor} ({evidence.noise_source})" if evidence.noise_source else f"noise floor {floor}")
    return "EVIDENCE: " + "; ".join(parts)


def _model_identity(provenance: Provenance) -> str:
    return (
        f"model {provenance.bundle_name or 'unnamed'} {provenance.bundle_version or 'without version'}, "
        f"SHA-256 {provenance.bundle_digest or 'unknown'}, engine {provenance.engine or 'unknown'}, "
        f"precision {provenance.precision or 'unknown'}"
        + (f"; its quality limits were overridden: {provenance.bundle_override}" if provenance.bundle_override else "")
    )


def _add_evidence(
    dataset: Dataset, header: ScanHeader, image: Image, shared_slope: float | None, notes: list[str]
) -> None:
    """Private elements of the module's table. Numbers that are not finite are unknown, as JSON has none."""
    block = dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    evidence = None if image.evidence is None else dataclasses.asdict(image.evidence)
    if evidence is not None:
        numbers = {0x01: "held_out_residual", 0x02: "fitted_residual", 0x03: "noise_floor", 0x07: "held_out_rms"}
        for element, name in numbers.items():
            evidence[name] = _finite(evidence[name])
            if evidence[name] is not None:
                block.add_new(element, "FD", evidence[name])
        block.add_new(0x04, "UL", evidence["held_out_samples"])
        block.add_new(0x05, "UL", evidence["fitted_samples"])
        if evidence["noise_source"]:
            block.add_new(0x06, "LT", printable(evidence["noise_source"])[:LT])
    record = {
        "schema": 1,
        "method": image.method.value,
        "completeness": image.completeness.value,
        "simulated": header.simulated,
        "key": dataclasses.asdict(image.key),
        "measured_share": _finite(image.measured_share),
        "acceleration": _finite(image.acceleration),
        "acquired_at": _finite(image.acquired_at),
        "provenance": dataclasses.asdict(image.provenance),
        "evidence": evidence,
        "notes": notes,
    }
    block.add_new(0x10, "UT", json.dumps(record, sort_keys=True, allow_nan=False))
    if shared_slope is not None:
        block.add_new(_SERIES_SLOPE, "FD", shared_slope)


def _add_known(dataset: Dataset, keyword: str, value: str | None) -> None:
    """Type 3: absent, not empty, where nothing is known."""
    if value:
        setattr(dataset, keyword, value)


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _is_uid(text: str) -> bool:
    # PS3.5 9.1. Not pydicom's own check, which lets a final newline pass and roots that can't be.
    return len(text) <= 64 and re.fullmatch(r"[012](\.(0|[1-9][0-9]*))+", text) is not None


def _derived_uid(*identity: object) -> str:
    # As JSON, so that ("ab", "c") and ("a", "bc") differ and any text, even a lone surrogate, can be hashed.
    return str(generate_uid(entropy_srcs=[json.dumps(identity)]))


def _slope_of_series(dataset: Dataset) -> float | None:
    try:
        return float(dataset.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)[_SERIES_SLOPE].value)
    except KeyError:
        return None


def _slope_of_folder(folder: Path) -> float | None:
    """The slope that a series was begun with before a restart; None where there is no such series."""
    for path in folder.glob("*.dcm"):
        try:
            slope = _slope_of_series(dcmread(path, stop_before_pixels=True))
        except (OSError, InvalidDicomError):
            continue  # somebody else's file; at worst brightness is not even across the restart
        if slope is not None:
            return slope
    return None


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that exists in full or not at all, whatever fails meanwhile.

    Raises:
        DeliveryError: names path and cause.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        for folder in (path.parent, path.parent.parent):  # the new names must survive a power cut, too
            _sync_folder(folder)
    except OSError as error:
        raise DeliveryError(f"{path}: could not be written: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
