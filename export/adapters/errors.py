"""What an import says no with."""

from __future__ import annotations

from edge_runtime.errors import EdgeRuntimeError


class TraceFixed(UserWarning):
    """A network's code decides by a tensor's values or size, and its graph keeps what was decided while it was traced.

    Args:
        place: file and line.
        reason: the tracer's.
    """

    def __init__(self, stage: str, place: str, reason: str) -> None:
        super().__init__(
            f"{stage}: {place}: what hangs on a tensor's values or size there is fixed in the graph ({reason})"
        )
        self.place = place


class ImportRefused(EdgeRuntimeError):
    """A model that can't be taken over, or whose split program departs from it; names the thing, the value and the mend."""
