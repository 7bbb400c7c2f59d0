"""What a destination must be able to do, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

from edge_runtime.delivery.outbox.store import Delivery, Outcome

Settle = Callable[[Delivery, Outcome], None]
"""Told what became of an object; called once for each that was taken from the iterator."""


class Courier(Protocol):
    """Takes objects to one destination."""

    def send(self, objects: Iterator[Delivery], kinds: Collection[tuple[str, str]], settle: Settle) -> None:
        """Sends objects in their order over one connection, until there are no more.

        Args:
            objects: that have files; each is taken when it is about to be sent.
            kinds: SOP Class and Transfer Syntax UIDs of all that may come.

        Raises:
            Unreachable: the connection could not be made, or broke; what was taken before is settled.
            NotAdmitted: likewise, and the destination said that it does not want this device.
        """

    def confirm(self, objects: Sequence[Delivery]) -> dict[int, bool]:
        """Asks whether objects that were sent are kept.

        Returns:
            By delivery: there, or not there. What is missing in it is not known yet, or is told later.

        Raises:
            Unreachable, NotAdmitted: it could not be asked.
        """
