"""The report of a run as JSON, with everything that is needed to make the run again; and reading it back for a comparison."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.run import Plan, Result, step_file
from edge_runtime.hil.bench.sensing import Sensed
from edge_runtime.hil.bench.suite import broken_rules
from edge_runtime.hil.bench.target import Target
from edge_runtime.hil.bench.verdict import NOT_MEASURED, Verdict
from edge_runtime.hil.bench.versions import installed

FORMAT = 1
MOST_REPORT_BYTES = 1 << 28


def report_of(result: Result, verdict: Verdict, command: Sequence[str], profile: str) -> dict[str, Any]:
    """The report's document.

    Args:
        command: as it was typed.
        profile: name of the hardware profile whose budget holds; "" for none.
    """
    plan, measures = result.plan, result.measures
    document = {
        "format": FORMAT,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "provenance": provenance_of(plan, result.target, result.sensed, measures.bundles, command, profile),
        "protocol": protocol_of(plan),
        "suite_rules_broken": broken_rules(plan, verdict),
        "phases": [asdict(phase) for phase in result.phases],
        "verdict": {"passed": verdict.passed, "valid": verdict.valid, **asdict(verdict)},
        "measures": asdict(measures) | {"scans_per_minute": measures.scans_per_minute},
        "readouts_taken": NOT_MEASURED if result.readouts_taken is None else result.readouts_taken,
        "stages": [asdict(stage) for stage in result.stages] or NOT_MEASURED,
        "usage": {name: NOT_MEASURED if value is None else value for name, value in asdict(result.usage).items()},
        "schedulers": list(result.schedulers),
        "readings": list(result.sensed.readings),
    }
    return finite(document)


def provenance_of(
    plan: Plan, target: Target, sensed: Sensed, bundles: Sequence[str], command: Sequence[str], profile: str
) -> dict[str, Any]:
    """What somebody must know to make the same figures again.

    Args:
        bundles: digests of the models that made the images.
        command, profile: see `report_of`.
    """
    return {
        "command": list(command),
        "bench": installed(),
        "bench_machine": f"{platform.machine()} {platform.release()}, load {os.getloadavg()[0]:.2f} at the end",
        # What is installed beside a server that somebody else started need not be what it runs with.
        "server": (sensed.machine.get("packages") if plan.address.scheme != "tcp" else None) or NOT_MEASURED,
        "target": str(plan.address),
        "target_notes": list(target.notes),
        "server_arguments": list(plan.serve),
        "server_machine": sensed.machine or NOT_MEASURED,
        "power_mode": sensed.machine.get("power_mode") or NOT_MEASURED,
        "profile": profile or NOT_MEASURED,
        "bundle_digests": list(bundles),
        "cpu_limit": plan.cpu_limit,
        "link": asdict(plan.link) | {"words": str(plan.link)},
    }


def protocol_of(plan: Plan) -> dict[str, Any]:
    """The protocol that was played, by digests of its file and of its scans' too, and what was asked for beside it."""
    document = asdict(plan.protocol)
    digests = {
        step.name: hashlib.sha256(Path(step_file(step)).read_bytes()).hexdigest() for step in plan.protocol.scans
    }
    for scan in document["scans"]:
        scan["file"] = Path(scan["file"]).name  # paths of this machine are nobody else's
        scan["sha256"] = digests[scan["name"]]
    document["budget"] = {name: value for name, value in document["budget"].items() if value is not None}
    asked = {"scanners": plan.scanners, "rounds": plan.rounds, "duration_s": plan.duration_s, "speed": plan.speed}
    return document | {"asked": asked | {"warm_up_s": plan.warm_up_s, "cool_down_s": plan.cool_down_s}}


def finite(document: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: such values become text."""
    return {str(key): _finite(value) for key, value in document.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


def write_report(folder: Path, document: Mapping[str, Any], name: str = "bench.json") -> Path:
    """Writes a report's document; a file that is there is replaced as a whole.

    Raises:
        BenchError: it can't be written.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{name}.partial"
        partial.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BenchError(f"{path}: can't be written: {error.strerror or error}") from None
    return path


def read_report(path: Path) -> dict[str, Any]:
    """A report; of a folder, its ``bench.json``.

    Raises:
        BenchError: no report of this format; says what is missing.
    """
    if path.is_dir():
        path = path / "bench.json"
    try:
        if path.stat().st_size > MOST_REPORT_BYTES:
            raise BenchError(f"{path}: more than {MOST_REPORT_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror or error}") from None
    except ValueError as error:
        raise BenchError(f"{path}: no report of a bench: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        found = document.get("format") if isinstance(document, dict) else type(document).__name__
        raise BenchError(f"{path}: format {found!r}: this version reads reports of format {FORMAT}")
    for key in ("protocol", "measures", "verdict", "provenance"):
        if not isinstance(document.get(key), dict):
            raise BenchError(f"{path}: {key} is missing: this is no whole report")
    return document
