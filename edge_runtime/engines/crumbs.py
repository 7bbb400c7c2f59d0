"""What the engines of a process are doing, in a file that outlives it: the next start sees which one took the process down.

A process that dies of a fatal signal (SIGSEGV, SIGABRT, SIGBUS, SIGFPE, SIGILL) leaves Python's last words beside its crumbs
(`faulthandler`). One that was killed, ran out of memory or lost its power leaves crumbs and no last words: no engine is to blame.

Crumbs cost a write of a few hundred bytes to the page cache before and after each run, and no fsync: they need to survive the
process, not the machine. Each boot knows its own.
"""

from __future__ import annotations

import contextlib
import contextvars
import faulthandler
import fcntl
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO

from edge_runtime.engines.quarantine import Case, Kind, Mark, Quarantine
from edge_runtime.errors import EngineError

log = logging.getLogger(__name__)

SUFFIX, LAST_WORDS = ".crumbs", ".last-words"
SLOTS = 16
"""Runs at the same time that are written down; more go unwritten."""

SLOT_BYTES = 1024
MAX_FILES = 256
MAX_LAST_WORDS = 64 << 10
MAX_SCAN_ID = 100
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

LOADING, RUNNING = "loading", "running"

scan_at_work: contextvars.ContextVar[str] = contextvars.ContextVar("scan_at_work", default="")
"""Identity of the scan that this thread reconstructs."""


class Crumbs:
    """Those of this process, from when it is made until it is closed.

    Args:
        folder: see `edge_runtime.engines.quarantine.Quarantine`.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix="process-", suffix=".partial", dir=folder)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)  # it is ours until we are gone, however that comes
        self._path = Path(partial).with_suffix(SUFFIX)
        self._words_path = Path(partial).with_suffix(LAST_WORDS)
        self._words: IO[bytes] = self._words_path.open("wb")
        self._put(0, {"pid": os.getpid(), "boot": _boot_id()})
        os.replace(partial, self._path)
        self._free = list(range(1, SLOTS + 1))
        self._taking = threading.Lock()
        self._before = faulthandler.is_enabled()
        faulthandler.enable(self._words, all_threads=True)

    @contextlib.contextmanager
    def doing(self, what: str, case: Case) -> Iterator[None]:
        """Meanwhile the file says so.

        Args:
            what: `LOADING` or `RUNNING`.
        """
        with self._taking:
            slot = self._free.pop() if self._free else None
        if slot is None:
            yield
            return
        self._put(slot, {"doing": what, "scan": scan_at_work.get()[:MAX_SCAN_ID], **asdict(case)})
        try:
            yield
        finally:
            self._put(slot, {})
            with self._taking:
                self._free.append(slot)

    def close(self) -> None:
        """Nothing of this process is left to be found."""
        faulthandler.disable()
        if self._before and sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # there may be no such file any more
                faulthandler.enable(sys.__stderr__)
        for path in (self._path, self._words_path):
            path.unlink(missing_ok=True)
        self._words.close()
        self._file.close()

    def _put(self, slot: int, document: dict[str, object]) -> None:
        content = json.dumps(document).encode()
        if len(content) < SLOT_BYTES:
            with contextlib.suppress(OSError):  # a disk that is full keeps nobody from an image
                os.pwrite(self._file.fileno(), content.ljust(SLOT_BYTES - 1) + b"\n", slot * SLOT_BYTES)


@contextlib.contextmanager
def recorded(cache: Path) -> Iterator[Crumbs | None]:
    """Takes account of earlier processes, then writes down what this one does; nothing, where the folder can't be written.

    Args:
        cache: ``compile.cache`` of the hardware profile.
    """
    try:
        folder = Quarantine.at(cache).path
        account(folder, Quarantine(folder))
        crumbs: Crumbs | None = Crumbs(folder)
    except (OSError, EngineError) as error:
        log.warning("%s can't be written, so no start will know which engine took this process down: %s", cache, error)
        crumbs = None
    try:
        yield crumbs
    finally:
        if crumbs is not None:
            crumbs.close()


def account(folder: Path, quarantine: Quarantine) -> list[Mark]:
    """Reads what processes that are gone have left, notes which engines took them down, and clears it away."""
    marks = []
    for path in sorted(folder.glob(f"*{SUFFIX}"))[:MAX_FILES]:
        words_path = path.with_suffix(LAST_WORDS)
        try:
            with path.open("r+b") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # it lives
                crumbs, words = _crumbs(file.read((SLOTS + 1) * SLOT_BYTES)), _last_words(words_path)
                for case in sorted({case for _, _, case in crumbs}, key=str) if words else ():
                    marks.append(quarantine.note(case, *_judged(case, crumbs, words)))
                path.unlink(missing_ok=True)
                words_path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: can't be read or removed: %s", path, error.strerror or error)
    return marks


def _judged(case: Case, crumbs: list[tuple[str, str, Case]], words: str) -> tuple[Kind, str]:
    """How an engine took part in a crash. Where another was at work too, it may have been that one."""
    alone = all(other == case for _, _, other in crumbs)
    if alone and any(what == LOADING for what, _, _ in crumbs):
        return Kind.CRASHED_LOADING, f"the process ended while the engine was made ready: {words}"
    scans = ", ".join(sorted({scan for _, scan, other in crumbs if other == case and scan}))
    of = f" scan {scans}" if scans else ""
    return Kind.CRASHED_RUNNING, f"the process ended while the engine ran{of}: {words}"


def _crumbs(content: bytes) -> list[tuple[str, str, Case]]:
    """What was being done, of which scan, by which engine; nothing where it was before this boot, or can't be read."""
    slots = [content[at : at + SLOT_BYTES] for at in range(0, len(content), SLOT_BYTES)]
    found = []
    try:
        if not slots or json.loads(slots[0]).get("boot") != _boot_id():
            return []  # the machine went down as well, by whatever cause
        for slot in slots[1:]:
            document = json.loads(slot) if slot.strip(b"\0 \n") else {}
            if document.get("doing") in (LOADING, RUNNING):
                case = Case(*(str(document[name]) for name in Case.__slots__))
                found.append((str(document["doing"]), str(document["scan"])[:MAX_SCAN_ID], case))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        log.warning("crumbs of an earlier process can't be read")
    return found


def _last_words(path: Path) -> str:
    """The signal, as Python named it; empty where there was none."""
    try:
        with path.open("rb") as file:
            words = file.read(MAX_LAST_WORDS).decode("utf-8", errors="replace")
    except OSError:
        return ""
    return words.strip().partition("\n")[0]


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
