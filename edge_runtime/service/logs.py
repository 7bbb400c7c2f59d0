"""Logs without patient data, as text or as JSON, one object a line.

What other libraries say, and the words of errors that are not ours, may quote what a scanner sent. So of their records the
place and the kind are written, and not their words; what this package logs itself is written so that it holds none
(`errors.kind_of`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from edge_runtime.errors import kind_of

OURS = "edge_runtime"

LONGEST_MESSAGE = 2000

MOST_FRAMES = 12
"""Of a traceback, innermost last."""

_scan: ContextVar[str] = ContextVar("scan", default="")


@contextlib.contextmanager
def of_scan(scan_id: str) -> Iterator[None]:
    """What this thread logs meanwhile belongs to a scan."""
    token = _scan.set(scan_id)
    try:
        yield
    finally:
        _scan.reset(token)


def message_of(record: logging.LogRecord) -> str:
    """The record's words, or where it comes from if they are not ours."""
    if record.name != OURS and not record.name.startswith(f"{OURS}."):
        return f"a message of {record.name}, withheld (module {record.module}, line {record.lineno})"
    text = record.getMessage()
    return text if len(text) <= LONGEST_MESSAGE else text[:LONGEST_MESSAGE] + "…"


def frames_of(trace: TracebackType | None) -> list[str]:
    """A traceback's places: no line of code, no value."""
    frames = traceback.extract_tb(trace)[-MOST_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (UTC, ISO 8601), ``level``, ``logger``, ``message``, ``thread``; ``scan`` where it belongs
    to one; ``error`` and ``frames`` where an exception was logged."""

    def format(self, record: logging.LogRecord) -> str:
        seconds = time.gmtime(record.created)
        entry: dict[str, Any] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": message_of(record),
            "thread": record.threadName,
        }
        if scan := _scan.get():
            entry["scan"] = scan
        if record.exc_info and record.exc_info[1] is not None:
            entry["error"] = kind_of(record.exc_info[1])
            entry["frames"] = frames_of(record.exc_info[2])
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people, and the places of a traceback under it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: ")

    def format(self, record: logging.LogRecord) -> str:
        record.asctime = self.formatTime(record)
        text = self.formatMessage(record) + message_of(record)
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {kind_of(record.exc_info[1])}" + "".join(f"\n  {at}" for at in frames_of(record.exc_info[2]))
        return text


@contextlib.contextmanager
def logging_as(form: str) -> Iterator[None]:
    """Logs to standard error, ``text`` or ``json``, what a server should tell; warnings of libraries and threads' failures too. At
    the end all of that is as it was."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root, ours = logging.getLogger(), logging.getLogger(OURS)
    before = root.handlers[:], root.level, ours.level, threading.excepthook
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    threading.excepthook = _thread_failed
    try:
        yield
    finally:
        root.handlers[:], root_level, ours_level, threading.excepthook = before
        root.setLevel(root_level)
        ours.setLevel(ours_level)
        logging.captureWarnings(False)


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    if failure.exc_type is SystemExit or failure.exc_value is None:
        return
    name = failure.thread.name if failure.thread else "a thread"
    logging.getLogger(__name__).error("%s failed", name, exc_info=failure.exc_value)
