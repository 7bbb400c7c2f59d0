"""The forms and engines of one bundle that may make learned images, and which of them is in service.

An engine that fails scan after scan is taken out, and from the next scan on the next one that the hardware profile allows takes its
place. One that hung, or answered with another shape, is taken out at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from edge_runtime.admission import Admitted, admit, blamed
from edge_runtime.bundle import Bundle, Form, UnrolledSettings
from edge_runtime.counters import Counters
from edge_runtime.deadline.steps import Step, steps_of
from edge_runtime.engines.quarantine import Kind, Quarantine
from edge_runtime.engines.watch import Watch
from edge_runtime.errors import EdgeRuntimeError, EngineError, EngineHung, WrongOutput
from edge_runtime.modalities.mri.learned import LearnedReconstruction
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.profile import Profile

log = logging.getLogger(__name__)

FAILING_SCANS = 3
"""In a row, after which an engine is taken out of service."""

MOST_KEPT_BYTES = 64 << 20
"""Of graphs that are kept beside the engine that runs them, for another to take its place; models of others may have more."""

BITS: Mapping[str, int] = {"fp32": 32, "fp16": 16, "int8": 8}


@dataclass(frozen=True)
class Ready:
    """A form on the engine that runs it.

    Attributes:
        engine: and its version, as images tell it.
    """

    precision: str
    admitted: Admitted

    @property
    def engine(self) -> str:
        return self.admitted.description

    @property
    def learned(self) -> Learned:
        return self.admitted.learned

    def of(self, step: Step) -> Learned:
        """What makes the image of a step."""
        learned = self.learned
        if isinstance(learned, LearnedReconstruction) and step.iterations != learned.settings.iterations:
            return replace(learned, iterations=step.iterations)
        return learned


@dataclass
class _Place:
    """Where the engine of one form stands.

    Attributes:
        out: names of engines that failed, with the reason.
        ready: ``None`` while there is no engine.
        why: there is none.
        failing: scans in a row in which it failed, the latest last.
        busy: another is being made ready.
    """

    out: dict[str, str]
    ready: Ready | None = None
    why: str = ""
    failing: list[str] = field(default_factory=list)
    busy: bool = False


class Lineup:
    """Of one bundle; from any thread. What takes long is done in threads of its own.

    Args:
        bundle: with its forms.
        first: the form that runs where there is time, on its engine.
        precisions: of further forms that may run in its place, most precise first.
    """

    def __init__(
        self,
        bundle: Bundle,
        profile: Profile,
        watch: Watch,
        counters: Counters,
        first: Ready,
        precisions: tuple[str, ...],
    ) -> None:
        self._profile, self._watch, self._counters = profile, watch, counters
        settings, deadlines = bundle.settings, profile.deadlines
        kept = {name: form for name, form in bundle.forms.items() if name in (first.precision, *precisions)}
        if (
            len(profile.engines) == 1 and not precisions
        ):  # nothing could take its place: golden outputs are all that is needed
            kept = {name: replace(form, graphs={}) for name, form in kept.items()}
        size_bytes = sum(len(graph) for form in kept.values() for graph in form.graphs.values())
        self._bundle = replace(bundle, forms=kept) if size_bytes <= MOST_KEPT_BYTES else None
        self._precisions = (first.precision, *precisions) if self._bundle is not None else (first.precision,)
        iterations = settings.iterations if isinstance(settings, UnrolledSettings) else 1
        named = f"{bundle.name} {bundle.version}"
        fewest = min(iterations, deadlines.fewest_iterations.get(named, iterations))
        self.steps = steps_of(self._precisions, iterations, fewest, deadlines.steps)
        """From all of the work to the least."""
        self.quarantined: Callable[[str, str, str], None] = lambda engine, precision, why: None
        """Told of an engine that is taken out of service, its form and the reason."""
        self._changing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._places = {precision: _Place({}) for precision in self._precisions}
        self._places[first.precision].ready = first

    def ready(self, precision: str) -> tuple[Ready | None, str]:
        """The form on its engine; ``None`` and why, while none runs it. A form that is asked for the first time is made ready."""
        with self._changing:
            place = self._places[precision]
            if place.ready is None and not place.busy and not place.why:
                self._seek(precision, place, "not made ready yet")
            return place.ready, "" if place.ready is not None else place.why

    def succeeded(self, ready: Ready) -> None:
        """A learned image came of it."""
        place = self._places[ready.precision]
        if place.ready is ready:
            place.failing = []

    def failed(self, ready: Ready, scan_id: str, error: Exception) -> None:
        """It failed on a scan; whatever that was not an engine's fault, such as kernels of ours on a GPU, counts for nothing."""
        if not isinstance(error, EngineError):
            return
        at_once = isinstance(error, (EngineHung, WrongOutput))
        kind = Kind.HUNG if isinstance(error, EngineHung) else Kind.SHAPE
        engine = ready.admitted.engine.name
        self._counters.add("engine_failures", engine=engine, kind=kind.value if at_once else "error")
        with self._changing:
            place = self._places[ready.precision]
            if place.ready is not ready:
                return  # another has taken its place
            if scan_id not in place.failing:
                place.failing.append(scan_id)
            if not at_once and (len(place.failing) < FAILING_SCANS or place.busy):
                return
            place.failing = []
            if at_once:
                self._quarantine().note(ready.admitted.case, kind, str(error))
                self._take_out(ready, place, f"{kind.value}: {error}")
            else:
                place.busy = True
                self._start(lambda: self._look_again(ready, str(error)))

    def close(self, patience_s: float = 30.0) -> None:
        """Waits for engines that are being made ready: a process must not end amid that."""
        deadline = time.monotonic() + patience_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _take_out(self, ready: Ready, place: _Place, why: str) -> None:
        """From the next image on it is not used; with the lock."""
        engine = ready.admitted.engine.name
        log.error("%s is taken out of service for %s: %s", engine, ready.precision, why)
        self._counters.add("engines_out_of_service", engine=engine, kind=ready.precision)
        self.quarantined(engine, ready.precision, why)
        place.ready, place.out[engine] = None, why
        self._seek(ready.precision, place, f"{engine} is out of service ({why})")

    def _look_again(self, ready: Ready, why: str) -> None:
        """Whether an engine that failed scan after scan still reproduces the golden outputs: else it is to blame for good, but
        not for a lack of memory or of its GPU."""
        reason = f"it failed {FAILING_SCANS} scans in a row, at last: {why}"
        form, engine = self._form(ready.precision), ready.admitted.engine
        sound = True
        if form is not None and self._bundle is not None:
            try:
                self._bundle.check_golden(ready.learned.golden, form, engine)
            except EdgeRuntimeError as error:
                if (kind := blamed(error, planned=True)) is not None:
                    sound = False
                    self._quarantine().note(ready.admitted.case, kind, f"{reason}; golden outputs: {error}")
        with self._changing:
            place = self._places[ready.precision]
            place.busy = False
            others = set(self._profile.engines) - set(place.out) - {engine.name}
            if sound and not others:
                log.error("%s stays in service, as no other engine is allowed, and golden outputs do not blame it: %s",
                          engine.name, reason)  # fmt: skip
                return
            self._take_out(ready, place, reason)

    def _seek(self, precision: str, place: _Place, why: str) -> None:
        """Makes another engine ready; with the lock."""
        place.busy, place.why = True, f"{precision}: {why}; the next engine is made ready"
        self._start(lambda: self._make_ready(precision, why))

    def _make_ready(self, precision: str, why: str) -> None:
        form, began = self._form(precision), time.monotonic()
        place = self._places[precision]
        made: Ready | None = None
        try:
            if form is None or self._bundle is None:
                raise EngineError("its graphs are too large to be kept for another engine: start anew")
            if not form.graphs:
                raise EngineError("no other engine is allowed")
            profile = self._profile
            admitted = admit(
                self._bundle, form, profile.engines, profile.threads, profile.compilation, self._watch, frozenset(place.out)
            )  # fmt: skip
            made = Ready(precision, admitted)
            log.warning("%s runs %s from the next image on (%.1f s)", made.engine, precision, time.monotonic() - began)
        except Exception as error:  # nobody waits for this thread: whatever it is, images say it
            log.error("no engine runs %s of the bundle any more: %s; %s", precision, why, error)
            why = f"{precision}: {why}; {error}"
        with self._changing:
            place.ready, place.busy, place.why = made, False, "" if made is not None else why

    def _form(self, precision: str) -> Form | None:
        return None if self._bundle is None else self._bundle.forms.get(precision)

    def _quarantine(self) -> Quarantine:
        return Quarantine.at(self._profile.compilation.cache)

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="engines", daemon=True)
        self._threads = [*(one for one in self._threads if one.is_alive()), thread]
        thread.start()


def less_precise(precision: str, held: Mapping[str, Form], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Forms of a bundle with fewer bits that the profile allows too, most precise first."""
    bits = BITS.get(precision, 0)
    lower = [name for name in allowed if name in held and 0 < BITS.get(name, 0) < bits]
    return tuple(sorted(lower, key=lambda name: -BITS[name]))
