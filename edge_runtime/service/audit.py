"""The audit log: what ran with what, one JSON object a line, each with the SHA-256 of the line before.

A line is on disk before `AuditLog.write` returns. Beside the log, ``<log>.head`` holds number and SHA-256 of its newest line,
so that lines that are missing from its end show, unless that file was changed with them. What a chain of hashes can't show is
in docs/service.md.

    {"sequence": 7, "time": "2026-11-27T14:00:00.000Z", "event": "scan_begun", …, "previous": "<64 hexadecimal digits>"}
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.errors import AuditError

log = logging.getLogger(__name__)

NOTHING_BEFORE = "0" * 64
"""``previous`` of the first line of all."""

MOST_BYTES = 8 << 20
"""From here on the log is continued in a new file."""

MOST_TORN_BYTES = 1 << 16
"""Of a line: none is as long. What is torn is kept up to a part of it in the line that says so."""

KEPT_OF_TORN = 2000


@dataclass(frozen=True)
class Head:
    """The newest line of a log.

    Attributes:
        sequence: its number; 0 where there is none.
        digest: SHA-256 of its bytes without the newline, hexadecimal.
    """

    sequence: int = 0
    digest: str = NOTHING_BEFORE


def digest_of(line: bytes) -> str:
    """SHA-256 of a line without its newline, hexadecimal."""
    return hashlib.sha256(line).hexdigest()


def head_path(path: Path) -> Path:
    """Where number and digest of a log's newest line stand."""
    return path.with_name(path.name + ".head")


def earlier_paths(path: Path) -> list[Path]:
    """The files that a log was begun in, oldest first; ``path`` continues them."""
    return sorted(
        (one for one in path.parent.glob(f"{path.name}.*") if one.suffix[1:].isdecimal()),
        key=lambda one: int(one.suffix[1:]),
    )


class AuditLog:
    """Appends to a log, from any thread; one process a log.

    What a crash tore from its last line is taken out and told in a line of its own; so is what could not be written while the
    disk was full. Neither stops a scan.

    Raises:
        AuditError: it can't be read or written, or another process writes it.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._writing = threading.Lock()
        self._lost = 0
        self._head = Head()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open(path)
        except OSError as error:
            raise AuditError(f"audit log {path}: {error.strerror or error}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise AuditError(
                f"audit log {path}: another process writes it; give each server a log of its own"
            ) from None
        try:
            torn = self._recover()
        except OSError as error:
            self.close()
            raise AuditError(f"audit log {path}: {error.strerror or error}") from None
        if torn:
            self.write("mended", torn_bytes=len(torn), torn=torn[:KEPT_OF_TORN].decode("ascii", "backslashreplace"))

    @property
    def head(self) -> Head:
        """Of the newest line: keep it elsewhere, and `verify` can tell whether the log still leads there."""
        return self._head

    def close(self) -> None:
        """Writes no more."""
        with self._writing:
            os.close(self._descriptor)
            self._descriptor = -1

    def write(self, event: str, **details: Any) -> bool:
        """Adds a line; false where the disk did not take it, which is logged, and told in the log as soon as it can be.

        Args:
            details: values that JSON knows; no patient data.
        """
        with self._writing:
            if self._descriptor < 0:
                return False
            try:
                if self._lost:
                    self._append("lost", {"lines": self._lost})
                    self._lost = 0
                self._append(event, details)
            except OSError as error:
                self._lost += 1
                log.error("audit log %s: %s could not be written: %s", self._path, event, error.strerror or error)
                return False
            try:
                self._write_head()
                if self._size >= self._most_bytes:
                    self._rotate()
                    self._write_head()
            except OSError as error:  # the line is in the log all the same
                log.error("audit log %s: %s", self._path, error.strerror or error)
        return True

    def _append(self, event: str, details: dict[str, Any]) -> None:
        """Raises:
        OSError: the line is not in the log.
        """
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        entry = {
            "sequence": self._head.sequence + 1,
            "time": stamp,
            "event": event,
            **details,
            "previous": self._head.digest,
        }
        line = json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode()
        data = line + b"\n"
        try:
            written = os.write(self._descriptor, data)
            if written != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(data)
        self._head = Head(self._head.sequence + 1, digest_of(line))

    def _write_head(self) -> None:
        """In place: what a crash leaves of it is no head, and counts as none."""
        descriptor = os.open(head_path(self._path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(descriptor, format_head(self._head), 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _rotate(self) -> None:
        """Continues in a new file; the chain goes on."""
        earlier = earlier_paths(self._path)
        number = int(earlier[-1].suffix[1:]) + 1 if earlier else 1
        if self._path.exists():  # else it was renamed before, and the new file could not be made then
            self._path.rename(self._path.with_name(f"{self._path.name}.{number:06d}"))
        descriptor = _open(self._path)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _sync_folder(self._path.parent)
        os.close(self._descriptor)
        self._descriptor, self._size = descriptor, 0
        self._append("continued", {"from": f"{self._path.name}.{number:06d}"})

    def _recover(self) -> bytes:
        """Finds the newest line; takes out and returns what is torn after it."""
        self._size = os.fstat(self._descriptor).st_size
        tail = os.pread(self._descriptor, 2 * MOST_TORN_BYTES, max(0, self._size - 2 * MOST_TORN_BYTES))
        whole, _, torn = tail.rpartition(b"\n")
        if torn:
            self._size -= len(torn)
            os.ftruncate(self._descriptor, self._size)
            os.fsync(self._descriptor)
        if whole:
            line = whole.rpartition(b"\n")[2]
            self._head = Head(_sequence_of(whole), digest_of(line))
        elif earlier := earlier_paths(self._path):  # a crash between the renaming and the first line of the new file
            lines = earlier[-1].read_bytes().splitlines()
            self._head = Head(_sequence_of(lines[-1]), digest_of(lines[-1])) if lines else Head()
        else:
            self._head = Head()
        return torn


def _sequence_of(lines: bytes) -> int:
    """Number of the last of the lines that has one; damage in the last must not begin the count anew."""
    found = 0
    for behind, line in enumerate(reversed(lines.splitlines())):
        try:
            number = json.loads(line)["sequence"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if isinstance(number, int) and 0 < number < 1 << 53:
            return number + behind
    return found


def format_head(head: Head) -> bytes:
    """Of one length, whatever the number."""
    return f"{head.sequence:020d} {head.digest}\n".encode()


def read_head(path: Path) -> Head | None:
    """Of a log, as it stands beside it; ``None`` where there is none, or what a crash left of one."""
    try:
        text = head_path(path).read_bytes()
    except OSError:
        return None
    number, _, digest = text.strip().partition(b" ")
    if len(text) != len(format_head(Head())) or not number.isdigit() or len(digest) != 64:
        return None
    return Head(int(number), digest.decode("ascii", "replace"))


def _open(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
