"""A run of the bench: the golden result, warm-up, the measured part, cool-down."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_runtime.demo.run import SCAN
from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.fleet import play_all, staggered
from edge_runtime.hil.bench.golden import Golden, golden_of, read_golden
from edge_runtime.hil.bench.links import Link, Way, laid
from edge_runtime.hil.bench.measures import Measures, measure
from edge_runtime.hil.bench.protocol import SHIPPED_SCAN, Protocol, ScanStep
from edge_runtime.hil.bench.record import ScanSeen
from edge_runtime.hil.bench.scanner import Orders, Step
from edge_runtime.hil.bench.search import Load
from edge_runtime.hil.bench.sensing import Sensed, Usage, Watcher, usage
from edge_runtime.hil.bench.stages import Reports, Stage, read_metrics, readouts_between, stages_between
from edge_runtime.hil.bench.target import Address, SshOptions, Target, opened
from edge_runtime.hil.bench.wire import Key, WireError, read_script

ATTEMPTS_OVER_A_BAD_LINK = 5
"""At one scan; what is cut is measured again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run.

    Attributes:
        address: of the server; see `edge_runtime.hil.bench.target.parse_address`.
        scanners: at the same time.
        speed: times the protocol's pace, pauses too.
        duration_s: of the measured part; None to go by ``rounds``.
        rounds: through the protocol, of each scanner.
        warm_up_s, cool_down_s: before, with the same load, and after, without any.
        golden: folder of the golden images of another run; None to make them first.
        metrics: where the server's metrics are, ``http://…``; "" for none.
    """

    protocol: Protocol
    address: Address
    scanners: int
    rounds: int
    duration_s: float | None = None
    speed: float = 1.0
    warm_up_s: float = 0.0
    cool_down_s: float = 0.0
    link: Link = Link()  # noqa: RUF009
    golden: Path | None = None
    keep_golden: Path | None = None
    serve: tuple[str, ...] = ()
    ssh: SshOptions = SshOptions()  # noqa: RUF009
    cpu_limit: float | None = None
    metrics: str = ""
    realtime: bool = False


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run, in seconds since its beginning.

    Attributes:
        load: of a soak, where a search tries several; else None.
    """

    name: str
    first_s: float
    last_s: float
    load: Load | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What a run has shown.

    Attributes:
        usage: of the server's machine, in the measured part.
        readouts_taken: that the server says it took in, in the measured part; None where neither its reports nor its metrics can
            be read.
        schedulers: what each scanner was granted.
    """

    plan: Plan
    target: Target
    measures: Measures
    usage: Usage
    stages: tuple[Stage, ...]
    phases: tuple[Phase, ...]
    sensed: Sensed
    readouts_taken: int | None
    schedulers: tuple[str, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a load.

    Attributes:
        schedulers: what each scanner was granted.
        since_s: when all scanners were at work.
    """

    scans: Sequence[ScanSeen]
    schedulers: tuple[str, ...]
    since_s: float


Tell = Callable[[str], None]
"""Told what goes on, a line at a time."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Of a scan's file.

    Attributes:
        readouts: how many.
        keys: of the images to be expected.
    """

    readouts: int
    keys: tuple[Key, ...]


def outlines_of(protocol: Protocol) -> dict[str, Outline]:
    """Reads every scan of a protocol once, before anything is started; by file.

    Raises:
        BenchError: one can't be played.
    """
    found = {}
    for path in {step_file(step) for step in protocol.scans}:
        try:
            script = read_script(Path(path))
        except WireError as error:
            raise BenchError(
                f"{error}; recordings of other kinds become MRD streams by edge-runtime bench convert"
            ) from None
        found[path] = Outline(len(script.readouts), script.keys)
    return found


def step_file(step: ScanStep) -> str:
    """The path of a step's scan."""
    return str(SCAN) if step.file == SHIPPED_SCAN else step.file


def run(plan: Plan, tell: Tell) -> Result:
    """Runs it, and returns what it has shown.

    Raises:
        BenchError: the server can't be had, a scan can't be played, or not one image came.
    """
    with benches(plan, tell) as bench:
        return bench.run()


@contextlib.contextmanager
def benches(plan: Plan, tell: Tell) -> Iterator[Bench]:
    """A server that listens, the link to it, its machine's sensors, and the bench that loads it.

    Raises:
        BenchError: see `run`.
    """
    outlines = outlines_of(plan.protocol)
    with contextlib.ExitStack() as stack:
        spool = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-bench-pixels-")))
        target = stack.enter_context(opened(plan.address, plan.serve, plan.ssh, plan.cpu_limit))
        zero_s = time.perf_counter()
        watcher = stack.enter_context(Watcher(target.watch, zero_s))
        way = stack.enter_context(laid(plan.link, target.host, target.port))
        watcher.await_first()
        yield Bench(plan, outlines, target, way, watcher, spool, zero_s, tell)


