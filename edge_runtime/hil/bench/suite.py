"""Benchmark suites that come with the package: protocols with a name and a version, whose results can be published side by side.

What a version measures never changes; a change is a new version, beside the old one. The rules are in ``docs/benchmark.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.protocol import Protocol, read_protocol

if TYPE_CHECKING:
    from edge_runtime.hil.bench.run import Plan
    from edge_runtime.hil.bench.verdict import Verdict

LEAST_MEASURED_S, LEAST_WARM_UP_S = 600.0, 10.0
FOLDER = Path(__file__).parent / "suites"


def suites() -> dict[str, Path]:
    """Files of the suites, by name and version."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def protocol_named(name: str) -> Protocol:
    """A suite by its name and version, such as ``portable-brain-1``, or a protocol by the path of its TOML file.

    Raises:
        BenchError: there is neither.
        ProtocolFileError: see `edge_runtime.hil.bench.protocol.parse_protocol`.
    """
    if name.endswith(".toml"):
        return read_protocol(Path(name))
    known = suites()
    if name not in known:
        raise BenchError(f"suite {name!r} does not exist; known are {', '.join(known)}, or give a path to a .toml file")
    return read_protocol(known[name])


def broken_rules(plan: Plan, verdict: Verdict) -> tuple[str, ...] | None:
    """Which of its suite's rules a run did not keep, of those that can be seen from here; None where its protocol is no suite's."""
    from edge_runtime.hil.bench.verdict import GATES

    name = f"{plan.protocol.name}-{plan.protocol.version}"
    if name not in suites():
        return None
    own = protocol_named(name)
    broken = {
        "its protocol is not the suite's (--image, --config, or another file)": plan.protocol != own,
        f"it was played at {plan.speed:g} times the suite's pace": plan.speed != 1.0,
        f"the link was made bad: {plan.link}": not plan.link.good,
        f"{plan.scanners} scanners in place of {own.scanners}": plan.scanners != own.scanners,
        f"less than {LEAST_MEASURED_S:g} s measured (--duration)": (plan.duration_s or 0.0) < LEAST_MEASURED_S,
        f"less than {LEAST_WARM_UP_S:g} s of warm-up": plan.warm_up_s < LEAST_WARM_UP_S,
        "the golden images were not made by this run": plan.golden is not None,
        "the simulated scanner itself was too late": not verdict.valid,
    }
    gates = [line.name for line in verdict.lines if line.name in GATES and line.passed is not True]
    return (*(why for why, is_so in broken.items() if is_so), *(f"not kept: {gate}" for gate in gates))
