"""Scans that a crash, a power cut or a restart interrupted: read back from the journal, while the server serves already."""

from __future__ import annotations

import logging
import threading

from edge_runtime.errors import EdgeRuntimeError, JournalError
from edge_runtime.journal.folder import Journal, KeptScan
from edge_runtime.journal.layout import Origin
from edge_runtime.journal.record import Record, Replayed
from edge_runtime.links.live import REMEMBERED, Ended, LiveScan, LiveScans, durable_name, wait_for_scanner
from edge_runtime.links.mrd_messages import MessageReader, Text
from edge_runtime.runtime import Runtime
from edge_runtime.scan import ScanHeader
from edge_runtime.service.logs import of_scan

log = logging.getLogger(__name__)

INTERRUPTED = "the server was interrupted while the scan was measured"


def recover(runtime: Runtime, scans: LiveScans, stop: threading.Event) -> list[threading.Thread]:
    """Begins to read back what was interrupted, each scan in a thread of its own. When this returns, durable ones have their names
    back, and a scanner that comes for one waits until it is read; who comes for one that had ended is told so.

    A scan that can't be read back keeps no server from starting: it is logged.
    """
    journal = runtime.journal
    if journal is None:
        return []
    try:
        interrupted, closed = journal.interrupted(), journal.closed(REMEMBERED)
    except JournalError as error:
        log.error("interrupted scans can't be read back: %s", error)
        return []
    for kept in closed:
        if name := _name_of(journal, kept):
            scans.remember(name, Ended(journal.readouts_of(kept)))
    threads = []
    for kept in reversed(interrupted):  # should two have one name, the newer one's scanner is there
        scan = LiveScan(runtime, kept.scan_id)
        name = _name_of(journal, kept)
        if name and scans.begin_again(name, scan) is not scan:
            log.error("journal %s: a newer scan has its name %s", kept.name, name)
        thread = threading.Thread(
            target=_read_back, args=(journal, kept, scan, scans, stop), name="recovery", daemon=True
        )
        thread.start()
        threads.append(thread)
    return threads


def _name_of(journal: Journal, kept: KeptScan) -> str:
    """Under which a scan is durable; empty where it is not, or nothing can be read of it."""
    try:
        first = next(iter(_messages(journal, journal.read(kept, most_groups=1), Origin.SCANNER)), None)
        return (durable_name(first) if first is not None else None) or ""
    except (EdgeRuntimeError, OSError):
        return ""  # told when it is read back


def _read_back(journal: Journal, kept: KeptScan, scan: LiveScan, scans: LiveScans, stop: threading.Event) -> None:
    goes_on, record = False, None
    with of_scan(kept.scan_id):
        try:
            record = journal.read(kept)
            if not record.groups and not record.damage:  # nothing of it had reached the disk
                scan.session.withdraw()
                journal.disk.remove(kept.name)
                return
            goes_on = _go_on(journal, record, scan, stop)
        except (EdgeRuntimeError, OSError) as error:
            scan.session.abort(f"{INTERRUPTED}; reading it back ended with {type(error).__name__}: {error}")
        except Exception as error:  # a defect of ours must not take the server down
            log.exception("scan %s: reading back failed", kept.scan_id)
            scan.session.abort(f"{INTERRUPTED}; internal error: {type(error).__name__}")
        finally:
            if not goes_on:
                how = scan.close_journal()
                if record is not None and not scan.is_journalled:
                    how = Ended(record.readouts, how.failed)
                    journal.set_aside(record)
                # Whatever became of it here: its scanner was told of readouts, and must not begin as if there had been none.
                scans.ended(scan, how, begun=scan.begun or how.durable > 0)
                scan.release()


def _go_on(journal: Journal, record: Record, scan: LiveScan, stop: threading.Event) -> bool:
    """Feeds a scan with what its file holds; whether it then goes on elsewhere, else it has ended."""
    log.warning("%s: %d readouts are read back from the journal", record.name, record.readouts)
    notes = _messages(journal, record, Origin.RUNTIME)
    scan.delivered.learn([note.text for note in notes if isinstance(note, Text)])
    why = record.damage and f"its journal is damaged: {record.damage}"
    if notes.closed_cleanly:  # only its name was not on disk yet
        why = "it had ended"
    if not why:
        try:
            scan.reserve_journal()
            scan.journal_with(journal.resume(record))
        except JournalError as error:
            why = str(error)
    if why:
        scan.not_journalled(why)
    for message in _messages(journal, record, Origin.SCANNER):
        scan.feed(message, _nothing)
    if not scan.begun:  # nothing of it was acknowledged
        log.warning("%s: holds no header and is closed", record.name)
    if scan.waits_for_its_scanner:
        return wait_for_scanner(scan, INTERRUPTED, stop)
    scan.session.abort(f"{INTERRUPTED}; {why}" if why else INTERRUPTED)
    return False


def _messages(journal: Journal, record: Record, origin: Origin) -> MessageReader:
    return MessageReader(Replayed(journal.disk, record, origin).receive_into, check_image_lines=False)


def _nothing(header: ScanHeader) -> None:
    """The journal holds only what was accepted: no other limits are needed."""
