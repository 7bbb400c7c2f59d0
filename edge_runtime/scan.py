"""The vocabulary of the street: what a scan is, from its header to its images.

A scan has a header, a stream of readouts that arrive in batches, and images with evidence. Everything here is a frozen value;
nothing here knows sockets, files or reconstruction.

Coordinates: patient coordinates in millimetres (left, posterior, superior positive, as in DICOM and MRD). Images are
``(phase_encodes, columns)``: columns run along the readout direction, rows along the phase-encode direction.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float64]


class ReadoutFlag(enum.IntFlag):
    """Acquisition flags of ISMRMRD v1; flag n of the standard is bit n - 1."""

    FIRST_IN_ENCODE_STEP1 = 1 << 0
    LAST_IN_ENCODE_STEP1 = 1 << 1
    FIRST_IN_ENCODE_STEP2 = 1 << 2
    LAST_IN_ENCODE_STEP2 = 1 << 3
    FIRST_IN_AVERAGE = 1 << 4
    LAST_IN_AVERAGE = 1 << 5
    FIRST_IN_SLICE = 1 << 6
    LAST_IN_SLICE = 1 << 7
    FIRST_IN_CONTRAST = 1 << 8
    LAST_IN_CONTRAST = 1 << 9
    FIRST_IN_PHASE = 1 << 10
    LAST_IN_PHASE = 1 << 11
    FIRST_IN_REPETITION = 1 << 12
    LAST_IN_REPETITION = 1 << 13
    FIRST_IN_SET = 1 << 14
    LAST_IN_SET = 1 << 15
    FIRST_IN_SEGMENT = 1 << 16
    LAST_IN_SEGMENT = 1 << 17
    IS_NOISE_MEASUREMENT = 1 << 18
    IS_PARALLEL_CALIBRATION = 1 << 19
    IS_PARALLEL_CALIBRATION_AND_IMAGING = 1 << 20
    IS_REVERSE = 1 << 21
    IS_NAVIGATION_DATA = 1 << 22
    IS_PHASECORR_DATA = 1 << 23
    LAST_IN_MEASUREMENT = 1 << 24
    IS_HPFEEDBACK_DATA = 1 << 25
    IS_DUMMYSCAN_DATA = 1 << 26
    IS_RTFEEDBACK_DATA = 1 << 27
    IS_SURFACECOILCORRECTIONSCAN_DATA = 1 << 28
    IS_PHASE_STABILIZATION_REFERENCE = 1 << 29
    IS_PHASE_STABILIZATION = 1 << 30
    COMPRESSION1 = 1 << 52
    COMPRESSION2 = 1 << 53
    COMPRESSION3 = 1 << 54
    COMPRESSION4 = 1 << 55
    USER1 = 1 << 56
    USER2 = 1 << 57
    USER3 = 1 << 58
    USER4 = 1 << 59
    USER5 = 1 << 60
    USER6 = 1 << 61
    USER7 = 1 << 62
    USER8 = 1 << 63


BESIDE_THE_IMAGE = (
    ReadoutFlag.IS_NAVIGATION_DATA,
    ReadoutFlag.IS_PHASECORR_DATA,
    ReadoutFlag.IS_HPFEEDBACK_DATA,
    ReadoutFlag.IS_RTFEEDBACK_DATA,
    ReadoutFlag.IS_DUMMYSCAN_DATA,
    ReadoutFlag.IS_SURFACECOILCORRECTIONSCAN_DATA,
    ReadoutFlag.IS_PHASE_STABILIZATION_REFERENCE,
    ReadoutFlag.IS_PHASE_STABILIZATION,
)
"""Readouts that are neither lines of any image nor noise or calibration for one."""

COMPRESSED = ReadoutFlag.COMPRESSION1 | ReadoutFlag.COMPRESSION2 | ReadoutFlag.COMPRESSION3 | ReadoutFlag.COMPRESSION4

NOT_AN_IMAGE_LINE = functools.reduce(
    ReadoutFlag.__or__,
    (
        *BESIDE_THE_IMAGE,
        COMPRESSED,
        ReadoutFlag.IS_REVERSE,
        ReadoutFlag.IS_NOISE_MEASUREMENT,
        ReadoutFlag.IS_PARALLEL_CALIBRATION,
    ),
)
"""A readout of the first encoding space without any of these is an image line."""


@dataclass(frozen=True, slots=True)
class EncodingSpace:
    """A matrix and its field of view; axes are readout, phase encode, partition (or slice)."""

    matrix: tuple[int, int, int]
    field_of_view_mm: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Limit:
    """The inclusive range of a counter; ``centre`` is the index of the centre of k-space where the counter is an encode."""

    minimum: int = 0
    maximum: int = 0
    centre: int = 0


@dataclass(frozen=True, slots=True)
class MriEncoding:
    """The modality-specific part of an MRI header.

    Attributes:
        limits: by MRD's names: ``kspace_encoding_step_1``, ``kspace_encoding_step_2``, ``slice``, ``average``, ``contrast``,
            ``phase``, ``repetition``, ``set``, ``segment``. A name that the header leaves out is absent.
        acceleration: nominal factors along phase encodes and partitions.
    """

    encoded: EncodingSpace
    recon: EncodingSpace
    trajectory: str
    limits: Mapping[str, Limit]
    acceleration: tuple[int, int] = (1, 1)


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is scanned; empty strings where the scanner did not say. Dates are DICOM DA (YYYYMMDD). ``issuer``: of the identifier."""

    identifier: str = ""
    name: str = ""
    birth_date: str = ""
    sex: str = ""
    weight_kg: float | None = None
    issuer: str = ""


