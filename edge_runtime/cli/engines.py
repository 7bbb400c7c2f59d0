"""``edge-runtime engines``."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    engines = commands.add_parser(
        "engines",
        help="which engines this device has, which have failed here, and how they are tried again",
        description="Lists every engine, what it runs and whether the profile allows it, and those that are quarantined on this "
        "device, with the reason. Exit code 1: --release found nothing to release.",
        epilog="examples:\n"
        "  edge-runtime engines --profile jetson-orin-nano\n"
        "  edge-runtime engines --release openvino            the next start tries it again\n"
        "  edge-runtime engines --release all --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engines.add_argument("--profile", help="hardware profile, by name or path (x86-cpu)")
    engines.add_argument("--release", metavar="NAME", help="take an engine's marks away, 'all' for every engine's")
    engines.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    engines.set_defaults(run=run, parser=engines, classical_only=False)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.doctor.engines import run

    return run(options)
