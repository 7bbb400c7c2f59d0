"""A bundle's forms compiled on the device at hand, held to their golden outputs and timed against each other.

Needs nothing of the extra ``export``: it is run on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from edge_runtime.admission import Admitted, admit, purpose_of
from edge_runtime.bundle import Bundle
from edge_runtime.engines import Session
from edge_runtime.errors import DeviceError, EngineError, GoldenMismatch
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.profile import Compilation

ENGINE = "tensorrt"

MOST_PRECISE_FIRST = ("fp32", "fp16", "int8")

EQUALLY_FAST = 1.05
"""Of forms that take at most this much longer than the fastest, the most precise wins."""

WARM_UP = 10
"""Runs before those that are timed: clocks rise, and the first allocates."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one image, from the processor's memory and back to it: milliseconds, over ``runs`` of them."""

    median_ms: float
    p10_ms: float
    p90_ms: float
    runs: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one form.

    Attributes:
        engine: name, version and GPU; empty where it failed.
        seconds: that it took to compile, or to load where it was compiled already, and to check.
        difference: of the golden outputs, relative.
        error, said: name of the error and its text; empty where there was none.
    """

    precision: str
    engine: str = ""
    seconds: float = 0.0
    difference: float | None = None
    latency: Latency | None = None
    error: str = ""
    said: str = ""

    @property
    def runs(self) -> bool:
        """Whether the device may use it."""
        return not self.error


def compile_forms(
    bundle: Bundle,
    precisions: Iterable[str],
    compilation: Compilation,
    threads: int,
    say: Callable[[str], None],
    *,
    timed_runs: int = 0,
) -> list[Outcome]:
    """Compiles forms, each by itself: one that fails keeps no other from being compiled.

    Args:
        say: is told what comes next, since each takes minutes.
        timed_runs: of each form that runs, in turn with the others, on an image of the usual size; 0 for none.
    """
    outcomes: dict[str, Outcome] = {}
    admitted: dict[str, Admitted] = {}
    for precision in precisions:
        say(f"{precision}: compiling, which takes minutes where it is not compiled yet")
        begin = time.perf_counter()
        try:
            one = admitted[precision] = admit(bundle, bundle.forms[precision], (ENGINE,), threads, compilation)
        except (GoldenMismatch, EngineError, DeviceError) as error:
            outcomes[precision] = Outcome(precision, error=type(error).__name__, said=str(error))
        else:
            took = time.perf_counter() - begin
            outcomes[precision] = Outcome(precision, one.description, took, one.difference)
    if timed_runs and admitted:
        purpose = purpose_of(bundle, bundle.forms[next(iter(admitted))], compilation)
        assert purpose is not None, "programs are not admitted"
        size = purpose.usual
        say(f"timing {', '.join(admitted)} on images of {size[0]} x {size[1]}")
        shape = (1, int(bundle.golden_input.shape[1]), *size)
        batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        sessions = {name: regulariser_of(one.learned) for name, one in admitted.items()}
        timed = time_in_turn(sessions, batch, timed_runs)
        for name, result in timed.items():
            before = outcomes[name]
            if isinstance(result, Latency):
                outcomes[name] = Outcome(name, before.engine, before.seconds, before.difference, result)
            else:
                outcomes[name] = Outcome(name, error=type(result).__name__, said=str(result))
    return list(outcomes.values())


def regulariser_of(learned: Learned) -> Session:
    """The one graph of an unrolled network."""
    assert isinstance(learned, LearnedReconstruction), "programs are not admitted"
    return learned.regulariser


def time_in_turn(
    sessions: Mapping[str, Session], batch: np.ndarray[Any, np.dtype[np.float32]], runs: int
) -> dict[str, Latency | EngineError]:
    """Every session's latency, each run beside one of every other: a device that grows warm slows them all alike.

    Args:
        batch: ``(1, channels, rows, columns)``.

    Returns:
        The error in the place of the latency where a session failed.
    """
    taken: dict[str, list[float]] = {name: [] for name in sessions}
    failed: dict[str, EngineError] = {}
    for _ in range(WARM_UP + runs):
        for name, session in sessions.items():
            if name in failed:
                continue
            begin = time.perf_counter()
            try:
                session.run(batch)
            except EngineError as error:
                failed[name] = error
            taken[name].append(1e3 * (time.perf_counter() - begin))
    return {name: failed.get(name) or _latency(times[WARM_UP:]) for name, times in taken.items()}


def _latency(times_ms: list[float]) -> Latency:
    p10, median, p90 = (round(float(value), 4) for value in np.percentile(times_ms, (10, 50, 90)))
    return Latency(median, p10, p90, len(times_ms))


def preferred(outcomes: Iterable[Outcome]) -> list[str]:
    """Precisions that were timed, best first: the most precise of those that are as good as fastest, then the others by time."""
    timed = {one.precision: one.latency.median_ms for one in outcomes if one.latency is not None}
    if not timed:
        return []
    limit = EQUALLY_FAST * min(timed.values())
    return sorted(
        timed,
        key=lambda name: (0, _rank(name), 0.0) if timed[name] <= limit else (1, 0, timed[name]),
    )


def _rank(precision: str) -> int:
    known = MOST_PRECISE_FIRST
    return known.index(precision) if precision in known else len(known)


def record_of(bundle: Bundle, compilation: Compilation, outcomes: list[Outcome]) -> dict[str, Any]:
    """What was found, as plain values."""
    order = preferred(outcomes)
    return {
        "bundle": bundle.name,
        "version": bundle.version,
        "sha256": bundle.digest,
        "usual": compilation.usual,
        "largest": compilation.largest,
        "forms": [asdict(one) for one in outcomes],
        "fastest": order[0] if order else None,
        "precisions": order,
    }
