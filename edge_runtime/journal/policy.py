"""What a site wants of its journal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class JournalPolicy:
    """The attributes are the keys of a profile's table ``journal``, each optional.

    Attributes:
        interval_ms: that readouts gather before they go to disk together; less wears flash, more is lost by a power cut. Nobody
            waits for it at a scan's end.
        grace_s: how long a scan whose scanner asked for durability waits for it to come back, before it is closed as incomplete.
        patience_s: how long the disk may take nothing before the scan goes on without it.
        required: a scan that can't be journalled is refused, where it would otherwise go on and say so.
        retention_h: for which closed scans are kept.
        most_mb: that they may take together; the oldest go first.
        leave_free_mb: of the disk.
    """

    interval_ms: float = 100.0
    grace_s: float = 120.0
    patience_s: float = 5.0
    required: bool = False
    retention_h: float = 72.0
    most_mb: int = 20_000
    leave_free_mb: int = 1_000

    @property
    def interval_s(self) -> float:
        """As `interval_ms`."""
        return self.interval_ms / 1000
