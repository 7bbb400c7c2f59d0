"""Reads an audit log and its earlier files, and says which line is the first that is not what was written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import AuditError
from edge_runtime.service.audit import NOTHING_BEFORE, Head, digest_of, earlier_paths, read_head

MOST_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Line:
    """One line as it stands in a file.

    Attributes:
        number: in its file, from 1.
        raw: without its newline.
        entry: what it says; ``None`` where it is no JSON object.
    """

    path: Path
    number: int
    raw: bytes
    entry: dict[str, Any] | None


@dataclass(frozen=True)
class Verdict:
    """What came of it.

    Attributes:
        lines: that are in order, before the first that is not.
        first_sequence: of the oldest line; above 1 where earlier files are not there any more.
        head: of the newest line that is in order.
        broken: the first line that is not, and why; empty where all are.
        notes: what is no break, but should be known.
    """

    lines: int
    first_sequence: int
    head: Head
    broken: str = ""
    notes: tuple[str, ...] = ()

    @property
    def intact(self) -> bool:
        return not self.broken


def read_lines(path: Path) -> Iterator[Line]:
    """Of a log and its earlier files, oldest first.

    Raises:
        AuditError: a file can't be read.
    """
    if not path.is_file():
        raise AuditError(f"audit log {path}: no such file")
    for one in [*earlier_paths(path), path]:
        try:
            with one.open("rb") as file:
                number = 0
                while raw := file.readline(MOST_LINE_BYTES):
                    number += 1
                    yield Line(one, number, raw.removesuffix(b"\n"), _entry(raw))
        except OSError as error:
            raise AuditError(f"audit log {one}: {error.strerror or error}") from None


def verify(path: Path, expected_head: str | None = None) -> Verdict:
    """Follows the chain from its oldest line to its newest.

    Args:
        expected_head: SHA-256 of a line that was the newest once, kept elsewhere: the chain must hold it.

    Raises:
        AuditError: a file can't be read.
    """
    head, first, lines = Head(), 0, 0
    notes: list[str] = []
    marked = read_head(path)
    seen_expected, broken, marked_broken = expected_head is None, "", ""
    for line in read_lines(path):
        where = f"{line.path.name} line {line.number}"
        reason = _wrong(line, head, begun=bool(first))
        if reason:
            broken = f"{where}: {reason}"
            break
        assert line.entry is not None
        sequence = line.entry["sequence"]
        if not first:
            first = sequence
            if first > 1:
                notes.append(f"it begins with line {first}: what was before is in files that are not here")
        head = Head(sequence, digest_of(line.raw))
        lines += 1
        seen_expected = seen_expected or head.digest == expected_head
        if marked is not None and marked.sequence == sequence and marked.digest != head.digest:
            marked_broken = (
                f"{where}: not the line that {path.name}.head names: it was changed after it had been written"
            )
    if not broken:
        broken = marked_broken
    if not broken and marked is not None and marked.sequence > head.sequence:
        broken = (
            f"lines {head.sequence + 1} to {marked.sequence} are missing from the end, which {path.name}.head names"
        )
    if not broken and not seen_expected:
        broken = f"no line has the SHA-256 {expected_head}: the log was cut off before it, or is another"
    if marked is None:
        notes.append(f"{path.name}.head is missing or torn: lines that are missing from the end can't be told")
    return Verdict(lines, first, head, broken, tuple(notes))


def _wrong(line: Line, before: Head, *, begun: bool) -> str:
    """Why a line does not follow the one before; empty where it does."""
    if line.entry is None:
        return "no JSON object: damaged, or torn by a crash after which no server has started"
    sequence, previous = line.entry.get("sequence"), line.entry.get("previous")
    if not isinstance(sequence, int) or isinstance(sequence, bool) or sequence < 1 or not isinstance(previous, str):
        return "has no sequence or previous"
    if begun:
        if previous != before.digest:
            return "does not continue the line before it: that one was changed, or lines were taken out or put in"
        if sequence != before.sequence + 1:
            return f"has sequence {sequence}, after {before.sequence}"
    elif sequence == 1 and previous != NOTHING_BEFORE:
        return "is the first and names one before it"
    return ""


def _entry(raw: bytes) -> dict[str, Any] | None:
    if not raw.endswith(b"\n"):
        return None
    try:
        entry = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None
