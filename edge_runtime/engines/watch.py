"""Engines under watch: a call that does not come back in time is given up, and what an engine is doing is written down.

A native call can't be interrupted. It runs in a thread of its own, so that who waits for it can go on without it: that thread is
lost, with what it holds, until the process ends. There is never more than one such thread for an engine and form, since an engine
that hung is not called again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from edge_runtime.engines import Session, Tensor
from edge_runtime.engines.crumbs import LOADING, RUNNING, Crumbs
from edge_runtime.engines.quarantine import Case
from edge_runtime.errors import EngineHung, WrongOutput

Result = TypeVar("Result")
Shape = tuple[int, ...]

PATIENCE_S = 60.0
"""For one run of a graph, where no profile says otherwise."""

LONGEST_PLAN_S = 3600.0
"""For making a graph ready; compilers take minutes."""


@dataclass(frozen=True)
class Watch:
    """How engines are watched.

    Attributes:
        patience_s: how long one run of a graph may take.
        crumbs: where it is written down what engines do; ``None`` for nowhere.
    """

    patience_s: float = PATIENCE_S
    crumbs: Crumbs | None = None

    def loading(self, case: Case) -> AbstractContextManager[None]:
        """Meanwhile an engine is made ready."""
        return contextlib.nullcontext() if self.crumbs is None else self.crumbs.doing(LOADING, case)

    def running(self, case: Case) -> AbstractContextManager[None]:
        """Meanwhile an engine runs."""
        return contextlib.nullcontext() if self.crumbs is None else self.crumbs.doing(RUNNING, case)


class WatchedSession:
    """A session whose runs end in time.

    Args:
        shape_of: shape of the output of an input's, where it is known.
    """

    def __init__(
        self, session: Session, case: Case, watch: Watch, shape_of: Callable[[Shape], Shape] | None = None
    ) -> None:
        self.watched = session
        self._case, self._watch, self._shape_of = case, watch, shape_of
        self._hung = False

    def run(self, batch: Tensor) -> Tensor:
        """See `edge_runtime.engines.Session.run`.

        Raises:
            EngineHung: it did not answer in time, now or before.
            WrongOutput: what came has another shape than it should.
        """
        if self._hung:
            raise EngineHung(f"{self._case.engine} does not answer any more")
        try:
            with self._watch.running(self._case):
                output = within(self._watch.patience_s, lambda: self.watched.run(batch), self._case.engine)
        except EngineHung:
            self._hung = True
            raise
        if self._shape_of is not None and tuple(output.shape) != (wanted := self._shape_of(tuple(batch.shape))):
            raise WrongOutput(
                f"{self._case.engine} answered an input of shape {tuple(batch.shape)} with one of shape "
                f"{tuple(output.shape)}, not {wanted}"
            )
        return output


def within(limit_s: float, work: Callable[[], Result], name: str) -> Result:
    """What a call returns, or raises, in time.

    Args:
        name: of who is called, for the error.

    Raises:
        EngineHung: it has not returned after so many seconds.
    """
    runner = getattr(_own, "runner", None)
    if runner is None:
        runner = _own.runner = _Runner()
    try:
        returned, value = runner.ask(work).get(timeout=limit_s)
    except Empty:
        runner.abandon()
        del _own.runner  # the next call gets another
        raise EngineHung(f"{name} has not answered for {limit_s:g} s and is given up") from None
    if not returned:
        raise value
    result: Result = value
    return result


def abandoned_threads() -> int:
    """How many threads of this process are stuck in an engine; it must not wait for them when it ends."""
    return sum(thread.is_alive() for thread in _abandoned)


class _Runner:
    """A thread that does the calls of one other thread."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Any] = SimpleQueue()
        name = f"{threading.current_thread().name}-engine"
        # Not a method of this object: the thread must not keep it, whose end ends the thread.
        self._thread = threading.Thread(target=_run, args=(self._calls,), name=name, daemon=True)
        self._thread.start()

    def ask(self, work: Callable[[], Any]) -> SimpleQueue[tuple[bool, Any]]:
        answer: SimpleQueue[tuple[bool, Any]] = SimpleQueue()
        self._calls.put((work, answer))
        return answer

    def abandon(self) -> None:
        _abandoned.append(self._thread)
        self._calls.put(None)  # should it ever come back, it ends

    def __del__(self) -> None:
        self._calls.put(None)


def _run(calls: SimpleQueue[Any]) -> None:
    while (call := calls.get()) is not None:
        work, answer = call
        try:
            answer.put((True, work()))
        except BaseException as error:  # it is the caller's
            answer.put((False, error))
        del call, work, answer  # nothing of a slice is kept until the next


_own = threading.local()
_abandoned: list[threading.Thread] = []
