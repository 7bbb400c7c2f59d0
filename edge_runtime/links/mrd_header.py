"""The ISMRMRD XML header: text from a scanner becomes a `edge_runtime.scan.ScanHeader`, and back.

Source: ``schema/ismrmrd.xsd`` of https://github.com/ismrmrd/ismrmrd. Real consoles write less than the schema asks for, or write
numbers as text. What can be known in spite of that is filled in and said in the header's notes; what an image cannot be made
without is refused with `edge_runtime.errors.HeaderError`, which names the element, its value and the mend.
"""

from __future__ import annotations

import codecs
import datetime
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias
from xml.etree import ElementTree

import defusedxml
from defusedxml.ElementTree import fromstring

from edge_runtime.errors import HeaderError, UnsupportedScan
from edge_runtime.links.mrd_messages import MAX_COILS, WireLimits
from edge_runtime.links.mrd_pack import legal_in_xml
from edge_runtime.scan import EncodingSpace, Limit, MriEncoding, Patient, ScanHeader, Scanner, Sequence, Study

NAMESPACE = "http://www.ismrm.org/ISMRMRD"

MAX_HEADER_BYTES = WireLimits().max_text_bytes
"""Of a header in a file too; those of converted vendor data reach some 100 kB."""

MAX_TAGS = 100_000
"""Bounds the memory of the parsed tree, which is some hundred times that of a short tag."""

MAX_MATRIX = 4096
"""No portable scanner resolves more; bounds what a header can make the runtime allocate."""

MAX_FIELD_OF_VIEW_MM = 10_000.0
"""More is no scanner, but a mistake of units."""

MAX_COUNTER = 65535
"""What the u16 counters of a readout can say."""

LIMIT_NAMES = (
    "kspace_encoding_step_1",
    "kspace_encoding_step_2",
    "average",
    "slice",
    "contrast",
    "phase",
    "repetition",
    "set",
    "segment",
)
"""Counters with limits, in the schema's order."""

SIMULATED_PARAMETER = "edge_simulated"
"""User parameter that is 1 or true where the scan was made by a simulator."""

MAX_NOTES = 32
"""Notes that are taken from a sender; what is assumed on this side comes on top."""

MAX_NOTE = 500
"""Characters of a sender's note."""

_NOTE_PARAMETER = "edge_note_"
"""Begins the names, numbered from 1, of user parameters that hold what whoever wrote the header had to assume."""

_OWN_PARAMETER = "edge_"
"""Begins the names of user parameters that hold what the schema has no room for: an accession number with letters, and
measurement information without a patient position."""

_AXES = ("x", "y", "z")
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_DATE = re.compile(r"(\d{4})-?(\d\d)-?(\d\d)(?:Z|[+-]\d\d:\d\d)?", re.ASCII)
_TIME = re.compile(r"(\d\d):?(\d\d):?(\d\d)(\.\d{1,6})?\d*(?:Z|[+-]\d\d:\d\d)?", re.ASCII)

# ---------------------------------------------------------------------------------------------------------- reading


