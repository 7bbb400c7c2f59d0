"""What a process takes of the machine, as Linux tells it."""

from __future__ import annotations

from pathlib import Path


def peak_bytes(process: int | str = "self") -> int:
    """Largest resident memory of a process so far (``VmHWM``); getrusage's would include its parent's at the fork."""
    return _status_bytes(process, "VmHWM")


def resident_bytes(process: int | str = "self") -> int:
    """Resident memory of a process now (``VmRSS``)."""
    return _status_bytes(process, "VmRSS")


def _status_bytes(process: int | str, name: str) -> int:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    line = next(line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
