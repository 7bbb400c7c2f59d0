"""How much is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Extent:
    """Slices as trained for, cases of every other kind, and the seed they are drawn from."""

    draws: int = 12
    off_draws: int = 4
    seed: int = 20261126
