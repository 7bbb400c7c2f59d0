"""What `bench compare` calls a change, on real runs: 20 repeats of one build against each other, and one with 5 ms put in.

Each run has a server of its own: a process's own luck is part of the noise. The first test takes eight minutes and a machine that
does nothing else: a run beside other work really is slower. The second takes five, on any machine: several runs a side, in turns,
so that what the machine does besides is on all sides. Both print what they found, to be kept in ``docs/benchmark.md``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.hil.bench.compare import LEAST_REPORTS, Report, compare
from edge_runtime.hil.bench.report import read_report

pytestmark = pytest.mark.soak

REPEATS = int(os.environ.get("EDGE_COMPARE_REPEATS") or 20)
MOST_WRONG = 1
"""Of the repeats: each comparison may be wrong with a chance of `edge_runtime.hil.bench.compare.ALPHA`; two of 20 are a chance
of 1.7 %."""

NO_DELAY, FIVE_MS = "delay=0.01", "delay=2.5"
"""Each way; through the same proxy, so that what it costs is on both sides."""

PROTOCOL = """
name = "quick"
version = 1
[[scan]]
name = "T1"
file = "colin27"
repetition_time_ms = 2
config = "edge-classical"
image = "classical"
deadline_ms = 60000
pause_s = 0.1
"""


def run(folder: Path, link: str, repeat: int = 40) -> Path:
    protocol = folder.parent / "quick.toml"
    protocol.write_text(PROTOCOL, encoding="utf-8")
    usual = [
        "--protocol",
        str(protocol),
        "--classical-only",
        "--previews",
        "none",
        "--warm-up",
        "3",
        "--repeat",
        str(repeat),
    ]
    assert main(["bench", "run", "--quiet", *usual, "--realtime", "--link", link, "--out", str(folder)]) == 0
    return folder


def test_twenty_repeats_are_the_same_and_five_milliseconds_are_not(tmp_path: Path) -> None:
    runs = [read_report(run(tmp_path / f"repeat-{number}", NO_DELAY)) for number in range(REPEATS + 1)]
    slow = read_report(run(tmp_path / "slow", FIVE_MS))
    wrong = []
    for number, (before, after) in enumerate(zip(runs, runs[1:], strict=False)):
        changed = [one for one in compare([before], [after]).changes if one.verdict not in ("same", "too few samples")]
        print(f"repeat {number}: {[(one.name, one.verdict, one.shift_ms) for one in changed] or 'same'}")
        wrong += [number] if changed else []
    comparisons = [compare([one], [slow]) for one in runs]
    found = [comparison.worse for comparison in comparisons]
    (median,) = (one for one in comparisons[-1].changes if one.name == "scan T1, last readout to image, p50")
    print(f"5 ms were found against {sum(found)} of {len(found)} runs; against the last: {median}")
    print(f"medians, ms: {[round(one['measures']['image']['quantiles'][0]['value'], 2) for one in runs]}")
    assert len(wrong) <= MOST_WRONG, wrong
    assert all(found)


def test_runs_in_turns_tell_five_milliseconds_from_what_the_machine_does_besides(tmp_path: Path) -> None:
    sides: dict[str, list[Report]] = {"first": [], "again": [], "slow": []}
    for turn in range(LEAST_REPORTS):
        for name, reports in sides.items():
            link = FIVE_MS if name == "slow" else NO_DELAY
            reports.append(read_report(run(tmp_path / f"{name}-{turn}", link, repeat=25)))
    for name in ("again", "slow"):
        for change in compare(sides["first"], sides[name]).changes:
            print(f"{name}: {change}")
    for name, reports in sides.items():
        print(
            f"{name}: medians, ms: {[round(one['measures']['image']['quantiles'][0]['value'], 2) for one in reports]}"
        )
    assert {one.verdict for one in compare(sides["first"], sides["again"]).changes} == {"same"}
    assert compare(sides["first"], sides["slow"]).worse
