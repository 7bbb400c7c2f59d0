"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass

MOST_DOUBLINGS = 30

_DRAW = random.Random()


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an object is tried, and how long it waits in between.

    Attributes:
        attempts: after so many failures of its own it is dead.
        first_s, longest_s: see `delay_s`.
    """

    attempts: int
    first_s: float = 0.0
    longest_s: float = 0.0

    def wait_s(self, failures: int) -> float:
        """After so many failures, from 1."""
        return delay_s(failures, self.first_s, self.longest_s, _DRAW)


def delay_s(failures: int, first_s: float, longest_s: float, draw: random.Random) -> float:
    """Exponential back-off with jitter: devices that lost the same PACS at the same time do not come back all at once.

    Args:
        failures: in a row, from 1.
        first_s: the most after the first one, doubled with each.
        longest_s: at most.

    Returns:
        Between half of the doubled time and all of it.
    """
    whole = min(longest_s, first_s * 2.0 ** min(failures - 1, MOST_DOUBLINGS))
    return whole * draw.uniform(0.5, 1.0)
