"""``edge-runtime serve`` in which something hangs: ``hung_server.py engine|session serve …``."""

from __future__ import annotations

import sys
import threading

from edge_runtime import session
from edge_runtime.cli import main
from edge_runtime.engines import onnxruntime


def hang(*_: object) -> None:
    threading.Event().wait()


def hang_engine() -> None:
    """From the first slice on: the golden input is answered."""
    run = onnxruntime.OnnxRuntimeSession.run
    runs = []

    def hangs(self, batch):  # type: ignore[no-untyped-def]
        runs.append(batch)
        return run(self, batch) if len(runs) == 1 else hang()

    onnxruntime.OnnxRuntimeSession.run = hangs  # type: ignore[method-assign]


def deadlock_session() -> None:
    """A thread that takes a lock twice."""

    class Locked(session.Assembler):
        def add(self, batch):  # type: ignore[no-untyped-def]
            lock = threading.Lock()
            lock.acquire()
            lock.acquire()

    session.Assembler = Locked  # type: ignore[misc]


if __name__ == "__main__":
    {"engine": hang_engine, "session": deadlock_session}[sys.argv[1]]()
    sys.exit(main(sys.argv[2:]))
