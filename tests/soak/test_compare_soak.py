"""What `bench compare` calls a change, on real runs: 20 repeats of one build against each other, and one with 5 ms put in.

Each run has a server of its own: a process's own luck is part of the noise. About ten minutes on an idle machine; prints what it
found, to be kept in ``docs/benchmark.md``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.hil.bench.compare import compare
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


def run(folder: Path, link: str) -> Path:
    protocol = folder.parent / "quick.toml"
    protocol.write_text(PROTOCOL, encoding="utf-8")
    usual = ["--protocol", str(protocol), "--classical-only", "--previews", "none", "--warm-up", "3", "--repeat", "40"]
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
