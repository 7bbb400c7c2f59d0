"""What `bench compare` calls a change, on real runs: 20 repeats of one build against each other, and one with 5 ms put in.

Each run has a server of its own: a process's own luck is part of the noise. A repeat is seven runs against seven in turns, of a
row of 33, each begun one run later than the repeat before it: they share runs, and none may be called a change. It takes ten
minutes, and prints what it found, to be kept in ``docs/benchmark.md``.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.hil.bench.compare import LEAST_REPORTS, Report, compare
from edge_runtime.hil.bench.report import read_report

pytestmark = pytest.mark.soak

REPEATS = int(os.environ.get("EDGE_COMPARE_REPEATS") or 20)
CHANGES = ("slower", "faster", "more", "fewer")
"""Verdicts that blame the build."""

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
    turns: list[Report] = []
    slow: list[Report] = []
    for turn in range(REPEATS + 2 * LEAST_REPORTS - 1):
        turns.append(read_report(run(tmp_path / f"turn-{turn}", NO_DELAY)))
        if turn < LEAST_REPORTS:
            slow.append(read_report(run(tmp_path / f"slow-{turn}", FIVE_MS)))
    print(f"medians, ms: {medians(turns)}; with 5 ms: {medians(slow)}")

    one_by_one = [compare([before], [after]) for before, after in itertools.pairwise(turns)]
    said = [[change for change in one.changes if change.verdict != "same"] for one in one_by_one]
    print(f"one run against the next: {sum(map(bool, said))} of {len(said)} differ: {list(filter(None, said))}")
    assert not any(change.verdict in CHANGES for changes in said for change in changes)

    wrong = []
    for repeat in range(REPEATS):
        runs = turns[repeat : repeat + 2 * LEAST_REPORTS]
        comparison = compare(runs[::2], runs[1::2])
        changed = [change for change in comparison.changes if change.verdict in CHANGES]
        print(f"repeat {repeat}: {changed or 'same'}")
        wrong += [repeat] if changed else []
    comparison = compare(turns[:LEAST_REPORTS], slow)
    for change in comparison.changes:
        print(f"5 ms put in: {change}")
    assert not wrong
    assert comparison.worse


def medians(reports: list[Report]) -> list[float]:
    return [round(one["measures"]["image"]["quantiles"][0]["value"], 2) for one in reports]
