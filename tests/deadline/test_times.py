"""What was measured foretells what comes; what is not measured any more is tried again, ever more rarely."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.deadline.steps import CLASSICAL_ONLY, Step, in_time
from edge_runtime.deadline.times import FIRST_TRIAL, KEPT, MOST_SIZES, RAREST_TRIAL, Times, foretold, quantile

SIZE = (8, 256, 256)
FULL, TWO, ONE = (Step("int8", count) for count in (3, 2, 1))
STEPS = (FULL, TWO, ONE, CLASSICAL_ONLY)


def test_nothing_is_known_at_first():
    assert Times().predicted(SIZE, STEPS) == (None,) * 4


def test_a_quantile_of_the_latest_foretells():
    times = Times()
    for _ in range(KEPT):
        times.took(SIZE, FULL, 9.0, in_time=True)
    for number in range(KEPT):
        times.took(SIZE, FULL, float(number), in_time=True)
    assert times.predicted(SIZE, (FULL,))[0] == quantile(list(range(KEPT))) == 28
    assert times.predicted((4, 256, 256), (FULL,)) == (None,)


def test_fewer_iterations_are_reckoned_from_more_of_them():
    times = Times()
    times.took(SIZE, FULL, 0.4, in_time=True)
    assert times.predicted(SIZE, STEPS) == (0.4, pytest.approx(0.4 * 2 / 3), pytest.approx(0.4 / 3), None)
    times.took(SIZE, CLASSICAL_ONLY, 0.1, in_time=True)
    assert times.predicted(SIZE, STEPS) == (0.4, pytest.approx(0.3), pytest.approx(0.2), 0.1)


def test_another_form_is_another_matter():
    assert foretold(Step("fp32", 3), {FULL: 0.4}) is None


@given(st.dictionaries(st.sampled_from(STEPS), st.floats(0.001, 100)))
def test_what_is_reckoned_rises_with_the_iterations(known):
    reckoned = [foretold(step, known) for step in (ONE, TWO, FULL) if step not in known]
    if len({step for step in known if step.learned}) == 1:
        assert reckoned == sorted(one for one in reckoned if one is not None)


def test_a_step_that_is_passed_over_is_tried_again_ever_more_rarely():
    """Slow once, for whatever reason, must not mean slow for ever; always too slow must not mean late again and again."""
    times, tried = Times(), []
    times.took(SIZE, FULL, 5.0, in_time=False)
    times.took(SIZE, CLASSICAL_ONLY, 0.1, in_time=True)
    for number in range(4000):
        index = in_time(times.predicted(SIZE, (FULL, CLASSICAL_ONLY)), 1.0)
        if index == 0:
            tried.append(number)
            times.took(SIZE, FULL, 5.0, in_time=False)
        else:
            times.passed_over(SIZE, FULL)
    gaps = [after - before for before, after in zip(tried, tried[1:])]
    assert tried[0] == FIRST_TRIAL
    assert gaps == sorted(gaps) and gaps[-1] == RAREST_TRIAL + 1
    assert len(tried) < 15


def test_one_that_is_in_time_again_is_trusted_again():
    times = Times()
    for _ in range(3):
        times.took(SIZE, FULL, 5.0, in_time=False)
        for _ in range(RAREST_TRIAL):
            times.passed_over(SIZE, FULL)
    times.took(SIZE, FULL, 0.2, in_time=True)
    times.took(SIZE, FULL, 5.0, in_time=False)
    for _ in range(FIRST_TRIAL):
        assert times.predicted(SIZE, (FULL,)) != (None,)
        times.passed_over(SIZE, FULL)
    assert times.predicted(SIZE, (FULL,)) == (None,)


def test_sizes_are_bounded_and_all_can_be_forgotten():
    times = Times()
    for number in range(3 * MOST_SIZES):
        times.took((8, number, 256), FULL, 1.0, in_time=True)
    assert times.predicted((8, 0, 256), (FULL,)) == (None,)
    assert times.predicted((8, 3 * MOST_SIZES - 1, 256), (FULL,)) == (1.0,)
    times.forget()
    assert times.predicted((8, 3 * MOST_SIZES - 1, 256), (FULL,)) == (None,)
