"""Several simulated scanners at once, each a process of its own, and what they saw."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO

from edge_runtime.errors import BenchError
from edge_runtime.hil.bench.record import ScanSeen, parse_line
from edge_runtime.hil.bench.scanner import Orders

MOST_SCANS = 2_000_000
GRACE_S = 60.0
"""For which no scanner says anything beyond its own patience with the server: then one hangs."""


def play_all(
    orders: Sequence[Orders],
    prefix: Sequence[str] = (),
    on_scan: Callable[[ScanSeen], None] | None = None,
) -> tuple[list[ScanSeen], tuple[str, ...]]:
    """Runs scanners until the last has done its work; on Ctrl-C they are ended.

    Args:
        prefix: of each one's command, see `edge_runtime.hil.bench.links.Way`.
        on_scan: told of every scan, from this thread.

    Returns:
        what they saw, in the order in which it ended; what each said of its scheduler.

    Raises:
        BenchError: a scanner failed, and what it printed, or hangs.
    """
    lines: queue.Queue[tuple[int, str | None]] = queue.Queue()
    processes: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    scans: list[ScanSeen] = []
    schedulers: list[str] = []
    command = [*prefix, sys.executable, "-m", "edge_runtime.hil.bench.scanner"]
    with contextlib.ExitStack() as stack:
        stack.callback(_end, processes)
        for number, order in enumerate(orders):
            errors: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
            processes.append((process, errors))
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended; what it said is shown below
                process.stdin.write(order.text().encode())
                process.stdin.close()
            threading.Thread(target=_forward, args=(number, process.stdout, lines), daemon=True).start()
        working = len(processes)
        begins_s = max(order.zero_s + order.start_s for order in orders) - time.perf_counter()
        patience_s = max(0.0, begins_s) + max(order.most_silent_s for order in orders) + GRACE_S
        while working:
            try:
                number, line = lines.get(timeout=patience_s)
            except queue.Empty:
                raise BenchError(
                    f"{working} simulated scanners said nothing for {patience_s:.0f} s: they hang"
                ) from None
            if line is None:
                working -= 1
                process, errors = processes[number]
                if process.wait():
                    errors.seek(0)
                    said = errors.read().decode("utf-8", "replace").strip()[-1500:]
                    raise BenchError(f"scanner {orders[number].scanner} ended with {process.returncode}: {said}")
                continue
            if line.startswith('{"scheduler"'):
                schedulers.append(str(json.loads(line)["scheduler"]))
                continue
            scan = parse_line(line)
            scans.append(scan)
            if len(scans) > MOST_SCANS:
                raise BenchError(f"more than {MOST_SCANS} scans in one run")
            if on_scan is not None:
                on_scan(scan)
    return scans, tuple(schedulers)


def _forward(number: int, stream: IO[bytes], lines: queue.Queue[tuple[int, str | None]]) -> None:
    for line in stream:
        lines.put((number, line.decode("utf-8", "replace")))
    lines.put((number, None))


def _end(processes: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> None:
    for process, _ in processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def staggered(order: Orders, scanners: int, stagger_s: float, first: int = 0) -> list[Orders]:
    """The same orders for several scanners that begin one after the other."""
    return [
        replace(order, scanner=first + number, start_s=order.start_s + number * stagger_s) for number in range(scanners)
    ]
