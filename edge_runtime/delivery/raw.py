"""The raw scan as Raw Data Storage (DICOM PS3.3 A.37): the recording's bytes, in the study of its images.

A recording is cut into parts of `PART_BYTES`, an object each, so that a link that breaks costs a part and not the scan. Each part
says which it is and what the whole must be: whoever has all of them can put the file together again, byte for byte.

The bytes are private elements (group 7FE1, private creator ``EDGE RUNTIME``), as the standard leaves their form to the maker:

=========== == ===============================================================================
(7FE1,xx01) UT JSON: schema, part and parts from 1, bytes and SHA-256 of the part and the whole
(7FE1,xx20) OB the part, with a zero byte behind an odd one
=========== == ===============================================================================

Identifiers are derived from the study and the bytes: packing again makes no duplicate, other bytes never get them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import RawDataStorage

from edge_runtime.delivery.encoding import beginning, element_header, encoded_in_order
from edge_runtime.delivery.equipment import add_scanner
from edge_runtime.delivery.evidence import PRIVATE_CREATOR
from edge_runtime.delivery.files import write_whole
from edge_runtime.delivery.fit import LO, Fit
from edge_runtime.delivery.identity import SYNTHETIC_DATA, add_patient_and_study
from edge_runtime.delivery.uids import ScanUids, derived_uid
from edge_runtime.errors import DeliveryError
from edge_runtime.scan import ScanHeader

PART_BYTES = 16 << 20
"""Of every part but the last; another value would give the same recording other objects."""

MOST_PARTS = 65_536
"""A terabyte."""

MOST_REFERENCES = 20_000
"""Images that a part refers to."""

SERIES_NUMBER = 9
"""Less than that of any series of images (see `dicom`)."""

FORMAT_UID = derived_uid("raw data", "recording in parts", 1)
"""Creator-Version UID (0008,9123): what the private elements are."""

_GROUP, _ABOUT, _BYTES = 0x7FE1, 0x01, 0x20
_BLOCK = 0x10
_SCHEMA = 1
_CHUNK = 1 << 20
_LARGEST_OBJECT_BYTES = 2 * PART_BYTES

_KEPT = """
    SpecificCharacterSet PatientName PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientWeight StudyInstanceUID
    StudyDate StudyTime StudyID AccessionNumber ReferringPhysicianName StudyDescription RequestAttributesSequence
    ProcedureCodeSequence ReferencedPerformedProcedureStepSequence PerformedProcedureStepID PerformedProcedureStepStartDate
    PerformedProcedureStepStartTime PerformedProtocolCodeSequence Modality ProtocolName BodyPartExamined Laterality Manufacturer
    ManufacturerModelName InstitutionName StationName DeviceSerialNumber ContentDate ContentTime
""".split()
"""Elements that raw data has in common with the images of its scan."""

Show = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose scan it is, and which images were made of it.

    Attributes:
        dataset: patient, study and scanner, with the date and time of the content where they are known.
        images: by SOP Class, SOP Instance and Series Instance UID.
    """

    dataset: Dataset
    images: tuple[tuple[str, str, str], ...] = ()


def owner_of_images(paths: Iterable[Path]) -> Owner:
    """Whose scan it is, as its images say.

    Raises:
        DeliveryError: there are none, they are of several studies or too many, or one can't be read.
    """
    first: Dataset | None = None
    images = []
    for path in sorted(paths):
        image = _read(path, stop_before_pixels=True)
        if "Rows" not in image:
            continue
        if first is None:
            first = image
        if image.get("StudyInstanceUID") != first.get("StudyInstanceUID"):
            raise DeliveryError(f"{path}: of another study than the images before it: name the images of one scan")
        images.append((str(image.SOPClassUID), str(image.SOPInstanceUID), str(image.SeriesInstanceUID)))
    if first is None:
        raise DeliveryError("no images were found to which the raw data would belong")
    if len(images) > MOST_REFERENCES:
        raise DeliveryError(f"{len(images)} images are more than one scan has: name the images of one scan")
    dataset = Dataset()
    for keyword in _KEPT:
        if keyword in first:
            dataset[keyword] = first[keyword]
    if SYNTHETIC_DATA in first:
        dataset[SYNTHETIC_DATA] = first[SYNTHETIC_DATA]
    return Owner(dataset, tuple(images))


