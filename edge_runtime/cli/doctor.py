"""``edge-runtime doctor``."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.model import add_trust


def add(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="what this machine is, and what it lacks of what a profile asks for",
        description="Looks at the device, its processor, memory, power mode and temperature, at kernels, engines and the bundle, "
        "and says what is missing and how to mend it. Nothing is changed, but that TensorRT, where the profile has it, compiles "
        "what it has not compiled yet. Exit code 0: it would run; 1: something keeps it from that.",
        epilog="examples:\n"
        "  edge-runtime doctor                               with the profile that fits this machine best\n"
        "  edge-runtime doctor --profile jetson-orin-nano --json\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument("--profile", help="hardware profile, by name or path (default: the one that fits best)")
    doctor.add_argument("--bundle", type=Path, metavar="FILE", help="model bundle (default: the one that ships)")
    add_trust(doctor)
    doctor.add_argument("--classical-only", action="store_true", help="no learned image is wanted")
    doctor.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    doctor.set_defaults(run=run, parser=doctor)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import DEFAULT_BUNDLE, load_trust_store
    from edge_runtime.doctor import State, detect, examine, profile_for
    from edge_runtime.profile import load_profile

    machine = detect(architecture=platform.machine())
    profile = load_profile(options.profile or profile_for(machine))
    bundle = None if options.classical_only else (options.bundle or DEFAULT_BUNDLE)
    folder = options.trust or profile.trust
    findings = []
    if not options.json:
        print(f"profile {profile.name}: {profile.description}")
    for finding in examine(machine, profile, bundle, None if folder is None else load_trust_store(folder)):
        findings.append(finding)
        if not options.json:
            print(f"  {finding.state.value:<8} {finding.name}: {finding.found}")
            if finding.mend:
                print(f"           {finding.mend}")
    if options.json:
        seen = {**asdict(machine), "cpu_features": sorted(machine.cpu_features)}
        print(json.dumps({"profile": profile.name, "machine": seen, "findings": [asdict(one) for one in findings]}))
    return EXIT_FAILED if any(one.state is State.BAD for one in findings) else 0
