"""``edge-runtime journal list | verify | export``."""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.exit_codes import EXIT_FAILED

if TYPE_CHECKING:
    from edge_runtime.journal.record import Record

EPILOG = (
    "examples:\n"
    "  edge-runtime journal list /var/lib/edge-runtime/journal\n"
    "  edge-runtime journal verify /var/lib/edge-runtime/journal --json\n"
    "  edge-runtime journal export /var/lib/edge-runtime/journal/20261127T180000Z-0001.mrd scan.mrd\n"
)


def add(commands: Any) -> None:
    journal = commands.add_parser(
        "journal",
        help="raw readouts that 'serve --journal' has kept",
        description="Reads the folder that 'serve --journal' writes; a server may be running.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = journal.add_subparsers(required=True, metavar="LIST|VERIFY|EXPORT")
    listing = kinds.add_parser("list", help="the scans, oldest first", epilog="example: edge-runtime journal list DIR")
    listing.set_defaults(run=run_list, parser=listing)
    verify = kinds.add_parser(
        "verify",
        help="reads everything and compares checksums",
        description="Exit code 0: all that was acknowledged is as it was written; 1: something is damaged, and is named. What a "
        "crash tore from the end of an open scan was never acknowledged and is no damage.",
        epilog="example: edge-runtime journal verify DIR --json",
    )
    verify.set_defaults(run=run_verify, parser=verify)
    for command in (listing, verify):
        command.add_argument("folder", type=Path, metavar="DIR")
        command.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    export = kinds.add_parser(
        "export",
        help="the messages of a scan as the scanner sent them, to a file for 'edge-runtime replay'",
        description="Writes what is sound, without the journal's own texts, and a CLOSE behind it. Exit code 1 where something is "
        "damaged; what lies before the damage is written all the same.",
        epilog="example: edge-runtime journal export DIR/20261127T180000Z-0001.mrd scan.mrd",
    )
    export.add_argument("scan", type=Path, metavar="FILE", help="of a journal's folder")
    export.add_argument("to", type=Path, metavar="TO", help="a new file")
    export.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    export.set_defaults(run=run_export, parser=export)


def run_list(options: argparse.Namespace) -> int:
    from edge_runtime.journal.disk import FolderReader
    from edge_runtime.journal.folder import kept_scans

    scans = sorted(kept_scans(FolderReader(options.folder)), key=lambda kept: kept.scan_id)
    if options.json:
        entries = [
            {"scan": kept.scan_id, "state": kept.state.name.lower(), "size_bytes": kept.size_bytes, "file": kept.name}
            for kept in scans
        ]
        print(json.dumps({"scans": entries}))
        return 0
    for kept in scans:
        changed = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(kept.changed_at))
        print(f"{kept.scan_id}  {kept.state.name.lower():<10}  {kept.size_bytes / 1e6:9.1f} MB  {changed}")
    print(f"{len(scans)} scans, {sum(kept.size_bytes for kept in scans) / 1e6:.1f} MB")
    return 0


def run_verify(options: argparse.Namespace) -> int:
    from edge_runtime.journal.disk import FolderReader
    from edge_runtime.journal.folder import kept_scans
    from edge_runtime.journal.layout import State
    from edge_runtime.journal.record import read_record

    reader, damaged, entries = FolderReader(options.folder), 0, []
    for kept in sorted(kept_scans(reader), key=lambda kept: kept.scan_id):
        record = read_record(reader, kept.name, kept.size_bytes)
        # A closed scan has nothing torn: it was closed after its last group was on disk.
        damage = record.damage
        if not damage and record.torn_bytes and kept.state is State.FINISHED:
            damage = f"{record.torn_bytes} bytes after {record.readouts} readouts are not what was written"
        damaged += bool(damage)
        entries.append(
            {"file": kept.name, "readouts": record.readouts, "torn_bytes": record.torn_bytes, "damage": damage}
        )
        if not options.json:
            said = f"DAMAGED: {damage}" if damage else "whole"
            if record.torn_bytes and not damage:
                said += f", {record.torn_bytes} bytes after that were never acknowledged"
            print(f"{kept.name}: {record.readouts} readouts, {said}", flush=True)
    if options.json:
        print(json.dumps({"intact": not damaged, "scans": entries}))
    return EXIT_FAILED if damaged else 0


def run_export(options: argparse.Namespace) -> int:
    from edge_runtime.journal.disk import FolderReader
    from edge_runtime.journal.record import read_record

    reader = FolderReader(options.scan.parent)
    record = read_record(reader, options.scan.name, options.scan.stat().st_size)
    _export(reader, record, options.to)
    if options.json:
        print(json.dumps({"file": str(options.to), "readouts": record.readouts, "damage": record.damage}))
    else:
        print(f"{options.to}: {record.readouts} readouts")
        if record.damage:
            print(f"DAMAGED: {record.damage}")
    return EXIT_FAILED if record.damage else 0


def _export(reader: Any, record: Record, to: Path) -> None:
    from edge_runtime.journal.record import READ_BYTES, Replayed
    from edge_runtime.links.mrd_pack import pack_close

    replayed, buffer = Replayed(reader, record), memoryview(bytearray(READ_BYTES))
    try:
        with to.open("xb") as file:
            while count := replayed.receive_into(buffer):
                file.write(buffer[:count])
            file.write(pack_close())
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise
    except BaseException:
        to.unlink(missing_ok=True)
        raise
