"""Values from outside made to fit the attributes of a DICOM dataset, and what that cost."""

from __future__ import annotations

import datetime
import math
import re
import unicodedata

from pydicom.valuerep import format_number_as_ds

# Value lengths in characters, PS3.5 table 6.2-1.
SH, CS, LO, PN, ST, LT = 16, 16, 64, 64, 1024, 10240


class Fit:
    """Makes values from outside fit their attribute and notes what that cost (PS3.5 6.2).

    Notes never repeat a value: comments are shown on screens and survive some de-identification.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []

    def text(self, name: str, value: str, longest: int) -> str:
        """SH, LO or ST: characters that none of them may hold become ``_``, what is too long is cut."""
        # The backslash separates values, and outer spaces are padding.
        text = printable(value).replace("\\", "_").strip(" ")
        if text != value.strip(" "):
            self.notes.append(f"{name}: characters that DICOM does not allow were replaced by _")
        if len(text) > longest:
            self.notes.append(f"{name}: {len(text)} characters were cut to {longest}")
        return text[:longest].rstrip(" ")

    def identifier(self, name: str, value: str, longest: int) -> str:
        """SH or LO that others match by: left out when it does not fit, as an altered one may be somebody else's."""
        text = value.strip(" ")
        if len(text) > longest or "\\" in text or printable(text) != text:
            self.notes.append(f"{name}: does not fit DICOM ({longest} plain characters) and was left out")
            return ""
        return text

    def person_name(self, name: str, value: str) -> str:
        """PN: up to three groups of at most 64 characters, each of up to five components (PS3.5 6.2.1)."""
        text = self.text(name, value, len(value))
        groups = text.split("=")
        if len(groups) > 3 or any(group.count("^") > 4 for group in groups):
            self.notes.append(f"{name}: too many components; separators were replaced by _")
            groups = [text.replace("=", "_").replace("^", "_")]
        if any(len(group) > PN for group in groups):
            self.notes.append(f"{name}: {max(map(len, groups))} characters were cut to {PN}")
        return "=".join(group[:PN].strip(" ") for group in groups).rstrip("=")

    def code(self, name: str, value: str) -> str:
        """CS: upper case; letters, digits, space and underscore."""
        upper = value.strip(" ").upper()
        text = re.sub(r"[^A-Z0-9 _]", "_", upper)
        if text != upper:
            self.notes.append(f"{name}: characters that DICOM does not allow were replaced by _")
        if len(text) > CS:
            self.notes.append(f"{name}: {len(text)} characters were cut to {CS}")
        return text[:CS].rstrip(" ")

    def one_of(self, name: str, value: str, allowed: frozenset[str]) -> str:
        """A CS with few terms; anything else is left out."""
        text = value.strip(" ").upper()
        return self._kept_if(text in allowed, name, text)

    def date(self, name: str, value: str) -> str:
        """DA: YYYYMMDD."""
        try:
            valid = re.fullmatch(r"[0-9]{8}", value) is not None and bool(datetime.datetime.strptime(value, "%Y%m%d"))
        except ValueError:
            valid = False
        return self._kept_if(valid, name, value)

    def time(self, name: str, value: str) -> str:
        """TM: HH[MM[SS[.FFFFFF]]]."""
        valid = re.fullmatch(r"([01][0-9]|2[0-3])([0-5][0-9](([0-5][0-9]|60)(\.[0-9]{1,6})?)?)?", value)
        return self._kept_if(valid is not None, name, value)

    def decimal(self, name: str, value: float | None) -> str | None:
        """DS of a physical quantity that can't be negative; None where it is unknown."""
        if value is None:
            return None
        if not math.isfinite(value) or value < 0:
            self.notes.append(f"{name}: not a possible value and was left out")
            return None
        return decimal(value)

    def _kept_if(self, valid: bool, name: str, value: str) -> str:
        if value and not valid:
            self.notes.append(f"{name}: not a valid value and was left out")
        return value if valid else ""


def decimal(value: float) -> str:
    return format_number_as_ds(float(value))


def printable(text: str) -> str:
    """``text`` with ``_`` for what no DICOM text may hold, can't be encoded, or disguises other text.

    These are controls (Cc), lone surrogates (Cs), line and paragraph separators (Zl, Zp) and the explicit directional
    characters that make a name read as another.
    """
    if text.isascii() and text.isprintable():  # nearly all there is
        return text
    disguises = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return "".join(
        "_" if unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(c) in disguises else c
        for c in text
    )
