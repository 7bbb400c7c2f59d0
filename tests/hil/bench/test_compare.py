"""What is called a change, and what is not."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.compare import LEAST_REPORTS, Comparison, Report, compare

N = 360


def report(
    seed: int, added_ms: float = 0.0, missed: int = 0, name: str = "p", luck: float = 0.004, n: int = N
) -> Report:
    """Of a run whose latencies follow each other, and which has its own luck."""
    generator = np.random.default_rng(seed)
    level = 100 * (1 + luck * generator.standard_normal())
    noise, samples = 0.0, []
    for _ in range(n):
        noise = 0.7 * noise + generator.normal(0, 3)
        samples.append(level + noise + added_ms + generator.exponential(2))
    latency = {"samples_ms": samples}
    measures = {"steps": {"T1": latency}, "preview": {"samples_ms": []}, "misses": {"count": missed, "of": n}}
    measures |= {"images_lost": 0, "images_expected": n}
    return {
        "protocol": {"name": name, "version": 1, "asked": {}},
        "measures": measures,
        "verdict": {"valid": True},
        "provenance": {},
    }


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {change.name: change.verdict for change in comparison.changes}


def test_twenty_repeats_of_one_build_are_called_the_same() -> None:
    for seed in range(20):
        comparison = compare([report(2 * seed)], [report(2 * seed + 1)])
        assert not comparison.worse and set(verdicts(comparison).values()) == {"same"}, comparison


P50 = "scan T1, last readout to image, p50"


def test_two_runs_that_differ_are_not_yet_two_builds_that_do() -> None:
    """Of 360 images whose noise is strong and alike from one to the next; the price of no false alarm."""
    found = 0
    for seed in range(20):
        comparison = compare([report(2 * seed)], [report(2 * seed + 1, added_ms=5)])
        assert not comparison.worse
        if "differs" in verdicts(comparison).values():
            found += verdicts(comparison)[P50] == "differs"
            assert any("7 a side, in turns" in remark for remark in comparison.remarks)
    assert found >= 14, f"{found} of 20"


def test_what_no_hour_of_a_machine_explains_is_a_change_of_the_build() -> None:
    assert verdicts(compare([report(1)], [report(2, added_ms=80)]))[P50] == "slower"
    assert not compare([report(1, added_ms=80)], [report(2)]).worse  # faster is not worse


def test_runs_in_turns_find_five_milliseconds_of_a_hundred_and_nothing_else() -> None:
    """The level drifts, as that of a shared machine does; runs of both sides meet the same hours."""
    for seed in range(20):
        drift = np.sin(np.linspace(0, 2 * np.pi, 14) + seed)
        before = [report(100 * seed + turn, added_ms=drift[turn], n=120) for turn in range(0, 14, 2)]
        again = [report(100 * seed + turn, added_ms=drift[turn], n=120) for turn in range(1, 14, 2)]
        assert set(verdicts(compare(before, again)).values()) == {"same"}
        slow = [report(100 * seed + turn, added_ms=6 + drift[turn], n=120) for turn in range(1, 14, 2)]
        assert compare(before, slow).worse


def missing(*missed: int) -> list[Report]:
    return [report(seed, missed=count) for seed, count in enumerate(missed)]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1], [2], "same"),
        ([0], [20], "differs"),  # one stall is enough for it
        ([0], [200], "more"),
        ([200], [0], "fewer"),
        ([0] * 7, [0] * 6 + [20], "same"),
        ([0, 1, 0, 2, 0, 0, 1], [9, 12, 7, 8, 9, 11, 10], "more"),
        ([9, 12, 7, 8, 9, 11, 10], [0, 1, 0, 2, 0, 0, 1], "fewer"),
    ],
)
def test_missed_deadlines_are_compared_by_report(before: list[int], after: list[int], verdict: str) -> None:
    """They come together: as if each were by itself, one stall in seven runs would be a change of the build."""
    comparison = compare(missing(*before), missing(*after))
    assert verdicts(comparison)["deadlines missed"] == verdict
    assert comparison.worse == (verdict == "more")


def test_a_lost_image_where_none_was_lost_is_always_a_change() -> None:
    other = report(2)
    other["measures"]["images_lost"] = 1
    assert verdicts(compare([report(1)], [other]))["images lost"] == "more"
    assert verdicts(compare([other], [report(1)]))["images lost"] == "same"


def test_too_few_samples_are_called_that() -> None:
    comparison = compare([report(1, n=5)], [report(2, n=5)])
    assert verdicts(comparison)["scan T1, last readout to image, p50"] == "too few samples"


def test_several_reports_a_side_are_compared_run_by_run() -> None:
    before, after = (
        [report(seed, n=12) for seed in range(7)],
        [report(50 + seed, added_ms=8, n=12) for seed in range(7)],
    )
    comparison = compare(before, after)
    assert "ranks of reports" in comparison.method
    assert comparison.worse
    assert not compare(before, [report(80 + seed, n=12) for seed in range(7)]).worse


def test_as_few_reports_as_are_taken_one_by_one_can_tell_a_difference_of_many_lines() -> None:
    """Three scans and a preview, two quantiles each, and two shares; that all of one side is slower is all that seven can show."""

    def of_three_scans(seed: int, added_ms: float) -> Report:
        made = report(seed, added_ms, n=12)
        latency = made["measures"]["steps"]["T1"]
        made["measures"]["steps"] = dict.fromkeys(("localiser", "T1", "T2"), latency)
        made["measures"]["preview"] = latency
        return made

    sides = [[of_three_scans(seed + added, added) for seed in range(LEAST_REPORTS)] for added in (0, 40)]
    changes = compare(*sides).changes
    assert len(changes) == 10
    assert all(change.verdict == "slower" for change in changes if change.unit == "ms")


def test_what_else_differs_is_said() -> None:
    other = report(2)
    other["provenance"] = {"power_mode": "15W"}
    other["verdict"] = {"valid": False}
    other["protocol"]["scans"] = [{"image": "classical"}]
    remarks = compare([report(1)], [other]).remarks
    assert any(remark.startswith("scans differ by image") and "against classical" in remark for remark in remarks)
    assert any(remark.startswith("power modes differ") for remark in remarks)
    assert any("too late" in remark for remark in remarks)
    with pytest.raises(BenchError, match="different protocols can't be compared: p 1, q 1"):
        compare([report(1)], [report(2, name="q")])
