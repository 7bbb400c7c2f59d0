"""What differs between two runs beyond noise, by a stated test.

Latencies that follow each other are alike, so samples are not what is compared: each run is cut into segments of equal length, and
the segments' quantiles are dealt out anew (a permutation test on their ranks, two-sided). Of several tests at once, each has a
smaller chance to be wrong (Holm, Scand J Statist 6:65, 1979), all together `ALPHA`.

That two runs differ is not yet that two builds do: a run has its own luck, and a machine its own hours, which no segment of a run
shows. Runs of one build differed by up to 37 % within a minute where others share the machine (docs/benchmark.md). So

- with `LEAST_REPORTS` a side and more each report is one value: what runs of one side differ by among each other is what the
  sides' difference is held against. A change counts from `FLOOR_SHARE` and `FLOOR_MS` on.
- with fewer, a difference is called one (``differs``), and only what is beyond `RUNS_DIFFER_SHARE` a change of the build.

Missed deadlines come together, too: a stall of a second misses twenty. So their shares are compared report by report as well; of
fewer reports (Fisher's exact test) only a share that differs by `RUNS_DIFFER_SHARE` of all deadlines is a change. A lost image
where none was lost before is always one: that nothing is lost is a promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.statistics import Shift, fisher_exact, permutation_test, segment_quantiles

ALPHA = 0.01
FLOOR_SHARE, FLOOR_MS = 0.02, 1.0
RUNS_DIFFER_SHARE = 0.4
SEGMENTS = 12
LEAST_SEGMENTS, LEAST_IN_SEGMENT = 6, 3
LEAST_REPORTS = 7
"""The least whose clearest difference, 2 of C(14, 7) ways to deal them, stays below what Holm's rule asks of ten lines and more."""

COMPARED = (("p50", 0.5), ("p90", 0.9))
MISSED, LOST = "deadlines missed", "images lost"

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of both sides.

    Attributes:
        first, second: its value over each whole side.
        shift_ms: between segments; None where the figure is a share.
        chance: of so large a difference by luck alone; None where there was too little to test.
        needed: what the chance must be below, by Holm's rule.
        verdict: ``same``, ``slower``, ``faster``, ``differs``, ``more``, ``fewer`` or ``too few samples``.
    """

    name: str
    unit: str
    first: float | None
    second: float | None
    shift_ms: tuple[float, float, float] | None
    chance: float | None
    needed: float
    verdict: str

    @property
    def worse(self) -> bool:
        return self.verdict in ("slower", "more")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two sides.

    Attributes:
        remarks: what makes them hard to compare, and what else differs.
    """

    changes: tuple[Change, ...]
    remarks: tuple[str, ...]
    method: str

    @property
    def worse(self) -> bool:
        """Something got worse beyond noise."""
        return any(change.worse for change in self.changes)


def compare(first: Sequence[Report], second: Sequence[Report], floor_share: float = FLOOR_SHARE) -> Comparison:
    """Compares one or several reports with one or several others.

    Raises:
        BenchError: they are of different protocols.
    """
    labels = {f"{one['protocol']['name']} {one['protocol']['version']}" for one in (*first, *second)}
    if len(labels) != 1:
        raise BenchError(f"reports of different protocols can't be compared: {', '.join(sorted(labels))}")
    by_report = len(first) >= LEAST_REPORTS and len(second) >= LEAST_REPORTS
    tested: list[tuple[str, str, float | None, float | None, Shift | None, float | None]] = []
    for name, samples in _series(first).items():
        others = _series(second).get(name, [])
        for label, p in COMPARED:
            a, b = (_segments(side, p, by_report) for side in (samples, others))
            shift = permutation_test(a, b) if min(len(a), len(b)) >= LEAST_SEGMENTS else None
            whole = [_whole(side, p) for side in (samples, others)]
            tested.append(
                (f"{name}, {label}", "ms", whole[0], whole[1], shift, None if shift is None else shift.chance)
            )
    for name in (MISSED, LOST):
        counts = [_counts(side, name) for side in (first, second)]
        values = [_share(side) for side in counts]
        shift = chance = None
        if name == MISSED and by_report:
            a, b = ([count / of for count, of in side if of] for side in counts)
            shift = permutation_test(a, b) if min(len(a), len(b)) >= LEAST_REPORTS else None
            chance = None if shift is None else shift.chance
        elif None not in values:
            chance = fisher_exact(*(sum(column) for side in counts for column in zip(*side, strict=True)))
        tested.append((name, "share", values[0], values[1], shift, chance))
    needed = _holm([chance for *_, chance in tested])
    changes = [
        Change(
            name,
            unit,
            a,
            b,
            None if shift is None or unit == "share" else (shift.value, shift.low, shift.high),
            chance,
            limit,
            _word(name, unit, a, b, shift, chance, limit, floor_share, by_report),
        )
        for (name, unit, a, b, shift, chance), limit in zip(tested, needed, strict=True)
    ]
    how = "reports" if by_report else f"up to {SEGMENTS} segments a report"
    by_fisher = "lost images" if by_report else "lost images and missed deadlines"
    method = (
        f"permutation test on ranks of {how}, two-sided, Holm's rule, {ALPHA:g} in all; {by_fisher} by Fisher's exact test; "
        f"a change of time counts from {100 * (floor_share if by_report else RUNS_DIFFER_SHARE):g} % and {FLOOR_MS:g} ms on"
    )
    remarks = _remarks(first, second)
    if any(change.verdict == "differs" for change in changes):
        remarks.append(
            "the runs differ; whether the builds do, or the machine did something else meanwhile, so few can't tell: "
            f"{LEAST_REPORTS} a side, in turns, can"
        )
    return Comparison(tuple(changes), tuple(remarks), method)