class Bench:
    """A run against a server that listens; see `benches`."""

    def __init__(
        self,
        plan: Plan,
        outlines: Mapping[str, Outline],
        target: Target,
        way: Way,
        watcher: Watcher,
        spool: Path,
        zero_s: float,
        tell: Tell,
    ) -> None:
        self._plan, self._outlines, self._way, self._zero_s, self._tell = plan, outlines, way, zero_s, tell
        self.target, self.watcher, self.spool = target, watcher, spool
        self.phases: list[Phase] = []
        self._reports = Reports(target.output)
        self._collected_s = 0.0

    def run(self) -> Result:
        """All phases in turn."""
        plan = self._plan
        golden = self.golden()
        self.warm_up()
        url = plan.metrics or self.target.metrics
        before = read_metrics(url)
        seen: list[Played] = []
        measured = self.phase("measured", lambda: seen.append(self.load(plan.speed, plan.rounds, plan.duration_s)))
        after = read_metrics(url)
        self._reports.collect()
        self.cool_down()
        (played,) = seen
        sensed = self.watcher.sensed()
        return Result(
            plan=plan,
            target=self.target,
            measures=measure(played.scans, plan.protocol.scans, golden, self.spool, played.since_s),
            usage=usage(sensed.between(measured.first_s, measured.last_s)),
            stages=tuple(self._reports.stages() or stages_between(before, after)),
            phases=tuple(self.phases),
            sensed=sensed,
            readouts_taken=readouts_between(before, after) if self.target.output is None else self._reports.readouts,
            schedulers=played.schedulers,
        )

    def warm_up(self) -> None:
        """The protocol at its own pace, for as long as is asked for; what it shows does not count."""
        if self._plan.warm_up_s:
            self.phase("warm-up", lambda: self.load(1.0, None, self._plan.warm_up_s))
        self._reports.forget()

    def cool_down(self) -> None:
        """Sensors alone."""
        if self._plan.cool_down_s:
            self.phase("cool-down", lambda: time.sleep(self._plan.cool_down_s))

    def golden(self) -> Golden:
        """The golden result: every scan of the protocol once, alone and over a good link; or another run's.

        Raises:
            BenchError: it has not every image that the protocol asks for: what nothing is held against passes any gate.
        """
        plan, place = self._plan, f"{self.target.host}:{self.target.port}"
        scans: list[ScanSeen] = []
        if plan.golden is not None:
            golden = read_golden(plan.golden)
        else:
            self._tell("golden result: the protocol once, alone")
            orders = self.orders(Way(self.target.host, self.target.port), 1.0, 1, None)
            scans, _ = play_all([replace(orders, steps=tuple(replace(step, pause_s=0.0) for step in orders.steps))])
            golden = golden_of(scans, self.spool)
        wanted = [
            (step.name, step.image, key) for step in plan.protocol.scans for key in self._outlines[step_file(step)].keys
        ]
        for step, method, key in golden.lacking(wanted)[:1]:
            if plan.golden is not None:
                raise BenchError(
                    f"{plan.golden}: no golden {method} image of {step}, {key}: of another protocol, or not whole"
                )
            said = next(one.error or "; ".join(one.texts) or "nothing was said" for one in scans if one.name == step)
            raise BenchError(f"no final {method} image of {step}, {key}, came back from {place}: {said[:500]}")
        if plan.keep_golden is not None:
            golden.write(plan.keep_golden)
        return golden

    def load(self, speed: float, rounds: int | None, duration_s: float | None, scanners: int | None = None) -> Played:
        """Plays the protocol by all scanners, the plan's number where none is given; returns when the last has finished.

        Args:
            duration_s: for which all of them are at work, from the last one's beginning on; by ``rounds`` every scan counts.
        """
        scanners = scanners or self._plan.scanners
        stagger_s = self._plan.protocol.stagger_s / speed
        until_s = None if duration_s is None else duration_s + (scanners - 1) * stagger_s
        orders = self.orders(self._way, speed, None if duration_s is not None else rounds, until_s)
        scans, schedulers = play_all(staggered(orders, scanners, stagger_s), self._way.prefix, self._seen)
        since_s = -math.inf if duration_s is None else orders.start_s + (scanners - 1) * stagger_s
        return Played(scans, schedulers, since_s)

    def orders(self, way: Way, speed: float, rounds: int | None, duration_s: float | None) -> Orders:
        """For the first scanner."""
        start_s = time.perf_counter() - self._zero_s + 0.3  # a process needs so long to begin
        return Orders(
            scanner=0,
            host=way.host,
            port=way.port,
            steps=tuple(self._step(one, speed) for one in self._plan.protocol.scans),
            zero_s=self._zero_s,
            start_s=start_s,
            rounds=rounds,
            end_s=None if duration_s is None else start_s + duration_s,
            spool=str(self.spool),
            attempts=1 if self._plan.link.good else ATTEMPTS_OVER_A_BAD_LINK,
            realtime=self._plan.realtime,
        )

    def _step(self, step: ScanStep, speed: float) -> Step:
        file = step_file(step)
        readouts = self._outlines[file].readouts
        return Step(step.name, file, readouts, step.repetition_time_ms / speed, step.config, step.pause_s / speed)

    def forget(self) -> None:
        """What the server has kept until now counts no more, and takes no room."""
        self._reports.forget()

    def _seen(self, scan: ScanSeen) -> None:
        images = [image for image in scan.images if image.completeness == "final"]
        last = max((1000 * image.since_last_readout_s for image in images), default=None)
        what = scan.error or (
            f"{len(images)} final images, the last {last:.0f} ms after its readouts" if last is not None else "no image"
        )
        self._tell(f"scanner {scan.scanner}, scan {scan.number} ({scan.name}): {what}")
        now = time.perf_counter()
        if now - self._collected_s > 5:
            self._collected_s = now
            self._reports.collect()

    def phase(self, name: str, work: Callable[[], object], load: Load | None = None) -> Phase:
        """Does a part of the run and keeps when it was."""
        self._tell(f"{name}: {load} …" if load is not None else f"{name} …")
        first = time.perf_counter() - self._zero_s
        work()
        self.phases.append(Phase(name, first, time.perf_counter() - self._zero_s, load))
        return self.phases[-1]