@dataclass(frozen=True, slots=True)
class Study:
    """The examination this scan belongs to; empty strings where the scanner did not say. Date DA, time TM."""

    instance_uid: str = ""
    identifier: str = ""
    description: str = ""
    accession_number: str = ""
    date: str = ""
    time: str = ""
    referring_physician: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """A coded term (PS3.3 8.8): a value of a scheme, and what it means in words."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Request:
    """The order that a scan answers, as the hospital's worklist tells it; empty where no order is bound.

    Attributes:
        procedure_id: Requested Procedure ID.
        step_id: Scheduled Procedure Step ID; empty where an order with several steps is bound as a whole.
        performed_uid: SOP Instance UID of the performed procedure step that the hospital is told of.
        performed_id: that step's ID.
        started_date, started_time: when this step began. DA and TM.
        unscheduled: no order was found: this patient and study are not confirmed.
    """

    procedure_id: str = ""
    procedure_description: str = ""
    procedure_codes: tuple[Code, ...] = ()
    step_id: str = ""
    step_description: str = ""
    protocol_codes: tuple[Code, ...] = ()
    performed_uid: str = ""
    performed_id: str = ""
    started_date: str = ""
    started_time: str = ""
    unscheduled: bool = False


@dataclass(frozen=True, slots=True)
class Scanner:
    """The machine that measures."""

    manufacturer: str = ""
    model: str = ""
    institution: str = ""
    station: str = ""
    device_serial_number: str = ""
    field_strength_t: float | None = None
    receiver_coils: int | None = None
    resonance_frequency_hz: int | None = None


@dataclass(frozen=True, slots=True)
class Sequence:
    """Timing and contrast as declared in the header; one value a contrast where several are given."""

    repetition_time_ms: tuple[float, ...] = ()
    echo_time_ms: tuple[float, ...] = ()
    inversion_time_ms: tuple[float, ...] = ()
    flip_angle_deg: tuple[float, ...] = ()
    sequence_type: str = ""


@dataclass(frozen=True, slots=True)
class ScanHeader:
    """One scan as declared before its first readout.

    Attributes:
        request: the order that the scan is bound to; ``None`` where there is no worklist.
        parameters: the header's user parameters, by name.
        simulated: the scan was made by a simulator and must be labelled so wherever it goes.
        notes: what the parser had to assume or mend, in plain words; shown with every image.
    """

    encoding: MriEncoding
    scanner: Scanner = Scanner()
    patient: Patient = Patient()
    study: Study = Study()
    sequence: Sequence = Sequence()
    request: Request | None = None
    measurement_id: str = ""
    protocol_name: str = ""
    series_description: str = ""
    body_part: str = ""
    patient_position: str = ""
    frame_of_reference_uid: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    notes: tuple[str, ...] = ()


COUNTERS = ("phase_encode", "partition", "average", "slice", "contrast", "phase", "repetition", "set", "segment")
"""Encoding counters of a readout, in MRD's order; the first two are its kspace_encode_step_1 and _2."""

