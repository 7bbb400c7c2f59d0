"""The highest load that a server holds within its deadlines: a search along one axis, and the curve that it went along.

Along `Pace` the protocol's repetition times and pauses are divided by a factor; along `Scanners` ever more of them measure at
once, each at the same pace. From the axis's first load it is doubled (or halved) until a load is not held (or is), then the gap
is halved until it is narrower than the axis tells apart. A load is held where no image is lost, every scan is answered to its end,
no more deadlines are missed than the budget has (none where it has no such line), and the scanners could keep the pace: a server
that takes readouts late holds up the scanner, and one that answers a scan after the pause that follows it holds up the next scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_runtime.budget import Budget
from edge_runtime.hil.bench.measures import Measures
from edge_runtime.hil.bench.sensing import Usage

NARROW = 1.1
LEAST_SPEED, MOST_SPEED = 1 / 64, 256.0
MOST_SCANNERS = 256
LEAST_PACE = 0.95
MOST_HELD_UP_S = 0.25
"""For which a server may take nothing before the pace counts as not kept."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is offered at once.

    Attributes:
        speed: times the protocol's pace.
        scanners: that measure at the same time.
    """

    speed: float
    scanners: int

    def __str__(self) -> str:
        return (
            f"{self.scanners} scanner{'s' if self.scanners != 1 else ''} at {self.speed:.2f} times the protocol's pace"
        )


@dataclass(frozen=True, slots=True)
class Point:
    """One load that was tried.

    Attributes:
        readouts_per_s: offered by all scanners together while scans ran.
        usage: of the server's machine meanwhile.
        why: it was not held; "" where it was.
    """

    load: Load
    scans_per_minute: float
    readouts_per_s: float
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    longest_ms: float | None
    miss_share: float | None
    images: int
    usage: Usage
    why: str

    @property
    def held(self) -> bool:
        return not self.why


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to.

    Attributes:
        held, broken: the highest load that was held and the lowest above it that was not; None where there was none within the
            bounds.
        curve: all that were tried, by load.
    """

    held: Point | None
    broken: Point | None
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Pace:
    """A fixed number of scanners, ever faster.

    Attributes:
        name: as the command line has it.
        first, least, most: where the search begins, and its bounds.
    """

    scanners: int
    name: str = "pace"
    first: float = 1.0
    least: float = LEAST_SPEED
    most: float = MOST_SPEED

    def load(self, at: float) -> Load:
        """What is offered there."""
        return Load(at, self.scanners)

    def at(self, load: Load) -> float:
        """Where a load is."""
        return load.speed

    def between(self, low: float, high: float) -> float | None:
        """The middle of a gap; None where it is as narrow as can be told apart."""
        return float((low * high) ** 0.5) if high / low > NARROW else None


@dataclass(frozen=True, slots=True)
class Scanners:
    """Ever more scanners, each at the same pace; attributes as of `Pace`."""

    speed: float
    name: str = "scanners"
    first: float = 1.0
    least: float = 1.0
    most: float = MOST_SCANNERS

    def load(self, at: float) -> Load:
        return Load(self.speed, round(at))

    def at(self, load: Load) -> float:
        return load.scanners

    def between(self, low: float, high: float) -> float | None:
        return (low + high) // 2 if high - low > 1 else None


Axis = Pace | Scanners


def point_of(load: Load, readouts_per_s: float, measures: Measures, budget: Budget, usage: Usage) -> Point:
    """Judges what came of a load."""
    values = {one.p: one.value for one in measures.image.quantiles}
    misses = measures.misses
    allowed = budget.miss_share or 0.0
    why = ""
    if measures.images_lost:
        why = f"{measures.images_lost} of {measures.images_expected} images were lost"
    elif measures.completed < measures.scans:
        why = f"{measures.scans - measures.completed} of {measures.scans} scans were not answered in full"
    elif measures.scanners < load.scanners:
        idle = load.scanners - measures.scanners
        why = f"{idle} of {load.scanners} scanners had no whole scan meanwhile: soak for longer"
    elif misses is not None and misses.value > allowed:
        why = f"{misses.count} of {misses.of} deadlines were missed"
    elif measures.pacing.overruns > allowed * measures.scans:
        why = (
            f"{measures.pacing.overruns} of {measures.scans} scans were answered so late that the next one had to wait"
        )
    elif measures.pacing.pace < LEAST_PACE:
        why = f"scans began at {measures.pacing.pace:.0%} of the pace that was to be offered"
    elif measures.pacing.held_up_s > MOST_HELD_UP_S:
        why = f"the server took no readouts for {measures.pacing.held_up_s:.2f} s"
    elif budget.lateness_p99_ms is not None and measures.pacing.p99_ms > budget.lateness_p99_ms:
        why = f"the simulated scanner itself could not keep the pace: {measures.pacing.p99_ms:.1f} ms late (p99)"
    return Point(
        load=load,
        scans_per_minute=measures.scans_per_minute,
        readouts_per_s=readouts_per_s,
        p50_ms=values.get(0.5),
        p90_ms=values.get(0.9),
        p99_ms=values.get(0.99),
        longest_ms=measures.image.longest_ms,
        miss_share=None if misses is None else misses.value,
        images=len(measures.image.samples_ms),
        usage=usage,
        why=why,
    )


def search(axis: Axis, tried: Callable[[Load], Point], on_point: Callable[[Point], None] | None = None) -> Found:
    """Looks for the highest load that is held.

    Args:
        tried: loads the server and says what came of it.
        on_point: told of every load.
    """
    points = []
    for point in _steps(axis, tried):
        points.append(point)
        if on_point is not None:
            on_point(point)

    def place(point: Point) -> float:
        return axis.at(point.load)

    held = max((point for point in points if point.held), key=place, default=None)
    above = (point for point in points if not point.held and (held is None or place(point) > place(held)))
    return Found(held, min(above, key=place, default=None), tuple(sorted(points, key=place)))


def _steps(axis: Axis, tried: Callable[[Load], Point]) -> Iterator[Point]:
    at = axis.first
    point = tried(axis.load(at))
    yield point
    factor = 2.0 if point.held else 0.5
    before = at
    while point.held == (factor > 1):
        before, at = at, at * factor
        if not axis.least <= at <= axis.most:
            return
        point = tried(axis.load(at))
        yield point
    low, high = min(before, at), max(before, at)
    while (at_or_none := axis.between(low, high)) is not None:
        point = tried(axis.load(at_or_none))
        yield point
        low, high = (at_or_none, high) if point.held else (low, at_or_none)
