"""``edge-runtime swap``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.values import margin

DEFAULT_CONTROL = Path("/run/edge-runtime/control")
"""Where the systemd unit has it."""


def add_control(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--control",
        type=Path,
        default=DEFAULT_CONTROL,
        metavar="PATH",
        help="the server's control socket (%(default)s)",
    )


def add(commands: Any) -> None:
    swap = commands.add_parser(
        "swap",
        help="gives a running server another model bundle, between two scans",
        description="The server verifies the bundle beside the running one, tries it on the last scans, and takes it into use "
        "from the next scan on; in its first scans a failure or worse evidence brings the old one back. It lasts until the server "
        "ends: put the file where 'serve --bundle' looks, too. Exit code 0: in use; 1: refused, the running model goes on.",
        epilog="example: edge-runtime swap brain2d-0.4.edgebundle --control /run/edge-runtime/control",
    )
    swap.add_argument("file", type=Path, help="the bundle; the server must be able to read it")
    add_control(swap)
    swap.add_argument(
        "--margin", type=margin, metavar="SHARE",
        help="by how much its held-out residual may exceed the running model's (0.05)",
    )  # fmt: skip
    swap.add_argument("--slower", type=margin, metavar="TIMES", help="how many times as long it may take (1.5)")
    swap.add_argument(
        "--unshadowed", action="store_true", help="without trying it on the last scans, such as when there are none yet"
    )
    swap.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    swap.set_defaults(run=run, parser=swap)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.service.control import ask

    request = {
        "do": "swap",
        "bundle": str(options.file.resolve()),
        "residual_margin": options.margin,
        "time_margin": options.slower,
        "unshadowed": options.unshadowed,
    }
    last: dict[str, Any] = {}
    for last in ask(options.control, request):
        if "progress" in last and not options.json:
            print(last["progress"], file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps(last))
    elif "error" not in last:
        print(
            f"{last['model']} is in use from the next scan on, in place of {last['before']}; SHA-256 {last['digest']}"
        )
    if "error" in last:
        print(f"edge-runtime: {last['error']}", file=sys.stderr)
        return EXIT_FAILED
    return 0
