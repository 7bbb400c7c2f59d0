"""What a search came to, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.explore import Explored
from edge_runtime.hil.bench.page import STYLE, provenance_table, reading_plots
from edge_runtime.hil.bench.report import FORMAT, finite, protocol_of, provenance_of, write_report
from edge_runtime.hil.bench.search import Axis, Found, Point, Scanners
from edge_runtime.hil.bench.svg import Mark, Series, plot
from edge_runtime.hil.bench.verdict import NOT_MEASURED


def curve_of(explored: Explored, command: Sequence[str], profile: str) -> dict[str, Any]:
    """The search's document; ``found`` is `edge_runtime.hil.bench.search.Found`.

    Args:
        command, profile: see `edge_runtime.hil.bench.report.report_of`.
    """
    plan = explored.plan
    return finite(
        {
            "format": FORMAT,
            "made": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "provenance": provenance_of(plan, explored.target, explored.sensed, explored.bundles, command, profile),
            "protocol": protocol_of(plan),
            "over": explored.axis.name,
            "found": asdict(explored.found),
            "phases": [asdict(phase) for phase in explored.phases],
            "readings": list(explored.sensed.readings),
        }
    )


def write_curve(folder: Path, explored: Explored, document: Mapping[str, Any]) -> tuple[Path, Path]:
    """Writes ``search.json`` and ``search.html``.

    Args:
        document: see `curve_of`.

    Raises:
        BenchError: they can't be written.
    """
    path, page = write_report(folder, document, "search.json"), folder / "search.html"
    try:
        page.write_text(curve_page(explored, document), encoding="utf-8", errors="replace")
    except OSError as error:
        raise BenchError(f"{page}: can't be written: {error.strerror or error}") from None
    return path, page


def curve_page(explored: Explored, document: Mapping[str, Any]) -> str:
    """The page."""
    plan, found, axis = explored.plan, explored.found, explored.axis
    with_images = [point for point in found.curve if point.p50_ms is not None]
    loads = [axis.at(point.load) for point in with_images]
    series = [
        Series(name, loads, [float(getattr(point, key) or 0.0) for point in with_images])
        for name, key in (("p50", "p50_ms"), ("p90", "p90_ms"), ("p99", "p99_ms"), ("max", "longest_ms"))
    ]
    deadlines = sorted({step.deadline_ms for step in plan.protocol.scans if step.deadline_ms is not None})
    marks = [Mark(f"deadline {one:g} ms", one) for one in deadlines]
    if found.held is not None:
        marks.append(Mark("held", axis.at(found.held.load), vertical=True))
    along = "scanners at once" if isinstance(axis, Scanners) else "times the protocol's pace"
    title = escape(f"Search: {plan.protocol.label}, {_what(axis)}")
    kind = "fail" if found.held is None else "pass"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>"
        f'<h1>{title}</h1><p class="small">{document["made"]} · {escape(str(plan.address))} · link: {escape(str(plan.link))}</p>'
        f'<div class="verdict {kind}"><strong>{escape(words(found))}</strong></div>'
        + plot("Last readout to image by load", along, "ms", series, marks, log_y=True)
        + _table(found)
        + "<h2>The server's machine</h2>"
        + reading_plots(document["readings"], _soaks(explored))
        + "<h2>Made by</h2>"
        + provenance_table(document)
        + "</body></html>\n"
    )


def words(found: Found) -> str:
    """What a search came to, in a sentence."""
    if found.held is None:
        return f"No load was held: {found.curve[0].load}: {found.curve[0].why}."
    end = f"; not {found.broken.load}: {found.broken.why}" if found.broken is not None else "; no limit was found"
    return (
        f"Held: {found.held.load}, {found.held.scans_per_minute:.1f} scans a minute, "
        f"{found.held.readouts_per_s:.0f} readouts a second{end}."
    )


def _soaks(explored: Explored) -> list[dict[str, Any]]:
    """Where each load ended, by its place on the axis: a name that a plot has room for."""
    soaks = [phase for phase in explored.phases if phase.load is not None]
    return [
        {"name": f"{explored.axis.at(phase.load):.3g}", "last_s": phase.last_s}
        for phase in soaks
        if phase.load is not None
    ]


def _what(axis: Axis) -> str:
    if isinstance(axis, Scanners):
        return f"how many scanners at {axis.speed:g} times its pace"
    return f"how fast with {axis.scanners} scanner{'s' if axis.scanners != 1 else ''}"


def _table(found: Found) -> str:
    names = (
        "scanners",
        "pace",
        "scans a minute",
        "readouts a second",
        "p50 ms",
        "p90 ms",
        "max ms",
        "images",
        "processors",
        "MB",
        "°C",
    )
    head = "".join(f"<th>{name}</th>" for name in (*names, ""))
    return f"<table><tr>{head}</tr>{''.join(_row(point) for point in found.curve)}</table>"


def _row(point: Point) -> str:
    cells = [
        str(point.load.scanners),
        f"{point.load.speed:.2f}",
        f"{point.scans_per_minute:.1f}",
        f"{point.readouts_per_s:.0f}",
    ]
    cells += ["-" if one is None else f"{one:.0f}" for one in (point.p50_ms, point.p90_ms, point.longest_ms)]
    cells.append(str(point.images))
    cells.append(NOT_MEASURED if point.usage.cpu_cores is None else f"{point.usage.cpu_cores:.2f}")
    cells += [
        NOT_MEASURED if one is None else f"{one:.0f}" for one in (point.usage.resident_mb, point.usage.temperature_c)
    ]
    numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f"<tr>{numbers}<td>{escape(point.why or 'held')}</td></tr>"
