"""Hardware in the loop: a recorded scan played to a server as the scanner would have sent it."""

from edge_runtime.hil.plan import Order, reordered, undersampled
from edge_runtime.hil.player import PlaybackError, PlayResult, play

__all__ = ["Order", "PlayResult", "PlaybackError", "play", "reordered", "undersampled"]
