"""What a search came to, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.page import STYLE
from edge_runtime.hil.bench.run import Plan
from edge_runtime.hil.bench.search import Found, Point
from edge_runtime.hil.bench.svg import Mark, Series, plot


def write_curve(folder: Path, found: Found, plan: Plan, command: Sequence[str]) -> tuple[Path, Path]:
    """Writes ``search.json`` and ``search.html``.

    Raises:
        BenchError: they can't be written.
    """
    made = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    document = {
        "format": 1,
        "made": made,
        "command": list(command),
        "protocol": plan.protocol.label,
        "target": str(plan.address),
    }
    document |= {"scanners": plan.scanners, "soak_s": plan.duration_s, "link": str(plan.link), **asdict(found)}
    paths = folder / "search.json", folder / "search.html"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths[0].write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        paths[1].write_text(curve_page(found, plan, made), encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{folder}: the search's report can't be written: {error.strerror or error}") from None
    return paths


def curve_page(found: Found, plan: Plan, made: str) -> str:
    """The page."""
    with_images = [point for point in found.curve if point.p50_ms is not None]
    rates = [point.readouts_per_s for point in with_images]
    series = [
        Series(name, rates, [float(getattr(point, key) or 0.0) for point in with_images])
        for name, key in (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("max", "longest_ms"))
    ]
    deadlines = sorted({step.deadline_ms for step in plan.protocol.scans if step.deadline_ms is not None})
    marks = [Mark(f"deadline {one:g} ms", one) for one in deadlines]
    if found.held is not None:
        marks.append(Mark("held", found.held.readouts_per_s, vertical=True))
    head = "".join(
        f"<th>{name}</th>"
        for name in ("pace", "scans a minute", "readouts a second", "p50 ms", "p90 ms", "max ms", "images", "")
    )
    rows = "".join(_row(point) for point in found.curve)
    if found.held is None:
        words, kind = "No pace was held.", "fail"
    else:
        words, kind = (
            f"Held: {found.held.speed:.2f} times the protocol's pace, {found.held.scans_per_minute:.1f} scans a minute.",
            "pass",
        )
    title = escape(f"Search: {plan.protocol.label}, {plan.scanners} scanners")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style></head><body>'
        f'<h1>{title}</h1><p class="small">{made} · {escape(str(plan.address))} · link: {escape(str(plan.link))}</p>'
        f'<div class="verdict {kind}"><strong>{escape(words)}</strong></div>'
        + plot("Last readout to image by rate", "readouts a second while scans run", "ms", series, marks, log_y=True)
        + f"<table><tr>{head}</tr>{rows}</table></body></html>\n"
    )


def _row(point: Point) -> str:
    times = [point.p50_ms, point.p90_ms, point.longest_ms]
    cells = [f"{point.speed:.2f}", f"{point.scans_per_minute:.1f}", f"{point.readouts_per_s:.0f}"]
    cells += ["-" if one is None else f"{one:.0f}" for one in times] + [str(point.images)]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{numbers}<td>{escape(point.why or 'held')}</td></tr>"
