"""The search for the highest rate, against a real server."""

from __future__ import annotations

import time

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.measures import measure
from edge_runtime.hil.bench.run import Plan, Tell, benches
from edge_runtime.hil.bench.search import Found, Point, point_of, search


def explore(plan: Plan, budget: Budget, tell: Tell) -> Found:
    """Warm-up, then a soak and a cool-down at each pace.

    Args:
        plan: its duration is that of each soak.

    Raises:
        BenchError: see `edge_runtime.hil.bench.run.run`.
    """
    with benches(plan, tell) as (bench, way):
        golden = bench.golden()
        if plan.warm_up_s:
            tell("warm-up …")
            bench.load(way, 1.0, None, plan.warm_up_s)

        def tried(speed: float) -> Point:
            tell(f"soak at {speed:.2f} times the protocol's pace …")
            scans, _ = bench.load(way, speed, None, plan.duration_s)
            bench.forget()
            time.sleep(plan.cool_down_s)
            measures = measure(scans, plan.protocol.scans, golden, bench.spool)
            busy = sum(scan.duration_s for scan in scans) / plan.scanners
            rate = measures.readouts / busy if busy > 0 else 0.0
            return point_of(speed, rate, measures, budget)

        return search(tried, lambda point: tell(f"{point.speed:.2f} times: {point.why or 'held'}"))
