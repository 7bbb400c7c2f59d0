"""A server of ours in a process of its own, as a device runs it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.hil.footprint import peak_bytes, resident_bytes

ROOT = Path(__file__).parents[1]
END_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class RunningServer:
    """Attributes:
    host, port: where it listens.
    start_ms: from the call that starts the process until it has announced its address.
    output: where it keeps scans.
    """

    host: str
    port: int
    start_ms: float
    process_id: int
    output: Path

    def peak_bytes(self) -> int:
        """Largest resident memory of the process so far (``VmHWM``)."""
        return peak_bytes(self.process_id)

    def resident_bytes(self) -> int:
        """Resident memory of the process now (``VmRSS``)."""
        return resident_bytes(self.process_id)

    def reports(self) -> list[dict[str, Any]]:
        """``report.json`` of every scan, in the order in which they began."""
        paths = sorted(self.output.glob("*/report.json"))
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]

    def latest_report(self) -> dict[str, Any]:
        """``report.json`` of the latest scan (docs/report.md); it is written before the scanner is told CLOSE."""
        latest = max(self.output.glob("*/report.json"))  # folders are named by time and number
        report: dict[str, Any] = json.loads(latest.read_text(encoding="utf-8"))
        return report


@contextlib.contextmanager
def serving(*arguments: str) -> Iterator[RunningServer]:
    """``edge-runtime serve`` with the shipped bundle and default options, on a free port; DICOM goes to a temporary folder.

    Raises:
        RuntimeError: it ended before it listened; says what it printed.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile("w+") as said:
        command = [
            sys.executable,
            "-m",
            "edge_runtime.cli",
            "serve",
            "--json",
            "--port",
            "0",
            "--out",
            folder,
            *arguments,
        ]
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=ROOT, env=_as_installed(), stdout=subprocess.PIPE, stderr=said, text=True
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            start_ms = 1e3 * (time.perf_counter() - started)
            if not line:
                said.seek(0)
                raise RuntimeError(f"{' '.join(command)} ended: {said.read()[-2000:]}")
            address = json.loads(line)
            yield RunningServer(address["host"], address["port"], start_ms, process.pid, Path(folder))
        finally:
            process.terminate()
            try:
                process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _as_installed() -> dict[str, str]:
    """The environment, with Python's byte code kept, as a device has it: without, each start compiles all modules anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
