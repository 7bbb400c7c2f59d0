"""The memory that all scans of a process share."""

from __future__ import annotations

import ctypes
import threading

from edge_runtime.errors import BudgetExceeded


class MemoryBudget:
    """Counts what scans reserve before they allocate it, each through a `Reservation`. From any thread.

    Args:
        total_bytes: what they may take together.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self._reserved_bytes = 0
        self._counting = threading.Lock()

    @property
    def free_bytes(self) -> int:
        """What nobody has reserved."""
        return self.total_bytes - self._reserved_bytes

    @property
    def reserved_bytes(self) -> int:
        """What scans hold."""
        return self._reserved_bytes

    def take(self, more_bytes: int, leaving_bytes: int = 0) -> bool:
        """Reserves, where so much is free and some is left; a negative number gives back."""
        with self._counting:
            if more_bytes > 0 and more_bytes + leaving_bytes > self.free_bytes:
                return False
            self._reserved_bytes += more_bytes
            return True


class Reservation:
    """What one scan holds of the budget for one purpose; it follows the need. For one thread."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def resize(self, needed_bytes: int, leaving_bytes: int = 0) -> bool:
        """Holds what is needed from here on, be it more or less than before; false, and as before, where the budget has no more.

        Args:
            leaving_bytes: that must stay free for other scans where it is more.
        """
        if not self._budget.take(needed_bytes - self._held_bytes, leaving_bytes):
            return False
        self._held_bytes = needed_bytes
        return True

    def require(self, needed_bytes: int) -> None:
        """As `resize`, for what a scan can't go on without.

        Raises:
            BudgetExceeded: names what is needed and what is free.
        """
        if not self.resize(needed_bytes):
            raise BudgetExceeded(
                "memory of a scan",
                f"{_whole_mb(needed_bytes)} MB",
                f"{(self._budget.free_bytes + self._held_bytes) >> 20} of the profile's {self._budget.total_bytes >> 20} MB "
                "are free; send it again when another scan has ended, or raise memory.total_mb",
            )

    def release(self) -> None:
        """Gives everything back."""
        self.resize(0)


def return_unused() -> None:
    """Gives freed memory back to the system, which the C library would keep for the next scan; where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _whole_mb(size_bytes: int) -> int:
    return -(-size_bytes >> 20)
