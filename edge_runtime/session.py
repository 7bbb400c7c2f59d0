"""One scan from its first message to its last image.

    state           message            next state     what happens
    AWAIT_CONFIG    configuration      AWAIT_HEADER   a known name selects what is reconstructed
    AWAIT_HEADER    header             RECEIVING      geometry and memory are checked
    RECEIVING       readouts           RECEIVING      assembled; slices, previews and calibrations are scheduled
    RECEIVING       close              ENDED          what is still open becomes images or a reason
    any             text, waveform     the same       taken note of
    any             anything else      ENDED          refused with a text that names it

A session knows no socket: a link feeds it messages as method calls and gives it an `Outbound` to answer through. It is
driven by one thread; images leave from the pool's threads. However it ends, every slice that holds samples becomes an
image or a sentence that says why none is possible.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

import numpy as np

from edge_runtime.ahead import Ahead, Pace, Steps
from edge_runtime.attempt import Attempt, Attempts
from edge_runtime.engines.crumbs import scan_at_work
from edge_runtime.errors import (
    Abandoned,
    DeliveryError,
    DeviceError,
    EdgeRuntimeError,
    NoImage,
    ProtocolError,
    ScanRefused,
    kind_of,
)
from edge_runtime.journal.delivered import Delivered
from edge_runtime.kernels import survey
from edge_runtime.memory import Reservation
from edge_runtime.modalities.mri.assemble import COPIES_OF_A_WAITING_SLICE, Assembler
from edge_runtime.modalities.mri.buffers import AcsState, CalibrationSamples
from edge_runtime.modalities.mri.layout import COMPLEX_BYTES, RESAMPLING_COPIES, WORKING_COPIES, Layout
from edge_runtime.modalities.mri.proposal import Begun, Learned, Stepwise
from edge_runtime.modalities.mri.reconstruct import (
    FEW_ACS_LINES,
    MOST_ACS_LINES,
    Calibration,
    SliceSamples,
    begin,
    calibrate,
    calibration_lines,
    reconstruct,
)
from edge_runtime.pool import Priority
from edge_runtime.report import ReportFolder, ScanReport, Stages
from edge_runtime.runtime import Model, Runtime
from edge_runtime.scan import Completeness, Geometry, Image, Method, ReadoutBatch, ReadoutFlag, ScanHeader, SliceKey
from edge_runtime.service.heart import progress as progressed
from edge_runtime.service.logs import of_scan

if TYPE_CHECKING:
    from edge_runtime.delivery.files import SeriesWriter

log = logging.getLogger(__name__)

CONFIGURATIONS: dict[str, tuple[Method, ...]] = {
    "edge": (Method.LEARNED, Method.CLASSICAL),
    "default": (Method.LEARNED, Method.CLASSICAL),
    "openrecon": (Method.LEARNED, Method.CLASSICAL),
    "edge-all": (Method.LEARNED, Method.CLASSICAL, Method.ZERO_FILLED),
    "edge-classical": (Method.CLASSICAL, Method.ZERO_FILLED),
}
"""What each configuration name sends back. OpenRecon always asks for ``openrecon``."""


ONE_SCAN = "a second scan on the same connection; open a connection for each scan"


COPIES_OF_AN_OPEN_SLICE = 3
"""Its samples, calibration lines that come apart from them, and sensitivities that are made ahead."""

BEGUN_BYTES_PER_PIXEL = 2 * COMPLEX_BYTES
"""Of an image that was begun, beside a byte for what each run of the network knew."""

NOISE = int(ReadoutFlag.IS_NOISE_MEASUREMENT)

COPIES_OF_NOISE = 2
"""The noise readouts as they came, and in one piece when the noise is estimated."""


class State(enum.Enum):
    """Where a session is; see the table above."""

    AWAIT_CONFIG = "awaiting the configuration"
    AWAIT_HEADER = "awaiting the header"
    RECEIVING = "receiving"
    ENDED = "ended"


class Outbound(Protocol):
    """How a session answers; calls come from several threads and must not raise when the scanner has gone.

    `text` and `image` return at once, since the threads that call them serve other sessions too. What is not sent yet is bounded by
    the session, which asks for room before it makes images, and waits for it in the thread that takes in readouts.
    """

    def text(self, message: str) -> None: ...

    def image(self, image: Image, series: int, index: int) -> None: ...

    def has_room(self, size_bytes: int) -> bool: ...

    def wait_for_room(self, size_bytes: int) -> None:
        """Returns when there is room, when nothing is left to be sent, or when the scanner has gone."""


@dataclass
class _SliceProgress:
    """What has been scheduled for a slice, and when its first readouts came."""

    previews_due: list[float]
    begun: float
    waiting_said: bool = False
    acs: AcsState | None = None
    calibrated_from: AcsState | None = None
    calibrating: Future[None] | None = None
    calibrated: _Calibrated | None = None
    ahead: Ahead = field(default_factory=Ahead)
    step: Future[None] | None = None
    preview: Future[None] | None = None
    final_queued: bool = False
    ingest_s: float = 0.0


@dataclass
class _Calibrated:
    """A calibration that later images of the slice may use.

    Attributes:
        identity: of the samples that it was made of.
        ahead_s: what it took while readouts still arrived, until a record has it.
    """

    calibration: Calibration
    identity: bytes
    ahead_s: float


Given = ParamSpec("Given")
Given_back = TypeVar("Given_back")


def _at_work(
    method: Callable[Concatenate[Session, Given], Given_back],
) -> Callable[Concatenate[Session, Given], Given_back]:
    """The method, in which a session must make progress."""

    @functools.wraps(method)
    def at_work(session: Session, /, *arguments: Given.args, **named: Given.kwargs) -> Given_back:
        with session.pulse.working():
            return method(session, *arguments, **named)

    return at_work


class Session:
    """See the module's text.

    Args:
        runtime: what sessions share.
        outbound: where answers go.
        scan_id: names the scan's folder.
        delivered: knows which images a restart must not deliver again.
    """

    def __init__(self, runtime: Runtime, outbound: Outbound, scan_id: str, delivered: Delivered | None = None) -> None:
        self.state = State.AWAIT_CONFIG
        self.report = ScanReport(scan_id, time.time())
        self._folder = ReportFolder(self.report, runtime.output / scan_id if runtime.output else None)
        self._runtime = runtime
        self._out = outbound
        self._start = time.monotonic()
        self._methods: tuple[Method, ...] = ()
        self._model: Model | None = None
        self.pulse = runtime.heart.pulse(f"scan {scan_id}")
        self._header: ScanHeader | None = None
        self._assembler: Assembler | None = None
        self._writer: SeriesWriter | None = None
        self._progress: dict[SliceKey, _SliceProgress] = {}
        self._unfinished: list[Future[None]] = []
        self._copies: list[Future[None]] = []  # of them those that hold copies of a slice that goes on
        self._tried = False
        self._lines_of_a_slice = 0  # that the latest slice had
        self._steps: Steps | None = None  # of a network whose runs need not all wait for the last readout
        self._images_bytes = 0
        self._noise_bytes = self._network_bytes = 0
        self._working_copies = WORKING_COPIES
        self._coils = self._open_slices = 1
        self._memory = Reservation(runtime.memory)
        self._lane = runtime.pool.lane()
        self._attempts = Attempts(runtime, None, scan_id)
        self._deliver = threading.Lock()
        self._writing = threading.Lock()
        self._series: dict[tuple[Method, Completeness], int] = {}
        self._said: set[str] = set()
        self._delivered = delivered or Delivered()

    # Messages, in the order of the table

    def configure(self, name: str) -> None:
        """A configuration by its name.

        Raises:
            ProtocolError: unknown name, or not the time for it.
        """
        self._expect(State.AWAIT_CONFIG, "configuration")
        if name not in CONFIGURATIONS:
            raise ProtocolError("configuration", name, f"unknown; known are {', '.join(CONFIGURATIONS)}")
        methods = CONFIGURATIONS[name]
        self._model = self._runtime.model  # to the scan's end, whatever takes its place meanwhile
        if self._model is None:
            methods = tuple(m for m in methods if m is not Method.LEARNED)
        self._methods, self.report.configuration = methods, name
        self._attempts = Attempts(self._runtime, self._learning(), self.report.scan_id)
        self.state = State.AWAIT_HEADER

    @_at_work
    def begin(self, header: ScanHeader) -> None:
        """The scan's header.

        Raises:
            ScanRefused: not a scan this runtime reconstructs, or too large.
        """
        self._expect(State.AWAIT_HEADER, "header")
        layout = Layout.of(header)
        budget = self._runtime.profile.samples_bytes
        self._coils = header.scanner.receiver_coils or 1
        learned = self._learned()
        if learned is not None:
            self._network_bytes = learned.network_bytes(layout.lines, layout.columns)
            self._working_copies += learned.coil_copies
            size = (self._coils, layout.lines, layout.columns)
            self._steps = Steps(learned.runs, self._runtime.took, *size) if isinstance(learned, Stepwise) else None
        layout.check_budget(self._coils, budget, self._network_bytes, self._working_copies)
        self._images_bytes = math.prod(layout.recon_matrix) * np.dtype(np.float32).itemsize * len(self._methods)
        self._memory.require(self._needed_bytes(layout, 1))
        device, granted = self._runtime.plans.device, budget - self._network_bytes
        self._assembler = Assembler(header, layout, granted, device, self._working_copies)
        examined = header
        if self._runtime.output is not None:
            from edge_runtime.delivery.files import SeriesWriter  # pydicom is a tenth of a second at every start

            folder = self._runtime.output / self.report.scan_id
            if self._runtime.handover is not None:
                examined = self._runtime.handover.scan_begins(folder, header)
            self._writer = SeriesWriter(folder, examined, scan_id=self.report.scan_id)
        self._header = examined
        for note in (*self._runtime.notes, *examined.notes, *layout.notes):
            self._say(f"note: {note}")
        self._runtime.observers.scan_begun(self.report.scan_id, self.report.configuration, self._model)
        self.state = State.RECEIVING

    @_at_work
    def readouts(self, batch: ReadoutBatch) -> None:
        """Readouts as they arrive; returns when they are assembled, later when slices wait for reconstruction or images for the
        scanner to take them.

        Raises:
            ScanRefused: a readout contradicts the header, or memory would not suffice.
        """
        self._expect(State.RECEIVING, "readout")
        assert self._assembler is not None
        self._reserve_for(batch)
        self.report.readouts += len(batch)
        self._runtime.observers.readouts_received(len(batch))
        self.report.last_readout_s = time.monotonic() - self._start
        began = time.monotonic()
        for key, complete in self._assembler.add(batch):
            self._slice(key).ingest_s += time.monotonic() - began
            self._advance(key, complete)
            began = time.monotonic()

    @_at_work
    def close(self) -> None:
        """The scanner has sent everything it will."""
        if self.state is State.ENDED:
            return
        if self.state is State.RECEIVING:
            assert self._assembler is not None
            for key, complete in self._assembler.finish():
                self._advance(key, complete)
            self._end_open_slices()
            for absent in self._assembler.absent():
                self._assembler.notes.append(absent)
                self._say(f"note: {absent}")
            self._explain_nothing()
        else:
            self._no_image(f"the connection was closed while {self.state.value}")
        self._end()

    @_at_work
    def abort(self, reason: str, error: Exception | None = None) -> None:
        """The scan can't go on (refused input, stalled or lost link): says why, and saves what was measured.

        Args:
            error: that ended it; the log then has its kind alone, since its words may be a header's.
        """
        if self.state is State.ENDED:
            return
        self.report.error = reason
        log.warning("scan %s ended early: %s", self.report.scan_id, reason if error is None else kind_of(error))
        if error is not None:
            self._runtime.observers.failed(self.report.scan_id, None, error)
        self._out.text(f"error: {reason}")
        if self.state is State.RECEIVING and self._assembler is not None:
            self._assembler.notes.append(f"the scan ended early: {reason}")
            with contextlib.suppress(ScanRefused, DeviceError):
                for key, complete in self._assembler.finish():
                    self._advance(key, complete)
            self._end_open_slices(aborted=True)
            self._explain_nothing()
        self._end()

    @_at_work
    def withdraw(self) -> None:
        """Ends without a word: the scan goes on elsewhere, or never began."""
        if self.state is not State.ENDED:
            self._wait_for_jobs()
            self.state = State.ENDED
            self.pulse.end()

    def remember(self, note: str) -> None:
        """Something that images and the report shall say from here on; from any thread."""
        if self._assembler is not None and note not in self._assembler.notes:
            self._assembler.notes.append(note)
        self._say(f"note: {note}")

    def release(self) -> None:
        """Gives back the scan's memory; for the link, when the session has ended and what it sent has gone."""
        self._memory.release()

    # Memory

    def _reserve_for(self, batch: ReadoutBatch) -> None:
        """Reserves what the readouts may make the assembler allocate, before it does.

        Raises:
            BudgetExceeded: other scans have left too little.
        """
        assert self._assembler is not None
        self._coils = max(self._coils, batch.coils)
        found = survey(batch.header)
        if found.flags & NOISE:
            self._noise_bytes += batch.samples.nbytes
        slices = {SliceKey.of(batch.header[0])} if found.one_slice else _slices_of(batch)
        self._open_slices = len(slices.union(self._assembler.open_slices()))
        self._memory.require(self._needed_bytes(self._assembler.layout, max(1, len(self._waiting()))))

    def _needed_bytes(self, layout: Layout, waiting: int) -> int:
        """What the scan takes with so many slices that wait for reconstruction, beside those that are filled. The assembler sees to
        it that this is no more than the profile grants."""
        copies = (
            self._working_copies + COPIES_OF_AN_OPEN_SLICE * self._open_slices + COPIES_OF_A_WAITING_SLICE * waiting
        )
        image_bytes = math.prod(layout.recon_matrix) * RESAMPLING_COPIES * COMPLEX_BYTES + self._images_bytes
        needed = layout.slice_bytes(self._coils) * copies + image_bytes + COPIES_OF_NOISE * self._noise_bytes
        needed += self._network_bytes
        if self._steps is not None:
            needed += layout.lines * layout.columns * (BEGUN_BYTES_PER_PIXEL + self._steps.runs) * self._open_slices
        return min(needed, self._runtime.profile.samples_bytes)

    # Scheduling

    def _slice(self, key: SliceKey) -> _SliceProgress:
        progress = self._progress.get(key)
        if progress is None:
            progress = self._progress[key] = _SliceProgress(self._preview_shares(), time.monotonic())
        return progress

    def _preview_shares(self) -> list[float]:
        """At which previews are due; where it is known how many lines there are, also when all have come and the slice goes on."""
        assert self._assembler is not None
        whole = {1.0} if self._runtime.previews and self._assembler.layout.lines_are_known else set()
        return sorted({*self._runtime.previews, *whole})

    def _advance(self, key: SliceKey, complete: bool) -> None:
        assert self._assembler is not None
        progress = self._slice(key)
        if complete:
            self._final(key, self._completeness(key))
            return
        self._calibrate_ahead(key, progress)
        self._step_ahead(key, progress)
        if not progress.previews_due:
            return
        share = self._assembler.share(key)
        due = [at for at in progress.previews_due if share >= at]
        if not due or (share >= 1 and not self._assembler.layout.lines_are_known):
            return
        centre = calibration_lines(self._assembler.measured(key))
        if centre.stop <= centre.start:
            if not progress.waiting_said:
                progress.waiting_said = True
                layout = self._assembler.layout
                self._out.text(
                    f"waiting: {key}: {share:.0%} measured, no image yet; the centre of k-space "
                    f"(phase encode {layout.centre_step}) is still to come"
                )
            return
        if progress.preview is not None and not progress.preview.done():
            return  # the slice tries again when it has grown
        overtaken, hot = self._would_be_overtaken(key, progress, share), not self._runtime.scheduler.previews()
        if overtaken or hot:
            self._no_preview(key, due[-1], *(["the device is hot"] if hot else []))
            self._runtime.counters.add("previews_left_out", cause="heat" if hot else "deadline")
        if overtaken or hot or self._preview(key, progress):
            del progress.previews_due[: len(due)]

    def _would_be_overtaken(self, key: SliceKey, progress: _SliceProgress, share: float) -> bool:
        """Whether the final image, or a run of the network for it, would interrupt a preview that begins now, if readouts go on to
        come as they did: it would show nothing, and take time and heat from what follows."""
        pace = self._pace(key, progress)
        lead_s = 0.0 if self._steps is None else self._steps.lead_s(pace)
        return share < 1 and pace.left_s < (self._runtime.took.seconds(*self._preview_kind()) or 0.0) + lead_s

    def _preview_kind(self) -> tuple[object, ...]:
        """Previews that take as long as this scan's."""
        assert self._assembler is not None
        layout = self._assembler.layout
        return ("preview", self._methods, self._coils, layout.lines, layout.columns)

    def _pace(self, key: SliceKey, progress: _SliceProgress) -> Pace:
        assert self._assembler is not None
        measured = self._assembler.lines_measured(key)
        share = measured / self._lines_of_a_slice if self._lines_of_a_slice else self._assembler.share(key)
        return Pace.of(time.monotonic() - progress.begun, measured, min(1.0, share))

    def _step_ahead(self, key: SliceKey, progress: _SliceProgress) -> None:
        """The final image's runs of the network, while readouts still arrive; data consistency with all of them is left to do."""
        assembler, steps, learned = self._assembler, self._steps, self._learned()
        assert assembler is not None
        if steps is None or progress.calibrated is None or (progress.step is not None and not progress.step.done()):
            return
        ahead, calibrated, pace = progress.ahead, progress.calibrated, self._pace(key, progress)
        done = ahead.begun.runs if ahead.begun is not None else 0
        anew = done == 0 or done == steps.runs or ahead.calibration is not calibrated.calibration
        if done == steps.runs and not steps.begins_anew(pace):
            return
        if not self._runtime.scheduler.previews():
            return  # hot: the network runs for the final image alone
        if not steps.is_due(pace, 0 if anew else done) or not self._room_for_a_copy():
            return
        assert isinstance(learned, Stepwise)
        samples, counts = assembler.snapshot(key), assembler.counts(key).copy()
        model: Stepwise = learned

        def job() -> None:
            with ahead.running:
                if progress.final_queued or self._giving_up():
                    return
                began = time.monotonic()
                before = None if anew else ahead.begun
                scan_at_work.set(self.report.scan_id)
                try:
                    begun = begin(samples, calibrated.calibration, model, self._runtime.plans, before)
                except EdgeRuntimeError as error:  # the final image is tried all the same, and tells what fails
                    log.warning("scan %s: a run ahead failed, no more are made: %s", self.report.scan_id, error)
                    self._steps = None
                    return
                if begun.runs == 1:
                    ahead.calibration, ahead.counts, ahead.seconds = calibrated.calibration, counts, 0.0
                ahead.begun = begun
                took_s = time.monotonic() - began
                ahead.seconds += took_s
                steps.ended(took_s)

        progress.step = self._lane.offer(Priority.STEP, self._guarded(job))
        if progress.step is not None:
            self._unfinished.append(progress.step)
            self._copies.append(progress.step)

    def _calibrate_ahead(self, key: SliceKey, progress: _SliceProgress) -> None:
        """Sensitivities while readouts still arrive, so that the last one leaves less to do: when the ACS is as large as it can
        be, or when readouts came that did not add to it. Where it grows later on, as in interleaved orders, once more."""
        assert self._assembler is not None
        acs = self._assembler.acs(key)
        settled, progress.acs = acs == progress.acs, acs
        busy = progress.calibrating is not None and not progress.calibrating.done()
        if busy or acs == progress.calibrated_from or not self._lane.has_room():
            return
        if not (acs.lines >= FEW_ACS_LINES if settled else acs.lines == acs.readouts == MOST_ACS_LINES):
            return
        ahead = self._assembler.calibration_snapshot(key)

        def job() -> None:
            began, identity = time.monotonic(), ahead.identity()
            if (
                progress.final_queued
                or self._giving_up()
                or (progress.calibrated and progress.calibrated.identity == identity)
            ):
                return
            calibration = calibrate(ahead.hybrid(), ahead.measured, self._runtime.plans)
            progress.calibrated = _Calibrated(calibration, identity, time.monotonic() - began)

        progress.calibrating = self._lane.offer(Priority.CALIBRATION, job)
        if progress.calibrating is not None:
            progress.calibrated_from = acs

    def _preview(self, key: SliceKey, progress: _SliceProgress) -> bool:
        """Queues a preview; false where there is no room for one."""
        assert self._assembler is not None
        if not self._room_for_a_copy():
            return False
        samples, to_calibrate = self._assembler.snapshot(key), self._assembler.calibration_snapshot(key)
        geometry, notes = self._assembler.geometry(key), (*self._notes(), *to_calibrate.notes)
        share = float(samples.measured.sum()) / self._assembler.layout.lines
        arrived, stages = time.time(), Stages()

        def wanted() -> bool:
            return not (
                progress.final_queued or self._giving_up()
            )  # or else the final image must not wait for this one

        def job() -> None:
            if not wanted():
                self._no_preview(key, share)
                return
            began = time.monotonic()
            try:
                calibration = self._calibration(progress, to_calibrate, stages)
                self._reconstruct(
                    key, samples, calibration, geometry, Completeness.PREVIEW, notes, share, arrived, stages, wanted
                )
                self._runtime.took.note(time.monotonic() - began, *self._preview_kind())
            except NoImage:  # not yet
                pass
            except Abandoned:
                self._no_preview(key, share)
            except EdgeRuntimeError as error:  # the final image is tried all the same
                self._no_preview(key, share, f"{type(error).__name__}: {error}")

        future = self._lane.offer(Priority.PREVIEW, self._guarded(job))
        if future is None:
            return False
        progress.preview = future
        self._unfinished.append(future)
        self._copies.append(future)
        return True

    def _final(self, key: SliceKey, completeness: Completeness) -> None:
        assembler = self._assembler
        assert assembler is not None
        progress = self._slice(key)
        progress.final_queued = True
        # Memory is bounded: readouts wait until a reconstruction has ended, then until images have been sent.
        while (waiting := self._waiting()) and not self._room_for_one_more(waiting):
            with self.pulse.waiting_for_work():
                waiting[0].exception()
        with self.pulse.waiting():
            self._out.wait_for_room(self._images_bytes * (len(waiting) + 1))
        geometry, notes = assembler.geometry(key), self._notes()
        if missing := assembler.lacking(key):
            notes = (*notes, missing)
        counts, self._lines_of_a_slice = assembler.counts(key).copy(), assembler.lines_measured(key)
        samples, to_calibrate = assembler.take(key)
        notes = (*notes, *to_calibrate.notes)
        share = float(samples.measured.sum()) / assembler.layout.lines
        arrived, stages = time.time(), Stages()
        stages.add("ingest", progress.ingest_s)

        def job() -> None:
            try:
                if self._giving_up():
                    raise NoImage("the server was told to stop and could not reconstruct all that waited")
                calibration = self._calibration(progress, to_calibrate, stages)
                begun = progress.ahead.finished_with(calibration, counts)
                if begun is not None:
                    stages.add("learned_ahead", progress.ahead.seconds)
                self._reconstruct(
                    key, samples, calibration, geometry, completeness, notes, share, arrived, stages, begun=begun
                )
                self._runtime.observers.slice_done(self.report.scan_id, self._learning(), samples, calibration)
            except NoImage as error:
                self._no_image(f"{key}: {error}")
            except EdgeRuntimeError as error:
                self._runtime.observers.failed(self.report.scan_id, self._learning(), error)
                self._no_image(f"{key}: {type(error).__name__}: {error}")
            finally:
                assembler.reuse(samples)

        self._tried = True
        with self.pulse.waiting_for_work():
            self._unfinished.append(self._lane.submit(Priority.FINAL, self._guarded(job)))
        self._progress.pop(key, None)

    def _room_for_one_more(self, waiting: list[Future[None]]) -> bool:
        """Whether the samples of another slice may wait, and its images after those of the slices that wait already."""
        assembler, more = self._assembler, len(waiting) + 1
        assert assembler is not None
        if len(waiting) >= assembler.slices_that_may_wait() or not self._out.has_room(self._images_bytes * more):
            return False
        return self._memory.resize(self._needed_bytes(assembler.layout, more), self._runtime.profile.share_bytes)

    def _room_for_a_copy(self) -> bool:
        """Whether a slice's samples may be copied for an image, or a part of one, that is not due yet. One such job waits beside
        those that run: slices that are measured in turn would all copy theirs, for what would be done too late. A slice tries again
        when it has grown."""
        self._copies = [job for job in self._copies if not job.done()]
        if len(self._copies) > self._runtime.profile.reconstruction_workers or not self._lane.has_room():
            return False
        return self._room_for_one_more(self._waiting())

    def _guarded(self, job: Callable[[], None]) -> Callable[[], None]:
        """The job, whose failure for a reason that nobody foresaw is told where it happens."""

        def guarded() -> None:
            try:
                with of_scan(self.report.scan_id):
                    job()
            except Exception as error:
                log.error("scan %s: a reconstruction failed", self.report.scan_id, exc_info=error)
                self._runtime.observers.failed(self.report.scan_id, self._learning(), error)
                self._no_image(f"a reconstruction failed: {type(error).__name__}: {error}")

        return guarded

    def _giving_up(self) -> bool:
        """Whether the server ends before all that waits is reconstructed."""
        return self._runtime.giving_up.is_set()

    def _waiting(self) -> list[Future[None]]:
        """Reconstructions that hold samples: they wait, or run."""
        self._unfinished = [job for job in self._unfinished if not job.done()]
        return self._unfinished

    def _end_open_slices(self, *, aborted: bool = False) -> None:
        assert self._assembler is not None
        for key in self._assembler.open_slices():
            if not self._assembler.lines_measured(key):
                self._assembler.drop(key)
                continue
            try:
                self._final(key, Completeness.INCOMPLETE if aborted else self._completeness(key))
            except DeviceError as error:  # the GPU has its samples; others may have theirs
                self._no_image(f"{key}: {type(error).__name__}: {error}")

    def _completeness(self, key: SliceKey) -> Completeness:
        assert self._assembler is not None
        return Completeness.FINAL if self._assembler.is_whole(key) else Completeness.INCOMPLETE

    def _explain_nothing(self) -> None:
        """Says why, where a scan held nothing of which an image could even be tried."""
        if self._tried:
            return
        left_out = [note for note in self._notes() if note.endswith("were left out")]
        if self.report.error:
            reason = "no line that an image can be made of came before the error"
        elif self.report.readouts:
            reason = f"no image lines among {self.report.readouts} readouts"
        else:
            reason = "the scan had a header and no readouts"
        self._no_image("; ".join([reason, *left_out]))

    # Reconstruction, in the pool's threads

    def _calibration(self, progress: _SliceProgress, samples: CalibrationSamples, stages: Stages) -> Calibration:
        """One that was made of the very same samples, ahead or for a preview; else a new one."""
        stages.ended("queued")
        identity, known = samples.identity(), progress.calibrated
        if known is not None and known.identity == identity:
            stages.add("calibration_ahead", known.ahead_s)
            known.ahead_s = 0.0  # a preview's record has it, the final image's must not
        else:
            known = _Calibrated(calibrate(samples.hybrid(), samples.measured, self._runtime.plans), identity, 0.0)
            progress.calibrated = known
        stages.ended("calibration")
        return known.calibration

    def _reconstruct(
        self,
        key: SliceKey,
        samples: SliceSamples,
        calibration: Calibration,
        geometry: Geometry,
        completeness: Completeness,
        notes: tuple[str, ...],
        share: float,
        arrived: float,
        stages: Stages,
        wanted: Callable[[], bool] = lambda: True,
        begun: Begun | None = None,
    ) -> None:
        assert self._assembler is not None
        if calibration.acs.stop - calibration.acs.start < FEW_ACS_LINES and samples.hybrid.shape[0] > 1:
            notes = (*notes, "no ACS: sensitivities come from the central line and do not vary along the phase encodes")
        final = completeness is not Completeness.PREVIEW
        attempt = self._attempts.begin(
            samples.hybrid.shape, stages.age_s(), self._lane.finals_waiting() if final else 0, final=final
        )
        if attempt.degraded and final:
            self._degraded(key, attempt)

        def failed(error: Exception) -> None:
            attempt.failed(error)
            if final:
                self._degraded(key, attempt)

        scan_at_work.set(self.report.scan_id)

        def going_on() -> bool:
            progressed()
            return wanted()

        if attempt.learned is not self._learned():
            begun = None  # of another form, or of more of the network's runs
        for method, made in reconstruct(
            samples, calibration, attempt.learned, self._runtime.plans, going_on, begun, failed
        ):
            progressed()
            stages.ended(method.value)
            attempt.made(method, stages.age_s())
            if method not in self._methods:
                continue
            unconfirmed = made.evidence.unconfirmed if made.evidence else ""
            resized = self._assembler.layout.to_recon_matrix(made.image.astype(np.complex64))
            image = Image(
                pixels=np.abs(resized).astype(np.float32),
                method=method,
                completeness=completeness,
                key=key,
                geometry=geometry,
                provenance=attempt.provenance(method),
                measured_share=share,
                acceleration=samples.measured.size / max(1, int(samples.measured.sum())),
                acquired_at=arrived,
                evidence=made.evidence,
                notes=(*notes, *attempt.notes, *([unconfirmed] if unconfirmed else [])),
            )
            stages.ended("recon_matrix")
            self._deliver_image(image, stages, attempt, made.runs_ahead)

    def _learned(self) -> Learned | None:
        """What makes the learned images, where they are wanted."""
        model = self._learning()
        return model.reconstruction if model is not None else None

    def _learning(self) -> Model | None:
        """The scan's model, where learned images are wanted."""
        return self._model if Method.LEARNED in self._methods else None

    def _deliver_image(self, image: Image, stages: Stages, attempt: Attempt, runs_ahead: int) -> None:
        """Back to the scanner at once, then to disk; previews are for the screen and are not kept."""
        with self._deliver:
            kind = (image.method, image.completeness)
            index = self._series.get(kind, 0) + 1
            self._series[kind] = index
            series = list(self._series).index(kind) + 1
        self._out.image(image, series, index)
        stages.ended("send")
        latency_s = round(stages.age_s(), 4)
        record = {
            "slice": image.key.slice,
            "contrast": image.key.contrast,
            "phase": image.key.phase,
            "repetition": image.key.repetition,
            "set": image.key.set,
            "method": image.method.value,
            "completeness": image.completeness.value,
            "measured_share": round(image.measured_share, 4),
            "acceleration": round(image.acceleration, 3),
            "evidence": asdict(image.evidence) if image.evidence else None,
            "provenance": asdict(image.provenance),
            "runs_ahead": runs_ahead,
            "sent_s": round(time.monotonic() - self._start, 4),
            "latency_s": latency_s,
            "dicom": None,
        }
        if self._delivered.has(image):
            record["dicom"] = "before the restart"
        elif self._writer is not None and image.completeness is not Completeness.PREVIEW:
            try:
                with self._writing:
                    path = self._writer.write(image, index)
                record["dicom"] = str(path)
                if self._runtime.handover is not None and self._header is not None:
                    self._runtime.handover.image(path, image, self._header)
                self._delivered.add(image)
            except DeliveryError as error:
                log.error("scan %s: %s", self.report.scan_id, error)
                self._out.text(f"error: {error}")
                record["dicom_error"] = str(error)
            stages.ended("dicom")
        stages_s = stages.take()
        judged = attempt.judged(latency_s, stages_s)
        record |= {"stages_s": stages_s, "deadline": judged}
        if judged is not None:
            for stage in (*judged["over_ms"], *(["image"] if judged["met"] is False else [])):
                self._runtime.observers.deadline_missed(self.report.scan_id, stage)
        self._folder.add("images", record)
        self._runtime.observers.image_made(self.report.scan_id, record)

    # Ends

    def _end(self) -> None:
        self._wait_for_jobs()
        self.state = State.ENDED
        self._hand_over_series()
        if self._assembler is not None:
            self.report.left_out.update(self._assembler.left_out)
            self.report.notes = list(self._assembler.notes)
        self._folder.write()
        self.pulse.end()
        self._runtime.observers.scan_ended(self.report, self._model if self._assembler is not None else None)

    def _wait_for_jobs(self) -> None:
        with self.pulse.waiting_for_work():
            for job in self._unfinished:
                job.exception()  # waits
        self._unfinished.clear()

    def _hand_over_series(self) -> None:
        """Destinations that want a series as one object get it once it is known to be whole."""
        if self._runtime.handover is None or self._writer is None:
            return
        try:
            self._runtime.handover.scan_ended(self._writer.folder, whole=not self.report.error)
        except DeliveryError as error:
            log.error("scan %s: %s", self.report.scan_id, error)
            self._say(f"error: {error}")

    def _notes(self) -> tuple[str, ...]:
        assert self._assembler is not None and self._header is not None
        left_out = tuple(
            f"{n} readouts with {name} were left out" for name, n in sorted(self._assembler.left_out.items())
        )
        return (*self._runtime.notes, *self._header.notes, *self._assembler.notes, *left_out)

    def _no_image(self, reason: str) -> None:
        self._folder.add("no_image", reason)
        self._out.text(f"no image: {reason}")

    def _no_preview(self, key: SliceKey, share: float, why: str = "the final image is due sooner") -> None:
        reason = f"{key} at {share:.0%}: {why}"
        self._folder.add("no_preview", reason)
        self._out.text(f"no preview: {reason}")

    def _degraded(self, key: SliceKey, attempt: Attempt) -> None:
        self._folder.add("degraded", f"{key}: {attempt.degraded}")
        self._out.text(f"degraded: {key}: {attempt.degraded}")
        self._runtime.observers.degraded(self.report.scan_id, attempt.step)

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._out.text(text)

    def _expect(self, state: State, message: str) -> None:
        if self.state is state:
            return
        if self.state is State.RECEIVING and message in ("configuration", "header"):
            raise ProtocolError("message", message, ONE_SCAN)
        raise ProtocolError("message", message, f"came while the session was {self.state.value}")


def _slices_of(batch: ReadoutBatch) -> set[SliceKey]:
    """The slices that readouts say they belong to."""
    counters = np.stack([batch.header[field.name] for field in fields(SliceKey)], axis=1)
    begins = np.ones(len(counters), np.bool_)
    begins[1:] = (counters[1:] != counters[:-1]).any(axis=1)
    return {SliceKey(*row) for row in counters[begins].tolist()}
