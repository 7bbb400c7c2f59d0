"""The search for the highest load, against a real server: warm-up, and then a soak and a cool-down at each load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.measures import measure
from edge_runtime.hil.bench.run import Phase, Plan, Played, Tell, benches
from edge_runtime.hil.bench.search import Axis, Found, Load, Point, point_of, search
from edge_runtime.hil.bench.sensing import Sensed, usage
from edge_runtime.hil.bench.target import Target


@dataclass(frozen=True, slots=True)
class Explored:
    """What a search has shown.

    Attributes:
        phases: warm-up, and a soak and a cool-down for each load, in the order in which they were.
        sensed: of the server's machine, all the while.
    """

    plan: Plan
    target: Target
    axis: Axis
    found: Found
    phases: tuple[Phase, ...]
    sensed: Sensed
    bundles: tuple[str, ...]


def explore(plan: Plan, axis: Axis, budget_of: Callable[[Target], Budget], tell: Tell) -> Explored:
    """Searches along an axis.

    Args:
        plan: its duration is that of each soak, its cool-down comes after each.
        budget_of: what a server that listens is held against.

    Raises:
        BenchError: see `edge_runtime.hil.bench.run.run`.
    """
    with benches(plan, tell) as bench:
        golden, budget = bench.golden(), budget_of(bench.target)
        bench.warm_up()
        bundles: set[str] = set()

        def tried(load: Load) -> Point:
            seen: list[Played] = []
            soak = bench.phase(
                "soak", lambda: seen.append(bench.load(load.speed, None, plan.duration_s, load.scanners)), load
            )
            (played,) = seen
            bench.forget()
            bench.cool_down()
            measures = measure(played.scans, plan.protocol.scans, golden, bench.spool, played.since_s)
            bundles.update(measures.bundles)
            busy_s = sum(scan.duration_s for scan in played.scans) / load.scanners
            rate = measures.readouts / busy_s if busy_s > 0 else 0.0
            readings = bench.watcher.sensed().between(soak.first_s, soak.last_s)
            return point_of(load, rate, measures, budget, usage(readings))

        found = search(axis, tried, lambda point: tell(f"{point.load}: {point.why or 'held'}"))
        return Explored(
            plan, bench.target, axis, found, tuple(bench.phases), bench.watcher.sensed(), tuple(sorted(bundles))
        )
