"""What an import says no with."""

from __future__ import annotations

from edge_runtime.errors import EdgeRuntimeError


class TraceFixed(UserWarning):
    """A network's code decides by a tensor's values or size, and its graph keeps what was decided while it was traced; names stage,
    file and line."""


class ImportRefused(EdgeRuntimeError):
    """A model that can't be taken over, or whose split program departs from it; names the thing, the value and the mend."""
