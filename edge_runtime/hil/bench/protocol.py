"""A scanner's protocol: which scans it measures, how fast, with which pauses, and what may be asked of the
images. One TOML file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.budget import Budget, budget_of
from edge_runtime.errors import ProtocolFileError
from edge_runtime.toml_table import TomlTable, read_toml

SHIPPED_SCAN = "colin27"
"""In place of a file: the demo's scan. It is simulated."""

MOST_SCANS = 64


@dataclass(frozen=True, slots=True)
class ScanStep:
    """One scan of a protocol; the attributes are the keys of a table ``[[scan]]``.

    Attributes:
        name: as the operator calls it.
        file: an MRD stream, or `SHIPPED_SCAN`; relative to the protocol's file.
        repetition_time_ms: between readouts.
        config: the configuration that the server is asked for.
        image: ``EdgeMethod`` of the image that the deadline is about; ``image`` for servers that name none.
        deadline_ms: from a slice's last readout to its image.
        pause_s: from the end of the last readout to the next scan's first; an answer that takes longer holds the next scan up.
    """

    name: str
    file: str
    repetition_time_ms: float
    config: str = "edge"
    image: str = "learned"
    deadline_ms: float | None = None
    pause_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Protocol:
    """A checked protocol.

    Attributes:
        name, version: what results are published under.
        scanners: that measure at the same time.
        repeat: times that each scanner goes through it where neither duration nor count are asked for.
        stagger_s: between the starts of the scanners.
        sha256: of the file.
    """

    name: str
    version: int
    description: str
    scans: tuple[ScanStep, ...]
    budget: Budget
    scanners: int = 1
    repeat: int = 1
    stagger_s: float = 0.5
    sha256: str = ""

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


def parse_protocol(text: str, where: str, folder: Path) -> Protocol:
    """Checks a protocol's text; unknown keys are errors.

    Args:
        folder: that its files are relative to.

    Raises:
        ProtocolFileError: names the key, the value and what is expected.
    """
    table = read_toml(text, where, ProtocolFileError)
    steps = tuple(_step(one, folder) for one in table.tables("scan"))
    if not 1 <= len(steps) <= MOST_SCANS:
        raise ProtocolFileError(f"{where}: {len(steps)} tables [[scan]]: expected 1 to {MOST_SCANS}")
    names = [step.name for step in steps]
    if len(set(names)) != len(names):
        raise ProtocolFileError(f"{where}: scan names {', '.join(names)}: each once")
    protocol = Protocol(
        name=table.text("name"),
        version=table.integer("version", 1, 10_000),
        description=table.text_or("description"),
        scans=steps,
        budget=budget_of(table),
        scanners=table.integer("scanners", 1, 256, 1),
        repeat=table.integer("repeat", 1, 1_000_000, 1),
        stagger_s=table.number("stagger_s", 0, 3600, 0.5),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )
    table.refuse_unknown()
    return protocol


def _step(table: TomlTable, folder: Path) -> ScanStep:
    file = table.text("file")
    step = ScanStep(
        name=table.text("name"),
        file=file if file == SHIPPED_SCAN else str(folder / file),
        repetition_time_ms=table.number("repetition_time_ms", 0.05, 1e5),
        config=table.text("config") if table.has("config") else "edge",
        image=table.text("image") if table.has("image") else "learned",
        deadline_ms=table.number("deadline_ms", 0.1, 1e7) if table.has("deadline_ms") else None,
        pause_s=table.number("pause_s", 0, 3600, 1.0),
    )
    table.refuse_unknown()
    return step


def read_protocol(path: Path) -> Protocol:
    """A protocol's file.

    Raises:
        ProtocolFileError: it can't be read, or see `parse_protocol`.
    """
    try:
        return parse_protocol(path.read_text(encoding="utf-8"), str(path), path.parent)
    except OSError as error:
        raise ProtocolFileError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ProtocolFileError(f"{path}: not UTF-8: byte {error.start} is not") from None
