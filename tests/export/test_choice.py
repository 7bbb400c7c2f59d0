"""Order of the layers, Pareto front and choice, on tables whose answers are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("scipy", reason="the extra 'export' is not installed")

from hypothesis import given
from hypothesis import strategies as st

from export.quantization.choice import (
    TIMING_TELLS,
    Budget,
    Candidate,
    Measured,
    Sensitivity,
    budget_missed,
    candidates_of,
    choice,
    ranked,
)
from export.quantization.scans import Loss

pytestmark = pytest.mark.full

BUDGET = Budget(0.1, 0.002)


def form(kept: int, time_ms: float, psnr_db: float = 0.0, ssim: float = 0.0, scan: str = "one") -> Measured:
    return Measured(tuple("abcdefgh"[:kept]), time_ms, Loss(psnr_db, ssim, scan))


def front(*forms: Measured) -> list[Measured]:
    return [
        one for one, candidate in zip(forms, candidates_of(forms, BUDGET), strict=True) if candidate.on_front is True
    ]


def chosen(*forms: Measured) -> Candidate | None:
    return choice(candidates_of(forms, BUDGET))


def test_layers_are_ranked_by_what_they_cost_over_what_they_save() -> None:
    dear_but_slow = Sensitivity("dear but slow", 0.09, 900.0)
    cheap_but_saves_nothing = Sensitivity("cheap but saves nothing", 0.004, 2.0)
    middling = Sensitivity("middling", 0.02, 40.0)
    order = ranked([dear_but_slow, middling, cheap_but_saves_nothing])
    assert [one.layer for one in order] == ["cheap but saves nothing", "middling", "dear but slow"]
    assert [one.cost for one in order] == pytest.approx([0.002, 0.0005, 0.0001])


def test_layers_that_int8_slows_down_are_ranked_by_their_loss_and_those_that_gain_quality_come_last() -> None:
    slower = [Sensitivity("a", 0.01, -300.0), Sensitivity("b", 0.03, -5.0), Sensitivity("c", 0.02, 0.5)]
    better = Sensitivity("better", -0.5, 1.0)
    assert [one.layer for one in ranked([better, *slower])] == ["b", "c", "a", "better"]
    assert better.cost == 0


def test_layers_that_cost_the_same_stay_in_the_order_of_the_graph() -> None:
    layers = [Sensitivity(name, loss, 10.0) for name, loss in (("x", -1.0), ("m", 0.0), ("b", -2.0))]
    assert ranked(layers) == tuple(layers)


def test_dominated_forms_are_not_on_the_front() -> None:
    fast, good = form(0, 50.0, 0.5, 0.05), form(3, 90.0, 0.01, 0.001)
    assert front(fast, form(1, 60.0, 0.6, 0.06), good, form(4, 90.0, 0.02, 0.001)) == [fast, good]


def test_a_form_that_loses_least_ssim_is_on_the_front_though_another_is_faster_and_has_more_psnr() -> None:
    by_psnr, by_ssim = form(0, 50.0, 0.01, 0.004), form(1, 60.0, 0.02, 0.001)
    assert front(by_psnr, by_ssim) == [by_psnr, by_ssim]


def test_forms_that_are_alike_are_on_the_front_together() -> None:
    """Also where they are worst on different scans: the scan's name is no figure."""
    alike = form(0, 50.0, 0.01, 0.001, "one"), form(1, 50.0, 0.01, 0.001, "two")
    assert front(*alike, form(2, 50.0, 0.01, 0.0011)) == list(alike)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_a_front_dominates_all_the_rest_and_nothing_of_itself(figures: list[tuple[int, int, int]]) -> None:
    forms = [form(number % 8, *values) for number, values in enumerate(figures)]
    best = front(*forms)
    assert best
    assert not any(a.dominates(b) for a in best for b in best)
    assert all(any(a.dominates(b) for a in best) for b in forms if b not in best)


@pytest.mark.parametrize(
    ("psnr_db", "ssim", "admitted"),
    [(0.1, 0.002, True), (0.1001, 0.0, False), (0.0, 0.0021, False), (-0.3, -0.01, True)],
)
def test_a_budget_bounds_both_figures(psnr_db: float, ssim: float, admitted: bool) -> None:
    (candidate,) = candidates_of([form(0, 1.0, psnr_db, ssim)], BUDGET)
    assert candidate.admitted is admitted


def test_the_fastest_form_within_the_budget_is_chosen() -> None:
    taken = chosen(form(0, 50.0, 0.3), form(1, 60.0, 0.09), form(2, 70.0, 0.01))
    assert taken is not None and taken.time_ms == 60.0


def test_of_forms_that_are_as_fast_the_one_with_the_fewest_layers_in_float_is_chosen() -> None:
    slow, early, late, fastest = form(0, 106.0), form(2, 104.0), form(3, 101.0), form(5, 100.0)
    taken = chosen(slow, early, late, fastest)
    assert taken is not None and taken.kept == early.kept
    taken = chosen(form(0, 50.0), early, late, fastest)
    assert taken is not None and taken.time_ms == 50.0


def test_as_fast_ends_at_five_percent() -> None:
    assert TIMING_TELLS == 0.05
    within, beyond = chosen(form(0, 105.0), form(4, 100.0)), chosen(form(0, 105.001), form(4, 100.0))
    assert within is not None and within.kept == ()
    assert beyond is not None and len(beyond.kept) == 4


def test_fine_tuned_weights_are_taken_only_where_they_serve_better() -> None:
    def tuned(one: Measured) -> Measured:
        return replace(one, finetuned_steps=100)

    as_trained, better = form(2, 100.0, 0.09), form(1, 102.0, 0.05)
    taken = chosen(tuned(form(2, 96.0)), as_trained)
    assert taken is not None and taken.finetuned_steps == 0
    taken = chosen(as_trained, tuned(better))
    assert taken is not None and (taken.kept, taken.finetuned_steps) == (("a",), 100)


def test_forms_beyond_the_budget_do_not_say_how_fast_one_may_be() -> None:
    taken = chosen(form(0, 50.0, 0.3), form(1, 100.0), form(2, 98.0))
    assert taken is not None and taken.kept == ("a",)


def test_a_missed_budget_is_told_with_the_best_that_there_is() -> None:
    candidates = candidates_of([form(0, 50.0, 0.3, 0.02), form(2, 60.0, 0.11, 0.001, "scan 7 R = 6")], BUDGET)
    assert choice(candidates) is None
    said = str(budget_missed(candidates, BUDGET))
    assert "at most 0.1 dB and 0.002 SSIM" in said
    assert "with 2 layers in floating point, loses 0.110 dB and 0.0010 SSIM (scan 7 R = 6)" in said
    assert "raise the budget" in said