def parse_header(xml: bytes) -> ScanHeader:
    """Read an XML header; a NUL terminator and white space before it are ignored.

    Raises:
        HeaderError: no well-formed XML, an attack on the parser, no ISMRMRD header, or an encoding without which no image can
            be made.
        UnsupportedScan: several encodings with different trajectories.
    """
    notes: list[str] = []
    root = _root(_trimmed(xml), notes)
    subject = root.child("subjectInformation")
    study = root.child("studyInformation")
    measurement = root.child("measurementInformation")
    system = root.child("acquisitionSystemInformation")
    conditions = root.child("experimentalConditions")
    sequence = root.child("sequenceParameters")
    parameters = _parameters(root.child("userParameters"))
    simulated = parameters.pop(SIMULATED_PARAMETER, "").lower() in ("1", "true")
    carried = _carried_notes(parameters)

    def own(name: str) -> str:
        return parameters.pop(_OWN_PARAMETER + name, "")

    return ScanHeader(
        encoding=_encoding(root),
        scanner=Scanner(
            manufacturer=system.text("systemVendor"),
            model=system.text("systemModel"),
            institution=system.text("institutionName"),
            station=system.text("stationName"),
            device_serial_number=system.text("deviceSerialNumber"),
            field_strength_t=system.positive("systemFieldStrength_T"),
            receiver_coils=_coils(system),
            resonance_frequency_hz=_whole(conditions.positive("H1resonanceFrequency_Hz")),
        ),
        patient=Patient(
            identifier=subject.text("patientID"),
            name=subject.text("patientName"),
            birth_date=_date(subject, "patientBirthdate"),
            sex=_sex(subject),
            weight_kg=subject.positive("patientWeight_kg"),
        ),
        study=Study(
            instance_uid=study.text("studyInstanceUID"),
            identifier=study.text("studyID"),
            description=study.text("studyDescription"),
            accession_number=study.text("accessionNumber") or own("accession_number"),
            date=_date(study, "studyDate"),
            time=_time(study, "studyTime"),
            referring_physician=study.text("referringPhysicianName"),
        ),
        sequence=Sequence(
            repetition_time_ms=sequence.numbers("TR"),
            echo_time_ms=sequence.numbers("TE"),
            inversion_time_ms=sequence.numbers("TI"),
            flip_angle_deg=sequence.numbers("flipAngle_deg"),
            sequence_type=sequence.text("sequence_type"),
        ),
        measurement_id=measurement.text("measurementID") or own("measurement_id"),
        protocol_name=measurement.text("protocolName") or own("protocol_name"),
        series_description=measurement.text("seriesDescription") or own("series_description"),
        body_part=study.text("bodyPartExamined"),
        patient_position=measurement.text("patientPosition"),
        frame_of_reference_uid=measurement.text("frameOfReferenceUID") or own("frame_of_reference_uid"),
        parameters=parameters,
        simulated=simulated,
        notes=(*carried, *_bounded(notes)),
    )


