"""Reads the sensors once a second and prints each reading as a line of JSON, on the machine where the server is.

    python -m edge_runtime.hil.bench.watch --port 9002     # or --pid N; ends when its standard input does

The bench starts it beside a server on this machine, and by ssh on another one. Its first line says what the machine is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shutil
import subprocess
import sys
import time
from dataclasses import asdict

from edge_runtime.hil.bench.sensors import Sensors, listening_process, parse_tegrastats
from edge_runtime.hil.bench.versions import installed

INTERVAL_S = 1.0


class Tegrastats:
    """NVIDIA's *tegrastats* where there is one; its latest line's numbers."""

    def __init__(self) -> None:
        program = shutil.which("tegrastats")
        self._process = None
        if program is not None:
            command = [program, "--interval", str(round(1000 * INTERVAL_S))]
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def read(self) -> dict[str, float]:
        """What came since the last time; nothing where nothing did."""
        if self._process is None or self._process.stdout is None:
            return {}
        descriptor, text = self._process.stdout.fileno(), b""
        while select.select([descriptor], [], [], 0)[0]:
            data = os.read(descriptor, 1 << 16)
            if not data:
                break
            text += data
        lines = text.decode("utf-8", "replace").splitlines()
        return parse_tegrastats(lines[-1]) if lines else {}

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()


def machine_facts() -> dict[str, object]:
    """What this machine is, for the report's provenance."""
    from edge_runtime.doctor import detect

    machine = detect(architecture=platform.machine())
    facts = {**asdict(machine), "cpu_features": sorted(machine.cpu_features)}
    return {**facts, "kernel": platform.release(), "packages": installed()}


def watch(process_id: int | None) -> int:
    """Prints readings until the standard input ends, or nobody reads them any more; returns the exit code."""
    print(json.dumps({"machine": machine_facts(), "process": process_id}), flush=True)
    sensors, tegrastats = Sensors(process_id), Tegrastats()
    due = time.monotonic()
    try:
        while True:
            line = {**sensors.read().as_dict(), "tegrastats": tegrastats.read()}
            print(json.dumps(line, separators=(",", ":")), flush=True)
            due += INTERVAL_S
            if select.select([sys.stdin], [], [], max(0.0, due - time.monotonic()))[0] and not sys.stdin.read(1):
                return 0
    except BrokenPipeError:
        return 0
    finally:
        tegrastats.close()


def main() -> int:
    """The process."""
    parser = argparse.ArgumentParser(prog="python -m edge_runtime.hil.bench.watch", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--pid", type=int)
    which.add_argument("--port", type=int)
    options = parser.parse_args()
    try:
        return watch(options.pid if options.port is None else listening_process(options.port))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
