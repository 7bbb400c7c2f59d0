"""Every kernel beside the CPU's, on small shapes of every kind and on one as scanners have it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda"))

from check_plans import PLANS, SHAPES
from sequences import gradient, sensitivities, solve, without_graphs

pytest_plugins = ("device_report",)
pytestmark = pytest.mark.device


@pytest.mark.parametrize("shape", [*SHAPES, (4, 256, 256)], ids=str)
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_agrees_with_the_cpus(plan, shape, report):
    there = plan(shape, 1, "cuda")
    worst = 0.0
    for name, expected in plan(shape, 1, "cpu").items():
        difference = np.abs(np.asarray(there[name]) - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert difference <= 1e-5, name
        worst = max(worst, float(difference))
    report.add(f"{plan.__name__} of {shape}, largest difference", f"{worst:.1e}")


@pytest.mark.parametrize("make", [solve, gradient, sensitivities])
def test_a_graph_makes_the_same_bits(make, report):
    plan, plain = make(), without_graphs(make)
    for seed in (0, 1, 2, 0):
        np.testing.assert_array_equal(plan(seed), plain(seed), strict=True)
    report.timed(f"{make.__name__} of tiny arrays, kernel by kernel", lambda: plain(0), 20)
    report.timed(f"{make.__name__} of tiny arrays, as a graph", lambda: plan(0), 20)
