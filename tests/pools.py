"""A pool whose work is done when a test says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from edge_runtime.pool import Priority


class Pool:
    """Does finals at once, and what may wait when `work` is called."""

    def __init__(self) -> None:
        self.room = True
        self._offered: deque[tuple[Callable[[], None], Future[None]]] = deque()

    def lane(self) -> Pool:
        return self

    def has_room(self) -> bool:
        return self.room

    def finals_waiting(self) -> int:
        return 0

    def submit(self, priority: Priority, job: Callable[[], None]) -> Future[None]:
        future: Future[None] = Future()
        _do(job, future)
        return future

    def offer(self, priority: Priority, job: Callable[[], None]) -> Future[None] | None:
        if not self.room:
            return None
        future: Future[None] = Future()
        self._offered.append((job, future))
        return future

    def work(self) -> None:
        while self._offered:
            _do(*self._offered.popleft())


def _do(job: Callable[[], None], future: Future[None]) -> None:
    try:
        job()
    except Exception as error:
        future.set_exception(error)
    else:
        future.set_result(None)
