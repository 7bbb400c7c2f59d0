"""How long to wait before the next attempt."""

from __future__ import annotations

import random

MOST_DOUBLINGS = 30


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
