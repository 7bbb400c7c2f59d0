"""Tests that hold ONNX Runtime's INT8 to the very rounding of its graph."""

from __future__ import annotations

from pathlib import Path

import pytest

HAS_VNNI = any(
    name in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace") for name in ("_vnni", "asimddp")
)
exact_int8 = pytest.mark.skipif(
    not HAS_VNNI, reason="int8: this processor's sums saturate in ONNX Runtime, whose rounding is then not the graph's"
)
"""Without VNNI, products of eight bits are added in pairs in sixteen (pmaddubsw), which saturates for large weights."""