def _series(reports: Sequence[Report]) -> dict[str, list[list[float]]]:
    """By figure: the samples of each report, in the order of time."""
    found: dict[str, list[list[float]]] = {}
    for report in reports:
        measures = report["measures"]
        named = {f"scan {name}, last readout to image": one for name, one in measures["steps"].items()}
        named["first preview"] = measures["preview"]
        for name, one in named.items():
            samples = [float(value) for value in one["samples_ms"]]
            if samples:
                found.setdefault(name, []).append(samples)
    return found


def _segments(reports: Sequence[Sequence[float]], p: float, by_report: bool) -> list[float]:
    if by_report:
        return [value for samples in reports for value in segment_quantiles(samples, 1, p)]
    found: list[float] = []
    for samples in reports:
        segments = min(SEGMENTS, len(samples) // LEAST_IN_SEGMENT)
        if segments:
            found += segment_quantiles(samples, segments, p)
    return found


def _whole(reports: Sequence[Sequence[float]], p: float) -> float | None:
    everything = [value for samples in reports for value in samples]
    return segment_quantiles(everything, 1, p)[0] if everything else None


def _counts(reports: Sequence[Report], name: str) -> list[tuple[int, int]]:
    """So many of so many, by report."""
    found = []
    for report in reports:
        measures = report["measures"]
        if name == LOST:
            found.append((int(measures["images_lost"]), int(measures["images_expected"])))
        elif measures["misses"] is not None:
            found.append((int(measures["misses"]["count"]), int(measures["misses"]["of"])))
    return found


def _share(counts: Sequence[tuple[int, int]]) -> float | None:
    of = sum(of for _, of in counts)
    return sum(count for count, _ in counts) / of if of else None


def _holm(chances: Sequence[float | None]) -> list[float]:
    """What each chance must be below. Once one is not, no larger one is."""
    known = sorted((chance, number) for number, chance in enumerate(chances) if chance is not None)
    needed, stopped = [0.0] * len(chances), False
    for rank, (chance, number) in enumerate(known):
        limit = ALPHA / (len(known) - rank)
        stopped = stopped or chance > limit
        needed[number] = 0.0 if stopped and chance <= limit else limit
    return needed


def _word(
    name: str,
    unit: str,
    a: float | None,
    b: float | None,
    shift: Shift | None,
    chance: float | None,
    needed: float,
    floor_share: float,
    by_report: bool,
) -> str:
    if chance is None or a is None or b is None:
        return "too few samples"
    if name == LOST and a == 0 < b:
        return "more"
    if chance > needed:
        return "same"
    if unit == "share":
        if name == MISSED and not by_report and abs(b - a) < RUNS_DIFFER_SHARE:
            return "differs"
        return "more" if (b - a if shift is None else shift.value) > 0 else "fewer"
    assert shift is not None
    nearest = max(shift.low, -shift.high)  # the end of its bounds that is nearer to no change
    if nearest < max(FLOOR_MS, floor_share * a):
        return "same"
    if not by_report and nearest < RUNS_DIFFER_SHARE * a:
        return "differs"
    return "slower" if shift.value > 0 else "faster"


def _remarks(first: Sequence[Report], second: Sequence[Report]) -> list[str]:
    def values(reports: Sequence[Report], *path: str) -> set[str]:
        found = set()
        for report in reports:
            value: Any = report
            for key in path:
                value = value.get(key) if isinstance(value, dict) else None
            found.add(str(value))
        return found

    told = (
        ("machines", ("provenance", "server_machine", "cpu")),
        ("power modes", ("provenance", "power_mode")),
        ("profiles", ("provenance", "profile")),
        ("bundles", ("provenance", "bundle_digests")),
        ("links", ("provenance", "link", "words")),
        ("versions", ("provenance", "bench", "edge-runtime")),
        ("server's versions", ("provenance", "server")),
        ("server's arguments", ("provenance", "server_arguments")),
        ("pace", ("protocol", "asked", "speed")),
        ("scanners", ("protocol", "asked", "scanners")),
    )
    remarks = []
    for name, path in told:
        a, b = values(first, *path), values(second, *path)
        if a != b:
            remarks.append(f"{name} differ: {', '.join(sorted(a))} against {', '.join(sorted(b))}")
    for key in ("file", "sha256", "image", "config", "repetition_time_ms", "deadline_ms", "pause_s"):
        a, b = (
            {", ".join(str(scan.get(key)) for scan in report["protocol"].get("scans", ())) for report in side}
            for side in (first, second)
        )
        if a != b:
            remarks.append(f"scans differ by {key}: {'; '.join(sorted(a))} against {'; '.join(sorted(b))}")
    if any(not report["verdict"]["valid"] for report in (*first, *second)):
        remarks.append("in at least one report the simulated scanner itself was too late: it says little of the server")
    return remarks
