"""Fifty kills in a million readouts; the result goes to ``docs/soak/``, to be committed."""

from __future__ import annotations

import datetime
import platform
from pathlib import Path

import numpy as np
import pytest

from benchmarks.journal import killed_again_and_again

pytestmark = pytest.mark.soak

KILLS, READOUTS = 50, 1_000_000
RESULTS = Path(__file__).parents[2] / "docs" / "soak"


def test_nothing_acknowledged_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    found = killed_again_and_again(KILLS, READOUTS, seed=2)
    today = datetime.date.today().isoformat()
    text = (
        f"# Kills, {today}\n\n`edge-runtime serve --journal` on {platform.machine()}, Python {platform.python_version()}: killed "
        f"{KILLS} times by `kill -9` at random points\nof one durable scan of {READOUTS:,} readouts (2 coils x 32 samples), and "
        "started anew; by `make test-soak`.\n\n"
        f"- acknowledged readouts lost: {found.lost}; in the journal at the end: {found.kept:,}, each once and in order\n"
        f"- kill to serving: median {np.median(found.serving_ms):.0f} ms, at most {max(found.serving_ms):.0f}\n"
        f"- kill to the scanner's next readout: median {np.median(found.resumed_ms):.0f} ms, at most {max(found.resumed_ms):.0f}\n"
    )
    (RESULTS / f"{today}-kills.md").write_text(text, encoding="utf-8")
    with capsys.disabled():
        print(f"\n{text}")
    assert (found.lost, found.kept) == (0, READOUTS)
    assert len(found.serving_ms) == KILLS
