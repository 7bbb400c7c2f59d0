r"""A series as one Enhanced MR Image object (DICOM PS3.3 A.36), for receivers that prefer that to many classic ones.

It is made of the series' classic files (see `dicom`), which say all that is known: what a crash left on the disk can be gathered as
well. Frames are read one at a time when they are written, so that memory does not grow with their pixels.

- ImageType is ``DERIVED\PRIMARY\OTHER\NONE``. ORIGINAL would oblige every frame to state how it was measured, from steady state and
  spoiling to the specific absorption rate, with no way to say that the scanner did not tell. What it did tell is there, as in the
  classic objects.
- Functional groups that are the same in all frames are shared. Each frame has its place in a stack, its position in time, its
  comments, and its evidence in private elements, as the classic object has them.
- Pixels, window and Real World Value Mapping are those of the classic objects. Rescaling is the identity, for which windows hold.
- Series and object have identifiers of their own, derived from the frames': the same frames always make the same object, others
  never do.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import EnhancedMRImageStorage

from edge_runtime.delivery.anatomy import unpaired_region
from edge_runtime.delivery.codes import coded_items
from edge_runtime.delivery.encoding import LONGEST_VALUE_BYTES, beginning, element_header, encoded_in_order
from edge_runtime.delivery.evidence import PRIVATE_CREATOR, PRIVATE_GROUP, record_of
from edge_runtime.delivery.fit import LT
from edge_runtime.delivery.identity import SYNTHETIC_DATA
from edge_runtime.delivery.uids import derived_uid
from edge_runtime.errors import DeliveryError

MOST_FRAMES = 10_000
"""Of one object: their elements are in memory together."""

SERIES_NUMBER_STEP = 5
"""Between a classic series' number and that of its enhanced object; completeness takes less than that (see `dicom`)."""

UNKNOWN = "UNKNOWN"
"""For what is obligatory of a scanner that does not say it (Enhanced General Equipment, PS3.3 C.7.5.2)."""

_PIXEL_DATA = 0x7FE00010
_SAME_PLACE_MM = 1e-3
_DERIVED = ["DERIVED", "PRIMARY", "OTHER", "NONE"]

