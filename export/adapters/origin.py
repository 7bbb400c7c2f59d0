"""Where an imported model comes from, as its program records it."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export.adapters.program import Origin, digest


def origin_of(
    source: str, model: str, distribution: str, arguments: Mapping[str, Any], checkpoint: Path, mapping: Path
) -> Origin:
    """The record.

    Args:
        distribution: the installed package that the model's code is in; where there is none of that name, none is recorded.
    """
    try:
        package = f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        package = f"{distribution}, not an installed package"
    return Origin(
        source=source,
        model=model,
        package=package,
        arguments=json.dumps(arguments, sort_keys=True, default=str),
        checkpoint=checkpoint.name,
        checkpoint_sha256=digest(checkpoint.read_bytes()),
        mapping_sha256=digest(mapping.read_bytes()),
    )
