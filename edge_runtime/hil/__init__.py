"""Hardware in the loop: a recorded scan played to a server as the scanner would have sent it, and the bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_runtime.hil.plan import Order, reordered, undersampled
    from edge_runtime.hil.player import PlaybackError, PlayResult, play

__all__ = ["Order", "PlayResult", "PlaybackError", "play", "reordered", "undersampled"]


def __getattr__(name: str) -> Any:
    """The player only where it is asked for: the bench's scanners load none of the runtime's code."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edge_runtime.hil import plan, player

    return getattr(plan if hasattr(plan, name) else player, name)
