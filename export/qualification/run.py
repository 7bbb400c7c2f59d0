"""`edge-export qualify`: judges a model and writes ``quality.json`` and ``quality.html``."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from edge_runtime.bundle.quality import SCHEMA, Judged, missed_limits, parse_report
from edge_runtime.kernels import Plans, Workers, instruction_set
from edge_runtime.machine import processor
from edge_runtime.profile import DEFAULT_PROFILE, load_profile
from edge_runtime.runtime import runtime_version
from export.digest import file_digest, made_by
from export.qualification.cases import (
    AS_TRAINED,
    HOME,
    OFF_ACCELERATION,
    OFF_DISTRIBUTION,
    RECORDED,
    Case,
    CaseName,
    Sources,
)
from export.qualification.cost import costs
from export.qualification.extent import Extent
from export.qualification.figures import figures_of
from export.qualification.judge import CLASSICAL, Models, Outcome, Row, images, learned, outcome
from export.qualification.page import page, picture
from export.qualification.stability import Stability, stabilities
from export.qualification.subject import Subject
from export.remembered import Remembered
from export.required import missed_requirements

STABILITY_DRAWS = 4
"""How many of recorded slices and of those as trained for have their stability measured."""

WORST_SHOWN = 4


def qualify(
    subject: Subject, sources: Sources, extent: Extent, precision: str, out: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Judges every case, writes the report into a folder and returns what ``quality.json`` holds.

    What has been judged is kept in ``judged.jsonl`` in that folder: an interrupted run goes on where it stopped.

    Args:
        precision: the form whose figures the limits are held against.
        report: told in words how far it is.
    """
    out.mkdir(parents=True, exist_ok=True)
    profile = load_profile(DEFAULT_PROFILE)
    plans, models = Plans(Workers(threads=1)), subject.models(threads=1)
    known = Remembered(out / "judged.jsonl", _identity(subject, sources))
    if said := known.beginning():
        report(said)
    names = list(sources.names(extent.draws, extent.off_draws, extent.seed))
    rows: list[Row] = []
    stable: list[Stability] = []
    left_out: dict[str, str] = {}
    for number, name in enumerate(names, start=1):
        of_case = known.remembered(f"judged {name!r}", partial(_judged, name, sources, models))
        rows += [Row(**row) for row in of_case["rows"]]
        if of_case["left_out"]:
            left_out[str(name)] = of_case["left_out"]
        report(f"{number} of {len(names)}: {name}{': left out, ' if of_case['left_out'] else ''}{of_case['left_out']}")
    for name in looked_into([one for one in names if str(one) not in left_out]):
        found = known.remembered(f"stable {name!r}", partial(_stable, name, sources, models, plans))
        stable += [Stability(**one) for one in found]
        report(f"stability: {name}")
    report("time and memory …")
    spent = costs(subject, profile.threads)
    figures = figures_of(rows, stable, spent, precision)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "name": subject.name,
        "version": subject.version,
        "forms": subject.digests(),
        "judged": asdict(_judged_of(sources, extent, precision, rows)),
        "figures": figures,
        "limits": {name: str(limit) for name, limit in sorted(subject.limits.items())},
        "made_with": _made_with(subject, sources, extent),
        "left_out": left_out,
        "rows": [asdict(row) for row in rows],
        "stability": [asdict(one) for one in stable],
        "costs": [asdict(one) for one in spent],
    }
    held = parse_report(json.dumps(document).encode())
    document["missed"] = [
        *missed_limits(subject.limits, subject.digests(), held),
        *missed_requirements(subject.forms, subject.provenance, held.judged),
    ]
    (out / "quality.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    report("pictures …")
    pictures = [
        (
            f"{title}: {case.name}",
            picture(case, {method: image for method, (image, _) in images(case, models, plans).items()}),
        )
        for title, case in _worst(rows, names, sources, plans, precision)
    ]
    (out / "quality.html").write_text(page(document, rows, stable, spent, pictures), encoding="utf-8")
    return document


def _judged(name: CaseName, sources: Sources, models: Models) -> dict[str, Any]:
    found: Outcome = outcome(name, sources, models)
    return {"rows": [asdict(row) for row in found.rows], "left_out": found.left_out}


def _stable(name: CaseName, sources: Sources, models: Models, plans: Plans) -> list[dict[str, Any]]:
    return [asdict(one) for one in stabilities(sources.case(name, plans), models, plans)]


def _judged_of(sources: Sources, extent: Extent, precision: str, rows: Sequence[Row]) -> Judged:
    """What the figures are of: draws that were left out do not count."""

    def slices(group: str) -> int:
        cases = {(row.case, row.acceleration) for row in rows if row.group == group}
        return max(Counter(acceleration for _, acceleration in cases).values(), default=0)

    return Judged(
        precision,
        draws=slices(AS_TRAINED),
        off_draws=min(slices(group) for group in OFF_DISTRIBUTION),
        recorded_slices=slices(RECORDED),
        volumes=sources.volume_digests(),
        recordings={name: file_digest(path) for name, path in sources.recordings.items()},
    )


def looked_into(names: Sequence[CaseName]) -> list[CaseName]:
    """Those whose stability is measured: at R = 4 some as trained for and some recorded, spread over the slices of all scans, and
    one of every kind that the model was not trained for."""
    found = []
    for group in HOME:
        there = [one for one in names if one.group == group and one.acceleration == OFF_ACCELERATION]
        count = min(STABILITY_DRAWS, len(there))
        found += [there[(2 * number + 1) * len(there) // (2 * count)] for number in range(count)]
    for group in OFF_DISTRIBUTION:
        found += [one for one in names if one.group == group][:1]
    return found


def _worst(
    rows: Sequence[Row], names: Sequence[CaseName], sources: Sources, plans: Plans, precision: str
) -> list[tuple[str, Case]]:
    """The cases that somebody must look at, and why: where the learned image gains least, errs most and is flagged most, of each
    kind."""
    by_name = {str(name): name for name in names}
    ours = [row for row in rows if row.method == learned(precision)]
    classical = {row.case: row for row in rows if row.method == CLASSICAL}
    home = [row for row in ours if row.group in HOME]
    away = [row for row in ours if row.group in OFF_DISTRIBUTION]

    def gain(row: Row) -> float:
        return row.psnr_db - classical[row.case].psnr_db

    wanted: dict[str, list[str]] = {}

    def show(row: Row, title: str) -> None:
        wanted.setdefault(row.case, []).append(title)

    for where, kind in ((home, "as trained for or recorded"), (away, "not trained for")):
        if where:
            show(min(where, key=gain), f"gains least, {kind}")
            show(min(where, key=lambda row: row.ssim), f"lowest SSIM, {kind}")
            show(
                max(where, key=lambda row: row.flagged - classical[row.case].flagged),
                f"most flagged over classical, {kind}",
            )
            show(max(where, key=lambda row: row.flagged_group), f"largest flagged group, {kind}")
            show(max(where, key=lambda row: row.structure_error), f"largest structure error, {kind}")
    recorded = [row for row in ours if row.group == RECORDED]
    for row in sorted(recorded, key=gain)[:WORST_SHOWN]:
        show(row, "gains least of those recorded")
    return [("; ".join(titles), sources.case(by_name[case], plans)) for case, titles in wanted.items()]


def _made_with(subject: Subject, sources: Sources, extent: Extent) -> dict[str, str]:
    """What a reader needs to make the report again."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "scipy", "onnxruntime"))
    return {
        "model": subject.origin,
        "volumes": ", ".join(volume.name for volume in sources.volumes),
        "other anatomy": ", ".join(volume.name for volume in sources.foreign) or "drawn phantoms",
        "recordings": ", ".join(sources.recordings) or "none",
        "data, SHA-256": sources.identity(),
        "extent": f"{extent.draws} draws, {extent.off_draws} of every other kind, seed {extent.seed}",
        "simulated": "every scan but the recorded ones",
        "versions": f"edge-runtime {runtime_version()}, {versions}, Python {platform.python_version()}",
        "machine": f"{processor() or 'unnamed processor'}, {platform.machine()}, kernels for {instruction_set()}",
    }


def _identity(subject: Subject, sources: Sources) -> dict[str, str]:
    """All that a judgement hangs on."""
    model = repr((sorted(subject.digests().items()), subject.settings))
    return {
        "model": hashlib.sha256(model.encode()).hexdigest(),
        "data": sources.identity(),
        **made_by(__name__),
    }
