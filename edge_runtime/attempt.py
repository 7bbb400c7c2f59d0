"""One image being made: with which form and engine, with how much work, and what became of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_runtime.deadline.scheduler import Decision, what, without_engine
from edge_runtime.deadline.steps import CLASSICAL_ONLY, Standing, Step, kind_of
from edge_runtime.deadline.times import Size
from edge_runtime.lineup import Ready
from edge_runtime.modalities.mri.proposal import Learned
from edge_runtime.scan import Method, Provenance

if TYPE_CHECKING:
    from edge_runtime.runtime import Model, Runtime


class Attempts:
    """Those of one scan.

    Args:
        model: makes the learned images; ``None`` where none are wanted.
    """

    def __init__(self, runtime: Runtime, model: Model | None, scan_id: str) -> None:
        self._runtime, self._scan_id, self._model = runtime, scan_id, model
        self._standing = Standing()

    def begin(self, size: Size, age_s: float, waiting: int, *, final: bool) -> Attempt:
        """Decides how the next image of a slice is made.

        Args:
            age_s: since its last readout.
            waiting: final images that wait behind it.
            final: false for a preview.
        """
        if self._model is None:
            return Attempt(self._runtime, None, self._scan_id, size, None, None, final=final)
        steps = self._model.lineup.steps
        decision = self._runtime.scheduler.decide(steps, size, age_s, waiting, self._standing, final=final)
        if final:
            self._standing = decision.standing
        decision, ready = self._with_engine(steps, decision)
        return Attempt(self._runtime, self._model, self._scan_id, size, decision, ready, final=final)

    def _with_engine(self, steps: tuple[Step, ...], decision: Decision) -> tuple[Decision, Ready | None]:
        """The step that was decided on, or the next one whose form an engine runs."""
        assert self._model is not None
        why = ""
        for step in steps[steps.index(decision.step) :] if decision.step.learned else ():
            if not step.learned:
                break
            ready, lacking = self._model.lineup.ready(step.precision)
            if ready is None:
                why = why or lacking
                continue
            if step != decision.step:
                kind, degraded = kind_of(step, steps[0]), f"{what(step, steps[0])}: {why}"
                decision = replace(decision, step=step, kind=kind, cause="engine", degraded=degraded, predicted_s=None)
            return decision, ready
        if not decision.step.learned:
            return decision, None
        return without_engine(steps, decision.standing, why), None


class Attempt:
    """See the module's text. For one thread.

    Attributes:
        learned: what makes the learned image; ``None`` where there is none to be made.
        degraded: in which steps less work goes into the images, and why; empty where all of it does.
        step: the kind of the step, in a word; ``failed`` where the network did.
    """

    def __init__(
        self,
        runtime: Runtime,
        model: Model | None,
        scan_id: str,
        size: Size,
        decision: Decision | None,
        ready: Ready | None,
        *,
        final: bool,
    ) -> None:
        self._runtime, self._scan_id, self._size, self._final = runtime, scan_id, size, final
        self._model, self._decision, self._ready = model, decision, ready
        self._lineup = model.lineup if model is not None else None
        self._began = time.monotonic()
        self._judged = False
        self.degraded = decision.degraded if decision is not None else ""
        self.step = decision.kind if decision is not None else ""
        self.learned: Learned | None = ready.of(decision.step) if ready is not None and decision is not None else None
        if decision is not None and decision.kind and final:
            runtime.counters.add("degraded", step=decision.kind, cause=decision.cause)

    @property
    def notes(self) -> tuple[str, ...]:
        """Of the images that come from now on."""
        return (f"less work than usual: {self.degraded}",) if self.degraded else ()

    def provenance(self, method: Method) -> Provenance:
        """What made an image."""
        model = self._model if method is Method.LEARNED else None
        return self._runtime.provenance(model, self._ready, self.degraded)

    def made(self, method: Method, age_s: float) -> None:
        """An image is ready; what it took is remembered.

        Args:
            age_s: since the slice's last readout.
        """
        now = time.monotonic()
        took_s, self._began = now - self._began, now
        if self._decision is None or method is Method.ZERO_FILLED:
            return
        step = self._decision.step if method is Method.LEARNED else CLASSICAL_ONLY
        image_s = self._runtime.scheduler.deadlines.image_s
        if self._final:
            self._runtime.scheduler.took(self._size, step, took_s, in_time=image_s is None or age_s <= image_s)
        if method is Method.LEARNED and self._ready is not None and self._lineup is not None:
            self._lineup.succeeded(self._ready)

    def failed(self, error: Exception) -> None:
        """There is no learned image, and the others will say why."""
        self.degraded, self.step = f"no learned image: {type(error).__name__}: {error}", "failed"
        self._began = time.monotonic()  # the classical image is not to blame for what was waited
        if self._ready is not None and self._lineup is not None:
            self._lineup.failed(self._ready, self._scan_id, error)

    def judged(self, latency_s: float, stages_s: Mapping[str, float]) -> dict[str, Any] | None:
        """Whether an image was in time, and which of its stages took more than their share; ``None`` where there is no deadline.

        Args:
            latency_s: since the slice's last readout.
        """
        deadlines, counters = self._runtime.scheduler.deadlines, self._runtime.counters
        if deadlines.image_ms is None or not self._final:
            return None
        over_ms: dict[str, float] = {}
        for stage, seconds in stages_s.items():
            budget_s = deadlines.budget_s(stage)
            if budget_s is not None and seconds > budget_s:
                over_ms[stage] = round(1000 * (seconds - budget_s), 1)
                counters.add("stages_over_budget", stage=stage)
        first, self._judged = not self._judged, True
        met = 1000 * latency_s <= deadlines.image_ms
        if first:
            counters.add("deadline_images", outcome="met" if met else "missed")
        predicted_s = self._decision.predicted_s if self._decision is not None else None
        return {
            "image_ms": deadlines.image_ms,
            "met": met if first else None,
            "predicted_ms": None if predicted_s is None else round(1000 * predicted_s, 1),
            "over_ms": over_ms,
        }