def _bounded(notes: list[str]) -> tuple[str, ...]:
    """Each note once, and no more of them than images are to carry."""
    once = tuple(dict.fromkeys(note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…" for note in notes))
    more = len(once) - MAX_NOTES
    return (*once[:MAX_NOTES], f"{more} more notes on the header were left out") if more > 0 else once


@dataclass(frozen=True, slots=True)
class _Node:
    """An element that may be missing, with its path for messages and the notes that reading it adds to.

    What an image can be made without is read leniently: a value that makes no sense is left out and noted.
    """

    element: ElementTree.Element | None
    path: str
    prefix: str
    notes: list[str]

    def __bool__(self) -> bool:
        return self.element is not None

    def child(self, name: str) -> _Node:
        """The first child of that name; a node without an element where there is none."""
        element = None if self.element is None else self.element.find(self.prefix + name)
        return _Node(element, f"{self.path}.{name}" if self.path else name, self.prefix, self.notes)

    def children(self, name: str) -> list[_Node]:
        if self.element is None:
            return []
        path = f"{self.path}.{name}" if self.path else name
        return [_Node(element, path, self.prefix, self.notes) for element in self.element.findall(self.prefix + name)]

    @property
    def raw(self) -> str:
        """Its text as written; empty where the element is missing."""
        return "" if self.element is None else self.element.text or ""

    def text(self, name: str) -> str:
        """The text of a child without the white space around it; empty where there is none."""
        return self.child(name).raw.strip()

    def note(self, text: str) -> None:
        self.notes.append(f"{self.path} {text}")

    def numbers(self, name: str) -> tuple[float, ...]:
        """The finite numbers among the children of that name."""
        numbers = []
        for child in self.children(name):
            number = _number(child.raw)
            if number is None:
                child.note(f"is no number ({child.raw[:40]!r}) and was left out")
            else:
                numbers.append(number)
        return tuple(numbers)

    def positive(self, name: str) -> float | None:
        """A child's positive number; None where it is missing or 0, which is how many consoles say that they don't know."""
        child = self.child(name)
        number = _number(child.raw)
        if number is not None and number > 0:
            return number
        if child.raw.strip() and number != 0:
            child.note(f"is no positive number ({child.raw[:40]!r}) and was left out")
        return None

    def integer(self, minimum: int, maximum: int, mend: str) -> int:
        """Its whole number; one that is written with a fraction of zero or between blanks is read and noted.

        Raises:
            HeaderError: anything else, or a number out of range.
        """
        text = self.raw.strip()
        number = int(text) if _INTEGER.fullmatch(text) else _number(text)
        if number is None or number != int(number) or not minimum <= number <= maximum:
            raise HeaderError(self.path, repr(self.raw[:40]) if self else "missing", f"{minimum} to {maximum}; {mend}")
        if self.raw != str(int(number)):
            self.note(f"was written as {self.raw[:40]!r} and read as {int(number)}")
        return int(number)


def _number(text: str) -> float | None:
    """A finite number; None where the text is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(number: float | None) -> int | None:
    return None if number is None else round(number)


def _trimmed(xml: bytes) -> bytes:
    """Without what clients written in C leave around it; in UTF-16 a NUL is half of a character."""
    if xml[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in xml[:2]:
        return xml
    return xml.rstrip(b"\0").lstrip(b" \t\r\n")


def _root(xml: bytes, notes: list[str]) -> _Node:
    if len(xml) > MAX_HEADER_BYTES:
        raise HeaderError("header", f"{len(xml)} bytes", f"at most {MAX_HEADER_BYTES} bytes")
    if xml.count(b"<") > MAX_TAGS:
        raise HeaderError("header", f"{xml.count(b'<')} tags", f"at most {MAX_TAGS} tags")
    try:
        element: ElementTree.Element = fromstring(xml, forbid_dtd=True)
    except defusedxml.DefusedXmlException as error:
        reason = "XML without document type, entities and external references, which are refused as an attack"
        raise HeaderError("header", type(error).__name__, reason) from None
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        # ValueError and LookupError: encodings that Python or its parser doesn't know.
        raise HeaderError("header", xml[:40], f"well-formed XML; {error}") from None
    namespace, _, name = element.tag.rpartition("}")
    if name != "ismrmrdHeader" or namespace not in ("", "{" + NAMESPACE):
        raise HeaderError("header", element.tag, f"the root element ismrmrdHeader in the namespace {NAMESPACE}")
    if not namespace:
        notes.append("the header declares no namespace: read as ISMRMRD's")
    return _Node(element, "", namespace + "}" if namespace else "", notes)


def _encoding(root: _Node) -> MriEncoding:
    encodings = root.children("encoding")
    if not encodings:
        raise HeaderError("encoding", "missing", "at least one encoding; without it the matrix is unknown")
    encoding = encodings[0]
    trajectories = {other.text("trajectory").lower() or "cartesian" for other in encodings}
    if len(trajectories) > 1:
        found = ", ".join(sorted(trajectories))
        raise UnsupportedScan("encoding.trajectory", found, "one trajectory; send each encoding as a scan of its own")
    if len(encodings) > 1:
        encoding.note(f"occurs {len(encodings)} times: the first is used")
    if not encoding.text("trajectory"):
        encoding.child("trajectory").note("is missing: taken to be cartesian")
    trajectory = trajectories.pop()
    encoded, recon = _spaces(encoding)
    acceleration = encoding.child("parallelImaging").child("accelerationFactor")
    return MriEncoding(
        encoded=encoded,
        recon=recon,
        trajectory=trajectory,
        limits=_limits(encoding.child("encodingLimits"), encoded, trajectory),
        acceleration=(
            _whole(acceleration.positive("kspace_encoding_step_1")) or 1,
            _whole(acceleration.positive("kspace_encoding_step_2")) or 1,
        ),
    )


_Three: TypeAlias = tuple[int, int, int]
_Lengths: TypeAlias = tuple[float | None, ...]


def _spaces(encoding: _Node) -> tuple[EncodingSpace, EncodingSpace]:
    """The encoded and the reconstructed space; what one of them leaves out is taken from the other."""
    encoded_space, recon_space = encoding.child("encodedSpace"), encoding.child("reconSpace")
    encoded_matrix = _matrix(encoded_space.child("matrixSize"))
    if recon_space.child("matrixSize"):
        recon_matrix = _matrix(recon_space.child("matrixSize"))
    else:
        recon_space.child("matrixSize").note("is missing: taken from encodedSpace")
        recon_matrix = encoded_matrix

    encoded_lengths = _lengths(encoded_space.child("fieldOfView_mm"))
    recon_lengths = _lengths(recon_space.child("fieldOfView_mm"))
    lengths = []
    for axis, name in enumerate(_AXES):
        # Along the readout the two matrices differ by oversampling, which is cropped: pixels have one size. Along the other
        # axes they differ by interpolation: the field of view is one.
        ratio = recon_matrix[0] / encoded_matrix[0] if axis == 0 else 1.0
        encoded, recon = encoded_lengths[axis], recon_lengths[axis]
        if encoded is None:
            element = encoded_space.child("fieldOfView_mm").child(name)
            if recon is None:
                element.note(
                    "is missing in both spaces: 1 mm a pixel was assumed; do not measure distances in this image"
                )
                encoded = float(encoded_matrix[axis])
            else:
                element.note("is missing: taken from reconSpace")
                encoded = recon / ratio
        if recon is None:
            recon_space.child("fieldOfView_mm").child(name).note("is missing: taken from encodedSpace")
            recon = encoded * ratio
        lengths.append((encoded, recon))
    (x, recon_x), (y, recon_y), (z, recon_z) = lengths
    return EncodingSpace(encoded_matrix, (x, y, z)), EncodingSpace(recon_matrix, (recon_x, recon_y, recon_z))


def _matrix(node: _Node) -> _Three:
    mend = "send the matrix that was measured"
    x, y = (node.child(name).integer(1, MAX_MATRIX, mend) for name in ("x", "y"))
    if not node.child("z"):
        node.child("z").note("is missing: taken to be 1, a two-dimensional scan")
        return x, y, 1
    return x, y, node.child("z").integer(1, MAX_MATRIX, mend)


def _lengths(node: _Node) -> _Lengths:
    """Three lengths in millimetres; None for one that is missing, empty or 0."""
    lengths: list[float | None] = []
    for name in _AXES:
        child = node.child(name)
        if not child.raw.strip():
            lengths.append(None)
            continue
        number = _number(child.raw)
        if number is None or not 0 <= number <= MAX_FIELD_OF_VIEW_MM:
            expected = f"a length of up to {MAX_FIELD_OF_VIEW_MM:g} mm, or no element where it is unknown"
            raise HeaderError(child.path, repr(child.raw), expected)
        lengths.append(number or None)
    return tuple(lengths)


def _limits(node: _Node, encoded: EncodingSpace, trajectory: str) -> dict[str, Limit]:
    """The limits that the header gives; those of the two phase encodes are always there."""
    steps = {"kspace_encoding_step_1": encoded.matrix[1], "kspace_encoding_step_2": encoded.matrix[2]}
    limits: dict[str, Limit] = {}
    for name in LIMIT_NAMES:
        child, count = node.child(name), steps.get(name, 0)
        full = Limit(0, count - 1, count // 2)
        limit = _limit(child) if child else None
        if count and trajectory == "cartesian" and count > 1 and limit == Limit(0, 0, 0):
            child.note(f"says 0 to 0 of {count} encodes, taken as not filled in: 0 to {full.maximum} was assumed")
            limit = full
        if limit is None and count:
            if count > 1:
                child.note(f"is missing: 0 to {full.maximum} with the centre {full.centre} taken from the matrix")
            limit = full
        if limit is not None:
            limits[name] = limit
    return limits


def _limit(node: _Node) -> Limit | None:
    """A limit; None where it does not say its maximum."""
    if not node.child("maximum"):
        return None
    mend = "send the range of the counter"
    minimum = node.child("minimum").integer(0, MAX_COUNTER, mend) if node.child("minimum") else 0
    maximum = node.child("maximum").integer(0, MAX_COUNTER, mend)
    if minimum > maximum:
        raise HeaderError(node.path, f"{minimum} to {maximum}", "a minimum that is not above the maximum")
    if node.child("center"):
        return Limit(minimum, maximum, node.child("center").integer(0, MAX_COUNTER, mend))
    centre = (minimum + maximum + 1) // 2
    node.child("center").note(f"is missing: {centre}, the middle of the range, was assumed")
    return Limit(minimum, maximum, centre)


def _parameters(node: _Node) -> dict[str, str]:
    kinds = ("userParameterLong", "userParameterDouble", "userParameterString")
    found = ((entry.text("name"), entry.text("value")) for kind in kinds for entry in node.children(kind))
    return {name: value for name, value in found if name}


def _carried_notes(parameters: dict[str, str]) -> tuple[str, ...]:
    """The sender's notes in their order, taken out of the parameters; bounded, and what that cost is noted."""
    found = sorted(
        (int(name[len(_NOTE_PARAMETER) :]), name)
        for name in parameters
        if name.startswith(_NOTE_PARAMETER) and _INTEGER.fullmatch(name[len(_NOTE_PARAMETER) :])
    )
    notes = [note for note in (parameters.pop(name) for _, name in found) if note]
    kept = tuple(note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…" for note in notes[:MAX_NOTES])
    left_out = len(notes) - len(kept)
    return (*kept, f"{left_out} more notes of the sender were left out") if left_out else kept


def _coils(system: _Node) -> int | None:
    number = system.positive("receiverChannels")
    if number is not None and number > MAX_COILS:
        system.child("receiverChannels").note(f"is {number:g}, more than {MAX_COILS} coils, and was left out")
        return None
    return _whole(number)


def _sex(subject: _Node) -> str:
    text = subject.text("patientGender").upper()
    if text in ("", "M", "F", "O"):
        return text
    subject.child("patientGender").note(f"is none of M, F, O ({text[:40]!r}) and was left out")
    return ""


def _date(node: _Node, name: str) -> str:
    """A child's date as DICOM DA, YYYYMMDD; empty where there is none."""
    text = node.text(name)
    match = _DATE.fullmatch(text)
    try:
        if match:
            datetime.date(*(int(part) for part in match.groups()))  # refuses 30 February
            return "".join(match.groups())
    except ValueError:
        pass
    if text:
        node.child(name).note(f"is no date ({text[:40]!r}) and was left out")
    return ""


def _time(node: _Node, name: str) -> str:
    """A child's time of day as DICOM TM, HHMMSS with up to six digits of a fraction; empty where there is none."""
    text = node.text(name)
    match = _TIME.fullmatch(text)
    if match:
        hours, minutes, seconds, fraction = match.groups()
        if int(hours) < 24 and int(minutes) < 60 and int(seconds) < 60:
            return hours + minutes + seconds + (fraction or "")
    if text:
        node.child(name).note(f"is no time ({text[:40]!r}) and was left out")
    return ""


# ---------------------------------------------------------------------------------------------------------- writing


def format_header(header: ScanHeader) -> str:
    """Write an XML header from which `parse_header` reads the same values.

    The text is valid by the schema. Notes travel as user parameters, so that what was assumed here is said with every image. A
    resonance frequency that is not known is written as 0, which reads as unknown.
    """
    root = ElementTree.Element("ismrmrdHeader", {"xmlns": NAMESPACE})
    patient, study, scanner, sequence = header.patient, header.study, header.scanner, header.sequence
    numeric_accession = bool(_INTEGER.fullmatch(study.accession_number))
    measurement = {
        "measurement_id": header.measurement_id,
        "protocol_name": header.protocol_name,
        "series_description": header.series_description,
        "frame_of_reference_uid": header.frame_of_reference_uid,
    }
    parameters = dict(header.parameters)
    parameters.pop(SIMULATED_PARAMETER, None)
    if study.accession_number and not numeric_accession:
        parameters[_OWN_PARAMETER + "accession_number"] = study.accession_number
    if not header.patient_position:
        parameters.update((_OWN_PARAMETER + name, value) for name, value in measurement.items() if value)
    parameters.update((f"{_NOTE_PARAMETER}{number}", note) for number, note in enumerate(header.notes, start=1))
    _section(
        root,
        "subjectInformation",
        [
            ("patientName", patient.name),
            ("patientWeight_kg", patient.weight_kg),
            ("patientID", patient.identifier),
            ("patientBirthdate", _xml_date(patient.birth_date)),
            ("patientGender", patient.sex),
        ],
    )
    _section(
        root,
        "studyInformation",
        [
            ("studyDate", _xml_date(study.date)),
            ("studyTime", _xml_time(study.time)),
            ("studyID", study.identifier),
            ("accessionNumber", study.accession_number if numeric_accession else ""),
            ("referringPhysicianName", study.referring_physician),
            ("studyDescription", study.description),
            ("studyInstanceUID", study.instance_uid),
            ("bodyPartExamined", header.body_part),
        ],
    )
    if header.patient_position:  # the schema requires it of this section, and none is invented
        _section(
            root,
            "measurementInformation",
            [
                ("measurementID", measurement["measurement_id"]),
                ("patientPosition", header.patient_position),
                ("protocolName", measurement["protocol_name"]),
                ("seriesDescription", measurement["series_description"]),
                ("frameOfReferenceUID", measurement["frame_of_reference_uid"]),
            ],
        )
    _section(
        root,
        "acquisitionSystemInformation",
        [
            ("systemVendor", scanner.manufacturer),
            ("systemModel", scanner.model),
            ("systemFieldStrength_T", scanner.field_strength_t),
            ("receiverChannels", scanner.receiver_coils),
            ("institutionName", scanner.institution),
            ("stationName", scanner.station),
            ("deviceSerialNumber", scanner.device_serial_number),
        ],
    )
    _section(root, "experimentalConditions", [("H1resonanceFrequency_Hz", scanner.resonance_frequency_hz or 0)])
    _write_encoding(ElementTree.SubElement(root, "encoding"), header.encoding)
    _section(
        root,
        "sequenceParameters",
        [
            *(("TR", value) for value in sequence.repetition_time_ms),
            *(("TE", value) for value in sequence.echo_time_ms),
            *(("TI", value) for value in sequence.inversion_time_ms),
            *(("flipAngle_deg", value) for value in sequence.flip_angle_deg),
            ("sequence_type", sequence.sequence_type),
        ],
    )
    _write_parameters(root, parameters, header.simulated)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


_Value: TypeAlias = str | float | None


def _leaf(parent: ElementTree.Element, name: str, value: str | float) -> None:
    ElementTree.SubElement(parent, name).text = legal_in_xml(value if isinstance(value, str) else repr(value))


def _section(parent: ElementTree.Element, name: str, leaves: Iterable[tuple[str, _Value]]) -> None:
    """An element with the leaves that have a value; none where none has one."""
    present = [(leaf, value) for leaf, value in leaves if value is not None and value != ""]
    if present:
        section = ElementTree.SubElement(parent, name)
        for leaf, value in present:
            _leaf(section, leaf, value)


def _write_encoding(element: ElementTree.Element, encoding: MriEncoding) -> None:
    for name, space in (("encodedSpace", encoding.encoded), ("reconSpace", encoding.recon)):
        parent = ElementTree.SubElement(element, name)
        _section(parent, "matrixSize", zip(_AXES, space.matrix, strict=True))
        _section(parent, "fieldOfView_mm", zip(_AXES, map(float, space.field_of_view_mm), strict=True))
    limits = ElementTree.SubElement(element, "encodingLimits")
    for name in LIMIT_NAMES:
        limit = encoding.limits.get(name)
        if limit is not None:
            leaves = [("minimum", limit.minimum), ("maximum", limit.maximum), ("center", limit.centre)]
            _section(limits, name, leaves)
    _leaf(element, "trajectory", encoding.trajectory)
    if encoding.acceleration != (1, 1):
        steps = ("kspace_encoding_step_1", "kspace_encoding_step_2")
        parallel = ElementTree.SubElement(element, "parallelImaging")
        _section(parallel, "accelerationFactor", zip(steps, encoding.acceleration, strict=True))


def _write_parameters(root: ElementTree.Element, parameters: dict[str, str], simulated: bool) -> None:
    if not parameters and not simulated:
        return
    section = ElementTree.SubElement(root, "userParameters")
    if simulated:
        _section(section, "userParameterLong", [("name", SIMULATED_PARAMETER), ("value", 1)])
    for name, value in parameters.items():
        entry = ElementTree.SubElement(section, "userParameterString")
        _leaf(entry, "name", name)
        _leaf(entry, "value", value)


def _xml_date(date: str) -> str:
    """DICOM DA as xs:date."""
    return f"{date[:4]}-{date[4:6]}-{date[6:8]}" if date else ""


def _xml_time(time: str) -> str:
    """DICOM TM as xs:time."""
    return f"{time[:2]}:{time[2:4]}:{time[4:]}" if time else ""