_KEPT = """
    SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientWeight StudyInstanceUID
    StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName StudyDescription RequestAttributesSequence
    ProcedureCodeSequence ReferencedPerformedProcedureStepSequence PerformedProcedureStepID PerformedProcedureStepStartDate
    PerformedProcedureStepStartTime PerformedProtocolCodeSequence Modality ProtocolName BodyPartExamined PatientPosition
    SeriesDescription FrameOfReferenceUID PositionReferenceIndicator Manufacturer ManufacturerModelName InstitutionName StationName
    DeviceSerialNumber ContributingEquipmentSequence ContentQualification BurnedInAnnotation LossyImageCompression
    MagneticFieldStrength ScanningSequence SequenceVariant SequenceName RepetitionTime EchoTime InversionTime FlipAngle
    ImagingFrequency InPlanePhaseEncodingDirection Rows Columns SamplesPerPixel PhotometricInterpretation BitsAllocated BitsStored
    HighBit PixelRepresentation
""".split()
"""Elements of the classic objects that the enhanced one has likewise.

Those of the MR Image module are not of this IOD, which makes it a Standard Extended SOP Class, too: the groups MR Timing and MR
FOV/Geometry, where they belong, take no repetition time without trains of echoes, specific absorption rates and more.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class EnhancedSeries:
    """A series' object, without its pixels.

    Attributes:
        frames: files of the frames, in their order.
    """

    dataset: Dataset
    frames: tuple[Path, ...]
    frame_bytes: int

    def content(self) -> Iterator[bytes]:
        """The file, in pieces.

        Raises:
            DeliveryError: a frame's file is gone or altered.
        """
        yield beginning(str(self.dataset.SOPClassUID), str(self.dataset.SOPInstanceUID))
        yield encoded_in_order(self.dataset)
        yield element_header(_PIXEL_DATA, b"OW", len(self.frames) * self.frame_bytes)
        for path in self.frames:
            pixels: bytes = _read(path, pixels=True).PixelData
            if len(pixels) != self.frame_bytes:
                raise DeliveryError(f"{path}: has changed while its series was gathered")
            yield pixels


def enhanced_series(paths: Sequence[Path]) -> EnhancedSeries:
    """The object of a series.

    Args:
        paths: of its classic files.

    Raises:
        DeliveryError: they can't be one object: files that can't be read, of several series or sizes, whose place or thickness is
            not known, or too many; says which.
    """
    found = [_Frame.read(path) for path in paths]
    _expect_one_object(found)
    frames = _in_order(found)
    first = frames[0].classic
    dataset = Dataset()
    for keyword in _KEPT:
        if keyword in first:
            dataset[keyword] = first[keyword]
    if SYNTHETIC_DATA in first:
        dataset[SYNTHETIC_DATA] = first[SYNTHETIC_DATA]
    for keyword in ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions"):
        if not dataset.get(keyword):
            setattr(dataset, keyword, UNKNOWN)
    dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.SeriesInstanceUID = derived_uid("enhanced series", str(first.SeriesInstanceUID))
    dataset.SOPInstanceUID = derived_uid(
        "enhanced", str(first.SeriesInstanceUID), [str(one.classic.SOPInstanceUID) for one in frames]
    )
    number = first.get("SeriesNumber")
    dataset.SeriesNumber = None if number is None else int(number) + SERIES_NUMBER_STEP
    dataset.InstanceNumber = 1
    latest = max(frames, key=lambda one: str(one.classic.get("AcquisitionDateTime", ""))).classic
    dataset.ContentDate, dataset.ContentTime = latest.ContentDate or "19000101", latest.ContentTime or "000000"
    dataset.AcquisitionContextSequence = []
    _add_image(dataset, frames)
    _add_dimensions(dataset)
    _add_groups(dataset, frames)
    return EnhancedSeries(dataset, tuple(one.path for one in frames), 2 * int(first.Rows) * int(first.Columns))


@dataclasses.dataclass(frozen=True, slots=True)
class _Frame:
    """A classic object, and where it belongs.

    Attributes:
        location_mm: along the normal of its plane.
        moment: repetition and phase.
        index: stack, position in it, position in time; from 1.
    """

    path: Path
    classic: Dataset
    location_mm: float
    counter: int
    moment: tuple[int, int]
    index: tuple[int, int, int] = (1, 1, 1)

    @classmethod
    def read(cls, path: Path) -> _Frame:
        classic = _read(path)
        record = record_of(classic)
        if record is None or "SliceLocation" not in classic:
            raise DeliveryError(f"{path}: where this image lies is not known, as it must be in an enhanced object")
        if not classic.get("SliceThickness"):
            raise DeliveryError(f"{path}: its slice thickness is not known, as it must be in an enhanced object")
        key = record["key"]
        return cls(path, classic, float(classic.SliceLocation), key["slice"], (key["repetition"], key["phase"]))

    @property
    def orientation(self) -> tuple[str, ...]:
        return tuple(str(value) for value in self.classic.ImageOrientationPatient)


def _read(path: Path, pixels: bool = False) -> Dataset:
    try:
        return dcmread(path, stop_before_pixels=not pixels)
    except (OSError, InvalidDicomError) as error:
        raise DeliveryError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def _in_order(frames: list[_Frame]) -> list[_Frame]:
    """Frames by stack, place and time; of those that were written again with other pixels the latest."""
    latest: dict[tuple[object, ...], _Frame] = {}
    for one in sorted(frames, key=lambda one: (str(one.classic.get("AcquisitionDateTime", "")), one.path.name)):
        latest[one.orientation, one.location_mm, one.counter, one.moment] = one
    stacks = {orientation: number + 1 for number, orientation in enumerate(sorted({o.orientation for o in frames}))}
    moments = {moment: number + 1 for number, moment in enumerate(sorted({one.moment for one in frames}))}
    ordered = []
    by_place = sorted(latest.values(), key=lambda one: (one.orientation, one.location_mm, one.counter, one.moment))
    for orientation, stack in itertools.groupby(by_place, lambda one: one.orientation):
        position, last = 0, None
        for one in stack:
            if last is None or one.counter != last.counter or one.location_mm - last.location_mm > _SAME_PLACE_MM:
                position += 1
            ordered.append(dataclasses.replace(one, index=(stacks[orientation], position, moments[one.moment])))
            last = one
    return ordered


def _expect_one_object(frames: list[_Frame]) -> None:
    if not frames:
        raise DeliveryError("a series without images can't be an object")
    for keyword in ("SeriesInstanceUID", "Rows", "Columns", "FrameOfReferenceUID"):
        if len({str(one.classic.get(keyword)) for one in frames}) != 1:
            raise DeliveryError(f"{frames[0].path.parent}: its images differ in {keyword}, and can't be one object")
    first = frames[0].classic
    if len(frames) > MOST_FRAMES or 2 * first.Rows * first.Columns * len(frames) > LONGEST_VALUE_BYTES:
        raise DeliveryError(f"{frames[0].path.parent}: {len(frames)} images are too many for one object")


def _add_image(dataset: Dataset, frames: list[_Frame]) -> None:
    """Enhanced MR Image (PS3.3 C.8.13.1) and what is said of all frames."""
    dataset.ImageType = _DERIVED
    _describe(dataset)
    dataset.PresentationLUTShape = "IDENTITY"
    dataset.ApplicableSafetyStandardAgency = UNKNOWN
    comments = [one.classic.ImageComments.splitlines() for one in frames]
    common = [line for line in comments[0] if all(line in other for other in comments)]
    dataset.ImageComments = "\r\n".join(common)[:LT]
    dataset.NumberOfFrames = len(frames)


def _describe(dataset: Dataset) -> None:
    """Common CT/MR and MR Image Description macros (PS3.3 C.8.16.1, C.8.13.3)."""
    dataset.PixelPresentation = "MONOCHROME"
    dataset.VolumetricProperties = "VOLUME"
    dataset.VolumeBasedCalculationTechnique = "NONE"
    dataset.ComplexImageComponent = "MAGNITUDE"
    dataset.AcquisitionContrast = "UNKNOWN"


_DIMENSIONS = (
    ("StackID", "FrameContentSequence", "stack"),
    ("InStackPositionNumber", "FrameContentSequence", "place in the stack"),
    ("TemporalPositionIndex", "FrameContentSequence", "position in time"),
)


def _add_dimensions(dataset: Dataset) -> None:
    """Multi-frame Dimension module (PS3.3 C.7.6.17)."""
    from pydicom.datadict import tag_for_keyword

    organization = Dataset()
    organization.DimensionOrganizationUID = derived_uid("dimensions", str(dataset.SOPInstanceUID))
    dataset.DimensionOrganizationSequence = [organization]
    items = []
    for pointer, group, label in _DIMENSIONS:
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer = tag_for_keyword(pointer)
        item.FunctionalGroupPointer = tag_for_keyword(group)
        item.DimensionDescriptionLabel = label
        items.append(item)
    dataset.DimensionIndexSequence = items


def _add_groups(dataset: Dataset, frames: list[_Frame]) -> None:
    """Multi-frame Functional Groups (PS3.3 C.7.6.16): what is the same in all frames is shared."""
    groups = [_groups_of(one.classic) for one in frames]
    shared, per_frame = Dataset(), []
    same = {name for name, item in groups[0].items() if all(other.get(name) == item for other in groups)}
    for name in same:
        setattr(shared, name, [groups[0][name]])
    for one, own in zip(frames, groups):
        item = Dataset()
        item.FrameContentSequence = [_frame_content(one)]
        for name in own.keys() - same:
            setattr(item, name, [own[name]])
        _copy_evidence(item, one.classic)
        per_frame.append(item)
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = per_frame


def _frame_content(frame: _Frame) -> Dataset:
    """PS3.3 C.7.6.16.2.2."""
    item, classic = Dataset(), frame.classic
    stack, position, moment = frame.index
    item.StackID, item.InStackPositionNumber, item.TemporalPositionIndex = str(stack), position, moment
    item.DimensionIndexValues = list(frame.index)
    item.FrameAcquisitionNumber = int(classic.AcquisitionNumber)
    if "AcquisitionDateTime" in classic:
        item.FrameReferenceDateTime = classic.AcquisitionDateTime
    item.FrameComments = classic.ImageComments
    return item


def _groups_of(classic: Dataset) -> dict[str, Dataset]:
    """Functional groups of a frame by their sequences' keywords, as far as something is known."""
    made: dict[str, dict[str, Any]] = {
        "PixelMeasuresSequence": {
            "PixelSpacing": classic.PixelSpacing, "SliceThickness": classic.SliceThickness,
        },
        "PlanePositionSequence": {"ImagePositionPatient": classic.ImagePositionPatient},
        "PlaneOrientationSequence": {"ImageOrientationPatient": classic.ImageOrientationPatient},
        "FrameAnatomySequence": {
            "FrameLaterality": "U",
            "AnatomicRegionSequence": coded_items((unpaired_region(str(classic.get("BodyPartExamined", ""))),)),
        },
        "PixelValueTransformationSequence": {"RescaleIntercept": 0, "RescaleSlope": 1, "RescaleType": "US"},
        "FrameVOILUTSequence": {"WindowCenter": classic.WindowCenter, "WindowWidth": classic.WindowWidth},
        "MREchoSequence": {"EffectiveEchoTime": _number(classic.get("EchoTime"))},
    }  # fmt: skip
    groups = {}
    for name, values in made.items():
        known = {keyword: value for keyword, value in values.items() if value not in (None, "")}
        if known:
            groups[name] = Dataset()
            for keyword, value in known.items():
                setattr(groups[name], keyword, value)
    frame_type = Dataset()
    frame_type.FrameType = _DERIVED
    _describe(frame_type)
    groups["MRImageFrameTypeSequence"] = frame_type
    groups["RealWorldValueMappingSequence"] = classic.RealWorldValueMappingSequence[0]
    return groups


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _copy_evidence(item: Dataset, classic: Dataset) -> None:
    """The private elements of an image, in the groups of its frame."""
    block = item.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    of_image = classic.private_block(PRIVATE_GROUP, PRIVATE_CREATOR)
    for offset in range(0x100):
        if offset in of_image:
            element = of_image[offset]
            block.add_new(offset, element.VR, element.value)
