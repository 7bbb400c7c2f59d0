"""Another bundle takes over between two scans: checked beside the running one, tried on the last scans, watched in its first ones.

asked     the file is read once, verified, made ready and held to its golden outputs, like any bundle; scans go on meanwhile
shadow    it reconstructs the last slices, and so does the running model; what it makes is compared and thrown away
in use    scans that begin now take it; those that run keep theirs
probation for its first scans the one before stays ready: a failure, or evidence that is worse, brings it back at once
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from edge_runtime.errors import Abandoned, EdgeRuntimeError, EngineError, NoImage, ProgramRefused, SwapRefused, kind_of
from edge_runtime.memory import Reservation
from edge_runtime.modalities.mri.reconstruct import Calibration, SliceSamples
from edge_runtime.report import ScanReport
from edge_runtime.runtime import Model, Runtime, open_model
from edge_runtime.scan import Method
from edge_runtime.service.observers import Observer
from edge_runtime.service.recent import RecentSlices
from edge_runtime.service.shadow import Comparison, Limits, compare

log = logging.getLogger(__name__)

PROBATION_SCANS = 3

IDLE_PATIENCE_S = 30.0
"""How long a shadow run waits for a moment without scanners before it shares the processor with them."""

POLL_S = 0.1

LOADED_OVER_FILE = 3
"""Memory of a model over the size of its bundle: graphs as they stand in the file, the engine's copy, its packed weights."""

ENGINE_BYTES = 16 << 20
"""Beside that: threads and arena of another engine session."""

Tell = Callable[[str], None]
"""Is told how far a swap is; what it raises ends the swap, before the model is taken into use."""


@dataclass(frozen=True)
class Swapped:
    """A swap that was made.

    Attributes:
        comparison: on the last scans; ``None`` where none was asked for.
    """

    before: Model
    now: Model
    comparison: Comparison | None


@dataclass
class _Probation:
    model: Model
    previous: Model
    limits: Limits
    scans_left: int
    room: Reservation
    scan_ids: set[str] = field(default_factory=set)
    compared: set[str] = field(default_factory=set)


