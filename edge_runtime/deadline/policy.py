"""What a hardware profile says of deadlines and heat; plain values, which the profile checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ITERATIONS, PRECISION, CLASSICAL = "iterations", "precision", "classical"

KINDS = (PRECISION, ITERATIONS, CLASSICAL)
"""What may give way, in the order in which it does where a profile says nothing else: a form that is qualified loses least."""

STAGES = ("queued", "calibration", "learned", "classical")
"""Stages of a report that have a share of an image's time (docs/report.md)."""

USUAL_SHARES: Mapping[str, float] = {"queued": 0.15, "calibration": 0.15, "learned": 0.5, "classical": 0.2}


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The table ``deadlines`` of a profile; every key is optional.

    Attributes:
        image_ms: from a slice's last readout to its first image; ``None`` for no deadline.
        grace_s: for how much longer one run of a graph is waited for before the engine is taken for hung.
        steps: what may give way, in this order; nothing else does.
        shares: of ``image_ms``, by stage.
        fewest_iterations: that images may be made with, by name and version of a bundle that does not say so itself.
    """

    image_ms: float | None = None
    grace_s: float = 30.0
    steps: tuple[str, ...] = KINDS
    shares: Mapping[str, float] = field(default_factory=lambda: dict(USUAL_SHARES))
    fewest_iterations: Mapping[str, int] = field(default_factory=dict)

    @property
    def image_s(self) -> float | None:
        """Of an image, in seconds."""
        return None if self.image_ms is None else self.image_ms / 1000

    @property
    def patience_s(self) -> float:
        """How long one run of a graph may take."""
        return (self.image_s or 0.0) + self.grace_s

    def budget_s(self, stage: str) -> float | None:
        """Of a stage; ``None`` where it has none."""
        share = self.shares.get(stage)
        return None if self.image_s is None or share is None else share * self.image_s


@dataclass(frozen=True, slots=True)
class Thermal:
    """The table ``thermal`` of a profile; every key is optional.

    Attributes:
        lower_at_c: degrees Celsius of the hottest sensor from which work is lowered, step by step.
        recover_at_c: at which it is raised again, step by step.
        throttles_c: at which the hardware slows itself down: the next step comes at once.
        poll_s: how often is looked.
        hold_s, cool_s: between two steps down, and between two up.
    """

    lower_at_c: float = 90.0
    recover_at_c: float = 83.0
    throttles_c: float = 95.0
    poll_s: float = 5.0
    hold_s: float = 15.0
    cool_s: float = 60.0
