"""The memory that all scans of a process share."""

from __future__ import annotations

import threading

from edge_runtime.errors import BudgetExceeded


class MemoryBudget:
    """Counts what scans reserve before they allocate it. From any thread.

    Args:
        total_bytes: what they may take together.
    """

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._reserved_bytes = 0
        self._counting = threading.Lock()

    def reserve(self, needed_bytes: int) -> None:
        """
        Raises:
            BudgetExceeded: what is needed is more than what is free; names both.
        """
        with self._counting:
            free = self._total_bytes - self._reserved_bytes
            if needed_bytes > free:
                raise BudgetExceeded(
                    "memory of a scan",
                    f"{needed_bytes >> 20} MB",
                    f"{free >> 20} of the profile's {self._total_bytes >> 20} MB are free; "
                    "send it again when another scan has ended, or raise memory.total_mb",
                )
            self._reserved_bytes += needed_bytes

    def release(self, reserved_bytes: int) -> None:
        """Gives back what was reserved."""
        with self._counting:
            self._reserved_bytes -= reserved_bytes