def owner_of_header(header: ScanHeader, uids: ScanUids) -> Owner:
    """Whose scan it is, as its header says; for recordings of which there are no images at hand."""
    fit, dataset = Fit(), Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    add_patient_and_study(dataset, header, uids, fit)
    add_scanner(dataset, header.scanner, fit)
    dataset.ContentDate, dataset.ContentTime = dataset.StudyDate, dataset.StudyTime
    return Owner(dataset)


@dataclass(frozen=True, slots=True)
class _Whole:
    size_bytes: int
    sha256: str
    parts: tuple[str, ...]  # their SHA-256


def pack(recording: Path, owner: Owner, folder: Path, show: Show = lambda done, of: None) -> Iterator[Path]:
    """Writes the objects of a recording.

    Args:
        folder: where; a file has its name when it is whole and on the disk.

    Yields:
        The path of each as it is there.

    Raises:
        DeliveryError: the recording can't be read, is empty or too long, or changes meanwhile; or a file could not be written.
    """
    whole = _measure(recording, show)
    study = str(owner.dataset.StudyInstanceUID)
    series = derived_uid("raw series", study, whole.sha256)
    for number, digest in enumerate(whole.parts):
        size = min(PART_BYTES, whole.size_bytes - number * PART_BYTES)
        dataset = _part(owner, series, whole, number, size)
        path = folder / f"{dataset.SOPInstanceUID}.dcm"
        write_whole(path, _content(dataset, recording, number * PART_BYTES, size, digest))
        yield path
        show(whole.size_bytes + number * PART_BYTES + size, 2 * whole.size_bytes)


def unpack(paths: Sequence[Path], out: Path, show: Show = lambda done, of: None) -> int:
    """Puts a recording together from its objects.

    Args:
        paths: of all of them, in any order; others are not looked at further.
        out: the recording; it has its name when it is whole and what it was.

    Returns:
        Its size in bytes.

    Raises:
        DeliveryError: parts are missing, damaged or of several recordings; or the file could not be written.
    """
    found: dict[int, tuple[Path, dict[str, Any]]] = {}
    for path in paths:
        about = _about(path)
        if about is None:
            continue
        if found and about["sha256"] != next(iter(found.values()))[1]["sha256"]:
            raise DeliveryError(
                f"{path}: of another recording than {next(iter(found.values()))[0]}: name the parts of one"
            )
        found[about["part"]] = path, about
    if not found:
        raise DeliveryError("no raw data of this runtime was found")
    _, first = next(iter(found.values()))
    missing = [number for number in range(1, first["parts"] + 1) if number not in found]
    if missing:
        raise DeliveryError(f"part {missing[0]} of {first['parts']} is missing, and {len(missing) - 1} more")
    in_order = [found[number] for number in sorted(found)]
    write_whole(out, _joined(in_order, first, show))
    return int(first["bytes"])


def _measure(recording: Path, show: Show) -> _Whole:
    whole, parts, size = hashlib.sha256(), [], 0
    try:
        with recording.open("rb") as file:
            expected = os.fstat(file.fileno()).st_size
            if not 0 < expected <= MOST_PARTS * PART_BYTES:
                raise DeliveryError(f"{recording}: {expected} bytes: expected 1 to {MOST_PARTS * PART_BYTES}")
            while True:
                part = hashlib.sha256()
                before = size
                for chunk in _chunks(file, PART_BYTES):
                    whole.update(chunk)
                    part.update(chunk)
                    size += len(chunk)
                if size == before:
                    break
                parts.append(part.hexdigest())
                show(size, 2 * expected)
    except OSError as error:
        raise DeliveryError(f"{recording}: {error.strerror or error}") from error
    if len(parts) != math.ceil(expected / PART_BYTES):
        raise DeliveryError(f"{recording}: changes while it is read: wait until the scan has ended")
    return _Whole(size, whole.hexdigest(), tuple(parts))


def _chunks(file: BinaryIO, most: int) -> Iterator[bytes]:
    while most > 0 and (chunk := file.read(min(_CHUNK, most))):
        most -= len(chunk)
        yield chunk


