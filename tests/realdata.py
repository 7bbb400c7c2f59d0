"""Where the recorded scans lie, and the mark of tests that need them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("EDGE_DATA") or Path(__file__).resolve().parents[1] / ".." / "shared" / "data")
RAW = DATA / "raw"
TWIX = sorted((RAW / "siemens_twix").glob("*.dat"))
MATLAB = sorted(path for folder in RAW.glob("hku_0.055T_*") for path in folder.rglob("*.mat"))

needs_recorded_scans = pytest.mark.skipif(
    not TWIX or not MATLAB, reason=f"realdata: no recorded scans in {RAW} (set EDGE_DATA)"
)

needs_training_volumes = pytest.mark.skipif(
    not (DATA / "train").is_dir(), reason=f"realdata: no training volumes in {DATA / 'train'} (set EDGE_DATA)"
)
