"""Options that say what reconstructs, shared by the commands that do, and the runtime they ask for."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cli.values import shares
from edge_runtime.errors import DeliveryError

if TYPE_CHECKING:
    from edge_runtime.delivery.handover import Handover
    from edge_runtime.engines.crumbs import Crumbs
    from edge_runtime.journal.folder import Journal


def add_trust(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trust", type=Path, metavar="DIR",
        help="folder of the public keys that may sign bundles (default: the profile's, or the one that ships)",
    )  # fmt: skip


def add_model_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--profile", help="hardware profile, by name or path (x86-cpu)")
    command.add_argument("--bundle", type=Path, metavar="FILE", help="model bundle (default: the one that ships)")
    add_trust(command)
    command.add_argument("--classical-only", action="store_true", help="no learned image")
    command.add_argument("--precision", help="insist on one precision of the bundle (default: the profile's order)")
    command.add_argument(
        "--previews", type=shares, metavar="A,B,…",
        help="shares of a slice at which previews are made, 'none' for none (0.25,0.5,0.75)",
    )  # fmt: skip


def open_runtime(
    options: argparse.Namespace,
    output: Path | None,
    crumbs: Crumbs | None = None,
    handover: Handover | None = None,
    journal: Journal | None = None,
) -> Any:
    from edge_runtime.bundle import DEFAULT_BUNDLE
    from edge_runtime.profile import DEFAULT_PROFILE, load_profile
    from edge_runtime.runtime import DEFAULT_PREVIEWS, open_runtime

    if output is not None:
        _probe(output)
    profile = load_profile(options.profile or DEFAULT_PROFILE)
    bundle = None if options.classical_only else (options.bundle or DEFAULT_BUNDLE)
    previews = DEFAULT_PREVIEWS if options.previews is None else options.previews
    return open_runtime(
        profile,
        bundle=bundle,
        output=output,
        precision=options.precision,
        trust=options.trust,
        previews=previews,
        crumbs=crumbs,
        handover=handover,
        journal=journal,
    )


def _probe(output: Path) -> None:
    """Shows before the first scan that images can be written.

    Raises:
        DeliveryError: they can't.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        raise DeliveryError(f"--out {output}: no images can be written there: {error.strerror or error}") from None
