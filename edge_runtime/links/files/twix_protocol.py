"""Values of the text part of a Siemens twix file, looked up in what twixtools parsed of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BUFFERS = ("Dicom", "Meas", "Config", "MeasYaps")
"""Parts of the header in which a parameter is looked for, in this order."""

MAX_TEXT = 256
"""Longest value that is handed on."""


@dataclass(frozen=True)
class Protocol:
    """A twix header.

    Attributes:
        buffers: ``hdr`` of twixtools: a mapping of parameters a buffer.
    """

    buffers: Mapping[str, Any]

    def value(self, *keys: str | int) -> float | None:
        """A number of the protocol card (MeasYaps) by its path, None where absent or no finite number."""
        found = self.buffers.get("MeasYaps")
        for key in keys:
            try:
                found = found[key]  # type: ignore[index]  # what is no container raises TypeError
            except (KeyError, IndexError, TypeError):
                return None
        return _number(found)

    def whole(self, *keys: str | int) -> int | None:
        """A whole number of the protocol card."""
        number = self.value(*keys)
        return None if number is None else int(number)

    def text(self, *names: str) -> str:
        """The first parameter of these names that isn't empty; empty where there is none."""
        for name in names:
            for buffer in BUFFERS:
                found = self.buffers.get(buffer, {}).get(name, "")
                if isinstance(found, float) and found.is_integer():  # twixtools makes numbers of digits
                    found = int(found)
                if cleaned := _clean(str(found)):
                    return cleaned
        return ""

    def number(self, *names: str) -> float | None:
        """`text` as a number."""
        return _number(self.text(*names))


def _clean(text: str) -> str:
    """Printable characters only, at most `MAX_TEXT`; empty where anonymisation left nothing but x."""
    printable = "".join(c for c in text if c.isprintable())[:MAX_TEXT].strip()
    return "" if set(printable.lower()) <= {"x"} else printable


def _number(value: object) -> float | None:
    text = str(value)
    try:
        number = float(int(text, 16)) if text.lower().startswith("0x") else float(text)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e12 else None
