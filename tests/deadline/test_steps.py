"""The rules by which work is lowered and raised: less time never gives more work, and nothing swings to and fro."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.deadline.policy import CLASSICAL, ITERATIONS, KINDS, PRECISION
from edge_runtime.deadline.steps import (
    CALM_SLICES,
    CLASSICAL_ONLY,
    Standing,
    Step,
    in_time,
    kind_of,
    settled,
    share_of,
    steps_of,
)

seconds = st.floats(0, 1e6)
predictions = st.lists(st.none() | seconds, min_size=1, max_size=8)
left = st.floats(-1e6, 1e6)
orders = st.permutations(KINDS).flatmap(lambda kinds: st.integers(0, 3).map(lambda count: tuple(kinds[:count])))


def test_what_gives_way_first_is_what_stands_first():
    assert steps_of(("fp32", "int8"), 3, 2, (PRECISION, ITERATIONS, CLASSICAL)) == (
        Step("fp32", 3), Step("int8", 3), Step("int8", 2), CLASSICAL_ONLY,
    )  # fmt: skip
    assert steps_of(("fp32", "int8"), 3, 1, (ITERATIONS, PRECISION)) == (
        Step("fp32", 3), Step("fp32", 2), Step("fp32", 1), Step("int8", 1),
    )  # fmt: skip
    assert steps_of(("int8",), 3, 3, ()) == (Step("int8", 3),)


@given(st.sampled_from([("int8",), ("fp32", "int8"), ("fp32", "fp16", "int8")]), st.integers(1, 8), st.data(), orders)
def test_every_step_is_less_work_than_the_one_before_and_no_iteration_too_few(precisions, iterations, data, kinds):
    fewest = data.draw(st.integers(1, iterations))
    steps = steps_of(precisions, iterations, fewest, kinds)
    assert steps[0] == Step(precisions[0], iterations)
    for before, after in pairwise(steps):
        assert after == CLASSICAL_ONLY or (
            after.iterations <= before.iterations
            and precisions.index(after.precision) >= precisions.index(before.precision)
            and after != before
        )
    assert all(step.iterations >= fewest for step in steps if step.learned)
    assert kind_of(steps[0], steps[0]) == ""
    assert {kind_of(step, steps[0]) for step in steps[1:]} <= set(kinds)


@given(predictions, left, left, st.integers(0, 7))
def test_less_time_never_gives_more_work(predicted, one, other, floor):
    floor = min(floor, len(predicted) - 1)
    more, less = max(one, other), min(one, other)
    assert in_time(predicted, less, floor) >= in_time(predicted, more, floor) >= floor


@given(predictions, left, st.integers(0, 7))
def test_the_step_that_is_taken_is_in_time_or_the_last(predicted, left_s, floor):
    index = in_time(predicted, left_s, min(floor, len(predicted) - 1))
    assert index == len(predicted) - 1 or (predicted[index] or 0.0) <= left_s


def test_an_unknown_step_is_tried_while_there_is_time_at_all():
    assert in_time([None, None], 0.1) == 0
    assert in_time([None, None], -0.1) == 1


@given(st.integers(0, 6), st.integers(0, CALM_SLICES - 1), st.integers(0, 6), st.integers(0, 6))
def test_wanting_less_never_settles_for_more(index, calm, one, other):
    standing = Standing(index, calm)
    assert settled(standing, max(one, other)).index >= settled(standing, min(one, other)).index


@given(st.lists(st.integers(0, 5), max_size=60))
def test_more_work_comes_one_step_at_a_time_and_only_after_a_calm_while(wanted):
    standing, since = Standing(), 0
    for index in wanted:
        after = settled(standing, index)
        since += 1
        assert after.index >= standing.index - 1
        if after.index < standing.index:
            assert since >= CALM_SLICES
        if after.index != standing.index or index >= standing.index:
            since = 0
        standing = after


@pytest.mark.parametrize("swing", [(0, 3), (3, 0), (1, 2)])
def test_what_swings_does_not_make_the_images_swing(swing):
    """A scan whose slices are late in turn settles at the lower step and stays there."""
    standing, indices = Standing(), []
    for slice_number in range(40):
        standing = settled(standing, swing[slice_number % 2])
        indices.append(standing.index)
    assert set(indices[2:]) == {max(swing)}


@given(left, st.integers(0, 50), st.integers(0, 50))
def test_more_that_wait_never_leave_more_time(left_s, one, other):
    assert share_of(left_s, max(one, other)) <= share_of(left_s, min(one, other)) <= max(left_s, 0.0) or left_s <= 0


def test_nothing_is_shared_of_time_that_has_run_out():
    assert share_of(-2.0, 5) == -2.0
    assert share_of(3.0, 2) == pytest.approx(1.0)
    assert math.isfinite(share_of(0.0, 10))
