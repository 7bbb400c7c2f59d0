"""The highest rate of scans that a server holds within its deadlines: a search over the pace, and the curve that it went along.

The rate is the protocol's own times a factor: repetition times and pauses are divided by it. From the
protocol's pace it is doubled (or
halved) until a rate is not held (or is), then the gap is halved until it is narrower than `NARROW`. A rate
is held where no image is
lost, no more deadlines are missed than the budget has (none where it has no such line), and the scanners could keep the pace: a
server that takes readouts late holds up the scanner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.measures import Measures

NARROW = 1.1
LEAST_SPEED, MOST_SPEED = 1 / 64, 256.0
MOST_HELD_UP_S = 0.25
"""For which a server may take nothing before the pace counts as not kept."""


@dataclass(frozen=True, slots=True)
class Point:
    """One rate that was tried.

    Attributes:
        speed: times the protocol's pace.
        readouts_per_s: offered while scans ran.
        why: it was not held; "" where it was.
    """

    speed: float
    scans_per_minute: float
    readouts_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    longest_ms: float | None
    miss_share: float | None
    images: int
    why: str

    @property
    def held(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        held, broken: the highest rate that was held and the lowest that was not; None where there was none within the bounds.
        curve: all that were tried, by speed.
    """

    held: Point | None
    broken: Point | None
    curve: tuple[Point, ...]


def point_of(speed: float, readouts_per_s: float, measures: Measures, budget: Budget) -> Point:
    """Judges the load at one rate."""
    values = {one.p: one.value for one in measures.image.quantiles}
    misses = measures.misses
    allowed = budget.miss_share or 0.0
    why = ""
    if measures.images_lost:
        why = f"{measures.images_lost} of {measures.images_expected} images were lost"
    elif misses is not None and misses.value > allowed:
        why = f"{misses.count} of {misses.of} deadlines were missed"
    elif measures.pacing.held_up_s > MOST_HELD_UP_S:
        why = f"the server took no readouts for {measures.pacing.held_up_s:.2f} s"
    elif budget.lateness_p99_ms is not None and measures.pacing.p99_ms > budget.lateness_p99_ms:
        why = f"the simulated scanner itself could not keep the pace: {measures.pacing.p99_ms:.1f} ms late (p99)"
    return Point(
        speed=speed,
        scans_per_minute=measures.scans_per_minute,
        readouts_per_s=readouts_per_s,
        p50_ms=values.get(0.5),
        p90_ms=values.get(0.9),
        p99_ms=values.get(0.99),
        longest_ms=measures.image.longest_ms,
        miss_share=None if misses is None else misses.value,
        images=len(measures.image.samples_ms),
        why=why,
    )


def search(tried: Callable[[float], Point], on_point: Callable[[Point], None] | None = None) -> Found:
    """Looks for the highest rate that is held.

    Args:
        tried: loads the server at a speed and says what came of it.
        on_point: told of every rate.
    """
    points = []
    for point in _steps(tried):
        points.append(point)
        if on_point is not None:
            on_point(point)
    held = max((point for point in points if point.held), key=lambda one: one.speed, default=None)
    above = (point for point in points if not point.held and (held is None or point.speed > held.speed))
    broken = min(above, key=lambda one: one.speed, default=None)
    return Found(held, broken, tuple(sorted(points, key=lambda one: one.speed)))


def _steps(tried: Callable[[float], Point]) -> Iterator[Point]:
    point = tried(1.0)
    yield point
    factor = 2.0 if point.held else 0.5
    low = high = point.speed
    while point.held == (factor > 1):
        low, high = (point.speed, high) if point.held else (low, point.speed)
        speed = point.speed * factor
        if not LEAST_SPEED <= speed <= MOST_SPEED:
            return
        point = tried(speed)
        yield point
    low, high = (point.speed, high) if point.held else (low, point.speed)
    while high / low > NARROW:
        point = tried((low * high) ** 0.5)
        yield point
        low, high = (point.speed, high) if point.held else (low, point.speed)
