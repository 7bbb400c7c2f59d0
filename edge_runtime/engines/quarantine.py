"""Engines that have failed on this device, noted in a folder: a form of a bundle on an engine of a version, and how it failed.

One that stands there is not tried again, with these versions on this device, until somebody releases it (``edge-runtime engines
--release``). The folder is the hardware profile's ``compile.cache``; a mark is one small file, written whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from edge_runtime.errors import EngineError

log = logging.getLogger(__name__)

SUFFIX = ".quarantine.json"
MAX_MARK_BYTES = 64 << 10
MAX_REASON = 2000
MOST_MARKS = 256
"""Kept in a folder; the oldest go."""

CRASHES_WHILE_RUNNING = 2
"""After how many crashes of the process an engine that was running a scan is quarantined. One may be anybody's doing: other threads
ran too. While it was made ready nothing else ran: one is enough."""

UNREADABLE = "the mark itself can't be read"


class Kind(str, Enum):
    """How an engine failed."""

    GOLDEN = "golden outputs"
    """It missed them, or failed on them: an error, a value that is not finite, another shape."""
    COMPILATION = "compilation"
    HUNG = "hung"
    SHAPE = "shape"
    """An answer of the wrong shape to a scan."""
    CRASHED_LOADING = "crashed while it was made ready"
    CRASHED_RUNNING = "crashed while it ran"
    UNKNOWN = "unknown"
    """The mark can't be read."""


@dataclass(frozen=True, slots=True)
class Case:
    """What a mark is about. It counts only where every line agrees.

    Attributes:
        engine: its name in the registry.
        version: as the engine tells it.
        conditions: what else decides on this device what it computes, see `edge_runtime.engines.Engine.conditions`.
        bundle: SHA-256 of the bundle's file, hexadecimal.
        precision: of the form.
    """

    engine: str
    version: str
    conditions: str
    bundle: str
    precision: str

    @property
    def name(self) -> str:
        """Of files: there is one mark for each engine and form of a bundle."""
        return f"{self.bundle[:16]}-{self.precision}-{self.engine}"

    def __str__(self) -> str:
        return f"{self.engine} for {self.precision} of bundle {self.bundle[:16]}"


@dataclass(frozen=True, slots=True)
class Mark:
    """That an engine has failed.

    Attributes:
        why: what it said, or what was seen.
        count: how often it failed so.
        at: when it last did, seconds since the epoch.
    """

    case: Case
    kind: Kind
    why: str
    count: int = 1
    at: float = 0.0

    @property
    def quarantined(self) -> bool:
        """Whether it is enough to keep the engine from being used."""
        return self.kind is not Kind.CRASHED_RUNNING or self.count >= CRASHES_WHILE_RUNNING

    def __str__(self) -> str:
        times = f", {self.count} times" if self.count > 1 else ""
        return f"{self.kind.value}{times}: {self.why}"


@dataclass(frozen=True)
class Quarantine:
    """The marks of one folder; from any thread, several processes may share it."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> Quarantine:
        """The folder of a path that may begin with ``~``.

        Raises:
            EngineError: who runs this has no home.
        """
        try:
            return cls(path.expanduser())
        except RuntimeError as error:
            raise EngineError(f"{path}: {error}; compile.cache of the hardware profile names another folder") from error

    def file(self, case: Case) -> Path:
        """Where a failure is noted."""
        return self.path / f"{case.name}{SUFFIX}"

    def failure(self, case: Case) -> Mark | None:
        """How this very engine has failed before; a mark of another device or version counts for nothing."""
        mark = self._mark(self.file(case), case)
        if mark is None or not (mark.kind is Kind.UNKNOWN or mark.case == case):
            return None
        return mark

    def note(self, case: Case, kind: Kind, why: str) -> Mark:
        """Notes a failure, beside how often it was the same before; a disk that does not take it is logged."""
        before = self.failure(case)
        count = before.count + 1 if before is not None and before.kind is kind else 1
        mark = Mark(case, kind, " ".join(why.split())[:MAX_REASON], count, time.time())
        document = {**asdict(case), "kind": kind.value, "why": mark.why, "count": count, "at": mark.at}
        path = self.file(case)
        try:
            _write(path, json.dumps(document, indent=1).encode())
        except OSError as error:
            log.error("%s: can't be written, the next start knows nothing of it: %s", path, error.strerror or error)
        else:
            word = "is quarantined" if mark.quarantined else "has failed"
            log.error("%s %s (%s): %s", case, word, path, mark)
            self._forget_oldest()
        return mark

    def marks(self) -> list[Mark]:
        """All of them, by the names of their files."""
        return [mark for path in self._files() if (mark := self._mark(path, _of_name(path))) is not None]

    def release(self, wanted: Callable[[Mark], bool] = lambda mark: True) -> list[Mark]:
        """Removes marks, and returns those that are gone.

        Raises:
            EngineError: one can't be removed.
        """
        gone = []
        for path in self._files():
            mark = self._mark(path, _of_name(path))
            if mark is None or not wanted(mark):
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise EngineError(f"{path}: can't be removed: {error.strerror or error}") from error
            gone.append(mark)
        return gone

    def _files(self) -> list[Path]:
        return sorted(self.path.glob(f"*{SUFFIX}"))

    def _mark(self, path: Path, case: Case) -> Mark | None:
        """Of a file; ``None`` where there is none.

        Args:
            case: that it is about, where it can't be read.
        """
        try:
            with path.open("rb") as file:
                content = file.read(MAX_MARK_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            return Mark(case, Kind.UNKNOWN, f"{path}: {error.strerror or error}")
        try:
            if len(content) > MAX_MARK_BYTES:
                raise ValueError("too long")
            document = json.loads(content)
            found = Case(*(str(document[name]) for name in Case.__slots__))
            why, count = str(document["why"])[:MAX_REASON], int(document["count"])
            return Mark(found, Kind(document["kind"]), why, max(1, count), float(document["at"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return Mark(case, Kind.UNKNOWN, UNREADABLE)

    def _forget_oldest(self) -> None:
        files = self._files()
        if len(files) <= MOST_MARKS:
            return
        with contextlib.suppress(OSError):  # another process may tidy up too
            for path in sorted(files, key=lambda one: one.stat().st_mtime)[: len(files) - MOST_MARKS]:
                path.unlink(missing_ok=True)


def _of_name(path: Path) -> Case:
    """As much as a file's name tells."""
    bundle, _, rest = path.name.removesuffix(SUFFIX).partition("-")
    precision, _, engine = rest.partition("-")
    return Case(engine or "unknown", "", "", bundle, precision)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all, and on the disk: a crash may follow."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=path.name, suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        os.unlink(partial)
        raise
