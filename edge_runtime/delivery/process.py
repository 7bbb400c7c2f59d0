"""The sender beside a server: a process of its own, so that neither's trouble is the other's, and started again when it ends.

Encoding, TLS and a PACS that hangs take no time from reconstruction there; it is also a little less urgent to the scheduler. It
ends with the server, by the end of its standard input, however the server ends.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path

log = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S, STEADY_S = 1.0, 60.0, 120.0
END_S = 15.0


class SenderProcess:
    """Runs ``edge-runtime outbox deliver --watch`` for a configuration until it is closed."""

    def __init__(self, configuration: Path) -> None:
        self._command = [
            sys.executable, "-m", "edge_runtime.cli", "outbox", "deliver", "--with-parent", "--config", str(configuration),
        ]  # fmt: skip
        self._ending = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._keep_running, name="delivery-process", daemon=True)
        self._thread.start()

    def notify(self) -> None:
        """There is something new in the outbox; without that word it is found a little later."""
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.write(b"\n")
                process.stdin.flush()

    def close(self) -> None:
        """Ends it after the object that it is at."""
        self._ending.set()
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError, ValueError):
                process.stdin.close()
        self._thread.join(END_S + 5)

    def _keep_running(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:
                log.error("the sender can't be started: %s", error)
            else:
                self._process = process
                if self._ending.is_set() and process.stdin is not None:
                    process.stdin.close()
                self._await(process)
            if self._ending.is_set():
                return
            wait_s = FIRST_WAIT_S if time.monotonic() - began > STEADY_S else min(LONGEST_WAIT_S, 2 * wait_s)
            log.warning("the sender has ended; it is started again in %.0f s", wait_s)
            self._ending.wait(wait_s)

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None:
            if self._ending.wait(0.2):
                try:
                    process.wait(END_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