READOUT_FIELDS: tuple[tuple[str, object], ...] = (
    ("flags", "<u8"),
    ("scan_counter", "<u4"),
    ("time_stamp", "<u4"),
    ("centre_sample", "<u2"),
    ("discard_pre", "<u2"),
    ("discard_post", "<u2"),
    ("encoding_space", "<u2"),
    ("sample_time_us", "<f4"),
    ("position", ("<f4", (3,))),
    ("read_direction", ("<f4", (3,))),
    ("phase_direction", ("<f4", (3,))),
    ("slice_direction", ("<f4", (3,))),
    *((name, "<u2") for name in COUNTERS),
)
"""What every readout says of itself. A link may hand on a view of its wire format that has at least these fields."""

READOUT_DTYPE = np.dtype(list(READOUT_FIELDS))


@dataclass(frozen=True, slots=True)
class ReadoutBatch:
    """Readouts of one size, in the order they arrived.

    Attributes:
        header: structured array ``(readouts,)`` with at least the fields of `READOUT_DTYPE`.
        samples: complex64 ``(readouts, coils, samples)``, contiguous along the samples, at any address. Finite, but for those of
            image lines (see `NOT_AN_IMAGE_LINE`) that a link did not look at: who takes them in does.
    """

    header: npt.NDArray[np.void]
    samples: npt.NDArray[np.complex64]

    def __len__(self) -> int:
        return len(self.header)

    @property
    def coils(self) -> int:
        return int(self.samples.shape[1])

    def __getitem__(self, index: slice | npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> ReadoutBatch:
        return ReadoutBatch(self.header[index], self.samples[index])


@dataclass(frozen=True, slots=True, order=True)
class SliceKey:
    """Which image of a scan: every combination of these counters is one."""

    slice: int = 0
    contrast: int = 0
    phase: int = 0
    repetition: int = 0
    set: int = 0

    @classmethod
    def of(cls, header: np.void) -> SliceKey:
        """Of the image that a readout belongs to."""
        return cls(*(int(header[name]) for name in SLICE_COUNTERS))

    def __str__(self) -> str:
        """The slice, and whatever other counter is not 0."""
        counted = {field.name: getattr(self, field.name) for field in fields(self)}
        return ", ".join(f"{name} {count}" for name, count in counted.items() if count or name == "slice")


SLICE_COUNTERS = tuple(counter.name for counter in fields(SliceKey))
"""The counters of a readout that say which image it belongs to, in the order of `SliceKey`."""

DIRECTION_TOLERANCE = 1e-3
"""Direction cosines are often sent with three decimals. Over a 300 mm field of view an error of 1e-3 moves the last voxel by
0.3 mm, less than a voxel; beyond that they contradict themselves and are not used."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where an image lies. ``None`` directions: the scanner sent none, and none are guessed.

    Attributes:
        centre_mm: the image's centre, half-way between its first and last voxel along every axis.
        read_direction: unit vector of increasing column.
        phase_direction: unit vector of increasing row.
        slice_direction: unit vector of increasing slice.
        field_of_view_mm: along readout, phase encode and slice.
    """

    centre_mm: tuple[float, float, float]
    read_direction: tuple[float, float, float] | None
    phase_direction: tuple[float, float, float] | None
    slice_direction: tuple[float, float, float] | None
    field_of_view_mm: tuple[float, float, float]

    def axes(self) -> tuple[Vector, Vector, str]:
        """Read and phase direction, float64 ``(3,)``, exactly unit and orthogonal; and why they can't be had, if so."""
        nothing = np.zeros(3)
        if self.read_direction is None or self.phase_direction is None:
            return nothing, nothing, "the scanner sent no directions"
        row, column = (np.array(one, dtype=np.float64) for one in (self.read_direction, self.phase_direction))
        lengths = np.array([np.linalg.norm(row), np.linalg.norm(column)])
        if not np.all(np.abs(lengths - 1) <= DIRECTION_TOLERANCE):  # so written that NaN is refused, too
            return nothing, nothing, "the directions that the scanner sent are not unit vectors"
        row, column = row / lengths[0], column / lengths[1]
        overlap = float(row @ column)
        if abs(overlap) > DIRECTION_TOLERANCE:
            return nothing, nothing, "the read and phase directions that the scanner sent are not perpendicular"
        column = column - overlap * row
        return row, column / np.linalg.norm(column), ""


class Method(str, enum.Enum):
    """How an image was made from the samples."""

    ZERO_FILLED = "zero_filled"
    CLASSICAL = "classical"
    LEARNED = "learned"

    @property
    def label(self) -> str:
        """What its series is called, on the wire and in DICOM."""
        return _METHOD_LABELS[self]


_METHOD_LABELS = {
    Method.LEARNED: "AI recon (learned)",
    Method.CLASSICAL: "Classical recon",
    Method.ZERO_FILLED: "Zero-filled recon",
}


class Completeness(str, enum.Enum):
    """Which part of the scan an image was made from."""

    PREVIEW = "preview"  # a part, while the scan goes on
    FINAL = "final"  # all of it
    INCOMPLETE = "incomplete"  # the scan ended early


@dataclass(frozen=True, slots=True)
class Evidence:
    """How well a reconstruction agrees with samples, in units of the noise.

    All are root-mean-square magnitudes of complex samples in the scanner's units after whitening. A reconstruction that fits
    the samples down to the noise has a residual equal to ``noise_floor``; held-out samples
    were never shown to it. (All measured samples are put in their places afterwards.)

    ``held_out_rms``: of the held-out samples themselves, the residual of an empty image. Where it is hardly above the noise floor,
    nearly any image agrees with these samples.

    ``learned_share``: how far the image went from the classical one, which the network starts from, to what the network made of it,
    0..1, as the held-out samples chose it. ``None`` for other images, and where no sample could choose: then the correction was
    applied in full, and ``learned_share_source`` says why (empty for other images).
    """

    held_out_residual: float | None
    fitted_residual: float
    noise_floor: float | None
    held_out_samples: int
    fitted_samples: int
    noise_source: str
    learned_share: float | None = None
    learned_share_source: str = ""
    held_out_rms: float | None = None

    @property
    def unconfirmed(self) -> str:
        """That a network's correction went into the image which no sample confirmed, and why; empty where that is not so."""
        if self.learned_share is not None or not self.learned_share_source:
            return ""
        return f"the network's correction was {self.learned_share_source}"

    @property
    def held_out_ratio(self) -> float | None:
        """Held-out residual over noise floor; None where either is unknown."""
        if self.held_out_residual is None or not self.noise_floor:
            return None
        return self.held_out_residual / self.noise_floor


@dataclass(frozen=True, slots=True)
class Provenance:
    """The identity of everything that made an image; empty where a part took no share.

    Attributes:
        bundle_override: why a bundle was packed that misses its quality limits; empty where it keeps them.
        degraded: in which steps less work than usual went into it, and why; empty where all of it did (docs/deadlines.md).
    """

    runtime_version: str
    bundle_name: str = ""
    bundle_version: str = ""
    bundle_digest: str = ""
    engine: str = ""
    precision: str = ""
    profile: str = ""
    bundle_override: str = ""
    degraded: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A magnitude image and what must never be separated from it.

    Attributes:
        pixels: float32 ``(rows, columns)``, in the scanner's units.
        measured_share: measured phase encodes over those of a fully sampled scan.
        acceleration: effective acceleration factor of what was measured.
        acquired_at: seconds since the epoch, when the image's last readout arrived.
        notes: assumptions and limits in plain words (missing counters, zero directions, degraded steps).
    """

    pixels: npt.NDArray[np.float32]
    method: Method
    completeness: Completeness
    key: SliceKey
    geometry: Geometry
    provenance: Provenance
    measured_share: float
    acceleration: float
    acquired_at: float
    evidence: Evidence | None = None
    notes: tuple[str, ...] = ()
