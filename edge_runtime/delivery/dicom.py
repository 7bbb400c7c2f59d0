r"""Images as classic MR Image Storage (DICOM PS3.3 A.4), the form that ordinary PACS take.

`build_dataset` turns one image into a dataset and touches nothing else. Most elements are the same in all images of a series:
`common_part` makes those, `own_part` the others, so that `encoding` need not write the former again for every image.

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

**Identifiers.** The same scan, image and pixels always give the same UIDs, other pixels never do: writing again after a
crash makes no duplicate, and no PACS keeps old pixels under a UID that it has seen.
"""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from edge_runtime.delivery.codes import add_known, coded
from edge_runtime.delivery.contrast import add_contrast
from edge_runtime.delivery.equipment import add_equipment
from edge_runtime.delivery.evidence import add_evidence
from edge_runtime.delivery.fit import Fit, decimal
from edge_runtime.delivery.identity import add_identity
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.labels import comments_of, series_description
from edge_runtime.delivery.pixels import LARGEST_STORED, stored_pixels, window_of
from edge_runtime.delivery.plane import Plane, plane_of
from edge_runtime.delivery.uids import ScanUids, derived_uid, series_uid
from edge_runtime.scan import Completeness, Image, Limit, Method, ScanHeader

# Stable numbers, so that a viewer lists the series of a scan in this order.
_METHOD_NUMBERS = {Method.LEARNED: 1, Method.CLASSICAL: 2, Method.ZERO_FILLED: 3}
_COMPLETENESS_NUMBERS = {Completeness.FINAL: 0, Completeness.INCOMPLETE: 1, Completeness.PREVIEW: 2}


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image as a file stores it.

    Attributes:
        values: uint16 ``(rows, columns)``.
        slope: scanner's units per stored value.
        series_slope: that the series began with; ``None`` where it has had nothing but empty images.
    """

    image: Image
    plane: Plane
    kind: Kind
    values: npt.NDArray[np.uint16]
    slope: float
    series_slope: float | None

    @classmethod
    def of(cls, image: Image, plane: Plane, kind: Kind, series_slope: float | None) -> StoredImage:
        """An image under the slope of its series, or its own where it would be clipped or coarse under that.

        Raises:
            DeliveryError: a pixel is negative or not finite.
        """
        values, slope = stored_pixels(image.pixels, series_slope)
        # An empty image does not tell how bright its series is.
        return cls(image, plane, kind, values, slope, series_slope or (slope if values.any() else None))


@dataclass(frozen=True, slots=True)
class Common:
    """Elements that all images of a kind and slope have.

    Attributes:
        notes: on values of the header that did not fit.
    """

    dataset: Dataset
    series: str
    notes: tuple[str, ...]


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
    stored = StoredImage.of(image, plane, Kind.of(image, plane), slope)
    common = common_part(header, uids, stored.kind, stored.slope)
    dataset = Dataset()
    dataset.update(common.dataset)
    dataset.update(own_part(header, uids, stored, common, instance_number))
    dataset.add_new("PixelData", "OW", stored.values.tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def common_part(header: ScanHeader, uids: ScanUids, kind: Kind, slope: float) -> Common:
    """What all images of a kind have that are stored under one slope."""
    fit = Fit()
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    add_identity(dataset, header, kind, uids, fit)
    add_equipment(dataset, header, kind.provenance, kind.method, fit)
    add_contrast(dataset, header, kind.contrast, fit)

    series = series_uid(uids, kind)
    dataset.SeriesInstanceUID = series
    dataset.SOPClassUID = MRImageStorage
    dataset.FrameOfReferenceUID = uids.frame_of_reference if kind.placed else derived_uid("frame", series)
    dataset.PositionReferenceIndicator = None
    dataset.SeriesNumber = series_number(header, kind)
    if dataset.SeriesNumber is None:
        fit.notes.append("Series number: left out, as contrast or set is beyond what the header declares")
    dataset.SeriesDescription = series_description(header, kind, fit)
    _add_pixel_description(dataset, slope)
    return Common(dataset, series, tuple(fit.notes))


def own_part(header: ScanHeader, uids: ScanUids, stored: StoredImage, common: Common, instance_number: int) -> Dataset:
    """What an image has beside that, but for its pixels."""
    image, plane, fit = stored.image, stored.plane, Fit()
    dataset = Dataset()
    place = _add_plane(dataset, image, plane, fit)
    dataset.Rows, dataset.Columns = stored.values.shape
    centre, width = window_of(stored.values)
    dataset.WindowCenter, dataset.WindowWidth = decimal(centre), decimal(width)
    add_known(dataset, "PercentSampling", fit.decimal("Measured share", 100 * image.measured_share))
    dataset.SOPInstanceUID = _instance_uid(stored, common.series, place)
    dataset.InstanceNumber = instance_number
    dataset.AcquisitionNumber = image.key.repetition + 1
    _add_acquisition_time(dataset, image.acquired_at, fit)

    # An image's notes repeat its header's.
    notes = list(dict.fromkeys([*image.notes, *header.notes, *uids.notes, *plane.notes, *common.notes, *fit.notes]))
    if stored.series_slope is not None and stored.slope != stored.series_slope:
        notes.append("Stored values are not scaled as in the rest of this series: see Real World Value Slope")
    dataset.ImageComments = comments_of(header, image, plane, notes)
    add_evidence(dataset, header, image, stored.series_slope, notes)
    return dataset


def series_number(header: ScanHeader, kind: Kind) -> int | None:
    """A number that no other series of the scan has, nor does a restart change it.

    Its last digit is the completeness, the one before the method, then come contrast and set. Contrasts have one digit,
    or as many as the header's limit takes.

    Returns:
        ``None`` where contrast or set is beyond what the header declares, or the number beyond an Integer String (PS3.5 6.2).
    """
    last = 10 * _METHOD_NUMBERS[kind.method] + _COMPLETENESS_NUMBERS[kind.completeness]
    contrasts = 10 ** len(str(header.encoding.limits.get("contrast", Limit()).maximum))
    number = 100 * (contrasts * kind.set + kind.contrast) + last
    return number if kind.contrast < contrasts and number < 1 << 31 else None


def _instance_uid(stored: StoredImage, series: str, place: list[str]) -> str:
    """A SOP Instance UID that stands for these pixels at this place of a series, and for no others."""
    key = stored.image.key
    counters = (key.slice, key.contrast, key.phase, key.repetition, key.set)
    digest = hashlib.sha256(stored.values.data).hexdigest()
    return derived_uid("image", series, counters, stored.values.shape, digest, stored.slope.hex(), place)


def _add_plane(dataset: Dataset, image: Image, plane: Plane, fit: Fit) -> list[str]:
    """Image Plane module (PS3.3 C.7.6.2).

    SpacingBetweenSlices is left out: one image of a stream does not tell it, and the positions do.

    Returns:
        Position, orientation and spacing as they are written.
    """
    position = [decimal(value) for value in plane.position]
    orientation = [decimal(value) for value in (*plane.row, *plane.column)]
    spacing = [decimal(plane.row_spacing), decimal(plane.column_spacing)]
    dataset.PixelSpacing, dataset.ImageOrientationPatient, dataset.ImagePositionPatient = spacing, orientation, position
    thickness = image.geometry.field_of_view_mm[2]
    dataset.SliceThickness = fit.decimal("Slice thickness", thickness) if thickness else None
    if plane.known:
        dataset.SliceLocation = decimal(float(np.cross(plane.row, plane.column) @ plane.position))
    return [*position, *orientation, *spacing]


def _add_pixel_description(dataset: Dataset, slope: float) -> None:
    """Image Pixel (PS3.3 C.7.6.3) but for size and pixels, and Real World Value Mapping (C.7.6.16.2.11)."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 0

    mapping = Dataset()
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", LARGEST_STORED)
    mapping.RealWorldValueIntercept = 0.0
    mapping.RealWorldValueSlope = slope
    mapping.LUTExplanation = "Magnitude in the scanner's units"
    mapping.LUTLabel = "MAGNITUDE"
    mapping.MeasurementUnitsCodeSequence = [coded("[arb'U]", "UCUM", "arbitrary unit")]
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
