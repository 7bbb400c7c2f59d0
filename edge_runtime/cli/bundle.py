"""``edge-runtime bundle``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from edge_runtime.cli.exit_codes import EXIT_FAILED
from edge_runtime.cli.model import add_trust
from edge_runtime.errors import BundleError


def add(commands: Any) -> None:
    bundle = commands.add_parser(
        "bundle",
        help="what is in a model bundle, and whether this device would use it",
        description="Shows a bundle and makes every check that the server makes, golden outputs of every form too. "
        "Exit code 0: accepted; 1: refused.",
        epilog="example: edge-runtime bundle brain2d.edgebundle --trust /etc/edge-runtime/trust",
    )
    bundle.add_argument("file", type=Path, nargs="?", help="the bundle (default: the one that ships)")
    bundle.add_argument("--profile", help="hardware profile, by name or path (x86-cpu)")
    add_trust(bundle)
    bundle.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    bundle.set_defaults(run=run, parser=bundle, classical_only=False)


def run(options: argparse.Namespace) -> int:
    from edge_runtime.bundle import DEFAULT_BUNDLE, load_trust_store, trust_store
    from edge_runtime.bundle.describe import describe_bundle, description_lines, verification_lines, verification_record
    from edge_runtime.bundle.verify import verify_bundle
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile

    path = options.file or DEFAULT_BUNDLE
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    trust = load_trust_store(options.trust or profile.trust or trust_store.DEFAULT_TRUST)
    verification = verify_bundle(path, trust, profile.engines, profile.threads, profile.compilation)
    try:
        description = describe_bundle(path)
    except BundleError:  # the first check says why
        description = None
    if options.json:
        print(json.dumps({"bundle": description, **verification_record(verification)}))
    else:
        if description is not None:
            print(*description_lines(description), sep="\n")
        print(f"checks, with the keys of {trust.folder}:", *verification_lines(verification), sep="\n")
    return 0 if verification.passed else EXIT_FAILED
