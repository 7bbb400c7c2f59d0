"""The pool serves sessions in turn, and what is most urgent first."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from edge_runtime.pool import Lane, Priority, ReconstructionPool

PATIENCE_S = 30.0


class Gate:
    """A job that holds the pool's only worker until it is opened."""

    def __init__(self, lane: Lane) -> None:
        self._begun, self._open = threading.Event(), threading.Event()
        self.done = lane.submit(Priority.FINAL, self._wait)
        assert self._begun.wait(PATIENCE_S)

    def _wait(self) -> None:
        self._begun.set()
        assert self._open.wait(PATIENCE_S)

    def open(self) -> None:
        self._open.set()


@pytest.fixture
def pool() -> Iterator[ReconstructionPool]:
    pool = ReconstructionPool(workers=1, depth=4)
    yield pool
    pool.close()


def test_a_session_with_a_backlog_holds_up_another_by_one_job(pool: ReconstructionPool) -> None:
    long, short = pool.lane(), pool.lane()
    gate, order = Gate(long), []
    for number in range(4):
        long.submit(Priority.FINAL, lambda number=number: order.append(f"long {number}"))
    ends = [short.submit(Priority.FINAL, lambda number=number: order.append(f"short {number}")) for number in range(2)]
    gate.open()
    for end in ends:
        end.result(PATIENCE_S)
    assert order.index("short 0") <= 1 and order.index("short 1") <= 3
    assert [name for name in order if name.startswith("short")] == ["short 0", "short 1"]


def test_finals_come_before_previews_of_every_session(pool: ReconstructionPool) -> None:
    first, second = pool.lane(), pool.lane()
    gate, order = Gate(first), []
    ends = [
        lane.submit(priority, lambda name=name: order.append(name))
        for lane, priority, name in (
            (first, Priority.PREVIEW, "preview"),
            (second, Priority.CALIBRATION, "calibration"),
            (first, Priority.FINAL, "final"),
            (second, Priority.FINAL, "another final"),
        )
    ]
    gate.open()
    for end in ends:
        end.result(PATIENCE_S)
    assert set(order[:2]) == {"final", "another final"} and order[2:] == ["calibration", "preview"]


def test_a_full_lane_takes_no_offer_and_another_still_does(pool: ReconstructionPool) -> None:
    full, other = pool.lane(), pool.lane()
    gate = Gate(full)
    taken = [full.offer(Priority.PREVIEW, lambda: None) for _ in range(6)]
    assert [job is not None for job in taken] == [True] * 4 + [False] * 2
    assert not full.has_room() and other.has_room()
    assert other.offer(Priority.PREVIEW, lambda: None) is not None
    gate.open()


def test_a_job_waits_until_its_lane_has_room(pool: ReconstructionPool) -> None:
    lane = pool.lane()
    gate, done = Gate(lane), []

    def fill() -> None:
        for number in range(6):
            lane.submit(Priority.FINAL, lambda number=number: done.append(number))

    thread = threading.Thread(target=fill)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and not done
    gate.open()
    thread.join(PATIENCE_S)
    pool.close()
    assert done == list(range(6))


def test_what_a_job_raises_is_handed_to_whoever_waits_and_the_worker_goes_on(pool: ReconstructionPool) -> None:
    lane = pool.lane()

    def fails() -> None:
        raise RuntimeError("broken")

    failed, after = lane.submit(Priority.FINAL, fails), lane.submit(Priority.FINAL, lambda: None)
    with pytest.raises(RuntimeError, match="broken"):
        failed.result(PATIENCE_S)
    after.result(PATIENCE_S)
