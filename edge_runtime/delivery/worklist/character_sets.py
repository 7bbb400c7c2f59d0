"""Entries whose bytes contradict the character set that they declare: what can be read all the same, and notes on what is doubtful.

A name that is read wrongly is an image under a wrong name. What an entry declares counts; where it declares nothing and yet is not
ASCII (PS3.5 6.1.2.1 allows that to nobody, and many do it), it is read as UTF-8 if it is that throughout, and else as Latin-1.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

TEXTS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that a character set is for (PS3.5 6.1.2.3)."""

DEEPEST = 4
"""Sequence in sequence; an order has two."""

_ASCII_ALONE = ("", "ISO_IR 6", "ISO 2022 IR 6")
_WHOLE = ("ISO_IR 192", "GB18030", "GBK")
"""Sets of many bytes that have no escape sequences."""

_ESCAPE = b"\x1b"


def settle(dataset: Dataset) -> tuple[bool, list[str]]:
    """Reads what does not say how it is to be read; the dataset is changed.

    Args:
        dataset: as it came, nothing of it read yet.

    Returns:
        Whether its texts are read as it declares, and notes without values.
    """
    beyond = [one for one in _texts(dataset, DEEPEST) if any(byte >= 0x80 for byte in one[2])]
    if not beyond:
        return True, []
    declared = dataset.get("SpecificCharacterSet") or ""
    sets = [declared] if isinstance(declared, str) else [str(one) for one in declared]
    is_utf_8 = all(_is_utf_8(raw) for _, _, raw in beyond)
    if all(one.strip() in _ASCII_ALONE for one in sets):
        if not is_utf_8:
            return False, ["texts that are not ASCII without a character set: read as Latin-1; compare the names"]
        for holder, tag, raw in beyond:
            holder.add_new(tag, dictionary_VR(tag), raw.decode("utf-8").rstrip(" \0"))
        return False, ["texts that are not ASCII without a character set: read as UTF-8, which they are"]
    if unknown := [one for one in sets if one.strip() not in python_encoding]:
        # Its name is not repeated: it may be anything.
        return False, [
            f"texts in {len(unknown)} character sets that DICOM does not have: read as Latin-1; compare the names"
        ]
    escaped = any(_ESCAPE in raw for _, _, raw in beyond)
    if is_utf_8 and not escaped and not any(one in _WHOLE for one in sets):
        declared = ", ".join(one for one in sets if one)
        return False, [f"texts that declare {declared} and look like UTF-8: read as declared; compare the names"]
    return True, []


def _texts(dataset: Dataset, deepest: int) -> Iterator[tuple[Dataset, BaseTag, bytes]]:
    """Texts that nobody has decoded: their dataset, tag and bytes."""
    for tag in list(dataset.keys()):
        if not dictionary_has_tag(tag):
            continue
        vr = dictionary_VR(tag)
        if vr == "SQ" and deepest:
            for item in dataset[tag].value or ():
                yield from _texts(item, deepest - 1)
        elif vr in TEXTS:
            element = dataset.get_item(tag)
            if isinstance(element, RawDataElement) and element.value:
                yield dataset, BaseTag(tag), element.value


def _is_utf_8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
