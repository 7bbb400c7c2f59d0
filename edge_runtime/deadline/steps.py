"""Steps of less and less work for an image, and which of them is taken: functions of plain values alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_runtime.deadline.policy import CLASSICAL, ITERATIONS, PRECISION

CALM_SLICES = 4
"""Of a scan, for which more work would have been in time, before one step more is taken."""


@dataclass(frozen=True, slots=True)
class Step:
    """How an image is made.

    Attributes:
        precision: of the form; empty for the classical image alone.
        iterations: that the network runs, 0 for the classical image alone.
    """

    precision: str
    iterations: int

    @property
    def learned(self) -> bool:
        """Whether there is a learned image."""
        return self.iterations > 0


CLASSICAL_ONLY = Step("", 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a scan is on its steps, so that adjacent slices do not differ more than they must.

    Attributes:
        index: of the step that the latest slice was made with.
        calm: how many slices since could have had more.
    """

    index: int = 0
    calm: int = 0


def steps_of(precisions: Sequence[str], iterations: int, fewest: int, kinds: Sequence[str]) -> tuple[Step, ...]:
    """Every step from all of the work to the least; each lowers the one before.

    Args:
        precisions: of forms that may run, most precise first; the first is what runs where there is time.
        iterations, fewest: of the network, and how few are permitted.
        kinds: what may give way, in this order.
    """
    steps = [Step(precisions[0], iterations)]
    for kind in kinds:
        last = steps[-1]
        if kind == PRECISION:
            steps += [Step(lower, last.iterations) for lower in precisions[1:]]
        elif kind == ITERATIONS:
            steps += [Step(last.precision, count) for count in range(iterations - 1, max(fewest, 1) - 1, -1)]
        elif kind == CLASSICAL:
            steps.append(CLASSICAL_ONLY)
            break
    return tuple(steps)


def kind_of(step: Step, full: Step) -> str:
    """What gave way most; empty for all of the work."""
    if not step.learned:
        return CLASSICAL
    if step.iterations < full.iterations:
        return ITERATIONS
    return PRECISION if step.precision != full.precision else ""


def in_time(predicted_s: Sequence[float | None], left_s: float, floor: int = 0) -> int:
    """Index of the first step from a floor on that is ready in the time that is left; the last where none is.

    Args:
        predicted_s: of every step; one of which nothing is known is tried while there is time at all.
    """
    for index in range(floor, len(predicted_s)):
        if (predicted_s[index] or 0.0) <= left_s:
            return index
    return len(predicted_s) - 1


def settled(standing: Standing, wanted: int) -> Standing:
    """Less work at once, more of it one step at a time, and only when it would have been in time for a while."""
    if wanted >= standing.index:
        return Standing(wanted)
    if standing.calm + 1 < CALM_SLICES:
        return Standing(standing.index, standing.calm + 1)
    return Standing(standing.index - 1)


def share_of(left_s: float, waiting: int) -> float:
    """What a slice may take of the time that is left to it when others wait behind it, whose deadlines run too."""
    return left_s if left_s <= 0 else left_s / (1 + max(0, waiting))
