"""How long steps took on this device, by the size of the slice, and what that foretells."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge_runtime.deadline.steps import Step

Size = tuple[int, int, int]
"""Coils, phase encodes and columns of a slice."""

KEPT = 32
"""Latest measurements of each step."""

QUANTILE = 0.9
MOST_SIZES = 64

FIRST_TRIAL, RAREST_TRIAL = 8, 512
"""A step that was passed over for so many slices is tried again, at first and at most: what it took may no longer be so."""


@dataclass
class _Measured:
    """What is known of one step at one size.

    Attributes:
        passed_over: slices since it was last measured for which the next lower step was taken.
        trial_after: how many of them until it is tried again.
    """

    seconds: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    passed_over: int = 0
    trial_after: int = FIRST_TRIAL


class Times:
    """Running quantiles; from any thread, bounded."""

    def __init__(self) -> None:
        self._sizes: OrderedDict[Size, dict[Step, _Measured]] = OrderedDict()
        self._using = threading.Lock()

    def took(self, size: Size, step: Step, seconds: float, *, in_time: bool) -> None:
        """Notes what a step took, and whether its image was in time."""
        with self._using:
            measured = self._measured(size, step)
            measured.seconds.append(seconds)
            measured.passed_over = 0
            if in_time:
                measured.trial_after = FIRST_TRIAL

    def passed_over(self, size: Size, step: Step) -> None:
        """Notes that a step would have been too late, by what is known; after a while, and then more rarely, that is forgotten."""
        with self._using:
            measured = self._measured(size, step)
            measured.passed_over += 1
            if measured.passed_over >= measured.trial_after:
                measured.seconds.clear()
                measured.passed_over, measured.trial_after = 0, min(RAREST_TRIAL, 2 * measured.trial_after)

    def predicted(self, size: Size, steps: Sequence[Step]) -> tuple[float | None, ...]:
        """Seconds of every step; ``None`` where nothing is known that could tell."""
        with self._using:
            known = {
                step: quantile(measured.seconds)
                for step, measured in self._sizes.get(size, {}).items()
                if measured.seconds
            }
        return tuple(foretold(step, known) for step in steps)

    def forget(self) -> None:
        """Everything: the device is not what it was."""
        with self._using:
            self._sizes.clear()

    def _measured(self, size: Size, step: Step) -> _Measured:
        found = self._sizes.setdefault(size, {})
        self._sizes.move_to_end(size)
        if len(self._sizes) > MOST_SIZES:
            self._sizes.popitem(last=False)
        return found.setdefault(step, _Measured())


def quantile(seconds: Sequence[float] | deque[float]) -> float:
    """The running quantile of what was measured last, from the nearest rank."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(QUANTILE * len(ordered)))]


def foretold(step: Step, known: Mapping[Step, float]) -> float | None:
    """Seconds of a step: as measured, or by its iterations from one of the same precision; ``None`` where neither is there.

    Args:
        known: measured seconds. What the classical image takes stands for the part that does not depend on the iterations.
    """
    if step in known or not step.learned:
        return known.get(step)
    alike = [one for one in known if one.precision == step.precision and one.learned]
    if not alike:
        return None
    nearest = min(alike, key=lambda one: (abs(one.iterations - step.iterations), one.iterations))
    beside = min((seconds for one, seconds in known.items() if not one.learned), default=0.0)
    beside = min(beside, known[nearest])
    return beside + (known[nearest] - beside) * step.iterations / nearest.iterations
