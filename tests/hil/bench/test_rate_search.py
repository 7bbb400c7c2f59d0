"""The search for the highest load, against servers with a known limit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.hil.bench.search import (
    LEAST_SPEED,
    MOST_SCANNERS,
    MOST_SPEED,
    NARROW,
    Axis,
    Load,
    Pace,
    Point,
    Scanners,
    search,
)
from edge_runtime.hil.bench.sensing import Usage


def tried_by(axis: Axis, limit: float) -> Callable[[Load], Point]:
    """A server that holds every load up to a limit."""

    def tried(load: Load) -> Point:
        why = "" if axis.at(load) <= limit else "deadlines were missed"
        rate = load.speed * load.scanners
        return Point(load, 10 * rate, 100 * rate, 20.0, 30.0, 40.0, 50.0, 0.0, 100, Usage(), why)

    return tried


@given(st.floats(2 * LEAST_SPEED, MOST_SPEED / 2), st.integers(1, 8))
def test_the_limit_of_the_pace_is_found_and_enclosed(limit: float, scanners: int) -> None:
    axis = Pace(scanners)
    found = search(axis, tried_by(axis, limit))
    assert found.held is not None and found.broken is not None
    low, high = found.held.load.speed, found.broken.load.speed
    assert low <= limit < high <= NARROW * low * 1.0001
    speeds = [point.load.speed for point in found.curve]
    assert speeds == sorted(set(speeds)) and len(speeds) < 20
    assert {point.load.scanners for point in found.curve} == {scanners}


@given(st.integers(1, MOST_SCANNERS - 1), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_limit_of_scanners_is_found_to_the_one(limit: int, speed: float) -> None:
    axis = Scanners(speed)
    found = search(axis, tried_by(axis, limit))
    assert found.held is not None and found.broken is not None
    assert (found.held.load, found.broken.load) == (Load(speed, limit), Load(speed, limit + 1))
    counts = [point.load.scanners for point in found.curve]
    assert counts == sorted(set(counts)) and len(counts) < 20


@pytest.mark.parametrize(
    ("axis", "limit", "held", "broken"),
    [
        (Pace(1), 1e9, MOST_SPEED, None),
        (Pace(1), 1e-9, None, LEAST_SPEED),
        (Scanners(1.0), 1e9, MOST_SCANNERS, None),
        (Scanners(1.0), 0, None, 1),
    ],
)
def test_a_limit_out_of_bounds_is_not_made_up(
    axis: Axis, limit: float, held: float | None, broken: float | None
) -> None:
    found = search(axis, tried_by(axis, limit))
    places = [None if point is None else axis.at(point.load) for point in (found.held, found.broken)]
    assert places == [held, broken]


def test_a_load_that_held_by_luck_above_one_that_did_not_is_no_reason_to_go_on() -> None:
    """The highest that held counts, and what is told as broken lies above it."""
    axis = Scanners(1.0)
    lucky = tried_by(axis, 4)

    def tried(load: Load) -> Point:
        return lucky(Load(load.speed, 1)) if load.scanners == 6 else lucky(load)

    found = search(axis, tried)
    assert found.held is not None and found.broken is not None
    assert axis.at(found.held.load) < axis.at(found.broken.load)
