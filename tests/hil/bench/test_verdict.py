"""Which lines a budget has, and what a search calls held: figures of scans that were not all answered, or hardly compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.golden import Golden, Picture
from edge_runtime.hil.bench.links import Link
from edge_runtime.hil.bench.measures import Measures, measure
from edge_runtime.hil.bench.protocol import ScanStep
from edge_runtime.hil.bench.record import ImageSeen, ScanSeen
from edge_runtime.hil.bench.search import Load, point_of
from edge_runtime.hil.bench.sensing import Usage
from edge_runtime.hil.bench.verdict import GOLDEN as GATE
from edge_runtime.hil.bench.verdict import Verdict, judge
from edge_runtime.hil.bench.wire import Key

KEY = Key(0, 0, 0, 0, 0)
STEP = ScanStep("T1", "t1.mrd", 5.0, image="image", deadline_ms=100.0)
IMAGE = ImageSeen(KEY, "image", "final", 1.02, 0.02, (1, 1, 4, 4), "<f4", "abc")
GOLDEN = Golden({("T1", "image", KEY): Picture("abc", (1, 1, 4, 4), "<f4", Path())})


def scan(number: int, **changes: Any) -> ScanSeen:
    usual = ScanSeen(
        scanner=0, number=number, attempt=0, name="T1", planned_s=2.0 * number, started_s=2.0 * number, duration_s=1.1,
        readouts=200, sent=200,
        expected=(KEY,), images=(IMAGE,), lateness_us=(10,) * 200, held_up_s=0.0, overrun_s=0.0, closed=True, error="",
    )  # fmt: skip
    return replace(usual, **changes)


def measured(*scans: ScanSeen, golden: Golden = GOLDEN) -> Measures:
    return measure(scans, [STEP], golden, Path())


def judged(measures: Measures, budget: Budget = Budget()) -> Verdict:
    return judge(measures, Usage(), budget, Link())


def missed(verdict: Verdict) -> list[str]:
    return [line.name for line in verdict.lines if line.passed is False]


def test_what_is_in_order_is_within_the_budget_and_held() -> None:
    measures = measured(*map(scan, range(3)))
    assert judged(measures, Budget(nrmse=0.0)).passed
    assert point_of(Load(1.0, 1), 200.0, measures, Budget(), Usage()).held


@pytest.mark.parametrize("changes", [{"closed": False}, {"error": "the connection was lost"}])
def test_a_scan_that_was_not_answered_in_full_is_missed_and_not_held(changes: dict[str, Any]) -> None:
    measures = measured(scan(0), scan(1, **changes))
    assert missed(judged(measures)) == ["scans not answered in full"]
    assert point_of(Load(1.0, 1), 200.0, measures, Budget(), Usage()).why == "1 of 2 scans were not answered in full"


def test_images_that_nothing_was_held_against_pass_no_gate() -> None:
    other = Golden({("T2", "image", KEY): GOLDEN.pictures["T1", "image", KEY]})
    verdict = judged(measured(scan(0), scan(1), golden=other), Budget(nrmse=0.1))
    assert missed(verdict) == [GATE]
    assert verdict.reasons == (
        "images under load were not those that the server makes alone: 2 without a golden image",
    )


def test_previews_that_never_came_are_as_late_as_can_be() -> None:
    preview = replace(IMAGE, completeness="preview", since_start_s=0.1)
    with_previews = [scan(number, images=(preview, IMAGE)) for number in range(3)]
    budget = Budget(preview_ms=200.0)
    assert missed(judged(measured(*with_previews, scan(3)), budget)) == []
    assert missed(judged(measured(with_previews[0], scan(1), scan(2), scan(3)), budget)) == ["first preview, p50"]


@pytest.mark.parametrize(("count", "limit_ms", "passed"), [(6, 500, None), (6, 10, False), (662, 500, True)])
def test_a_quantile_of_too_few_images_can_miss_its_limit_but_not_pass(
    count: int, limit_ms: float, passed: bool | None
) -> None:
    verdict = judged(measured(*map(scan, range(count))), Budget(image_p99_ms=limit_ms))
    (line,) = (line for line in verdict.lines if "p99" in line.name)
    assert line.passed is passed and line.measured == 20.0


@pytest.mark.parametrize("taken", [399, 401])
def test_readouts_that_were_not_taken_in_are_missed(taken: int) -> None:
    measures = measured(scan(0), scan(1))
    missing = missed(judge(measures, Usage(), Budget(), Link(), readouts_taken=taken))
    assert missing == ["readouts sent against those taken in"]
    assert missed(judge(measures, Usage(), Budget(), Link(), readouts_taken=400)) == []


def test_what_began_before_the_last_scanner_counts_by_its_readouts_alone() -> None:
    late = replace(IMAGE, since_last_readout_s=9.0)
    played = [scan(0, images=(late,)), scan(1), scan(2, scanner=1)]
    measures = measure(played, [STEP], GOLDEN, Path(), since_s=1.0)
    assert (measures.scans, measures.image.longest_ms, measures.readouts) == (2, 20.0, 600)


@pytest.mark.parametrize("scans", [[], [scan(0), scan(1)]])
def test_a_load_under_which_a_scanner_had_no_whole_scan_is_not_held(scans: list[ScanSeen]) -> None:
    why = point_of(Load(1.0, 2), 200.0, measured(*scans), Budget(), Usage()).why
    assert why.endswith("of 2 scanners had no whole scan meanwhile: soak for longer")


@pytest.mark.parametrize(("late_s", "held"), [(0.05, True), (0.2, False)])
def test_a_load_that_was_not_offered_is_not_held(late_s: float, held: bool) -> None:
    """Each scan begins later than the one before it should have let it."""
    measures = measured(*(scan(number, started_s=(2 + late_s) * number) for number in range(5)))
    assert point_of(Load(1.0, 1), 200.0, measures, Budget(), Usage()).held == held
