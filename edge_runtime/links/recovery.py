"""Scans that a crash, a power cut or a restart interrupted: read back from the journal, while the server serves already."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from edge_runtime.errors import EdgeRuntimeError, JournalError
from edge_runtime.journal.folder import Journal
from edge_runtime.journal.layout import Origin, scan_of
from edge_runtime.journal.record import Record, Replayed
from edge_runtime.links.live import LiveScan, LiveScans, durable_name, wait_for_scanner
from edge_runtime.links.mrd_messages import Message, MessageReader, Text
from edge_runtime.runtime import Runtime
from edge_runtime.scan import ScanHeader
from edge_runtime.service.logs import of_scan

log = logging.getLogger(__name__)

INTERRUPTED = "the server was interrupted while the scan was measured"


def recover(runtime: Runtime, scans: LiveScans, stop: threading.Event) -> list[threading.Thread]:
    """Begins to read back what was interrupted, oldest first, each in a thread of its own; durable scans can be taken at once.

    A scan that can't be read back keeps no server from starting: it is logged.
    """
    journal = runtime.journal
    if journal is None:
        return []
    try:
        records = journal.interrupted()
    except (JournalError, OSError) as error:
        log.error("interrupted scans can't be read back: %s", error)
        return []
    threads = []
    for record in records:
        try:
            scan = _scan_of(runtime, journal, record, scans)
        except (EdgeRuntimeError, OSError) as error:
            log.error("journal %s: can't be read back: %s", record.name, error)
            continue
        if scan is not None:
            thread = threading.Thread(
                target=_read_back, args=(runtime, journal, record, scan, scans, stop), name="recovery", daemon=True
            )
            thread.start()
            threads.append(thread)
    return threads


def _scan_of(runtime: Runtime, journal: Journal, record: Record, scans: LiveScans) -> LiveScan | None:
    """The scan of a record, under its durable name if it has one; None where nothing of it had reached the disk."""
    if not record.groups:
        if record.damage:
            journal.set_aside(record)
        else:
            journal.disk.remove(record.name)
        return None
    texts = [message.text for message in _messages(journal, record, Origin.RUNTIME) if isinstance(message, Text)]
    scan = LiveScan(runtime, scan_of(record.name), texts)
    first = next(_messages(journal, record, Origin.SCANNER), None)
    name = durable_name(first) if first is not None else None
    if name is not None and scans.add(name, scan) is not None:
        log.error("journal %s: another scan has its name %s", record.name, name)
    return scan


def _read_back(
    runtime: Runtime, journal: Journal, record: Record, scan: LiveScan, scans: LiveScans, stop: threading.Event
) -> None:
    scan_id = scan_of(record.name)
    goes_on = False
    with of_scan(scan_id):
        log.warning("scan %s: %d readouts are read back from the journal", scan_id, record.readouts)
        reason = INTERRUPTED
        try:
            if not record.damage:
                scan.journal_with(journal.resume(record))
            for message in _messages(journal, record, Origin.SCANNER):
                scan.feed(message, _nothing)
            if record.damage:
                reason = f"{INTERRUPTED}, and its journal is damaged: {record.damage}"
            if scan.waits_for_its_scanner:
                goes_on = wait_for_scanner(scan, reason, stop)
            else:
                scan.session.abort(reason)
        except (EdgeRuntimeError, OSError) as error:
            scan.session.abort(f"{reason}; reading it back ended with {type(error).__name__}: {error}")
        except Exception as error:  # a defect of ours must not take the server down
            log.exception("scan %s: reading back failed", scan_id)
            scan.session.abort(f"{reason}; internal error: {type(error).__name__}")
        finally:
            if not goes_on:
                scans.ended(scan)
                scan.close_journal()
                scan.release()
                if record.damage:
                    journal.set_aside(record)


def _messages(journal: Journal, record: Record, origin: Origin) -> Iterator[Message]:
    return iter(MessageReader(Replayed(journal.disk, record, origin).receive_into, check_image_lines=False))


def _nothing(header: ScanHeader) -> None:
    """The journal holds only what was accepted: no other limits are needed."""
