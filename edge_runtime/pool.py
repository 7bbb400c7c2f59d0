"""A bounded pool that reconstructs: finals before previews, and a full queue makes the submitter wait or go without."""

from __future__ import annotations

import enum
import itertools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Priority(enum.IntEnum):
    """Lower runs first."""

    FINAL = 0
    CALIBRATION = 1
    PREVIEW = 2
    STOP = 3


class ReconstructionPool:
    """Worker threads over a priority queue.

    Args:
        workers: jobs that run at the same time.
        depth: jobs that may wait.
    """

    def __init__(self, workers: int, depth: int) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = queue.PriorityQueue(depth)
        self._order = itertools.count()
        self._threads = [
            threading.Thread(target=self._work, name=f"reconstruct-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def has_room(self) -> bool:
        """Whether `offer` would take a job now; ask before anything is copied for one."""
        return not self._queue.full()

    def submit(self, priority: Priority, job: Callable[[], None]) -> Future[None]:
        """Queues a job, waiting while the queue is full: the wait is the backpressure that reaches the scanner."""
        future: Future[None] = Future()
        self._queue.put((priority, next(self._order), lambda: _run(job, future)))
        return future

    def offer(self, priority: Priority, job: Callable[[], None]) -> Future[None] | None:
        """Queues a job if there is room; ``None`` if there is not."""
        future: Future[None] = Future()
        try:
            self._queue.put_nowait((priority, next(self._order), lambda: _run(job, future)))
        except queue.Full:
            return None
        return future

    def close(self) -> None:
        """Finishes what is queued and ends the threads."""
        for _ in self._threads:
            self._queue.put((Priority.STOP, next(self._order), _stop))
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            _, _, job = self._queue.get()
            if job is _stop:
                return
            job()


def _stop() -> None:
    """Ends a worker; never called."""


def _run(job: Callable[[], None], future: Future[None]) -> None:
    try:
        job()
    except BaseException as error:  # handed to whoever waits for the job
        future.set_exception(error)
    else:
        future.set_result(None)
