"""A run against its budget, line by line, and what the sensors say of why a line was missed."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.links import Link
from edge_runtime.hil.bench.measures import Latency, Measures, Quality
from edge_runtime.hil.bench.sensing import Usage
from edge_runtime.hil.bench.statistics import quantile

NOT_MEASURED = "not measured"

LATENESS, GOLDEN = "scanner's own lateness, p99", "image against golden, NRMSE"
LOST, UNANSWERED = "images lost", "scans not answered in full"
GATES = (LOST, UNANSWERED, GOLDEN)
"""Lines of what comes back, without which no speed counts."""

UNEXPLAINED = "nothing that was measured explains it: the reconstruction itself takes more than the budget has"
TOO_LATE = (
    "the simulated scanner shares its machine with what kept it from its work: give it another machine, a processor of its own, or "
    "--realtime"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the budget.

    Attributes:
        name: what is held against what.
        measured: None where it was not measured.
        passed: None where there was nothing, or too little, to hold against the limit.
        detail: what the figure rests on.
    """

    name: str
    unit: str
    limit: float
    measured: float | None
    passed: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """All lines together.

    Attributes:
        lines: of the budget.
        reasons: for what was missed, as far as anything was seen; first the one that explains most.
        valid: false where the bench itself was too late for the figures to speak of the server.
    """

    lines: tuple[Line, ...]
    reasons: tuple[str, ...]
    valid: bool

    @property
    def passed(self) -> bool:
        """No line was missed, and the bench kept its own time."""
        return self.valid and all(line.passed is not False for line in self.lines)


def judge(
    measures: Measures,
    usage: Usage,
    budget: Budget,
    link: Link,
    throttles_c: float | None = None,
    readouts_taken: int | None = None,
) -> Verdict:
    """Holds a run against its budget. That nothing is lost, and every scan answered to its end, are lines of every budget.

    Args:
        readouts_taken: that the server says it took in; None where it can't be asked.
    """
    lines = [
        Line(
            LOST,
            "",
            0.0,
            float(measures.images_lost),
            measures.images_lost == 0 and measures.images_expected > 0,
            f"of {measures.images_expected} that {measures.scans} scans should yield" + _first(measures.lost),
        ),
        Line(
            UNANSWERED,
            "",
            0.0,
            float(measures.scans - measures.completed),
            measures.completed == measures.scans,
            f"of {measures.scans} that began",
        ),
    ]
    if readouts_taken is not None and not measures.attempts_cut:  # of what was cut, something was on its way
        apart = float(abs(measures.readouts - readouts_taken))
        detail = f"{measures.readouts} sent, {readouts_taken} taken in"
        lines.append(_line("readouts sent against those taken in", "", 0.0, apart, detail))
    for name, limit, p in (("p90", budget.image_p90_ms, 0.9), ("p99", budget.image_p99_ms, 0.99)):
        if limit is not None:
            lines.append(_latency_line(name, limit, p, measures.image))
    if budget.preview_ms is not None:
        came = measures.preview.samples_ms
        # One that never came is as late as can be.
        everything = [*came, *[math.inf] * (measures.scans - len(came))]
        median = quantile(everything, 0.5).value if everything else None
        detail = f"of {measures.scans} scans, {len(came)} with previews, from the first readout"
        lines.append(_line("first preview, p50", "ms", budget.preview_ms, median, detail))
    if budget.miss_share is not None and measures.misses is not None:
        seen = measures.misses
        detail = f"{seen.count} of {seen.of}; 95 % bounds {100 * seen.low:.1f} to {100 * seen.high:.1f} %"
        lines.append(_line("deadlines missed", "share", budget.miss_share, seen.value, detail))
    if budget.nrmse is not None:
        lines.append(_golden_line(budget.nrmse, measures.quality))
    if budget.resident_mb is not None:
        lines.append(_line("server's memory", "MB", budget.resident_mb, usage.resident_mb, "the most, resident"))
    if budget.temperature_c is not None:
        lines.append(_line("temperature", "°C", budget.temperature_c, usage.temperature_c, "the hottest sensor"))
    valid = True
    if budget.lateness_p99_ms is not None:
        late = _line(
            LATENESS,
            "ms",
            budget.lateness_p99_ms,
            measures.pacing.p99_ms,
            "of the bench, not of the server",
        )
        lines.append(late)
        valid = late.passed is not False
    missed = {line.name for line in lines if line.passed is False}
    reasons = [] if valid else [TOO_LATE]
    if GOLDEN in missed:
        quality = measures.quality
        differing = [f"{count} {method}" for method, count in quality.differing.items()]
        differing += [f"{quality.uncompared} without a golden image"] if quality.uncompared else []
        reasons.append(f"images under load were not those that the server makes alone: {', '.join(differing)}")
    if missed - {LATENESS}:
        reasons += _reasons(measures, usage, link, throttles_c)
    if missed and not reasons:
        reasons.append(UNEXPLAINED)
    return Verdict(tuple(lines), tuple(reasons), valid)


