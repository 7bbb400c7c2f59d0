"""``edge-runtime audit verify | show``."""

from __future__ import annotations

import argparse
import json
from collections import deque
from pathlib import Path
from typing import Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.values import count, sha256

EPILOG = (
    "examples:\n"
    "  edge-runtime audit verify /var/lib/edge-runtime/audit.jsonl\n"
    "  edge-runtime audit show /var/lib/edge-runtime/audit.jsonl --last 20\n"
)


def add(commands: Any) -> None:
    audit = commands.add_parser(
        "audit",
        help="the log of what ran with what: whether it is whole, and what it says",
        description="Reads the log that 'serve --audit' writes, with its earlier files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = audit.add_subparsers(required=True, metavar="VERIFY|SHOW")
    verify = kinds.add_parser(
        "verify",
        help="follows the chain and names the first line that is not what was written",
        description="Every line holds the SHA-256 of the one before. Exit code 0: whole; 1: broken, the first such line is named. "
        "What a chain can't show is in docs/service.md.",
        epilog="example: edge-runtime audit verify /var/lib/edge-runtime/audit.jsonl --json",
    )
    verify.add_argument("file", type=Path)
    verify.add_argument(
        "--expect", type=sha256, metavar="HEAD",
        help="SHA-256 of the newest line at an earlier time, kept elsewhere (of 'edge-runtime status'): the chain must hold it",
    )  # fmt: skip
    verify.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    verify.set_defaults(run=run_verify, parser=verify)
    show = kinds.add_parser(
        "show", help="what it says, a line an event", epilog="example: edge-runtime audit show audit.jsonl --last 20"
    )
    show.add_argument("file", type=Path)
    show.add_argument("--last", type=count, metavar="N", help="only the newest")
    show.add_argument("--json", action="store_true", help="print the lines as they stand in the file")
    show.set_defaults(run=run_show, parser=show)


def run_verify(options: argparse.Namespace) -> int:
    from edge_runtime.service.audit_verify import verify

    verdict = verify(options.file, options.expect)
    if options.json:
        print(
            json.dumps(
                {
                    "intact": verdict.intact,
                    "lines": verdict.lines,
                    "first_sequence": verdict.first_sequence,
                    "last_sequence": verdict.head.sequence,
                    "head": verdict.head.digest,
                    "broken": verdict.broken,
                    "notes": verdict.notes,
                }
            )
        )
    else:
        for note in verdict.notes:
            print(f"note: {note}")
        if verdict.intact:
            print(f"whole: {verdict.lines} lines; the newest is {verdict.head.sequence}, SHA-256 {verdict.head.digest}")
        else:
            print(f"BROKEN: {verdict.broken} ({verdict.lines} lines before are in order)")
    return 0 if verdict.intact else EXIT_FAILED


def run_show(options: argparse.Namespace) -> int:
    from edge_runtime.service.audit_verify import read_lines

    for line in deque(read_lines(options.file), options.last):
        text = line.raw.decode("utf-8", "backslashreplace")
        if options.json or line.entry is None:
            print(text)
            continue
        entry = {
            name: value for name, value in line.entry.items() if name not in ("sequence", "time", "event", "previous")
        }
        details = " ".join(
            f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in entry.items()
        )
        print(f"{line.entry.get('sequence')} {line.entry.get('time')} {line.entry.get('event')} {details}".rstrip())
    return 0