class Swapper(Observer):
    """Holds the slices to try models on, and makes one swap at a time. As an observer it watches a new model's first scans.

    Args:
        busy: whether scanners are connected.
        stopping: whether the server ends.
        trust, precision: as the server was started with.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        busy: Callable[[], bool],
        stopping: Callable[[], bool],
        trust: Path | None = None,
        precision: str | None = None,
    ) -> None:
        self.recent = RecentSlices(runtime.memory, runtime.profile.share_bytes)
        self._runtime = runtime
        self._busy = busy
        self._stopping = stopping
        self._trust = trust or runtime.profile.trust
        self._precision = precision
        self._one_at_a_time = threading.Lock()
        self._changed = threading.Condition()
        self._probation: _Probation | None = None
        self._rolled_back: dict[str, str] = {}
        self._closed = False
        self._watching = threading.Thread(target=self._watch, name="probation", daemon=True)
        self._watching.start()

    def close(self) -> None:
        """Ends the watch; a swap that runs is abandoned by ``stopping``."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._watching.join()

    @property
    def state(self) -> str:
        """In words, for `edge-runtime status`."""
        with self._changed:
            if self._probation is not None:
                left, now = self._probation.scans_left, self._probation.model
                return f"{now} is on probation for {left} more scans; {self._probation.previous} stays ready"
        return "a swap is being made" if self._one_at_a_time.locked() else "no swap"

    def swap(self, path: Path, limits: Limits, tell: Tell, *, unshadowed: bool = False) -> Swapped:
        """Takes a bundle into use, from the next scan on; returns when that is so.

        Args:
            unshadowed: also where no scan has been reconstructed since the server started.

        Raises:
            SwapRefused: says why; the running model goes on.
        """
        if not self._one_at_a_time.acquire(blocking=False):
            raise SwapRefused("another swap is being made: try again when it has ended")
        digest, room = "", Reservation(self._runtime.memory)
        try:
            before = self._runtime.model
            if before is None:
                raise SwapRefused("this server makes classical images only: start it without --classical-only")
            model = self._ready(path, room, tell)
            digest = model.bundle.digest
            self._check_new(model, before)
            comparison = None
            if not unshadowed:
                comparison = self._shadow(model, before, limits, tell)
            tell(f"{model} is taken into use, from the next scan on")
            self._take_into_use(model, before, limits, room)
            return Swapped(before, model, comparison)
        except EdgeRuntimeError as error:
            why = str(error) if isinstance(error, SwapRefused) else f"{type(error).__name__}: {error}"
            room.release()
            log.warning("bundle %s is not taken into use: %s", path.name, why)
            self._runtime.observers.swap_refused(digest, why)
            raise SwapRefused(why) from error
        except BaseException:
            room.release()
            raise
        finally:
            self._one_at_a_time.release()

    def _ready(self, path: Path, room: Reservation, tell: Tell) -> Model:
        """The model of the file, verified and made ready, in memory of its own."""
        try:
            size_bytes = path.stat().st_size
        except OSError as error:
            raise SwapRefused(f"{path}: {error.strerror or error}: the server must be able to read it") from None
        needed_bytes = LOADED_OVER_FILE * size_bytes + ENGINE_BYTES
        if not room.resize(needed_bytes, self._runtime.profile.share_bytes):
            raise SwapRefused(
                f"a second model needs {needed_bytes >> 20} MB beside the scans, of {self._runtime.memory.total_bytes >> 20} MB "
                f"{self._runtime.memory.free_bytes >> 20} are free: try again when fewer scans run, or raise memory.total_mb"
            )
        tell(f"{path.name} is verified and made ready")
        runtime = self._runtime
        model = open_model(path, runtime.profile, self._precision, self._trust, runtime.counters, runtime.crumbs)
        model.lineup.quarantined = runtime.observers.quarantined
        return model

    def _check_new(self, model: Model, running: Model) -> None:
        digest = model.bundle.digest
        if digest == running.bundle.digest and model.precision == running.precision:
            raise SwapRefused(f"{model} is in use already")
        if digest in self._rolled_back:
            raise SwapRefused(
                f"{model} was rolled back before: {self._rolled_back[digest]}; a server that is started anew tries it again"
            )

    def _shadow(self, model: Model, running: Model, limits: Limits, tell: Tell) -> Comparison:
        slices = self.recent.latest()
        if not slices:
            raise SwapRefused(
                "no slice has been reconstructed since the server started, so that there is nothing to try it on: scan once, or "
                "swap with --unshadowed"
            )
        tell(f"{model} is tried on the last {len(slices)} slices")
        patience = time.monotonic() + IDLE_PATIENCE_S

        def may_wait() -> bool:
            return time.monotonic() < patience

        def wanted() -> bool:
            return not self._stopping() and not (self._busy() and may_wait())

        while True:
            if self._stopping():
                raise SwapRefused("the server is stopping")
            try:
                if wanted():
                    found = compare(
                        model.reconstruction, running.reconstruction, slices, self._runtime.plans, limits, wanted
                    )
                    break
            except Abandoned:
                pass  # a scanner has come: its scan comes first
            time.sleep(POLL_S)
        tell(str(found))
        if found.objection:
            raise SwapRefused(f"on the last scans {found.objection}")
        return found

    def _take_into_use(self, model: Model, before: Model, limits: Limits, room: Reservation) -> None:
        with self._changed:
            if self._runtime.model is not before:
                raise SwapRefused("the running model was rolled back meanwhile: swap again")
            if (
                self._probation is not None
            ):  # of the model that is replaced now; what it replaced is not kept any longer
                self._probation.room.release()
            self._probation = _Probation(model, before, limits, PROBATION_SCANS, room)
            self._runtime.in_use.current = model
        log.info("%s (SHA-256 %s) takes over from %s", model, model.bundle.digest, before)
        self._runtime.observers.model_changed(model, before, "swap")

    # Probation

    def scan_begun(self, scan_id: str, configuration: str, model: Model | None) -> None:
        with self._changed:
            if self._probation is not None and model is self._probation.model:
                self._probation.scan_ids.add(scan_id)

    def slice_done(self, scan_id: str, model: Model | None, samples: SliceSamples, calibration: Calibration) -> None:
        if model is None:
            return
        self.recent.keep(scan_id, samples, calibration)
        with self._changed:
            self._changed.notify_all()

    def failed(self, scan_id: str, model: Model | None, error: Exception) -> None:
        a_models = isinstance(error, (EngineError, ProgramRefused)) or not isinstance(error, EdgeRuntimeError)
        if model is not None and a_models and not isinstance(error, NoImage):
            self._roll_back(model, f"scan {scan_id}: {kind_of(error)}")

    def scan_ended(self, report: ScanReport, model: Model | None) -> None:
        with self._changed:
            probation = self._probation
            if probation is None or model is not probation.model or report.scan_id not in probation.scan_ids:
                return
            if any(image["method"] == Method.LEARNED.value for image in report.images):  # others show nothing of it
                probation.scans_left -= 1
                self._changed.notify_all()

    def _watch(self) -> None:
        """Holds a new model's slices against what the one before makes of them, until its probation ends."""
        while (work := self._next_to_compare()) is not None:
            probation, scan_id = work
            slices = [one for one in self.recent.latest() if one.scan_id == scan_id]
            if not slices:
                continue
            limits = replace(probation.limits, time_margin=math.inf)  # it shares the processor with scans
            try:
                found = compare(
                    probation.model.reconstruction,
                    probation.previous.reconstruction,
                    slices,
                    self._runtime.plans,
                    limits,
                    lambda: not self._closed,
                )
            except Abandoned:
                continue
            except Exception as error:  # the watch must go on, and what can't be watched must not stay
                log.exception("probation of %s", probation.model)
                self._roll_back(probation.model, f"its probation failed: {kind_of(error)}")
                continue
            if found.slices and found.objection:
                self._roll_back(probation.model, f"scan {scan_id}: {found.objection}")

    def _next_to_compare(self) -> tuple[_Probation, str] | None:
        """A scan of the probation that was not looked at yet; ends the probation when all were; ``None`` when the server ends."""
        with self._changed:
            while not self._closed:
                probation = self._probation
                if probation is not None:
                    kept = {one.scan_id for one in self.recent.latest()} & probation.scan_ids
                    if new := kept - probation.compared:
                        scan_id = min(new)
                        probation.compared.add(scan_id)
                        return probation, scan_id
                    if probation.scans_left <= 0:
                        self._probation = None
                        probation.room.release()
                        log.info("%s has passed its probation", probation.model)
                        continue
                self._changed.wait()
        return None

    def _roll_back(self, model: Model, why: str) -> None:
        with self._changed:
            probation = self._probation
            if probation is None or probation.model is not model:
                return
            self._probation = None
            self._rolled_back[model.bundle.digest] = why
            self._runtime.in_use.current = probation.previous
            probation.room.release()
        log.error("%s is rolled back to %s: %s", model, probation.previous, why)
        self._runtime.observers.model_changed(probation.previous, model, f"roll-back: {why}")
