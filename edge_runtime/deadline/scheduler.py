"""What a session asks before it makes an image: with how much work, and why with less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.counters import Counters
from edge_runtime.deadline.heat import Heat, HeatWatch
from edge_runtime.deadline.policy import CLASSICAL, Deadlines, Thermal
from edge_runtime.deadline.steps import Standing, Step, in_time, kind_of, settled, share_of
from edge_runtime.deadline.times import Size, Times

MOST_HEAT_LEVELS = 8
"""More than any bundle has steps."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How an image is made.

    Attributes:
        step: that is taken.
        standing: of the scan from now on.
        kind: what gave way most, see `edge_runtime.deadline.policy.KINDS`; empty for all of the work.
        cause: ``deadline``, ``heat`` or ``engine``; empty for all of the work.
        degraded: what gave way and why, in plain words; empty for all of the work.
        predicted_s: of the step; ``None`` where nothing was known.
    """

    step: Step
    standing: Standing
    kind: str = ""
    cause: str = ""
    degraded: str = ""
    predicted_s: float | None = None


class Scheduler:
    """Of one process; from any thread.

    Args:
        machine: root of ``/sys`` and the like.
    """

    def __init__(self, deadlines: Deadlines, thermal: Thermal, counters: Counters, machine: Path = Path("/")) -> None:
        self.deadlines = deadlines
        self.times = Times()
        self._counters = counters
        self._watch = HeatWatch(thermal, counters, MOST_HEAT_LEVELS, self.times.forget, machine)

    def start(self) -> None:
        """Begins to watch the heat."""
        self._watch.start()

    def stop(self) -> None:
        """Ends that."""
        self._watch.stop()

    @property
    def heat(self) -> Heat:
        """How far heat lowers the work just now."""
        return self._watch.heat

    def look(self) -> None:
        """Reads the sensors now, beside the usual rate."""
        self._watch.look()

    def previews(self) -> bool:
        """Whether there is work to spare for previews."""
        return self.heat.level == 0

    def decide(
        self, steps: Sequence[Step], size: Size, age_s: float, waiting: int, standing: Standing, *, final: bool
    ) -> Decision:
        """The most work that is in time and that the heat lets.

        Args:
            steps: of the model, from all of the work on; one at least.
            age_s: since the slice's last readout.
            waiting: final images that wait behind this one.
            final: the deadline is for final images; a preview has none.
        """
        heat, image_s = self.heat, self.deadlines.image_s
        floor = min(heat.floor, len(steps) - 1)
        predicted_s = self.times.predicted(size, steps)
        if image_s is None or not final:
            return self._decision(steps, floor, floor, Standing(), predicted_s, heat)
        left_s = share_of(image_s - age_s, waiting)
        wanted = in_time(predicted_s, left_s, floor)
        settled_at = settled(standing, wanted)
        # Passed over for what it takes, not for what others took before: waiting tells nothing of a step.
        if wanted > floor and age_s <= image_s / 2 and (predicted_s[wanted - 1] or 0.0) > image_s - age_s:
            self.times.passed_over(size, steps[wanted - 1])
        return self._decision(steps, settled_at.index, floor, settled_at, predicted_s, heat, left_s, wanted)

    def _decision(
        self,
        steps: Sequence[Step],
        index: int,
        floor: int,
        standing: Standing,
        predicted_s: Sequence[float | None],
        heat: Heat,
        left_s: float = 0.0,
        wanted: int | None = None,
    ) -> Decision:
        step = steps[index]
        kind = kind_of(step, steps[0])
        if not kind:
            return Decision(step, standing, predicted_s=predicted_s[index])
        if index > floor:
            cause, most = "deadline", predicted_s[0]
            if wanted is not None and wanted < index:
                why = "as slices of this scan before it would have been late"
                return Decision(step, standing, kind, cause, f"{what(step, steps[0])}, {why}", predicted_s[index])
            left = f"{1000 * max(0.0, left_s):.0f} ms were left"
            of = left if most is None else f"{left}, all of the work was to take {1000 * most:.0f}"
            why = f"to be ready {self.deadlines.image_ms:.0f} ms after the last readout: {of}"
        else:
            cause, why = "heat", f"since the device is hot ({heat.why})" if heat.why else "since the device was hot"
        return Decision(step, standing, kind, cause, f"{what(step, steps[0])} {why}", predicted_s[index])

    def took(self, size: Size, step: Step, seconds: float, *, in_time: bool) -> None:
        """Notes what a step took."""
        self.times.took(size, step, seconds, in_time=in_time)


def what(step: Step, full: Step) -> str:
    """What gave way, in plain words."""
    if not step.learned:
        return "no learned image"
    parts = []
    if step.precision != full.precision:
        parts.append(f"{step.precision} in place of {full.precision}")
    if step.iterations != full.iterations:
        parts.append(f"{step.iterations} of {full.iterations} iterations of the network")
    return ", ".join(parts)


def without_engine(steps: Sequence[Step], standing: Standing, why: str) -> Decision:
    """That no engine can make a learned image just now."""
    return Decision(Step("", 0), standing, CLASSICAL, "engine", f"{what(Step('', 0), steps[0])}: {why}")
