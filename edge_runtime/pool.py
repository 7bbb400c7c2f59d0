"""A bounded pool that reconstructs: finals before previews, sessions in turn; whose lane is full waits or goes without."""

from __future__ import annotations

import enum
import heapq
import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future

from edge_runtime.service.heart import Heart, a_job


class Priority(enum.IntEnum):
    """Lower runs first."""

    FINAL = 0
    CALIBRATION = 1
    STEP = 2
    PREVIEW = 3


class ReconstructionPool:
    """Worker threads that serve lanes, one a session.

    Of all lanes those with the most urgent job come first, and of those the one that was served longest ago: a session with a long
    backlog holds up another by one job, not by its backlog.

    Args:
        workers: jobs that run at the same time.
        depth: jobs of one lane that may wait.
        heart: where the threads show that they go on.
    """

    def __init__(self, workers: int, depth: int, heart: Heart | None = None) -> None:
        self.depth = depth
        self._changed = threading.Condition()
        self._lanes: set[Lane] = set()
        self._turns = itertools.count()
        self._closing = False
        self._heart = heart or Heart()
        self._threads = [
            threading.Thread(target=self._work, name=f"reconstruct-{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def lane(self) -> Lane:
        """A lane of its own for a session."""
        return Lane(self)

    def finals_waiting(self) -> int:
        """Final images of all lanes that wait, for each worker."""
        with self._changed:
            waiting = sum(job[0] == Priority.FINAL for lane in self._lanes for job in lane.waiting)
        return -(-waiting // len(self._threads))

    def close(self) -> None:
        """Finishes what is queued and ends the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def jobs_waiting(self) -> int:
        """Of all lanes."""
        with self._changed:
            return sum(len(lane.waiting) for lane in self._lanes)

    def _work(self) -> None:
        pulse = self._heart.pulse(threading.current_thread().name, works=True)
        try:
            while (job := self._next()) is not None:
                with a_job(pulse):
                    job()
        finally:
            pulse.end()

    def _next(self) -> Callable[[], None] | None:
        """The job whose turn it is; waits for one, and returns ``None`` when the pool has closed and none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._lanes or self._closing)
            if not self._lanes:
                return None
            lane = min(self._lanes, key=lambda lane: (lane.waiting[0][0], lane.turn))
            job = heapq.heappop(lane.waiting)[2]
            lane.turn = next(self._turns)
            if not lane.waiting:
                self._lanes.discard(lane)
            self._changed.notify_all()
            return job

    def _put(self, lane: Lane, priority: Priority, job: Callable[[], None], *, wait: bool) -> Future[None] | None:
        future: Future[None] = Future()
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: len(lane.waiting) < self.depth)
            elif len(lane.waiting) >= self.depth:
                return None
            heapq.heappush(lane.waiting, (priority, next(self._turns), lambda: _run(job, future)))
            self._lanes.add(lane)
            self._changed.notify_all()
        return future


class Lane:
    """The jobs of one session.

    Attributes:
        waiting: heap of priority, order and job; the pool's, under its lock.
        turn: when the lane was last served.
    """

    def __init__(self, pool: ReconstructionPool) -> None:
        self._pool = pool
        self.waiting: list[tuple[int, int, Callable[[], None]]] = []
        self.turn = -1

    def finals_waiting(self) -> int:
        """Final images of all lanes that wait, for each worker."""
        return self._pool.finals_waiting()

    def has_room(self) -> bool:
        """Whether `offer` would take a job now; ask before anything is copied for one."""
        return len(self.waiting) < self._pool.depth

    def submit(self, priority: Priority, job: Callable[[], None]) -> Future[None]:
        """Queues a job, waiting while the lane is full: the wait is the backpressure that reaches the scanner."""
        future = self._pool._put(self, priority, job, wait=True)
        assert future is not None
        return future

    def offer(self, priority: Priority, job: Callable[[], None]) -> Future[None] | None:
        """Queues a job if there is room; ``None`` if there is not."""
        return self._pool._put(self, priority, job, wait=False)


def _run(job: Callable[[], None], future: Future[None]) -> None:
    try:
        job()
    except BaseException as error:  # handed to whoever waits for the job
        future.set_exception(error)
    else:
        future.set_result(None)
