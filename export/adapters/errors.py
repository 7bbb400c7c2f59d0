"""What an import says no with."""

from __future__ import annotations

from edge_runtime.errors import EdgeRuntimeError


class ImportRefused(EdgeRuntimeError):
    """A model that can't be taken over, or whose split program departs from it; names the thing, the value and the mend."""
