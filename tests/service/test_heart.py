"""Who must make progress, and who is excused."""

from __future__ import annotations

import threading

import pytest
from conftest import PATIENCE_S

from edge_runtime.pool import Priority, ReconstructionPool
from edge_runtime.service.heart import Heart, Pulse, progress


def long_ago(pulse: Pulse) -> Pulse:
    """The pulse, as if its last beat were an hour ago."""
    pulse.last_beat_s -= 3600
    return pulse


def names(heart: Heart) -> list[str]:
    return [one.name for one in heart.stuck()]


def test_what_rests_need_not_beat():
    heart = Heart()
    long_ago(heart.pulse("worker"))
    assert names(heart) == []


def test_what_works_without_progress_is_stuck_and_a_beat_frees_it():
    heart = Heart()
    pulse = heart.pulse("worker")
    with pulse.working():
        long_ago(pulse)
        assert names(heart) == ["worker"]
        assert "no progress for 3600 s" in str(heart.stuck()[0])
        pulse.beat()
        assert names(heart) == []


def test_waiting_for_a_peer_is_excused_only_meanwhile():
    heart = Heart()
    pulse = heart.pulse("scan")
    with pulse.working():
        with pulse.waiting():
            long_ago(pulse)
            assert names(heart) == []
        assert names(heart) == []  # what it waited for was progress
        long_ago(pulse)
        assert names(heart) == ["scan"]


def test_waiting_for_work_is_excused_while_somebody_works():
    heart = Heart()
    scan, worker = heart.pulse("scan"), heart.pulse("worker", works=True)
    with scan.working(), scan.waiting_for_work():
        with worker.working():
            long_ago(scan)
            assert names(heart) == []
            long_ago(worker)
            assert names(heart) == ["worker"]
        assert names(heart) == []  # the work has ended just now
        long_ago(worker)
        assert names(heart) == ["scan"]  # nobody works at what it waits for


def test_the_longest_silence_comes_first_and_what_ended_is_forgotten():
    heart = Heart()
    first, second = heart.pulse("first"), heart.pulse("second")
    with first.working(), second.working():
        long_ago(long_ago(second))
        long_ago(first)
        assert names(heart) == ["second", "first"]
        second.end()
        assert names(heart) == ["first"]


@pytest.mark.parametrize("steps", [False, True])
def test_a_job_that_hangs_shows_and_one_that_goes_on_does_not(steps):
    heart = Heart()
    pool = ReconstructionPool(1, 1, heart)
    begun, go_on = threading.Event(), threading.Event()

    def job() -> None:
        (pulse,) = heart._pulses
        long_ago(pulse)
        if steps:
            progress()
        begun.set()
        go_on.wait(PATIENCE_S)

    try:
        pool.lane().submit(Priority.FINAL, job)
        assert begun.wait(PATIENCE_S)
        assert names(heart) == ([] if steps else ["reconstruct-0"])
    finally:
        go_on.set()
        pool.close()
    assert names(heart) == []


def test_progress_outside_of_a_job_is_nobodys():
    progress()
