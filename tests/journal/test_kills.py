"""A server that is killed in the middle of a scan, again and again: real processes, real signals."""

from __future__ import annotations

import pytest

from benchmarks.journal import killed_again_and_again


@pytest.mark.full
@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_acknowledged_is_lost_over_five_kills(seed: int) -> None:
    found = killed_again_and_again(kills=5, readouts=20_000, seed=seed)
    assert (found.lost, found.kept) == (0, 20_000)
    assert len(found.serving_ms) == 5
