"""Recorded MRD conversations: the messages a scanner sent, one after the other, from its configuration to CLOSE."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_runtime.errors import RecordingError, ScanRefused
from edge_runtime.links.files.recording import Recording
from edge_runtime.links.mrd_header import format_header, parse_header
from edge_runtime.links.mrd_messages import Close, HeaderText, Message, MessageReader
from edge_runtime.links.mrd_pack import pack_close, pack_config_file, pack_header, pack_readouts
from edge_runtime.scan import ReadoutBatch, ScanHeader

CONFIG = "edge"
"""The configuration a written stream asks for."""


def open_mrd_stream(path: Path) -> Recording:
    """Open a stream; it is read through once to check and count it.

    Raises:
        RecordingError: damaged, truncated (no CLOSE), or without header or readouts.
    """
    header: ScanHeader | None = None
    count = 0
    for message in _messages(path):
        if isinstance(message, HeaderText):
            if header is not None:
                raise RecordingError(f"{path}: two headers; a recording holds one scan")
            header = _parse(path, message)
        elif isinstance(message, ReadoutBatch):
            if header is None:
                raise RecordingError(f"{path}: readouts before the header; the start of the recording is missing")
            count += len(message)
    if header is None or count == 0:
        missing = "header" if header is None else "readouts"
        raise RecordingError(f"{path}: an MRD stream without {missing}; record the scan again")
    times = header.sequence.repetition_time_ms
    pace = times[0] / 1000.0 if times and times[0] > 0 else None
    return Recording(path, "MRD stream", header, count, pace, lambda: _batches(path))


def write_mrd_stream(path: str | Path, header: ScanHeader, batches: Iterable[ReadoutBatch]) -> int:
    """Write a scan as an MRD stream; the file appears under its name once it is complete.

    Returns:
        The number of readouts written.

    Raises:
        RecordingError: the file can't be written.
        ValueError: readouts that MRD can't hold.
    """
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    count = 0
    try:
        with open(partial, "wb") as file:
            file.write(pack_config_file(CONFIG))
            file.write(pack_header(format_header(header)))
            for batch in batches:
                file.write(pack_readouts(batch))
                count += len(batch)
            file.write(pack_close())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:
        raise RecordingError(f"{target}: can't be written: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return count


def _messages(path: Path) -> Iterator[Message]:
    try:
        with open(path, "rb", buffering=0) as file:
            reader = MessageReader(file.readinto)
            for message in reader:
                if isinstance(message, Close):
                    return
                yield message
    except ScanRefused as error:
        raise RecordingError(f"{path}: no complete MRD stream: {error}") from None
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    raise RecordingError(f"{path}: the stream ends without CLOSE: it is truncated; copy it again from its source")


def _batches(path: Path) -> Iterator[ReadoutBatch]:
    for message in _messages(path):
        if isinstance(message, ReadoutBatch):
            yield ReadoutBatch(message.header.copy(), message.samples.copy())  # the reader uses its buffers again


def _parse(path: Path, message: HeaderText) -> ScanHeader:
    try:
        return parse_header(message.xml)
    except ScanRefused as error:
        raise RecordingError(f"{path}: {error}") from None
