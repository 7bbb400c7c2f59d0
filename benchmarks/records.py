"""One record a figure: what was measured, beside whom, against which target; kept as a JSON list."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import numpy as np

Better = Literal["lower", "higher"]

PACKAGES = (
    "edge-runtime",
    "numpy",
    "onnxruntime",
    "openvino",
    "nncf",
    "torch",
    "pydicom",
    "ismrmrd",
    "bartorch",
    "mrpro",
)
"""Those whose versions the environment record names."""


@dataclass(frozen=True)
class Record:
    """One figure.

    Attributes:
        name: unique; dots make groups.
        value: median of ``n`` samples, in ``unit``.
        better: which way is better.
        peer: what the peer is, "" where there is none.
        peer_value: its median, on the same inputs in the same call; None where it did not run.
        threads: of computing threads that ours may use; the peer's are the same unless the note says otherwise.
        p10, p90: of ours.
        target: None where there is none.
        note: what is in the figure, and what isn't.
    """

    name: str
    value: float
    unit: str
    better: Better
    peer: str = ""
    peer_value: float | None = None
    threads: int = 1
    n: int = 1
    p10: float | None = None
    p90: float | None = None
    target: float | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return self.value <= self.target if self.better == "lower" else self.value >= self.target


def summarise(
    name: str,
    samples: Sequence[float],
    *,
    unit: str,
    better: Better,
    peer: str = "",
    peer_samples: Sequence[float] = (),
    threads: int = 1,
    target: float | None = None,
    note: str = "",
) -> Record:
    """The record of repeated measurements.

    Raises:
        ValueError: no samples, or one that isn't finite.
    """
    if not samples or not all(math.isfinite(sample) for sample in (*samples, *peer_samples)):
        raise ValueError(
            f"{name}: samples {list(samples)}, the peer's {list(peer_samples)}: finite numbers are expected"
        )
    low, high = (float(at) for at in np.percentile(samples, (10, 90)))
    peer_value = statistics.median(peer_samples) if peer_samples else None
    return Record(
        name, statistics.median(samples), unit, better, peer, peer_value, threads, len(samples), low, high, target, note
    )


def environment(remark: str = "") -> Record:
    """Where and when the other records were taken; its value is the number of logical cores."""
    load = os.getloadavg()[0]
    parts = [
        datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        _processor(),
        f"load {load:.2f}",
        f"{platform.system()} {platform.release()} {platform.machine()}",
        f"Python {platform.python_version()}",
        *(f"{package} {_version(package)}" for package in PACKAGES),
        *([remark] if remark else []),
    ]
    cores = os.cpu_count() or 1
    return Record("environment", cores, "cores", "higher", threads=cores, note="; ".join(parts))


def read(path: Path) -> list[Record]:
    """Records from a file; none where there is no file.

    Raises:
        ValueError: it holds something else; delete it.
    """
    if not path.exists():
        return []
    try:
        known = {field.name for field in fields(Record)}
        return [
            Record(**{key: item[key] for key in item if key in known}) for item in json.loads(path.read_text("utf-8"))
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no benchmark records ({error}); delete it") from error


def merge(old: Iterable[Record], new: Iterable[Record]) -> list[Record]:
    """Old and new records; a new one takes the place of the old one of its name."""
    return list(({record.name: record for record in old} | {record.name: record for record in new}).values())


def write(path: Path, records: Iterable[Record]) -> None:
    """Writes records; the file is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    text = json.dumps([asdict(record) for record in records], indent=2, allow_nan=False)
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def table(records: Iterable[Record]) -> str:
    """A table for a terminal."""
    rows = [("benchmark", "median", "p10 to p90", "n", "threads", "target", "", "peer")]
    for record in records:
        spread = "" if record.p10 is None or record.p90 is None else f"{_number(record.p10)} to {_number(record.p90)}"
        target = ""
        if record.target is not None:
            target = f"{'<=' if record.better == 'lower' else '>='} {_number(record.target)}"
        met = {True: "pass", False: "MISS", None: ""}[record.met]
        peer = (
            f"{record.peer} {'not run' if record.peer_value is None else _number(record.peer_value)}"
            if record.peer
            else ""
        )
        value = f"{_number(record.value)} {record.unit}"
        rows.append((record.name, value, spread, str(record.n), str(record.threads), target, met, peer))
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _processor() -> str:
    """The processor's name as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or "unknown processor"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