def _first(lost: tuple[str, ...]) -> str:
    return f"; the first: {lost[0]}" if lost else ""


def _line(name: str, unit: str, limit: float, measured: float | None, detail: str) -> Line:
    passed = None if measured is None else measured <= limit
    return Line(name, unit, limit, measured, passed, detail if measured is not None else NOT_MEASURED)


def _golden_line(limit: float, quality: Quality) -> Line:
    """What has no golden image to be held against is as far from it as can be."""
    which = f" ({quality.worst})" if quality.worst else ""
    detail = f"the worst of {quality.compared}{which}; {quality.identical} identical to the last bit"
    if quality.uncompared:
        return Line(GOLDEN, "", limit, math.inf, False, f"{detail}; {quality.uncompared} had no golden image")
    return _line(GOLDEN, "", limit, quality.nrmse, detail)


def _latency_line(name: str, limit: float, p: float, latency: Latency) -> Line:
    """MLPerf's estimate where there are enough samples; with fewer, the plain quantile can miss the limit but not pass it."""
    name = f"last readout to image, {name}"
    stopping = next((one for one in latency.stopping if one.p == p), None)
    if stopping is None:
        return _line(name, "ms", limit, None, "")
    if stopping.estimate is not None:
        detail = f"MLPerf single-stream estimate of {stopping.samples}, confidence {stopping.confidence:g}"
        return _line(name, "ms", limit, stopping.estimate, detail)
    plain = next(one.value for one in latency.quantiles if one.p == p)
    detail = f"plain quantile of {stopping.samples}: MLPerf's rule needs {stopping.needed} to pass"
    return Line(name, "ms", limit, plain, False if plain > limit else None, detail)


def _reasons(measures: Measures, usage: Usage, link: Link, throttles_c: float | None) -> list[str]:
    reasons: list[tuple[float, str]] = []
    if usage.throttled_share:
        quota = f" to {usage.quota_cores:g} processors" if usage.quota_cores else ""
        reasons.append(
            (
                usage.throttled_share,
                f"the server's control group limits it{quota}, and it was held up in {usage.throttled_share:.0%} of the periods, "
                f"for {usage.throttled_s or 0:.1f} s in all: give it more processor time",
            )
        )
    if usage.waited_share is not None and usage.waited_share > 0.2 and not usage.throttled_share:
        reasons.append(
            (
                min(usage.waited_share, 1.0),
                f"its threads were ready and had no processor for {usage.waited_share:.2f} s of every second: something else "
                f"runs there{f' (load {usage.load:g})' if usage.load else ''}, or it has more to do than processors",
            )
        )
    if throttles_c is not None and usage.temperature_c is not None and usage.temperature_c >= throttles_c - 2:
        reasons.append(
            (
                0.9,
                f"{usage.temperature_c:.0f} °C were reached, and the device slows down at {throttles_c:.0f}: cool it better",
            )
        )
    if not link.good:
        reasons.append((0.5, f"the link was made bad on purpose: {link}"))
    if measures.pacing.held_up_s > 0.1:
        reasons.append(
            (
                0.4,
                f"the server took no readouts for up to {measures.pacing.held_up_s:.2f} s: it, or the link, was behind",
            )
        )
    for text, count in sorted(measures.errors.items(), key=lambda one: -one[1])[:3]:
        reasons.append((0.95, f"{count} times: {text}"))
    return [text for _, text in sorted(reasons, key=lambda one: -one[0])]
