"""``edge-runtime status``."""

from __future__ import annotations

import argparse
import json
from typing import Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.swap import add_control
from edge_runtime.errors import ServiceError

PATIENCE_S = 10.0


def add(commands: Any) -> None:
    status = commands.add_parser(
        "status",
        help="what a running server does, and with which model",
        description="Asks a server that was started with --control. Exit code 0: it serves; 1: nobody answers, or something in it "
        "is stuck.",
        epilog="example: edge-runtime status --control /run/edge-runtime/control --json",
    )
    add_control(status)
    status.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    status.set_defaults(run=run, parser=status)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.service.control import ask
    from edge_runtime.service.status import status_lines

    *_, record = ask(options.control, {"do": "status"}, PATIENCE_S)
    if "error" in record:
        raise ServiceError(str(record["error"]))
    del record["done"]
    print(json.dumps(record) if options.json else "\n".join(status_lines(record)))
    return EXIT_FAILED if record["stuck"] else 0
