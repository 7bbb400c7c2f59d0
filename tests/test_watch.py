"""An engine that hangs holds nobody up, and what comes in time comes as if nobody watched."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from edge_runtime.engines.quarantine import Case
from edge_runtime.engines.watch import Watch, WatchedSession, abandoned_threads, within
from edge_runtime.errors import EngineError, EngineHung, WrongOutput

CASE = Case("slow", "slow 1", "", "a" * 64, "fp32")
BATCH = np.zeros((1, 6, 4, 4), np.float32)


class Engine:
    """Answers when it is let go, and says which threads it ran in."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.threads: list[threading.Thread] = []
        self.answer = np.ones((1, 2, 4, 4), np.float32)
        self.error: BaseException | None = None

    def run(self, batch):
        self.threads.append(threading.current_thread())
        self.go.wait(60)
        if self.error is not None:
            raise self.error
        return self.answer


def watched(engine: Engine, patience_s: float = 30.0) -> WatchedSession:
    return WatchedSession(engine, CASE, Watch(patience_s), lambda shape: (shape[0], 2, *shape[2:]))


def test_what_comes_in_time_is_what_the_engine_answered():
    engine = Engine()
    assert watched(engine).run(BATCH) is engine.answer


def test_calls_of_one_thread_run_in_one_other_thread():
    engine = Engine()
    session = watched(engine)
    for _ in range(5):
        session.run(BATCH)
    assert len(set(engine.threads)) == 1
    assert engine.threads[0] is not threading.current_thread()


@pytest.mark.parametrize("error", [EngineError("it failed"), MemoryError(), KeyboardInterrupt()])
def test_what_it_raises_is_raised(error):
    engine = Engine()
    engine.error = error
    with pytest.raises(type(error)):
        watched(engine).run(BATCH)


def test_another_shape_is_refused_by_name():
    engine = Engine()
    engine.answer = np.ones((1, 2, 4, 5), np.float32)
    with pytest.raises(
        WrongOutput, match=r"slow answered .*\(1, 6, 4, 4\) with one of shape \(1, 2, 4, 5\), not \(1, 2, 4, 4\)"
    ):
        watched(engine).run(BATCH)


def test_one_that_hangs_is_given_up_and_not_asked_again():
    engine, before = Engine(), abandoned_threads()
    engine.go.clear()
    session = watched(engine, 0.05)
    for _ in range(3):
        with pytest.raises(EngineHung, match=r"slow (has not answered for 0.05 s|does not answer any more)"):
            session.run(BATCH)
    assert len(engine.threads) == 1 and abandoned_threads() == before + 1
    assert within(30, lambda: 5, "another") == 5  # this thread's next call has a thread that is free
    engine.go.set()
    engine.threads[0].join(30)
    assert abandoned_threads() == before


def test_a_thread_that_ends_takes_its_own_with_it():
    engine = Engine()

    def work() -> None:
        watched(engine).run(BATCH)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    engine.threads[0].join(30)
    assert not engine.threads[0].is_alive()
