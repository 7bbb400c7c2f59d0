"""The search for the highest pace, against servers with a known limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_runtime.hil.bench.search import LEAST_SPEED, MOST_SPEED, NARROW, Point, search


def tried_by(limit: float) -> object:
    """A server that holds every pace up to a limit."""

    def tried(speed: float) -> Point:
        return Point(
            speed,
            10 * speed,
            100 * speed,
            20.0,
            30.0,
            40.0,
            50.0,
            0.0,
            100,
            "" if speed <= limit else "deadlines were missed",
        )

    return tried


@given(st.floats(2 * LEAST_SPEED, MOST_SPEED / 2))
def test_the_limit_is_found_and_enclosed(limit: float) -> None:
    found = search(tried_by(limit))  # type: ignore[arg-type]
    assert found.held is not None and found.broken is not None
    assert found.held.speed <= limit < found.broken.speed <= NARROW * found.held.speed * 1.0001
    assert [point.speed for point in found.curve] == sorted(point.speed for point in found.curve)
    assert len(found.curve) < 20


@pytest.mark.parametrize(("limit", "held", "broken"), [(1e9, MOST_SPEED, None), (1e-9, None, LEAST_SPEED)])
def test_a_limit_out_of_bounds_is_not_made_up(limit: float, held: float | None, broken: float | None) -> None:
    found = search(tried_by(limit))  # type: ignore[arg-type]
    assert (found.held.speed if found.held else None, found.broken.speed if found.broken else None) == (held, broken)
