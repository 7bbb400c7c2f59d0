"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.svg import Mark, Series, bars, plot
from edge_runtime.hil.bench.verdict import NOT_MEASURED

NUMBER = re.compile(r"-?[\d,.]+(e[+-]\d+)?( (ms|MB|%|°C|MHz|W))?( \([\d,.]*–[\d,.]*\))?")
"""Cells that stand to the right."""

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, sans-serif; color: #1d2733; margin: 0 auto; max-width: 62rem; padding: 1.5rem; background: #fff; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid #cbd3dc; }
.verdict { padding: .8rem 1rem; border-left: 6px solid; margin: 1rem 0; }
.pass { border-color: #3a7d34; background: #eef6ed; } .fail { border-color: #b3261e; background: #fbeeed; }
.none { border-color: #97761c; background: #faf5e6; }
table { border-collapse: collapse; margin: .5rem 0; } th, td { text-align: left; padding: .25rem .8rem .25rem
0; vertical-align: top; }
th { font-weight: 600; border-bottom: 1px solid #cbd3dc; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.word-pass { color: #2c6426; font-weight: 600; } td.word-FAIL { color: #b3261e; font-weight: 600; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; } svg text { font: 12px system-ui, sans-serif; fill: #1d2733; }
svg .title { font-weight: 600; font-size: 13px; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: #e3e8ed; } .axis { stroke: #6b7a89; } .mark { stroke: #b3261e; stroke-dasharray: 5 3; }
svg .mark-text { fill: #b3261e; text-anchor: end; }
figcaption span { margin-right: 1.2rem; font-size: 13px; } figcaption i { display: inline-block; width: .8em;
height: .8em; margin-right: .35em; }
code { background: #f0f3f6; padding: .1em .3em; overflow-wrap: anywhere; } .small { color: #4a5a6a; font-size: 13px; }
"""


def write_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Writes ``bench.html``.

    Raises:
        BenchError: it can't be written.
    """
    path = folder / "bench.html"
    try:
        path.write_text(page_of(report), encoding="utf-8", errors="replace")
    except OSError as error:
        raise BenchError(f"{path}: can't be written: {error.strerror or error}") from None
    return path


def page_of(report: Mapping[str, Any]) -> str:
    """The page of a report as `edge_runtime.hil.bench.report.report_of` makes it."""
    protocol, measures = report["protocol"], report["measures"]
    name = f"{protocol['name']} {protocol['version']}"
    parts = [
        f"<h1>Bench: {escape(name)}</h1>",
        f'<p class="small">{escape(report["made"])} · {escape(report["provenance"]["target"])} · '
        f"link: {escape(report['provenance']['link']['words'])}</p>",
        _verdict(report["verdict"]),
        f"<p>{escape(rules_words(report['suite_rules_broken'], name))}</p>",
        "<h2>Budget</h2>",
        _budget(report["verdict"]["lines"]),
        "<h2>Last readout to image</h2>",
        _latencies(measures),
        _latency_plots(report),
        "<h2>What came back</h2>",
        _counts(report),
        "<h2>The server's time, stage by stage</h2>",
        _stages(report["stages"]),
        "<h2>The server's machine</h2>",
        _usage(report),
        "<h2>Made by</h2>",
        provenance_table(report),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Bench: {escape(name)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _verdict(verdict: Mapping[str, Any]) -> str:
    missed = [line["name"] for line in verdict["lines"] if line["passed"] is False]
    if not verdict["valid"]:
        kind, words = (
            "none",
            "Not valid: the simulated scanner itself was too late for the figures to speak of the server.",
        )
        words += f" Missed: {', '.join(missed)}."
    elif missed:
        kind, words = "fail", f"The budget was missed: {', '.join(missed)}."
    else:
        open_lines = [line["name"] for line in verdict["lines"] if line["passed"] is None]
        but = f", as far as it was measured. Neither kept nor missed: {', '.join(open_lines)}" if open_lines else ""
        kind, words = "pass", f"The budget was kept{but}."
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in verdict["reasons"])
    why = f"<p>What was seen of why:</p><ul>{reasons}</ul>" if reasons else ""
    return f'<div class="verdict {kind}"><strong>{escape(words)}</strong>{why}</div>'


def rules_words(broken: Sequence[str] | None, name: str) -> str:
    """Whether a run may be published as a result of its suite; empty where its protocol is no suite's."""
    if broken is None:
        return ""
    return f"No result of {name} by its rules: {'; '.join(broken)}." if broken else f"By the rules of {name}."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(one)}</th>' for one in head)}</tr>{lines}</table>"


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    """What, and its value: values of many kinds below each other, all to the left."""
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f"<table>{lines}</table>"


def _cell(text: str) -> str:
    if text in ("pass", "FAIL"):
        return f'<td class="word-{text}">{text}</td>'
    return f'<td class="number">{escape(text)}</td>' if NUMBER.fullmatch(text) else f"<td>{escape(text)}</td>"


def _budget(lines: Sequence[Mapping[str, Any]]) -> str:
    words = {True: "pass", False: "FAIL"}
    return _table(
        ("line", "measured", "at most", "", "what it rests on"),
        [
            (
                line["name"],
                _value(line["measured"], line["unit"]),
                _value(line["limit"], line["unit"]),
                words.get(line["passed"], NOT_MEASURED if line["measured"] is None else "too few images"),
                line["detail"],
            )
            for line in lines
        ],
    )


def _value(value: Any, unit: str = "") -> str:
    if value is None or isinstance(value, str):
        return NOT_MEASURED if value is None else value
    if unit == "share":
        return f"{100 * value:.3g} %"
    return f"{_number(value)} {unit}".strip()


def _number(value: float | str) -> str:
    """Text is what JSON has no number for, such as ``inf``."""
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _latencies(measures: Mapping[str, Any]) -> str:
    rows = [_latency_row("all scans", measures["image"])]
    rows += [_latency_row(f"scan {name}", one) for name, one in measures["steps"].items()]
    rows += [_latency_row(f"{name} images", one) for name, one in measures["methods"].items()]
    rows.append(_latency_row("first preview, from the first readout", measures["preview"]))
    stopping = measures["image"]["stopping"]
    notes = "; ".join(
        f"p{100 * one['p']:g}: "
        + (
            f"{_number(one['estimate'])} ms"
            if one["estimate"] is not None
            else f"needs {one['needed']} images, {one['samples']} came"
        )
        for one in stopping
    )
    pacing = measures["pacing"]
    return (
        _table(("ms", "n", "p50", "p90", "p99", "p99.9", "max", "autocorrelation"), rows)
        + '<p class="small">In brackets: 95 % bounds from order statistics, which assume no distribution; a '
        "side without a bound has "
        "too few samples for one. The bounds speak of independent samples: the nearer the autocorrelation is "
        "to 1, the wider they should be.</p>"
        + f"<p>MLPerf's single-stream rule (confidence 0.99), all scans: {escape(notes or 'no samples')}.</p>"
        + f"<p>The simulated scanner itself: {pacing['readouts']} readouts left late by {_number(pacing['p50_ms'])} ms (p50), "
        f"{_number(pacing['p99_ms'])} ms (p99), {_number(pacing['longest_ms'])} ms (max). Latencies count "
        f"from when a readout was due.</p>"
    )


def _latency_row(name: str, one: Mapping[str, Any]) -> list[str]:
    cells = [_bounded(q) for q in one["quantiles"]] or [NOT_MEASURED] * 4
    longest = NOT_MEASURED if one["longest_ms"] is None else _number(one["longest_ms"])
    return [name, str(len(one["samples_ms"])), *cells, longest, f"{one['autocorrelation']:.2f}"]


def _bounded(q: Mapping[str, Any]) -> str:
    """A quantile and what bounds it has."""
    low, high = ("" if q[side] is None else _number(q[side]) for side in ("low", "high"))
    return f"{_number(q['value'])} ({low}–{high})" if low or high else _number(q["value"])


def _latency_plots(report: Mapping[str, Any]) -> str:
    measures = report["measures"]
    deadlines = sorted({scan["deadline_ms"] for scan in report["protocol"]["scans"] if scan["deadline_ms"] is not None})
    marks = [Mark(f"deadline {_number(one)} ms", one) for one in deadlines]
    over_time = [Series(name, one["at_s"], one["samples_ms"], "points") for name, one in measures["steps"].items()]
    shares = []
    for name, one in measures["steps"].items():
        ordered = sorted(one["samples_ms"])
        shares.append(Series(name, ordered, [1 - number / len(ordered) for number in range(len(ordered))], "steps"))
    upright = [Mark(mark.name, mark.at, vertical=True) for mark in marks]
    return plot("Over the run", "seconds since the beginning", "ms", over_time, marks) + plot(
        "Share of images that take longer", "ms from last readout to image", "share", shares, upright, log_y=True
    )


def _counts(report: Mapping[str, Any]) -> str:
    measures, quality, misses = report["measures"], report["measures"]["quality"], report["measures"]["misses"]
    rows = [
        ("scans that began, and were answered in full", f"{measures['scans']}, {measures['completed']}"),
        ("scans a minute", _number(measures["scans_per_minute"])),
        ("images expected, and lost", f"{measures['images_expected']}, {measures['images_lost']}"),
        ("scans whose answer held up the next one", str(measures["pacing"]["overruns"])),
        ("connections that ended early", str(measures["attempts_cut"])),
        ("readouts sent, and taken in by the server", f"{measures['readouts']}, {report['readouts_taken']}"),
        (
            "deadlines missed",
            NOT_MEASURED
            if misses is None
            else f"{misses['count']} of {misses['of']}: {100 * misses['value']:.3g} % "
            f"({100 * misses['low']:.1f}–{100 * misses['high']:.1f} % by Clopper and Pearson)",
        ),
        (
            "images under load against the golden ones",
            NOT_MEASURED
            if not quality["compared"]
            else f"{quality['identical']} of {quality['compared']} identical to the last bit; "
            f"worst NRMSE {_number(quality['nrmse'])}, worst pixel {_number(quality['largest'])} of the brightest",
        ),
    ]
    errors = [(f"{count} ×", text) for text, count in measures["errors"].items()]
    said = "<p>What scanners saw otherwise:</p>" + _pairs(errors) if errors else ""
    return _pairs(rows) + said


def _stages(stages: Any) -> str:
    if isinstance(stages, str):
        return f"<p>{escape(stages)}</p>"
    return bars("Mean of final images", "ms", [(one["name"], one["mean_ms"]) for one in stages]) + _table(
        ("stage", "n", "mean ms", "p90 ms"),
        [
            (
                one["name"],
                str(one["count"]),
                _number(one["mean_ms"]),
                NOT_MEASURED if one["p90_ms"] is None else _number(one["p90_ms"]),
            )
            for one in stages
        ],
    )


def _usage(report: Mapping[str, Any]) -> str:
    used, readings = report["usage"], report["readings"]
    power = used["power_w"]
    rows = [
        ("processors kept busy by the server", _value(used["cpu_cores"])),
        (
            "limit of its control group, processors",
            "none" if used["quota_cores"] == NOT_MEASURED else _value(used["quota_cores"]),
        ),
        (
            "held up by that limit, share of periods",
            _value(used["throttled_share"], "" if isinstance(used["throttled_share"], str) else "share"),
        ),
        ("ready without a processor, seconds a second", _value(used["waited_share"])),
        ("resident memory, most", _value(used["resident_mb"], "" if isinstance(used["resident_mb"], str) else "MB")),
        ("temperature, highest", _value(used["temperature_c"], "" if isinstance(used["temperature_c"], str) else "°C")),
        ("clock, lowest mean", _value(used["clock_mhz"], "" if isinstance(used["clock_mhz"], str) else "MHz")),
        (
            "power",
            power if isinstance(power, str) else ", ".join(f"{name} {watts:.2f} W" for name, watts in power.items()),
        ),
    ]
    return _pairs(rows) + reading_plots(readings, report["phases"])


def reading_plots(readings: Sequence[Mapping[str, Any]], phases: Sequence[Mapping[str, Any]]) -> str:
    """Sensors over time, with the ends of the phases."""
    marks = [Mark(phase["name"], phase["last_s"], vertical=True) for phase in phases]
    at = [one["at_s"] for one in readings]
    busy = [
        (b["at_s"], (b["cpu_s"] - a["cpu_s"]) / (b["clock_s"] - a["clock_s"]))
        for a, b in zip(readings, readings[1:], strict=False)
        if a["cpu_s"] is not None and b["cpu_s"] is not None and b["clock_s"] > a["clock_s"]
    ]
    pictures = [
        plot(
            "Processors kept busy", "s", "processors", [Series("", [x for x, _ in busy], [y for _, y in busy])], marks
        ),
        plot("Resident memory", "s", "MB", _known(readings, "resident_mb"), marks),
        plot("Clock", "s", "MHz", _known(readings, "clock_mhz"), marks),
    ]
    for title, unit, key in (("Temperature", "°C", "temperatures_c"), ("Power", "W", "power_w")):
        names = sorted({name for one in readings for name in one[key]})
        series = [
            Series(
                name,
                [x for x, one in zip(at, readings, strict=True) if name in one[key]],
                [one[key][name] for one in readings if name in one[key]],
            )
            for name in names
        ]
        pictures.append(plot(title, "s", unit, series, marks, y_from_zero=key == "power_w"))
    return "".join(pictures)


def _known(readings: Sequence[Mapping[str, Any]], key: str) -> list[Series]:
    known = [(one["at_s"], one[key]) for one in readings if one[key] is not None]
    return [Series("", [x for x, _ in known], [y for _, y in known])]


def provenance_table(report: Mapping[str, Any]) -> str:
    """What made a report's or a search's document."""
    made = report["provenance"]
    machine = made["server_machine"]
    if isinstance(machine, Mapping):
        machine = ", ".join(
            str(part)
            for part in (
                machine.get("model"),
                machine.get("cpu"),
                f"{machine.get('cores')} cores",
                f"{machine.get('memory_mb')} MB",
                machine.get("kernel"),
            )
            if part
        )
    rows = [
        ("command", " ".join(made["command"])),
        ("bench", _versions(made["bench"])),
        ("server", _versions(made["server"])),
        ("bench's machine", made["bench_machine"]),
        ("server's machine", machine),
        ("power mode", str(made["power_mode"])),
        ("hardware profile", made["profile"]),
        ("scanners' scheduler", ", ".join(report.get("schedulers", ())) or "the usual one"),
        ("server's arguments", " ".join(made["server_arguments"]) or "none"),
        ("model bundles", ", ".join(made["bundle_digests"]) or NOT_MEASURED),
        ("notes", "; ".join(made["target_notes"]) or "none"),
    ]
    asked = report["protocol"]["asked"]
    rows.append(("asked for", ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)))
    return _pairs(rows) + f'<p class="small">{escape(report["protocol"]["description"])}</p>'


def _versions(packages: Mapping[str, Any] | str) -> str:
    if not isinstance(packages, Mapping):
        return str(packages)
    return ", ".join(f"{name} {number}" for name, number in packages.items())
