"""Images as the bytes of DICOM files, explicit VR little endian: what images share is encoded once.

A file is a list of elements in the order of their tags (PS3.5 7.1), each of which is encoded by itself: elements that were encoded
for one image are put between those of another as they are.
"""

from __future__ import annotations

import functools
import struct

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset, validate_file_meta
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian

from edge_runtime.delivery.dicom import Common, StoredImage, common_part, own_part
from edge_runtime.delivery.kind import Kind
from edge_runtime.delivery.uids import ScanUids
from edge_runtime.scan import ScanHeader

PREAMBLE = b"\0" * 128 + b"DICM"

LONGEST_VALUE_BYTES = 0xFFFFFFFE
"""Of an element with a length of 32 bits (PS3.5 7.1.1)."""

_PIXEL_DATA = 0x7FE00010
_KINDS = 64
"""Kinds whose elements are kept: images of all methods and some contrasts take turns."""

Elements = list[tuple[int, bytes]]
"""Encoded elements, by tag."""


class ImageEncoder:
    """Encodes the images of one scan as MR Image Storage; see `dicom.build_dataset`, whose file is the same."""

    def __init__(self, header: ScanHeader, uids: ScanUids) -> None:
        self._header = header
        self._uids = uids
        self._common = functools.lru_cache(_KINDS)(self._encode_common)

    def encode(self, stored: StoredImage, instance_number: int) -> tuple[str, list[bytes]]:
        """An image's SOP Instance UID and its file, in pieces."""
        common, encoded = self._common(stored.kind, stored.slope)
        own = own_part(self._header, self._uids, stored, common, instance_number)
        uid = str(own.SOPInstanceUID)
        pixels = stored.values.tobytes()
        elements = b"".join(one for _, one in sorted([*encoded, *elements_of(own)]))
        start = beginning(str(common.dataset.SOPClassUID), uid)
        return uid, [start, elements, element_header(_PIXEL_DATA, b"OW", len(pixels)), pixels]

    def _encode_common(self, kind: Kind, slope: float) -> tuple[Common, Elements]:
        common = common_part(self._header, self._uids, kind, slope)
        return common, elements_of(common.dataset)


def elements_of(dataset: Dataset) -> Elements:
    """The elements of a dataset in UTF-8 (ISO_IR 192)."""
    return [(int(element.tag), _encoded(element)) for element in dataset]


def encoded_in_order(dataset: Dataset) -> bytes:
    """All elements of a dataset."""
    return b"".join(one for _, one in elements_of(dataset))


def beginning(sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """What a file has before its elements: preamble and file meta information (PS3.10 7.1)."""
    before, after = _meta_elements(sop_class_uid)
    meta = FileMetaDataset()
    meta.MediaStorageSOPInstanceUID = UID(sop_instance_uid)
    group = before + encoded_in_order(meta) + after
    return PREAMBLE + element_header(0x00020000, b"UL", 4) + struct.pack("<L", len(group)) + group


def element_header(tag: int, vr: bytes, length: int) -> bytes:
    """What comes before a value (PS3.5 7.1.2)."""
    group, element = tag >> 16, tag & 0xFFFF
    if vr in _LENGTH_OF_32_BITS:
        return struct.pack("<HH2sHL", group, element, vr, 0, length)
    return struct.pack("<HH2sH", group, element, vr, length)


_LENGTH_OF_32_BITS = frozenset({b"OB", b"OW", b"UN", b"UT"})


@functools.lru_cache(8)
def _meta_elements(sop_class_uid: str) -> tuple[bytes, bytes]:
    """What of the file meta information comes before the SOP Instance UID, but for the group's length, and what after it."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class_uid)
    meta.MediaStorageSOPInstanceUID = UID("1.2")  # stands for any
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    validate_file_meta(meta, enforce_standard=True)
    elements = [(tag & 0xFFFF, one) for tag, one in elements_of(meta)]
    before = b"".join(one for number, one in elements if 0 < number < 3)
    return before, b"".join(one for number, one in elements if number > 3)


def _encoded(element: DataElement) -> bytes:
    """An element; the plain ones here, which is ten times as fast."""
    vr = str(element.VR)
    value = None
    if vr in _TEXTS:
        value = _text(element.value)
        value += (b"\0" if vr == "UI" else b" ") * (len(value) % 2)
    elif vr in _NUMBERS and isinstance(element.value, (int, float)):
        value = struct.pack(_NUMBERS[vr], element.value)
    if value is not None and len(value) <= _LARGEST_SHORT_VALUE:
        return element_header(int(element.tag), vr.encode("ascii"), len(value)) + value
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_data_element(buffer, element, "ISO_IR 192")
    return bytes(buffer.getvalue())


_TEXTS = frozenset({"CS", "DA", "DS", "DT", "IS", "LO", "LT", "SH", "ST", "TM", "UI", "UT"})
_NUMBERS = {"FD": "<d", "UL": "<L", "US": "<H"}
_LARGEST_SHORT_VALUE = 0xFFFE


def _text(value: object) -> bytes:
    """Of one value, of several, or of none."""
    if value is None:
        return b""
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value)).encode("utf-8", "replace")
    return str(value).encode("utf-8", "replace")
