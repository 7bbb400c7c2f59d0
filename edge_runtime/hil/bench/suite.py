"""Benchmark suites that come with the package: protocols with a name and a version, whose results can be published side by side.

What a version measures never changes; a change is a new version, beside the old one. The rules are in ``docs/benchmark.md``.
"""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.protocol import Protocol, read_protocol

FOLDER = Path(__file__).parent / "suites"


def suites() -> dict[str, Path]:
    """Files of the suites, by name and version."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def protocol_named(name: str) -> Protocol:
    """A suite by its name and version, such as ``portable-brain-1``, or a protocol by the path of its TOML file.

    Raises:
        BenchError: there is neither.
        ProtocolFileError: see `edge_runtime.hil.bench.protocol.parse_protocol`.
    """
    if name.endswith(".toml"):
        return read_protocol(Path(name))
    known = suites()
    if name not in known:
        raise BenchError(f"suite {name!r} does not exist; known are {', '.join(known)}, or give a path to a .toml file")
    return read_protocol(known[name])