def _part(owner: Owner, series: str, whole: _Whole, number: int, size: int) -> Dataset:
    """The elements of a part before its bytes: Raw Data module (PS3.3 C.19.1) and Common Instance Reference (C.12.2)."""
    dataset = Dataset()
    dataset.update(owner.dataset)
    dataset.SOPClassUID = RawDataStorage
    dataset.SOPInstanceUID = derived_uid("raw", series, number, whole.parts[number])
    dataset.SeriesInstanceUID = series
    dataset.SeriesNumber, dataset.InstanceNumber = SERIES_NUMBER, number + 1
    described = str(dataset.get("ProtocolName") or "")
    dataset.SeriesDescription = (f"Raw data: {described}" if described else "Raw data")[:LO]
    if not dataset.get("ContentDate"):
        dataset.ContentDate, dataset.ContentTime = "19000101", "000000"  # Type 1, and nobody said when
    elif not dataset.get("ContentTime"):
        dataset.ContentTime = "000000"
    dataset.ContentQualification = "RESEARCH"
    dataset.CreatorVersionUID = FORMAT_UID
    dataset.AcquisitionContextSequence = []
    if owner.images:
        dataset.ReferencedSeriesSequence = _references(owner.images)
    about = {
        "schema": _SCHEMA,
        "part": number + 1,
        "parts": len(whole.parts),
        "part_bytes": size,
        "part_sha256": whole.parts[number],
        "bytes": whole.size_bytes,
        "sha256": whole.sha256,
    }
    block = dataset.private_block(_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(_ABOUT, "UT", json.dumps(about, sort_keys=True))
    return dataset


def _references(images: Sequence[tuple[str, str, str]]) -> list[Dataset]:
    by_series: dict[str, Dataset] = {}
    for sop_class, uid, series in images:
        item = by_series.setdefault(series, Dataset())
        if "SeriesInstanceUID" not in item:
            item.SeriesInstanceUID = series
            item.ReferencedInstanceSequence = []
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = sop_class, uid
        item.ReferencedInstanceSequence.append(image)
    return list(by_series.values())


def _content(dataset: Dataset, recording: Path, start: int, size: int, digest: str) -> Iterator[bytes]:
    yield beginning(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))
    yield encoded_in_order(dataset)
    yield element_header(_GROUP << 16 | _BLOCK << 8 | _BYTES, b"OB", size + size % 2)
    seen = hashlib.sha256()
    try:
        with recording.open("rb") as file:
            file.seek(start)
            for chunk in _chunks(file, size):
                seen.update(chunk)
                yield chunk
    except OSError as error:
        raise DeliveryError(f"{recording}: {error.strerror or error}") from error
    if seen.hexdigest() != digest:
        raise DeliveryError(f"{recording}: changes while it is read: wait until the scan has ended")
    yield b"\0" * (size % 2)


def _read(path: Path, **how: Any) -> Dataset:
    try:
        return dcmread(path, **how)
    except (OSError, InvalidDicomError, ValueError, NotImplementedError) as error:
        raise DeliveryError(f"{path}: can't be read: {getattr(error, 'strerror', None) or error}") from error


def _about(path: Path) -> dict[str, Any] | None:
    """What a part says of itself, checked; ``None`` where it is no part of a recording."""
    if path.stat().st_size > _LARGEST_OBJECT_BYTES:
        return None
    dataset = _read(path, defer_size=_CHUNK)  # its bytes are not read yet
    try:
        block = dataset.private_block(_GROUP, PRIVATE_CREATOR)
        about = json.loads(_text(block[_ABOUT].value))
        numbers = [about[name] for name in ("part", "parts", "part_bytes", "bytes")]
        digests = [about[name] for name in ("sha256", "part_sha256")]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if (
        about["schema"] != _SCHEMA
        or any(not isinstance(one, int) or isinstance(one, bool) or one < 1 for one in numbers)
        or any(not isinstance(one, str) for one in digests)
        or not about["part"] <= about["parts"] <= MOST_PARTS
        or about["part_bytes"] > PART_BYTES
    ):
        raise DeliveryError(f"{path}: what it says of its recording can't be: damaged, or written by another version")
    return dict(about)


def _text(value: Any) -> str:
    """Of an element whose representation a receiver may have forgotten, as implicit VR does."""
    return value.decode("utf-8").rstrip(" \0") if isinstance(value, bytes) else str(value)


def _joined(parts: Sequence[tuple[Path, dict[str, Any]]], first: dict[str, Any], show: Show) -> Iterator[bytes]:
    whole, size = hashlib.sha256(), 0
    for path, about in parts:
        content: Any = _read(path).private_block(_GROUP, PRIVATE_CREATOR)[_BYTES].value
        content = bytes(content)[: about["part_bytes"]]
        if hashlib.sha256(content).hexdigest() != about["part_sha256"]:
            raise DeliveryError(f"{path}: its bytes are not those that were packed: get it once more")
        whole.update(content)
        size += len(content)
        yield content
        del content  # before the next one is read
        show(size, first["bytes"])
    if whole.hexdigest() != first["sha256"] or size != first["bytes"]:
        raise DeliveryError("the parts do not make the recording that they are said to be of")
